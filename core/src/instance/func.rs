//! Functions of a guest: what the ABI calls takes up to five i32 and returns one at the most.

use wasmtime::{AsContextMut, Store, TypedFunc, ValRaw};

use super::Params;
use crate::{filter::exports::Export, host::Host, instance::State};

/// What a function of the guest has returned: an i32, or nothing. Half the size of an `Option`, so that it fits into
/// registers beside a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Returned(i64);

impl Returned {
    /// No value.
    pub(crate) const NOTHING: Self = Self(i64::MIN);

    /// Its value, if it has one.
    #[inline]
    pub(crate) fn value(self) -> Option<i32> {
        i32::try_from(self.0).ok()
    }
}

impl From<i32> for Returned {
    fn from(value: i32) -> Self {
        Self(value.into())
    }
}

/// Where the function of a callback is, in one instance.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slot {
    /// Not looked for yet.
    Unresolved,
    /// The guest does not export it.
    Absent,
    /// There.
    Found(Func),
}

/// A function of the guest, as the module's exports say it is.
///
/// Smaller than wasmtime's [`TypedFunc`], which carries its type with it, and called by the same code whatever its
/// shape: six callbacks of a request touch fewer lines of a processor's caches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Func {
    func: wasmtime::Func,
    returns: bool,
}

impl Func {
    /// The function behind `export`; `None` where it has vanished.
    pub(super) fn find<H: Host>(
        instance: &wasmtime::Instance,
        store: impl AsContextMut<Data = State<H>>,
        export: &Export,
    ) -> Option<Self> {
        let func = instance.get_module_export(store, &export.index)?.into_func()?;
        Some(Self { func, returns: export.returns })
    }

    /// Calls it with as many of `params` as it takes.
    ///
    /// # Errors
    /// A trap, or what a host function has failed with.
    #[inline]
    #[allow(
        unsafe_code,
        reason = "a signature that was checked once for the module needs no check at each call"
    )]
    pub(super) fn call<H: Host>(
        self,
        store: &mut Store<State<H>>,
        params: Params,
    ) -> wasmtime::Result<Returned> {
        let mut values = params.map(ValRaw::i32);
        // SAFETY: `Exports::resolve` has checked that all parameters and results of this export are i32, five and one
        // of them at the most (`Callback::params`, `resolve_series`): so many values are here, the first ones are the parameters, and the
        // first one becomes the result.
        unsafe { self.func.call_unchecked(store, &raw mut values) }?;
        let [first, ..] = values;
        Ok(if self.returns { first.get_i32().into() } else { Returned::NOTHING })
    }

    /// The guest's allocator, which hostcalls call.
    pub(super) fn allocator<H: Host>(self, store: &Store<State<H>>) -> wasmtime::Result<TypedFunc<i32, i32>> {
        self.func.typed(store)
    }
}
