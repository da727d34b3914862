//! A request of the proxy in memory.

use std::{
    borrow::Cow,
    cell::{RefCell, RefMut},
    collections::{BTreeMap, HashMap},
    ops::Range,
    rc::Rc,
};

use super::Worker;
use crate::{
    abi::{
        properties::Properties,
        types::{BufferType, LogLevel, MapType, StreamType},
    },
    chain::Direction,
    host::{
        Attribute, Bodies, BufferError, Buffers, Hold, LocalResponse, LogLine, LogSink, MapError, Maps,
        StreamError, StreamHost, Value,
    },
};

/// A local response that a filter sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its status.
    pub status: u16,
    /// Its details.
    pub details: Vec<u8>,
    /// Its body.
    pub body: Vec<u8>,
    /// Its headers.
    pub headers: Vec<Pair>,
    /// Its gRPC status.
    pub grpc_status: Option<u32>,
}

/// A name and a value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// What a request consists of; a test fills and reads it through [`Request::edit`].
#[derive(Debug, Default)]
pub struct Parts {
    /// The maps that exist, pseudo-headers first.
    pub maps: BTreeMap<MapType, Vec<Pair>>,
    /// The buffers that exist, in the pieces they have.
    pub buffers: HashMap<BufferType, Vec<Vec<u8>>>,
    /// Attributes that have a value.
    pub attributes: HashMap<Attribute, Value<'static>>,
    /// The proxy's own variables.
    pub native: HashMap<Vec<u8>, Vec<u8>>,
    /// Properties that filters have set.
    pub properties: Properties,
    /// The local response that was sent.
    pub sent: Option<Sent>,
    /// The response's headers have left.
    pub headers_sent: bool,
    /// Parts of bodies that filters hold.
    pub held: HashMap<(StreamType, usize), Vec<Vec<u8>>>,
    /// Most bytes that a filter may hold, and what becomes of more.
    pub hold_limit: Option<(usize, Hold)>,
    /// Directions that were resumed, and the filters that asked for it.
    pub resumed: Vec<(StreamType, usize)>,
    /// Directions that were closed.
    pub closed: Vec<StreamType>,
    /// It was told that an instance has come free.
    pub instance_free: bool,
    /// The request is over: nothing can be reached any more.
    pub gone: bool,
    /// The proxy has no memory left: nothing can be changed or sent, and no buffer read.
    pub exhausted: bool,
}

/// A request. Clones are handles of the same one.
#[derive(Debug, Clone)]
pub struct Request {
    worker: Worker,
    parts: Rc<RefCell<Parts>>,
}

impl Request {
    /// `GET /path?query` for host `example.com`, and an empty response map.
    #[must_use]
    pub fn new(worker: &Worker) -> Self {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<Pair> {
            pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
        };
        let mut parts = Parts::default();
        let request = pairs(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "example.com"),
            (":path", "/path?query"),
            ("Accept", "*/*"),
        ]);
        parts.maps.insert(MapType::HttpRequestHeaders, request);
        parts.maps.insert(MapType::HttpResponseHeaders, pairs(&[(":status", "200")]));
        Self { worker: worker.clone(), parts: Rc::new(RefCell::new(parts)) }
    }

    /// Everything the request consists of.
    ///
    /// # Panics
    /// When a callback runs: hostcalls have it then.
    #[must_use]
    pub fn edit(&self) -> RefMut<'_, Parts> {
        self.parts.borrow_mut()
    }

    /// The value of `name` in `map`, as a filter would read it, as text.
    #[must_use]
    pub fn text(&self, map: MapType, name: &str) -> Option<String> {
        self.value(map, name.as_bytes()).map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    /// Looks at the pairs of `map`, where there is one.
    fn map<R>(&self, map: MapType, look: impl FnOnce(&[Pair]) -> R) -> Option<R> {
        let parts = self.parts.borrow();
        if parts.gone {
            return None;
        }
        parts.maps.get(&map).map(|pairs| look(pairs))
    }

    fn change(&self, map: MapType, change: impl FnOnce(&mut Vec<Pair>)) -> Result<(), MapError> {
        let mut parts = self.parts.borrow_mut();
        if parts.gone {
            return Err(MapError::Unavailable);
        }
        if parts.exhausted {
            return Err(MapError::NoMemory);
        }
        parts.maps.get_mut(&map).map(change).ok_or(MapError::Unavailable)
    }
}

impl LogSink for Request {
    fn log(&self, line: LogLine<'_>) {
        self.worker.log(line);
    }

    fn log_level(&self) -> LogLevel {
        self.worker.log_level()
    }
}

impl Maps for Request {
    fn has_map(&self, map: MapType) -> bool {
        self.map(map, |_| ()).is_some()
    }

    fn map_len(&self, map: MapType) -> usize {
        self.map(map, <[Pair]>::len).unwrap_or(0)
    }

    fn value(&self, map: MapType, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        self.map(map, |pairs| {
            let separator: &[u8] = if name.eq_ignore_ascii_case(b"cookie") { b"; " } else { b", " };
            let values: Vec<_> = pairs
                .iter()
                .filter(|(found, _)| found.eq_ignore_ascii_case(name))
                .map(|(_, value)| &value[..])
                .collect();
            (!values.is_empty()).then(|| Cow::Owned(values.join(separator)))
        })?
    }

    fn visit(&self, map: MapType, visit: &mut dyn FnMut(&[u8], &[u8])) {
        self.map(map, |pairs| pairs.iter().for_each(|(name, value)| visit(name, value)));
    }

    fn add(&self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), MapError> {
        if name.starts_with(b":") {
            return self.replace(map, name, value);
        }
        self.change(map, |pairs| pairs.push((name.to_vec(), value.to_vec())))
    }

    fn replace(&self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), MapError> {
        self.change(map, |pairs| {
            let mut set = false;
            pairs.retain_mut(|(found, old)| {
                let same = found.eq_ignore_ascii_case(name);
                if same && !set {
                    set = true;
                    *old = value.to_vec();
                    return true;
                }
                !same
            });
            if !set {
                pairs.push((name.to_vec(), value.to_vec()));
            }
        })
    }

    fn remove(&self, map: MapType, name: &[u8]) -> Result<(), MapError> {
        if name.starts_with(b":") {
            return Err(MapError::Refused("a pseudo-header cannot be removed"));
        }
        self.change(map, |pairs| pairs.retain(|(found, _)| !found.eq_ignore_ascii_case(name)))
    }

    fn clear(&self, map: MapType) -> Result<(), MapError> {
        self.change(map, |pairs| pairs.retain(|(name, _)| name.starts_with(b":")))
    }
}

impl Buffers for Request {
    fn buffer_len(&self, buffer: BufferType) -> Option<usize> {
        let parts = self.parts.borrow();
        if parts.gone {
            return None;
        }
        parts.buffers.get(&buffer).map(|pieces| pieces.iter().map(Vec::len).sum())
    }

    fn read_buffer(
        &self,
        buffer: BufferType,
        range: Range<usize>,
        piece: &mut dyn FnMut(&[u8]),
    ) -> Result<(), BufferError> {
        let parts = self.parts.borrow();
        let pieces = parts.buffers.get(&buffer).filter(|_| !parts.gone).ok_or(BufferError::Unavailable)?;
        if parts.exhausted {
            return Err(BufferError::Io);
        }
        let mut at = 0;
        for bytes in pieces {
            let start = range.start.clamp(at, at + bytes.len()) - at;
            let end = range.end.clamp(at, at + bytes.len()) - at;
            if start < end {
                piece(&bytes[start..end]);
            }
            at += bytes.len();
        }
        Ok(())
    }

    fn write_buffer(&self, buffer: BufferType, range: Range<usize>, bytes: &[u8]) -> Result<(), BufferError> {
        let mut parts = self.parts.borrow_mut();
        if parts.gone {
            return Err(BufferError::Unavailable);
        }
        let pieces = parts.buffers.get_mut(&buffer).ok_or(BufferError::Unavailable)?;
        let mut whole = pieces.concat();
        whole.splice(range, bytes.iter().copied());
        *pieces = vec![whole];
        Ok(())
    }
}

impl Bodies for Request {
    fn hold(&self, stream: StreamType, filter: usize) -> Hold {
        let mut parts = self.parts.borrow_mut();
        let Some(buffer) = Direction::of(stream).map(Direction::buffer) else { return Hold::Kept };
        let pieces = parts.buffers.get_mut(&buffer).map(std::mem::take).unwrap_or_default();
        let size: usize = pieces.iter().map(Vec::len).sum();
        if let Some((limit, beyond)) = parts.hold_limit
            && size > limit
        {
            parts.buffers.insert(buffer, pieces);
            return beyond;
        }
        parts.held.entry((stream, filter)).or_default().extend(pieces);
        Hold::Kept
    }

    fn recall(&self, stream: StreamType, filter: usize) {
        let mut parts = self.parts.borrow_mut();
        let Some(buffer) = Direction::of(stream).map(Direction::buffer) else { return };
        let mut pieces = parts.held.remove(&(stream, filter)).unwrap_or_default();
        let shown = parts.buffers.entry(buffer).or_default();
        pieces.append(shown);
        *shown = pieces;
    }

    fn swap_held(&self, stream: StreamType, filter: usize) -> bool {
        let parts = &mut *self.parts.borrow_mut();
        let Some(buffer) = Direction::of(stream).map(Direction::buffer) else { return false };
        let Some(held) = parts.held.get_mut(&(stream, filter)) else { return false };
        std::mem::swap(held, parts.buffers.entry(buffer).or_default());
        true
    }
}

impl StreamHost for Request {
    const NATIVE_PREFIX: &'static [u8] = b"mem";

    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        let parts = self.parts.borrow();
        parts.attributes.get(&attribute).filter(|_| !parts.gone).cloned()
    }

    fn native(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let parts = self.parts.borrow();
        parts.native.get(name).filter(|_| !parts.gone).cloned().map(Cow::Owned)
    }

    fn set_native(&self, name: &[u8], value: &[u8]) -> Result<(), StreamError> {
        let mut parts = self.parts.borrow_mut();
        match parts.native.get_mut(name) {
            Some(old) => {
                value.clone_into(old);
                Ok(())
            }
            None => Err(StreamError::Refused("there is no such variable")),
        }
    }

    fn with_properties<R>(&self, lend: impl FnOnce(&mut Properties) -> R) -> Option<R> {
        let mut parts = self.parts.borrow_mut();
        if parts.gone { None } else { Some(lend(&mut parts.properties)) }
    }

    fn send_local_response(&self, response: &LocalResponse<'_>) -> Result<(), StreamError> {
        let mut parts = self.parts.borrow_mut();
        if parts.gone {
            return Err(StreamError::Gone);
        }
        if parts.headers_sent {
            return Err(StreamError::TooLate);
        }
        if parts.exhausted {
            return Err(StreamError::NoMemory);
        }
        parts.sent = Some(Sent {
            status: response.status,
            details: response.details.to_vec(),
            body: response.body.to_vec(),
            headers: response.headers.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            grpc_status: response.grpc_status,
        });
        Ok(())
    }

    fn withdraw_local_response(&self) {
        self.parts.borrow_mut().sent = None;
    }

    fn resume(&self, stream: StreamType, filter: usize) -> Result<(), StreamError> {
        let mut parts = self.parts.borrow_mut();
        if parts.gone {
            return Err(StreamError::Gone);
        }
        parts.resumed.push((stream, filter));
        Ok(())
    }

    fn withdraw_resume(&self, stream: StreamType, filter: usize) {
        self.parts.borrow_mut().resumed.retain(|wish| *wish != (stream, filter));
    }

    fn instance_free(&self) -> bool {
        let mut parts = self.parts.borrow_mut();
        parts.instance_free |= !parts.gone;
        !parts.gone
    }

    fn close(&self, stream: StreamType) -> Result<(), StreamError> {
        let mut parts = self.parts.borrow_mut();
        if parts.gone {
            return Err(StreamError::Gone);
        }
        parts.closed.push(stream);
        Ok(())
    }
}
