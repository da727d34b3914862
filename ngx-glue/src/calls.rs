//! Calls out: what guests send to other services, over connections of nginx's event loop.
//!
//! ```text
//! core ─► Client::http ─► target: upstream block, unix:, address, host
//!            │ a task in the room
//!            ▼
//!          peers: balancer, or resolver ─► idle: a connection that rests, or connect ─► TLS
//!            ▼                                                                            │
//!          http1: hyper, over ngx::net::socket ◄──────────────────────────────────────────┘
//!            │ response, or fault (and the next peer, where nothing can have come of it)
//!            ▼
//!          Shard::called, in a turn of nginx's loop
//! ```
//!
//! Everything that a call holds is in its task. Ending the task, by dropping it, ends all of it: the connection is
//! closed, timers are taken back, the resolver is told, and the balancer has its peer back.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    net::SocketAddr,
    rc::{Rc, Weak},
    time::Duration,
};

use weir_core::{
    host::calls::{CallError, CallEvent, CallToken, HttpCall},
    shard::Shard,
};

use crate::{
    host::Ngx,
    ngx::{
        cycle::Cycle,
        net::{
            lookup::Resolver,
            servers::Servers,
            shadow::Shadow,
            tls::{Tls, sessions::Sessions},
        },
        request::Request,
    },
};

pub(crate) mod allow;
mod exchange;
mod fault;
mod http1;
pub(crate) mod idle;
mod message;
mod peers;
mod report;
mod room;
mod target;

use self::{
    allow::Rules,
    exchange::{Order, Way},
    idle::{Idle, Keeping},
    peers::Peers,
    report::Reports,
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
}

/// A worker's calls.
pub(crate) struct Client {
    settings: Settings,
    resolver: Option<Resolver>,
    room: Rc<Room>,
    upstreams: HashMap<Box<[u8]>, Servers>,
    live: RefCell<HashMap<CallToken, TaskId>>,
    idle: Idle,
    sessions: Rc<Sessions>,
    reports: Reports,
    shard: RefCell<Weak<Shard<Ngx>>>,
    is_over: Cell<bool>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("live", &self.live.borrow().len())
            .field("idle", &self.idle.len())
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
            room: Room::new(),
            upstreams,
            live: RefCell::default(),
            sessions: Rc::default(),
            reports: Reports::default(),
            shard: RefCell::default(),
            is_over: Cell::default(),
        });
        let sweeper = Rc::clone(&client);
        client.room.spawn(async move { sweeper.idle.watch().await });
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
        if self.is_over.get() {
            return Err(CallError::Overloaded("nginx ends".into()));
        }
        let is_tls = is_https(call.scheme)?;
        let way = self.way(maker, call.upstream, is_tls)?;
        let request = message::request(call).map_err(|reason| CallError::Unknown(reason.into()))?;
        let name = self.name(&way, call.authority, is_tls)?;
        let order = Order { way, name, request, most: call.most, rules: Rc::clone(maker.rules) };
        let (filter, upstream, time) = (Box::from(maker.filter), Box::from(call.upstream), call.timeout);
        let client = Rc::clone(self);
        let task = self.room.spawn(async move {
            let event = match exchange::run(&client, order, time).await {
                Ok(response) => CallEvent::Response(response),
                Err(fault) => {
                    client.reports.say(&filter, &upstream, &fault);
                    CallEvent::Failed(fault.failure)
                }
            };
            client.end(token, event);
        });
        self.live.borrow_mut().insert(token, task);
        Ok(())
    }

    /// Ends a call that nobody waits for any more.
    pub(crate) fn cancel(&self, token: CallToken) {
        let task = self.live.borrow_mut().remove(&token);
        if let Some(task) = task {
            self.room.abort(task);
        }
    }

    /// Tells core of the last event of a call.
    fn end(&self, token: CallToken, event: CallEvent) {
        // Before that, since the token may be given again below it. One that has been cancelled is told of nothing.
        if self.live.borrow_mut().remove(&token).is_none() {
            return;
        }
        let shard = self.shard.borrow().upgrade();
        if let Some(shard) = shard {
            shard.called(token, event);
        }
    }

    /// How `upstream` is reached by `maker`, as far as that can be said at once.
    fn way(&self, maker: Maker<'_>, upstream: &[u8], is_tls: bool) -> Result<Way, CallError> {
        let shown = || String::from_utf8_lossy(upstream);
        let refused = || {
            let advice = "add it to \"proxy_wasm_allow_calls\" if it should";
            CallError::Refused(format!("this filter may not call \"{}\": {advice}", shown()).into())
        };
        if let Some(servers) = self.upstreams.get(upstream) {
            if !maker.rules.allows_name(&upstream.to_ascii_lowercase()) {
                return Err(refused());
            }
            let shadow = Shadow::new(*servers, maker.request);
            let shadow = shadow.map_err(|error| CallError::Overloaded(error.to_string().into()))?;
            return Ok(Way::Peers(Peers::Balanced(shadow)));
        }
        let unknown = || {
            let kinds = "it is neither an \"upstream\" block, nor \"unix:/PATH\", HOST[:PORT] or an address";
            CallError::Unknown(format!("nothing can be called by the name \"{}\": {kinds}", shown()).into())
        };
        let default = if is_tls { 443 } else { 80 };
        match Target::parse(upstream).ok_or_else(unknown)? {
            Target::Unix(address) => {
                let name = upstream.strip_suffix(b":").unwrap_or(upstream);
                if !maker.rules.allows_name(name) {
                    return Err(refused());
                }
                Ok(Way::Peers(Peers::listed(vec![address])))
            }
            Target::Ip(ip, port) => {
                if !maker.rules.allows_address(ip, maker.rules.allows_name(ip.to_string().as_bytes())) {
                    return Err(refused());
                }
                let address = SocketAddr::new(ip, port.unwrap_or(default));
                Ok(Way::Peers(Peers::listed(vec![address.into()])))
            }
            Target::Host(host, port) => {
                if !maker.rules.may_allow(host.as_bytes()) {
                    return Err(refused());
                }
                let resolver = self.resolver.ok_or_else(|| {
                    let advice =
                        "add a \"resolver\" to the \"wasm\" or the \"http\" block, or an \"upstream\" block";
                    CallError::Unknown(format!("\"{host}\" cannot be looked up: {advice}").into())
                })?;
                Ok(Way::Host { resolver, host, port: port.unwrap_or(default) })
            }
        }
    }

    /// The name that the other side has to prove, where the connection is encrypted.
    fn name(&self, way: &Way, authority: &[u8], is_tls: bool) -> Result<Option<Rc<str>>, CallError> {
        if !is_tls {
            return Ok(None);
        }
        if self.settings.tls.is_none() {
            return Err(CallError::Unknown("this nginx is built without TLS".into()));
        }
        if let Way::Host { host, .. } = way {
            return Ok(Some(host.trim_end_matches('.').into()));
        }
        let authority = str::from_utf8(authority)
            .map_err(|_| CallError::Unknown("\":authority\" names no host that can be verified".into()))?;
        Ok(Some(target::host_of(authority).to_ascii_lowercase().into()))
    }
}

/// Whether a guest's `:scheme` asks for TLS.
fn is_https(scheme: Option<&[u8]>) -> Result<bool, CallError> {
    match scheme {
        None => Ok(false),
        Some(scheme) if scheme.eq_ignore_ascii_case(b"http") => Ok(false),
        Some(scheme) if scheme.eq_ignore_ascii_case(b"https") => Ok(true),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            Err(CallError::Unknown(format!("\":scheme\" is \"{other}\": it must be http or https").into()))
        }
    }
}
