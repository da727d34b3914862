//! Headers of a response (`ngx_http_headers_out_t`): the list, and what nginx keeps beside it.
//!
//! Content-Type, and often Content-Length and Last-Modified, are not in the list but in fields of their own until
//! nginx writes the response. The typed pointers are kept in agreement with the list.

use std::ptr::NonNull;

use nginx_sys::{
    ngx_http_clean_header, ngx_http_time, ngx_parse_http_time, ngx_str_t, ngx_table_elt_t, ngx_uint_t, time_t,
};

use super::{
    list::{Field, Slot, Table},
    memory::stored,
    request::Request,
    variable,
};

/// Bytes of a time as HTTP writes it: `Mon, 28 Sep 1970 06:00:00 GMT`.
const TIME: usize = 29;

/// The headers of a response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadersOut<'a>(Request<'a>);

/// A Content-Type, as nginx stores it (`ngx_http_upstream_copy_content_type()`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ContentType<'a> {
    /// Length of the part that says the type, without `; charset=…`.
    type_len: usize,
    charset: &'a [u8],
}

impl<'a> HeadersOut<'a> {
    /// The headers of the response to `request`.
    pub(crate) const fn of(request: Request<'a>) -> Self {
        Self(request)
    }

    /// The list.
    pub(crate) fn list(self) -> Table<'a> {
        // SAFETY: the request lives; only the address of a field of it is taken.
        let list = unsafe { &raw mut (*self.0.as_ptr()).headers_out.headers };
        // SAFETY: the address of a field is not null.
        let list = unsafe { NonNull::new_unchecked(list) };
        // SAFETY: the list is the request's, initialized when it was made (`ngx_http_alloc_request()`).
        unsafe { Table::new(list, self.0) }
    }

    /// The list of trailers: what an upstream has sent after its body, and what filters add.
    pub(crate) fn trailers(self) -> Table<'a> {
        // SAFETY: the request lives; only the address of a field of it is taken.
        let list = unsafe { &raw mut (*self.0.as_ptr()).headers_out.trailers };
        // SAFETY: the address of a field is not null.
        let list = unsafe { NonNull::new_unchecked(list) };
        // SAFETY: the list is the request's, initialized when it was made (`ngx_http_alloc_request()`).
        unsafe { Table::new(list, self.0) }
    }

    /// The status; 0 while there is no response.
    pub(crate) fn status(self) -> usize {
        self.0.peek(|r| if r.err_status == 0 { r.headers_out.status } else { r.err_status })
    }

    /// Sets the status, and drops the upstream's status line.
    pub(crate) fn set_status(self, status: u16) {
        self.0.edit(|r| {
            r.err_status = 0;
            r.headers_out.status = ngx_uint_t::from(status);
            r.headers_out.status_line = ngx_str_t::empty();
        });
    }

    /// Forgets the response: a new one is made.
    pub(crate) fn clean(self) {
        // SAFETY: the request lives, and its headers have not been sent.
        unsafe { ngx_http_clean_header(self.0.as_ptr()) };
    }

    // --- Content-Type --------------------------------------------------------------------------------------------

    /// The Content-Type as nginx sends it: one piece, or type and charset apart.
    pub(crate) fn content_type(self) -> Option<(&'a [u8], &'a [u8])> {
        let (text, type_len, charset) = self
            .0
            .peek(|r| (r.headers_out.content_type, r.headers_out.content_type_len, r.headers_out.charset));
        if text.len == 0 {
            return None;
        }
        let apart = type_len == text.len;
        // SAFETY: strings of the response are the request's.
        let charset = unsafe { self.0.lend(charset) };
        // SAFETY: strings of the response are the request's.
        let text = unsafe { self.0.lend(text) };
        Some((text, if apart { charset } else { &[] }))
    }

    /// Sets the Content-Type; false without memory.
    pub(crate) fn set_content_type(self, value: &[u8]) -> bool {
        let Some(value) = self.0.keep(value) else { return false };
        let parsed = ContentType::parse(value);
        self.0.edit(|r| {
            let headers = &mut r.headers_out;
            headers.content_type = stored(value);
            headers.content_type_len = parsed.type_len;
            headers.charset = stored(parsed.charset);
            headers.content_type_hash = 0;
            headers.content_type_lowcase = std::ptr::null_mut();
        });
        true
    }

    /// The response has no Content-Type.
    pub(crate) fn remove_content_type(self) {
        self.0.edit(|r| {
            let headers = &mut r.headers_out;
            headers.content_type = ngx_str_t::empty();
            headers.content_type_len = 0;
            headers.charset = ngx_str_t::empty();
            headers.content_type_hash = 0;
            headers.content_type_lowcase = std::ptr::null_mut();
        });
    }

    // --- Content-Length ------------------------------------------------------------------------------------------

    /// The announced length; `None` when the response ends with its last chunk, or the connection.
    pub(crate) fn content_length(self) -> Option<u64> {
        u64::try_from(self.0.peek(|r| r.headers_out.content_length_n)).ok()
    }

    /// Whether Content-Length is in the list.
    pub(crate) fn lists_content_length(self) -> bool {
        !self.0.peek(|r| r.headers_out.content_length).is_null()
    }

    /// Announces `length`, or none, whatever the list says.
    pub(crate) fn set_content_length(self, length: Option<u64>) {
        let listed = NonNull::new(self.0.peek(|r| r.headers_out.content_length));
        if let Some(listed) = listed {
            // SAFETY: the pointer leads to a field of the response's.
            unsafe { Field::new(listed, self.0) }.retire();
        }
        let length = length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1);
        self.0.edit(|r| {
            r.headers_out.content_length = std::ptr::null_mut();
            r.headers_out.content_length_n = length;
        });
    }

    // --- Last-Modified -------------------------------------------------------------------------------------------

    /// Last-Modified, where it is not in the list but will be written by nginx.
    pub(crate) fn unlisted_last_modified(self) -> Option<[u8; TIME]> {
        let (field, time) = self.0.peek(|r| (r.headers_out.last_modified, r.headers_out.last_modified_time));
        if !field.is_null() || time == -1 {
            return None;
        }
        let mut text = [0; TIME];
        // SAFETY: the function writes exactly that many bytes (src/core/ngx_times.c); it uses no other memory of ours.
        unsafe { ngx_http_time(text.as_mut_ptr(), time) };
        Some(text)
    }

    // --- the list ------------------------------------------------------------------------------------------------

    /// Adds one more field; false without memory.
    pub(crate) fn add(self, name: &[u8], value: &[u8]) -> bool {
        let added = self.list().push(name, value).is_some();
        self.refresh(name);
        added
    }

    /// Sets the first field of that name and drops others, or adds one; false without memory.
    pub(crate) fn replace(self, name: &[u8], value: &[u8]) -> bool {
        let mut fields = self.list().named(name);
        let done = match fields.next() {
            Some(first) => {
                fields.for_each(Field::retire);
                first.set_value(value)
            }
            None => self.list().push(name, value).is_some(),
        };
        self.refresh(name);
        done
    }

    /// Drops every field of that name.
    pub(crate) fn remove(self, name: &[u8]) {
        self.list().named(name).for_each(Field::retire);
        self.refresh(name);
    }

    /// Keeps nginx from writing a header that it adds where there is none: Server, Date; false without memory.
    pub(crate) fn suppress(self, name: &[u8]) -> bool {
        let Some(slot) = self.slot(name) else { return true };
        if !slot.is_empty() {
            return true;
        }
        let Some(field) = self.list().push(name, b"") else { return false };
        field.retire();
        slot.set(Some(field));
        true
    }

    fn refresh(self, name: &[u8]) {
        if let Some(slot) = self.slot(name) {
            self.list().link(slot, name);
        }
        // nginx makes what this pointer leads to absolute (`absolute_redirect`). A Location that does not come from its
        // own redirects is sent as it is, and not there (`ngx_http_upstream_rewrite_location()`).
        if name.eq_ignore_ascii_case(b"location") {
            self.0.edit(|r| r.headers_out.location = std::ptr::null_mut());
        }
        variable::forget_response_header(self.0, name);
        if name.eq_ignore_ascii_case(b"last-modified") {
            let value = self.list().named(name).next().map_or(&[][..], Field::value);
            // SAFETY: the bytes are only read, and only as many as are given.
            let time: time_t = unsafe { ngx_parse_http_time(value.as_ptr().cast_mut(), value.len()) };
            // -1, NGX_ERROR, is also what says that there is none.
            self.0.edit(|r| r.headers_out.last_modified_time = time);
        }
    }

    /// nginx's typed pointer for `name`.
    fn slot(self, name: &[u8]) -> Option<Slot<'a>> {
        // SAFETY: the request lives; only the address of a field of it is taken.
        let headers = unsafe { &raw mut (*self.0.as_ptr()).headers_out };
        macro_rules! slots {
            ($($text:literal => $field:ident,)+) => {
                match name {
                    $(name if name.eq_ignore_ascii_case($text) => {
                        // SAFETY: the request lives; only the address of a field of it is taken.
                        unsafe { &raw mut (*headers).$field }
                    })+
                    _ => return None,
                }
            };
        }
        let slot: *mut *mut ngx_table_elt_t = slots! {
            b"server" => server,
            b"date" => date,
            b"content-encoding" => content_encoding,
            b"refresh" => refresh,
            b"last-modified" => last_modified,
            b"content-range" => content_range,
            b"accept-ranges" => accept_ranges,
            b"www-authenticate" => www_authenticate,
            b"expires" => expires,
            b"etag" => etag,
            b"cache-control" => cache_control,
            b"link" => link,
        };
        // SAFETY: the address of a field is not null.
        let slot = unsafe { NonNull::new_unchecked(slot) };
        // SAFETY: it is such a pointer of a live request.
        Some(unsafe { Slot::new(slot) })
    }
}

impl<'a> ContentType<'a> {
    /// Finds the charset, as nginx does where it takes the header from an upstream.
    fn parse(value: &'a [u8]) -> Self {
        let mut from = 0;
        while let Some(at) = value.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == b';')) {
            let semicolon = from + at;
            let rest = value.get(semicolon + 1..).unwrap_or_default();
            let parameter = rest.trim_ascii_start();
            const NAME: &[u8] = b"charset=";
            if let Some((name, charset)) = parameter.split_at_checked(NAME.len())
                && name.eq_ignore_ascii_case(NAME)
            {
                let charset = charset.strip_prefix(b"\"").unwrap_or(charset);
                let charset = charset.strip_suffix(b"\"").unwrap_or(charset);
                return Self { type_len: semicolon, charset };
            }
            from = semicolon + 1;
        }
        Self { type_len: value.len(), charset: &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::ContentType;

    #[test]
    fn the_charset_is_found_as_nginx_finds_it() {
        let cases: [(&[u8], usize, &[u8]); 5] = [
            (b"text/html", 9, b""),
            (b"text/html; charset=utf-8", 9, b"utf-8"),
            (b"text/html;CHARSET=\"utf-8\"", 9, b"utf-8"),
            (b"multipart/x; boundary=y; charset=z", 23, b"z"),
            (b"text/html;", 10, b""),
        ];
        for (value, type_len, charset) in cases {
            assert_eq!(ContentType::parse(value), ContentType { type_len, charset });
        }
    }
}
