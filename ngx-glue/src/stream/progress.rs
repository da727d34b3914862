//! How far a request has come.

use std::cell::Cell;

/// How far the request's headers have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Headers {
    /// The filters have not seen all of them.
    #[default]
    Pending,
    /// All instances are in use: phases have stopped until one comes free, or the request has waited long enough.
    Waiting,
    /// A filter holds them: phases have stopped.
    Paused,
    /// All filters that are to see them have.
    Seen,
}

/// Whether we read the request's body ourselves, before the phases go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Reading {
    /// That has not begun.
    #[default]
    No,
    /// Phases have stopped for it.
    Begun,
    /// All of it has been read.
    Done,
}

/// How far the response's headers have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sending {
    /// There are none yet.
    #[default]
    Unseen,
    /// A filter holds them.
    Held,
    /// They wait for the first part of the body: until then its length can change.
    Waiting,
    /// They have been passed on.
    Sent,
}

/// How far a request has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Contexts are being created for it.
    pub(crate) begins: Cell<bool>,
    /// The request's headers.
    pub(crate) headers: Cell<Headers>,
    /// It has waited for an instance as long as it may.
    pub(crate) waited_out: Cell<bool>,
    /// Whether we read the request's body.
    pub(crate) reading: Cell<Reading>,
    /// What [`Request::uri_changes`](crate::ngx::request::Request::uri_changes) was when phases were stopped.
    pub(crate) stopped_at: Cell<usize>,
    /// nginx has answered the request with an error while it waited for something.
    pub(crate) given_up: Cell<bool>,
    /// A filter has held it as long as it may: the answer to that is held by nobody.
    pub(crate) overdue: Cell<bool>,
    /// It waits no more for an instance, but may still be told of one.
    pub(crate) waits_in_vain: Cell<bool>,
    /// Nobody was to make a body of the response that filters held, so nginx has been told.
    pub(crate) header_only: Cell<bool>,
    /// The end of the request's body has come, or it has none.
    pub(crate) request_ended: Cell<bool>,
    /// The end of the request's body has been shown to filters.
    pub(crate) request_came: Cell<bool>,
    /// The end of the request's body has been passed on.
    pub(crate) request_passed: Cell<bool>,
    /// Bytes of the request's body that have been passed on.
    pub(crate) request_bytes: Cell<u64>,
    /// The upstream has been told no length of the request's body.
    pub(crate) is_unannounced: Cell<bool>,
    /// What the reading of the request's body is to end with, decided in an event.
    pub(crate) request_code: Cell<Option<isize>>,
    /// The response's headers.
    pub(crate) sending: Cell<Sending>,
    /// The response had a length before filters saw its headers.
    pub(crate) had_length: Cell<bool>,
    /// The response's headers are all there is of it.
    pub(crate) no_body: Cell<bool>,
    /// The end of the response's body has come.
    pub(crate) response_ended: Cell<bool>,
    /// The response's body has come to its end, and trailers that filters see follow it.
    pub(crate) trailers: Cell<bool>,
    /// The end of the response's body has been passed on.
    pub(crate) response_passed: Cell<bool>,
    /// Bytes of the response's body that have come.
    pub(crate) response_came: Cell<u64>,
    /// Bytes of the response's body that have got past the filters.
    pub(crate) response_bytes: Cell<u64>,
    /// What the headers that have left say of the body's length.
    pub(crate) announced: Cell<Option<u64>>,
    /// The response is another than the filters have seen, made by nginx of an error of a later filter.
    pub(crate) bypass: Cell<bool>,
    /// What nginx still has of the response's body is thrown away: another one was sent instead.
    pub(crate) swallow: Cell<bool>,
    /// The client has asked with HEAD, so no body is sent, whatever the method has become.
    pub(crate) client_sent_head: Cell<bool>,
    /// The contexts have ended.
    pub(crate) finished: Cell<bool>,
}

impl Progress {
    /// Whether phases have stopped: for an instance, for a filter, or for the body.
    pub(crate) fn waits(&self) -> bool {
        matches!(self.headers.get(), Headers::Waiting | Headers::Paused)
            || self.reading.get() == Reading::Begun
    }

    /// Forgets all of it: the record is used for another request.
    pub(super) fn reset(&self) {
        self.headers.set(Headers::Pending);
        self.reading.set(Reading::No);
        self.sending.set(Sending::Unseen);
        self.request_code.set(None);
        self.announced.set(None);
        self.request_bytes.set(0);
        self.response_came.set(0);
        self.response_bytes.set(0);
        let flags = [
            &self.begins,
            &self.waited_out,
            &self.given_up,
            &self.overdue,
            &self.header_only,
            &self.waits_in_vain,
            &self.request_ended,
            &self.request_came,
            &self.request_passed,
            &self.is_unannounced,
            &self.had_length,
            &self.no_body,
            &self.response_ended,
            &self.trailers,
            &self.response_passed,
            &self.bypass,
            &self.swallow,
            &self.client_sent_head,
            &self.finished,
        ];
        for flag in flags {
            flag.set(false);
        }
    }

    /// Whether the response's headers have come by and have not been passed on.
    pub(crate) fn keeps_headers(&self) -> bool {
        matches!(self.sending.get(), Sending::Held | Sending::Waiting)
    }
}
