//! A zone does what a map and a list would do.

use std::collections::{HashMap, VecDeque};

use proptest::{collection::vec, prelude::*};
use weir_core::shared::{Eviction, WriteError, layout::Kind, members::Lifelines, table::MAX_VALUE};

use super::zone;

/// One thing that is done to a table.
#[derive(Debug, Clone)]
enum Act {
    Set {
        scope: u8,
        key: u8,
        size: usize,
        null: bool,
    },
    /// With the number that the entry has, or another one.
    Exchange {
        scope: u8,
        key: u8,
        size: usize,
        right: bool,
    },
    Get {
        scope: u8,
        key: u8,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let size = prop_oneof![4 => 0..200_usize, 1 => 0..3000_usize];
    let scope = 0..2_u8;
    let key = 0..40_u8;
    prop_oneof![
        3 => (scope.clone(), key.clone(), size.clone(), prop::bool::weighted(0.1))
            .prop_map(|(scope, key, size, null)| Act::Set { scope, key, size, null }),
        2 => (scope.clone(), key.clone(), size, any::<bool>())
            .prop_map(|(scope, key, size, right)| Act::Exchange { scope, key, size, right }),
        2 => (scope, key).prop_map(|(scope, key)| Act::Get { scope, key }),
    ]
}

/// Keys of different lengths, some with the same beginning.
fn name(number: u8) -> Vec<u8> {
    vec![b'k'; usize::from(number) * 3]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_table_is_a_map(acts in vec(act(), 1..300), seed: u8) {
        let zone = zone(Kind::Table, 512 << 10);
        let lifelines = Lifelines::local();
        let member = zone.join(&lifelines).expect("a place");
        let mut model = HashMap::<(u8, u8), (Vec<u8>, u32)>::new();
        let mut found = Vec::new();
        for (step, act) in acts.into_iter().enumerate() {
            let filler = seed.wrapping_add(step.to_le_bytes()[0]);
            match act {
                Act::Get { scope, key } => {
                    let cas = zone.get(Eviction::None, &[scope], &name(key), &mut found);
                    prop_assert_eq!(cas.map(|cas| (found.clone(), cas)), model.get(&(scope, key)).cloned());
                }
                Act::Set { scope, key, size, null } => {
                    let value = if null { Vec::new() } else { vec![filler; size] };
                    let given = (!null).then_some(&value[..]);
                    let cas = zone.set(&member, Eviction::None, &[scope], &name(key), given, 0);
                    let before = model.insert((scope, key), (value, cas.expect("room")));
                    prop_assert!(before.is_none_or(|(_, before)| Ok(before) != cas), "a number of its own");
                }
                Act::Exchange { scope, key, size, right } => {
                    let value = vec![filler; size];
                    let known = model.get(&(scope, key)).map(|(_, cas)| *cas);
                    let given = if right { known.unwrap_or(7) } else { known.unwrap_or(7).wrapping_add(1).max(1) };
                    let set = zone.set(&member, Eviction::None, &[scope], &name(key), Some(&value), given);
                    if right || known.is_none() {
                        model.insert((scope, key), (value, set.expect("room")));
                    } else {
                        prop_assert_eq!(set, Err(WriteError::CasMismatch));
                    }
                }
            }
            prop_assert_eq!(zone.used_chunks(), zone.owned_chunks());
        }
        for ((scope, key), (value, cas)) in &model {
            prop_assert_eq!(zone.get(Eviction::None, &[*scope], &name(*key), &mut found), Some(*cas));
            prop_assert_eq!(&found, value);
        }
        zone.leave(&member, &lifelines);
    }

    #[test]
    fn a_queue_is_a_list(acts in vec((0..3_usize, prop::option::of(0..900_usize)), 1..400)) {
        let zone = zone(Kind::Queues, 64 << 10);
        let member = zone.join(&Lifelines::local()).expect("a place");
        let queues: Vec<_> =
            (0..3_u8).map(|name| zone.register(&member, b"vm", &[name]).expect("room")).collect();
        let mut model = vec![VecDeque::<Vec<u8>>::new(); 3];
        let mut message = Vec::new();
        for (step, (queue, put)) in acts.into_iter().enumerate() {
            match put {
                Some(size) => {
                    let put = vec![step.to_le_bytes()[0]; size];
                    if zone.enqueue(&member, queues[queue], &put).is_ok() {
                        model[queue].push_back(put);
                    }
                }
                None => {
                    let taken = zone.dequeue(&member, queues[queue], &mut message);
                    prop_assert_eq!(taken.then(|| message.clone()), model[queue].pop_front());
                }
            }
            prop_assert_eq!(zone.is_empty(queues[queue]), model[queue].is_empty());
        }
    }

    /// However full it is, what was set last is there, and what is there is what was set.
    #[test]
    fn an_evicting_table_never_lies(
        acts in vec((0..200_u8, 0..1500_usize), 1..600),
        slru: bool,
    ) {
        let eviction = if slru { Eviction::Slru } else { Eviction::Lru };
        let zone = zone(Kind::Table, 16 << 10);
        let member = zone.join(&Lifelines::local()).expect("a place");
        let mut last = HashMap::new();
        let mut found = Vec::new();
        for (step, (key, size)) in acts.into_iter().enumerate() {
            let value = vec![step.to_le_bytes()[0]; size];
            let cas = zone.set(&member, eviction, b"vm", &[key], Some(&value), 0).expect("room is made");
            last.insert(key, (value.clone(), cas));
            prop_assert_eq!(zone.get(eviction, b"vm", &[key], &mut found), Some(cas));
            prop_assert_eq!(&found, &value);
            let other = key.wrapping_mul(7) % 200;
            if let Some(cas) = zone.get(eviction, b"vm", &[other], &mut found) {
                prop_assert_eq!(last.get(&other), Some(&(found.clone(), cas)));
            }
            prop_assert_eq!(zone.used_chunks(), zone.owned_chunks());
        }
    }
}

#[test]
fn largest_values_fit_and_are_whole() {
    let zone = zone(Kind::Table, 4 << 20);
    let member = zone.join(&Lifelines::local()).expect("a place");
    let value: Vec<u8> = (0..MAX_VALUE).map(|at| (at % 251).to_le_bytes()[0]).collect();
    let mut found = Vec::new();
    for size in [MAX_VALUE, MAX_VALUE - 1, 96, 95, 88, 87, 200, 8, 7, 1, 0] {
        zone.set(&member, Eviction::None, b"", b"key", Some(&value[..size]), 0).expect("room");
        assert!(zone.get(Eviction::None, b"", b"key", &mut found).is_some());
        assert_eq!(found, value[..size]);
    }
    let before = zone.used_chunks();
    let too_large = vec![0; MAX_VALUE + 1];
    let refused = zone.set(&member, Eviction::None, b"", b"key", Some(&too_large), 0);
    assert_eq!(refused, Err(WriteError::TooLarge));
    assert_eq!(zone.used_chunks(), before);
}

/// With `slru` what was read again outlives a flood of what is written once.
#[test]
fn what_is_used_stays() {
    for (eviction, reads) in [(Eviction::Lru, 1), (Eviction::Slru, 2)] {
        let zone = zone(Kind::Table, 16 << 10);
        let member = zone.join(&Lifelines::local()).expect("a place");
        let mut found = Vec::new();
        zone.set(&member, eviction, b"", b"hot", Some(b"!"), 0).expect("room");
        for flood in 0..10_000_u32 {
            for _ in 0..reads {
                assert!(zone.get(eviction, b"", b"hot", &mut found).is_some(), "{eviction:?} {flood}");
            }
            zone.set(&member, eviction, b"", &flood.to_le_bytes(), Some(b"once"), 0).expect("room is made");
        }
    }
}

#[test]
fn what_was_emptied_makes_room_where_nothing_is_evicted() {
    let zone = zone(Kind::Table, 64 << 10);
    let member = zone.join(&Lifelines::local()).expect("a place");
    let set = |key: u32, value| zone.set(&member, Eviction::None, b"", &key.to_le_bytes(), value, 0);
    for key in 0..10 {
        set(key, None).expect("room");
    }
    let mut found = Vec::new();
    let get = |key: u32, found: &mut Vec<u8>| zone.get(Eviction::None, b"", &key.to_le_bytes(), found);
    assert!(get(0, &mut found).is_some() && found.is_empty());
    let full = (10..).find(|key| set(*key, Some(b"value")).is_err()).expect("it has an end");
    assert!((0..10).all(|key| get(key, &mut found).is_none()), "they went for the others");
    assert!((10..full).all(|key| get(key, &mut found).is_some()), "and nothing else did");
}
