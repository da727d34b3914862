//! `proxy_define_metric`, `proxy_increment_metric`, `proxy_record_metric`, `proxy_get_metric`.
//!
//! Semantics are Envoy's: `record` adds to a counter, sets a gauge, and puts a value into a histogram, of which nothing
//! can be read back.

use wasmtime::Caller;

use super::{
    memory::{parts, put_u32, put_u64, slice},
    status::{Hostcall, HostcallError, Status},
};
use crate::{
    host::Host,
    instance::State,
    metrics::{Kind, MetricError},
};

/// What a guest gets in place of a metric for which there is no room, where its SDK would panic at anything but OK: it
/// takes every value and keeps none.
const NOWHERE: u32 = u32::MAX;

impl From<MetricError> for HostcallError {
    fn from(error: MetricError) -> Self {
        Self::Status(match error {
            MetricError::NotFound => Status::NotFound,
            MetricError::BadArgument | MetricError::NameTooLong(_) => Status::BadArgument,
            MetricError::Full => Status::InternalFailure,
        })
    }
}

/// Defines a metric, or finds the one that this filter has of that kind and name.
pub(super) fn define<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    kind: i32,
    name: i32,
    name_size: i32,
    return_metric: i32,
) -> Hostcall {
    let kind = u8::try_from(kind).ok().and_then(Kind::from_raw).filter(|kind| *kind != Kind::Level);
    let kind = kind.ok_or(Status::BadArgument)?;
    let (memory, state) = parts(caller)?;
    let name = slice(memory, name, name_size)?;
    // Before anything is defined.
    slice(memory, return_metric, 4)?;
    let id = match state.metrics.define(&state.filter.spec().name, kind, name) {
        Ok(id) => id,
        Err(error) => {
            let advice = match error {
                MetricError::NameTooLong(limit) => {
                    format!("its name has more than {limit} bytes: raise \"max_metric_name_length\"")
                }
                _ => "there is no room: raise \"slab_size\" in the block \"metrics\"".to_owned(),
            };
            let shown = name.get(..100).unwrap_or(name);
            let what = format!("metric \"{}\" cannot be defined: {advice}", String::from_utf8_lossy(shown));
            if !std::mem::replace(&mut state.warned_metrics, true) {
                state.warn(&what);
            }
            if !state.filter.panics_on_status() {
                return Err(error.into());
            }
            NOWHERE
        }
    };
    put_u32(caller, return_metric, id)
}

/// A counter by more, a gauge by more or less.
pub(super) fn increment<H: Host>(caller: &mut Caller<'_, State<H>>, metric: i32, offset: i64) -> Hostcall {
    let state = caller.data();
    let metric = metric.cast_unsigned();
    if metric == NOWHERE && state.filter.panics_on_status() {
        return Ok(());
    }
    Ok(state.metrics.increment(state.scope, metric, offset)?)
}

/// Sets a gauge, adds to a counter, puts a value into a histogram.
pub(super) fn record<H: Host>(caller: &mut Caller<'_, State<H>>, metric: i32, value: i64) -> Hostcall {
    let state = caller.data();
    let metric = metric.cast_unsigned();
    if metric == NOWHERE && state.filter.panics_on_status() {
        return Ok(());
    }
    Ok(state.metrics.record(state.scope, metric, value.cast_unsigned())?)
}

/// What all workers have counted.
pub(super) fn get<H: Host>(caller: &mut Caller<'_, State<H>>, metric: i32, return_value: i32) -> Hostcall {
    let state = caller.data();
    let metric = metric.cast_unsigned();
    let value = if metric == NOWHERE && state.filter.panics_on_status() {
        0
    } else {
        state.metrics.get(state.scope, metric)?
    };
    put_u64(caller, return_value, value)
}
