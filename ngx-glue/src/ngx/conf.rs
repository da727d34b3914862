//! A configuration file while it is being read (`src/core/ngx_conf_file.h`): arguments, place, nested blocks.

use std::{ffi::c_void, marker::PhantomData, ptr::NonNull};

use nginx_sys::{
    NGX_CORE_MODULE, ngx_conf_parse, ngx_conf_t, ngx_parse_offset, ngx_parse_time, ngx_str_t, ngx_uint_t,
};

use super::{
    cycle::Cycle,
    log::{Level, Log},
    pool::Pool,
};
use crate::conf::place::{self, Place};

/// The file position and directive that nginx is at.
#[derive(Debug)]
pub(crate) struct Conf<'a> {
    raw: NonNull<ngx_conf_t>,
    owner: PhantomData<&'a mut ngx_conf_t>,
}

impl<'a> Conf<'a> {
    /// The configuration at `raw`.
    ///
    /// # Safety
    /// nginx has called one of its configuration callbacks with `raw`, and `'a` does not outlast that call.
    pub(crate) const unsafe fn new(raw: NonNull<ngx_conf_t>) -> Self {
        Self { raw, owner: PhantomData }
    }

    /// nginx's pointer to it.
    pub(crate) const fn as_ptr(&self) -> *mut ngx_conf_t {
        self.raw.as_ptr()
    }

    fn fields(&self) -> ngx_conf_t {
        // SAFETY: live by the promise made to `new`; every field is a plain pointer or number, copied.
        unsafe { *self.raw.as_ptr() }
    }

    /// Name and arguments of the directive.
    fn words(&self) -> &[ngx_str_t] {
        let Some(array) = NonNull::new(self.fields().args) else { return &[] };
        // SAFETY: while a directive is handled, `args` is the array of its words.
        let array = unsafe { array.as_ref() };
        // SAFETY: nginx makes it with elements of type `ngx_str_t` (`ngx_init_cycle()`).
        unsafe { array.as_slice() }
    }

    /// The directive's name.
    pub(crate) fn name(&self) -> &[u8] {
        self.words().first().map(ngx_str_t::as_bytes).unwrap_or_default()
    }

    /// Argument number `index`, from 0; empty when there is none, which the directive's table rules out.
    pub(crate) fn argument(&self, index: usize) -> &[u8] {
        self.optional(index).unwrap_or_default()
    }

    /// Argument number `index`, from 0.
    pub(crate) fn optional(&self, index: usize) -> Option<&[u8]> {
        self.words().get(index + 1).map(ngx_str_t::as_bytes)
    }

    /// Where the directive is.
    pub(crate) fn place(&self) -> Place {
        let Some(file) = NonNull::new(self.fields().conf_file) else { return Place::command_line() };
        // SAFETY: while a file or the command line is read, `conf_file` points to a record on nginx's stack.
        let file = unsafe { file.as_ref() };
        match file.file.name.as_bytes() {
            // `ngx_conf_param()`: no file, the argument of `-g`.
            [] => Place::command_line(),
            name => Place::new(name, file.line),
        }
    }

    /// The log that errors of the configuration go to.
    pub(crate) fn log(&self) -> Log<'_> {
        self.cycle().log()
    }

    /// Logs `[emerg] message in FILE:LINE`, nginx's form.
    pub(crate) fn emerg(&self, message: &str) {
        place::report(&self.place(), message, |line| self.log().write(Level::Emerg, line));
    }

    /// Logs `[warn] message in FILE:LINE`.
    pub(crate) fn warn(&self, message: &str) {
        place::report(&self.place(), message, |line| self.log().write(Level::Warn, line));
    }

    /// The cycle that is being made.
    pub(crate) fn cycle(&self) -> Cycle<'_> {
        // SAFETY: nginx sets it before it reads the first file (`ngx_init_cycle()`).
        let cycle = unsafe { NonNull::new_unchecked(self.fields().cycle) };
        // SAFETY: the cycle that is being made has its pool and log from the start, and outlives the reading.
        unsafe { Cycle::new(cycle) }
    }

    /// The pool that lives as long as the configuration.
    pub(crate) fn pool(&self) -> Pool<'_> {
        // SAFETY: nginx sets it before it reads the first file (`ngx_init_cycle()`).
        let pool = unsafe { NonNull::new_unchecked(self.fields().pool) };
        // SAFETY: it is the cycle's pool, which outlives the reading.
        unsafe { Pool::new(pool) }
    }

    /// Reads the block that the directive opens, where directives of core modules with `context` are known; answers
    /// whether that went well; nginx has logged what did not.
    pub(crate) fn parse_block(&mut self, context: ngx_uint_t) -> bool {
        let outside = self.fields();
        let mut inside = outside;
        inside.module_type = NGX_CORE_MODULE as ngx_uint_t;
        inside.cmd_type = context;
        // SAFETY: `raw` is live and ours to change while our directive is handled, as every block directive does it.
        unsafe { *self.raw.as_ptr() = inside };
        // SAFETY: a null file name reads on in the current file up to the closing brace. Handlers of inner directives
        // are called with the same `raw`; nothing borrowed from it is alive, since `self` is borrowed mutably.
        let result = unsafe { ngx_conf_parse(self.raw.as_ptr(), std::ptr::null_mut()) };
        // SAFETY: as above.
        unsafe { *self.raw.as_ptr() = outside };
        // NGX_CONF_OK is a null pointer.
        result.is_null()
    }
}

/// A size as nginx writes sizes (`512k`, `10m`, `4g`), in bytes; `None` when it is none.
pub(crate) fn size(text: &[u8]) -> Option<usize> {
    let mut text = borrow(text);
    // SAFETY: `text` is a string of `len` bytes, which the function (src/core/ngx_parse.c) only reads.
    let size = unsafe { ngx_parse_offset(&raw mut text) };
    usize::try_from(size).ok()
}

/// A time as nginx writes times (`50ms`, `5s`), in milliseconds; `None` when it is none.
pub(crate) fn milliseconds(text: &[u8]) -> Option<u64> {
    let mut text = borrow(text);
    // SAFETY: `text` is a string of `len` bytes, which the function (src/core/ngx_parse.c) only reads; 0 asks
    // for milliseconds.
    let time = unsafe { ngx_parse_time(&raw mut text, 0) };
    u64::try_from(time).ok()
}

/// `text` as nginx's string, for functions that only read it.
const fn borrow(text: &[u8]) -> ngx_str_t {
    ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() }
}

/// A pointer that nginx keeps for us, to a value that we made in one of its pools and nobody changes but through
/// cells.
///
/// # Safety
/// `raw` is what [`Pool::own`] answered for a `T`, and `'a` ends before that pool is destroyed.
pub(crate) unsafe fn value_of<'a, T>(raw: *mut c_void) -> Option<&'a T> {
    let value = NonNull::new(raw.cast::<T>())?;
    // SAFETY: the caller's promise; nobody makes a `&mut T` of it.
    Some(unsafe { value.as_ref() })
}
