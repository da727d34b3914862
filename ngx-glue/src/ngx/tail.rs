//! nginx's copying of bodies (`ngx_output_chain()`), where later filters turn out to need it.
//!
//! nginx's copy filter comes before ours, and decides at the first part of a body whether later filters need it in
//! memory, or in memory that they may change. They say so when they see the headers. Where headers are kept until the
//! body has begun, that is too late, so what they need is done here, behind our filter.

use std::{
    cell::Cell,
    ffi::c_void,
    ptr::{NonNull, null_mut},
};

use nginx_sys::{ngx_chain_t, ngx_http_request_t, ngx_int_t, ngx_output_chain, ngx_output_chain_ctx_t};

use super::{chain::Body, code::ERROR, guard::guard, request::Request};
use crate::module::http_module;

/// Number and size of the buffers that are copied to: `output_buffers`' default.
const BUFFERS: (isize, usize) = (2, 32 * 1024);

/// `directio_alignment`'s default.
const ALIGNMENT: i64 = 512;

/// What copies the body of one response, where that is needed. It lies in the request's pool.
#[derive(Debug, Default)]
pub(crate) struct Tail(Cell<Option<NonNull<ngx_output_chain_ctx_t>>>);

impl Tail {
    /// Forgets it: the request's memory goes.
    pub(crate) fn clear(&self) {
        self.0.set(None);
    }

    /// Copies what later filters of `request` need copied from now on, if they do; false without memory.
    pub(crate) fn set_up(&self, request: Request<'_>) -> bool {
        let (in_memory, in_temporary) = request.peek(|r| {
            (r.filter_need_in_memory() | r.main_filter_need_in_memory(), r.filter_need_temporary())
        });
        if in_memory == 0 && in_temporary == 0 {
            return true;
        }
        // SAFETY: pointers, integers, flags and optional functions, for all of which zeros are valid.
        let mut context: ngx_output_chain_ctx_t = unsafe { std::mem::zeroed() };
        context.set_sendfile(u32::from(request.connection().uses_sendfile()));
        context.set_need_in_memory(in_memory);
        context.set_need_in_temp(in_temporary);
        context.alignment = ALIGNMENT;
        context.pool = request.pool().map_or(null_mut(), NonNull::as_ptr);
        context.bufs.num = BUFFERS.0;
        context.bufs.size = BUFFERS.1;
        context.tag = http_module().as_tag();
        context.output_filter = Some(pass);
        context.filter_ctx = request.as_ptr().cast();
        self.0.set(request.place(context));
        self.0.get().is_some()
    }

    /// Whether something waits to be copied.
    pub(crate) fn is_busy(&self) -> bool {
        // SAFETY: it is in the pool of the request, which is alive until `clear` is called.
        self.0.get().is_some_and(|context| !unsafe { context.as_ref() }.in_.is_null())
    }

    /// Passes a part of the body of `request` to the filter after ours, or lets what waits go on.
    pub(crate) fn pass_body(&self, request: Request<'_>, body: Option<Body<'_>>) -> ngx_int_t {
        let Some(context) = self.0.get() else { return request.pass_body(body) };
        let chain = body.map_or(null_mut(), Body::as_ptr);
        // SAFETY: the context of a live request, and a chain whose buffers stay until they are marked as sent.
        unsafe { ngx_output_chain(context.as_ptr(), chain) }
    }
}

/// What `ngx_output_chain()` passes its buffers to.
unsafe extern "C" fn pass(request: *mut c_void, chain: *mut ngx_chain_t) -> ngx_int_t {
    let Some(request) = NonNull::new(request.cast::<ngx_http_request_t>()) else { return ERROR };
    // SAFETY: `set_up` has put a request there, which is alive while its body is passed on.
    let request = unsafe { Request::new(request) };
    // SAFETY: nginx's chain stays as it is until it has been passed on.
    let body = NonNull::new(chain).map(|chain| unsafe { Body::new(chain) });
    guard("the copying of a body", request.log(), ERROR, || request.pass_body(body))
}
