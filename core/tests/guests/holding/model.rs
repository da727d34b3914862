//! Any parts, any edits, any order of going on: what reaches the proxy is what a model without any of Weir's code says.

use proptest::{prelude::*, test_runner::RngSeed};
use weir_core::chain::{Direction, Verdict};

use super::{Act, GO, PAUSE, acting, bench, feed, going, held, resume};

/// What filters hold and do.
#[derive(Debug, Default)]
struct Model {
    acts: Vec<std::vec::IntoIter<Act>>,
    held: Vec<Option<(String, bool)>>,
    ended: bool,
}

impl Model {
    fn new(scripts: &[Vec<Act>]) -> Self {
        let acts = scripts.iter().map(|acts| acts.clone().into_iter()).collect();
        Self { acts, held: vec![None; scripts.len()], ended: false }
    }

    /// Filters here are in the direction's order.
    fn run(&mut self, from: usize, mut bytes: String, mut end: bool) -> (Verdict, String) {
        for (order, name) in NAMES.iter().enumerate().skip(from) {
            if let Some((before, last)) = self.held[order].take() {
                bytes.insert_str(0, &before);
                end |= last;
            }
            if bytes.is_empty() && !end {
                continue;
            }
            let [pauses, start, size, new] = self.acts[order].next().unwrap_or(GO).map(usize::from);
            let start = start.min(bytes.len());
            let size = size.min(bytes.len() - start);
            bytes.replace_range(start..start + size, &name.repeat(new));
            if pauses == 1 {
                self.held[order] = Some((bytes, end));
                return held();
            }
        }
        self.ended = end;
        (Verdict::Continue, bytes)
    }

    fn resume(&mut self, order: usize) -> (Verdict, String) {
        match self.held[order].take() {
            Some((bytes, end)) => self.run(order + 1, bytes, end),
            None => going(""),
        }
    }
}

const NAMES: [&str; 3] = ["A", "B", "C"];

/// What happens: bytes come, or a filter asks to go on.
#[derive(Debug, Clone)]
enum Event {
    Came(String),
    Resumed(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => "[a-z]{0,6}".prop_map(Event::Came),
        2 => (0..NAMES.len()).prop_map(Event::Resumed),
    ];
    prop::collection::vec(event, 0..16)
}

/// What each filter does: anything, or holding and letting go alone.
fn scripts() -> impl Strategy<Value = Vec<Vec<Act>>> {
    let edits =
        (0..2_u8, 0..12_u8, 0..6_u8, 0..4_u8).prop_map(|(pause, start, size, new)| [pause, start, size, new]);
    let act = prop_oneof![2 => prop_oneof![Just(GO), Just(PAUSE)], 1 => edits];
    prop::collection::vec(prop::collection::vec(act, 0..12), NAMES.len())
}

proptest! {
    // The same in every run; `PROPTEST_CASES` makes more of them.
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(0x601d),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn bytes_go_on_as_the_model_says(scripts in scripts(), events in events(), up in any::<bool>()) {
        let direction = if up { Direction::Response } else { Direction::Request };
        let mut guests: Vec<_> =
            scripts.iter().zip(NAMES).map(|(acts, name)| acting(name, direction, acts, false)).collect();
        if up {
            guests.reverse();
        }
        let bench = bench(guests);
        let request = bench.request();
        let mut chain = bench.begin(&request);
        prop_assert_eq!(chain.headers(direction, false), Verdict::Continue);
        let mut model = Model::new(&scripts);
        let index = |order| if up { NAMES.len() - 1 - order } else { order };
        let (mut came, mut went) = (String::new(), String::new());
        for event in events {
            let (real, expected) = match event {
                Event::Came(bytes) => {
                    came.push_str(&bytes);
                    let real = feed(&mut chain, &request, direction, &bytes, false);
                    (real, model.run(0, bytes, false))
                }
                Event::Resumed(order) => {
                    (resume(&mut chain, &request, direction, index(order)), model.resume(order))
                }
            };
            went.push_str(&real.1);
            prop_assert_eq!(real, expected);
            prop_assert!(!chain.ended(direction));
        }
        let real = feed(&mut chain, &request, direction, "END", true);
        went.push_str(&real.1);
        prop_assert_eq!(real, model.run(0, "END".to_owned(), true));
        for order in 0..NAMES.len() {
            prop_assert_eq!(chain.ended(direction), model.ended);
            let real = resume(&mut chain, &request, direction, index(order));
            went.push_str(&real.1);
            prop_assert_eq!(real, model.resume(order));
        }
        prop_assert!(chain.ended(direction) && request.edit().held.is_empty());
        if scripts.concat().iter().all(|act| [GO, PAUSE].contains(act)) {
            prop_assert_eq!(went, came + "END");
        }
    }
}
