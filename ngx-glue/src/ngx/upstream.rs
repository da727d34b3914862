//! The upstream of a request (`src/http/ngx_http_upstream.h`): which peer answered, how long that took, what went wrong.

use std::ptr::NonNull;

use nginx_sys::{ngx_http_upstream_state_t, ngx_msec_t};

use super::{connection::Connection, request::Request};

/// What nginx has measured of the last peer it tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upstream<'a> {
    request: Request<'a>,
    state: NonNull<ngx_http_upstream_state_t>,
}

/// What went wrong with the last peer, before a response's headers were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerFailure {
    /// It could not be connected to, or TLS could not be agreed on.
    Connection,
    /// Connecting to it took too long.
    ConnectionTimeout,
    /// It closed the connection, or what it sent was no response.
    Termination,
    /// It took too long to answer.
    ResponseTimeout,
}

impl PeerFailure {
    /// What `status` of nginx's and the times that were measured say.
    const fn of(status: usize, connected: bool, answered: bool) -> Option<Self> {
        match (status, connected, answered) {
            (_, _, true) => None,
            (502, false, _) => Some(Self::Connection),
            (504, false, _) => Some(Self::ConnectionTimeout),
            (502, true, _) => Some(Self::Termination),
            (504, true, _) => Some(Self::ResponseTimeout),
            _ => None,
        }
    }
}

impl<'a> Upstream<'a> {
    /// The upstream of `request`; `None` while no peer has been tried.
    pub(crate) fn of(request: Request<'a>) -> Option<Self> {
        let states = NonNull::new(request.peek(|r| r.upstream_states))?;
        // SAFETY: the array is in the request's pool; the reference ends here.
        let states = unsafe { states.as_ref() };
        let first = NonNull::new(states.elts)?.cast::<ngx_http_upstream_state_t>();
        // SAFETY: it is an array of this type with `nelts` elements (`ngx_http_upstream_init_request()`).
        let state = unsafe { first.add(states.nelts.checked_sub(1)?) };
        Some(Self { request, state })
    }

    /// The peer, `address:port` or `unix:path`.
    pub(crate) fn address(self) -> Option<&'a [u8]> {
        // SAFETY: an element of an array in the request's pool; the reference ends here.
        let peer = NonNull::new(unsafe { self.state.as_ref() }.peer)?;
        // SAFETY: the name of a peer outlives the request that uses it.
        let name = unsafe { peer.read() };
        // SAFETY: as above.
        Some(unsafe { self.request.lend(name) }).filter(|name| !name.is_empty())
    }

    /// Milliseconds from the connection until the response was read; `None` while it is being read.
    pub(crate) fn response_time(self) -> Option<u64> {
        // SAFETY: an element of an array in the request's pool; the reference ends here.
        let time: ngx_msec_t = unsafe { self.state.as_ref() }.response_time;
        // -1 says that it is not over.
        (time != ngx_msec_t::MAX).then(|| u64::try_from(time).unwrap_or_default())
    }

    /// The connection to the peer, while it is open: until the response has been read.
    pub(crate) fn connection(self) -> Option<Connection<'a>> {
        let upstream = NonNull::new(self.request.peek(|r| r.upstream))?;
        // SAFETY: the record is in the request's pool; the reference ends here.
        let raw = NonNull::new(unsafe { upstream.as_ref() }.peer.connection)?;
        // SAFETY: nginx forgets this pointer when it closes the connection or keeps it for another request
        // (`ngx_http_upstream_finalize_request()`, `ngx_http_upstream_next()`), which it does not do below us.
        Some(unsafe { Connection::new(raw) })
    }

    /// What went wrong with the peer, if something did.
    pub(crate) fn failure(self) -> Option<PeerFailure> {
        // SAFETY: an element of an array in the request's pool; the reference ends here.
        let state = unsafe { self.state.as_ref() };
        // -1 says that it never happened.
        let happened = |time: ngx_msec_t| time != ngx_msec_t::MAX;
        PeerFailure::of(state.status, happened(state.connect_time), happened(state.header_time))
    }

    /// Whether the headers of a response have come from the peer.
    pub(crate) fn has_responded(self) -> bool {
        // SAFETY: an element of an array in the request's pool; the reference ends here.
        let time: ngx_msec_t = unsafe { self.state.as_ref() }.header_time;
        // -1 says that it has not happened.
        time != ngx_msec_t::MAX
    }

    /// Name of the `upstream` block, or host of `proxy_pass`.
    pub(crate) fn name(self) -> Option<&'a [u8]> {
        let upstream = NonNull::new(self.request.peek(|r| r.upstream))?;
        // SAFETY: the record is in the request's pool; the reference ends here.
        let servers = NonNull::new(unsafe { upstream.as_ref() }.upstream)?;
        // SAFETY: configurations are not written to once workers run, and outlive requests.
        let host = unsafe { servers.as_ref() }.host;
        // SAFETY: as above.
        Some(unsafe { self.request.lend(host) }).filter(|name| !name.is_empty())
    }
}

impl Request<'_> {
    /// Whether more can come from an upstream, for which nginx waits as long as its own timer says.
    pub(crate) fn reads_from_upstream(self) -> bool {
        let connection = Upstream::of(self).and_then(Upstream::connection);
        let read = connection.and_then(|connection| NonNull::new(connection.peek(|c| c.read)));
        // SAFETY: the event of a connection that is open; the reference ends here.
        read.map(|read| unsafe { read.as_ref() })
            .is_some_and(|read| read.timer_set() != 0 && read.eof() == 0 && read.error() == 0)
    }

    /// Whether nginx passes on an upstream's response as it comes (`proxy_buffering off`), and has begun to.
    pub(crate) fn passes_on_unbuffered(self) -> bool {
        let upstream = NonNull::new(self.peek(|r| r.upstream));
        // SAFETY: the record is in the request's pool; the reference ends here.
        upstream.map(|upstream| unsafe { upstream.as_ref() }).is_some_and(|upstream| {
            upstream.buffering() == 0 && upstream.header_sent() != 0 && !upstream.cleanup.is_null()
        })
    }

    /// Whether an upstream has been asked for the response of this main request, nothing of which has come, and nothing else
    /// is under way meanwhile.
    pub(crate) fn waits_for_upstream(self) -> bool {
        let upstream = NonNull::new(self.peek(|r| r.upstream));
        // SAFETY: the record is in the request's pool; the reference ends here.
        let is_asked = upstream.map(|upstream| unsafe { upstream.as_ref() }).is_some_and(|upstream| {
            // Set from when a peer is asked until the response has ended, one way or the other.
            upstream.header_sent() == 0 && !upstream.cleanup.is_null()
        });
        is_asked && self.is_main() && self.peek(|r| r.blocked() == 0 && r.aio() == 0)
    }

    /// Ends what an upstream does for the request, as nginx itself does before it gives that another one
    /// (`ngx_http_upstream_create()`). A request must not be terminated before: its upstream's end would then be that of
    /// the request, too, which nginx goes on to use (`ngx_http_terminate_request()`).
    pub(crate) fn end_upstream(self) {
        let Some(upstream) = NonNull::new(self.peek(|r| r.upstream)) else { return };
        // SAFETY: the record is in the request's pool; the reference ends here.
        let Some(place) = NonNull::new(unsafe { upstream.as_ref() }.cleanup) else { return };
        // SAFETY: it leads into the request's list of cleanups as long as the upstream's work is under way.
        let Some(cleanup) = (unsafe { place.read() }) else { return };
        // The cleanup counts the request once less.
        self.count_in();
        // SAFETY: it is `ngx_http_upstream_cleanup()`, to which a request is given, and which leaves this one alive.
        unsafe { cleanup(self.as_ptr().cast()) };
    }

    /// Whether nginx has given up the upstream whose response it was passing on: what it passes on then without any
    /// bytes is only to be written out (`ngx_http_upstream_finalize_request()`).
    pub(crate) fn has_given_up_upstream(self) -> bool {
        let upstream = NonNull::new(self.peek(|r| r.upstream));
        // SAFETY: the record is in the request's pool; the reference ends here.
        upstream.map(|upstream| unsafe { upstream.as_ref() }).is_some_and(|upstream| {
            // Set from when a peer is asked until the response has ended, one way or the other.
            upstream.header_sent() != 0 && upstream.cleanup.is_null()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::PeerFailure;

    #[test]
    fn what_a_peer_answers_is_no_failure_of_the_connection() {
        assert_eq!(PeerFailure::of(502, true, true), None);
        assert_eq!(PeerFailure::of(200, true, true), None);
        assert_eq!(PeerFailure::of(0, false, false), None);
        assert_eq!(PeerFailure::of(502, false, false), Some(PeerFailure::Connection));
        assert_eq!(PeerFailure::of(504, true, false), Some(PeerFailure::ResponseTimeout));
    }
}
