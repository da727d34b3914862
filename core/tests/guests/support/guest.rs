//! Guests in the making: for each callback a list of steps, most of them calls of host functions with constant
//! arguments.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use weir_core::{
    abi::table,
    engine::{Engine, Settings, cache::Cache},
    filter::{AbiVersion, Callback, Filter, FilterSpec, LoadError},
    plan::Isolation,
    testing::{Memory, Worker},
};

use super::{Bench, HEAP, engine, load, plugin};

/// One thing that a guest does in a callback.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Calls a host function, and logs what it answers as a decimal number.
    Call(&'static str, Vec<i64>),
    /// Logs the decimal number that an expression of type i64 has, with a letter before it.
    Number(&'static str, String),
    /// Logs bytes: address and size are expressions of type i32.
    Bytes(String, String),
    /// Logs a word.
    Say(&'static str),
    /// Does the steps if an expression of type i32 is not 0.
    When(String, Vec<Step>),
    /// Statements in the text format.
    Wat(String),
}

pub(crate) fn call(name: &'static str, args: impl AsRef<[i64]>) -> Step {
    Step::Call(name, args.as_ref().to_vec())
}

/// Logs the value whose address and size lie at `at`.
pub(crate) fn value(at: i64) -> Step {
    Step::Bytes(format!("(i32.load (i32.const {at}))"), format!("(i32.load offset=4 (i32.const {at}))"))
}

pub(crate) fn bytes(at: i64, size: i64) -> Step {
    Step::Bytes(format!("(i32.const {at})"), format!("(i32.const {size})"))
}

pub(crate) fn number(expression: impl Into<String>) -> Step {
    Step::Number("", expression.into())
}

pub(crate) fn u32_at(at: i64) -> Step {
    number(format!("(i64.load32_u (i32.const {at}))"))
}

pub(crate) fn u64_at(at: i64) -> Step {
    number(format!("(i64.load (i32.const {at}))"))
}

/// Logs the callback's parameter number `at`.
pub(crate) fn param(at: usize) -> Step {
    number(format!("(i64.extend_i32_u (local.get {at}))"))
}

/// Logs `letter` and the number of the context that is called.
pub(crate) fn trace(letter: &'static str) -> Step {
    Step::Number(letter, "(i64.extend_i32_u (local.get 0))".to_owned())
}

pub(crate) fn say(word: &'static str) -> Step {
    Step::Say(word)
}

pub(crate) fn wat(text: impl Into<String>) -> Step {
    Step::Wat(text.into())
}

pub(crate) fn returns(value: i32) -> Step {
    Step::Wat(format!("(return (i32.const {value}))"))
}

/// Does `steps` if the callback is for context `id`.
pub(crate) fn for_context(id: i32, steps: impl IntoIterator<Item = Step>) -> Step {
    Step::When(format!("(i32.eq (local.get 0) (i32.const {id}))"), steps.into_iter().collect())
}

/// The callbacks of a request, with the letters that [`Guest::tracer`] logs.
const LETTERS: &[(Callback, &str)] = &[
    (Callback::ContextCreate, "C"),
    (Callback::VmStart, "S"),
    (Callback::Configure, "F"),
    (Callback::RequestHeaders, "H"),
    (Callback::RequestBody, "B"),
    (Callback::RequestTrailers, "T"),
    (Callback::ResponseHeaders, "h"),
    (Callback::ResponseBody, "b"),
    (Callback::ResponseTrailers, "t"),
    (Callback::Done, "D"),
    (Callback::Log, "L"),
    (Callback::Delete, "X"),
];

/// A filter in the making.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    name: String,
    configuration: String,
    version: AbiVersion,
    wasi: &'static str,
    allocator: String,
    functions: Vec<(Callback, Vec<Step>)>,
    data: String,
    before: String,
    after: String,
    words: i64,
}

impl Guest {
    /// A guest that does nothing: a marker, a memory, an allocator that hands out addresses from [`HEAP`] on.
    pub(crate) fn new() -> Self {
        Self {
            name: "guest".to_owned(),
            configuration: "vm".to_owned(),
            version: AbiVersion::V0_2_1,
            wasi: "wasi_snapshot_preview1",
            allocator: r#"(func $allocate (export "proxy_on_memory_allocate") (param i32) (result i32)
                (global.get $heap)
                (global.set $heap (i32.add (global.get $heap)
                    (i32.and (i32.add (local.get 0) (i32.const 15)) (i32.const -16)))))"#
                .to_owned(),
            functions: Vec::new(),
            data: String::new(),
            before: String::new(),
            after: String::new(),
            words: 61000,
        }
    }

    /// A guest that logs a letter and the context's number in every callback of [`LETTERS`].
    pub(crate) fn tracer() -> Self {
        LETTERS.iter().fold(Self::new(), |guest, (callback, letter)| guest.on(*callback, [trace(letter)]))
    }

    pub(crate) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The module's configuration; "vm" unless said otherwise.
    pub(crate) fn configuration(mut self, configuration: &str) -> Self {
        configuration.clone_into(&mut self.configuration);
        self
    }

    pub(crate) fn version(mut self, version: AbiVersion) -> Self {
        self.version = version;
        self
    }

    /// Name of the module that WASI is imported from.
    pub(crate) fn wasi(mut self, module: &'static str) -> Self {
        self.wasi = module;
        self
    }

    /// A `producers` section that names one language. Without one, a guest is taken for one that panics at statuses.
    pub(crate) fn language(self, language: &str) -> Self {
        self.plus(&format!(r#"(@producers (language "{language}" ""))"#))
    }

    /// Another allocator: the whole function, in the text format.
    pub(crate) fn allocator(mut self, function: &str) -> Self {
        function.clone_into(&mut self.allocator);
        self
    }

    /// An allocator that does `body`, whose result is the address.
    pub(crate) fn allocating(self, body: &str) -> Self {
        self.allocator(&format!(
            r#"(func $allocate (export "proxy_on_memory_allocate") (param i32) (result i32) {body})"#
        ))
    }

    /// Puts bytes into the guest's memory.
    pub(crate) fn data(mut self, at: i64, bytes: impl AsRef<[u8]>) -> Self {
        let text: String = bytes.as_ref().iter().map(|byte| format!("\\{byte:02x}")).collect();
        let _ = write!(self.data, "(data (i32.const {at}) \"{text}\")");
        self
    }

    /// What the guest does in `callback`, after what it was told to do there already.
    pub(crate) fn on(mut self, callback: Callback, steps: impl IntoIterator<Item = Step>) -> Self {
        match self.functions.iter_mut().find(|(found, _)| *found == callback) {
            Some((_, done)) => done.extend(steps),
            None => self.functions.push((callback, steps.into_iter().collect())),
        }
        self
    }

    /// Further imports, in the text format.
    pub(crate) fn import(mut self, text: &str) -> Self {
        self.before.push_str(text);
        self
    }

    /// Further definitions, in the text format.
    pub(crate) fn plus(mut self, text: &str) -> Self {
        self.after.push_str(text);
        self
    }

    /// The module's text.
    pub(crate) fn text(&self) -> String {
        let mut guest = self.clone();
        let mut imports = BTreeSet::from(["proxy_log"]);
        let mut functions = String::new();
        for (callback, steps) in &self.functions {
            let (params, result) = signature(*callback, self.version);
            let body = guest.render(steps, &mut imports);
            let _ = write!(
                functions,
                "(func (export \"{}\") (param{}) {} {body} {})",
                callback.name(),
                " i32".repeat(params),
                result.map_or("", |_| "(result i32)"),
                result.map_or(String::new(), |result| format!("(i32.const {result})")),
            );
        }
        let marker = AbiVersion::MARKERS
            .iter()
            .find(|(version, _)| *version == self.version)
            .map_or("", |(_, name)| name);
        let mut text = String::from("(module ");
        for row in table::<Memory>() {
            if imports.remove(row.name) {
                let module = if row.module == "env" { "env" } else { self.wasi };
                let result = if row.returns { "(result i32)" } else { "" };
                let params = row.params.join(" ");
                let _ = write!(
                    text,
                    "(import \"{module}\" \"{0}\" (func ${0} (param {params}) {result}))",
                    row.name
                );
            }
        }
        assert!(imports.is_empty(), "no such host functions: {imports:?}");
        let _ = write!(
            text,
            r#"{}
            (memory (export "memory") 4)
            (global $heap (mut i32) (i32.const {HEAP}))
            (func (export "{marker}"))
            (func $number (param $letter i32) (param $n i64) (local $at i32)
                (local.set $at (i32.const 60100))
                (loop $digit
                    (local.set $at (i32.sub (local.get $at) (i32.const 1)))
                    (i32.store8 (local.get $at)
                        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 10)))))
                    (local.set $n (i64.div_u (local.get $n) (i64.const 10)))
                    (br_if $digit (i64.ne (local.get $n) (i64.const 0))))
                (if (local.get $letter) (then
                    (local.set $at (i32.sub (local.get $at) (i32.const 1)))
                    (i32.store8 (local.get $at) (local.get $letter))))
                (call $say (local.get $at) (i32.sub (i32.const 60100) (local.get $at))))
            (func $say (param i32 i32)
                (drop (call $proxy_log (i32.const 5) (local.get 0) (local.get 1))))
            {} {} {functions} {})"#,
            self.before, self.allocator, guest.data, self.after
        );
        text
    }

    /// The text of `steps`; the host functions they call are added to `imports`.
    fn render(&mut self, steps: &[Step], imports: &mut BTreeSet<&'static str>) -> String {
        let mut text = String::new();
        for step in steps {
            let step = match step {
                Step::Wat(step) => step.clone(),
                Step::Number(letter, expression) => {
                    let letter = letter.bytes().next().unwrap_or(0);
                    format!("(call $number (i32.const {letter}) {expression})")
                }
                Step::Bytes(at, size) => format!("(call $say {at} {size})"),
                Step::Say(word) => {
                    let at = self.words;
                    self.words += i64::try_from(word.len()).expect("short");
                    *self = self.clone().data(at, word);
                    format!("(call $say (i32.const {at}) (i32.const {}))", word.len())
                }
                Step::When(condition, steps) => {
                    let steps = self.render(steps, imports);
                    format!("(if {condition} (then {steps}))")
                }
                Step::Call(name, args) => {
                    imports.insert(name);
                    let rows = table::<Memory>();
                    let row = rows.iter().find(|row| row.name == *name).expect("a host function");
                    assert_eq!(row.params.len(), args.len(), "arguments of {name}");
                    let typed = row.params.iter().zip(args);
                    let args: String = typed.map(|(ty, arg)| format!(" ({ty}.const {arg})")).collect();
                    let call = format!("(call ${name}{args})");
                    let logged = format!("(call $number (i32.const 0) (i64.extend_i32_u {call}))");
                    if row.returns { logged } else { call }
                }
            };
            text.push_str(&step);
        }
        text
    }

    pub(crate) fn wasm(&self) -> Vec<u8> {
        wat::parse_str(self.text()).expect("the guest's text is well-formed")
    }

    pub(crate) fn try_load(&self) -> Result<Arc<Filter<Memory>>, LoadError> {
        load(engine(), &Cache::disabled(), &self.spec(), &self.wasm(), &Worker::default())
    }

    pub(crate) fn load(&self) -> Arc<Filter<Memory>> {
        self.try_load().expect("the guest loads")
    }

    pub(crate) fn spec(&self) -> FilterSpec {
        FilterSpec {
            name: self.name.clone(),
            path: "/nowhere".into(),
            configuration: self.configuration.clone().into_bytes(),
            vm_id: format!("{}-vm", self.name),
            environment: vec![("GRANTED".to_owned(), "yes".to_owned()), ("EMPTY".to_owned(), String::new())],
        }
    }

    /// A worker whose one chain is this guest, isolated for each request.
    pub(crate) fn bench(&self) -> Bench {
        self.bench_with(Isolation::Stream)
    }

    pub(crate) fn bench_with(&self, isolation: Isolation) -> Bench {
        Bench::new(vec![plugin(&self.load(), "plugin", isolation)])
    }

    /// The same in an engine of its own, with a thread of its own.
    pub(crate) fn bench_in(&self, settings: &Settings, isolation: Isolation) -> Bench {
        self.bench_of(settings, isolation, 1)
    }

    /// The same with `count` filters of it in the chain.
    pub(crate) fn bench_of(&self, settings: &Settings, isolation: Isolation, count: usize) -> Bench {
        let engine = Engine::shared(settings).expect("an engine");
        let loaded = load(&engine, &Cache::disabled(), &self.spec(), &self.wasm(), &Worker::default());
        let loaded = loaded.expect("the guest loads");
        let mut bench = Bench::new((0..count).map(|_| plugin(&loaded, "plugin", isolation)).collect());
        bench.ticker = Some(engine.ticker().expect("a thread"));
        bench.engine = engine;
        bench
    }
}

/// How many parameters a callback has, and what it returns unless a guest says otherwise.
fn signature(callback: Callback, version: AbiVersion) -> (usize, Option<i32>) {
    match callback {
        Callback::Initialize | Callback::Start => (0, None),
        Callback::MainVoid => (0, Some(0)),
        Callback::VmStart | Callback::Configure => (2, Some(1)),
        Callback::Done => (1, Some(1)),
        Callback::Tick | Callback::Log | Callback::Delete => (1, None),
        Callback::MemoryAllocate | Callback::Malloc => (1, Some(0)),
        Callback::ContextCreate | Callback::QueueReady => (2, None),
        Callback::RequestHeaders | Callback::ResponseHeaders if version == AbiVersion::V0_1_0 => (2, Some(0)),
        Callback::RequestHeaders
        | Callback::ResponseHeaders
        | Callback::RequestBody
        | Callback::ResponseBody => (3, Some(0)),
        Callback::Main
        | Callback::RequestTrailers
        | Callback::ResponseTrailers
        | Callback::RequestMetadata
        | Callback::ResponseMetadata => (2, Some(0)),
        Callback::HttpCallResponse => (5, None),
        Callback::GrpcReceiveInitialMetadata
        | Callback::GrpcReceive
        | Callback::GrpcReceiveTrailingMetadata
        | Callback::GrpcClose
        | Callback::ForeignFunction => (3, None),
    }
}
