//! A cycle (`src/core/ngx_cycle.h`): one parsed configuration and what runs by it; and the kind of this process.

use std::{
    ffi::{OsString, c_void},
    marker::PhantomData,
    os::unix::ffi::OsStringExt,
    path::PathBuf,
    ptr::NonNull,
};

use nginx_sys::{
    NGX_OK, NGX_PROCESS_HELPER, NGX_PROCESS_SIGNALLER, ngx_conf_full_name, ngx_cycle_t, ngx_exiting,
    ngx_int_t, ngx_module_t, ngx_process, ngx_str_t, ngx_test_config, ngx_uint_t,
};

use super::{log::Log, pool::Pool};

/// A cycle that lives as long as `'a`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cycle<'a> {
    raw: NonNull<ngx_cycle_t>,
    owner: PhantomData<&'a ngx_cycle_t>,
}

impl<'a> Cycle<'a> {
    /// The cycle at `raw`.
    ///
    /// # Safety
    /// `raw` points to a cycle that lives as long as `'a`, with its pool and log set.
    pub(crate) const unsafe fn new(raw: NonNull<ngx_cycle_t>) -> Self {
        Self { raw, owner: PhantomData }
    }

    /// Lends the cycle that this process runs by. While a configuration is being read that is the one before it.
    pub(crate) fn with_current<T>(body: impl for<'c> FnOnce(Cycle<'c>) -> T) -> T {
        // SAFETY: nginx writes this pointer in its one thread only, which is the one that runs.
        let raw = unsafe { nginx_sys::ngx_cycle };
        debug_assert!(!raw.is_null(), "main() sets ngx_cycle before any module can run");
        // SAFETY: src/core/nginx.c sets it before any module can run, and never to null.
        let raw = unsafe { NonNull::new_unchecked(raw) };
        // SAFETY: the current cycle, its pool and its log live until nginx replaces it, which it does in the main
        // loops of its processes, never below an entry of ours, so not while `body` runs.
        body(unsafe { Cycle::new(raw) })
    }

    /// How many workers its configuration asks for, from 1.
    pub(crate) fn workers(self) -> usize {
        let core = &raw mut nginx_sys::ngx_core_module;
        // SAFETY: the address of a static is never null.
        let core = unsafe { NonNull::new_unchecked(core) };
        // SAFETY: nginx's own modules are part of its program.
        let core = unsafe { Module::new(core) };
        let Some(conf) = self.conf(core.index()) else { return 1 };
        // SAFETY: the configuration of the core module is this structure, of the cycle's pool, filled by now.
        let workers = unsafe { conf.cast::<nginx_sys::ngx_core_conf_t>().as_ref() }.worker_processes;
        usize::try_from(workers).unwrap_or(1).max(1)
    }

    /// Its log: while the configuration is being read, the previous cycle's.
    pub(crate) fn log(self) -> Log<'a> {
        // SAFETY: the cycle is live by the promise made to `new`.
        let log = unsafe { (*self.raw.as_ptr()).log };
        // SAFETY: the log of a live cycle is never null (`ngx_init_cycle()`, and the exit cycles).
        let log = unsafe { NonNull::new_unchecked(log) };
        // SAFETY: a cycle's log lives as long as the cycle.
        unsafe { Log::new(log) }
    }

    /// Its pool, which is destroyed with it.
    pub(crate) fn pool(self) -> Pool<'a> {
        // SAFETY: the cycle is live by the promise made to `new`.
        let pool = unsafe { (*self.raw.as_ptr()).pool };
        // SAFETY: a cycle is made in its own pool, so the pool is not null.
        let pool = unsafe { NonNull::new_unchecked(pool) };
        // SAFETY: the pool of a cycle lives as long as the cycle.
        unsafe { Pool::new(pool) }
    }

    /// `path` as nginx's `load_module` understands it: a relative one starts at the prefix.
    pub(crate) fn full_path(self, path: &[u8]) -> Option<PathBuf> {
        let terminated = [path, b"\0"].concat();
        let bytes = self.pool().copy(&terminated)?;
        let mut name = ngx_str_t { len: path.len(), data: bytes.as_mut_ptr() };
        // SAFETY: the cycle is live; `name` is a string of `len` bytes and a NUL in its pool, as src/core/ngx_file.c
        // wants it, and is replaced by another such string.
        let result = unsafe { ngx_conf_full_name(self.raw.as_ptr(), &raw mut name, 0) };
        if result != ngx_int_t::try_from(NGX_OK).unwrap_or_default() {
            return None;
        }
        Some(PathBuf::from(OsString::from_vec(name.as_bytes().to_vec())))
    }

    /// What the module with this index has as its configuration in the main context; `None` when it has none.
    pub(crate) fn conf(self, index: ngx_uint_t) -> Option<NonNull<c_void>> {
        if !self.modules().any(|module| module.index() == index) {
            return None;
        }
        // SAFETY: the cycle is live by the promise made to `new`.
        let contexts = unsafe { (*self.raw.as_ptr()).conf_ctx };
        if contexts.is_null() {
            return None;
        }
        // SAFETY: `conf_ctx` has room for every index that a module of this cycle has (`ngx_max_module`).
        let slot = unsafe { contexts.add(index) };
        // SAFETY: the slot is inside that array, and initialized to null.
        let conf = unsafe { *slot };
        NonNull::new(conf.cast())
    }

    /// Whether the index or the context index of `mine` belongs to another module by now, in this cycle or the one
    /// before: it was dropped by a reload, its place was given away, and another reload loads it again.
    ///
    /// nginx gives a module its indices once for as long as it is mapped, and ours always is (see build.rs).
    pub(crate) fn has_lost_place(self, mine: Module) -> bool {
        self.modules().any(|other| mine.clashes(other))
            || self.previous().is_some_and(|old| old.modules().any(|other| mine.clashes(other)))
    }

    fn previous(self) -> Option<Self> {
        // SAFETY: the cycle is live by the promise made to `new`.
        let old = NonNull::new(unsafe { (*self.raw.as_ptr()).old_cycle })?;
        // SAFETY: a cycle that is being made holds on to the one before it, which is still running.
        Some(unsafe { Self::new(old) })
    }

    fn modules(self) -> impl Iterator<Item = Module> {
        // SAFETY: the cycle is live by the promise made to `new`.
        let mut next = unsafe { (*self.raw.as_ptr()).modules };
        std::iter::from_fn(move || {
            if next.is_null() {
                return None;
            }
            // SAFETY: `modules` ends with a null pointer (`ngx_cycle_modules()`), and we stop there.
            let module = NonNull::new(unsafe { *next })?;
            // SAFETY: the element just read was not the terminating one.
            next = unsafe { next.add(1) };
            // SAFETY: a cycle keeps the modules it names mapped (`ngx_load_module()`), and the iterator's user has
            // the cycle.
            Some(unsafe { Module::new(module) })
        })
    }
}

/// A module of nginx's (`src/core/ngx_module.h`), and the places it has in nginx's arrays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Module(NonNull<ngx_module_t>);

impl Module {
    /// The module at `raw`.
    ///
    /// # Safety
    /// `raw` points to a module that stays mapped as long as this value is used.
    pub(crate) const unsafe fn new(raw: NonNull<ngx_module_t>) -> Self {
        Self(raw)
    }

    fn fields(self) -> (ngx_uint_t, ngx_uint_t, ngx_uint_t) {
        // SAFETY: mapped by the promise made to `new`; nginx changes it in its one thread only, which is the one that
        // runs, and the reference ends here.
        let module = unsafe { self.0.as_ref() };
        (module.index, module.ctx_index, module.type_)
    }

    /// What tells its buffers from those of other modules.
    pub(super) const fn as_tag(self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    /// Its index in a cycle's arrays; `ngx_uint_t::MAX` until nginx has given it one.
    pub(crate) fn index(self) -> ngx_uint_t {
        self.fields().0
    }

    /// Its index in arrays of modules of its type; `ngx_uint_t::MAX` until nginx has given it one.
    pub(crate) fn context_index(self) -> ngx_uint_t {
        self.fields().1
    }

    fn clashes(self, other: Self) -> bool {
        let (index, context, kind) = self.fields();
        let (other_index, other_context, other_kind) = other.fields();
        self.0 != other.0
            && (index == other_index && index != ngx_uint_t::MAX
                || kind == other_kind && context == other_context && context != ngx_uint_t::MAX)
    }
}

/// Whether this process only tries the configuration out (`nginx -t`).
pub(crate) fn is_test() -> bool {
    // SAFETY: nginx writes this number when it reads its command line, before any module can run.
    let test = unsafe { ngx_test_config };
    test != 0
}

/// Whether this worker takes no new connections any more, and ends when those that it has are done
/// (`ngx_worker_process_cycle()`).
pub(crate) fn is_ending() -> bool {
    // SAFETY: nginx writes this number in its one thread only, which is the one that runs.
    let exiting = unsafe { ngx_exiting };
    exiting != 0
}

/// What this process is for (`ngx_process` in `src/os/unix/ngx_process_cycle.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    /// Runs requests, or will, or starts those that do.
    Server,
    /// `nginx -s …`: sends a signal and ends.
    Signaller,
    /// The cache manager and its loader.
    Helper,
}

impl Process {
    /// This process.
    pub(crate) fn current() -> Self {
        // SAFETY: nginx writes this number in its one thread only, which is the one that runs.
        let kind = unsafe { ngx_process };
        match u32::try_from(kind) {
            Ok(NGX_PROCESS_SIGNALLER) => Self::Signaller,
            Ok(NGX_PROCESS_HELPER) => Self::Helper,
            _ => Self::Server,
        }
    }
}
