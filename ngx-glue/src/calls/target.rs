//! Where a call goes: what its name means.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::ngx::net::address::Address;

/// What a name means that is no `upstream` block's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `unix:/PATH`
    Unix(Address),
    /// An address, with or without a port.
    Ip(IpAddr, Option<u16>),
    /// A host to look up, in lower case, with or without a port.
    Host(String, Option<u16>),
}

/// Longest name of a host (RFC 1035, 3.1), as text.
const MOST: usize = 253;

impl Target {
    /// What `name` means: `unix:/PATH`, `HOST[:PORT]` or an address; `None` for none of these.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
        if let Some(path) = name.strip_prefix(b"unix:") {
            // nginx itself writes it with or without the colon of a request.
            let path = path.strip_suffix(b":").unwrap_or(path);
            return path.starts_with(b"/").then(|| Address::unix(path))?.map(Self::Unix);
        }
        let text = str::from_utf8(name).ok()?;
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Self::Ip(address.ip(), Some(address.port()).filter(|port| *port != 0)?.into()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Ip(address, None));
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return Some(Self::Ip(inner.parse::<Ipv6Addr>().ok()?.into(), None));
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().ok().filter(|port| *port != 0)?)),
            None => (text, None),
        };
        is_host(host).then(|| Self::Host(host.to_ascii_lowercase(), port))
    }
}

/// Whether `host` can be the name of a host: labels of letters, digits, dashes and underscores. One that is all digits
/// at its end would be taken for an address by some (RFC 1123, 2.1).
fn is_host(host: &str) -> bool {
    let trimmed = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    (1..=MOST).contains(&trimmed.len())
        && trimmed.split('.').all(is_label)
        && !trimmed.rsplit('.').next().is_some_and(is_number)
}

/// The host of an authority, without its port and without brackets.
pub(crate) fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    authority.split(':').next().unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::{Target, host_of};

    #[test]
    fn names_mean_sockets_addresses_or_hosts() {
        let shown = |name: &str| Target::parse(name.as_bytes()).map(|target| format!("{target:?}"));
        let cases = [
            ("unix:/run/a.sock", "Unix(unix:/run/a.sock)"),
            ("unix:/run/a.sock:", "Unix(unix:/run/a.sock)"),
            ("127.0.0.1", "Ip(127.0.0.1, None)"),
            ("127.0.0.1:8080", "Ip(127.0.0.1, Some(8080))"),
            ("[::1]:80", "Ip(::1, Some(80))"),
            ("[::1]", "Ip(::1, None)"),
            ("::1", "Ip(::1, None)"),
            ("Example.COM", "Host(\"example.com\", None)"),
            ("a_b.example:443", "Host(\"a_b.example\", Some(443))"),
        ];
        for (name, meaning) in cases {
            assert_eq!(shown(name).as_deref(), Some(meaning), "{name}");
        }
    }

    #[test]
    fn other_names_mean_nothing() {
        let long = "a".repeat(64);
        for bad in [
            "",
            "unix:",
            "unix:run",
            "a b",
            "a:0",
            "a:70000",
            "a:",
            "a:80:80",
            "a..b",
            "-:x",
            "127.0.0.1:0",
            "[::1",
            "1.2.3",
            "2130706433",
            "http://a/",
            "a/b",
            "ä.example",
            &long,
        ] {
            assert_eq!(Target::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Target::parse(b"a\0b"), None);
        assert_eq!(Target::parse(b"\xff"), None);
    }

    #[test]
    fn an_authority_has_a_host() {
        for (authority, host) in
            [("a.example:8443", "a.example"), ("a.example", "a.example"), ("[::1]:80", "::1")]
        {
            assert_eq!(host_of(authority), host);
        }
    }
}
