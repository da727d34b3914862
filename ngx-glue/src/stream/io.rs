//! The half of a stream that hostcalls reach: the request, the body that is readable now, and what was asked for.

use std::cell::{Cell, RefCell};

use weir_core::{
    abi::properties::Properties,
    chain::Direction,
    host::{LocalResponse, StreamError},
};

use super::local::Local;
use crate::{
    conf::bodies::Bodies,
    ngx::{headers_out::HeadersOut, lane::Lane, request::Request, tail::Tail, unannounced::CreateRequest},
};

/// What can be done with the headers of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Access {
    /// There is no response yet.
    #[default]
    None,
    /// They are about to be sent.
    Edit,
    /// They have been sent.
    Read,
}

/// What hostcalls reach of a request.
///
/// What is `'static` here borrows from the request's pool: it is given up in [`close`](Self::close), which a cleanup
/// of that pool calls, and only lent out for as long as `self` is borrowed.
#[derive(Debug, Default)]
pub(crate) struct StreamIo {
    request: Cell<Option<Request<'static>>>,
    generation: Cell<u64>,
    request_body: Lane,
    response_body: Lane,
    bodies: Cell<Bodies>,
    tail: Tail,
    create_request: Cell<Option<CreateRequest>>,
    response: Cell<Access>,
    properties: RefCell<Properties>,
    local: Cell<Option<Local<'static>>>,
    details: Cell<&'static [u8]>,
    wishes: RefCell<Vec<(Direction, usize)>>,
    answered: Cell<bool>,
    late: Cell<bool>,
    close: Cell<bool>,
    finished: Cell<bool>,
}

impl StreamIo {
    /// The record serves `request` from now on.
    pub(crate) fn open(&self, request: Request<'static>) {
        self.request.set(Some(request));
    }

    /// The request goes: handles to it are stale from now on.
    pub(crate) fn close(&self) {
        if self.request.take().is_none() {
            return;
        }
        self.generation.set(self.generation.get().wrapping_add(1));
        self.response.set(Access::None);
        self.properties.borrow_mut().clear();
        self.local.set(None);
        self.details.set(&[]);
        self.tail.clear();
        self.create_request.set(None);
        self.wishes.borrow_mut().clear();
        self.request_body.clear();
        self.response_body.clear();
        for flag in [&self.answered, &self.late, &self.close, &self.finished] {
            flag.set(false);
        }
    }

    /// Which request this is, of those that the record has served.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// The request; `None` once it is gone.
    pub(crate) fn request(&self) -> Option<Request<'_>> {
        self.request.get()
    }

    /// Nothing more can be changed: the contexts end.
    pub(crate) fn seal(&self) {
        self.finished.set(true);
        if self.response.get() == Access::Edit || self.has_response() {
            self.response.set(Access::Read);
        }
    }

    fn has_response(&self) -> bool {
        self.request().is_some_and(|request| HeadersOut::of(request).status() != 0)
    }

    // --- headers -------------------------------------------------------------------------------------------------

    /// What can be done with the response's headers now.
    pub(crate) fn response_access(&self) -> Access {
        self.response.get()
    }

    /// Lets the response's headers be used so.
    pub(crate) fn set_response_access(&self, access: Access) {
        self.response.set(access);
    }

    /// Whether changes of the request's headers can still have an effect.
    pub(crate) fn can_edit_request(&self) -> bool {
        self.response.get() == Access::None && !self.finished.get()
    }

    /// Whether trailers of the response can still be changed: from its headers until the end.
    pub(crate) fn can_edit_trailers(&self) -> bool {
        self.response.get() != Access::None && !self.finished.get()
    }

    // --- bodies --------------------------------------------------------------------------------------------------

    /// What the location says of bodies.
    pub(crate) fn bodies(&self) -> Bodies {
        self.bodies.get()
    }

    /// Remembers what the location says of bodies.
    pub(crate) fn set_bodies(&self, bodies: Bodies) {
        self.bodies.set(bodies);
    }

    /// What copies the response's body where later filters need that.
    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// What makes the upstream's request, where ours stands in its place.
    pub(crate) fn create_request(&self) -> Option<CreateRequest> {
        self.create_request.get()
    }

    /// Remembers what makes the upstream's request.
    pub(crate) fn set_create_request(&self, original: Option<CreateRequest>) {
        self.create_request.set(original);
    }

    /// The body of that direction, on its way.
    pub(crate) fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::Request => &self.request_body,
            Direction::Response => &self.response_body,
        }
    }

    // --- properties ----------------------------------------------------------------------------------------------

    /// Lends the properties that filters have set; `None` when the request is gone, or they are lent already.
    pub(crate) fn with_properties<R>(&self, lend: impl FnOnce(&mut Properties) -> R) -> Option<R> {
        self.request()?;
        self.properties.try_borrow_mut().ok().map(|mut properties| lend(&mut properties))
    }

    // --- what a callback asks for --------------------------------------------------------------------------------

    /// Records a local response.
    ///
    /// # Errors
    /// [`StreamError`]
    pub(crate) fn answer(&self, response: &LocalResponse<'_>) -> Result<(), StreamError> {
        let request = self.request.get().ok_or(StreamError::Gone)?;
        let late = self.finished.get() || request.header_sent() || self.response.get() == Access::Read;
        if late || self.local.get().is_some() {
            self.late.set(late);
            return Err(StreamError::TooLate);
        }
        if response.status < 200 {
            return Err(StreamError::Refused("a local response with a status below 200 would never end"));
        }
        let local = Local::copy(request, response).ok_or(StreamError::NoMemory)?;
        self.details.set(local.details);
        self.local.set(Some(local));
        Ok(())
    }

    /// Forgets the local response that was recorded: the callback that sent it has failed.
    pub(crate) fn withdraw_local(&self) {
        self.local.set(None);
        self.details.set(&[]);
    }

    /// Takes the local response that was recorded.
    pub(crate) fn take_local(&self) -> Option<Local<'_>> {
        self.local.take()
    }

    /// The local response that was recorded was sent in no callback of this request.
    pub(crate) fn set_answered(&self) {
        self.answered.set(true);
    }

    /// Whether a local response was sent in no callback of this request; forgets that.
    pub(crate) fn take_answered(&self) -> bool {
        self.answered.take()
    }

    /// Whether a local response has come when the headers had left; forgets that.
    pub(crate) fn take_late(&self) -> bool {
        self.late.take()
    }

    /// Whether a local response was recorded.
    pub(crate) fn has_local(&self) -> bool {
        self.local.get().is_some()
    }

    /// Why the response is as it is, where a filter has said so.
    pub(crate) fn details(&self) -> &[u8] {
        self.details.get()
    }

    /// Asks for what filter number `filter` holds to go on.
    pub(crate) fn ask_to_resume(&self, direction: Direction, filter: usize) {
        let mut wishes = self.wishes.borrow_mut();
        if !wishes.contains(&(direction, filter)) {
            wishes.push((direction, filter));
        }
    }

    /// A filter that has asked for what it holds in that direction to go on; forgets that.
    pub(crate) fn take_wish(&self, direction: Direction) -> Option<usize> {
        let mut wishes = self.wishes.borrow_mut();
        let at = wishes.iter().position(|(wished, _)| *wished == direction)?;
        Some(wishes.remove(at).1)
    }

    /// Forgets that filter number `filter` has asked for what it holds in that direction to go on.
    pub(crate) fn withdraw_wish(&self, direction: Direction, filter: usize) {
        self.wishes.borrow_mut().retain(|wish| *wish != (direction, filter));
    }

    /// Whether a filter has asked for something to go on.
    pub(crate) fn has_wishes(&self) -> bool {
        !self.wishes.borrow().is_empty()
    }

    /// Asks for the stream to be closed.
    pub(crate) fn ask_to_close(&self) {
        self.close.set(true);
    }

    /// Whether the stream was to be closed; forgets that.
    pub(crate) fn take_close(&self) -> bool {
        self.close.take()
    }
}
