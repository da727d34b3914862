//! A list of header fields (`src/core/ngx_list.h`, `ngx_table_elt_t`), with removal, which nginx has not.
//!
//! Loops of nginx's over such a list step from part to part without asking whether the next one is empty, and
//! `ngx_list_push()` writes into the last part until it has `nalloc` elements. So, at all times:
//! * no part is empty, but for the first one;
//! * `nalloc` is at least one, at least the number of elements in the last part, and at most what it has room for.
//!
//! Fields never move, so pointers to one stay good as long as it is in the list.

use std::{marker::PhantomData, ptr::NonNull};

use nginx_sys::{ngx_list_part_t, ngx_list_t, ngx_table_elt_t, ngx_uint_t};

use super::{memory::stored, name::hash, request::Request};

/// Least number of fields in a part that is made here.
const PART: usize = 8;

/// One header field, in a list of a request that lives as long as `'a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    raw: NonNull<ngx_table_elt_t>,
    request: Request<'a>,
}

impl<'a> Field<'a> {
    /// The field at `raw`.
    ///
    /// # Safety
    /// `raw` points to a field of `request`'s.
    pub(super) const unsafe fn new(raw: NonNull<ngx_table_elt_t>, request: Request<'a>) -> Self {
        Self { raw, request }
    }

    pub(super) const fn as_ptr(self) -> *mut ngx_table_elt_t {
        self.raw.as_ptr()
    }

    fn copy(self) -> ngx_table_elt_t {
        // SAFETY: the field is the request's, by the promise made to `new`.
        unsafe { self.raw.read() }
    }

    fn edit(self, write: impl FnOnce(&mut ngx_table_elt_t)) {
        // SAFETY: the field is the request's, by the promise made to `new`, and nobody else looks at it while `write`
        // sets some of it.
        write(unsafe { &mut *self.raw.as_ptr() });
    }

    /// Its name, as it was sent.
    pub(crate) fn name(self) -> &'a [u8] {
        // SAFETY: strings of a field are the request's.
        unsafe { self.request.lend(self.copy().key) }
    }

    /// Its value.
    pub(crate) fn value(self) -> &'a [u8] {
        // SAFETY: strings of a field are the request's.
        unsafe { self.request.lend(self.copy().value) }
    }

    /// Whether nginx sends it: in lists of responses a removed field stays, with a hash of zero.
    pub(crate) fn is_live(self) -> bool {
        self.copy().hash != 0
    }

    /// Whether it is live and its name is `name`, whatever the case.
    pub(crate) fn is(self, name: &[u8]) -> bool {
        self.is_live() && self.name().eq_ignore_ascii_case(name)
    }

    /// Sets its value to a copy of `value`; false without memory.
    pub(crate) fn set_value(self, value: &[u8]) -> bool {
        let Some(value) = self.request.keep(value) else { return false };
        self.edit(|field| field.value = stored(value));
        true
    }

    /// nginx no longer sends it. For lists of responses: those of requests are passed on whatever the hash is.
    pub(crate) fn retire(self) {
        self.edit(|field| field.hash = 0);
    }

    fn set_next(self, next: Option<Self>) {
        let next = next.map_or(std::ptr::null_mut(), Self::as_ptr);
        self.edit(|field| field.next = next);
    }
}

/// A list of header fields.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table<'a> {
    raw: NonNull<ngx_list_t>,
    request: Request<'a>,
}

/// A place in the request where nginx keeps a pointer to the first field of some name; further ones hang off its
/// `next`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot<'a> {
    raw: NonNull<*mut ngx_table_elt_t>,
    request: PhantomData<&'a ()>,
}

impl<'a> Slot<'a> {
    /// The place at `raw`.
    ///
    /// # Safety
    /// `raw` is such a place in a request that lives as long as `'a`.
    pub(super) const unsafe fn new(raw: NonNull<*mut ngx_table_elt_t>) -> Self {
        Self { raw, request: PhantomData }
    }

    pub(super) fn set(self, field: Option<Field<'a>>) {
        let field = field.map_or(std::ptr::null_mut(), Field::as_ptr);
        // SAFETY: a place for such a pointer in a live request, by the promise made to `new`.
        unsafe { self.raw.write(field) };
    }

    pub(super) fn is_empty(self) -> bool {
        // SAFETY: as in `set`.
        unsafe { self.raw.read() }.is_null()
    }
}

impl<'a> Table<'a> {
    /// The list at `raw`.
    ///
    /// # Safety
    /// `raw` points to a list of header fields of `request`'s, empty and zeroed or initialized.
    pub(super) const unsafe fn new(raw: NonNull<ngx_list_t>, request: Request<'a>) -> Self {
        Self { raw, request }
    }

    fn copy(self) -> ngx_list_t {
        // SAFETY: the list is the request's, by the promise made to `new`.
        unsafe { self.raw.read() }
    }

    fn edit(self, write: impl FnOnce(&mut ngx_list_t)) {
        // SAFETY: the list is the request's, by the promise made to `new`, and nobody else looks at it meanwhile.
        write(unsafe { &mut *self.raw.as_ptr() });
    }

    /// The part that is embedded in the list.
    fn first(self) -> Part {
        // SAFETY: the list lives; only the address of a field of it is taken.
        let part = unsafe { &raw mut (*self.raw.as_ptr()).part };
        // SAFETY: the address of a field is not null.
        Part(unsafe { NonNull::new_unchecked(part) })
    }

    /// The fields, removed ones included.
    pub(crate) fn iter(self) -> Fields<'a> {
        Fields { part: Some(self.first()), index: 0, request: self.request }
    }

    /// The live fields called `name`.
    pub(crate) fn named(self, name: &[u8]) -> impl Iterator<Item = Field<'a>> + use<'a, '_> {
        self.iter().filter(move |field| field.is(name))
    }

    /// Adds a field at the end; `None` without memory.
    pub(crate) fn push(self, name: &[u8], value: &[u8]) -> Option<Field<'a>> {
        let key = self.request.keep(name)?;
        let lower = if name.iter().any(u8::is_ascii_uppercase) {
            let lower = self.request.allocate(name.len().checked_add(1)?)?;
            let (text, _) = lower.split_at_mut_checked(name.len())?;
            text.copy_from_slice(name);
            text.make_ascii_lowercase();
            &*text
        } else {
            key
        };
        let field = ngx_table_elt_t {
            hash: hash(lower),
            key: stored(key),
            value: stored(self.request.keep(value)?),
            lowcase_key: lower.as_ptr().cast_mut(),
            next: std::ptr::null_mut(),
        };
        let place = self.vacant()?;
        // SAFETY: `vacant` answers a place in the list that is meant for a new field.
        unsafe { place.write(field) };
        // SAFETY: it is a field of the request's now.
        Some(unsafe { Field::new(place, self.request) })
    }

    /// A further place at the end of the list, counted already; the caller fills it.
    fn vacant(self) -> Option<NonNull<ngx_table_elt_t>> {
        let list = self.copy();
        if let Some(last) = NonNull::new(list.last).map(Part) {
            let count = last.copy().nelts;
            if count < list.nalloc {
                last.edit(|part| part.nelts = count + 1);
                return last.place(count);
            }
        }
        let capacity = list.nalloc.max(PART);
        let places = self.request.room::<ngx_table_elt_t>(capacity)?;
        let part = ngx_list_part_t { elts: places.as_ptr().cast(), nelts: 1, next: std::ptr::null_mut() };
        // A request of HTTP/0.9 has a list that was never initialized (`ngx_http_process_request_line()`).
        let added = if list.last.is_null() {
            self.first().edit(|first| *first = part);
            self.first()
        } else {
            let added = Part(self.request.place(part)?);
            Part(NonNull::new(list.last)?).edit(|last| last.next = added.0.as_ptr());
            added
        };
        self.edit(|list| {
            list.last = added.0.as_ptr();
            list.nalloc = capacity;
            list.size = size_of::<ngx_table_elt_t>();
        });
        if list.pool.is_null() {
            let pool = self.request.pool()?.as_ptr();
            self.edit(|list| list.pool = pool);
        }
        Some(places)
    }

    /// Takes `field` out of the list; false without memory, or when it is not there.
    pub(crate) fn detach(self, field: Field<'a>) -> bool {
        let mut before = None;
        let mut part = self.first();
        loop {
            if let Some(index) = part.position(field) {
                return self.cut(before, part, index);
            }
            let Some(next) = part.next() else { return false };
            before = Some(part);
            part = next;
        }
    }

    /// Takes place number `index` out of `part`, which `before` leads to.
    fn cut(self, before: Option<Part>, part: Part, index: ngx_uint_t) -> bool {
        let old = part.copy();
        let is_last = part.next().is_none();
        match (index, old.nelts - 1 - index) {
            (0, 0) => match before {
                None => {
                    part.edit(|part| part.nelts = 0);
                    if is_last {
                        self.edit(|list| list.nalloc = 1);
                    }
                }
                Some(before) => {
                    before.edit(|before| before.next = old.next);
                    if is_last {
                        let count = before.copy().nelts;
                        self.edit(|list| {
                            list.last = before.0.as_ptr();
                            list.nalloc = count.max(1);
                        });
                    }
                }
            },
            (_, 0) => part.edit(|part| part.nelts -= 1),
            (0, after) => {
                let Some(second) = part.place(1) else { return false };
                part.edit(|part| {
                    part.elts = second.as_ptr().cast();
                    part.nelts = after;
                });
                if is_last {
                    self.edit(|list| list.nalloc -= 1);
                }
            }
            (_, after) => {
                let Some(following) = part.place(index + 1) else { return false };
                let tail = ngx_list_part_t { elts: following.as_ptr().cast(), nelts: after, next: old.next };
                let Some(tail) = self.request.place(tail) else { return false };
                part.edit(|part| {
                    part.nelts = index;
                    part.next = tail.as_ptr();
                });
                if is_last {
                    self.edit(|list| {
                        list.last = tail.as_ptr();
                        list.nalloc -= index + 1;
                    });
                }
            }
        }
        true
    }

    /// Makes `slot` and the chain that begins there agree with what the list has under `name`.
    pub(super) fn link(self, slot: Slot<'a>, name: &[u8]) {
        let mut previous: Option<Field<'a>> = None;
        for field in self.named(name) {
            match previous {
                None => slot.set(Some(field)),
                Some(previous) => previous.set_next(Some(field)),
            }
            previous = Some(field);
        }
        match previous {
            None => slot.set(None),
            Some(last) => last.set_next(None),
        }
    }
}

/// A part of a list, which lives in the list's pool.
#[derive(Clone, Copy)]
struct Part(NonNull<ngx_list_part_t>);

impl Part {
    fn copy(self) -> ngx_list_part_t {
        // SAFETY: parts are only reached through a list that lives, and live in its pool.
        unsafe { self.0.read() }
    }

    fn edit(self, write: impl FnOnce(&mut ngx_list_part_t)) {
        // SAFETY: as in `copy`; nobody else looks at the part while `write` sets some of it.
        write(unsafe { &mut *self.0.as_ptr() });
    }

    fn next(self) -> Option<Self> {
        NonNull::new(self.copy().next).map(Self)
    }

    /// The place of field number `index`, which is at most the number of fields.
    fn place(self, index: ngx_uint_t) -> Option<NonNull<ngx_table_elt_t>> {
        let places = NonNull::new(self.copy().elts)?.cast::<ngx_table_elt_t>();
        // SAFETY: the part has room for that many fields, and one more where `vacant` has asked for it.
        Some(unsafe { places.add(index) })
    }

    /// The number of `field`, if it is here.
    fn position(self, field: Field<'_>) -> Option<ngx_uint_t> {
        let part = self.copy();
        let distance = field.as_ptr().addr().checked_sub(part.elts.addr())?;
        let index = distance / size_of::<ngx_table_elt_t>();
        (index < part.nelts).then_some(index)
    }
}

/// Fields of a list, in order. The list must not be shortened meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    part: Option<Part>,
    index: ngx_uint_t,
    request: Request<'a>,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        loop {
            let part = self.part?;
            if self.index < part.copy().nelts {
                let raw = part.place(self.index)?;
                self.index += 1;
                // SAFETY: the part has that many fields of the request's.
                return Some(unsafe { Field::new(raw, self.request) });
            }
            self.part = part.next();
            self.index = 0;
        }
    }
}

#[cfg(test)]
mod tests;
