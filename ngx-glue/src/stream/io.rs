//! The half of a stream that hostcalls reach: the request, the body that is readable now, and what was asked for.

use std::cell::{Cell, RefCell};

use weir_core::{
    abi::properties::Properties,
    chain::Direction,
    host::{LocalResponse, StreamError},
};

use super::local::Local;
use crate::ngx::{
    chain::{Body, Shelf},
    headers_out::HeadersOut,
    request::Request,
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
    request_body: Shelf,
    response_body: Shelf,
    response: Cell<Access>,
    properties: RefCell<Properties>,
    local: Cell<Option<Local<'static>>>,
    details: Cell<&'static [u8]>,
    resume: Cell<Option<usize>>,
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
        self.resume.set(None);
        for flag in [&self.close, &self.finished] {
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

    // --- bodies --------------------------------------------------------------------------------------------------

    /// Lets `body` be read while `run` calls filters.
    pub(crate) fn with_body<T>(&self, direction: Direction, body: Body<'_>, run: impl FnOnce() -> T) -> T {
        self.shelf(direction).lay(body, run)
    }

    /// Lends the body that is readable now.
    pub(crate) fn look_at_body<T>(
        &self,
        direction: Direction,
        read: impl for<'b> FnOnce(Body<'b>) -> T,
    ) -> Option<T> {
        self.shelf(direction).look(read)
    }

    fn shelf(&self, direction: Direction) -> &Shelf {
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

    /// Takes the local response that was recorded.
    pub(crate) fn take_local(&self) -> Option<Local<'_>> {
        self.local.take()
    }

    /// Why the response is as it is, where a filter has said so.
    pub(crate) fn details(&self) -> &[u8] {
        self.details.get()
    }

    /// Asks for the request to go on that filter number `filter` has paused.
    pub(crate) fn ask_to_resume(&self, filter: usize) {
        self.resume.set(Some(filter));
    }

    /// Which filter has asked for the paused request to go on; forgets that.
    pub(crate) fn take_resume(&self) -> Option<usize> {
        self.resume.take()
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
