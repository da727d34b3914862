//! The codec of header maps, at so many headers of usual lengths.
#![allow(missing_docs, reason = "a bench")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weir_core::abi::pairs::{Measure, Pairs, Writer, encode};

/// `count` headers with names of 8 to 23 bytes and values of 10 to 59.
fn headers(count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let text = |length: usize| vec![b'a'; length];
    (0..count).map(|number| (text(8 + number % 16), text(10 + number * 7 % 50))).collect()
}

fn pairs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pairs");
    for count in [1, 10, 50, 100] {
        let headers = headers(count);
        let bytes = encode(headers.iter().map(|(name, value)| (&name[..], &value[..])));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("write", count), |bencher| {
            let mut place = vec![0; bytes.len()];
            bencher.iter(|| {
                let mut measure = Measure::default();
                headers.iter().for_each(|(name, value)| measure.add(name, value));
                let mut writer = Writer::new(black_box(&mut place), &measure).expect("room for all");
                headers.iter().for_each(|(name, value)| writer.push(name, value));
                writer.finish()
            });
        });
        group.bench_function(BenchmarkId::new("read", count), |bencher| {
            bencher.iter(|| {
                let pairs = Pairs::parse(black_box(&bytes)).expect("well-formed");
                pairs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pairs);
criterion_main!(benches);
