//! The table of all directives: name, where they may stand, how many arguments, what they do.
//!
//! docs/DIRECTIVES.md describes them for administrators; a directive is added here and there.

use std::ffi::CStr;

use nginx_sys::{
    NGX_CONF_1MORE, NGX_CONF_2MORE, NGX_CONF_BLOCK, NGX_CONF_NOARGS, NGX_CONF_TAKE1, NGX_CONF_TAKE2,
    NGX_CONF_TAKE3, NGX_CONF_TAKE4, NGX_CONF_TAKE5, NGX_DIRECT_CONF, NGX_HTTP_LIF_CONF, NGX_HTTP_LOC_CONF,
    NGX_HTTP_MAIN_CONF, NGX_HTTP_SRV_CONF, NGX_MAIN_CONF, ngx_uint_t,
};

use crate::{
    conf::{Location, Main, Refusal, calls},
    content,
    ngx::conf::Conf,
};

/// The inside of `wasm { … }`, as nginx's `cmd_type`. The bit is that of `events` and `http`, whose directives belong
/// to modules of other types, so no directive but ours and nginx's `include` is known there.
pub(crate) const WASM_CONTEXT: ngx_uint_t = NGX_HTTP_MAIN_CONF as ngx_uint_t;

/// The inside of `metrics { … }`, likewise: the bit is that of `server` and `upstream`.
pub(crate) const METRICS_CONTEXT: ngx_uint_t = NGX_HTTP_SRV_CONF as ngx_uint_t;

/// One directive whose configuration is a `C`.
#[derive(Debug)]
pub(crate) struct Directive<C: 'static> {
    /// Its name.
    pub(crate) name: &'static CStr,
    /// Where it may stand, how many arguments it takes: nginx's bits (`src/core/ngx_conf_file.h`).
    pub(crate) kind: ngx_uint_t,
    /// What it does.
    pub(crate) set: fn(&mut Conf<'_>, &C) -> Result<(), Refusal>,
}

impl<C> Directive<C> {
    const fn new(name: &'static CStr, kind: u32, set: fn(&mut Conf<'_>, &C) -> Result<(), Refusal>) -> Self {
        Self { name, kind: kind as ngx_uint_t, set }
    }
}

/// A direct configuration is what `create_conf` made for this cycle, wherever the directive stands.
const WASM: u32 = NGX_HTTP_MAIN_CONF | NGX_DIRECT_CONF;

/// One argument, and up to three parameters.
const ONE_TO_FOUR: u32 = NGX_CONF_TAKE1 | NGX_CONF_TAKE2 | NGX_CONF_TAKE3 | NGX_CONF_TAKE4;
/// The same in the block `metrics`.
const METRICS: u32 = NGX_HTTP_SRV_CONF | NGX_DIRECT_CONF;

/// `http`, `server`, `location`, and `if` in a location.
const LOCATION: u32 = NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF | NGX_HTTP_LIF_CONF;

/// The `wasm` block and what may stand in it, and in its block `metrics`.
pub(crate) static MAIN: [Directive<Main>; 52] = [
    Directive::new(c"wasm", NGX_MAIN_CONF | NGX_DIRECT_CONF | NGX_CONF_BLOCK | NGX_CONF_NOARGS, Main::wasm),
    Directive::new(
        c"module",
        WASM | NGX_CONF_TAKE2 | NGX_CONF_TAKE3 | NGX_CONF_TAKE4 | NGX_CONF_TAKE5,
        Main::module,
    ),
    Directive::new(c"cache", WASM | NGX_CONF_TAKE1, Main::cache),
    Directive::new(c"instances", WASM | ONE_TO_FOUR, Main::instances),
    Directive::new(c"memory_limit", WASM | NGX_CONF_TAKE1, Main::memory_limit),
    Directive::new(c"table_limit", WASM | NGX_CONF_TAKE1, Main::table_limit),
    Directive::new(c"stack_limit", WASM | NGX_CONF_TAKE1, Main::stack_limit),
    Directive::new(c"callback_timeout", WASM | NGX_CONF_TAKE1, Main::callback_timeout),
    Directive::new(c"configuration_timeout", WASM | NGX_CONF_TAKE1, Main::configuration_timeout),
    Directive::new(c"contexts_limit", WASM | NGX_CONF_TAKE1, Main::contexts_limit),
    Directive::new(c"deferred_limit", WASM | NGX_CONF_TAKE1, Main::deferred_limit),
    Directive::new(c"log_limit", WASM | NGX_CONF_TAKE1 | NGX_CONF_TAKE2, Main::log_limit),
    Directive::new(c"failure_limit", WASM | NGX_CONF_TAKE1 | NGX_CONF_TAKE2, Main::failure_limit),
    Directive::new(c"failure_backoff", WASM | NGX_CONF_TAKE2, Main::failure_backoff),
    Directive::new(c"environment", WASM | NGX_CONF_TAKE1, Main::environment),
    Directive::new(c"memory_reservation", WASM | NGX_CONF_TAKE1, Main::memory_reservation),
    Directive::new(c"keep_resident", WASM | NGX_CONF_TAKE1, Main::keep_resident),
    Directive::new(c"instance_reset", WASM | NGX_CONF_TAKE1, Main::instance_reset),
    Directive::new(c"perf_map", WASM | NGX_CONF_TAKE1, Main::perf_map),
    Directive::new(c"metrics", WASM | NGX_CONF_BLOCK | NGX_CONF_NOARGS, Main::metrics),
    Directive::new(c"path", METRICS | NGX_CONF_TAKE1, Main::metrics_path),
    Directive::new(c"slab_size", METRICS | NGX_CONF_TAKE1, Main::slab_size),
    Directive::new(c"max_metric_name_length", METRICS | NGX_CONF_TAKE1, Main::max_metric_name_length),
    Directive::new(c"callbacks", METRICS | NGX_CONF_TAKE1, Main::metrics_callbacks),
    Directive::new(c"tag", METRICS | NGX_CONF_TAKE2, Main::metrics_tag),
    Directive::new(c"calls_limit", WASM | NGX_CONF_TAKE1, Main::calls_limit),
    Directive::new(c"call_response_limit", WASM | NGX_CONF_TAKE1, Main::call_response_limit),
    Directive::new(c"call_timeout", WASM | NGX_CONF_TAKE1, Main::call_timeout),
    Directive::new(
        c"call_keepalive",
        WASM | NGX_CONF_TAKE1 | NGX_CONF_TAKE2 | NGX_CONF_TAKE3,
        Main::call_keepalive,
    ),
    Directive::new(c"call_ssl", WASM | NGX_CONF_2MORE, Main::call_ssl),
    Directive::new(c"call_ssl_verify", WASM | NGX_CONF_TAKE1, Main::call_ssl_verify),
    Directive::new(c"call_ssl_verify_depth", WASM | NGX_CONF_TAKE1, Main::call_ssl_verify_depth),
    Directive::new(
        c"call_ssl_trusted_certificate",
        WASM | NGX_CONF_TAKE1,
        Main::call_ssl_trusted_certificate,
    ),
    Directive::new(c"call_ssl_certificate", WASM | NGX_CONF_TAKE1, Main::call_ssl_certificate),
    Directive::new(c"call_ssl_certificate_key", WASM | NGX_CONF_TAKE1, Main::call_ssl_certificate_key),
    Directive::new(c"resolver", WASM | NGX_CONF_1MORE, Main::resolver),
    Directive::new(c"resolver_timeout", WASM | NGX_CONF_TAKE1, Main::resolver_timeout),
    Directive::new(c"shm_kv", WASM | NGX_CONF_TAKE2 | NGX_CONF_TAKE3 | NGX_CONF_TAKE4, Main::shm_kv),
    Directive::new(c"shm_queue", WASM | NGX_CONF_TAKE2, Main::shm_queue),
    // What else ngx_wasm_module knows.
    Directive::new(c"socket_connect_timeout", WASM | NGX_CONF_TAKE1, Main::foreign_socket),
    Directive::new(c"socket_send_timeout", WASM | NGX_CONF_TAKE1, Main::foreign_socket),
    Directive::new(c"socket_read_timeout", WASM | NGX_CONF_TAKE1, Main::foreign_socket),
    Directive::new(c"socket_buffer_size", WASM | NGX_CONF_TAKE1, Main::foreign_socket),
    Directive::new(c"socket_buffer_reuse", WASM | NGX_CONF_TAKE1, Main::foreign_socket),
    Directive::new(c"socket_large_buffers", WASM | NGX_CONF_TAKE2, Main::foreign_socket),
    Directive::new(c"backtraces", WASM | NGX_CONF_TAKE1, Main::foreign_backtraces),
    Directive::new(c"compiler", WASM | NGX_CONF_TAKE1, Main::foreign_compiler),
    Directive::new(c"tls_verify_cert", WASM | NGX_CONF_TAKE1, Main::foreign_verify_certificate),
    Directive::new(c"tls_verify_host", WASM | NGX_CONF_TAKE1, Main::foreign_verify_host),
    Directive::new(c"tls_no_verify_warn", WASM | NGX_CONF_TAKE1, Main::foreign_no_verify_warn),
    Directive::new(c"proxy_wasm_log_dispatch_errors", WASM | NGX_CONF_TAKE1, Main::foreign_log_errors),
    Directive::new(c"tls_trusted_certificate", WASM | NGX_CONF_TAKE1, Main::call_ssl_trusted_certificate),
];

/// What may stand in `http`, `server`, `location` and `if`.
pub(crate) static LOCATIONS: [Directive<Location>; 25] = [
    Directive::new(c"proxy_wasm", LOCATION | ONE_TO_FOUR, Location::proxy_wasm),
    Directive::new(c"proxy_wasm_isolation", LOCATION | NGX_CONF_TAKE1, Location::isolation),
    Directive::new(c"proxy_wasm_failure", LOCATION | NGX_CONF_TAKE1 | NGX_CONF_TAKE2, Location::failure),
    Directive::new(c"proxy_wasm_snapshot", LOCATION | NGX_CONF_TAKE1, Location::snapshot),
    Directive::new(c"proxy_wasm_ticks", LOCATION | NGX_CONF_TAKE1, Location::ticks),
    Directive::new(c"proxy_wasm_subrequests", LOCATION | NGX_CONF_TAKE1, Location::subrequests_flag),
    Directive::new(
        c"proxy_wasm_request_body_buffer",
        LOCATION | NGX_CONF_TAKE1 | NGX_CONF_TAKE2,
        Location::request_body_buffer,
    ),
    Directive::new(
        c"proxy_wasm_response_body_buffer",
        LOCATION | NGX_CONF_TAKE1 | NGX_CONF_TAKE2,
        Location::response_body_buffer,
    ),
    Directive::new(c"proxy_wasm_body_while_paused", LOCATION | NGX_CONF_TAKE1, Location::body_while_paused),
    Directive::new(c"proxy_wasm_pause_timeout", LOCATION | NGX_CONF_TAKE1, Location::pause_timeout),
    Directive::new(c"proxy_wasm_allow_calls", LOCATION | NGX_CONF_1MORE, calls::allow_calls),
    Directive::new(c"weir_metrics", NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS, content::metrics::directive),
    Directive::new(c"weir_profile", NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS, content::profile::directive),
    // What else ngx_wasm_module knows.
    Directive::new(c"wasm_socket_connect_timeout", LOCATION | NGX_CONF_TAKE1, Location::foreign_socket),
    Directive::new(c"wasm_socket_send_timeout", LOCATION | NGX_CONF_TAKE1, Location::foreign_socket),
    Directive::new(c"wasm_socket_read_timeout", LOCATION | NGX_CONF_TAKE1, Location::foreign_socket),
    Directive::new(c"wasm_socket_buffer_size", LOCATION | NGX_CONF_TAKE1, Location::foreign_socket),
    Directive::new(c"wasm_socket_buffer_reuse", LOCATION | NGX_CONF_TAKE1, Location::foreign_socket),
    Directive::new(c"wasm_socket_large_buffers", LOCATION | NGX_CONF_TAKE2, Location::foreign_socket),
    Directive::new(
        c"wasm_response_body_buffers",
        LOCATION | NGX_CONF_TAKE2,
        Location::foreign_response_buffers,
    ),
    Directive::new(
        c"proxy_wasm_log_dispatch_errors",
        LOCATION | NGX_CONF_TAKE1,
        Location::foreign_log_errors,
    ),
    Directive::new(
        c"proxy_wasm_request_headers_in_access",
        LOCATION | NGX_CONF_TAKE1,
        Location::foreign_in_access,
    ),
    Directive::new(c"wasm_postpone_rewrite", LOCATION | NGX_CONF_TAKE1, Location::foreign_in_access),
    Directive::new(c"wasm_postpone_access", LOCATION | NGX_CONF_TAKE1, Location::foreign_in_access),
    Directive::new(c"wasm_call", LOCATION | NGX_CONF_TAKE2 | NGX_CONF_TAKE3, Location::foreign_call),
];
