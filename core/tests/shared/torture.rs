//! Eight processes that write, read and are killed, again and again, at any instruction; then what has become of
//! everything that was acknowledged.
//!
//! A child acknowledges what it has done by a record in a pipe, after it is done. Whatever a killed child did last may
//! be done without being acknowledged, so for each kill one more thing may have happened than was heard of.
//!
//! It goes on until a thousand have been killed, which takes some ten seconds, or, on a machine with little to give, for a
//! minute; `WEIR_TORTURE_SECONDS` makes it so long.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{Read, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use weir_core::shared::{
    Eviction, WriteError,
    layout::{Kind, Layout},
    map::Mapping,
    members::Lifelines,
    zone::Zone,
};

const CHILDREN: usize = 8;
const COUNTERS: u32 = 4;
const ENV: &str = "WEIR_TORTURE_CHILD";
const NONE: Eviction = Eviction::None;
const SCOPE: &[u8] = b"vm";

/// What a child has done. A record is 13 bytes: what, a number, another number.
const ADDED: u8 = 1;
const WROTE: u8 = 2;
const PUT: u8 = 3;
const TOOK: u8 = 4;
const RECORD: usize = 13;

/// A small generator of numbers (xorshift64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A time for each process that is to be killed.
pub(crate) struct Torture {
    end: Instant,
    /// How many are left, where that ends it.
    left: Option<u32>,
}

impl Torture {
    /// `kills`, within a minute; or as many as `WEIR_TORTURE_SECONDS` allows.
    pub(crate) fn new(kills: u32) -> Self {
        let seconds = std::env::var("WEIR_TORTURE_SECONDS").ok().and_then(|text| text.parse().ok());
        let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(60));
        Self { end, left: seconds.is_none().then_some(kills) }
    }
}

impl Iterator for Torture {
    type Item = ();

    fn next(&mut self) -> Option<()> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1)?;
        }
        (Instant::now() < self.end).then_some(())
    }
}

fn open(path: &str, kind: Kind) -> (Zone<Mapping>, Lifelines) {
    let file = File::options().read(true).write(true).open(path).expect("the zone's file");
    let zone = Zone::open(Mapping::new(&file).expect("mapped"), kind).expect("a zone");
    (zone, Lifelines::in_file(file))
}

/// A value that shows when it is torn: its number, again and again.
fn value(number: u64, size: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(size)
}

fn number_in(value: &[u8]) -> u64 {
    let (words, rest) = value.as_chunks::<8>();
    assert!(rest.is_empty() && words.iter().all(|word| *word == words[0]), "a torn value: {value:?}");
    u64::from_le_bytes(words[0])
}

/// Not a test of its own: what each of the processes does, until it is killed.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(ENV) else { return };
    let arguments: Vec<_> = arguments.split(' ').collect();
    let number = |at: usize| arguments[at].parse::<u64>().expect("a number");
    let (place, birth) = (number(2), number(3));
    let (table, table_lines) = open(arguments[0], Kind::Table);
    let (queues, queue_lines) = open(arguments[1], Kind::Queues);
    let member = table.join(&table_lines).expect("a place");
    let queue_member = queues.join(&queue_lines).expect("a place");
    let queue = queues.register(&queue_member, SCOPE, b"jobs").expect("room");
    let mut dice = Dice(birth.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut found = Vec::new();
    let acknowledge = |what: u8, one: u64, two: u64| {
        let mut record = [0; RECORD];
        record[0] = what;
        record[1..5].copy_from_slice(&one.to_le_bytes()[..4]);
        record[5..].copy_from_slice(&two.to_le_bytes());
        // Straight to the pipe: one write, whole or not at all.
        rustix::io::write(std::io::stdout(), &record).expect("the pipe");
    };
    // Behind what the test program has said itself.
    rustix::io::write(std::io::stdout(), START).expect("the pipe");
    let own = format!("own {place}");
    // What the last one in this place has written is where this one goes on.
    let mut written = table.get(NONE, SCOPE, own.as_bytes(), &mut found).map_or(0, |_| number_in(&found));
    let mut put = 0;
    loop {
        match dice.roll(8) {
            0 | 1 => {
                let counter = dice.roll(COUNTERS.into());
                let key = format!("counter {counter}");
                let cas = table.get(NONE, SCOPE, key.as_bytes(), &mut found).expect("it is never gone");
                let next = value(number_in(&found) + 1, 1 + usize::try_from(dice.roll(60)).expect("small"));
                if table.set(&member, NONE, SCOPE, key.as_bytes(), Some(&next), cas).is_ok() {
                    acknowledge(ADDED, counter, 0);
                }
            }
            2 | 3 => {
                let size = 1 + usize::try_from(dice.roll(300)).expect("small");
                let set = table.set(&member, NONE, SCOPE, own.as_bytes(), Some(&value(written + 1, size)), 0);
                if set != Err(WriteError::Full) {
                    written += 1;
                    acknowledge(WROTE, place, written);
                }
            }
            4 => {
                let other = format!("own {}", dice.roll(CHILDREN as u64));
                if table.get(NONE, SCOPE, other.as_bytes(), &mut found).is_some() {
                    number_in(&found);
                }
            }
            5 | 6 => {
                let message = birth << 32 | (put + 1);
                let size = 1 + usize::try_from(dice.roll(40)).expect("small");
                if queues.enqueue(&queue_member, queue, &value(message, size)).is_ok() {
                    put += 1;
                    acknowledge(PUT, place, message);
                }
            }
            _ => {
                for _ in 0..=dice.roll(3) {
                    if queues.dequeue(&queue_member, queue, &mut found) {
                        acknowledge(TOOK, place, number_in(&found));
                    }
                }
            }
        }
    }
}

/// What was acknowledged.
#[derive(Default)]
struct Heard {
    added: HashMap<u64, u64>,
    /// Place of the child, last number.
    wrote: HashMap<u64, u64>,
    put: HashSet<u64>,
    took: HashSet<u64>,
}

impl Heard {
    /// Reads what a child that is dead has acknowledged.
    fn hear(&mut self, child: &mut Child) {
        let mut records = Vec::new();
        child.stdout.take().expect("a pipe").read_to_end(&mut records).expect("read");
        let mut last = HashMap::<u64, u64>::new();
        // What the test program says itself before it begins ends with the child's first record.
        let start = records.windows(START.len()).position(|window| window == START);
        let records = &records[start.map_or(records.len(), |start| start + START.len())..];
        for record in records.as_chunks::<RECORD>().0 {
            let one = u64::from(u32::from_le_bytes(*record[1..].first_chunk().expect("four bytes")));
            let two = u64::from_le_bytes(*record[5..].first_chunk().expect("eight bytes"));
            match record[0] {
                ADDED => *self.added.entry(one).or_default() += 1,
                WROTE => {
                    self.wrote.entry(one).and_modify(|known| *known = two.max(*known)).or_insert(two);
                }
                PUT => assert!(self.put.insert(two), "put twice: {two:x}"),
                TOOK => {
                    assert!(self.took.insert(two), "taken twice: {two:x}");
                    // In the order in which its producer has put them.
                    let before = last.insert(two >> 32, two);
                    assert!(before.is_none_or(|before| before < two), "{before:x?} before {two:x}");
                }
                other => panic!("no such record: {other}"),
            }
        }
    }
}

/// What a child says before its first record.
pub(crate) const START: &[u8] = b"<weir torture>";

#[test]
fn killed_processes_lose_and_block_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (table_path, queues_path) = (path("table"), path("queues"));
    let make = |path: &str, kind, size| {
        let layout = Layout::new(kind, size);
        let file = File::create_new(path).and_then(|file| file.set_len(layout.bytes() as u64).map(|()| file));
        drop(file.expect("a file"));
        let file = File::options().read(true).write(true).open(path).expect("the file");
        let zone = Zone::create(Mapping::new(&file).expect("mapped"), layout, [3, 4]).expect("large enough");
        (zone, Lifelines::in_file(file), layout)
    };
    let (table, table_lines, table_layout) = make(&table_path, Kind::Table, 64 << 10);
    let (queues, queue_lines, _) = make(&queues_path, Kind::Queues, 64 << 10);
    let member = table.join(&table_lines).expect("a place");
    for counter in 0..COUNTERS {
        let key = format!("counter {counter}");
        table.set(&member, NONE, SCOPE, key.as_bytes(), Some(&value(0, 1)), 0).expect("room");
    }
    table.leave(&member, &table_lines);

    let mut births = 0_u64;
    let mut bear = |place: usize| {
        births += 1;
        Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "torture::child", "--nocapture", "--test-threads=1"])
            .env(ENV, format!("{table_path} {queues_path} {place} {births}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process")
    };
    let mut children: Vec<_> = (0..CHILDREN).map(&mut bear).collect();
    let mut heard = Heard::default();
    let mut dice = Dice(u64::from(std::process::id()) << 20 | 1);
    let torture = Torture::new(1000);
    let mut kills = 0_u64;
    let mut bury = |child: &mut Child, heard: &mut Heard| {
        let ended = child.try_wait().expect("asked");
        let mut said = String::new();
        if ended.is_some() {
            let _ = child.stderr.take().expect("a pipe").read_to_string(&mut said);
        }
        assert!(ended.is_none(), "a child ended by itself: {said}");
        child.kill().expect("killed");
        child.wait().expect("dead");
        heard.hear(child);
        kills += 1;
    };
    for _ in torture {
        let place = usize::try_from(dice.roll(CHILDREN as u64)).expect("small");
        bury(&mut children[place], &mut heard);
        children[place] = bear(place);
    }
    for child in &mut children {
        bury(child, &mut heard);
    }

    // Whoever comes next puts everything in order.
    let _member = table.join(&table_lines).expect("a place");
    let queue_member = queues.join(&queue_lines).expect("a place");
    let mut found = Vec::new();
    let fresh: Box<[_]> = (0..table_layout.words()).map(|_| std::sync::atomic::AtomicU64::new(0)).collect();
    let fresh = Zone::create(fresh, table_layout, [3, 4]).expect("large enough");
    let fresh_member = fresh.join(&Lifelines::local()).expect("a place");
    let copy = |key: &str, value: &[u8]| {
        fresh.set(&fresh_member, NONE, SCOPE, key.as_bytes(), Some(value), 0).expect("room");
    };
    let mut more = 0;
    for counter in 0..COUNTERS {
        let key = format!("counter {counter}");
        table.get(NONE, SCOPE, key.as_bytes(), &mut found).expect("it is never gone");
        let acknowledged = heard.added.get(&u64::from(counter)).copied().unwrap_or(0);
        let counted = number_in(&found);
        assert!(counted >= acknowledged, "{key}: {counted} of {acknowledged}");
        more += counted - acknowledged;
        copy(&key, &found);
    }
    for place in 0..CHILDREN {
        let key = format!("own {place}");
        let acknowledged = heard.wrote.get(&(place as u64)).copied().unwrap_or(0);
        if table.get(NONE, SCOPE, key.as_bytes(), &mut found).is_some() {
            let written = number_in(&found);
            assert!(
                written >= acknowledged && written <= acknowledged + kills,
                "{key}: {written} {acknowledged}"
            );
            copy(&key, &found);
        } else {
            assert_eq!(acknowledged, 0, "{key}");
        }
    }
    assert_eq!(table.owned_chunks(), fresh.owned_chunks(), "every chunk that nothing reaches is free");
    assert_eq!(table.used_chunks(), table.owned_chunks());

    let queue = queues.resolve(SCOPE, b"jobs").expect("registered");
    while queues.dequeue(&queue_member, queue, &mut found) {
        let message = number_in(&found);
        assert!(heard.took.insert(message), "taken twice: {message:x}");
        more += u64::from(!heard.put.contains(&message));
    }
    // Those that were taken without having been heard of as put are put and not acknowledged; those that were put and
    // not taken were taken and not acknowledged.
    let lost = heard.put.difference(&heard.took).count() as u64;
    assert!(more + lost <= 2 * kills, "{more} unheard of, {lost} lost with {kills} kills");
    assert!(lost <= kills, "{lost} messages lost with {kills} kills");
    // The name, the message that was taken last, and what all queues begin with.
    let name_and_last = 1 + found.len().div_ceil(8).saturating_sub(12).div_ceil(14) + 1;
    let begin = weir_core::shared::layout::QUEUES;
    assert!(queues.owned_chunks() <= begin + name_and_last, "{} chunks", queues.owned_chunks());
    assert_eq!(queues.used_chunks(), queues.owned_chunks());
    let acknowledged = heard.added.values().sum::<u64>() + heard.put.len() as u64 + heard.took.len() as u64;
    assert!(acknowledged > kills, "the children had time to do something");
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{kills} kills, {acknowledged} acknowledged, {lost} messages taken by the dead");
}
