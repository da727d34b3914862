//! Lists of headers after any order of changes, looked at as nginx's own code looks at them.

use std::{
    collections::HashMap,
    ffi::c_void,
    ptr::{self, NonNull},
    sync::Mutex,
};

use nginx_sys::{ngx_http_request_t, ngx_list_part_t, ngx_list_t, ngx_pool_t, ngx_table_elt_t};

use super::Table;
use crate::ngx::request::Request;

/// Sizes of what the pool has given, by address: nothing is freed, so none comes twice.
static SIZES: Mutex<Option<HashMap<usize, usize>>> = Mutex::new(None);

fn give(size: usize) -> *mut c_void {
    let memory: *mut u128 = Box::leak(vec![u128::MAX; size.div_ceil(16)].into_boxed_slice()).as_mut_ptr();
    SIZES.lock().expect("no test panics here").get_or_insert_default().insert(memory.addr(), size);
    memory.cast()
}

#[unsafe(no_mangle)]
extern "C" fn ngx_palloc(_: *mut ngx_pool_t, size: usize) -> *mut c_void {
    give(size)
}

#[unsafe(no_mangle)]
extern "C" fn ngx_pnalloc(_: *mut ngx_pool_t, size: usize) -> *mut c_void {
    give(size)
}

/// A request with a list of headers, as nginx makes one with room for `room` fields.
fn request(room: usize) -> Request<'static> {
    // SAFETY: nginx zeroes a request itself.
    let request: &'static mut ngx_http_request_t = Box::leak(Box::new(unsafe { std::mem::zeroed() }));
    // The functions above do not look at it.
    request.pool = ptr::dangling_mut();
    let list = &mut request.headers_in.headers;
    if room > 0 {
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
    // SAFETY: leaked, so it lives for ever.
    unsafe { Request::new(NonNull::from(request)) }
}

fn table(request: Request<'static>) -> Table<'static> {
    // SAFETY: the request is leaked; only the address of a field is taken.
    let list = unsafe { &raw mut (*request.as_ptr()).headers_in.headers };
    // SAFETY: the address of a field is not null.
    let list = unsafe { NonNull::new_unchecked(list) };
    // SAFETY: the list is zeroed or initialized.
    unsafe { Table::new(list, request) }
}

/// The values, found as nginx's own loops find them; panics where one of those would read what is not there.
fn as_nginx_sees(table: Table<'_>) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    let mut part = table.copy().part;
    let mut index = 0;
    loop {
        if index >= part.nelts {
            let Some(next) = NonNull::new(part.next) else { return values };
            // SAFETY: parts are leaked.
            part = unsafe { next.read() };
            index = 0;
            assert!(part.nelts > 0, "nginx does not look whether a further part is empty");
        }
        // SAFETY: `nelts` says that it is there, which `check` verifies.
        let field = unsafe { part.elts.cast::<ngx_table_elt_t>().add(index) };
        // SAFETY: as above.
        let field = unsafe { field.read() };
        values.push(field.value.as_bytes().to_vec());
        index += 1;
    }
}

/// Checks what nginx's own `ngx_list_push()` relies on.
fn check(table: Table<'_>) {
    let list = table.copy();
    let mut part = table.first();
    while let Some(next) = part.next() {
        part = next;
    }
    assert_eq!(part.0.as_ptr(), list.last, "the list's last part is the last one");
    let last = part.copy();
    assert!(last.nelts <= list.nalloc && list.nalloc > 0);
    let (begin, size) = SIZES
        .lock()
        .expect("no test panics here")
        .iter()
        .flatten()
        .map(|(begin, size)| (*begin, *size))
        .find(|(begin, size)| (*begin..*begin + *size).contains(&last.elts.addr()))
        .expect("the pool has given this memory");
    let end = last.elts.addr() + list.nalloc * size_of::<ngx_table_elt_t>();
    assert!(end <= begin + size, "nginx would write beyond the last part");
}

#[test]
fn any_order_of_changes_leaves_a_list_that_nginx_can_use() {
    // xorshift64.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap_or(1)).unwrap_or_default()
    };
    for room in [0, 1, 2, 3, 20] {
        let table = table(request(room));
        let mut model: Vec<Vec<u8>> = Vec::new();
        for step in 0..2000 {
            // Grows to some twenty fields, and shrinks to none again and again.
            let growing = (step / 40) % 2 == 0;
            if model.is_empty() || (random(3) == 0) != growing {
                let value = step.to_string().into_bytes();
                assert!(table.push(b"X-Name", &value).is_some());
                model.push(value);
            } else {
                let at = random(model.len());
                let field = table.iter().nth(at).expect("as many as in the model");
                let others: Vec<_> = table.iter().filter(|other| *other != field).collect();
                assert!(table.detach(field));
                model.remove(at);
                assert_eq!(table.iter().collect::<Vec<_>>(), others, "fields do not move");
            }
            check(table);
            assert_eq!(as_nginx_sees(table), model);
        }
    }
}

#[test]
fn a_field_of_another_list_is_not_taken_out() {
    let (one, other) = (table(request(4)), table(request(4)));
    let field = one.push(b"a", b"1").expect("memory");
    assert!(other.push(b"a", b"2").is_some());
    assert!(!other.detach(field));
    assert_eq!(as_nginx_sees(other), [b"2"]);
}
