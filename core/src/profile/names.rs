//! Names of functions as people write them, from those that compilers give to linkers.

use std::fmt;

use cpp_demangle::{DemangleOptions, Symbol};

/// Most bytes of a name: those of C++ repeat what they refer to, so that a short one may stand for a very long one, and
/// guests' names are theirs to choose.
const MOST: usize = 2048;

/// `name` in the form of its language, if it is one of Rust's, without the hash at its end, or of C++'s; as it is
/// otherwise, and where the other form would be very long.
#[must_use]
pub fn readable(name: &str) -> String {
    let mut text = Bounded(String::new());
    let written = match rustc_demangle::try_demangle(name) {
        Ok(rust) => fmt::Write::write_fmt(&mut text, format_args!("{rust:#}")),
        Err(_) if name.starts_with("_Z") => Symbol::new(name)
            .map_err(|_| fmt::Error)
            .and_then(|cpp| cpp.structured_demangle(&mut text, &DemangleOptions::new())),
        Err(_) => Err(fmt::Error),
    };
    if written.is_ok() { text.0 } else { name.to_owned() }
}

/// Text that refuses to become longer than [`MOST`].
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if self.0.len() + piece.len() > MOST {
            return Err(fmt::Error);
        }
        self.0.push_str(piece);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn names_of_rust_and_cpp_are_made_readable() {
        for (name, expected) in [
            ("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad"),
            ("_RNvCs15kBYyAo9fc_7mycrate7example", "mycrate::example"),
            ("_ZN4deep5Diver4diveEj", "deep::Diver::dive(unsigned int)"),
            (
                "_ZNSt3__16vectorIiNS_9allocatorIiEEE9push_backERKi",
                "std::__1::vector<int, std::__1::allocator<int> >::push_back(int const&)",
            ),
            ("proxy_on_request_headers", "proxy_on_request_headers"),
            ("_Zonk", "_Zonk"),
            ("function 7", "function 7"),
        ] {
            assert_eq!(readable(name), expected);
        }
    }

    /// Each pair has the one before twice: `f(P<int, int>, P<P<int, int>, P<int, int> >, …)`.
    #[test]
    fn a_name_that_would_be_very_long_stays_as_it_is() {
        // What has been written so far is referred to by its place: the template itself is the first, each pair one more.
        let place = |at: usize| match at.checked_sub(1) {
            None => "S_".to_owned(),
            Some(at) => format!("S{}_", char::from(b"0123456789ABCDEFGHIJ"[at])),
        };
        let pairs = |count: usize| {
            let more: String = (1..count).map(|at| format!("S_I{0}{0}E", place(at))).collect();
            format!("_Z1f1PIiiE{more}")
        };
        let short = readable(&pairs(3));
        assert!(short.starts_with("f(P<int, int>, P<P<int, int>, P<int, int> >, "), "{short}");
        let long = pairs(20);
        assert_eq!(readable(&long), long);
    }
}
