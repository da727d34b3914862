//! Where the futures of calls live: polled one after the other, in turns of nginx's event loop, in its one thread.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use crate::ngx::{
    cycle::Cycle,
    guard::guard_part,
    net::turn::{Run, Turn},
};

/// A future that answers nothing. A call's is larger than a kilobyte, and boxed where it is made: each hand that it went
/// through would copy it.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Number of a task in its room, and how often that number has been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskId {
    index: usize,
    generation: u64,
}

/// The tasks of one worker.
pub(crate) struct Room {
    /// Its number in [`ROOMS`].
    number: Cell<u64>,
    seats: RefCell<Vec<Seat>>,
    free: RefCell<Vec<usize>>,
    ready: RefCell<VecDeque<TaskId>>,
    turn: Turn,
}

/// The place of a task.
#[derive(Default)]
struct Seat {
    generation: u64,
    /// Whether there is a task.
    is_taken: bool,
    /// `None` while it is polled, and when there is none.
    task: Option<Task>,
    /// By which it is woken; the next task has the same one, if nobody else holds it any more.
    alarm: Option<Arc<Alarm>>,
}

/// What wakes a task. Wakers must be able to cross threads; this one finds its room in nginx's thread only, and does
/// nothing anywhere else.
#[derive(Debug)]
struct Alarm {
    room: u64,
    task: TaskId,
    is_ringing: AtomicBool,
}

/// Rooms by their numbers.
struct Rooms {
    next: u64,
    rooms: Vec<(u64, Weak<Room>)>,
}

thread_local! {
    /// The rooms of this thread. There is one for each configuration that runs.
    static ROOMS: RefCell<Rooms> = const { RefCell::new(Rooms { next: 0, rooms: Vec::new() }) };
}

/// Tasks that are polled before nginx handles other events again.
const BATCH: usize = 64;

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("tasks", &self.len()).finish_non_exhaustive()
    }
}

impl Room {
    /// An empty room.
    pub(crate) fn new() -> Rc<Self> {
        let room = Rc::new(Self {
            number: Cell::default(),
            seats: RefCell::default(),
            free: RefCell::default(),
            ready: RefCell::default(),
            turn: Turn::default(),
        });
        ROOMS.with_borrow_mut(|all| {
            all.next += 1;
            room.number.set(all.next);
            all.rooms.retain(|(_, room)| room.strong_count() > 0);
            all.rooms.push((all.next, Rc::downgrade(&room)));
        });
        let weak = Rc::downgrade(&room);
        room.turn.serve(weak);
        room
    }

    /// How many tasks live.
    pub(crate) fn len(&self) -> usize {
        self.seats.borrow().iter().filter(|seat| seat.is_taken).count()
    }

    /// Begins a task; it is polled in the next turn.
    pub(crate) fn spawn(&self, task: Task) -> TaskId {
        let mut seats = self.seats.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            seats.push(Seat::default());
            seats.len() - 1
        });
        let mut id = TaskId { index, generation: 0 };
        if let Some(seat) = seats.get_mut(index) {
            seat.generation += 1;
            id.generation = seat.generation;
            let alarm = Alarm { room: self.number.get(), task: id, is_ringing: AtomicBool::new(true) };
            match seat.alarm.as_mut().and_then(Arc::get_mut) {
                Some(old) => *old = alarm,
                None => seat.alarm = Some(Arc::new(alarm)),
            }
            seat.is_taken = true;
            seat.task = Some(task);
        }
        drop(seats);
        self.call(id);
        id
    }

    /// Ends a task wherever it is. One that has ended is none; one that is being polled ends when it next waits.
    pub(crate) fn abort(&self, id: TaskId) {
        // Dropped when nothing is borrowed: its destructors may spawn, wake and abort.
        let task = self.vacate(id);
        drop(task);
    }

    /// Ends all tasks.
    pub(crate) fn clear(&self) {
        loop {
            let all: Vec<TaskId> = {
                let seats = self.seats.borrow();
                let taken = seats.iter().enumerate().filter(|(_, seat)| seat.is_taken);
                taken.map(|(index, seat)| TaskId { index, generation: seat.generation }).collect()
            };
            if all.is_empty() {
                return;
            }
            all.into_iter().for_each(|id| self.abort(id));
        }
    }

    /// Takes a task out of its seat, which is free then.
    fn vacate(&self, id: TaskId) -> Option<Task> {
        let mut seats = self.seats.borrow_mut();
        let seat = seats.get_mut(id.index).filter(|seat| seat.generation == id.generation)?;
        if !std::mem::take(&mut seat.is_taken) {
            return None;
        }
        self.free.borrow_mut().push(id.index);
        seat.task.take()
    }

    /// The task is polled in the next turn.
    fn call(&self, id: TaskId) {
        self.ready.borrow_mut().push_back(id);
        self.turn.post();
    }

    fn poll(&self, id: TaskId) {
        let taken = {
            let mut seats = self.seats.borrow_mut();
            let seat = seats.get_mut(id.index).filter(|seat| seat.generation == id.generation);
            seat.and_then(|seat| seat.task.take().zip(seat.alarm.clone()))
        };
        let Some((mut task, alarm)) = taken else { return };
        alarm.is_ringing.store(false, Ordering::Relaxed);
        let waker = Waker::from(alarm);
        let polled = guarded(|| task.as_mut().poll(&mut Context::from_waker(&waker)));
        // One that has panicked, which has been logged, is not polled again.
        if polled.is_none_or(|polled| polled.is_ready()) {
            drop(self.vacate(id));
            return;
        }
        let mut seats = self.seats.borrow_mut();
        match seats.get_mut(id.index) {
            Some(seat) if seat.generation == id.generation && seat.is_taken => seat.task = Some(task),
            // It was aborted while it was polled.
            _ => {
                drop(seats);
                drop(task);
            }
        }
    }
}

/// Polls a task; `None` if it panics: others go on.
fn guarded<T>(poll: impl FnOnce() -> T) -> Option<T> {
    Cycle::with_current(|cycle| guard_part("a call", cycle.log(), poll))
}

impl Run for Room {
    fn run(&self) {
        for _ in 0..BATCH {
            let Some(id) = self.ready.borrow_mut().pop_front() else { return };
            self.poll(id);
        }
        if !self.ready.borrow().is_empty() {
            self.turn.post();
        }
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_ringing.swap(true, Ordering::Relaxed) {
            return;
        }
        let room = ROOMS.with_borrow(|all| {
            all.rooms.iter().find(|(number, _)| *number == self.room).and_then(|(_, room)| room.upgrade())
        });
        if let Some(room) = room {
            room.call(self.task);
        }
    }
}
