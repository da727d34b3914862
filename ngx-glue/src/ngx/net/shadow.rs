//! A request that stands for a call, since nginx's balancers choose peers for requests (docs/adr/0002).
//!
//! It has a pool of its own and an `ngx_http_upstream_t` of its own. What a balancer's variables look at is copied from
//! the request that makes the call, if there is one; what they find out is kept in the call's own pool.

use std::{
    cell::{RefCell, UnsafeCell},
    fmt, io,
    mem::MaybeUninit,
    ptr::NonNull,
    rc::{Rc, Weak},
};

use nginx_sys::{
    NGX_DONE, NGX_OK, NGX_PEER_FAILED, ngx_connection_t, ngx_create_pool, ngx_destroy_pool,
    ngx_http_connection_t, ngx_http_core_main_conf_t, ngx_http_core_module, ngx_http_max_module,
    ngx_http_request_t, ngx_http_upstream_conf_t, ngx_http_upstream_state_t, ngx_http_upstream_t,
    ngx_http_variable_value_t, ngx_int_t, ngx_palloc, ngx_pcalloc, ngx_peer_connection_t, ngx_pool_t,
    ngx_reset_pool, sockaddr,
};

use super::{
    address::Address,
    quiet,
    servers::{self, Servers},
    socket::Socket,
};
use crate::ngx::{cycle::Cycle, request::Request};

/// Bytes that a shadow takes, roughly; beyond them its pool grows.
const POOL: usize = 6 << 10;

/// A call's turn with the balancer of an `upstream` block. Dropping it gives a peer back that has been chosen.
#[derive(Debug)]
pub(crate) struct Shadow {
    upstream: NonNull<ngx_http_upstream_t>,
    /// Whether a peer has been chosen and not given back.
    holds: bool,
    /// Where the record, and what the balancer keeps of it, is.
    _pool: Pool,
}

/// What a balancer has chosen.
#[derive(Debug)]
pub(crate) enum Choice {
    /// A connection that `keepalive` has kept.
    Kept(Socket, Address),
    /// A peer to connect to.
    Peer(Address),
    /// None: all are down, or busy.
    None,
}

/// How a call with a peer has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer has done its part.
    Good,
    /// It has not, which is counted (`max_fails`).
    Failed,
}

/// Pools of shadows that are gone, for those to come: memory that was used last is in the processor's caches.
#[derive(Debug, Default)]
pub(crate) struct Shadows(Rc<RefCell<Vec<Bare>>>);

/// Most pools that are kept: 192 KiB of a worker's.
const MOST: usize = 32;

/// A pool that nobody uses.
struct Bare(NonNull<ngx_pool_t>);

impl fmt::Debug for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bare")
    }
}

impl Bare {
    /// Whether nothing is left of what was in it once nginx has reset it: no further blocks, no large ones, and nobody
    /// who wants to know of its end.
    fn is_bare(&self) -> bool {
        // SAFETY: it is ours; the reference ends here.
        let pool = unsafe { self.0.as_ref() };
        pool.d.next.is_null() && pool.large.is_null() && pool.cleanup.is_null()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nothing of it is used after this.
        unsafe { ngx_destroy_pool(self.0.as_ptr()) };
    }
}

/// The pool of a shadow.
#[derive(Debug)]
struct Pool {
    /// There until it is dropped.
    bare: Option<Bare>,
    home: Weak<RefCell<Vec<Bare>>>,
}

impl Pool {
    fn new(shadows: &Shadows) -> Option<Self> {
        let kept = shadows.0.borrow_mut().pop();
        let bare = match kept {
            Some(bare) => bare,
            // SAFETY: the log is there for ever.
            None => NonNull::new(unsafe { ngx_create_pool(POOL, quiet::log()) }).map(Bare)?,
        };
        Some(Self { bare: Some(bare), home: Rc::downgrade(&shadows.0) })
    }

    fn as_ptr(&self) -> *mut ngx_pool_t {
        self.bare.as_ref().map_or(std::ptr::null_mut(), |bare| bare.0.as_ptr())
    }

    /// Zeros for a `T`, for which they must be valid.
    ///
    /// # Safety
    /// Zeros are a `T`.
    unsafe fn zeroed<T>(&self, count: usize) -> Option<NonNull<T>> {
        let size = size_of::<T>().checked_mul(count)?;
        // SAFETY: the pool lives.
        NonNull::new(unsafe { ngx_pcalloc(self.as_ptr(), size.max(1)) }).map(NonNull::cast)
    }

    /// A copy of `count` values at `first`.
    ///
    /// # Safety
    /// There are as many.
    unsafe fn copy<T: Copy>(&self, first: NonNull<T>, count: usize) -> Option<NonNull<T>> {
        let size = size_of::<T>().checked_mul(count)?;
        // SAFETY: the pool lives.
        let room = NonNull::new(unsafe { ngx_palloc(self.as_ptr(), size.max(1)) })?.cast::<T>();
        // SAFETY: the caller's promise, and the room is for as many and nobody else's.
        unsafe { first.copy_to_nonoverlapping(room, count) };
        Some(room)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let Some(bare) = self.bare.take().filter(Bare::is_bare) else { return };
        let Some(home) = self.home.upgrade() else { return };
        let mut home = home.borrow_mut();
        if home.len() < MOST {
            // SAFETY: it is ours, and nothing that is in it is used after this.
            unsafe { ngx_reset_pool(bare.0.as_ptr()) };
            home.push(bare);
        }
    }
}

/// What a location says of its upstream, where no location does: zeros, which is what nginx begins with.
struct Settings(UnsafeCell<MaybeUninit<ngx_http_upstream_conf_t>>);

// SAFETY: nothing writes to it: nginx and its balancers take a configuration as it is once it has been read.
unsafe impl Sync for Settings {}

static SETTINGS: Settings = Settings(UnsafeCell::new(MaybeUninit::zeroed()));

impl Shadow {
    /// Asks the balancer of `servers` to make itself ready for a call that `maker` makes, or a root context.
    ///
    /// # Errors
    /// When there is no memory, or the balancer refuses.
    pub(crate) fn new(shadows: &Shadows, servers: Servers, maker: Option<Request<'_>>) -> io::Result<Self> {
        let none = || io::Error::from(io::ErrorKind::OutOfMemory);
        let pool = Pool::new(shadows).ok_or_else(none)?;
        let (request, upstream) = Self::fill(&pool, maker).ok_or_else(none)?;
        // SAFETY: a configuration lives as long as the worker, and is not written to.
        let init = unsafe { (*servers.as_ptr()).peer.init };
        let init = init.ok_or_else(|| io::Error::other("the upstream has no balancer"))?;
        // SAFETY: `fill` has made what nginx gives a balancer (`ngx_http_upstream_init_request()`).
        let code = unsafe { init(request.as_ptr(), servers.as_ptr()) };
        if code != NGX_OK as ngx_int_t {
            return Err(io::Error::other("the upstream's balancer is not ready"));
        }
        {
            // SAFETY: it is in our pool; the reference ends with this block.
            let peer = unsafe { &mut (*upstream.as_ptr()).peer };
            // SAFETY: nginx writes its clock in its one thread, which is the one that runs.
            peer.start_time = unsafe { nginx_sys::ngx_current_msec };
        }
        Ok(Self { upstream, holds: false, _pool: pool })
    }

    /// The request and the upstream record that a balancer is given.
    fn fill(
        pool: &Pool,
        maker: Option<Request<'_>>,
    ) -> Option<(NonNull<ngx_http_request_t>, NonNull<ngx_http_upstream_t>)> {
        // SAFETY: nginx zeroes these itself.
        let upstream = unsafe { pool.zeroed::<ngx_http_upstream_t>(1) }?;
        // SAFETY: numbers and pointers, for which zeros are valid.
        let state = unsafe { pool.zeroed::<ngx_http_upstream_state_t>(1) }?;
        let request = match maker {
            Some(maker) => Self::copy_of(pool, maker)?,
            None => Self::of_nobody(pool)?,
        };
        {
            // SAFETY: it is in the pool and nobody else's; the reference ends with this block.
            let upstream = unsafe { &mut *upstream.as_ptr() };
            upstream.conf = SETTINGS.0.get().cast();
            upstream.state = state.as_ptr();
            upstream.peer.log = Cycle::with_current(|cycle| cycle.log().as_ptr());
            // What `keepalive` wants to know (`ngx_http_upstream_free_keepalive_peer()`): all has been sent by the time
            // a connection comes back.
            upstream.set_request_body_sent(1);
        }
        // SAFETY: it is in the pool and nobody else's; the reference ends with these lines.
        let fields = unsafe { &mut *request.as_ptr() };
        fields.main = request.as_ptr();
        fields.parent = std::ptr::null_mut();
        fields.pool = pool.as_ptr();
        fields.upstream = upstream.as_ptr();
        fields.cleanup = std::ptr::null_mut();
        Some((request, upstream))
    }

    /// A copy of `maker`, with values of variables of its own: those that are evaluated for a balancer are kept in the
    /// call's pool, and must not be found by the request, which may live longer.
    fn copy_of(pool: &Pool, maker: Request<'_>) -> Option<NonNull<ngx_http_request_t>> {
        let original = NonNull::new(maker.as_ptr())?;
        // SAFETY: the request lives.
        let copy = unsafe { pool.copy(original, 1) }?;
        // SAFETY: the request lives; the reference ends here.
        let mains = NonNull::new(unsafe { original.as_ref() }.main_conf)?;
        // SAFETY: main configurations of a live request.
        let count = unsafe { variables(mains) }?;
        // SAFETY: the request lives; the reference ends here.
        let values = NonNull::new(unsafe { original.as_ref() }.variables)?;
        // SAFETY: a request has as many values as there are indexed variables (`ngx_http_alloc_request()`).
        let values = unsafe { pool.copy(values, count) }?;
        // SAFETY: it is in our pool and nobody else's; the reference ends here.
        unsafe { &mut *copy.as_ptr() }.variables = values.as_ptr();
        Some(copy)
    }

    /// A request that nobody has sent: of the `http` block, over no connection.
    fn of_nobody(pool: &Pool) -> Option<NonNull<ngx_http_request_t>> {
        let contexts = Cycle::with_current(servers::contexts)?;
        // SAFETY: nginx zeroes a request itself.
        let request = unsafe { pool.zeroed::<ngx_http_request_t>(1) }?;
        // SAFETY: nginx zeroes a connection itself.
        let connection = unsafe { pool.zeroed::<ngx_connection_t>(1) }?;
        // SAFETY: pointers and numbers, for which zeros are valid.
        let http = unsafe { pool.zeroed::<ngx_http_connection_t>(1) }?;
        // SAFETY: bytes; 0.0.0.0, as its family.
        let peer = unsafe { pool.zeroed::<[u64; 2]>(1) }?.cast::<sockaddr>();
        // SAFETY: room for a short address, which is ours.
        unsafe { &mut *peer.as_ptr() }.sa_family = u16::try_from(libc::AF_INET).ok()?;
        // SAFETY: the configuration of the http module is this structure, of the cycle's pool.
        let confs = unsafe { contexts.read() };
        // SAFETY: main configurations of the cycle.
        let count = unsafe { variables(NonNull::new(confs.main_conf)?) }?;
        // SAFETY: nginx zeroes values itself.
        let values = unsafe { pool.zeroed::<ngx_http_variable_value_t>(count) }?;
        // SAFETY: nginx writes this number while it reads a configuration only.
        let modules = unsafe { ngx_http_max_module };
        // SAFETY: null pointers.
        let places = unsafe { pool.zeroed::<*mut std::ffi::c_void>(modules) }?;
        {
            // SAFETY: it is in the pool and nobody else's; the reference ends with this block.
            let connection = unsafe { &mut *connection.as_ptr() };
            connection.fd = -1;
            connection.log = Cycle::with_current(|cycle| cycle.log().as_ptr());
            connection.pool = pool.as_ptr();
            connection.sockaddr = peer.as_ptr();
            connection.socklen = 16;
            connection.data = request.as_ptr().cast();
        }
        // SAFETY: it is in the pool and nobody else's; the reference ends here.
        unsafe { &mut *http.as_ptr() }.conf_ctx = contexts.as_ptr();
        // SAFETY: it is in the pool and nobody else's; the reference ends with these lines.
        let fields = unsafe { &mut *request.as_ptr() };
        fields.signature = nginx_sys::NGX_HTTP_MODULE;
        fields.connection = connection.as_ptr();
        fields.http_connection = http.as_ptr();
        fields.main_conf = confs.main_conf;
        fields.srv_conf = confs.srv_conf;
        fields.loc_conf = confs.loc_conf;
        fields.ctx = places.as_ptr();
        fields.variables = values.as_ptr();
        fields.set_count(1);
        fields.headers_in.content_length_n = -1;
        fields.headers_in.keep_alive_n = -1;
        fields.headers_out.content_length_n = -1;
        fields.headers_out.last_modified_time = -1;
        Some(request)
    }

    /// The record by which balancers know a turn.
    fn raw_peer(&self) -> *mut ngx_peer_connection_t {
        // SAFETY: a place inside the record, which is in our pool.
        unsafe { &raw mut (*self.upstream.as_ptr()).peer }
    }

    fn peer(&mut self) -> &mut ngx_peer_connection_t {
        // SAFETY: it is in our pool, and only nginx's functions that we call write to it besides.
        unsafe { &mut *self.raw_peer() }
    }

    /// The next peer, or a connection to it that has been kept.
    pub(crate) fn choose(&mut self) -> Choice {
        self.give_back(End::Good);
        let peer = self.peer();
        peer.set_cached(0);
        peer.connection = std::ptr::null_mut();
        let (Some(get), data) = (peer.get, peer.data) else { return Choice::None };
        let raw = self.raw_peer();
        // SAFETY: a balancer's function with its own data, as `ngx_event_connect_peer()` calls it.
        let code = unsafe { get(raw, data) };
        let is_kept = code == NGX_DONE as ngx_int_t;
        if !is_kept && code != NGX_OK as ngx_int_t {
            return Choice::None;
        }
        self.holds = true;
        let peer = self.peer();
        let (found, length, kept) = (NonNull::new(peer.sockaddr), peer.socklen, peer.connection);
        peer.connection = std::ptr::null_mut();
        // SAFETY: the balancer has just set the address of its peer, of that length.
        let address = found.and_then(|raw| unsafe { Address::copy(raw, length) });
        let kept = NonNull::new(kept).filter(|_| is_kept).map(|raw| {
            // SAFETY: `keepalive` has taken it out of its cache for us; connections there have a pool of their own.
            unsafe { Socket::new(raw) }
        });
        match (address, kept) {
            (Some(address), Some(socket)) => Choice::Kept(socket, address),
            (Some(address), None) => Choice::Peer(address),
            (None, _) => Choice::None,
        }
    }

    /// How many peers may be tried, the one that is held included.
    pub(crate) fn tries(&mut self) -> usize {
        self.peer().tries
    }

    /// The next peer does not count as another try: a kept connection was at fault, not its peer
    /// (`ngx_http_upstream_next()`).
    pub(crate) fn forgive(&mut self) {
        let peer = self.peer();
        peer.tries = peer.tries.saturating_add(1);
    }

    /// Tells the balancer how it went with the peer that it has chosen.
    pub(crate) fn give_back(&mut self, end: End) {
        if !std::mem::take(&mut self.holds) {
            return;
        }
        let state = match end {
            End::Good => 0,
            End::Failed => NGX_PEER_FAILED as nginx_sys::ngx_uint_t,
        };
        let peer = self.peer();
        let (Some(free), data) = (peer.free, peer.data) else { return };
        let raw = self.raw_peer();
        // SAFETY: a balancer's function with its own data, once after each peer that it has chosen
        // (`ngx_http_upstream_finalize_request()`).
        unsafe { free(raw, data, state) };
        self.peer().sockaddr = std::ptr::null_mut();
    }

    /// The same after all has gone well, with a connection that can be used again. Answers it if `keepalive` is not
    /// there, or does not want it.
    pub(crate) fn keep(mut self, socket: Socket) -> Option<Socket> {
        if !self.holds {
            return Some(socket);
        }
        self.peer().connection = socket.lend().as_ptr();
        {
            // SAFETY: it is in our pool; the reference ends with this block.
            let upstream = unsafe { &mut *self.upstream.as_ptr() };
            upstream.set_keepalive(1);
        }
        self.give_back(End::Good);
        let peer = self.peer();
        let rest = NonNull::new(std::mem::replace(&mut peer.connection, std::ptr::null_mut()))?;
        // SAFETY: whoever wants a connection sets the pointer to null; this one is still open and nobody else's.
        Some(unsafe { Socket::new(rest) })
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.give_back(End::Good);
    }
}

/// How many indexed variables there are.
///
/// # Safety
/// `mains` are main configurations of the http module.
unsafe fn variables(mains: NonNull<*mut std::ffi::c_void>) -> Option<usize> {
    let core = &raw const ngx_http_core_module;
    // SAFETY: a static of nginx's; the number is only written while modules are counted.
    let index = unsafe { (*core).ctx_index };
    // SAFETY: the caller's promise: there is a slot for each http module.
    let slot = unsafe { mains.add(index) };
    // SAFETY: the slot is inside the array.
    let conf = NonNull::new(unsafe { slot.read() })?.cast::<ngx_http_core_main_conf_t>();
    // SAFETY: the slot of the core http module has this structure.
    Some(unsafe { conf.as_ref() }.variables.nelts)
}
