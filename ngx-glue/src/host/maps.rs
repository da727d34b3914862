//! Maps: which one, and in which phase. What is in them: `request_headers`, `response_headers`, `response_trailers`.
//!
//! Trailers of requests nginx drops while it reads them, so there is no such map.

use std::borrow::Cow;

use weir_core::{
    abi::types::MapType,
    host::{MapError, Maps},
};

use super::{
    request_headers as request, response_headers as response, response_trailers as trailers,
    stream::RequestToken,
};
use crate::{
    ngx::{list::Field, request::Request},
    stream::io::Access,
};

/// A map that can be read now.
#[derive(Debug, Clone, Copy)]
enum Map<'a> {
    Request(Request<'a>),
    Response(Request<'a>),
    Trailers(Request<'a>),
}

impl RequestToken {
    fn readable(&self, map: MapType) -> Option<Map<'_>> {
        let io = self.io()?;
        match map {
            MapType::HttpRequestHeaders => Some(Map::Request(io.request()?)),
            MapType::HttpResponseHeaders if io.response_access() != Access::None => {
                Some(Map::Response(io.request()?))
            }
            MapType::HttpResponseTrailers if io.response_access() != Access::None => {
                Some(Map::Trailers(io.request()?))
            }
            _ => None,
        }
    }

    fn writable(&self, map: MapType) -> Result<Map<'_>, MapError> {
        let found = self.readable(map).ok_or(MapError::Unavailable)?;
        let open = self.io().is_some_and(|io| match found {
            Map::Request(_) => io.can_edit_request(),
            Map::Response(_) => io.response_access() == Access::Edit,
            Map::Trailers(_) => io.can_edit_trailers(),
        });
        if open { Ok(found) } else { Err(MapError::Unavailable) }
    }
}

impl Maps for RequestToken {
    fn has_map(&self, map: MapType) -> bool {
        self.readable(map).is_some()
    }

    fn map_len(&self, map: MapType) -> usize {
        match self.readable(map) {
            Some(Map::Request(of)) => request::count(of),
            Some(Map::Response(of)) => response::count(of),
            Some(Map::Trailers(of)) => trailers::count(of),
            None => 0,
        }
    }

    fn value(&self, map: MapType, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self.readable(map)? {
            Map::Request(of) => request::value(of, name),
            Map::Response(of) => response::value(of, name),
            Map::Trailers(of) => trailers::value(of, name),
        }
        .map(Cow::Borrowed)
    }

    fn visit(&self, map: MapType, visit: &mut dyn FnMut(&[u8], &[u8])) {
        match self.readable(map) {
            Some(Map::Request(of)) => request::visit(of, visit),
            Some(Map::Response(of)) => response::visit(of, visit),
            Some(Map::Trailers(of)) => trailers::visit(of, visit),
            None => {}
        }
    }

    fn add(&self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), MapError> {
        match self.writable(map)? {
            Map::Request(of) => request::set(of, name, value, Mode::Add),
            Map::Response(of) => response::set(of, name, value, Mode::Add),
            Map::Trailers(of) => trailers::set(of, name, value, Mode::Add),
        }
    }

    fn replace(&self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), MapError> {
        match self.writable(map)? {
            Map::Request(of) => request::set(of, name, value, Mode::Replace),
            Map::Response(of) => response::set(of, name, value, Mode::Replace),
            Map::Trailers(of) => trailers::set(of, name, value, Mode::Replace),
        }
    }

    fn remove(&self, map: MapType, name: &[u8]) -> Result<(), MapError> {
        match self.writable(map)? {
            Map::Request(of) => request::remove(of, name),
            Map::Response(of) => response::remove(of, name),
            Map::Trailers(of) => trailers::remove(of, name),
        }
    }

    fn clear(&self, map: MapType) -> Result<(), MapError> {
        match self.writable(map)? {
            Map::Request(of) => request::clear(of),
            Map::Response(of) => {
                response::clear(of);
                Ok(())
            }
            Map::Trailers(of) => {
                trailers::clear(of);
                Ok(())
            }
        }
    }
}

/// What becomes of fields that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// They stay.
    Add,
    /// One is left.
    Replace,
}

/// Whether `name` is a pseudo-header.
pub(super) fn is_pseudo(name: &[u8]) -> bool {
    name.first() == Some(&b':')
}

/// The result of a change that only memory can hinder.
pub(super) fn done(done: bool) -> Result<(), MapError> {
    if done { Ok(()) } else { Err(MapError::NoMemory) }
}

/// The values of `fields`: a single one as it is, several with `separator` between them in the request's pool.
pub(super) fn join<'a>(
    request: Request<'a>,
    fields: impl Iterator<Item = Field<'a>> + Clone,
    separator: &[u8],
) -> Option<&'a [u8]> {
    let mut values = fields.clone().map(Field::value);
    let first = values.next()?;
    if values.next().is_none() {
        return Some(first);
    }
    let values = || fields.clone().map(Field::value);
    let len =
        values().map(|value| value.len() + separator.len()).sum::<usize>().checked_sub(separator.len())?;
    let joined = request.allocate(len)?;
    let mut at = 0;
    for (index, value) in values().enumerate() {
        let pieces = if index == 0 { [&[][..], value] } else { [separator, value] };
        for piece in pieces {
            joined.get_mut(at..at + piece.len())?.copy_from_slice(piece);
            at += piece.len();
        }
    }
    Some(joined)
}

#[cfg(test)]
mod tests;
