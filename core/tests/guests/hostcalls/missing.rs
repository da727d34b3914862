//! Functions that are listed, but do not work yet.

use weir_core::{
    abi::{Support, table},
    filter::Callback,
    testing::Memory,
};

use crate::support::{Guest, call};

/// They link, answer UNIMPLEMENTED whatever they are given, and the first one warns.
#[test]
fn they_answer_unimplemented_with_one_warning() {
    let rows = table::<Memory>();
    let missing: Vec<_> = rows.iter().filter(|row| row.support == Support::Missing).collect();
    for arg in [0, -1] {
        let calls = missing.iter().map(|row| call(row.name, vec![arg; row.params.len()]));
        let bench = Guest::new().on(Callback::RequestHeaders, calls).bench();
        bench.serve(&bench.request());
        let (answers, warnings) = bench.spoken();
        assert_eq!(answers, vec!["12"; missing.len()]);
        if let Some(first) = missing.first() {
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(first.name), "{warnings:?}");
        }
    }
}
