//! Local responses: made by a filter, or by us where a filter has failed, and sent in place of any other.
//!
//! A call of gRPC is answered as Envoy does it, since its clients look for nothing else: with status 200 and headers
//! alone, which have the call's status ("Trailers-Only" in gRPC's `PROTOCOL-HTTP2.md`); what would be the body is the
//! message.

use weir_core::host::LocalResponse;

use crate::{
    grpc_status,
    ngx::{
        chain::Body,
        code::{INTERNAL_ERROR, OK},
        headers_in::HeadersIn,
        headers_out::HeadersOut,
        request::{Request, stops_output},
    },
};

/// Most bytes of a body that go into `grpc-message`.
const MAX_GRPC_MESSAGE: usize = 1024;

/// A response in memory of a request's pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local<'a> {
    status: u16,
    headers: &'a [(&'a [u8], &'a [u8])],
    content_type: Option<&'a [u8]>,
    grpc_status: Option<u32>,
    body: &'a [u8],
    /// The body of a response to gRPC.
    message: &'a [u8],
    /// Why, for the log.
    pub(crate) details: &'a [u8],
}

impl<'a> Local<'a> {
    /// A copy of `response`; `None` without memory.
    pub(crate) fn copy(request: Request<'a>, response: &LocalResponse<'_>) -> Option<Self> {
        let mut lost = false;
        let mut keep = |bytes: &[u8]| {
            let kept = request.keep(bytes);
            lost |= kept.is_none();
            kept.unwrap_or_default()
        };
        let given = response.headers.iter().map(|(name, value)| (keep(name), keep(value)));
        let headers = request.keep_all(response.headers.iter().count(), given)?;
        let body = keep(response.body);
        let details = keep(response.details);
        let is_type = |(name, _): &&(&[u8], &[u8])| name.eq_ignore_ascii_case(b"content-type");
        let content_type = headers.iter().find(is_type).map(|(_, value)| *value);
        // Envoy's default, and the SDKs' documentation speaks of text.
        let content_type = content_type.or((!body.is_empty()).then_some(&b"text/plain"[..]));
        let local = Self {
            status: response.status,
            headers,
            content_type,
            grpc_status: response.grpc_status,
            body,
            message: body,
            details,
        };
        (!lost).then_some(local)
    }

    /// The page for a request whose filter has failed, like nginx's own; empty without memory.
    pub(crate) fn failure(request: Request<'a>, status: u16) -> Self {
        let reason = match status {
            403 => " Forbidden",
            429 => " Too Many Requests",
            500 => " Internal Server Error",
            502 => " Bad Gateway",
            503 => " Service Temporarily Unavailable",
            504 => " Gateway Time-out",
            _ => "",
        };
        let page = format!(
            "<html>\r\n<head><title>{status}{reason}</title></head>\r\n\
             <body>\r\n<center><h1>{status}{reason}</h1></center>\r\n</body>\r\n</html>\r\n"
        );
        let body: &[u8] = request.keep(page.as_bytes()).unwrap_or_default();
        Self {
            status,
            headers: &[],
            content_type: Some(b"text/html"),
            grpc_status: None,
            body,
            message: reason.trim_start().as_bytes(),
            details: b"",
        }
    }

    /// Its body; empty where a response of that status has none.
    pub(crate) fn body(self) -> &'a [u8] {
        if has_body(self.status) { self.body } else { &[] }
    }

    /// Makes this the response of `request`, whose headers have not been sent; false without memory.
    pub(crate) fn put(self, request: Request<'a>) -> bool {
        request.expect_own_response();
        let out = HeadersOut::of(request);
        out.clean();
        let is_grpc = calls_grpc(request);
        let typed = if is_grpc {
            out.set_status(200);
            // In HTTP/1 a length says that nothing follows; later versions end the stream with the headers.
            out.set_content_length((request.version() < 2000).then_some(0));
            request.set_header_only();
            out.set_content_type(b"application/grpc")
        } else {
            out.set_status(self.status);
            let length = u64::try_from(self.body().len()).ok();
            out.set_content_length(length.filter(|_| has_body(self.status)));
            self.content_type.is_none_or(|value| out.set_content_type(value))
        };
        let mut given = self.headers.iter().filter(|(name, _)| !is_ours(name));
        typed && given.all(|(name, value)| out.add(name, value)) && self.put_grpc(request, is_grpc)
    }

    /// The headers that tell a status of gRPC. Clients that call something else find them where a filter gave one.
    fn put_grpc(self, request: Request<'a>, is_grpc: bool) -> bool {
        let out = HeadersOut::of(request);
        let known = self.grpc_status.filter(|status| !is_grpc || *status <= grpc_status::LAST);
        let is_given = is_grpc && out.list().named(b"grpc-status").next().is_some();
        let status = known.or(is_grpc.then_some(grpc_status::of_http(self.status)));
        let Some(status) = status else { return true };
        if !is_given && !out.replace(b"grpc-status", decimal(status, &mut [0; 10])) {
            return false;
        }
        if self.message.is_empty() {
            return true;
        }
        let text = self.message.get(..MAX_GRPC_MESSAGE).unwrap_or(self.message);
        let Some(message) = request.allocate(grpc_status::escaped_len(text)) else { return false };
        grpc_status::escape(text, message);
        out.replace(b"grpc-message", message)
    }

    /// Sends it from a phase handler; the answer is what the handler returns.
    pub(crate) fn send(self, request: Request<'a>) -> isize {
        request.expect_own_response();
        let discarded = request.discard_body();
        if discarded != OK {
            return discarded;
        }
        if !self.put(request) {
            return INTERNAL_ERROR;
        }
        let sent = request.send_headers();
        if stops_output(sent) || request.header_only() {
            return sent;
        }
        Body::whole(request, self.body()).map_or(INTERNAL_ERROR, |body| request.send_body(body))
    }
}

/// Whether `request` is a call of gRPC.
fn calls_grpc(request: Request<'_>) -> bool {
    let list = HeadersIn::of(request).list();
    list.named(b"content-type").next().is_some_and(|field| grpc_status::is_grpc(field.value()))
}

/// Whether a response of `status` has a body (RFC 9110, 6.4.1).
pub(crate) const fn has_body(status: u16) -> bool {
    !matches!(status, 100..=199 | 204 | 304)
}

/// Whether nginx writes this header itself, or it is handled apart.
fn is_ours(name: &[u8]) -> bool {
    let ours: [&[u8]; 7] = [
        b"content-type",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"upgrade",
    ];
    name.first().is_none_or(|first| *first == b':') || ours.iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

/// `number` in decimal digits.
pub(crate) fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{decimal, has_body, is_ours};

    #[test]
    fn numbers_become_digits() {
        for number in [0, 7, 10, 16, u32::MAX] {
            assert_eq!(decimal(number, &mut [0; 10]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn framing_is_not_the_guest_s() {
        assert!(is_ours(b"Transfer-Encoding"));
        assert!(is_ours(b":status"));
        assert!(is_ours(b""));
        assert!(!is_ours(b"x-reason"));
    }

    #[test]
    fn some_statuses_have_no_body() {
        assert!(has_body(200) && has_body(404));
        assert!(!has_body(204) && !has_body(304));
    }
}
