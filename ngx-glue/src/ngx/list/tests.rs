//! Lists of headers after any order of changes, looked at as nginx's own code looks at them.

use std::ptr::NonNull;

use nginx_sys::ngx_table_elt_t;

use super::Table;
use crate::ngx::{
    request::Request,
    testing::{Setup, piece},
};

fn request(room: usize) -> Request<'static> {
    crate::ngx::testing::request(Setup { room, ..Setup::default() })
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
    let (begin, size) = piece(last.elts.addr()).expect("the pool has given this memory");
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
