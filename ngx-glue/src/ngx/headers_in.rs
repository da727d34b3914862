//! Headers of a request (`ngx_http_headers_in_t`): the list, and what nginx derives from it.
//!
//! nginx reads some headers from typed pointers, and some of what they say from fields that its parser has filled
//! (`ngx_http_headers_in[]` in `src/http/ngx_http_request.c`). After each change here all of them agree again, but for
//! what frames the body (`content_length_n`, `chunked`), which stays as the client sent it.

use std::ptr::NonNull;

use nginx_sys::{
    NGX_HTTP_CONNECTION_CLOSE, NGX_HTTP_CONNECTION_KEEP_ALIVE, NGX_OK, ngx_hash_find, ngx_http_header_t,
    ngx_http_validate_host, ngx_int_t, ngx_str_t, ngx_table_elt_t,
};

use super::{
    list::{Field, Slot, Table},
    memory::stored,
    name::Lower,
    request::Request,
    variable,
};

/// The headers of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadersIn<'a>(Request<'a>);

impl<'a> HeadersIn<'a> {
    /// The headers of `request`.
    pub(crate) const fn of(request: Request<'a>) -> Self {
        Self(request)
    }

    /// The list.
    pub(crate) fn list(self) -> Table<'a> {
        // SAFETY: the request lives; only the address of a field of it is taken.
        let list = unsafe { &raw mut (*self.0.as_ptr()).headers_in.headers };
        // SAFETY: the address of a field is not null.
        let list = unsafe { NonNull::new_unchecked(list) };
        // SAFETY: the list is the request's; it is zeroed until nginx initializes it.
        unsafe { Table::new(list, self.0) }
    }

    /// The host as the client sent it, port included; where the request says nothing of it, the host without port.
    pub(crate) fn authority(self) -> &'a [u8] {
        let host = NonNull::new(self.0.peek(|r| r.headers_in.host));
        match host {
            // SAFETY: the pointer leads to a field of the request's.
            Some(host) => unsafe { Field::new(host, self.0) }.value(),
            None => self.pseudo_authority().unwrap_or_else(|| self.0.part(super::request::Part::Server)),
        }
    }

    /// `:authority` of a request of HTTP/3, for which nginx makes no Host header (`ngx_http_v3_init_pseudo_headers()`).
    fn pseudo_authority(self) -> Option<&'a [u8]> {
        if self.0.version() < 3000 {
            return None;
        }
        let (start, end) = self.0.peek(|r| (r.host_start, r.host_end));
        let len = end.addr().checked_sub(start.addr()).filter(|_| !start.is_null())?;
        // SAFETY: both are of one value, in the pool of the stream's connection, which outlives the request.
        Some(unsafe { self.0.lend(ngx_str_t { len, data: start }) })
    }

    /// Makes the list say that the body has that length, where it says something of it; false without memory.
    pub(crate) fn set_listed_length(self, length: u64) -> bool {
        let Some(field) = NonNull::new(self.0.peek(|r| r.headers_in.content_length)) else { return true };
        // SAFETY: the pointer leads to a field of the request's.
        unsafe { Field::new(field, self.0) }.set_value(length.to_string().as_bytes())
    }

    /// Adds one more field; false without memory.
    pub(crate) fn add(self, name: &[u8], value: &[u8]) -> bool {
        let added = self.list().push(name, value).is_some();
        self.refresh(name);
        added
    }

    /// Sets the first field of that name and drops others, or adds one; false without memory.
    pub(crate) fn replace(self, name: &[u8], value: &[u8]) -> bool {
        let first = self.list().named(name).next();
        let done = match first {
            Some(first) => first.set_value(value) && self.drop_others(name, Some(first)),
            None => self.list().push(name, value).is_some(),
        };
        self.refresh(name);
        done
    }

    /// Drops every field of that name; false without memory.
    pub(crate) fn remove(self, name: &[u8]) -> bool {
        let done = self.drop_others(name, None);
        self.refresh(name);
        done
    }

    fn drop_others(self, name: &[u8], keep: Option<Field<'a>>) -> bool {
        loop {
            let next = self.list().named(name).find(|field| Some(*field) != keep);
            match next {
                Some(field) if self.list().detach(field) => {}
                Some(_) => return false,
                None => return true,
            }
        }
    }

    /// Checks `host` as nginx checks a Host header; the answer is what its `server` becomes, in the request's pool.
    pub(crate) fn valid_host(self, host: &[u8]) -> Option<&'a [u8]> {
        let pool = self.0.pool()?;
        let host = self.0.keep(host).filter(|host| !host.is_empty())?;
        let mut text = stored(host);
        // SAFETY: `text` is a string of the request's and stays untouched where `alloc` is 1: its lower-case copy goes
        // into the pool.
        let valid = unsafe { ngx_http_validate_host(&raw mut text, pool.as_ptr(), 1) };
        // SAFETY: the function has put another string of the pool's there, or shortened this one.
        (valid == NGX_OK as ngx_int_t).then(|| unsafe { self.0.lend(text) })
    }

    /// Sets the Host header, and with it the host that `$host` answers; false when nginx would refuse such a header,
    /// or without memory. The virtual server that was chosen stays chosen.
    pub(crate) fn set_authority(self, host: &[u8]) -> bool {
        let Some(server) = self.valid_host(host) else { return false };
        if !self.replace(b"Host", host) {
            return false;
        }
        self.0.edit(|r| r.headers_in.server = stored(server));
        variable::forget(self.0, |name| name == b"host");
        true
    }

    /// Gives a subrequest a list of its own: nginx lets it share its parent's (`ngx_http_subrequest()`).
    pub(crate) fn separate(self) -> bool {
        let fields: Vec<Field<'a>> = self.list().iter().collect();
        let list = self.0.edit(|r| {
            let old = r.headers_in.headers;
            r.headers_in.headers.part.nelts = 0;
            r.headers_in.headers.part.next = std::ptr::null_mut();
            r.headers_in.headers.last = std::ptr::null_mut();
            old
        });
        if fields.iter().any(|field| self.list().push(field.name(), field.value()).is_none()) {
            self.0.edit(|r| r.headers_in.headers = list);
            return false;
        }
        for field in self.list().iter() {
            if let Some(slot) = self.slot(field.name()) {
                self.list().link(slot, field.name());
            }
        }
        true
    }

    /// nginx's typed pointer for `name`.
    fn slot(self, name: &[u8]) -> Option<Slot<'a>> {
        let lower = Lower::new(name)?;
        let main = self.0.core_main()?;
        // SAFETY: the configuration outlives the request; only the address of a field of it is taken.
        let hash = unsafe { &raw mut (*main.as_ptr()).headers_in_hash };
        // SAFETY: nginx has built the hash (`ngx_http_init_headers_in_hash()`); the name is only read.
        let found = unsafe { ngx_hash_find(hash, lower.hash(), lower.as_ngx().data, lower.as_ngx().len) };
        let header = NonNull::new(found)?.cast::<ngx_http_header_t>();
        // SAFETY: the hash leads to elements of the static `ngx_http_headers_in[]`.
        let offset = unsafe { header.as_ref() }.offset;
        // SAFETY: the request lives; only the address of a field of it is taken.
        let headers = unsafe { &raw mut (*self.0.as_ptr()).headers_in };
        // SAFETY: the offset is one of a pointer inside this structure.
        let slot = unsafe { headers.byte_add(offset) }.cast::<*mut ngx_table_elt_t>();
        // SAFETY: the address of a field is not null.
        let slot = unsafe { NonNull::new_unchecked(slot) };
        // SAFETY: it is such a pointer of a live request.
        Some(unsafe { Slot::new(slot) })
    }

    /// Makes everything that nginx has made of headers called `name` agree with the list.
    fn refresh(self, name: &[u8]) {
        // A client that waits for `100 Continue` waits for it whatever becomes of its header (`ngx_http_test_expect()`).
        let stays = name.eq_ignore_ascii_case(b"expect") && self.list().named(name).next().is_none();
        if let Some(slot) = self.slot(name).filter(|_| !stays) {
            self.list().link(slot, name);
        }
        // `ngx_http_link_multi_headers()` links fields of all names when it is asked to.
        self.0.edit(|r| {
            r.headers_in.set_multi(0);
            r.headers_in.set_multi_linked(0);
        });
        let value = || self.list().named(name).next().map(Field::value);
        match Lower::new(name).as_ref().map(Lower::as_bytes) {
            Some(b"connection") => self.set_connection(value()),
            Some(b"keep-alive") => self.set_keep_alive(value()),
            Some(b"user-agent") => self.set_user_agent(value().unwrap_or_default()),
            // What `$remote_user` has decoded (`ngx_http_auth_basic_user()`).
            Some(b"authorization") => self.0.edit(|r| {
                r.headers_in.user = ngx_str_t::empty();
                r.headers_in.passwd = ngx_str_t::empty();
            }),
            Some(b"accept-encoding" | b"via") => self.forget_gzip(),
            _ => {}
        }
        variable::forget_header(self.0, name);
    }

    /// As `ngx_http_process_connection()`.
    fn set_connection(self, value: Option<&[u8]>) {
        let says = |word: &[u8]| value.is_some_and(|value| contains_ignoring_case(value, word));
        let kind = if says(b"close") {
            NGX_HTTP_CONNECTION_CLOSE
        } else if says(b"keep-alive") {
            NGX_HTTP_CONNECTION_KEEP_ALIVE
        } else {
            0
        };
        self.0.edit(|r| r.headers_in.set_connection_type(kind));
        // nginx has decided before phases began whether the connection stays (`ngx_http_handler()`). A filter can end
        // it; it cannot keep what the client wants to see closed.
        if kind == NGX_HTTP_CONNECTION_CLOSE && self.0.is_main() {
            self.0.close_after();
        }
    }

    /// As `ngx_http_process_request_header()`: seconds, or -1 for what is no number.
    fn set_keep_alive(self, value: Option<&[u8]>) {
        let seconds = value.and_then(decimal).unwrap_or(-1);
        self.0.edit(|r| r.headers_in.keep_alive_n = seconds);
    }

    /// As `ngx_http_process_user_agent()`.
    fn set_user_agent(self, value: &[u8]) {
        let browser = Browser::of(value);
        self.0.edit(|r| {
            let headers = &mut r.headers_in;
            headers.set_msie(u32::from(matches!(browser, Browser::Msie { .. })));
            headers.set_msie6(u32::from(matches!(browser, Browser::Msie { six: true })));
            headers.set_opera(u32::from(browser == Browser::Opera));
            headers.set_gecko(u32::from(browser == Browser::Gecko));
            headers.set_chrome(u32::from(browser == Browser::Chrome));
            headers.set_safari(u32::from(browser == Browser::Safari));
            headers.set_konqueror(u32::from(browser == Browser::Konqueror));
        });
    }

    /// Whether the client takes gzip is found out again (`ngx_http_gzip_ok()`).
    #[cfg(ngx_feature = "http_gzip")]
    fn forget_gzip(self) {
        self.0.edit(|r| {
            r.set_gzip_tested(0);
            r.set_gzip_ok(0);
        });
    }

    #[cfg(not(ngx_feature = "http_gzip"))]
    fn forget_gzip(self) {}
}

/// The browsers that nginx tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Browser {
    Other,
    Msie { six: bool },
    Opera,
    Gecko,
    Chrome,
    Safari,
    Konqueror,
}

impl Browser {
    fn of(agent: &[u8]) -> Self {
        let has = |word: &[u8]| contains(agent, word);
        if has(b"Opera") {
            return Self::Opera;
        }
        if let Some(at) = position(agent, b"MSIE ")
            && at + 7 < agent.len()
        {
            let version = agent.get(at + 5..).unwrap_or_default();
            let six = match version {
                [b'4' | b'5', b'.', ..] => true,
                [b'6', b'.', _, rest @ ..] => !contains(rest, b"SV1"),
                _ => false,
            };
            return Self::Msie { six };
        }
        if has(b"Gecko/") {
            Self::Gecko
        } else if has(b"Chrome/") {
            Self::Chrome
        } else if has(b"Safari/") && has(b"Mac OS X") {
            Self::Safari
        } else if has(b"Konqueror") {
            Self::Konqueror
        } else {
            Self::Other
        }
    }
}

fn position(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    position(text, word).is_some()
}

fn contains_ignoring_case(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

/// A number of decimal digits and nothing else, as `ngx_atoof()` reads one.
pub(crate) fn decimal(text: &[u8]) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_i64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::{Browser, contains_ignoring_case, decimal};

    #[test]
    fn browsers_are_told_apart_as_nginx_does() {
        let cases: [(&[u8], Browser); 8] = [
            (b"Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)", Browser::Msie { six: true }),
            (b"Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1)", Browser::Msie { six: false }),
            (b"Mozilla/4.0 (compatible; MSIE 8.0)", Browser::Msie { six: false }),
            (b"Mozilla/4.0 (compatible; MSIE 6.0) Opera 8", Browser::Opera),
            (b"Mozilla/5.0 Gecko/20100101 Firefox/130.0", Browser::Gecko),
            (b"Mozilla/5.0 (KHTML, like Gecko) Chrome/99 Safari/537", Browser::Chrome),
            (b"Mozilla/5.0 (Mac OS X) Safari/605", Browser::Safari),
            (b"curl/8", Browser::Other),
        ];
        for (agent, browser) in cases {
            assert_eq!(Browser::of(agent), browser, "{}", String::from_utf8_lossy(agent));
        }
    }

    #[test]
    fn only_digits_are_a_length() {
        assert_eq!(decimal(b"042"), Some(42));
        for text in [&b""[..], b"+1", b"-1", b"1 ", b"1,1", b"0x1", b"99999999999999999999"] {
            assert_eq!(decimal(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn words_are_found_in_any_case() {
        assert!(contains_ignoring_case(b"Upgrade, Keep-Alive", b"keep-alive"));
        assert!(!contains_ignoring_case(b"clos", b"close"));
    }
}
