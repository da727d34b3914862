//! What filters may call: `proxy_wasm_allow_calls`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the filters of a location may call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// `None` where nothing is said: whatever is no address of [`FORBIDDEN`].
    list: Option<Vec<Rule>>,
}

/// One argument of the directive.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// `any`: whatever is no address of [`FORBIDDEN`].
    Any,
    /// An `upstream` block, a host, or `unix:/PATH`, in lower case.
    Name(Box<[u8]>),
    /// `*.example.com`: hosts below it; kept with the dot in front.
    Below(Box<[u8]>),
    /// `10.0.0.0/8`
    Range(Range),
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    base: IpAddr,
    bits: u8,
}

const fn four(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Range {
    Range { base: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
}

const fn six(first: u16, second: u16, last: u16, bits: u8) -> Range {
    Range { base: IpAddr::V6(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, last)), bits }
}

/// Addresses that nobody may call unless a rule names them: of this link, and those where clouds keep their machines'
/// credentials.
const FORBIDDEN: [Range; 7] = [
    // Link-local (RFC 3927), where most clouds answer at 169.254.169.254.
    four(169, 254, 0, 0, 16),
    // Alibaba Cloud's metadata.
    four(100, 100, 100, 200, 32),
    // "This" network and broadcast: no host is meant (RFC 1122).
    four(0, 0, 0, 0, 8),
    four(255, 255, 255, 255, 32),
    // Link-local (RFC 4291).
    six(0xfe80, 0, 0, 10),
    // AWS's metadata.
    Range { base: IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), bits: 128 },
    six(0, 0, 0, 128),
];

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let base: IpAddr = base.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { base, bits })
    }

    fn has(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let shift = 32_u32.saturating_sub(self.bits.into());
                base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let shift = 128_u32.saturating_sub(self.bits.into());
                base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// The address that is reached by `address`: an IPv4 address may be written as one of IPv6 (RFC 4291, 2.5.5; RFC 6052).
fn reached(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    if let Some(four) = six.to_ipv4_mapped() {
        return four.into();
    }
    match six.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] if high != 0 => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Ipv4Addr::new(a, b, c, d).into()
        }
        _ => address,
    }
}

impl Rule {
    /// One argument of the directive.
    fn parse(word: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(word).map_err(|_| "it must be UTF-8 text".to_owned())?;
        if text == "any" {
            return Ok(Self::Any);
        }
        if let Some(range) = Range::parse(text) {
            return Ok(Self::Range(range));
        }
        if text.starts_with("unix:") {
            return Ok(Self::Name(word.into()));
        }
        if text.is_empty() || text.contains('/') {
            let advice = "it must be the name of an \"upstream\" block, a host, \"*.DOMAIN\", \"unix:/PATH\", an \
                          address, or a range like \"10.0.0.0/8\"";
            return Err(advice.to_owned());
        }
        let lower = text.to_ascii_lowercase();
        Ok(match lower.strip_prefix('*') {
            Some(below) if below.len() > 1 && below.starts_with('.') => Self::Below(below.as_bytes().into()),
            Some(_) => return Err("a \"*\" must be followed by a dot and a domain".to_owned()),
            None => Self::Name(lower.as_bytes().into()),
        })
    }

    /// Whether it names `name`, in lower case.
    fn names(&self, name: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Name(one) => **one == *name,
            Self::Below(domain) => name.len() > domain.len() && name.ends_with(domain),
            Self::Range(_) => false,
        }
    }
}

impl Rules {
    /// The rules of `words`; none at all allow nothing.
    ///
    /// # Errors
    /// What is wrong with which word.
    pub(crate) fn parse<'w>(words: impl Iterator<Item = &'w [u8]>) -> Result<Self, (String, String)> {
        let mut list = Vec::new();
        for word in words {
            let shown = || String::from_utf8_lossy(word).into_owned();
            list.push(Rule::parse(word).map_err(|reason| (shown(), reason))?);
        }
        Ok(Self { list: Some(list) })
    }

    /// Rules that allow nothing.
    pub(crate) const fn nothing() -> Self {
        Self { list: Some(Vec::new()) }
    }

    /// Whether `name` may be called, wherever it leads: an `upstream` block, or `unix:/PATH`.
    pub(crate) fn allows_name(&self, name: &[u8]) -> bool {
        self.list.as_ref().is_none_or(|list| list.iter().any(|rule| rule.names(name)))
    }

    /// Whether a host of that name can be one that may be called, by its name or by an address that it may turn out to
    /// have.
    pub(crate) fn may_allow(&self, host: &[u8]) -> bool {
        let ranges = |list: &Vec<Rule>| list.iter().any(|rule| matches!(rule, Rule::Range(_)));
        self.allows_name(host) || self.list.as_ref().is_some_and(ranges)
    }

    /// Whether `address` may be called; `by_name` says whether the host that has it was allowed by its name.
    pub(crate) fn allows_address(&self, address: IpAddr, by_name: bool) -> bool {
        let reached = reached(address);
        let listed = |list: &Vec<Rule>| {
            list.iter()
                .any(|rule| matches!(rule, Rule::Range(range) if range.has(address) || range.has(reached)))
        };
        if self.list.as_ref().is_some_and(listed) {
            return true;
        }
        let forbidden = FORBIDDEN.iter().any(|range| range.has(reached) || range.has(address));
        let any = self.list.as_ref().is_none_or(|list| list.contains(&Rule::Any));
        !forbidden && (any || by_name)
    }
}

#[cfg(test)]
mod tests {
    use super::Rules;

    fn rules(words: &[&str]) -> Rules {
        Rules::parse(words.iter().map(|word| word.as_bytes())).expect("rules")
    }

    fn allows(rules: &Rules, address: &str) -> bool {
        rules.allows_address(address.parse().expect("an address"), false)
    }

    #[test]
    fn link_local_and_metadata_addresses_are_forbidden_by_default() {
        for rules in [Rules::default(), rules(&["any"])] {
            for bad in [
                "169.254.169.254",
                "::ffff:169.254.169.254",
                "64:ff9b::a9fe:a9fe",
                "::169.254.169.254",
                "fe80::1",
                "febf::1",
                "fd00:ec2::254",
                "100.100.100.200",
                "0.0.0.0",
                "::",
                "255.255.255.255",
            ] {
                assert!(!allows(&rules, bad), "{bad}");
            }
            for good in ["127.0.0.1", "10.0.0.1", "::1", "fd00:ec2::253", "fec0::1", "169.253.0.1", "8.8.8.8"]
            {
                assert!(allows(&rules, good), "{good}");
            }
        }
    }

    #[test]
    fn a_range_allows_what_is_forbidden_otherwise() {
        let rules = rules(&["169.254.169.254/32", "10.0.0.0/8", "fd00::/8"]);
        assert!(allows(&rules, "169.254.169.254"));
        assert!(!allows(&rules, "169.254.169.253"));
        assert!(allows(&rules, "10.255.0.1") && allows(&rules, "::ffff:10.255.0.1"));
        assert!(!allows(&rules, "11.0.0.1") && !allows(&rules, "127.0.0.1"));
        assert!(allows(&rules, "fd12::1"));
    }

    #[test]
    fn names_are_compared_whole_or_below_a_domain() {
        let rules = rules(&["auth", "API.example.com", "*.internal", "unix:/run/A.sock"]);
        for good in ["auth", "api.example.com", "a.internal", "a.b.internal", "unix:/run/A.sock"] {
            assert!(rules.allows_name(good.as_bytes()), "{good}");
        }
        for bad in ["auth2", "example.com", "internal", ".internal", "xinternal", "unix:/run/a.sock"] {
            assert!(!rules.allows_name(bad.as_bytes()), "{bad}");
        }
        assert!(rules.allows_address("10.0.0.1".parse().expect("an address"), true));
        assert!(!rules.allows_address("10.0.0.1".parse().expect("an address"), false));
        assert!(!rules.allows_address("169.254.0.1".parse().expect("an address"), true), "whoever names it");
        assert!(!rules.may_allow(b"other"));
    }

    #[test]
    fn nothing_is_allowed_by_no_rules() {
        let rules = Rules::nothing();
        assert!(!rules.allows_name(b"a") && !allows(&rules, "127.0.0.1"));
    }

    #[test]
    fn words_that_are_no_rules_are_refused() {
        for bad in ["", "10.0.0.0/33", "a/b", "*", "*internal", "::/129"] {
            assert!(Rules::parse([bad.as_bytes()].into_iter()).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_of_a_family_is_a_range() {
        let rules = rules(&["0.0.0.0/0"]);
        assert!(allows(&rules, "1.2.3.4") && !allows(&rules, "2001:db8::1"));
    }
}
