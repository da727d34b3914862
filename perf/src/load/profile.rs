//! A load profile: `perf/profiles/NAME.toml`.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

/// The profiles that are built in.
const BUILT_IN: [(&str, &str); 5] = [
    ("smoke", include_str!("../../profiles/smoke.toml")),
    ("edge-mix", include_str!("../../profiles/edge-mix.toml")),
    ("soak", include_str!("../../profiles/soak.toml")),
    ("faults", include_str!("../../profiles/faults.toml")),
    ("reload", include_str!("../../profiles/reload.toml")),
];

/// What a load consists of.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    /// Its name: that of its file.
    #[serde(skip)]
    pub(super) name: String,
    /// What it is for, in one sentence.
    pub(super) about: String,
    /// Requests a second, at random times.
    pub(super) rate: f64,
    /// Seconds of one turn.
    pub(super) seconds: f64,
    /// How many turns each server has.
    pub(super) turns: usize,
    /// Seconds of warming up, at a rate that rises to the full one.
    #[serde(default = "one")]
    pub(super) ramp: f64,
    /// Worker processes of nginx.
    #[serde(default = "one_worker")]
    pub(super) workers: usize,
    /// Most connections for HTTP/1.1 to each port.
    #[serde(default = "connections")]
    pub(super) connections: usize,
    /// Seconds between two reloads of nginx.
    pub(super) reload_every: Option<f64>,
    /// Seconds between two workers that are killed.
    pub(super) kill_every: Option<f64>,
    /// Directives of the block `wasm` besides `module`.
    #[serde(default)]
    pub(super) wasm: String,
    /// Names of the filters' modules.
    pub(super) modules: Vec<String>,
    /// What clients ask for.
    pub(super) traffic: Vec<Traffic>,
    /// What filters may cost.
    #[serde(default)]
    pub(super) budgets: Budgets,
}

fn one() -> f64 {
    1.0
}

fn one_worker() -> usize {
    1
}

fn connections() -> usize {
    64
}

/// How clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Protocol {
    /// HTTP/1.1 on connections that are kept.
    #[default]
    H1,
    /// HTTP/2 without TLS.
    H2,
    /// HTTP/1.1 over TLS.
    H1Tls,
    /// HTTP/2 over TLS.
    H2Tls,
}

impl Protocol {
    pub(super) const fn is_h2(self) -> bool {
        matches!(self, Self::H2 | Self::H2Tls)
    }

    pub(super) const fn is_tls(self) -> bool {
        matches!(self, Self::H1Tls | Self::H2Tls)
    }
}

/// Requests of one kind; nginx has the location `= /NAME` for them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Traffic {
    /// Name of the kind.
    pub(super) name: String,
    /// Its share of all requests, to those of the others.
    pub(super) weight: f64,
    /// The location's directives, with filters and without. `FILES` is a folder with files 1k, 16k, 64k, 256k, 1m;
    /// `http://origin` an origin that has the same files, and /sink, which takes any body.
    pub(super) location: String,
    /// Directives of the filters.
    #[serde(default)]
    pub(super) filters: String,
    /// How clients speak.
    #[serde(default)]
    pub(super) protocol: Protocol,
    /// Bytes of the request's body; with none it is a GET, otherwise a POST.
    #[serde(default)]
    pub(super) send: usize,
    /// Headers of the request.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// Statuses that are no error.
    #[serde(default = "ok")]
    pub(super) statuses: Vec<u16>,
    /// Statuses that are no error with filters.
    #[serde(default)]
    pub(super) filtered_statuses: Vec<u16>,
    /// Share of requests whose client goes away once it has the response's headers.
    #[serde(default)]
    pub(super) aborted: f64,
    /// Share of requests whose client reads the response slowly.
    #[serde(default)]
    pub(super) slow: f64,
}

fn ok() -> Vec<u16> {
    vec![200]
}

/// Bounds on what filters cost, as ratios of the server with them to the one without.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budgets {
    /// Most CPU time of a request.
    pub(super) cpu: Option<f64>,
    /// Most median latency.
    pub(super) p50: Option<f64>,
    /// Most of the 99th percentile.
    pub(super) p99: Option<f64>,
    /// Least requests answered a second.
    pub(super) throughput: Option<f64>,
    /// Most requests that fail, as a share of all.
    pub(super) errors: Option<f64>,
    /// Most memory of workers beyond that of those without filters, in MiB.
    pub(super) memory: Option<f64>,
}

impl Profile {
    /// The profile in a file, or the one that is built in under that name.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn find(name: &str) -> Result<Self, String> {
        let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
        let text = match built_in {
            Some((_, text)) => (*text).to_owned(),
            None => fs::read_to_string(name).map_err(|error| {
                let known: Vec<_> = BUILT_IN.iter().map(|(known, _)| *known).collect();
                format!("\"{name}\" is neither a file ({error}) nor one of {}", known.join(", "))
            })?,
        };
        let mut profile: Self = toml::from_str(&text).map_err(|error| format!("{name}: {error}"))?;
        let stem = Path::new(name).file_stem().unwrap_or_default();
        profile.name = stem.to_string_lossy().into_owned();
        Ok(profile)
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// One sentence that says what does not.
    pub(super) fn check(&self) -> Result<(), String> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let bad = |what: &str| Err(format!("profile {}: {what}", self.name));
        if !positive(self.rate) || !positive(self.seconds) || !positive(self.ramp) || self.rate > 1e6 {
            return bad(
                "\"rate\", \"seconds\" and \"ramp\" must be above zero, and the rate at most a million",
            );
        }
        if self.turns == 0 || self.workers == 0 || self.connections == 0 {
            return bad("\"turns\", \"workers\" and \"connections\" must be at least one");
        }
        if self.traffic.is_empty() || !self.traffic.iter().all(|traffic| positive(traffic.weight)) {
            return bad("there must be traffic, each with a weight above zero");
        }
        let plain =
            |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !self.traffic.iter().all(|traffic| plain(&traffic.name)) {
            return bad("names of traffic are letters, digits, - and _: they become locations");
        }
        let pauses = [self.reload_every, self.kill_every];
        if !pauses.into_iter().flatten().all(positive) {
            return bad("\"reload_every\" and \"kill_every\" must be above zero");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{BUILT_IN, Profile};

    #[test]
    fn the_profiles_that_are_built_in_make_sense() {
        for (name, _) in BUILT_IN {
            let profile = Profile::find(name).expect("well-formed");
            profile.check().expect("sensible");
            assert_eq!(profile.name, name);
        }
        let smoke = Profile::find("smoke").expect("well-formed");
        let all = 2.0 * (smoke.ramp + smoke.seconds * f64::from(u32::try_from(smoke.turns).expect("few")));
        assert!(all <= 50.0, "{all} s are too long for each change");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(Profile::find("no-such-profile").is_err_and(|error| error.contains("edge-mix")));
        let mut profile = Profile::find("smoke").expect("well-formed");
        profile.rate = 0.0;
        assert!(profile.check().is_err_and(|error| error.contains("rate")));
    }
}
