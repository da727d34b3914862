//! The upstream of a request (`src/http/ngx_http_upstream.h`): which peer answered, and how long that took.

use std::ptr::NonNull;

use nginx_sys::{ngx_http_upstream_state_t, ngx_msec_t};

use super::request::Request;

/// What nginx has measured of the last peer it tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upstream<'a> {
    request: Request<'a>,
    state: NonNull<ngx_http_upstream_state_t>,
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
