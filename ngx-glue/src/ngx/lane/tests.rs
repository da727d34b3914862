//! Bodies under any order of reads, edits and holds: the bytes are those of a model, and those that no filter has touched
//! lie where nginx has put them.

use std::{fs::File, io::Write as _, ops::Range, os::fd::IntoRawFd as _, ptr::NonNull};

use nginx_sys::{ngx_buf_t, ngx_chain_t, ngx_file_t};
use proptest::prelude::*;

use super::Lane;
use crate::ngx::{
    chain::{Body, Buffer, empty_buffer, in_memory, size},
    request::Request,
    testing::{Setup, leak, request},
};

/// Where a byte is: what one copy changes and none leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In nginx's memory, at this address.
    Nginx(usize),
    /// In a file, at this offset.
    File(usize),
    /// In memory of ours: it has been copied.
    Ours,
}

type Model = Vec<(u8, Place)>;

/// Bytes of the file that all parts in files are parts of.
const FILE: usize = 4096;

fn file_byte(offset: usize) -> u8 {
    u8::try_from(offset % 26).map_or(0, |at| b'A' + at)
}

/// An open file, as nginx knows it.
fn file() -> &'static mut ngx_file_t {
    let mut file: File = tempfile::tempfile().expect("a file");
    let bytes: Vec<u8> = (0..FILE).map(file_byte).collect();
    file.write_all(&bytes).expect("written");
    // SAFETY: nginx zeroes it itself.
    let record: &'static mut ngx_file_t = leak(unsafe { std::mem::zeroed() });
    record.fd = file.into_raw_fd();
    record
}

/// A piece of a body.
#[derive(Debug, Clone)]
enum Piece {
    Memory(usize),
    File(Range<usize>),
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        3 => (0..40_usize).prop_map(Piece::Memory),
        1 => (0..FILE, 0..60_usize).prop_map(|(at, len)| Piece::File(at..(at + len).min(FILE))),
    ]
}

/// What filters and nginx do.
#[derive(Debug, Clone)]
enum Step {
    /// A part of the body comes, in pieces.
    Comes(Vec<Piece>),
    /// A filter reads and replaces: start and length as parts of 1000 of what there is, and how many bytes it gives.
    Edit(usize, usize, usize),
    /// A filter holds what there is; what it holds comes before what there is.
    Hold,
    Recall,
    /// The filter edits what it holds, as above, if it holds anything.
    EditHeld(usize, usize, usize),
    /// What there is goes on, and is sent at once or later.
    Pass(bool),
    /// What has gone on is sent.
    Send,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec(piece(), 1..5).prop_map(Step::Comes),
        4 => (0..=1000_usize, 0..=1000_usize, 0..30_usize).prop_map(|(at, len, new)| Step::Edit(at, len, new)),
        2 => (0..=1000_usize, 0..=1000_usize, 0..30_usize)
            .prop_map(|(at, len, new)| Step::EditHeld(at, len, new)),
        1 => Just(Step::Hold),
        1 => Just(Step::Recall),
        2 => any::<bool>().prop_map(Step::Pass),
        1 => Just(Step::Send),
    ]
}

/// nginx's side of a body, and what should become of it.
struct World {
    request: Request<'static>,
    lane: Lane,
    file: &'static mut ngx_file_t,
    /// nginx's buffers so far.
    buffers: Vec<NonNull<ngx_buf_t>>,
    /// What is shown, and what is held.
    shown: Model,
    held: Option<Model>,
    /// Buffers that have gone on and not been sent.
    on_their_way: Vec<NonNull<ngx_buf_t>>,
}

impl World {
    fn new() -> Self {
        Self {
            request: request(Setup::default()),
            lane: Lane::default(),
            file: file(),
            buffers: Vec::new(),
            shown: Vec::new(),
            held: None,
            on_their_way: Vec::new(),
        }
    }

    /// A buffer of nginx's with `piece`, and its bytes at the end of the model.
    fn buffer(&mut self, piece: &Piece) -> NonNull<ngx_buf_t> {
        let mut buffer = empty_buffer();
        match piece {
            Piece::Memory(len) => {
                let bytes: &'static mut [u8] = Vec::leak((0..*len).map(|at| file_byte(at * 7)).collect());
                let bytes = bytes.as_mut_ptr_range();
                (buffer.start, buffer.pos) = (bytes.start, bytes.start);
                (buffer.last, buffer.end) = (bytes.end, bytes.end);
                buffer.set_temporary(1);
                let first = bytes.start.addr();
                self.shown.extend((0..*len).map(|at| (file_byte(at * 7), Place::Nginx(first + at))));
            }
            Piece::File(range) => {
                buffer.set_in_file(1);
                buffer.file = self.file;
                buffer.file_pos = i64::try_from(range.start).expect("small");
                buffer.file_last = i64::try_from(range.end).expect("small");
                self.shown.extend(range.clone().map(|at| (file_byte(at), Place::File(at))));
            }
        }
        NonNull::from(leak(buffer))
    }

    fn comes(&mut self, pieces: &[Piece]) {
        let mut next = std::ptr::null_mut();
        let buffers: Vec<_> = pieces.iter().map(|piece| self.buffer(piece)).collect();
        for buffer in buffers.iter().rev() {
            next = leak(ngx_chain_t { buf: buffer.as_ptr(), next });
        }
        self.buffers.extend(buffers);
        // SAFETY: links, buffers and bytes are leaked.
        self.lane.take_in(unsafe { Body::new(NonNull::new(next).expect("at least one piece")) });
    }

    fn edit(&mut self, at: usize, len: usize, new: usize) {
        let start = self.shown.len() * at / 1000;
        let range = start..start + (self.shown.len() - start) * len / 1000;
        let mut read = Vec::new();
        self.lane.read(range.clone(), &mut |bytes| read.extend_from_slice(bytes)).expect("readable");
        assert_eq!(read, bytes(&self.shown[range.clone()]));
        let given = vec![b'n'; new];
        self.lane.write(self.request, range.clone(), &given).expect("there is memory");
        self.shown.splice(range, given.into_iter().map(|byte| (byte, Place::Ours)));
        assert_eq!(self.lane.len(), self.shown.len());
    }

    fn hold(&mut self) {
        self.lane.hold(self.request, 0).expect("there is memory");
        let held = self.held.get_or_insert_default();
        // What is in memory is copied, once, so that nginx can read on; files stay.
        held.extend(self.shown.drain(..).map(|(byte, place)| match place {
            Place::File(_) => (byte, place),
            _ => (byte, Place::Ours),
        }));
    }

    fn edit_held(&mut self, at: usize, len: usize, new: usize) {
        assert_eq!(self.lane.swap_held(0), self.held.is_some());
        let Some(mut held) = self.held.take() else { return };
        assert!(self.lane.is_open());
        std::mem::swap(&mut held, &mut self.shown);
        self.edit(at, len, new);
        std::mem::swap(&mut held, &mut self.shown);
        self.held = Some(held);
        assert!(self.lane.swap_held(0) && !self.lane.is_open());
    }

    fn recall(&mut self) {
        self.lane.recall(0);
        if let Some(mut held) = self.held.take() {
            held.append(&mut self.shown);
            self.shown = held;
        }
    }

    fn pass(&mut self) {
        let mut passed = Vec::new();
        let mut buffers = Vec::new();
        let answer = self.lane.pass_on(self.request, false, |body| {
            for buffer in body.buffers() {
                buffers.push(buffer.raw());
                passed.extend(look(buffer, &self.buffers));
            }
            0
        });
        assert!(answer.is_ok());
        assert_eq!(passed, self.shown, "the bytes, and where they are");
        self.shown.clear();
        self.on_their_way.extend(buffers);
    }

    /// nginx sends what has gone on, in order.
    fn send(&mut self) {
        for raw in self.on_their_way.drain(..) {
            // SAFETY: buffers are leaked, or in the request's pool, which is.
            unsafe { Buffer::new(raw) }.consume();
        }
        self.lane.settle();
        if self.shown.is_empty() && self.held.is_none() {
            assert!(!self.lane.is_busy());
        }
    }
}

fn bytes(model: &[(u8, Place)]) -> Vec<u8> {
    model.iter().map(|(byte, _)| *byte).collect()
}

/// The bytes of a buffer that goes on, and where they are; nginx's own are those between the ends of `buffers`.
fn look(buffer: Buffer<'_>, buffers: &[NonNull<ngx_buf_t>]) -> Model {
    let record = buffer.copy();
    if !in_memory(&record) {
        let from = usize::try_from(record.file_pos).expect("small");
        return (from..from + size(&record)).map(|at| (file_byte(at), Place::File(at))).collect();
    }
    // SAFETY: the bytes of a buffer, which nobody changes.
    let bytes = unsafe { std::slice::from_raw_parts(record.pos, size(&record)) };
    let first = record.pos.addr();
    let own = buffers.iter().any(|raw| {
        // SAFETY: nginx's buffers are leaked.
        let buffer = unsafe { raw.read() };
        (buffer.start.addr()..buffer.end.addr()).contains(&first)
    });
    let place = |at: usize| if own { Place::Nginx(first + at) } else { Place::Ours };
    bytes.iter().enumerate().map(|(at, byte)| (*byte, place(at))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_go_on_as_the_model_says_and_none_is_copied_twice(steps in prop::collection::vec(step(), 1..30)) {
        let mut world = World::new();
        for step in &steps {
            match step {
                Step::Comes(pieces) => world.comes(pieces),
                Step::Edit(at, len, new) => world.edit(*at, *len, *new),
                Step::Hold => world.hold(),
                Step::Recall => world.recall(),
                Step::EditHeld(at, len, new) => world.edit_held(*at, *len, *new),
                Step::Pass(sent) => {
                    world.pass();
                    if *sent {
                        world.send();
                    }
                }
                Step::Send => world.send(),
            }
        }
        world.recall();
        world.pass();
        world.send();
        prop_assert!(!world.lane.is_busy());
        for raw in &world.buffers {
            // SAFETY: nginx's buffers are leaked.
            let buffer = unsafe { Buffer::new(*raw) };
            prop_assert_eq!(size(&buffer.copy()), 0, "nginx gets each of its buffers back");
        }
    }
}

/// The three edits that filters make most, counted: what is copied is what is given.
#[test]
fn an_edit_copies_what_it_is_given_and_nothing_else() {
    for (at, len, left) in [(0, 0, 32_000), (1000, 0, 32_000), (500, 250, 28_000)] {
        let mut world = World::new();
        world.comes(&[Piece::Memory(16_000), Piece::Memory(16_000)]);
        world.edit(at, len, 100);
        let copied = world.shown.iter().filter(|(_, place)| *place == Place::Ours).count();
        assert_eq!((copied, world.shown.len()), (100, 100 + left));
        // Compares where each byte is with where it should be.
        world.pass();
        world.send();
    }
}

#[test]
fn a_body_that_nobody_touches_goes_on_in_nginx_s_own_buffers() {
    let mut world = World::new();
    world.comes(&[Piece::Memory(100), Piece::File(10..200), Piece::Memory(7)]);
    world.pass();
    assert_eq!(world.on_their_way, world.buffers);
}
