//! The codec of name/value pairs (`weir_core::abi::pairs`).

use weir_core::abi::pairs::{Measure, Pairs, Writer, encode};

use crate::input::Input;

/// Tries one input.
///
/// # Panics
/// When the codec breaks a rule.
pub fn run(bytes: &[u8]) {
    read(bytes);
    write(Input::new(bytes));
}

/// Any bytes are refused, or read whole and written again as they were, but for the case of names.
fn read(bytes: &[u8]) {
    let Ok(pairs) = Pairs::parse(bytes) else { return };
    let list: Vec<_> = pairs.iter().collect();
    assert_eq!(list.len(), pairs.len());
    assert_eq!(pairs.is_empty(), list.is_empty());
    if bytes.is_empty() {
        return;
    }
    let again = encode(list.iter().copied());
    assert_eq!(again.len(), bytes.len());
    assert!(again.eq_ignore_ascii_case(bytes));
    // Values keep their case.
    let reread = Pairs::parse(&again).expect("what was written can be read");
    assert!(reread.iter().map(|(_, value)| value).eq(list.iter().map(|(_, value)| *value)));
}

/// Any list is written and read back; a writer that is given other pairs than were measured says so, and writes nothing
/// outside its place.
fn write(mut input: Input<'_>) {
    let (extra, lie) = (usize::from(input.byte() % 3), input.byte());
    let mut list = Vec::new();
    while !input.is_empty() && list.len() < 64 {
        let (name, value) = (usize::from(input.byte()), usize::from(input.byte()));
        list.push((input.bytes(name % 24), input.bytes(value % 40)));
    }
    let mut measure = Measure::default();
    list.iter().for_each(|(name, value)| measure.add(name, value));
    assert_eq!(measure.pairs(), list.len());

    let written = encode(list.iter().copied());
    assert_eq!(written.len(), measure.bytes());
    let read = Pairs::parse(&written).expect("what was written can be read");
    assert_eq!(read.len(), list.len());
    for ((name, value), (wanted_name, wanted_value)) in read.iter().zip(&list) {
        assert_eq!((name, value), (&wanted_name.to_ascii_lowercase()[..], *wanted_value));
    }

    let mut place = vec![0xa5; measure.bytes() + extra];
    let Some(mut writer) = Writer::new(&mut place, &measure) else {
        assert_ne!(extra, 0, "a place of the right size is taken");
        return;
    };
    assert_eq!(extra, 0, "a place of another size is refused");
    let mut pushed = Measure::default();
    for (at, (name, value)) in list.iter().enumerate() {
        // One pair may differ from what was measured.
        let value = if at == usize::from(lie) { &value[value.len() / 2..] } else { value };
        pushed.add(name, value);
        writer.push(name, value);
    }
    assert_eq!(writer.finish(), pushed == measure);
}
