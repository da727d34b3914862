//! Functions of a guest, typed by the shapes that the ABI has.

use wasmtime::TypedFunc;

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

impl From<()> for Returned {
    fn from((): ()) -> Self {
        Self::NOTHING
    }
}

/// A function of the guest, typed once for this instance.
pub(super) enum Func {
    /// Not looked for yet.
    Unresolved,
    Absent,
    P0R0(TypedFunc<(), ()>),
    P0R1(TypedFunc<(), i32>),
    P1R0(TypedFunc<i32, ()>),
    P1R1(TypedFunc<i32, i32>),
    P2R0(TypedFunc<(i32, i32), ()>),
    P2R1(TypedFunc<(i32, i32), i32>),
    P3R0(TypedFunc<(i32, i32, i32), ()>),
    P3R1(TypedFunc<(i32, i32, i32), i32>),
    P5R0(TypedFunc<(i32, i32, i32, i32, i32), ()>),
}

/// The function behind `export`, typed by its shape.
///
/// The shape was checked when the module was loaded ([`exports`](crate::filter::exports)): checking each function of
/// each new instance again would cost more than calling it.
#[allow(unsafe_code, reason = "types that were checked once for the module need no check in each instance")]
pub(super) fn typed<H: Host>(
    instance: &wasmtime::Instance,
    mut store: wasmtime::StoreContextMut<'_, State<H>>,
    export: &Export,
) -> Option<Func> {
    /// One arm for each shape: the block below is the same for all of them.
    macro_rules! shapes {
        ($func:ident, $store:ident; $(($params:literal, $returns:literal) => $shape:ident,)+) => {
            match (export.params, export.returns) {
                $(($params, $returns) => {
                    // SAFETY: `Exports::resolve` has checked that all parameters and results of the export at this
                    // index are i32, and counted them; this arm is the one for these counts.
                    Some(Func::$shape(unsafe { TypedFunc::new_unchecked(&$store, $func) }))
                })+
                _ => None,
            }
        };
    }
    let func = instance.get_module_export(&mut store, &export.index)?.into_func()?;
    shapes! { func, store;
        (0, false) => P0R0,
        (0, true) => P0R1,
        (1, false) => P1R0,
        (1, true) => P1R1,
        (2, false) => P2R0,
        (2, true) => P2R1,
        (3, false) => P3R0,
        (3, true) => P3R1,
        (5, false) => P5R0,
    }
}
