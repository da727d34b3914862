//! What measured values mean.

use serde::Serialize;

use super::{
    budgets::{Budgets, Instructions},
    measure::{INSTRUCTIONS, Measured},
};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The bench.
    pub name: String,
    /// What it was compared with, in words.
    pub than: String,
    /// Its own value: nanoseconds or instructions.
    pub value: f64,
    /// The other's.
    pub other: f64,
    /// The first over the second; over rounds that were compared one by one their median.
    pub ratio: f64,
    /// Lowest and highest ratio of the rounds.
    pub range: (f64, f64),
    /// The largest ratio that is allowed.
    pub most: f64,
    /// It is more than allowed.
    pub failed: bool,
}

/// The middle one of `values`; 0 where there are none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(before), Some(after)) if sorted.len().is_multiple_of(2) => f64::midpoint(*before, *after),
        (_, Some(value)) => *value,
        _ => 0.0,
    }
}

/// The least of `rounds`: noise only ever adds to it.
fn fastest(rounds: &[f64]) -> f64 {
    rounds.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The value of a bench for a run: instructions vary with a guest's random numbers alone, and the least are the
/// steadiest; of times the median is.
#[must_use]
pub fn typical(name: &str, rounds: &[f64]) -> f64 {
    if name.starts_with(INSTRUCTIONS) { fastest(rounds) } else { median(rounds) }
}

/// Compares head with base, where there is one, and with the budgets.
#[must_use]
pub fn judge(budgets: &Budgets, head: &Measured, base: Option<&Measured>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, values) in head {
        if let Some(others) = base.and_then(|base| base.get(name)) {
            findings.push(against_base(budgets, name, values, others));
        } else if let Some(most) = budgets.instructions.counts.get(name) {
            findings.push(one(
                name,
                "committed",
                typical(name, values),
                *most,
                1.0 + budgets.instructions.tolerance,
            ));
        }
    }
    for relation in &budgets.relation {
        if let (Some(values), Some(others)) = (head.get(&relation.bench), head.get(&relation.of)) {
            let (value, other) = (fastest(values), fastest(others));
            findings.push(one(&relation.bench, &relation.of, value, other, relation.most));
        }
    }
    findings
}

/// The most that the bench `name` may take by `budgets`, as was measured in the same run, and what that is made of; `None`
/// where only base bounds it.
#[must_use]
pub fn most(budgets: &Budgets, measured: &Measured, name: &str) -> Option<(f64, String)> {
    let Instructions { tolerance, counts } = &budgets.instructions;
    let committed = counts.get(name).map(|count| {
        (count * (1.0 + tolerance), format!("{:.0} % over the committed {count:.0}", tolerance * 100.0))
    });
    let relations = budgets.relation.iter().filter(|relation| relation.bench == name);
    let related = relations.filter_map(|relation| {
        let other = fastest(measured.get(&relation.of)?);
        Some((relation.most * other, format!("{} times {}", relation.most, relation.of)))
    });
    committed.into_iter().chain(related).min_by(|a, b| a.0.total_cmp(&b.0))
}

/// Names of `budgets` that nothing was measured for, so that a bench that has another name now is not forgotten.
#[must_use]
pub fn forgotten(budgets: &Budgets, head: &Measured, with_instructions: bool) -> Vec<String> {
    let related = budgets.relation.iter().flat_map(|relation| [&relation.bench, &relation.of]);
    let names = budgets.instructions.counts.keys().chain(related);
    let missing = names
        .filter(|name| !head.contains_key(*name) && (with_instructions || !name.starts_with(INSTRUCTIONS)));
    let mut missing: Vec<_> = missing.cloned().collect();
    missing.sort();
    missing.dedup();
    missing
}

fn one(name: &str, than: &str, value: f64, other: f64, most: f64) -> Finding {
    let ratio = value / other;
    // Not a number is no pass.
    let failed = !ratio.is_finite() || ratio > most;
    Finding {
        name: name.to_owned(),
        than: than.to_owned(),
        value,
        other,
        ratio,
        range: (ratio, ratio),
        most,
        failed,
    }
}

fn against_base(budgets: &Budgets, name: &str, head: &[f64], base: &[f64]) -> Finding {
    if name.starts_with(INSTRUCTIONS) {
        let most = 1.0 + budgets.against_base.instructions;
        return one(name, "base", typical(name, head), typical(name, base), most);
    }
    let most = 1.0 + budgets.against_base.time;
    let ratios: Vec<_> = head.iter().zip(base).map(|(head, base)| head / base).collect();
    let ratio = median(&ratios);
    let range = ratios
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(low, high), ratio| (low.min(*ratio), high.max(*ratio)));
    // Noise only ever adds to a time: what is slower is so in its fastest round too.
    let failed = !ratio.is_finite() || (ratio > most && fastest(head) / fastest(base) > most);
    Finding {
        name: name.to_owned(),
        than: "base".to_owned(),
        value: median(head),
        other: median(base),
        ratio,
        range,
        most,
        failed,
    }
}

#[cfg(test)]
mod tests {
    use super::{Measured, forgotten, judge, median};
    use crate::gate::budgets::{Budgets, Instructions, Relation};

    fn measured(values: &[(&str, &[f64])]) -> Measured {
        values.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect()
    }

    fn fails(head: &[f64], base: &[f64]) -> bool {
        let (head, base) = (measured(&[("a", head)]), measured(&[("a", base)]));
        let findings = judge(&Budgets::default(), &head, Some(&base));
        assert_eq!(findings.len(), 1);
        findings[0].failed
    }

    #[test]
    fn medians() {
        assert_eq!(
            [median(&[]), median(&[3.0]), median(&[1.0, 4.0, 2.0]), median(&[4.0, 2.0])],
            [0.0, 3.0, 2.0, 3.0]
        );
    }

    #[test]
    fn what_is_slower_in_all_rounds_fails() {
        assert!(fails(&[130.0, 131.0, 129.0], &[100.0, 101.0, 99.0]));
        // The machine itself is slower in some rounds than in others.
        assert!(fails(&[130.0, 260.0, 195.0], &[100.0, 200.0, 150.0]));
    }

    #[test]
    fn what_is_as_fast_passes_and_what_is_faster() {
        assert!(!fails(&[100.0, 105.0, 98.0], &[100.0, 101.0, 99.0]));
        assert!(!fails(&[50.0, 51.0], &[100.0, 101.0]));
        assert!(!fails(&[114.0, 114.0, 114.0], &[100.0, 100.0, 100.0]), "within its budget");
    }

    #[test]
    fn what_is_slower_in_some_rounds_only_is_noise() {
        assert!(!fails(&[130.0, 100.0, 130.0], &[100.0, 100.0, 100.0]));
        assert!(!fails(&[130.0, 140.0, 103.0, 102.0], &[100.0, 100.0, 100.0, 100.0]));
        assert!(!fails(&[130.0, 130.0, 103.0, 130.0], &[100.0, 100.0, 100.0, 100.0]));
    }

    #[test]
    fn instructions_have_a_tolerance_of_their_own() {
        let name = "instructions/request/noop";
        let base = measured(&[(name, &[1000.0, 1010.0])]);
        for (count, failed) in [(1040.0, false), (1060.0, true)] {
            let head = measured(&[(name, &[count + 30.0, count])]);
            assert_eq!(judge(&Budgets::default(), &head, Some(&base))[0].failed, failed, "{count}");
        }
    }

    #[test]
    fn without_a_base_counts_that_were_committed_are_the_bound() {
        let counts = [("instructions/a".to_owned(), 1000.0)].into();
        let budgets = Budgets { instructions: Instructions { tolerance: 0.1, counts }, ..Budgets::default() };
        for (count, failed) in [(1099.0, false), (1101.0, true)] {
            let head = measured(&[("instructions/a", &[count]), ("instructions/new", &[5.0])]);
            let findings = judge(&budgets, &head, None);
            assert_eq!(findings.iter().map(|finding| finding.failed).collect::<Vec<_>>(), [failed]);
        }
    }

    #[test]
    fn relations_hold_within_a_run() {
        let relation = Relation { bench: "own".into(), of: "shared".into(), most: 3.0 };
        let budgets = Budgets { relation: vec![relation], ..Budgets::default() };
        for (own, failed) in [(299.0, false), (301.0, true)] {
            let head = measured(&[("own", &[own]), ("shared", &[100.0])]);
            assert_eq!(judge(&budgets, &head, None)[0].failed, failed, "{own}");
        }
        assert_eq!(forgotten(&budgets, &measured(&[("own", &[1.0])]), true), ["shared"]);
    }
}
