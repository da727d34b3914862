//! A path that a filter has written, taken apart as nginx takes apart the one of a request line.
//!
//! The rules are those of `ngx_http_parse_complex_uri()` (`src/http/ngx_http_parse.c`): percent-decoding, `.` and `..`,
//! slashes in a row, a query from the first `?`, a fragment that counts for neither; more is refused than there, since
//! nothing here comes from a client.

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Invalid(pub(crate) &'static str);

/// A path taken apart. `path` is in the buffer it was decoded into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uri<'a> {
    /// Decoded.
    pub(crate) path: &'a [u8],
    /// What follows the first `?`, as it is, up to a `#`.
    pub(crate) args: &'a [u8],
    /// What follows the last dot of the last segment.
    pub(crate) extension: &'a [u8],
}

/// Checks that `raw` can stand in a request line: it begins with `/` and has no space or control character.
///
/// # Errors
/// [`Invalid`], with a text for the log.
pub(crate) fn check(raw: &[u8]) -> Result<(), Invalid> {
    if raw.first() != Some(&b'/') {
        return Err(Invalid(":path must begin with \"/\""));
    }
    if raw.iter().any(|byte| matches!(byte, 0..=b' ' | 0x7f)) {
        return Err(Invalid(":path must not contain spaces or control characters"));
    }
    Ok(())
}

/// Takes `raw` apart, decoding its path into `buffer`, which has at least as many bytes.
///
/// # Errors
/// [`Invalid`], with a text for the log.
pub(crate) fn parse<'a>(
    raw: &'a [u8],
    buffer: &'a mut [u8],
    merge_slashes: bool,
) -> Result<Uri<'a>, Invalid> {
    check(raw)?;
    // nginx takes a fragment from a client, passes it on with the rest of `$request_uri`, and otherwise ignores it.
    let raw = raw.split(|byte| *byte == b'#').next().unwrap_or_default();
    let (encoded, args) = match raw.iter().position(|byte| *byte == b'?') {
        Some(at) => (raw.get(..at).unwrap_or_default(), raw.get(at + 1..).unwrap_or_default()),
        None => (raw, &[][..]),
    };
    let len = decode(encoded, buffer)?;
    let len = normalize(buffer.get_mut(..len).unwrap_or_default(), merge_slashes)?;
    let path = &*buffer.get_mut(..len).unwrap_or_default();
    Ok(Uri { path, args, extension: extension(path) })
}

/// Percent-decodes `encoded` into `buffer`; answers the number of bytes.
fn decode(encoded: &[u8], buffer: &mut [u8]) -> Result<usize, Invalid> {
    let mut len = 0;
    let mut rest = encoded;
    while let [byte, after @ ..] = rest {
        let (decoded, after) = match (*byte, after) {
            (b'%', [high, low, after @ ..]) => (hex(*high)? << 4 | hex(*low)?, after),
            (b'%', _) => return Err(BAD_PERCENT),
            (byte, after) => (byte, after),
        };
        if decoded == 0 {
            return Err(Invalid(":path must not contain an encoded NUL"));
        }
        *buffer.get_mut(len).ok_or(Invalid(":path is too long"))? = decoded;
        len += 1;
        rest = after;
    }
    Ok(len)
}

const BAD_PERCENT: Invalid = Invalid(":path has a \"%\" that two hexadecimal digits do not follow");

fn hex(digit: u8) -> Result<u8, Invalid> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(BAD_PERCENT),
    }
}

/// Resolves `.` and `..`, and merges slashes where that is wanted, in place; answers the number of bytes left.
fn normalize(path: &mut [u8], merge_slashes: bool) -> Result<usize, Invalid> {
    // `path[..len]` is what has been written; it begins with a slash and, between segments, ends with one.
    let mut len = 1;
    let mut from = 1;
    while from < path.len() {
        let segment = path.get(from..).unwrap_or_default();
        let size = segment.iter().position(|byte| *byte == b'/').unwrap_or(segment.len());
        let segment = from..from + size;
        let slash = segment.end < path.len();
        from = segment.end + 1;
        match path.get(segment.clone()).unwrap_or_default() {
            b"" if merge_slashes => {}
            b"." => {}
            b".." => {
                // Back to behind the slash before the last one.
                let before = path.get(..len - 1).unwrap_or_default();
                let slash = before.iter().rposition(|byte| *byte == b'/');
                len = slash.ok_or(Invalid(":path leads above the root"))? + 1;
            }
            _ => {
                path.copy_within(segment, len);
                len += size;
                if slash && let Some(place) = path.get_mut(len) {
                    *place = b'/';
                    len += 1;
                }
            }
        }
    }
    Ok(len)
}

/// What follows the last dot of the last segment (`ngx_http_set_exten()`): a leading dot does not count.
fn extension(path: &[u8]) -> &[u8] {
    let segment = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match segment.iter().rposition(|byte| *byte == b'.') {
        None | Some(0) => &[],
        Some(at) => segment.get(at + 1..).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn parsed(raw: &[u8], merge_slashes: bool) -> Option<(String, String, String)> {
        let mut buffer = vec![0; raw.len()];
        let uri = parse(raw, &mut buffer, merge_slashes).ok()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((text(uri.path), text(uri.args), text(uri.extension)))
    }

    fn path(raw: &[u8]) -> Option<String> {
        parsed(raw, true).map(|(path, ..)| path)
    }

    #[test]
    fn a_path_comes_apart() {
        let parts = parsed(b"/a/b.tar.gz?x=1?y", true);
        assert_eq!(parts, Some(("/a/b.tar.gz".into(), "x=1?y".into(), "gz".into())));
        assert_eq!(parsed(b"/.htaccess", true), Some(("/.htaccess".into(), String::new(), String::new())));
        assert_eq!(parsed(b"/a.b/c", true), Some(("/a.b/c".into(), String::new(), String::new())));
    }

    #[test]
    fn a_fragment_belongs_to_neither_path_nor_query() {
        let parts = Some(("/a.b".into(), "c=d".into(), "b".into()));
        assert_eq!(parsed(b"/a.b?c=d#e?f", true), parts);
        assert_eq!(parsed(b"/a#/../b?c", true), Some(("/a".into(), String::new(), String::new())));
    }

    #[test]
    fn dots_and_slashes_are_resolved() {
        for (raw, want) in [
            ("/", "/"),
            ("//", "/"),
            ("/./a/./b/.", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a//b///c", "/a/b/c"),
            ("/a//../b", "/b"),
            ("/%2e%2E/a", ""),
            ("/a%2fb/../c", "/a/c"),
            ("/..a/...", "/..a/..."),
            ("/a%20b%25%3f", "/a b%?"),
        ] {
            let want = (!want.is_empty()).then(|| want.to_owned());
            assert_eq!(path(raw.as_bytes()), want, "{raw}");
        }
    }

    #[test]
    fn slashes_stay_where_they_are_not_merged() {
        assert_eq!(parsed(b"/a//b", false).map(|(path, ..)| path), Some("/a//b".into()));
        assert_eq!(parsed(b"//a", false).map(|(path, ..)| path), Some("//a".into()));
        assert_eq!(parsed(b"/a//../b", false).map(|(path, ..)| path), Some("/a/b".into()));
    }

    #[test]
    fn what_no_request_line_can_have_is_refused() {
        for raw in [
            "",
            "a",
            "*",
            "http://x/",
            "/a b",
            "/a\tb",
            "/a\x7f",
            "#/a",
            "/%",
            "/%4",
            "/%zz",
            "/%00",
            "/..",
            "/a/../..",
        ] {
            assert_eq!(path(raw.as_bytes()), None, "{raw}");
        }
    }
}
