//! Names as nginx looks them up: in lower case, by hash (`src/core/ngx_hash.h`).

use nginx_sys::{ngx_str_t, ngx_uint_t, u_char};

use super::memory::stored;

/// nginx's hash of a name in lower case (`ngx_hash_key()` in `src/core/ngx_hash.c`).
pub(super) fn hash(name: &[u8]) -> ngx_uint_t {
    name.iter().fold(0, |key: ngx_uint_t, byte| key.wrapping_mul(31).wrapping_add(ngx_uint_t::from(*byte)))
}

/// A name in lower case on the stack, as long as it is short enough for what it is looked up in.
pub(super) struct Lower {
    bytes: [u_char; Self::MAX],
    len: usize,
}

impl Lower {
    /// Longest name.
    const MAX: usize = 256;

    pub(super) fn new(name: &[u8]) -> Option<Self> {
        let mut lower = Self { bytes: [0; Self::MAX], len: name.len() };
        lower.bytes.get_mut(..name.len())?.copy_from_slice(name);
        lower.bytes.make_ascii_lowercase();
        Some(lower)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// As nginx's string, for functions that only read it.
    pub(super) fn as_ngx(&self) -> ngx_str_t {
        stored(self.as_bytes())
    }

    pub(super) fn hash(&self) -> ngx_uint_t {
        hash(self.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::{Lower, hash};

    #[test]
    fn names_hash_as_nginx_hashes_them() {
        // ngx_hash(key, c) is key * 31 + c.
        assert_eq!(hash(b"ab"), 97 * 31 + 98);
        assert_eq!(hash(b""), 0);
    }

    #[test]
    fn long_names_are_looked_up_in_nothing() {
        assert_eq!(Lower::new(b"X-Y").map(|name| name.as_bytes().to_vec()), Some(b"x-y".to_vec()));
        assert!(Lower::new(&[b'a'; 257]).is_none());
    }
}
