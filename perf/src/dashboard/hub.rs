//! The looks of the last minutes, and who is told of the next one.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use axum::body::Bytes;
use tokio::sync::mpsc;

use super::frame::Look;

/// Most looks that are kept: a quarter of an hour, at one each second.
const LOOKS: usize = 900;

/// Most bytes of looks that are kept, however few they are then.
const BYTES: usize = 32 << 20;

/// Looks that a reader may be behind before it is let go; its browser connects again, and is told everything.
const BEHIND: usize = 64;

/// Hands looks out to readers.
#[derive(Debug)]
pub(super) struct Hub(Mutex<State>);

#[derive(Debug)]
struct State {
    file: String,
    catalog: String,
    frames: VecDeque<String>,
    /// Bytes of `frames`.
    bytes: usize,
    readers: Vec<mpsc::Sender<Bytes>>,
}

impl Hub {
    /// A hub that has seen nothing yet of `file`.
    pub(super) fn new(file: &Path) -> Self {
        Self(Mutex::new(State {
            file: serde_json::json!(file.display().to_string()).to_string(),
            catalog: "[]".to_owned(),
            frames: VecDeque::new(),
            bytes: 0,
            readers: Vec::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells every reader of `look`, and those that come later.
    pub(super) fn publish(&self, look: Look) {
        let Look { catalog, frame } = look;
        let mut state = self.state();
        let mut text = String::new();
        if let Some(catalog) = catalog {
            text = event("catalog", &catalog);
            state.catalog = catalog;
        }
        text.push_str(&event("frame", &frame));
        let text = Bytes::from(text);
        state.readers.retain(|reader| reader.try_send(text.clone()).is_ok());
        state.bytes += frame.len();
        state.frames.push_back(frame);
        while state.frames.len() > LOOKS || (state.bytes > BYTES && state.frames.len() > 1) {
            let gone = state.frames.pop_front();
            state.bytes -= gone.map_or(0, |frame| frame.len());
        }
    }

    /// A new reader: it is told what is known now, and every look from now on.
    pub(super) fn subscribe(&self) -> mpsc::Receiver<Bytes> {
        let mut state = self.state();
        let frames: Vec<_> = state.frames.iter().map(String::as_str).collect();
        let text = [
            // Milliseconds until a browser that has lost the connection tries again.
            "retry: 1000\n".to_owned(),
            event("file", &state.file),
            event("catalog", &state.catalog),
            event("history", &format!("[{}]", frames.join(","))),
        ];
        let (sender, receiver) = mpsc::channel(BEHIND);
        // There is room for one.
        let _ = sender.try_send(Bytes::from(text.concat()));
        state.readers.push(sender);
        receiver
    }
}

/// A server-sent event; `data` is one line.
fn event(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{BEHIND, Hub, LOOKS, Look};

    fn look(number: usize) -> Look {
        Look { catalog: (number == 0).then(|| "[1]".to_owned()), frame: number.to_string() }
    }

    #[test]
    fn a_reader_is_told_what_was_and_what_comes() {
        let hub = Hub::new(Path::new("/m"));
        (0..LOOKS + 2).for_each(|number| hub.publish(look(number)));
        let mut reader = hub.subscribe();
        let first = String::from_utf8_lossy(&reader.try_recv().expect("history")).into_owned();
        assert!(
            first.contains("data: \"/m\"\n\n") && first.contains("event: catalog\ndata: [1]\n\n"),
            "{first}"
        );
        assert!(first.contains("event: history\ndata: [2,3,4,"), "the oldest are gone: {first}");
        hub.publish(look(7));
        assert_eq!(reader.try_recv().expect("a frame"), "event: frame\ndata: 7\n\n");
    }

    #[test]
    fn readers_that_are_too_slow_are_let_go() {
        let hub = Hub::new(Path::new("/m"));
        let mut slow = hub.subscribe();
        (0..=BEHIND).for_each(|number| hub.publish(look(number)));
        assert!(hub.state().readers.is_empty());
        while slow.try_recv().is_ok() {}
        assert!(slow.is_closed());
    }
}
