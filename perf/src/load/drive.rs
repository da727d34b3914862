//! Requests at the times they are due.
//!
//! They come at random times, as those of many clients do, whether or not earlier ones have been answered; a request's
//! latency counts from the time it was due. A server that stalls is thus charged for all who wait meanwhile.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};

use super::{
    client::{Manner, Target},
    profile::Profile,
    record::{Fate, Record},
    server::Server,
};

/// Longest that a request may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Most requests that wait for their responses; a server that leaves more has failed.
const CROWD: usize = 20_000;

/// The runtime's timers are as fine as this; what is due earlier is waited for by asking the clock.
const GRAIN: Duration = Duration::from_micros(1500);

/// How often requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// At the profile's rate, for one turn.
    Steady,
    /// More and more often up to that, while the server warms up.
    Ramp,
}

/// Numbers that look random, the same for the same seed: splitmix64.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    /// From 0 up to, but not, 1.
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The time until the next of so many independent requests a second.
    fn pause(&mut self, rate: f64) -> Duration {
        Duration::from_secs_f64((-(1.0 - self.roll()).ln() / rate).min(3600.0))
    }
}

/// Sends what `profile` says to `target`, at the times that follow from `seed`, and waits for all responses.
pub(super) async fn drive(
    profile: &Profile,
    target: &Arc<Target>,
    pace: Pace,
    seed: u64,
    bar: &ProgressBar,
    disturbed: Option<&Server>,
) -> Record {
    let length = Duration::from_secs_f64(if pace == Pace::Ramp { profile.ramp } else { profile.seconds });
    let record = Arc::new(Mutex::new(Record::default()));
    let waiting = Arc::new(AtomicUsize::new(0));
    let weights: f64 = profile.traffic.iter().map(|traffic| traffic.weight).sum();
    let (mut dice, mut due) = (Dice(seed), Duration::ZERO);
    let mut disturbances = disturbed.map(|server| Disturbances::new(profile, server));
    let (began, shown) = (Instant::now(), bar.position());
    loop {
        let share = if pace == Pace::Ramp { (due.as_secs_f64() / profile.ramp).max(0.1) } else { 1.0 };
        due += dice.pause(profile.rate * share);
        if due >= length {
            break;
        }
        until(began + due).await;
        bar.set_position(shown + u64::try_from(due.as_millis()).unwrap_or(0));
        if let Some(disturbances) = &mut disturbances {
            disturbances.at(due);
        }
        let mut left = dice.roll() * weights;
        let chosen = profile.traffic.iter().position(|traffic| {
            left -= traffic.weight;
            left < 0.0
        });
        let kind = chosen.unwrap_or(0);
        let Some(traffic) = profile.traffic.get(kind) else { continue };
        let manner = match dice.roll() {
            roll if roll < traffic.aborted => Manner::Aborts,
            roll if roll < traffic.aborted + traffic.slow => Manner::Slow,
            _ => Manner::Brisk,
        };
        let (target, record, name) = (Arc::clone(target), Arc::clone(&record), traffic.name.clone());
        let (waiting, when) = (Arc::clone(&waiting), began + due);
        let note = move |fate| {
            let latency = when.elapsed();
            record.lock().unwrap_or_else(PoisonError::into_inner).kind(&name).note(latency, fate);
        };
        if waiting.load(Ordering::Relaxed) >= CROWD {
            note(Fate::Failed("not sent: too many wait for their responses".to_owned()));
            continue;
        }
        waiting.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let fate = timeout(LIMIT, target.ask(kind, manner)).await;
            note(fate.unwrap_or_else(|_| Fate::Failed("no response in time".to_owned())));
            waiting.fetch_sub(1, Ordering::Relaxed);
        });
    }
    until(began + length).await;
    while waiting.load(Ordering::Relaxed) > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let mut record = std::mem::take(&mut *record.lock().unwrap_or_else(PoisonError::into_inner));
    record.again = target.take_again();
    // Whoever is late with responses has answered fewer a second.
    record.time = began.elapsed();
    record
}

/// Waits, and lets others run at least once.
async fn until(when: Instant) {
    yield_now().await;
    loop {
        let left = when.saturating_duration_since(Instant::now());
        if left > GRAIN {
            sleep(left.saturating_sub(GRAIN)).await;
        } else if left.is_zero() {
            return;
        } else {
            yield_now().await;
        }
    }
}

/// Reloads and kills.
struct Disturbances<'a> {
    server: &'a Server,
    reload: Option<(Duration, Duration)>,
    kill: Option<(Duration, Duration)>,
}

impl<'a> Disturbances<'a> {
    fn new(profile: &Profile, server: &'a Server) -> Self {
        let every = |seconds: Option<f64>| seconds.map(Duration::from_secs_f64).map(|every| (every, every));
        Self { server, reload: every(profile.reload_every), kill: every(profile.kill_every) }
    }

    /// It is so late: what is due happens.
    fn at(&mut self, now: Duration) {
        let is_due = |one: &mut Option<(Duration, Duration)>| {
            one.as_mut().is_some_and(|(next, every)| {
                let due = *next <= now;
                if due {
                    *next += *every;
                }
                due
            })
        };
        if is_due(&mut self.reload) {
            self.server.reload();
        }
        if is_due(&mut self.kill) {
            self.server.kill_worker();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn pauses_are_as_long_on_average_as_the_rate_says() {
        let mut dice = Dice(7);
        let all: f64 = (0..100_000).map(|_| dice.pause(500.0).as_secs_f64()).sum();
        assert!((all / 100_000.0 - 0.002).abs() < 0.000_05, "{all}");
        let again = (Dice(7).roll(), Dice(7).roll());
        assert!((again.0 - again.1).abs() < f64::EPSILON);
    }
}
