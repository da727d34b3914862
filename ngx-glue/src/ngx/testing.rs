//! A request without nginx, for unit tests: its memory is never freed, and the few functions of nginx's that headers
//! need are written anew here, with nginx's own tables of headers.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::HashMap,
    ffi::c_void,
    mem::{offset_of, zeroed},
    ptr::{self, NonNull},
    slice,
    sync::Mutex,
};

use nginx_sys::{
    NGX_DECLINED, NGX_OK, ngx_chain_t, ngx_connection_t, ngx_cycle_t, ngx_hash_t, ngx_http_core_main_conf_t,
    ngx_http_header_t, ngx_http_headers_in_t, ngx_http_headers_out_t, ngx_http_request_t, ngx_int_t,
    ngx_list_part_t, ngx_list_t, ngx_module_t, ngx_msec_t, ngx_pool_t, ngx_rbtree_node_t, ngx_rbtree_t,
    ngx_str_t, ngx_table_elt_t, ngx_uint_t, time_t, u_char,
};

use super::request::Request;

/// In unit tests: counts what this thread allocates by itself, nginx's pools apart.
struct Counting;

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends has none any more.
    let _ = TAKEN.try_with(|taken| taken.set(taken.get() + 1));
}

// SAFETY: every call is the system allocator's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many times memory is allocated while `work` runs, other than from a pool of nginx's.
pub(crate) fn allocations(work: impl FnOnce()) -> usize {
    let before = TAKEN.get();
    work();
    TAKEN.get() - before
}

/// Does `work`, whose memory is nginx's and does not count.
fn as_nginx<T>(work: impl FnOnce() -> T) -> T {
    let before = TAKEN.get();
    let done = work();
    TAKEN.set(before);
    done
}

/// Sizes of what the pool has given, by address: nothing is freed, so none comes twice.
static SIZES: Mutex<Option<HashMap<usize, usize>>> = Mutex::new(None);

/// Memory of the pool.
pub(super) fn give(size: usize) -> *mut c_void {
    as_nginx(|| give_counted(size))
}

fn give_counted(size: usize) -> *mut c_void {
    let memory: *mut u128 = Box::leak(vec![u128::MAX; size.div_ceil(16)].into_boxed_slice()).as_mut_ptr();
    SIZES.lock().expect("no test panics here").get_or_insert_default().insert(memory.addr(), size);
    memory.cast()
}

/// Begin and size of the piece of memory that `address` is in.
pub(super) fn piece(address: usize) -> Option<(usize, usize)> {
    let sizes = SIZES.lock().expect("no test panics here");
    let mut pieces = sizes.iter().flatten().map(|(begin, size)| (*begin, *size));
    pieces.find(|(begin, size)| (*begin..*begin + *size).contains(&address))
}

/// `value`, for ever.
pub(super) fn leak<T>(value: T) -> &'static mut T {
    as_nginx(|| Box::leak(Box::new(value)))
}

// --- nginx's functions -----------------------------------------------------------------------------------------------

/// No configuration is in force in tests, so there is no log either.
#[unsafe(no_mangle)]
static mut ngx_cycle: *mut ngx_cycle_t = ptr::null_mut();

/// Whoever gets here has found a log all the same. nginx's function takes any number of arguments, none of which counts.
#[unsafe(no_mangle)]
extern "C" fn ngx_log_error_core() {
    std::process::abort();
}

/// No timer runs in tests.
#[unsafe(no_mangle)]
// SAFETY: pointers and an optional function, for all of which zeros are valid.
static mut ngx_event_timer_rbtree: ngx_rbtree_t = unsafe { zeroed() };

/// Nor is there a connection.
#[unsafe(no_mangle)]
extern "C" fn ngx_close_connection(_: *mut ngx_connection_t) {}

#[unsafe(no_mangle)]
extern "C" fn ngx_destroy_pool(_: *mut ngx_pool_t) {}

#[unsafe(no_mangle)]
extern "C" fn ngx_ssl_shutdown(_: *mut ngx_connection_t) -> ngx_int_t {
    NGX_OK as ngx_int_t
}

#[unsafe(no_mangle)]
extern "C" fn ngx_ssl_cleanup_ctx(_: *mut c_void) {}

/// OpenSSL's, for sessions of which there are none.
#[unsafe(no_mangle)]
extern "C" fn SSL_SESSION_free(_: *mut c_void) {}

#[unsafe(no_mangle)]
static mut ngx_current_msec: ngx_msec_t = 0;

#[unsafe(no_mangle)]
extern "C" fn ngx_rbtree_insert(_: *mut ngx_rbtree_t, _: *mut ngx_rbtree_node_t) {}

#[unsafe(no_mangle)]
extern "C" fn ngx_rbtree_delete(_: *mut ngx_rbtree_t, _: *mut ngx_rbtree_node_t) {}

#[unsafe(no_mangle)]
extern "C" fn ngx_palloc(_: *mut ngx_pool_t, size: usize) -> *mut c_void {
    give(size)
}

#[unsafe(no_mangle)]
extern "C" fn ngx_pnalloc(_: *mut ngx_pool_t, size: usize) -> *mut c_void {
    give(size)
}

/// A link that was given back, or a new one.
#[unsafe(no_mangle)]
extern "C" fn ngx_alloc_chain_link(pool: *mut ngx_pool_t) -> *mut ngx_chain_t {
    // SAFETY: the caller's pool, which nobody else looks at meanwhile.
    let Some(pool) = (unsafe { pool.as_mut() }) else { return give(size_of::<ngx_chain_t>()).cast() };
    let Some(link) = NonNull::new(pool.chain) else { return give(size_of::<ngx_chain_t>()).cast() };
    // SAFETY: links of the list are whole, and never freed.
    pool.chain = unsafe { link.read() }.next;
    link.as_ptr()
}

/// nginx's module, of which only the number is looked at: 0.
#[unsafe(no_mangle)]
// SAFETY: integers, pointers and options, for all of which zeros are valid.
static mut ngx_http_core_module: ngx_module_t = unsafe { zeroed() };

/// Hosts of letters, digits, dots and dashes, with or without a port.
#[unsafe(no_mangle)]
extern "C" fn ngx_http_validate_host(host: *mut ngx_str_t, _: *mut ngx_pool_t, _: ngx_uint_t) -> ngx_int_t {
    // SAFETY: the caller's string.
    let text = unsafe { host.as_mut() }.expect("a string");
    // SAFETY: the caller's string.
    let bytes = unsafe { slice::from_raw_parts(text.data, text.len) };
    let name = bytes.split(|byte| *byte == b':').next().unwrap_or_default();
    let port = bytes.get(name.len() + 1..).unwrap_or_default();
    let valid = !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(byte))
        && port.iter().all(u8::is_ascii_digit);
    text.len = name.len();
    if valid { NGX_OK as ngx_int_t } else { NGX_DECLINED as ngx_int_t }
}

/// Escapes nothing: tests of paths are elsewhere.
#[unsafe(no_mangle)]
extern "C" fn ngx_escape_uri(_: *mut u_char, _: *mut u_char, _: usize, _: ngx_uint_t) -> usize {
    0
}

#[unsafe(no_mangle)]
extern "C" fn ngx_hash_find(_: *mut ngx_hash_t, _: ngx_uint_t, name: *mut u_char, len: usize) -> *mut c_void {
    // SAFETY: the caller's name.
    let name = unsafe { slice::from_raw_parts(name, len) };
    let found = HEADERS_IN.iter().find(|(known, _)| known.as_bytes() == name);
    found.map_or(ptr::null_mut(), |(_, offset)| {
        let header = ngx_http_header_t { name: ngx_str_t::empty(), offset: *offset, handler: None };
        ptr::from_mut(leak(header)).cast()
    })
}

#[unsafe(no_mangle)]
extern "C" fn ngx_http_time(text: *mut u_char, _: time_t) -> *mut u_char {
    const TIME: &[u8; 29] = b"Mon, 28 Sep 1970 06:00:00 GMT";
    // SAFETY: the caller's memory, of that length.
    unsafe { text.copy_from_nonoverlapping(TIME.as_ptr(), TIME.len()) };
    text.wrapping_add(TIME.len())
}

#[unsafe(no_mangle)]
extern "C" fn ngx_parse_http_time(_: *mut u_char, len: usize) -> time_t {
    if len == 29 { 23_349_600 } else { -1 }
}

// --- nginx's tables --------------------------------------------------------------------------------------------------

macro_rules! offsets {
    ($structure:ty: $($name:literal => $field:ident,)+) => {
        &[$(($name, offset_of!($structure, $field)),)+]
    };
}

/// `ngx_http_headers_in[]`, as far as every nginx has it.
const HEADERS_IN: &[(&str, usize)] = offsets! { ngx_http_headers_in_t:
    "host" => host, "connection" => connection, "if-modified-since" => if_modified_since,
    "if-unmodified-since" => if_unmodified_since, "if-match" => if_match, "if-none-match" => if_none_match,
    "user-agent" => user_agent, "referer" => referer, "content-length" => content_length,
    "content-range" => content_range, "content-type" => content_type, "range" => range, "if-range" => if_range,
    "transfer-encoding" => transfer_encoding, "te" => te, "expect" => expect, "upgrade" => upgrade,
    "authorization" => authorization, "keep-alive" => keep_alive, "cookie" => cookie,
};

/// Typed pointers of `ngx_http_headers_out_t`, but those of Content-Length, which filters never list, and Location,
/// which is only nginx's own.
const HEADERS_OUT: &[(&str, usize)] = offsets! { ngx_http_headers_out_t:
    "server" => server, "date" => date, "content-encoding" => content_encoding,
    "refresh" => refresh, "last-modified" => last_modified, "content-range" => content_range,
    "accept-ranges" => accept_ranges, "www-authenticate" => www_authenticate, "expires" => expires, "etag" => etag,
    "cache-control" => cache_control, "link" => link,
};

// --- requests --------------------------------------------------------------------------------------------------------

/// What of a request is not in its lists.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Setup {
    /// Fields of the lists that fit into their first part; 0 leaves that of the request uninitialized.
    pub(crate) room: usize,
    /// The body that the client has announced.
    pub(crate) request_length: Option<u32>,
    /// The request's body comes in chunks.
    pub(crate) chunked: bool,
    /// The length of the response.
    pub(crate) response_length: Option<u32>,
}

/// `GET / HTTP/1.1` without headers, answered by 200.
pub(crate) fn request(setup: Setup) -> Request<'static> {
    // SAFETY: nginx zeroes a request itself.
    let request: &'static mut ngx_http_request_t = leak(unsafe { zeroed() });
    request.main = request;
    // SAFETY: of the pool only the list of free links is looked at, which is empty.
    request.pool = leak::<ngx_pool_t>(unsafe { zeroed() });
    // SAFETY: nginx zeroes a connection itself.
    request.connection = leak::<ngx_connection_t>(unsafe { zeroed() });
    // SAFETY: nginx zeroes a configuration itself.
    let main = ptr::from_mut(leak::<ngx_http_core_main_conf_t>(unsafe { zeroed() }));
    request.main_conf = leak(main.cast());
    request.http_version = 1001;
    request.keepalive_on();
    request.headers_in.content_length_n = setup.request_length.map_or(-1, i64::from);
    request.headers_in.set_chunked(u32::from(setup.chunked));
    request.headers_out.status = 200;
    request.headers_out.content_length_n = setup.response_length.map_or(-1, i64::from);
    request.headers_out.last_modified_time = -1;
    initialize(&mut request.headers_in.headers, setup.room);
    initialize(&mut request.headers_out.headers, setup.room.max(1));
    initialize(&mut request.headers_out.trailers, setup.room.max(1));
    // SAFETY: leaked, so it lives for ever.
    unsafe { Request::new(NonNull::from(request)) }
}

/// Sets what nginx's parser leaves in every request that can be kept alive.
trait KeepAlive {
    fn keepalive_on(&mut self);
}

impl KeepAlive for ngx_http_request_t {
    fn keepalive_on(&mut self) {
        self.set_keepalive(1);
        self.set_valid_unparsed_uri(1);
    }
}

fn initialize(list: &mut ngx_list_t, room: usize) {
    if room == 0 {
        return;
    }
    *list = ngx_list_t {
        last: &raw mut list.part,
        part: ngx_list_part_t {
            elts: give(room * size_of::<ngx_table_elt_t>()),
            nelts: 0,
            next: ptr::null_mut(),
        },
        size: size_of::<ngx_table_elt_t>(),
        nalloc: room,
        pool: ptr::dangling_mut(),
    };
}

/// Values that nginx's typed pointers of a request or response lead to, by name.
pub(crate) type Typed = Vec<(&'static str, Vec<Vec<u8>>)>;

/// What nginx's code finds through the typed pointers of the request.
pub(crate) fn typed_in(request: Request<'static>) -> Typed {
    // SAFETY: the request is leaked; only the address of a field is taken.
    let headers = unsafe { &raw const (*request.as_ptr()).headers_in };
    // SAFETY: the offsets are those of pointers in this structure.
    HEADERS_IN.iter().map(|(name, offset)| (*name, unsafe { follow(headers.cast(), *offset) })).collect()
}

/// What nginx's code finds through the typed pointers of the response.
pub(crate) fn typed_out(request: Request<'static>) -> Typed {
    // SAFETY: the request is leaked; only the address of a field is taken.
    let headers = unsafe { &raw const (*request.as_ptr()).headers_out };
    // SAFETY: the offsets are those of pointers in this structure.
    HEADERS_OUT.iter().map(|(name, offset)| (*name, unsafe { follow(headers.cast(), *offset) })).collect()
}

/// The values from a typed pointer on, without retired fields, as nginx writes them.
///
/// # Safety
/// At `offset` behind `headers` is a pointer to a field, or null.
unsafe fn follow(headers: *const u8, offset: usize) -> Vec<Vec<u8>> {
    // SAFETY: the caller's promise.
    let place = unsafe { headers.add(offset) };
    // SAFETY: the caller's promise.
    let mut next = unsafe { place.cast::<*mut ngx_table_elt_t>().read() };
    let mut values = Vec::new();
    while let Some(field) = NonNull::new(next) {
        // SAFETY: fields are leaked.
        let field = unsafe { field.read() };
        if field.hash != 0 {
            values.push(field.value.as_bytes().to_vec());
        }
        next = field.next;
    }
    values
}
