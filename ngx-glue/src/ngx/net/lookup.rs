//! Names to addresses, by nginx's resolver (`src/core/ngx_resolver.c`), which asks for both families.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::Future,
    pin::Pin,
    ptr::NonNull,
    rc::Rc,
    slice,
    task::{Context, Poll, Waker},
    time::Duration,
};

use nginx_sys::{
    NGX_OK, NGX_RESOLVE_TIMEDOUT, ngx_conf_t, ngx_http_core_loc_conf_t, ngx_http_core_module, ngx_int_t,
    ngx_msec_t, ngx_resolve_name, ngx_resolve_name_done, ngx_resolve_start, ngx_resolver_create,
    ngx_resolver_ctx_t, ngx_resolver_t, ngx_str_t,
};

use super::{address::Address, servers};
use crate::ngx::{
    conf::Conf,
    cycle::{Cycle, Module},
    guard::guard,
    request::Request,
};

/// A resolver of nginx's, which lives as long as the configuration that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resolver(NonNull<ngx_resolver_t>);

impl Request<'_> {
    /// The resolver of the request's location, and how long it may take, where it has servers to ask.
    pub(crate) fn resolver(self) -> Option<(Resolver, Duration)> {
        let conf = self.core_location()?;
        let resolver = NonNull::new(conf.resolver).map(Resolver).filter(|resolver| resolver.has_servers())?;
        Some((resolver, Duration::from_millis(conf.resolver_timeout as u64)))
    }
}

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// No server has answered in time.
    TimedOut,
    /// There is no such name, or it has no address.
    Unknown,
}

impl Resolver {
    /// The one that the arguments of a `resolver` directive describe; `None`, and logged by nginx, when they are wrong.
    pub(crate) fn of_directive(conf: &mut Conf<'_>) -> Option<Self> {
        let raw: *mut ngx_conf_t = conf.as_ptr();
        // SAFETY: the configuration that is being read.
        let words = NonNull::new(unsafe { (*raw).args })?;
        // SAFETY: while a directive is handled, `args` is the array of its words.
        let words = unsafe { words.as_ref() };
        let first = NonNull::new(words.elts.cast::<ngx_str_t>())?;
        let count = words.nelts.checked_sub(1)?;
        // SAFETY: there is the directive's name, and `count` words behind it.
        let arguments = unsafe { first.add(1) };
        // SAFETY: as many words as it says, of the configuration that is being read.
        NonNull::new(unsafe { ngx_resolver_create(raw, arguments.as_ptr(), count) }).map(Self)
    }

    /// The one of the `http` block of `cycle`.
    pub(crate) fn of_http(cycle: Cycle<'_>) -> Option<Self> {
        let contexts = servers::contexts(cycle)?;
        // SAFETY: the configuration of the http module is this structure, of the cycle's pool.
        let locations = NonNull::new(unsafe { contexts.as_ref() }.loc_conf)?;
        let core = &raw mut ngx_http_core_module;
        // SAFETY: the address of a static is never null.
        let core = unsafe { NonNull::new_unchecked(core) };
        // SAFETY: nginx's own modules are part of its program.
        let core = unsafe { Module::new(core) };
        // SAFETY: an array of location configurations has a slot for each http module.
        let slot = unsafe { locations.add(core.context_index()) };
        // SAFETY: the slot is inside that array.
        let conf = NonNull::new(unsafe { slot.read() })?.cast::<ngx_http_core_loc_conf_t>();
        // SAFETY: the slot of the core http module has this structure, of the cycle's pool.
        NonNull::new(unsafe { conf.as_ref() }.resolver).map(Self)
    }

    /// Whether it has servers to ask: nginx makes one without any where the configuration names none.
    pub(crate) fn has_servers(self) -> bool {
        // SAFETY: it lives as long as the configuration that names it, which a worker keeps.
        unsafe { self.0.as_ref() }.connections.nelts > 0
    }
}

/// A name that is being looked up. Dropping it gives up.
pub(crate) struct Lookup(Rc<Inner>);

struct Inner {
    name: Vec<u8>,
    /// The question, until it is answered.
    asked: Cell<Option<NonNull<ngx_resolver_ctx_t>>>,
    answer: RefCell<Option<Result<Vec<Address>, Unresolved>>>,
    waker: Cell<Option<Waker>>,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup")
            .field("name", &String::from_utf8_lossy(&self.0.name))
            .field("is_answered", &self.0.asked.get().is_none())
            .finish_non_exhaustive()
    }
}

impl Lookup {
    /// Asks `resolver` for the addresses of `name`, for `time` at most.
    pub(crate) fn new(resolver: Resolver, name: &[u8], time: Duration) -> Self {
        let inner = Rc::new(Inner {
            name: name.to_vec(),
            asked: Cell::default(),
            answer: RefCell::default(),
            waker: Cell::default(),
        });
        inner.ask(resolver, time);
        Self(inner)
    }
}

impl Inner {
    fn ask(self: &Rc<Self>, resolver: Resolver, time: Duration) {
        // SAFETY: the resolver lives as long as the configuration that names it, which a worker keeps.
        let question = unsafe { ngx_resolve_start(resolver.0.as_ptr(), std::ptr::null_mut()) };
        // NGX_NO_RESOLVER
        let is_none = question.is_null() || question.addr() == usize::MAX;
        let Some(question) = NonNull::new(question).filter(|_| !is_none) else {
            self.answer.replace(Some(Err(Unresolved::Unknown)));
            return;
        };
        {
            // SAFETY: nginx has just made it for us; the reference ends with this block.
            let fields = unsafe { &mut *question.as_ptr() };
            fields.name = ngx_str_t { len: self.name.len(), data: self.name.as_ptr().cast_mut() };
            fields.handler = Some(answered);
            fields.data = Rc::as_ptr(self).cast_mut().cast();
            fields.timeout = ngx_msec_t::try_from(time.as_millis()).unwrap_or(ngx_msec_t::MAX >> 1);
        }
        self.asked.set(Some(question));
        // SAFETY: the question is filled, and `self`, which it points to, takes it back before it is dropped. The
        // handler may be called below this.
        let code = unsafe { ngx_resolve_name(question.as_ptr()) };
        if code != NGX_OK as ngx_int_t {
            // nginx has freed it.
            self.asked.take();
            self.answer.replace(Some(Err(Unresolved::Unknown)));
        }
    }
}

impl Future for Lookup {
    type Output = Result<Vec<Address>, Unresolved>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.0.waker.set(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if let Some(question) = self.0.asked.take() {
            // SAFETY: it has not been answered, and is ours until then.
            unsafe { ngx_resolve_name_done(question.as_ptr()) };
        }
    }
}

/// A question has been answered, or its time has passed.
unsafe extern "C" fn answered(question: *mut ngx_resolver_ctx_t) {
    let Some(question) = NonNull::new(question) else { return };
    // SAFETY: nginx calls this with a question that `ask` has filled; the reference ends below.
    let fields = unsafe { question.as_ref() };
    let Some(inner) = NonNull::new(fields.data.cast::<Inner>()) else { return };
    // SAFETY: `ask` has put it there, and it takes its question back before it is dropped.
    let inner = unsafe { inner.as_ref() };
    let answer = if fields.state == NGX_OK as ngx_int_t {
        let found = NonNull::new(fields.addrs).map_or(&[][..], |first| {
            // SAFETY: a question that was answered has that many addresses.
            unsafe { slice::from_raw_parts(first.as_ptr(), fields.naddrs) }
        });
        let addresses = found.iter().filter_map(|one| {
            let raw = NonNull::new(one.sockaddr)?;
            // SAFETY: each has an address of that length.
            unsafe { Address::copy(raw, one.socklen) }
        });
        Ok(addresses.collect())
    } else if u32::try_from(fields.state) == Ok(NGX_RESOLVE_TIMEDOUT) {
        Err(Unresolved::TimedOut)
    } else {
        Err(Unresolved::Unknown)
    };
    inner.asked.take();
    inner.answer.replace(Some(answer));
    // SAFETY: it is ours, and nobody uses it after this.
    unsafe { ngx_resolve_name_done(question.as_ptr()) };
    Cycle::with_current(|cycle| {
        guard("the answer of a resolver", cycle.log(), (), || {
            if let Some(waker) = inner.waker.take() {
                waker.wake();
            }
        });
    });
}
