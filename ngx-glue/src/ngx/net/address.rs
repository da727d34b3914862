//! The address of a peer, as the system takes it.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ptr::NonNull,
};

use libc::{AF_INET, AF_INET6, AF_UNIX};
use nginx_sys::{sockaddr, socklen_t};

/// Bytes of the longest address (`struct sockaddr_storage`).
const ROOM: usize = 128;

/// Longest path of a Unix socket (`sun_path`, with the NUL that ends it).
const MAX_PATH: usize = 107;

/// An address: bytes as in `struct sockaddr_in`, `sockaddr_in6` or `sockaddr_un`.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Address {
    bytes: [u8; ROOM],
    length: socklen_t,
}

impl Address {
    fn of_family(family: i32, length: u8) -> Self {
        let mut bytes = [0; ROOM];
        // A family is two bytes on Linux.
        let family = u16::try_from(family).unwrap_or_default();
        bytes[..2].copy_from_slice(&family.to_ne_bytes());
        Self { bytes, length: socklen_t::from(length) }
    }

    /// The socket at `path`; `None` when the path is too long or has a NUL.
    pub(crate) fn unix(path: &[u8]) -> Option<Self> {
        if path.is_empty() || path.len() > MAX_PATH || path.contains(&0) {
            return None;
        }
        let mut address = Self::of_family(AF_UNIX, u8::try_from(path.len() + 3).ok()?);
        address.bytes.get_mut(2..2 + path.len())?.copy_from_slice(path);
        Some(address)
    }

    /// A copy of what nginx holds; `None` when it is longer than an address can be.
    ///
    /// # Safety
    /// At `raw` are `length` bytes of an address.
    pub(super) unsafe fn copy(raw: NonNull<sockaddr>, length: socklen_t) -> Option<Self> {
        let mut bytes = [0_u8; ROOM];
        let count = usize::try_from(length).ok().filter(|count| *count <= ROOM)?;
        // SAFETY: the caller's promise, and there is room for as many.
        unsafe { raw.cast::<u8>().copy_to_nonoverlapping(NonNull::from(&mut bytes).cast(), count) };
        Some(Self { bytes, length })
    }

    /// nginx's pointer to it, which it only reads.
    pub(super) const fn as_ptr(&self) -> *mut sockaddr {
        self.bytes.as_ptr().cast::<sockaddr>().cast_mut()
    }

    /// Its length.
    pub(super) const fn length(&self) -> socklen_t {
        self.length
    }

    fn as_bytes(&self) -> &[u8] {
        let length = usize::try_from(self.length).unwrap_or(ROOM);
        self.bytes.get(..length).unwrap_or(&self.bytes)
    }

    fn family(&self) -> i32 {
        i32::from(u16::from_ne_bytes([self.bytes[0], self.bytes[1]]))
    }

    /// The IP address; `None` for a Unix socket.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self.family() {
            AF_INET => {
                let four: [u8; 4] = self.bytes.get(4..8)?.try_into().ok()?;
                Some(Ipv4Addr::from(four).into())
            }
            AF_INET6 => {
                let sixteen: [u8; 16] = self.bytes.get(8..24)?.try_into().ok()?;
                Some(Ipv6Addr::from(sixteen).into())
            }
            _ => None,
        }
    }

    fn port(&self) -> u16 {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]])
    }

    /// The same with another port.
    pub(crate) fn with_port(mut self, port: u16) -> Self {
        if self.ip().is_some() {
            self.bytes[2..4].copy_from_slice(&port.to_be_bytes());
        }
        self
    }
}

impl From<SocketAddr> for Address {
    fn from(from: SocketAddr) -> Self {
        match from.ip() {
            IpAddr::V4(ip) => {
                let mut address = Self::of_family(AF_INET, 16);
                address.bytes[4..8].copy_from_slice(&ip.octets());
                address.with_port(from.port())
            }
            IpAddr::V6(ip) => {
                let mut address = Self::of_family(AF_INET6, 28);
                address.bytes[8..24].copy_from_slice(&ip.octets());
                address.with_port(from.port())
            }
        }
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(ip) => SocketAddr::new(ip, self.port()).fmt(f),
            None => {
                let path = self.as_bytes().get(2..).unwrap_or_default();
                let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
                write!(f, "unix:{}", String::from_utf8_lossy(path))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::Address;

    #[test]
    fn addresses_are_shown_as_they_were_given() {
        for text in ["127.0.0.1:80", "[::1]:8080", "[2001:db8::1]:443"] {
            let given: SocketAddr = text.parse().expect("an address");
            let address = Address::from(given);
            assert_eq!(address.to_string(), text);
            assert_eq!(address.ip(), Some(given.ip()));
        }
        let socket = Address::unix(b"/run/a.sock").expect("a path");
        assert_eq!(socket.to_string(), "unix:/run/a.sock");
        assert_eq!(socket.ip(), None);
    }

    #[test]
    fn a_port_is_part_of_an_address() {
        let address = Address::from("10.0.0.1:80".parse::<SocketAddr>().expect("an address"));
        assert_eq!(address.with_port(81).to_string(), "10.0.0.1:81");
        assert!(address != address.with_port(81));
    }

    #[test]
    fn a_path_has_bounds() {
        assert!(Address::unix(&[b'a'; 107]).is_some());
        for bad in [&b""[..], b"a\0b", &[b'a'; 108]] {
            assert!(Address::unix(bad).is_none());
        }
    }
}
