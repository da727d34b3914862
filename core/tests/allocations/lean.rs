//! A proxy that allocates nothing, lends and takes bytes, and counts them.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
    sync::{Arc, OnceLock},
};

use weir_core::{
    abi::{
        properties::Properties,
        types::{BufferType, LogLevel, MapType, StreamType},
    },
    host::{
        Attribute, Bodies, BufferError, Buffers, Calls, Crypto, Hold, Host, LocalResponse, LogLine, LogSink,
        MapError, Maps, RootHost, RootId, StreamError, StreamHost, Value,
    },
    metrics::{Metrics, Options},
};

/// A proxy that allocates nothing.
#[derive(Debug)]
pub(crate) struct Lean;

impl Host for Lean {
    type Root = Worker;
    type Stream = Stream;
}

/// A worker whose log is read at once: whatever is worth a warning fails the test.
#[derive(Debug, Clone)]
pub(crate) struct Worker;

impl LogSink for Worker {
    fn log(&self, line: LogLine<'_>) {
        let text = String::from_utf8_lossy(line.message);
        assert!(line.level < LogLevel::Warn, "{}: {text}", line.filter);
    }

    fn log_level(&self) -> LogLevel {
        LogLevel::Warn
    }
}

impl RootHost for Worker {
    fn realtime_ns(&self) -> u64 {
        1
    }

    fn monotonic_ns(&self) -> u64 {
        1
    }

    fn when_idle(&self) {}

    fn settle_soon(&self) {}

    fn set_tick(&self, _root: RootId, _period: u32) {}

    fn metrics(&self) -> Arc<Metrics> {
        static METRICS: OnceLock<Arc<Metrics>> = OnceLock::new();
        let make = || Arc::new(Metrics::nameless(Options::default()).expect("memory"));
        Arc::clone(METRICS.get_or_init(make))
    }
}

impl Calls<Stream> for Worker {}

impl Crypto for Worker {}

/// Headers of every request and response.
const HEADERS: &[(&[u8], &[u8])] = &[
    (b":path", b"/path"),
    (b":status", b"200"),
    (b"Accept", b"text/html"),
    (b"Cookie", b"a=1; b=2"),
    (b"User-Agent", b"a browser with a name of the usual length"),
];

/// A request: what it lends never changes, and what it is given it counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stream(pub(crate) Rc<Parts>);

#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// The body, in its pieces.
    pub(crate) body: RefCell<Vec<&'static [u8]>>,
    pub(crate) properties: RefCell<Properties>,
    /// Pairs and bytes that filters have set.
    pub(crate) edits: Cell<usize>,
    /// Bytes of bodies that were lent, and those that were given.
    pub(crate) lent: Cell<usize>,
    pub(crate) given: Cell<usize>,
    /// What the last bytes that were given look like, and where they were to go.
    pub(crate) last: Cell<(u8, u8)>,
    pub(crate) range: Cell<(usize, usize)>,
}

fn add(counter: &Cell<usize>, count: usize) {
    counter.set(counter.get() + count);
}

impl LogSink for Stream {
    fn log(&self, line: LogLine<'_>) {
        Worker.log(line);
    }

    fn log_level(&self) -> LogLevel {
        Worker.log_level()
    }
}

impl Stream {
    fn edit(&self) -> Result<(), MapError> {
        add(&self.0.edits, 1);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.body.borrow().iter().map(|piece| piece.len()).sum()
    }
}

impl Maps for Stream {
    fn has_map(&self, _: MapType) -> bool {
        true
    }

    fn map_len(&self, _: MapType) -> usize {
        HEADERS.len()
    }

    fn value(&self, _: MapType, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let found = HEADERS.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| Cow::Borrowed(*value))
    }

    fn visit(&self, _: MapType, visit: &mut dyn FnMut(&[u8], &[u8])) {
        HEADERS.iter().for_each(|(name, value)| visit(name, value));
    }

    fn add(&self, _: MapType, _: &[u8], _: &[u8]) -> Result<(), MapError> {
        self.edit()
    }

    fn replace(&self, _: MapType, _: &[u8], _: &[u8]) -> Result<(), MapError> {
        self.edit()
    }

    fn remove(&self, _: MapType, _: &[u8]) -> Result<(), MapError> {
        self.edit()
    }

    fn clear(&self, _: MapType) -> Result<(), MapError> {
        self.edit()
    }
}

impl Buffers for Stream {
    fn buffer_len(&self, _: BufferType) -> Option<usize> {
        Some(self.len())
    }

    fn read_buffer(
        &self,
        _: BufferType,
        range: Range<usize>,
        piece: &mut dyn FnMut(&[u8]),
    ) -> Result<(), BufferError> {
        let mut at = 0;
        for bytes in self.0.body.borrow().iter() {
            let end = at + bytes.len();
            let wanted = range.start.clamp(at, end) - at..range.end.clamp(at, end) - at;
            if !wanted.is_empty() {
                add(&self.0.lent, wanted.len());
                piece(&bytes[wanted]);
            }
            at = end;
        }
        Ok(())
    }

    fn write_buffer(&self, _: BufferType, range: Range<usize>, bytes: &[u8]) -> Result<(), BufferError> {
        add(&self.0.given, bytes.len());
        let [first, .., last] = bytes else { return Err(BufferError::Io) };
        self.0.last.set((*first, *last));
        self.0.range.set((range.start, range.end));
        Ok(())
    }
}

impl Bodies for Stream {
    fn hold(&self, _: StreamType, _: usize) -> Hold {
        Hold::Kept
    }

    fn recall(&self, _: StreamType, _: usize) {}

    fn swap_held(&self, _: StreamType, _: usize) -> bool {
        false
    }
}

impl StreamHost for Stream {
    const NATIVE_PREFIX: &'static [u8] = b"lean";

    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        match attribute {
            Attribute::RequestPath => Some(Value::Bytes(Cow::Borrowed(b"/path"))),
            Attribute::ResponseCode => Some(Value::Int(200)),
            Attribute::ConnectionMtls => Some(Value::Bool(true)),
            _ => None,
        }
    }

    fn native(&self, _: &[u8]) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(b"of the proxy"))
    }

    fn set_native(&self, _: &[u8], _: &[u8]) -> Result<(), StreamError> {
        Ok(())
    }

    fn with_properties<R>(&self, lend: impl FnOnce(&mut Properties) -> R) -> Option<R> {
        Some(lend(&mut self.0.properties.borrow_mut()))
    }

    fn send_local_response(&self, _: &LocalResponse<'_>) -> Result<(), StreamError> {
        Ok(())
    }

    fn withdraw_local_response(&self) {}

    fn withdraw_resume(&self, _: StreamType, _: usize) {}

    fn resume(&self, _: StreamType, _: usize) -> Result<(), StreamError> {
        Ok(())
    }

    fn instance_free(&self) -> bool {
        true
    }

    fn close(&self, _: StreamType) -> Result<(), StreamError> {
        Ok(())
    }
}
