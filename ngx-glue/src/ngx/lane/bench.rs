//! What views of nginx's chains cost, by their shape: a test that measures, which is run when it is asked for.
//!
//! A module for nginx cannot be linked into a program of its own, but its unit tests can: they have what they need of
//! nginx's functions ([`crate::ngx::testing`]).

use std::{fs::File, hint::black_box, io::Write as _, os::fd::IntoRawFd as _, ptr::NonNull, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput};
use nginx_sys::{ngx_buf_t, ngx_chain_t, ngx_file_t};

use super::Lane;
use crate::ngx::{
    chain::{Body, empty_buffer},
    request::Request,
    testing::{Setup, leak, request},
};

/// What a filter puts into a body.
const NEW: [u8; 100] = [b'n'; 100];

/// A chain of nginx's, which can come again when it has been sent.
struct Chain {
    first: NonNull<ngx_chain_t>,
    buffers: Vec<(NonNull<ngx_buf_t>, ngx_buf_t)>,
    bytes: usize,
}

impl Chain {
    fn new(records: Vec<ngx_buf_t>, bytes: usize) -> Self {
        let mut next = std::ptr::null_mut();
        let mut buffers = Vec::new();
        for record in records.into_iter().rev() {
            let place = NonNull::from(leak(record));
            buffers.push((place, record));
            next = leak(ngx_chain_t { buf: place.as_ptr(), next });
        }
        Self { first: NonNull::new(next).expect("a buffer"), buffers, bytes }
    }

    /// `count` buffers in memory with `size` bytes each.
    fn in_memory(count: usize, size: usize) -> Self {
        let record = |_| {
            let bytes = Vec::leak(vec![b'a'; size]).as_mut_ptr_range();
            let mut record = empty_buffer();
            (record.start, record.pos) = (bytes.start, bytes.start);
            (record.last, record.end) = (bytes.end, bytes.end);
            record.set_temporary(1);
            record
        };
        Self::new((0..count).map(record).collect(), count * size)
    }

    /// One buffer in a file.
    fn in_file(size: usize) -> Self {
        let mut file: File = tempfile::tempfile().expect("a file");
        file.write_all(&vec![b'a'; size]).expect("written");
        // SAFETY: nginx zeroes it itself.
        let opened: &'static mut ngx_file_t = leak(unsafe { std::mem::zeroed() });
        opened.fd = file.into_raw_fd();
        let mut record = empty_buffer();
        record.set_in_file(1);
        record.file = opened;
        record.file_last = i64::try_from(size).expect("small");
        Self::new(vec![record], size)
    }

    /// The chain as it was at first.
    fn anew(&self) -> Body<'static> {
        for (place, record) in &self.buffers {
            // SAFETY: the buffer is leaked, and nothing has a reference to it.
            unsafe { place.write(*record) };
        }
        // SAFETY: links and buffers are leaked, and stay as they are until they are sent.
        unsafe { Body::new(self.first) }
    }
}

/// A part of a body comes, `work` is done with it, and it goes on and is sent.
fn pass(lane: &Lane, request: Request<'static>, chain: &Chain, work: impl FnOnce(&Lane)) {
    lane.take_in(chain.anew());
    work(lane);
    let passed = lane.pass_on(request, false, |body| {
        body.consume();
        0
    });
    assert_eq!(passed, Ok(Some(0)));
    lane.settle();
}

#[test]
#[ignore = "it measures: see docs/PERFORMANCE.md"]
fn views_of_chains() {
    let shapes = [
        ("1 x 1 KiB", Chain::in_memory(1, 1024)),
        ("1 x 64 KiB", Chain::in_memory(1, 64 * 1024)),
        ("16 x 64 B", Chain::in_memory(16, 64)),
        ("64 x 1 KiB", Chain::in_memory(64, 1024)),
        ("file, 64 KiB", Chain::in_file(64 * 1024)),
    ];
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let mut group = criterion.benchmark_group("chains");
    for (name, chain) in shapes {
        let (request, lane) = (request(Setup::default()), Lane::default());
        let middle = chain.bytes / 2 - NEW.len() / 2;
        group.throughput(Throughput::Bytes(chain.bytes as u64));
        group.bench_function(BenchmarkId::new("untouched", name), |bench| {
            bench.iter(|| pass(&lane, request, &chain, |_| {}));
        });
        group.bench_function(BenchmarkId::new("read", name), |bench| {
            bench.iter(|| {
                pass(&lane, request, &chain, |lane| {
                    let mut seen = 0;
                    let read = lane.read(0..chain.bytes, &mut |piece| seen += black_box(piece).len());
                    assert_eq!((read, seen), (Ok(()), chain.bytes));
                });
            });
        });
        group.bench_function(BenchmarkId::new("replace in the middle", name), |bench| {
            bench.iter(|| {
                pass(&lane, request, &chain, |lane| {
                    assert_eq!(lane.write(request, middle..middle + NEW.len(), &NEW), Ok(()));
                });
            });
        });
        group.bench_function(BenchmarkId::new("append", name), |bench| {
            bench.iter(|| {
                pass(&lane, request, &chain, |lane| {
                    assert_eq!(lane.write(request, chain.bytes..chain.bytes, &NEW), Ok(()));
                });
            });
        });
    }
    group.finish();
}
