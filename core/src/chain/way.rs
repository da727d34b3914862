//! The way of headers, bodies and trailers through the filters, from one to the next.

use super::{
    Chain, Verdict,
    flow::{Direction, Held},
};
use crate::{
    filter::Callback,
    host::{Bodies, Buffers, Hold, Host},
};

impl<H: Host> Chain<H> {
    pub(super) fn run_headers(&mut self, direction: Direction) -> Verdict {
        self.relays = self.steps.len() > 1;
        while self.flow(direction).headers_seen() < self.steps.len() {
            if let (Direction::Request, Some(status)) = (direction, self.refused()) {
                return Verdict::Failed { status };
            }
            match self.next_headers(direction) {
                Verdict::Continue => {}
                verdict => return verdict,
            }
        }
        match (direction, self.refused()) {
            (Direction::Request, Some(status)) => Verdict::Failed { status },
            _ if self.flow(direction).headers_held => Verdict::Pause,
            _ => {
                self.end_early(direction);
                Verdict::Continue
            }
        }
    }

    /// Shows the headers to the next filter that has not seen them, and perhaps to some after it.
    fn next_headers(&mut self, direction: Direction) -> Verdict {
        let flow = self.flow_mut(direction);
        let (order, end) = (flow.headers_seen(), flow.headers_only);
        flow.show_headers();
        let (callback, ..) = direction.callbacks();
        if !self.wants(callback) {
            return Verdict::Continue;
        }
        let count = self.count(direction.maps().0);
        let at = direction.turn(order, self.steps.len());
        let verdict = self.call(at, callback, [count, i32::from(end)]);
        if verdict == Verdict::Pause {
            self.flow_mut(direction).headers_held = true;
        }
        verdict
    }

    /// Takes the parcel from filter to filter, from number `from` in the direction's order on.
    pub(super) fn run_body(&mut self, direction: Direction, from: usize, end: bool) -> Verdict {
        let mut end = end;
        let (_, callback, _) = direction.callbacks();
        let mut order = from;
        (self.relays, self.relayed) = (self.steps.len() > 1 && self.headers_passed(direction), 0);
        while order < self.steps.len() {
            if self.flow(direction).headers_seen() <= order {
                // Headers that were held above have been let go by a body.
                match self.next_headers(direction) {
                    Verdict::Continue | Verdict::Pause => {}
                    verdict => return verdict,
                }
            }
            let mut at = direction.turn(order, self.steps.len());
            end |= self.recall(direction, at).unwrap_or_default();
            let size = self.stream.buffer_len(direction.buffer()).unwrap_or(0);
            let mut verdict = if (size > 0 || end) && self.exports(at, callback) {
                let size = i32::try_from(size).unwrap_or(i32::MAX);
                let verdict = self.call(at, callback, [size, i32::from(end)]);
                order += usize::from(std::mem::take(&mut self.relayed));
                at = direction.turn(order, self.steps.len());
                verdict
            } else if self.holds_headers(direction, order) {
                // It has not been asked: what it has not seen cannot let go the headers that it holds.
                Verdict::Pause
            } else {
                Verdict::Continue
            };
            if verdict == Verdict::Pause {
                match self.stream.hold(direction.stream(), at) {
                    Hold::Kept => {
                        self.is_irregular = true;
                        if let Some(step) = self.steps.get_mut(at) {
                            step.held[direction as usize] = Held { body: true, end };
                        }
                        return Verdict::Pause;
                    }
                    Hold::TooLarge => return self.too_large(),
                    // Headers that the filter holds do not leave because of a body that is too large.
                    Hold::StreamThrough if self.holds_headers(direction, order) => return self.too_large(),
                    Hold::StreamThrough => verdict = Verdict::Continue,
                }
            }
            if verdict != Verdict::Continue {
                return verdict;
            }
            self.release_headers(direction, order);
            order += 1;
        }
        self.flow_mut(direction).ended = end;
        Verdict::Continue
    }

    /// Puts what filter `at` holds before the parcel, and says whether that was the last one; `None` when it holds
    /// nothing.
    pub(super) fn recall(&mut self, direction: Direction, at: usize) -> Option<bool> {
        let held = std::mem::take(&mut self.steps.get_mut(at)?.held[direction as usize]);
        held.body.then(|| {
            self.stream.recall(direction.stream(), at);
            held.end
        })
    }

    pub(super) fn run_trailers(&mut self, direction: Direction) -> Verdict {
        let (_, body, callback) = direction.callbacks();
        self.relays = false;
        while self.flow(direction).trailers_seen() < self.steps.len() {
            let order = self.flow(direction).trailers_seen();
            if self.flow(direction).headers_seen() <= order {
                // Headers that were held above have been let go by the trailers.
                match self.next_headers(direction) {
                    Verdict::Continue | Verdict::Pause => {}
                    verdict => return verdict,
                }
            }
            self.flow_mut(direction).show_trailers();
            let at = direction.turn(order, self.steps.len());
            let verdict = if self.exports(at, callback) {
                let count = self.count(direction.maps().1);
                self.call(at, callback, [count, 0])
            } else if self.holds_headers(direction, order) && !self.exports(at, body) {
                // As with bodies: it cannot let go the headers by what it does not see.
                Verdict::Pause
            } else {
                Verdict::Continue
            };
            match verdict {
                Verdict::Continue => {}
                Verdict::Pause => {
                    self.flow_mut(direction).trailers_held = true;
                    return Verdict::Pause;
                }
                verdict => return verdict,
            }
            self.release_headers(direction, order);
            // A filter that lets the trailers go lets the body that it held go before them.
            if self.recall(direction, at).is_some() {
                match self.run_body(direction, order + 1, false) {
                    Verdict::Continue | Verdict::Pause => {}
                    verdict => return verdict,
                }
            }
        }
        Verdict::Continue
    }

    /// Whether filter `at` exports `callback`.
    pub(super) fn exports(&self, at: usize, callback: Callback) -> bool {
        let plans = self.shard.pool.plans();
        let step = plans.chain(self.id).and_then(|chain| chain.steps.get(at));
        step.and_then(|step| plans.groups().get(step.group))
            .is_some_and(|group| group.filter.exports(callback))
    }

    /// Whether the headers are held by the filter that comes as number `order`, which still runs.
    fn holds_headers(&self, direction: Direction, order: usize) -> bool {
        let flow = self.flow(direction);
        let step = self.steps.get(direction.turn(order, self.steps.len()));
        flow.headers_held && flow.headers_seen() == order + 1 && step.is_some_and(|step| !step.failed)
    }

    /// The filter that comes as number `order` lets the headers go, if it holds them.
    fn release_headers(&mut self, direction: Direction, order: usize) {
        let flow = self.flow_mut(direction);
        if flow.headers_seen() == order + 1 {
            flow.headers_held = false;
        }
    }
}
