//! pprof's format: a message of protocol buffers, compressed (`proto/profile.proto` of google/pprof, whose numbers of
//! fields are those below).

use std::{collections::HashMap, io::Write as _, time::UNIX_EPOCH};

use flate2::{Compression, write::GzEncoder};

use super::Profile;

/// A message in the making.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    /// A field that is a number. 0 is what a field is that is not there.
    fn number(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.varint(field << 3);
            self.varint(value);
        }
    }

    /// A field that is bytes, a string, or a message.
    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// A field of many numbers.
    fn numbers(&mut self, field: u64, values: impl Iterator<Item = u64>) {
        self.message(field, |packed| values.for_each(|value| packed.varint(value)));
    }
}

/// All strings, each once; the first is empty.
#[derive(Debug)]
struct Strings<'a> {
    places: HashMap<&'a str, u64>,
    all: Vec<&'a str>,
}

impl<'a> Strings<'a> {
    fn new() -> Self {
        Self { places: HashMap::from([("", 0)]), all: vec![""] }
    }

    fn place(&mut self, text: &'a str) -> u64 {
        let next = self.all.len() as u64;
        let place = *self.places.entry(text).or_insert(next);
        if place == next {
            self.all.push(text);
        }
        place
    }
}

/// Numbers of frames, mappings and functions begin with 1.
const fn id(place: usize) -> u64 {
    place as u64 + 1
}

/// `profile` in pprof's format.
pub(super) fn encode(profile: &Profile) -> Vec<u8> {
    let mut strings = Strings::new();
    let mut out = Message::default();
    let mut kind = |out: &mut Message, field, name, unit| {
        let (name, unit) = (strings.place(name), strings.place(unit));
        out.message(field, |kind| {
            kind.number(1, name);
            kind.number(2, unit);
        });
    };
    kind(&mut out, 1, "samples", "count");
    kind(&mut out, 1, "cpu", "nanoseconds");
    kind(&mut out, 11, "cpu", "nanoseconds");
    for (stack, weight) in &profile.stacks {
        let values = [weight.samples, nanoseconds(weight.time)];
        out.message(2, |sample| {
            sample.numbers(1, stack.iter().map(|place| id(*place)));
            sample.numbers(2, values.into_iter());
        });
    }
    for (place, mapping) in profile.mappings.iter().enumerate() {
        let name = strings.place(&mapping.name);
        out.message(3, |message| {
            message.number(1, id(place));
            message.number(2, mapping.start);
            message.number(3, mapping.end);
            message.number(4, mapping.offset);
            message.number(5, name);
            // Functions have their names already.
            message.number(7, 1);
        });
    }
    let mut functions = HashMap::new();
    for (place, frame) in profile.frames.iter().enumerate() {
        let next = functions.len();
        let function = *functions.entry((frame.symbol.as_str(), frame.mapping)).or_insert(next);
        out.message(4, |location| {
            location.number(1, id(place));
            location.number(2, frame.mapping.map_or(0, id));
            location.number(3, frame.address);
            location.message(4, |line| line.number(1, id(function)));
        });
        if function == next {
            let file =
                frame.mapping.and_then(|at| profile.mappings.get(at)).map_or("", |mapping| &mapping.name);
            let (name, symbol, file) =
                (strings.place(&frame.name), strings.place(&frame.symbol), strings.place(file));
            out.message(5, |message| {
                message.number(1, id(function));
                message.number(2, name);
                message.number(3, symbol);
                message.number(4, file);
            });
        }
    }
    let lost = format!("samples that found no room: {}", profile.lost);
    let lost = strings.place(&lost);
    let times = profile.times;
    out.number(9, times.began.duration_since(UNIX_EPOCH).map_or(0, nanoseconds));
    out.number(10, nanoseconds(times.lasted));
    out.number(12, nanoseconds(times.period));
    out.number(13, lost);
    for text in strings.all {
        out.bytes(6, text.as_bytes());
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to a vector cannot fail.
    let _ = packed.write_all(&out.0);
    packed.finish().unwrap_or_default()
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
