//! Directives of another nginx module for Proxy-Wasm, ngx_wasm_module, so that its users' configurations are read as
//! they are: those that mean the same here under another name, and those that mean nothing here, which are accepted
//! with a warning that says what holds instead. docs/MIGRATING.md has the whole table.

use super::{Location, Main, Refusal};
use crate::ngx::conf::Conf;

/// Says that the directive being read changes nothing, and what holds instead.
fn without_effect(conf: &Conf<'_>, instead: &str) {
    let name = String::from_utf8_lossy(conf.name());
    conf.warn(&format!("\"{name}\" has no effect in Weir: {instead}; remove it"));
}

/// What holds instead of each directive that has no effect.
const INSTEAD: [(&[u8], &str); 6] = [
    (b"connect_timeout", CALLS),
    (b"send_timeout", CALLS),
    (b"read_timeout", CALLS),
    (b"buffer_size", "responses to calls have no buffers to be set, only a bound (\"call_response_limit\")"),
    (b"buffer_reuse", "responses to calls have no buffers to be set, only a bound (\"call_response_limit\")"),
    (b"large_buffers", "headers of responses to calls count for \"call_response_limit\""),
];

const CALLS: &str = "a call has one time for all of it, which the filter gives, or else \"call_timeout\"";

fn socket(conf: &Conf<'_>) {
    let instead = INSTEAD.iter().find(|(end, _)| conf.name().ends_with(end)).map_or(CALLS, |(_, text)| text);
    without_effect(conf, instead);
}

impl Main {
    /// `socket_…`.
    pub(crate) fn foreign_socket(conf: &mut Conf<'_>, _: &Self) -> Result<(), Refusal> {
        socket(conf);
        Ok(())
    }

    /// `backtraces on | off;`
    pub(crate) fn foreign_backtraces(conf: &mut Conf<'_>, _: &Self) -> Result<(), Refusal> {
        if !conf.argument(0).eq_ignore_ascii_case(b"on") {
            without_effect(conf, "a failure is always logged with its backtrace");
        }
        Ok(())
    }

    /// `compiler auto | cranelift;`
    pub(crate) fn foreign_compiler(conf: &mut Conf<'_>, _: &Self) -> Result<(), Refusal> {
        match conf.argument(0) {
            b"auto" | b"cranelift" => Ok(()),
            other => Err(format!(
                "there is no compiler \"{}\": Weir compiles filters with \"cranelift\"",
                String::from_utf8_lossy(other)
            )
            .into()),
        }
    }

    /// `tls_verify_cert on | off;`
    pub(crate) fn foreign_verify_certificate(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        Self::call_ssl_verify(conf, main)
    }

    /// `tls_verify_host on | off;`
    pub(crate) fn foreign_verify_host(conf: &mut Conf<'_>, _: &Self) -> Result<(), Refusal> {
        if !conf.argument(0).eq_ignore_ascii_case(b"on") {
            without_effect(conf, "the host's name is verified with its certificate (\"call_ssl_verify\")");
        }
        Ok(())
    }

    /// `tls_no_verify_warn on | off;`
    pub(crate) fn foreign_no_verify_warn(conf: &mut Conf<'_>, _: &Self) -> Result<(), Refusal> {
        without_effect(conf, "only \"call_ssl_verify off\" leaves certificates unverified");
        Ok(())
    }

    /// `proxy_wasm_log_dispatch_errors on | off;`
    pub(crate) fn foreign_log_errors(conf: &mut Conf<'_>, _: &Self) -> Result<(), Refusal> {
        log_errors(conf);
        Ok(())
    }
}

fn log_errors(conf: &Conf<'_>) {
    if !conf.argument(0).eq_ignore_ascii_case(b"on") {
        without_effect(conf, "calls that fail are logged, once for a burst of them");
    }
}

impl Location {
    /// `wasm_socket_…`.
    pub(crate) fn foreign_socket(conf: &mut Conf<'_>, _: &Self) -> Result<(), Refusal> {
        socket(conf);
        Ok(())
    }

    /// `proxy_wasm_log_dispatch_errors on | off;`
    pub(crate) fn foreign_log_errors(conf: &mut Conf<'_>, _: &Self) -> Result<(), Refusal> {
        log_errors(conf);
        Ok(())
    }

    /// `proxy_wasm_request_headers_in_access on | off;`
    pub(crate) fn foreign_in_access(conf: &mut Conf<'_>, _: &Self) -> Result<(), Refusal> {
        if conf.argument(0).eq_ignore_ascii_case(b"on") {
            without_effect(
                conf,
                "on_request_headers runs in the rewrite phase, before nginx's own rewrite rules",
            );
        }
        Ok(())
    }

    /// `wasm_call PHASE MODULE FUNCTION;`
    pub(crate) fn foreign_call(_: &mut Conf<'_>, _: &Self) -> Result<(), Refusal> {
        Err("\"wasm_call\" is not known: Weir runs Proxy-Wasm filters, not single functions of modules"
            .to_owned()
            .into())
    }

    /// `wasm_response_body_buffers NUMBER SIZE;`
    pub(crate) fn foreign_response_buffers(conf: &mut Conf<'_>, location: &Self) -> Result<(), Refusal> {
        const NAME: &str = "wasm_response_body_buffers";
        let number =
            std::str::from_utf8(conf.argument(0)).ok().and_then(|number| number.parse::<usize>().ok());
        let size = crate::ngx::conf::size(conf.argument(1));
        let all = number.zip(size).and_then(|(number, size)| number.checked_mul(size)).filter(|all| *all > 0);
        let all = all.ok_or_else(|| Refusal::Sentence(format!("invalid value in \"{NAME}\" directive")))?;
        location.hold_responses(all, NAME)
    }
}
