//! A bench of a loop that is as long as the environment variable `WEIR_PLANTED` says. The gate's own test has it be
//! longer in one commit than in another.

use std::hint::black_box;

use criterion::Criterion;

fn main() {
    let length =
        std::env::var("WEIR_PLANTED").ok().and_then(|length| length.parse().ok()).unwrap_or(1000_u64);
    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("planted/loop", |bencher| {
        bencher.iter(|| (0..length).fold(0, |sum, number| black_box(sum ^ number)));
    });
    criterion.final_summary();
}
