//! Reads and edits of a body by a guest, part by part, some of them held: the bytes are those of a model.

use std::{cell::OnceCell, collections::VecDeque, sync::Arc};

use weir_core::{
    chain::{Direction, Verdict},
    filter::Filter,
    plan::Isolation,
    testing::{Memory, Request},
};

use crate::{
    input::Input,
    program::{PROGRAM, load, plugin, worker},
};

/// In each body callback it does the commands of its program for that callback: a number of commands and the callback's
/// result, then for each command what it does (0 reads, 1 writes), from where, how many bytes, and where in the program
/// the bytes to write are, and how many. What it has read it logs.
const GUEST: &str = r#"(module
    (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_buffer_bytes" (func $set (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
    (memory (export "memory") 4)
    (global $next (mut i32) (i32.const 131072))
    (global $place (mut i32) (i32.const 131072))
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "proxy_on_memory_allocate") (param i32) (result i32) (global.get $place))
    (func $word (result i32)
        (global.set $next (i32.add (global.get $next) (i32.const 4)))
        (i32.load (i32.sub (global.get $next) (i32.const 4))))
    (func $good (param i32) (if (local.get 0) (then unreachable)))
    (func (export "proxy_on_configure") (param i32 i32) (result i32)
        (call $good (call $get (i32.const 7) (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 4)))
        (global.set $place (i32.const 65536))
        (i32.const 1))
    (func $body (param $buffer i32) (result i32) (local $n i32) (local $result i32)
        (local.set $n (call $word))
        (local.set $result (call $word))
        (block $done
            (loop $again
                (br_if $done (i32.eqz (local.get $n)))
                (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                (if (call $word)
                    (then (call $good (call $set (local.get $buffer) (call $word) (call $word)
                        (i32.add (i32.const 131072) (call $word)) (call $word))))
                    (else
                        (i64.store (i32.const 0) (i64.const 0))
                        (call $good (call $get (local.get $buffer) (call $word) (call $word)
                            (i32.const 0) (i32.const 4)))
                        (call $good (call $log (i32.const 5) (i32.load (i32.const 0)) (i32.load (i32.const 4))))))
                (br $again)))
        (local.get $result))
    (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (call $body (i32.const 0)))
    (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (call $body (i32.const 1))))"#;

/// [`GUEST`] has it as a literal.
const _: () = assert!(PROGRAM == 131_072);

/// Most parts of a body, and commands for each.
const PARTS: usize = 6;
const COMMANDS: usize = 8;

/// The bytes that a guest writes: more than any command takes.
const TEXT: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

thread_local! {
    static FILTER: OnceCell<Arc<Filter<Memory>>> = const { OnceCell::new() };
}

/// What a command does to a body.
#[derive(Debug, Clone, Copy)]
enum Command {
    Read { start: u32, size: u32 },
    Write { start: u32, size: u32, from: usize, len: usize },
}

/// One part of a body: its pieces, what the guest does when it sees it, and whether it holds it then.
#[derive(Debug)]
struct Part {
    pieces: Vec<Vec<u8>>,
    commands: Vec<Command>,
    pauses: bool,
}

fn command(input: &mut Input<'_>) -> Command {
    // Around the edges of a body, behind its end, and as large as it goes.
    let number = |input: &mut Input<'_>| match input.byte() {
        byte @ 0..200 => u32::from(byte),
        200..220 => 0,
        220..240 => u32::MAX,
        _ => input.u32(),
    };
    let kind = input.byte();
    let (start, size) = (number(input), number(input));
    if kind.is_multiple_of(3) {
        return Command::Read { start, size };
    }
    let from = input.below(TEXT.len());
    Command::Write { start, size, from, len: input.below(TEXT.len() - from) }
}

fn part(input: &mut Input<'_>) -> Part {
    let pieces = (0..input.below(4)).map(|at| {
        let byte = b"xyz"[at];
        vec![byte; input.below(40)]
    });
    let pieces = pieces.collect();
    let commands = (0..input.below(COMMANDS)).map(|_| command(input)).collect();
    Part { pieces, commands, pauses: input.byte() % 2 == 1 }
}

/// The guest's program for `parts`.
fn program(parts: &[Part]) -> Vec<u8> {
    let words: usize =
        parts.iter().map(|part| 2 + part.commands.iter().map(Command::words).sum::<usize>()).sum();
    let word = |number: usize| u32::try_from(number).expect("small");
    let mut program = Vec::new();
    let mut push = |words: &[u32]| words.iter().for_each(|word| program.extend(word.to_le_bytes()));
    for part in parts {
        push(&[word(part.commands.len()), u32::from(part.pauses)]);
        for command in &part.commands {
            match *command {
                Command::Read { start, size } => push(&[0, start, size]),
                Command::Write { start, size, from, len } => {
                    push(&[1, start, size, word(words * 4 + from), word(len)]);
                }
            }
        }
    }
    program.extend(TEXT);
    program
}

impl Command {
    const fn words(&self) -> usize {
        match self {
            Self::Read { .. } => 3,
            Self::Write { .. } => 5,
        }
    }

    /// Does it to `body`, and returns what is read.
    fn apply(self, body: &mut Vec<u8>) -> Option<Vec<u8>> {
        let range = |start: u32, size: u32| {
            let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(body.len());
            clamp(u64::from(start))..clamp(u64::from(start) + u64::from(size))
        };
        match self {
            Self::Read { start, size } => Some(body[range(start, size)].to_vec()),
            Self::Write { start, size, from, len } => {
                let range = range(start, size);
                body.splice(range, TEXT[from..from + len].iter().copied());
                None
            }
        }
    }
}

/// Tries one input: a body in parts, and what a guest does to each.
///
/// # Panics
/// When the guest reads or leaves other bytes than the model.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let direction = if input.byte().is_multiple_of(2) { Direction::Request } else { Direction::Response };
    let parts: Vec<_> = (0..=input.below(PARTS)).map(|_| part(&mut input)).collect();
    let program = program(&parts);
    let filter = FILTER.with(|filter| Arc::clone(filter.get_or_init(|| load("bodies", GUEST))));
    let (worker, shard, id) = worker(vec![plugin(&filter, &program, Isolation::Stream)]);
    let request = Request::new(&worker);
    let mut chain = shard.begin(id, &request);

    let mut held = Vec::new();
    let mut reads = VecDeque::new();
    let last = parts.len() - 1;
    for (at, part) in parts.iter().enumerate() {
        let mut body = std::mem::take(&mut held);
        body.extend(part.pieces.concat());
        // The guest is not asked about nothing that is not the end either.
        let is_called = !body.is_empty() || at == last;
        request.edit().buffers.insert(direction.buffer(), part.pieces.clone());
        let verdict = chain.body(direction, at == last);
        if !is_called {
            assert_eq!(verdict, Verdict::Continue);
            // Its commands are left for the next callback, and the model would not know.
            break;
        }
        reads.extend(part.commands.iter().filter_map(|command| command.apply(&mut body)));
        let shown =
            request.edit().buffers.get(&direction.buffer()).map(|pieces| pieces.concat()).unwrap_or_default();
        if part.pauses {
            assert_eq!(verdict, Verdict::Pause);
            assert_eq!(shown, b"", "held bytes do not go on");
            held = body;
        } else {
            assert_eq!(verdict, Verdict::Continue);
            assert_eq!(shown, body);
        }
    }
    chain.finish();
    for line in worker.take_log() {
        assert_eq!(Some(line.message.into_bytes()), reads.pop_front());
    }
    assert!(reads.is_empty());
}
