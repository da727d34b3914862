//! `upstream` blocks (`src/http/ngx_http_upstream.h`), by their names.

use std::{collections::BTreeMap, ptr::NonNull};

use nginx_sys::{
    ngx_http_conf_ctx_t, ngx_http_module, ngx_http_upstream_main_conf_t, ngx_http_upstream_module,
    ngx_http_upstream_srv_conf_t,
};

use crate::ngx::cycle::{Cycle, Module};

/// One `upstream` block. It lives as long as the configuration, which a worker keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Servers(NonNull<ngx_http_upstream_srv_conf_t>);

impl Servers {
    pub(super) const fn as_ptr(self) -> *mut ngx_http_upstream_srv_conf_t {
        self.0.as_ptr()
    }

    /// All blocks of `cycle`, by name.
    pub(crate) fn all(cycle: Cycle<'_>) -> BTreeMap<Box<[u8]>, Self> {
        let found = contexts(cycle).and_then(|contexts| {
            // SAFETY: the configuration of the http module is this structure, of the cycle's pool.
            let mains = NonNull::new(unsafe { contexts.as_ref() }.main_conf)?;
            let module = &raw mut ngx_http_upstream_module;
            // SAFETY: the address of a static is never null.
            let module = unsafe { NonNull::new_unchecked(module) };
            // SAFETY: nginx's own modules are part of its program.
            let module = unsafe { Module::new(module) };
            // SAFETY: an array of main configurations has a slot for each http module.
            let slot = unsafe { mains.add(module.context_index()) };
            // SAFETY: the slot is inside that array.
            NonNull::new(unsafe { slot.read() })
        });
        let Some(conf) = found else { return BTreeMap::new() };
        // SAFETY: the slot of the upstream module has this structure, of the cycle's pool.
        let array = unsafe { &conf.cast::<ngx_http_upstream_main_conf_t>().as_ref().upstreams };
        // SAFETY: nginx makes this array of pointers to such structures (`ngx_http_upstream_create_main_conf()`).
        let all = unsafe { array.as_slice::<*mut ngx_http_upstream_srv_conf_t>() };
        let named = all.iter().filter_map(|one| {
            let servers = NonNull::new(*one)?;
            // SAFETY: a configuration lives in the cycle's pool; nobody writes it once it has been read.
            let fields = unsafe { servers.as_ref() };
            // What `proxy_pass` and others make of a host has no configuration of its own, and waits for a request
            // to resolve it.
            if fields.srv_conf.is_null() || fields.peer.init.is_none() {
                return None;
            }
            Some((fields.host.as_bytes().into(), Self(servers)))
        });
        named.collect()
    }
}

/// Configurations of the `http` block of `cycle`.
pub(super) fn contexts(cycle: Cycle<'_>) -> Option<NonNull<ngx_http_conf_ctx_t>> {
    let module = &raw mut ngx_http_module;
    // SAFETY: the address of a static is never null.
    let module = unsafe { NonNull::new_unchecked(module) };
    // SAFETY: nginx's own modules are part of its program.
    let module = unsafe { Module::new(module) };
    Some(cycle.conf(module.index())?.cast())
}
