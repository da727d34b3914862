//! What the configuration says of filters that fail: the policy of a location, and when a filter is suspended.

use std::{cmp::Ordering, time::Duration};

use weir_core::failure::{Budget, Policy};

use super::{
    Refusal,
    main::{Main, invalid, number, once, time},
};
use crate::ngx::conf::Conf;

/// The directive that chooses a policy.
pub(super) const NAME: &str = "proxy_wasm_failure";

/// The policy that the arguments of `proxy_wasm_failure` name.
pub(super) fn policy(choice: &[u8], status: Option<&[u8]>) -> Result<Policy, Refusal> {
    match (choice, status) {
        (b"open", None) => Ok(Policy::Open),
        (b"open", Some(_)) => Err(Refusal::Sentence(format!(
            "\"{NAME} open\" takes no status, since requests go on: remove it, or write \"closed\""
        ))),
        (b"closed", None) => Ok(Policy::Closed { status: None }),
        (b"closed", Some(text)) => {
            let status =
                text.strip_prefix(b"status=").and_then(|text| str::from_utf8(text).ok()?.parse().ok());
            // nginx gives 444 and 494 to 499 meanings of its own.
            let status = status.filter(|status| matches!(status, 400..=443 | 445..=493 | 500..=599));
            status
                .map(|status| Policy::Closed { status: Some(status) })
                .ok_or_else(|| invalid(NAME, text, "\"status=\" and a status of an error, from 400 to 599"))
        }
        (other, _) => Err(invalid(NAME, other, "\"closed\" or \"open\"")),
    }
}

/// The directives of the `wasm` block; `None` where the default stands.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// How many failures, within which time.
    limit: Option<(u32, Duration)>,
    /// The first suspension, and the longest.
    backoff: Option<(Duration, Duration)>,
}

impl Draft {
    /// How often a filter may fail.
    pub(super) fn budget(&self) -> Budget {
        let mut budget = Budget::default();
        if let Some((failures, window)) = self.limit {
            (budget.failures, budget.window) = (failures, window);
        }
        if let Some((first, longest)) = self.backoff {
            (budget.backoff, budget.longest) = (first, longest);
        }
        budget
    }
}

impl Main {
    /// `failure_limit NUMBER TIME | off;`
    pub(crate) fn failure_limit(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        const NAME: &str = "failure_limit";
        let value = match (conf.argument(0), conf.optional(1)) {
            (b"off", None) => (0, Duration::ZERO),
            (count, Some(window)) => (number(NAME, count, 1, 10_000)?, time(NAME, window)?),
            (count, None) => {
                return Err(invalid(NAME, count, "\"off\", or a number and a time like \"100 10s\""));
            }
        };
        main.with_block(|block| once(NAME, &mut block.failure.limit, value))
    }

    /// `failure_backoff TIME TIME;`
    pub(crate) fn failure_backoff(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        const NAME: &str = "failure_backoff";
        let (first, longest) = (time(NAME, conf.argument(0))?, time(NAME, conf.argument(1))?);
        if first.cmp(&longest) == Ordering::Greater {
            return Err(invalid(NAME, conf.argument(1), "a time not shorter than the first one"));
        }
        main.with_block(|block| once(NAME, &mut block.failure.backoff, (first, longest)))
    }
}

#[cfg(test)]
mod tests {
    use weir_core::failure::Policy;

    use super::policy;

    #[test]
    fn policies_and_their_status() {
        assert_eq!(policy(b"open", None).ok(), Some(Policy::Open));
        assert_eq!(policy(b"closed", None).ok(), Some(Policy::default()));
        for status in [400, 443, 445, 503, 599] {
            let text = format!("status={status}");
            let found = policy(b"closed", Some(text.as_bytes())).ok();
            assert_eq!(found, Some(Policy::Closed { status: Some(status) }));
        }
        for bad in
            [&b"status=399"[..], b"status=444", b"status=499", b"status=600", b"status=", b"503", b"status=x"]
        {
            assert!(policy(b"closed", Some(bad)).is_err());
        }
        assert!(policy(b"open", Some(b"status=503")).is_err());
        assert!(policy(b"ajar", None).is_err());
    }
}
