//! Calls out: what guests send to other services, over connections of nginx's event loop.
//!
//! ```text
//! core ─► Client::http ─► target: upstream block, unix:, address, host
//!            │ a task in the room
//!            ▼
//!          peers: balancer, or resolver ─► idle: a connection that rests, or connect ─► TLS
//!            ▼                                                                            │
//!          http1, or grpc over http2: hyper, over ngx::net::socket ◄──────────────────────┘
//!            │ response, or fault (and the next peer, where nothing can have come of it)
//!            ▼
//!          Shard::called, in a turn of nginx's loop
//! ```
//!
//! Everything that a call holds is in its task. Ending the task, by dropping it, ends all of it: the connection is
//! closed, timers are taken back, the resolver is told, and the balancer has its peer back.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    rc::{Rc, Weak},
    time::Duration,
};

use weir_core::{
    host::calls::{ByCall, CallError, CallEvent, CallFailure, CallToken, GrpcCall, HttpCall},
    shard::Shard,
};

use crate::{
    host::Ngx,
    ngx::{
        cycle::Cycle,
        net::{
            address::Address,
            lookup::{Lookup, Resolver},
            servers::Servers,
            shadow::Shadows,
            tls::{Tls, sessions::Sessions},
        },
        request::Request,
    },
};

pub(crate) mod allow;
mod exchange;
mod fault;
mod frames;
mod grpc;
mod http1;
mod http2;
pub(crate) mod idle;
mod letter;
mod link;
mod message;
mod outbox;
mod peers;
mod reading;
mod report;
mod room;
mod target;
mod way;

use self::{
    allow::Rules,
    exchange::Order,
    fault::Fault,
    grpc::Stop,
    http1::Received,
    http2::Shared,
    idle::{Idle, Keeping},
    letter::Letter,
    outbox::{Hangup, Outbox},
    report::{Names, Reports},
    room::{Room, TaskId},
    target::Target,
};

/// What the configuration says of calls.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How connections are kept.
    pub(crate) keeping: Keeping,
    /// The resolver of the `wasm` block, where it has one.
    pub(crate) resolver: Option<Resolver>,
    /// How long it is waited for.
    pub(crate) resolver_time: Duration,
    /// What TLS is made with; `None` by an nginx without it.
    pub(crate) tls: Option<Rc<Tls>>,
    /// Whether calls are encrypted, by what they name in any letters; where it is not here their scheme says so.
    pub(crate) encrypted: Rc<[(Box<[u8]>, bool)]>,
}

impl Settings {
    /// Whether calls of `upstream` are encrypted, where the configuration says so.
    fn encrypts(&self, upstream: &[u8]) -> Option<bool> {
        let named = self.encrypted.iter().find(|(name, _)| name.eq_ignore_ascii_case(upstream));
        named.map(|(_, encrypts)| *encrypts)
    }
}

/// A worker's calls.
pub(crate) struct Client {
    settings: Settings,
    /// The resolver of the `wasm` block, else of the `http` block.
    resolver: Option<Resolver>,
    /// The resolver of the `http` block, which locations inherit.
    http_resolver: Option<Resolver>,
    room: Rc<Room>,
    upstreams: BTreeMap<Box<[u8]>, Servers>,
    live: RefCell<ByCall<Live>>,
    shadows: Shadows,
    idle: Idle,
    shared: Shared,
    received: Received,
    sessions: Rc<Sessions>,
    reports: Reports,
    shard: RefCell<Weak<Shard<Ngx>>>,
    is_over: Cell<bool>,
    /// How many calls there have been.
    serial: Cell<u64>,
}

/// A call that is under way.
#[derive(Debug)]
struct Live {
    task: TaskId,
    /// Which call of this worker's it is: tokens are given again.
    serial: u64,
    /// Where its messages wait, if it is a stream of gRPC.
    outbox: Option<Outbox>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("live", &self.live.borrow().len())
            .field("idle", &self.idle.len())
            .field("shared", &self.shared.len())
            .finish_non_exhaustive()
    }
}

/// Who makes a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Maker<'a> {
    /// Its request, if it has one.
    pub(crate) request: Option<Request<'a>>,
    /// What it may call.
    pub(crate) rules: &'a Rc<Rules>,
    /// Name of the filter.
    pub(crate) filter: &'a str,
}

impl Client {
    /// A client of the cycle that this process runs by.
    pub(crate) fn new(settings: Settings) -> Rc<Self> {
        let (upstreams, http) = Cycle::with_current(|cycle| (Servers::all(cycle), Resolver::of_http(cycle)));
        let resolver = settings.resolver.or(http).filter(|resolver| resolver.has_servers());
        let client = Rc::new(Self {
            idle: Idle::new(settings.keeping),
            settings,
            resolver,
            http_resolver: http,
            room: Room::new(),
            upstreams,
            shadows: Shadows::default(),
            live: RefCell::default(),
            shared: Shared::default(),
            received: Received::default(),
            sessions: Rc::default(),
            reports: Reports::default(),
            shard: RefCell::default(),
            is_over: Cell::default(),
            serial: Cell::default(),
        });
        let sweeper = Rc::clone(&client);
        client.room.spawn(Box::pin(async move { sweeper.idle.watch().await }));
        client
    }

    /// Whom it tells what has become of calls.
    pub(crate) fn serve(&self, shard: &Rc<Shard<Ngx>>) {
        self.shard.replace(Rc::downgrade(shard));
    }

    /// Ends all calls and closes all connections.
    pub(crate) fn stop(&self) {
        self.is_over.set(true);
        self.idle.close();
        self.shared.clear();
        self.room.clear();
        self.live.take();
    }

    /// Begins an HTTP call.
    ///
    /// # Errors
    /// [`CallError`] when it cannot be begun.
    pub(crate) fn http(
        self: &Rc<Self>,
        token: CallToken,
        maker: Maker<'_>,
        call: &HttpCall<'_>,
    ) -> Result<(), CallError> {
        self.check()?;
        let is_https = way::is_https(call.scheme)?;
        let is_tls = self.settings.encrypts(call.upstream).unwrap_or(is_https);
        let letter = Letter::new(call, is_tls).map_err(|reason| CallError::Unknown(reason.into()))?;
        let way = self.way(maker, call.upstream, is_tls)?;
        let name = self.name(&way, call.authority, is_tls)?;
        let order = Order { way, name, letter, most: call.most, rules: Rc::clone(maker.rules) };
        let (names, time) = (Names::new(maker.filter, call.upstream), call.timeout);
        let client = Rc::clone(self);
        let (serial, ending) = Ending::new(self, token, CallEvent::Failed(CallFailure::Cancelled));
        let task = self.room.spawn(Box::pin(async move {
            let _ending = ending;
            let event = match exchange::run(&client, order, time).await {
                Ok(response) => CallEvent::Response(response),
                Err(fault) => {
                    client.reports.say(&names, &fault);
                    CallEvent::Failed(fault.failure)
                }
            };
            client.tell(token, event);
        }));
        self.live.borrow_mut().insert(token, Live { task, serial, outbox: None });
        Ok(())
    }

    /// Begins a gRPC call.
    ///
    /// # Errors
    /// [`CallError`] when it cannot be begun.
    pub(crate) fn grpc(
        self: &Rc<Self>,
        token: CallToken,
        maker: Maker<'_>,
        call: &GrpcCall<'_>,
    ) -> Result<(), CallError> {
        self.check()?;
        // As in nginx's `grpc_pass`.
        let (upstream, is_tls) = match call.upstream.strip_prefix(b"grpcs://") {
            Some(upstream) => (upstream, true),
            None => (call.upstream.strip_prefix(b"grpc://").unwrap_or(call.upstream), false),
        };
        let is_tls = self.settings.encrypts(upstream).unwrap_or(is_tls);
        let outbox = Outbox::default();
        if let Some(message) = call.message {
            post(&outbox, message)?;
            outbox.close();
        }
        let authority = match str::from_utf8(upstream) {
            Ok(upstream) if !upstream.starts_with("unix:") => upstream,
            Ok(_) | Err(_) => "localhost",
        };
        let request = grpc::request(call, authority, is_tls, outbox.clone());
        let request = request.map_err(|reason| CallError::Unknown(reason.into()))?;
        let way = self.way(maker, upstream, is_tls)?;
        let name = self.name(&way, authority.as_bytes(), is_tls)?;
        let order = grpc::Order { way, name, request, most: call.most, rules: Rc::clone(maker.rules) };
        let (names, time) = (Names::new(maker.filter, call.upstream), call.timeout);
        let client = Rc::clone(self);
        let hangup = Hangup(outbox.clone());
        let broken = Fault::new(CallFailure::Cancelled, "the call was given up");
        let (serial, ending) = Ending::new(self, token, CallEvent::Closed(grpc::closed_by(&broken)));
        let task = self.room.spawn(Box::pin(async move {
            let (_hangup, _ending) = (hangup, ending);
            let closed = match grpc::run(&client, token, order, time).await {
                Ok(closed) => closed,
                Err(Stop::Unwanted) => return,
                Err(Stop::Fault(fault)) => {
                    client.reports.say(&names, &fault);
                    grpc::closed_by(&fault)
                }
            };
            client.tell(token, CallEvent::Closed(closed));
        }));
        self.live.borrow_mut().insert(token, Live { task, serial, outbox: Some(outbox) });
        Ok(())
    }

    /// Sends one more message on a stream.
    ///
    /// # Errors
    /// [`CallError`] when too much waits to be sent already.
    pub(crate) fn send(&self, token: CallToken, message: &[u8], last: bool) -> Result<(), CallError> {
        let outbox = self.outbox(token).ok_or(CallError::Unknown("there is no such stream".into()))?;
        post(&outbox, message)?;
        if last {
            outbox.close();
        }
        Ok(())
    }

    /// No message follows on a stream.
    pub(crate) fn close(&self, token: CallToken) {
        if let Some(outbox) = self.outbox(token) {
            outbox.close();
        }
    }

    fn outbox(&self, token: CallToken) -> Option<Outbox> {
        self.live.borrow().get(&token)?.outbox.clone()
    }

    /// Looks up the addresses of host `name`.
    ///
    /// # Errors
    /// [`CallError`] when that cannot be.
    pub(crate) fn resolve(
        self: &Rc<Self>,
        token: CallToken,
        maker: Maker<'_>,
        name: &str,
    ) -> Result<(), CallError> {
        self.check()?;
        let Some(Target::Host(host, None)) = Target::parse(name.as_bytes()) else {
            return Err(CallError::Unknown(format!("\"{name}\" is no name of a host").into()));
        };
        let (resolver, time) = self.resolver_for(maker, &host)?;
        let lookup = Lookup::new(resolver, host.as_bytes(), time);
        let (client, names) = (Rc::clone(self), Names::new(maker.filter, host.as_bytes()));
        let (serial, ending) = Ending::new(self, token, CallEvent::Failed(CallFailure::Cancelled));
        let task = self.room.spawn(Box::pin(async move {
            let _ending = ending;
            let found = lookup.await;
            let found = found.map(|all| all.iter().filter_map(Address::ip).collect::<Vec<_>>());
            let event = match found {
                Ok(addresses) if !addresses.is_empty() => CallEvent::Resolved(addresses),
                Ok(_) | Err(_) => {
                    let fault = Fault::new(CallFailure::Resolve, "the host has no address");
                    client.reports.say(&names, &fault);
                    CallEvent::Failed(fault.failure)
                }
            };
            client.tell(token, event);
        }));
        self.live.borrow_mut().insert(token, Live { task, serial, outbox: None });
        Ok(())
    }

    /// Whether calls can be begun at all.
    fn check(&self) -> Result<(), CallError> {
        if self.is_over.get() { Err(CallError::Overloaded("this worker ends".into())) } else { Ok(()) }
    }

    /// Ends a call that nobody waits for any more.
    pub(crate) fn cancel(&self, token: CallToken) {
        let live = self.live.borrow_mut().remove(&token);
        if let Some(live) = live {
            self.room.abort(live.task);
        }
    }

    /// Tells core what has become of a call; false when nobody waits for it.
    fn tell(&self, token: CallToken, event: CallEvent) -> bool {
        // Before that, since the token may be given again below it. One that has been cancelled is told of nothing.
        let lives = if event.is_last() {
            self.live.borrow_mut().remove(&token).is_some()
        } else {
            self.live.borrow().contains_key(&token)
        };
        let shard = self.shard.borrow().upgrade();
        let is_last = event.is_last();
        let wanted = lives && shard.is_some_and(|shard| shard.called(token, event));
        if !wanted && !is_last {
            self.cancel(token);
        }
        wanted
    }
}

/// Sees to it that each call ends: one whose task is gone without a word (it has panicked) is told so by this.
struct Ending {
    client: Weak<Client>,
    token: CallToken,
    serial: u64,
    event: Option<CallEvent>,
}

impl Ending {
    /// For the next call, whose serial number it answers as well.
    fn new(client: &Rc<Client>, token: CallToken, event: CallEvent) -> (u64, Self) {
        let serial = client.serial.get().wrapping_add(1);
        client.serial.set(serial);
        (serial, Self { client: Rc::downgrade(client), token, serial, event: Some(event) })
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let (Some(client), Some(event)) = (self.client.upgrade(), self.event.take()) else { return };
        // A call that has ended or was cancelled is none of these.
        let lives = client.live.borrow().get(&self.token).is_some_and(|live| live.serial == self.serial);
        if client.is_over.get() || !lives {
            return;
        }
        let (teller, token) = (Rc::clone(&client), self.token);
        // In a turn of its own: this may run below a hostcall, or while a panic unwinds.
        client.room.spawn(Box::pin(async move {
            teller.tell(token, event);
        }));
    }
}

/// `message` waits to be sent.
fn post(outbox: &Outbox, message: &[u8]) -> Result<(), CallError> {
    let frame = frames::framed(message);
    let frame = frame.ok_or(CallError::Overloaded("the message is too long for a frame".into()))?;
    if outbox.push(frame) {
        Ok(())
    } else {
        Err(CallError::Overloaded("too many messages of this stream wait to be sent".into()))
    }
}
