//! The configuration: what the directives say, how locations inherit it, and what is made of it before workers start.

pub(crate) mod bodies;
pub(crate) mod calls;
mod failure;
mod foreign;
mod given;
mod limits;
pub(crate) mod location;
pub(crate) mod main;
pub(crate) mod metrics;
pub(crate) mod place;
pub(crate) mod resolve;
mod stock;
pub(crate) mod zones;

pub(crate) use location::Location;
pub(crate) use main::Main;

/// Why a directive was not accepted.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A sentence that says what to do, for `[emerg] SENTENCE in FILE:LINE`.
    Sentence(String),
    /// nginx has logged it already.
    Logged,
}

impl From<String> for Refusal {
    fn from(sentence: String) -> Self {
        Self::Sentence(sentence)
    }
}

impl Refusal {
    /// nginx's own words for a directive that may be there once only.
    fn duplicate(name: &str) -> Self {
        Self::Sentence(format!("\"{name}\" directive is duplicate"))
    }
}
