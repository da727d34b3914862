//! `benches/budgets.toml`: what is measured for the gate, and what it may cost.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// How much more a bench may take than the same one of base.
    #[serde(default)]
    pub against_base: AgainstBase,
    /// What criterion runs.
    #[serde(default)]
    pub run: Vec<Run>,
    /// What one bench may take of another, in the same run.
    #[serde(default)]
    pub relation: Vec<Relation>,
    /// Most instructions, by the name of the bench, where there is no base.
    #[serde(default)]
    pub instructions: Instructions,
}

/// Shares of base's value: 0.1 allows ten percent more.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgainstBase {
    /// Of its time, beyond noise.
    pub time: f64,
    /// Of its instructions.
    pub instructions: f64,
}

impl Default for AgainstBase {
    fn default() -> Self {
        Self { time: 0.15, instructions: 0.05 }
    }
}

/// One program of criterion's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Name of the bench target.
    pub bench: String,
    /// A regular expression for the names of its benches that are run.
    pub filter: String,
}

/// `bench` takes at most so many times what `of` does.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relation {
    /// The one that is bounded.
    pub bench: String,
    /// The one that it is compared with.
    pub of: String,
    /// The bound.
    pub most: f64,
}

/// Instructions of this commit or an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instructions {
    /// How much more than these there may be, as a share: compilers and C libraries differ.
    #[serde(default)]
    pub tolerance: f64,
    /// By name of the bench.
    #[serde(default)]
    pub counts: BTreeMap<String, f64>,
}

impl Budgets {
    /// Reads `file`.
    ///
    /// # Errors
    /// One sentence.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file);
        let text = text.map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Budgets;

    #[test]
    fn the_budgets_of_the_repository_are_well_formed() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("budgets.toml");
        let budgets = Budgets::read(&file).expect("well-formed");
        assert!(!budgets.run.is_empty() && !budgets.instructions.counts.is_empty());
        for relation in &budgets.relation {
            let is_instructions = |name: &str| name.starts_with("instructions/");
            assert_eq!(is_instructions(&relation.bench), is_instructions(&relation.of), "{relation:?}");
        }
    }

    #[test]
    fn what_is_misspelt_is_refused() {
        assert!(toml::from_str::<Budgets>("[against_bass]\ntime = 1.0").is_err());
    }
}
