//! nginx's variables (`src/http/ngx_http_variables.h`): read any, write those that `set` may write, forget stale ones.

use std::ptr::NonNull;

use nginx_sys::{
    NGX_HTTP_VAR_CHANGEABLE, NGX_HTTP_VAR_INDEXED, ngx_hash_find, ngx_http_get_variable, ngx_http_variable_t,
    ngx_uint_t, ngx_variable_value_t,
};

use super::{memory::stored, name::Lower, request::Request};

/// Longest value: nginx has 28 bits for its length.
const MAX_VALUE: usize = (1 << 28) - 1;

/// Why a variable cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unset {
    /// There is none of that name in this configuration.
    Unknown,
    /// nginx computes it, or takes it from what it has read.
    ReadOnly,
    /// It would keep a response from going on that nginx passes on as it comes.
    Unbuffered,
    /// No memory, or a value that is too long.
    NoMemory,
}

/// The value of variable `name`, without `$`; `None` when there is none, or it has no value.
pub(crate) fn get<'a>(request: Request<'a>, name: &[u8]) -> Option<&'a [u8]> {
    let lower = Lower::new(name)?;
    // `ngx_http_get_variable()` keeps the name of no variable, but may keep pieces of the value's: those of
    // `$arg_NAME` and the like are looked up in the request. The name itself has to live no longer than the call.
    let mut text = lower.as_ngx();
    // SAFETY: the request lives; name and hash agree.
    let value = unsafe { ngx_http_get_variable(request.as_ptr(), &raw mut text, lower.hash()) };
    // SAFETY: what is answered is a value in the request's pool, or among its indexed variables.
    let value = unsafe { NonNull::new(value)?.as_ref() };
    if value.not_found() != 0 || value.valid() == 0 {
        return None;
    }
    let len = usize::try_from(value.len()).unwrap_or_default();
    let text = nginx_sys::ngx_str_t { len, data: value.data };
    // SAFETY: the bytes of a value are the request's, or static.
    Some(unsafe { request.lend(text) })
}

/// Sets variable `name`, as the directive `set` would.
///
/// # Errors
/// [`Unset`], without any change.
pub(crate) fn set(request: Request<'_>, name: &[u8], value: &[u8]) -> Result<(), Unset> {
    let variable = find(request, name).ok_or(Unset::Unknown)?;
    let flag = |flag: u32| variable.flags & ngx_uint_t::try_from(flag).unwrap_or_default() != 0;
    if !flag(NGX_HTTP_VAR_CHANGEABLE) {
        return Err(Unset::ReadOnly);
    }
    // nginx takes the limit from such a response, since it drops the timer that this needs
    // (`ngx_http_upstream_process_non_buffered_request()`).
    if variable.name.as_bytes() == b"limit_rate" && request.passes_on_unbuffered() {
        return Err(Unset::Unbuffered);
    }
    if value.len() > MAX_VALUE {
        return Err(Unset::NoMemory);
    }
    let value = value_of(request.keep(value).ok_or(Unset::NoMemory)?);
    if let Some(handler) = variable.set_handler {
        let place = request.place(value).ok_or(Unset::NoMemory)?;
        // SAFETY: the variable's own handler, with its own data, a live request, and a value in its pool.
        unsafe { handler(request.as_ptr(), place.as_ptr(), variable.data) };
        return Ok(());
    }
    if !flag(NGX_HTTP_VAR_INDEXED) {
        return Err(Unset::ReadOnly);
    }
    let place = indexed(request, variable.index).ok_or(Unset::Unknown)?;
    // SAFETY: a place for an indexed variable's value in a live request.
    unsafe { place.write(value) };
    Ok(())
}

/// Lets indexed variables whose name is `stale` be computed again when they are read next.
pub(crate) fn forget(request: Request<'_>, stale: impl Fn(&[u8]) -> bool) {
    let Some(main) = request.core_main() else { return };
    // SAFETY: the configuration is not written to once workers run; the reference ends with this call.
    let variables = unsafe { &main.as_ref().variables };
    // SAFETY: it is made with elements of this type (`ngx_http_variables_add_core_vars()`).
    let variables = unsafe { variables.as_slice::<ngx_http_variable_t>() };
    for (index, variable) in variables.iter().enumerate() {
        let Some(mut place) = indexed(request, index) else { return };
        // SAFETY: a value in a live request; the reference ends before the next one begins.
        let value = unsafe { place.as_mut() };
        let is_known = value.valid() != 0 || value.not_found() != 0;
        if is_known && stale(variable.name.as_bytes()) {
            value.set_valid(0);
            value.set_not_found(0);
        }
    }
}

/// Lets variables that are made of request header `name` be computed again.
pub(crate) fn forget_header(request: Request<'_>, name: &[u8]) {
    let is = |text: &[u8]| name.eq_ignore_ascii_case(text);
    let (is_cookie, is_browser) = (is(b"cookie"), is(b"user-agent"));
    let (is_authorization, is_forwarded) = (is(b"authorization"), is(b"x-forwarded-for"));
    forget(request, |variable| match variable.strip_prefix(b"http_") {
        Some(rest) => is_header(rest, name),
        None => {
            is_header(variable, name)
                || (is_cookie && variable.starts_with(b"cookie_"))
                || (is_authorization && variable == b"remote_user")
                || (is_forwarded && variable == b"proxy_add_x_forwarded_for")
                || (is_browser && matches!(variable, b"msie" | b"modern_browser" | b"ancient_browser"))
        }
    });
}

/// Lets variables that are made of response header `name` be computed again.
pub(crate) fn forget_response_header(request: Request<'_>, name: &[u8]) {
    forget(request, |variable| {
        variable.strip_prefix(b"sent_http_").is_some_and(|rest| is_header(rest, name))
    });
}

/// Whether a variable spells the name of header `name`: in lower case, with `_` for `-`.
fn is_header(variable: &[u8], name: &[u8]) -> bool {
    let as_variable = |byte: &u8| if *byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
    variable.len() == name.len() && name.iter().map(as_variable).eq(variable.iter().copied())
}

/// The description of variable `name`, if it has a name of its own.
fn find<'a>(request: Request<'a>, name: &[u8]) -> Option<&'a ngx_http_variable_t> {
    let lower = Lower::new(name)?;
    let main = request.core_main()?;
    // SAFETY: the configuration outlives the request; only the address of a field of it is taken.
    let hash = unsafe { &raw mut (*main.as_ptr()).variables_hash };
    // SAFETY: nginx has built the hash (`ngx_http_variables_init_vars()`); the name is only read.
    let found = unsafe { ngx_hash_find(hash, lower.hash(), lower.as_ngx().data, lower.as_ngx().len) };
    let variable = NonNull::new(found)?.cast::<ngx_http_variable_t>();
    // SAFETY: descriptions are not written to once workers run, and outlive requests.
    Some(unsafe { variable.as_ref() })
}

/// The place of indexed variable number `index` in a request.
fn indexed(request: Request<'_>, index: ngx_uint_t) -> Option<NonNull<ngx_variable_value_t>> {
    let values = NonNull::new(request.peek(|r| r.variables))?;
    // SAFETY: a request has a place for each index of its configuration (`ngx_http_alloc_request()`).
    Some(unsafe { values.add(index) })
}

fn value_of(text: &[u8]) -> ngx_variable_value_t {
    // SAFETY: an integer and a pointer, for which all zeros are valid.
    let mut value: ngx_variable_value_t = unsafe { std::mem::zeroed() };
    value.set_len(u32::try_from(text.len()).unwrap_or_default());
    value.set_valid(1);
    value.data = stored(text).data;
    value
}

#[cfg(test)]
mod tests {
    use super::is_header;

    #[test]
    fn variables_spell_headers_with_underscores() {
        assert!(is_header(b"user_agent", b"User-Agent"));
        assert!(!is_header(b"user_agent", b"User-Agents"));
        assert!(!is_header(b"user-agent", b"User-Agent"));
    }
}
