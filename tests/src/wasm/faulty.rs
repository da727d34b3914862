//! A filter that fails in the callback and in the way that each request asks for.
//!
//! The request header `x-fault` holds two letters: the callback, and the fault. Every callback reads it anew, so nothing
//! of a request is left in an instance that serves several.

use super::assemble;

pub mod calling;

/// What the filter is made to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What it is called in messages.
    pub name: &'static str,
    letter: char,
    /// What it does: statements in the text format.
    code: &'static str,
    /// Whether the callback fails of it; otherwise the guest is told something unpleasant, and goes on.
    pub is_fatal: bool,
    /// Whether it takes as long as a callback may.
    pub is_slow: bool,
    /// What the log says of it.
    pub says: &'static str,
}

const fn trap(name: &'static str, letter: char, code: &'static str, says: &'static str) -> Fault {
    Fault { name, letter, code, is_fatal: true, is_slow: false, says }
}

/// Every fault. The last one changes a table, which keeps instances from being reset in place: [`module`] has it only
/// where it is asked for.
pub const FAULTS: [Fault; 23] = [
    trap("unreachable", 'a', "unreachable", "unreachable"),
    trap("division by zero", 'b', "(drop (i32.div_u (i32.const 1) (i32.const 0)))", "divide by zero"),
    trap(
        "integer overflow",
        'c',
        "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))",
        "integer overflow",
    ),
    trap("conversion of no number", 'd', "(drop (i32.trunc_f64_s (f64.const nan)))", "conversion to integer"),
    trap("read out of bounds", 'e', "(drop (i64.load (i32.const -8)))", "out of bounds memory access"),
    trap(
        "write out of bounds",
        'f',
        "(i64.store (i32.const -8) (i64.const 1))",
        "out of bounds memory access",
    ),
    trap("call of null", 'g', "(call_indirect (type $plain) (i32.const 0))", "uninitialized element"),
    trap(
        "call of another type",
        'h',
        "(call_indirect (type $plain) (i32.const 1))",
        "indirect call type mismatch",
    ),
    trap("call beyond the table", 'i', "(call_indirect (type $plain) (i32.const 99))", "undefined element"),
    trap("stack overflow", 'j', "(call $deep)", "overflowed its stack"),
    trap("exit", 'k', "(call $proc_exit (i32.const 3))", "proc_exit(3)"),
    trap(
        "memory bomb",
        'l',
        "(loop $more
            (i32.store8 (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1)) (i32.const 1))
            (br_if $more (i32.ne (memory.grow (i32.const 4)) (i32.const -1))))
         unreachable",
        "unreachable",
    ),
    trap(
        "allocator that calls back",
        'm',
        "(drop (call $allocating (i32.const 3)))",
        "allocator called a host function",
    ),
    trap(
        "answer before a trap",
        'n',
        "(drop (call $proxy_send_local_response (i32.const 200) (i32.const 0) (i32.const 0) (i32.const 64)
            (i32.const 5) (i32.const 0) (i32.const 0) (i32.const -1)))
         unreachable",
        "unreachable",
    ),
    trap("allocator that traps", 'w', "(drop (call $allocating (i32.const 4)))", "unreachable"),
    Fault { is_slow: true, ..trap("endless loop", 'o', "(loop (br 0))", "ran longer than its limit") },
    Fault {
        is_fatal: false,
        ..trap(
            "allocator without memory",
            'p',
            // INTERNAL_FAILURE
            "(if (i32.ne (call $allocating (i32.const 1)) (i32.const 10)) (then unreachable))",
            "",
        )
    },
    Fault {
        is_fatal: false,
        ..trap(
            "allocator that lies",
            'q',
            // INVALID_MEMORY_ACCESS
            "(if (i32.ne (call $allocating (i32.const 2)) (i32.const 6)) (then unreachable))",
            "",
        )
    },
    Fault {
        is_fatal: false,
        ..trap(
            "allocator that is short of a byte",
            'x',
            // INVALID_MEMORY_ACCESS
            "(if (i32.ne (call $allocating (i32.const 5)) (i32.const 6)) (then unreachable))",
            "",
        )
    },
    Fault {
        is_fatal: false,
        ..trap(
            "allocator that gives the place of the answer",
            'y',
            // OK, and the value or its address, whichever was written last.
            "(if (call $allocating (i32.const 6)) (then unreachable))",
            "",
        )
    },
    Fault {
        is_fatal: false,
        ..trap(
            "growth",
            'u',
            "(drop (memory.grow (i32.const 1)))
             (i32.store8 (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1)) (i32.const 1))",
            "",
        )
    },
    Fault {
        is_fatal: false,
        ..trap(
            "growth to the limit",
            'v',
            "(loop $more
                (i32.store8 (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1)) (i32.const 1))
                (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))",
            "",
        )
    },
    trap(
        "table bomb",
        'r',
        "(loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable",
        "unreachable",
    ),
];

/// A log flood: as many lines as a callback has time for.
pub const FLOOD: Fault = Fault {
    is_slow: true,
    ..trap(
        "log flood",
        's',
        "(loop (drop (call $proxy_log (i32.const 4) (i32.const 64) (i32.const 5))) (br 0))",
        "ran longer than its limit",
    )
};

/// A log flood of a thousand lines, after which the filter goes on.
pub const CHATTER: Fault = Fault {
    is_fatal: false,
    ..trap(
        "chatter",
        't',
        "(global.set $lines (i32.const 1000))
         (loop
            (drop (call $proxy_log (i32.const 4) (i32.const 64) (i32.const 5)))
            (global.set $lines (i32.sub (global.get $lines) (i32.const 1)))
            (br_if 0 (global.get $lines)))",
        "",
    )
};

/// The callbacks of every request: a letter, what the export is called, its parameters and its result.
pub const CALLBACKS: [(char, &str, usize, bool); 8] = [
    ('C', "proxy_on_context_create", 2, false),
    ('H', "proxy_on_request_headers", 3, true),
    ('B', "proxy_on_request_body", 3, true),
    ('h', "proxy_on_response_headers", 3, true),
    ('b', "proxy_on_response_body", 3, true),
    ('D', "proxy_on_done", 1, true),
    ('L', "proxy_on_log", 1, false),
    ('X', "proxy_on_delete", 1, false),
];

/// The callback of responses that have trailers.
pub const TRAILERS: (char, &str, usize, bool) = ('t', "proxy_on_response_trailers", 2, true);

impl Fault {
    /// Whether it happens in a request's context only: an allocator is asked for one of its headers, an answer is its
    /// own.
    #[must_use]
    pub fn needs_request(&self) -> bool {
        self.name.starts_with("allocator") || self.name == "answer before a trap"
    }

    /// The value of `x-fault` that makes it happen in the callback of that letter.
    #[must_use]
    pub fn at(&self, callback: char) -> String {
        format!("{callback}{}", self.letter)
    }
}

/// The filter; `with_table_bomb`: its instances cannot be reset in place.
///
/// # Panics
/// When its text is no WebAssembly.
#[must_use]
pub fn module(with_table_bomb: bool) -> Vec<u8> {
    let is_there = |fault: &&Fault| with_table_bomb || fault.name != "table bomb";
    let faults: Vec<_> = FAULTS.iter().chain([&FLOOD, &CHATTER]).filter(is_there).collect();
    filter("", &told(&faults), &callbacks())
}

/// The code of `faults`, each where `$fault` is its letter.
fn told(faults: &[&Fault]) -> String {
    let mut code = String::new();
    for fault in faults {
        code.push_str(&format!(
            "(if (i32.eq (local.get $fault) (i32.const {})) (then {}))\n",
            u32::from(fault.letter),
            fault.code
        ));
    }
    code
}

/// The filter, which fails in each of its ticks, one each millisecond.
///
/// # Panics
/// When its text is no WebAssembly.
#[must_use]
pub fn ticking(fault: &Fault) -> Vec<u8> {
    filter(
        "",
        "",
        &format!(
            r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
                (drop (call $set_tick (i32.const 1))) (i32.const 1))
            (func (export "proxy_on_tick") (param i32) {})"#,
            fault.code
        ),
    )
}

/// The filter, which puts a message into a queue of its own at each tick, one each millisecond, and fails when it is told
/// of it, having taken the message.
///
/// # Panics
/// When its text is no WebAssembly.
#[must_use]
pub fn queueing(fault: &Fault) -> Vec<u8> {
    let imports = r#"
        (import "env" "proxy_register_shared_queue" (func $register (param i32 i32 i32) (result i32)))
        (import "env" "proxy_enqueue_shared_queue" (func $enqueue (param i32 i32 i32) (result i32)))
        (import "env" "proxy_dequeue_shared_queue" (func $dequeue (param i32 i32 i32) (result i32)))"#;
    filter(
        imports,
        "",
        &format!(
            r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
                (drop (call $register (i32.const 64) (i32.const 5) (i32.const 24)))
                (drop (call $set_tick (i32.const 1))) (i32.const 1))
            (func (export "proxy_on_tick") (param i32)
                (drop (call $enqueue (i32.load (i32.const 24)) (i32.const 64) (i32.const 5))))
            (func (export "proxy_on_queue_ready") (param i32 i32)
                (drop (call $dequeue (local.get 1) (i32.const 16) (i32.const 20))) {})"#,
            fault.code
        ),
    )
}

/// The exports that fail as requests ask for it.
fn callbacks() -> String {
    let mut callbacks = String::new();
    for (letter, name, params, returns) in CALLBACKS.into_iter().chain([TRAILERS]) {
        let (result, value) = match (returns, letter) {
            (false, _) => ("", ""),
            (true, 'D') => ("(result i32)", "(i32.const 1)"),
            (true, _) => ("(result i32)", "(i32.const 0)"),
        };
        callbacks.push_str(&exports(letter, name, params, result, value));
    }
    callbacks
}

/// An export that fails where `letter` is asked for, and then does what `after` says.
fn exports(letter: char, name: &str, params: usize, result: &str, after: &str) -> String {
    format!(
        "(func (export \"{name}\") (param{}) {result} (call $fail (i32.const {})) {after})\n",
        " i32".repeat(params),
        u32::from(letter)
    )
}

/// The module with those imports, faults and callbacks.
fn filter(imports: &str, faults: &str, callbacks: &str) -> Vec<u8> {
    assemble(&format!(
        r#"(module
        (type $plain (func))
        (import "env" "proxy_get_header_map_value" (func $value (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_log" (func $proxy_log (param i32 i32 i32) (result i32)))
        (import "env" "proxy_send_local_response"
            (func $proxy_send_local_response (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_set_tick_period_milliseconds" (func $set_tick (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
        {imports}
        (memory (export "memory") 2)
        (table $t 2 funcref)
        (elem (i32.const 1) func $deep_with_a_result)
        (global $allocator (mut i32) (i32.const 0))
        (global $lines (mut i32) (i32.const 0))
        (data (i32.const 0) "x-fault")
        (data (i32.const 64) "flood")
        (func (export "proxy_abi_version_0_2_1"))
        (func $deep (call $deep))
        (func $deep_with_a_result (result i32) (i32.const 1))
        ;; Always the same place: what it holds is read at once. Other modes are for a while only.
        (func $allocate (export "proxy_on_memory_allocate") (param i32) (result i32) (local $mode i32)
            (local.set $mode (global.get $allocator))
            (global.set $allocator (i32.const 0))
            (if (i32.eq (local.get $mode) (i32.const 1)) (then (return (i32.const 0))))
            (if (i32.eq (local.get $mode) (i32.const 2)) (then (return (i32.const -4))))
            (if (i32.eq (local.get $mode) (i32.const 3))
                (then (drop (call $value
                    (i32.const 0) (i32.const 0) (i32.const 7) (i32.const 16) (i32.const 20)))))
            (if (i32.eq (local.get $mode) (i32.const 4)) (then unreachable))
            (if (i32.eq (local.get $mode) (i32.const 5))
                (then (return (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1)))))
            (if (i32.eq (local.get $mode) (i32.const 6)) (then (return (i32.const 16))))
            (i32.const 1024))
        ;; Asks for a value while the allocator does what is wanted: the status.
        (func $allocating (param $mode i32) (result i32)
            (global.set $allocator (local.get $mode))
            (call $value (i32.const 0) (i32.const 0) (i32.const 7) (i32.const 16) (i32.const 20)))
        (func $fail (param $callback i32) (local $fault i32)
            (if (call $value (i32.const 0) (i32.const 0) (i32.const 7) (i32.const 16) (i32.const 20))
                (then (return)))
            (if (i32.ne (i32.load8_u (i32.const 1024)) (local.get $callback)) (then (return)))
            (local.set $fault (i32.load8_u (i32.const 1025)))
            {faults})
        {callbacks})"#
    ))
}

#[cfg(test)]
mod tests {
    use super::module;

    #[test]
    fn both_modules_are_well_formed() {
        assert!(module(true).len() > module(false).len());
    }
}
