//! The statics that nginx looks up, and the functions in them: two modules, since the `wasm` block is of the main
//! context (a core module's), and `proxy_wasm` of locations (an http module's).
//!
//! Every function here is an entry from nginx, so each runs under [`guard()`]. What they do is elsewhere.

use std::{
    ffi::{c_char, c_void},
    mem::offset_of,
    ptr::{self, NonNull},
};

use nginx_sys::{
    NGX_CORE_MODULE, NGX_ERROR, NGX_HTTP_MODULE, NGX_OK, ngx_command_t, ngx_conf_t, ngx_core_module_t,
    ngx_cycle_t, ngx_http_conf_ctx_t, ngx_http_module_t, ngx_http_request_t, ngx_int_t, ngx_module_t,
    ngx_str_t, ngx_uint_t,
};

use crate::{
    conf::{Location, Main, Refusal, resolve},
    directives::{self, Directive},
    host::root,
    ngx::{
        conf::{Conf, value_of},
        cycle::{Cycle, Module, Process},
        guard::{self, guard},
        log::Level,
    },
    phase, worker,
};

/// `NGX_CONF_ERROR` (`src/core/ngx_conf_file.h`): the error has been logged.
const CONF_ERROR: *mut c_char = ptr::without_provenance_mut(usize::MAX);

/// `NGX_CONF_OK`.
const CONF_OK: *mut c_char = ptr::null_mut();

/// `NGX_OK` and `NGX_ERROR` as entries return them.
const OK: ngx_int_t = NGX_OK as ngx_int_t;
const ERROR: ngx_int_t = NGX_ERROR as ngx_int_t;

/// Modules in the order of their registration, for `load_module` (`ngx_load_module()` in `src/core/nginx.c`).
#[cfg(not(weir_linked))]
mod exports {
    use std::{
        ffi::{CStr, c_char},
        ptr,
    };

    use nginx_sys::ngx_module_t;

    const fn name(text: &'static CStr) -> *mut c_char {
        text.as_ptr().cast_mut()
    }

    #[unsafe(no_mangle)]
    static mut ngx_modules: [*mut ngx_module_t; 3] =
        [&raw mut super::ngx_weir_module, &raw mut super::ngx_http_weir_module, ptr::null_mut()];

    #[unsafe(no_mangle)]
    static mut ngx_module_names: [*mut c_char; 3] =
        [name(c"ngx_weir_module"), name(c"ngx_http_weir_module"), ptr::null_mut()];

    /// The http module goes before the copy filter in nginx's list, so its filters run right after it: they see the
    /// uncompressed body, in memory if they ask for that.
    #[unsafe(no_mangle)]
    static mut ngx_module_order: [*mut c_char; 3] =
        [name(c"ngx_http_weir_module"), name(c"ngx_http_copy_filter_module"), ptr::null_mut()];
}

/// The core module: the `wasm` block, and what runs by it.
#[unsafe(no_mangle)]
static mut ngx_weir_module: ngx_module_t = ngx_module_t {
    ctx: (&raw mut CORE).cast(),
    commands: (&raw mut MAIN_COMMANDS).cast(),
    type_: NGX_CORE_MODULE as ngx_uint_t,
    init_module: Some(init_module),
    exit_process: Some(exit_process),
    ..ngx_module_t::default()
};

/// The http module: `proxy_wasm` in locations, phases and filters.
#[unsafe(no_mangle)]
static mut ngx_http_weir_module: ngx_module_t = ngx_module_t {
    ctx: (&raw mut HTTP).cast(),
    commands: (&raw mut LOCATION_COMMANDS).cast(),
    type_: NGX_HTTP_MODULE as ngx_uint_t,
    init_process: Some(init_process),
    ..ngx_module_t::default()
};

static mut CORE: ngx_core_module_t =
    ngx_core_module_t { name: string(c"wasm"), create_conf: Some(create_conf), init_conf: Some(init_conf) };

static mut HTTP: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: None,
    postconfiguration: Some(postconfiguration),
    create_main_conf: None,
    init_main_conf: None,
    create_srv_conf: None,
    merge_srv_conf: None,
    create_loc_conf: Some(create_loc_conf),
    merge_loc_conf: Some(merge_loc_conf),
};

static mut MAIN_COMMANDS: [ngx_command_t; directives::MAIN.len() + 1] = commands(&directives::MAIN, 0);

static mut LOCATION_COMMANDS: [ngx_command_t; directives::LOCATIONS.len() + 1] =
    commands(&directives::LOCATIONS, offset_of!(ngx_http_conf_ctx_t, loc_conf));

/// A name as nginx's string.
const fn string(text: &'static std::ffi::CStr) -> ngx_str_t {
    ngx_str_t { len: text.count_bytes(), data: text.as_ptr().cast_mut().cast() }
}

/// nginx's table of `table`, ended as nginx wants it: each command's `post` points to its [`Directive`].
const fn commands<C, const N: usize, const M: usize>(
    table: &'static [Directive<C>; N],
    conf: usize,
) -> [ngx_command_t; M] {
    assert!(M == N + 1, "one more for the end");
    let mut commands = [ngx_command_t::empty(); M];
    let mut at = 0;
    while at < N {
        let directive = &table[at];
        commands[at] = ngx_command_t {
            name: string(directive.name),
            type_: directive.kind,
            set: Some(set_directive::<C>),
            conf,
            offset: 0,
            post: ptr::from_ref(directive).cast_mut().cast(),
        };
        at += 1;
    }
    commands
}

/// The core module's place in nginx's arrays.
fn core_module() -> Module {
    let raw = &raw mut ngx_weir_module;
    // SAFETY: the address of a static is never null.
    let raw = unsafe { NonNull::new_unchecked(raw) };
    // SAFETY: our statics stay mapped (see build.rs), and only nginx writes them.
    unsafe { Module::new(raw) }
}

/// The http module's place in nginx's arrays.
pub(crate) fn http_module() -> Module {
    let raw = &raw mut ngx_http_weir_module;
    // SAFETY: the address of a static is never null.
    let raw = unsafe { NonNull::new_unchecked(raw) };
    // SAFETY: our statics stay mapped (see build.rs), and only nginx writes them.
    unsafe { Module::new(raw) }
}

/// What `cycle` knows of us; `None` when it does not load the module.
pub(crate) fn main_of(cycle: Cycle<'_>) -> Option<&Main> {
    let conf = cycle.conf(core_module().index())?;
    // SAFETY: the slot of our core module holds what `create_conf` answered, from the cycle's own pool.
    unsafe { value_of::<Main>(conf.as_ptr()) }
}

/// The configuration of the location that `request` is in; `None` where the module is not part of `http`.
///
/// # Safety
/// `request` points to a request that lives as long as `'r`.
pub(crate) unsafe fn location_of<'r>(request: NonNull<ngx_http_request_t>) -> Option<&'r Location> {
    // SAFETY: the caller's promise; the array belongs to the request's configuration.
    let confs = unsafe { (*request.as_ptr()).loc_conf };
    if confs.is_null() {
        return None;
    }
    // SAFETY: an array of location configurations has a slot for each http module of the configuration
    // (`ngx_http_max_module`).
    let slot = unsafe { confs.add(http_module().context_index()) };
    // SAFETY: the slot is inside that array.
    let conf = unsafe { *slot };
    // SAFETY: our slot holds what `create_loc_conf` answered, from the pool of the configuration, which lives as long
    // as any request that uses it.
    unsafe { value_of::<Location>(conf) }
}

/// `create_conf`: a cycle begins to be read.
unsafe extern "C" fn create_conf(cycle: *mut ngx_cycle_t) -> *mut c_void {
    guard::install();
    let Some(cycle) = NonNull::new(cycle) else { return ptr::null_mut() };
    // SAFETY: nginx calls this with the cycle that is being made, whose pool and log are set.
    let cycle = unsafe { Cycle::new(cycle) };
    guard("create_conf", cycle.log(), ptr::null_mut(), || {
        if cycle.has_lost_place(core_module()) || cycle.has_lost_place(http_module()) {
            cycle.log().write(
                Level::Emerg,
                "weir: another module has taken the place that this one had before a reload unloaded it: \
                 restart nginx instead of reloading it",
            );
            return ptr::null_mut();
        }
        cycle.pool().own(Main::default()).map_or(ptr::null_mut(), |main| main.as_ptr().cast())
    })
}

/// `init_conf`: the whole configuration has been read.
unsafe extern "C" fn init_conf(cycle: *mut ngx_cycle_t, conf: *mut c_void) -> *mut c_char {
    let Some(cycle) = NonNull::new(cycle) else { return CONF_ERROR };
    // SAFETY: nginx calls this with the cycle that is being made, whose pool and log are set.
    let cycle = unsafe { Cycle::new(cycle) };
    guard("init_conf", cycle.log(), CONF_ERROR, || {
        // SAFETY: `conf` is what `create_conf` answered for this cycle.
        let Some(main) = (unsafe { value_of::<Main>(conf) }) else { return CONF_ERROR };
        // `nginx -s …` reads the configuration only to find the pid file.
        if Process::current() == Process::Signaller {
            return CONF_OK;
        }
        match root::keep_waiting(|| resolve::resolve(main, cycle)) {
            Ok(()) => CONF_OK,
            Err(failure) => {
                failure.log(cycle.log());
                CONF_ERROR
            }
        }
    })
}

/// `init_module`: the cycle has its logs; workers come next.
unsafe extern "C" fn init_module(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    let Some(cycle) = NonNull::new(cycle) else { return ERROR };
    // SAFETY: nginx calls this with the cycle that has been made.
    let cycle = unsafe { Cycle::new(cycle) };
    guard("init_module", cycle.log(), OK, || {
        root::write_waiting(cycle);
        if let Some(main) = main_of(cycle) {
            if let Some(metrics) = main.metrics.get() {
                metrics.begin_generation();
            }
            worker::take_over(main, cycle);
        }
        OK
    })
}

/// `init_process` of the http module: a worker starts. nginx's events are there by then, which they may not be for a core
/// module: that comes before them where the module is linked statically, and after the http module elsewhere.
unsafe extern "C" fn init_process(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    let Some(cycle) = NonNull::new(cycle) else { return ERROR };
    // SAFETY: nginx calls this with the cycle the process runs by.
    let cycle = unsafe { Cycle::new(cycle) };
    // A worker that answers an error ends, and nginx does not start another one in its place.
    guard("init_process", cycle.log(), OK, || {
        if let Some(main) = main_of(cycle) {
            worker::init(main);
        }
        OK
    })
}

/// `exit_process`: a worker ends.
unsafe extern "C" fn exit_process(cycle: *mut ngx_cycle_t) {
    let Some(cycle) = NonNull::new(cycle) else { return };
    // SAFETY: nginx calls this with the cycle the process runs by.
    let cycle = unsafe { Cycle::new(cycle) };
    guard("exit_process", cycle.log(), (), || {
        if let Some(main) = main_of(cycle) {
            worker::exit(main);
        }
    });
}

/// `create_loc_conf`: a block of `http`, `server`, `location` or `if` begins.
unsafe extern "C" fn create_loc_conf(cf: *mut ngx_conf_t) -> *mut c_void {
    let Some(cf) = NonNull::new(cf) else { return ptr::null_mut() };
    // SAFETY: nginx calls this while it reads the configuration at `cf`.
    let conf = unsafe { Conf::new(cf) };
    guard("create_loc_conf", conf.log(), ptr::null_mut(), || {
        conf.pool().own(Location::default()).map_or(ptr::null_mut(), |location| location.as_ptr().cast())
    })
}

/// `merge_loc_conf`: a block inherits from the one around it.
unsafe extern "C" fn merge_loc_conf(
    cf: *mut ngx_conf_t,
    outer: *mut c_void,
    inner: *mut c_void,
) -> *mut c_char {
    let Some(cf) = NonNull::new(cf) else { return CONF_ERROR };
    // SAFETY: nginx calls this while it reads the configuration at `cf`.
    let conf = unsafe { Conf::new(cf) };
    guard("merge_loc_conf", conf.log(), CONF_ERROR, || {
        // SAFETY: both are what `create_loc_conf` answered while this configuration was read.
        let outer = unsafe { value_of::<Location>(outer) };
        // SAFETY: as above.
        let inner = unsafe { value_of::<Location>(inner) };
        let (Some(outer), Some(inner), Some(main)) = (outer, inner, main_of(conf.cycle())) else {
            return CONF_ERROR;
        };
        inner.merge(outer, main);
        CONF_OK
    })
}

/// `postconfiguration`: `http` has been read; phases and filters are put in place.
unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    let Some(cf) = NonNull::new(cf) else { return ERROR };
    // SAFETY: nginx calls this while it reads the configuration at `cf`.
    let mut conf = unsafe { Conf::new(cf) };
    // SAFETY: as above; the guard needs the log while `conf` is lent out mutably.
    let log = unsafe { Conf::new(cf) };
    guard(
        "postconfiguration",
        log.log(),
        ERROR,
        || if phase::install(&mut conf).is_ok() { OK } else { ERROR },
    )
}

/// Every directive's `set`.
unsafe extern "C" fn set_directive<C: 'static>(
    cf: *mut ngx_conf_t,
    command: *mut ngx_command_t,
    target: *mut c_void,
) -> *mut c_char {
    let (Some(cf), Some(command)) = (NonNull::new(cf), NonNull::new(command)) else { return CONF_ERROR };
    // SAFETY: nginx calls this while it reads the configuration at `cf`.
    let mut conf = unsafe { Conf::new(cf) };
    // SAFETY: as above; the guard needs the log while `conf` is lent out mutably.
    let log = unsafe { Conf::new(cf) };
    guard("a directive", log.log(), CONF_ERROR, || {
        // SAFETY: nginx passes the entry of our table whose name it has read.
        let post = unsafe { command.as_ref() }.post;
        // SAFETY: `commands` has put a `Directive<C>`, a static, into every entry that has this function.
        let Some(directive) = (unsafe { value_of::<Directive<C>>(post) }) else { return CONF_ERROR };
        // SAFETY: for core directives (direct) nginx passes what `create_conf` answered, for the http ones what
        // `create_loc_conf` did; the tables are of these types.
        let Some(target) = (unsafe { value_of::<C>(target) }) else { return CONF_ERROR };
        match (directive.set)(&mut conf, target) {
            Ok(()) => CONF_OK,
            Err(Refusal::Logged) => CONF_ERROR,
            Err(Refusal::Sentence(sentence)) => {
                conf.emerg(&sentence);
                CONF_ERROR
            }
        }
    })
}
