//! Bounds of guests: directives of the `wasm` block with a number each.

use std::time::Duration;

use weir_core::engine::{Settings, Tracking, limits::LogLimit};

use super::{
    Refusal,
    main::{Main, invalid, number, once, set, size, time},
};
use crate::ngx::conf::Conf;

/// Bytes of one page of a guest's memory.
const WASM_PAGE: usize = 64 << 10;

/// Directives with one number each; `None` where the default stands.
#[derive(Debug, Default)]
pub(super) struct Limits {
    memory: Option<usize>,
    table_elements: Option<usize>,
    stack: Option<usize>,
    callback: Option<Duration>,
    configuration: Option<Duration>,
    contexts: Option<usize>,
    deferred: Option<usize>,
    log: Option<LogLimit>,
    memory_reservation: Option<usize>,
    keep_resident: Option<usize>,
    tracking: Option<Tracking>,
}

impl Limits {
    /// What is said goes in place of the defaults.
    pub(super) fn apply(&self, settings: &mut Settings) {
        set(&mut settings.memory_reservation, self.memory_reservation);
        set(&mut settings.keep_resident, self.keep_resident);
        set(&mut settings.tracking, self.tracking);
        set(&mut settings.limits.memory, self.memory);
        set(&mut settings.limits.table_elements, self.table_elements);
        set(&mut settings.limits.stack, self.stack);
        set(&mut settings.limits.callback, self.callback);
        // Else a callback could run many times as long as it may.
        settings.tick = settings.tick.min(settings.limits.callback);
        set(&mut settings.limits.configuration, self.configuration);
        set(&mut settings.limits.contexts, self.contexts);
        set(&mut settings.limits.deferred, self.deferred);
        set(&mut settings.limits.log, self.log);
    }
}

impl Main {
    /// `memory_limit SIZE;`
    pub(crate) fn memory_limit(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = size("memory_limit", conf.argument(0), WASM_PAGE, 4 << 30)?;
        main.with_block(|block| once("memory_limit", &mut block.limits.memory, value))
    }

    /// `table_limit N;`
    pub(crate) fn table_limit(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = number("table_limit", conf.argument(0), 1, 10_000_000)?;
        main.with_block(|block| once("table_limit", &mut block.limits.table_elements, value))
    }

    /// `stack_limit SIZE;`
    pub(crate) fn stack_limit(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        // nginx runs on the stack it was started with, 8 MiB by default, and needs some of it itself.
        let value = size("stack_limit", conf.argument(0), 64 << 10, 6 << 20)?;
        main.with_block(|block| once("stack_limit", &mut block.limits.stack, value))
    }

    /// `callback_timeout TIME;`
    pub(crate) fn callback_timeout(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = time("callback_timeout", conf.argument(0))?;
        main.with_block(|block| once("callback_timeout", &mut block.limits.callback, value))
    }

    /// `configuration_timeout TIME;`
    pub(crate) fn configuration_timeout(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = time("configuration_timeout", conf.argument(0))?;
        main.with_block(|block| once("configuration_timeout", &mut block.limits.configuration, value))
    }

    /// `contexts_limit N;`
    pub(crate) fn contexts_limit(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = number("contexts_limit", conf.argument(0), 1, 10_000_000)?;
        main.with_block(|block| once("contexts_limit", &mut block.limits.contexts, value))
    }

    /// `deferred_limit N;`
    pub(crate) fn deferred_limit(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = number("deferred_limit", conf.argument(0), 0, 10_000_000)?;
        main.with_block(|block| once("deferred_limit", &mut block.limits.deferred, value))
    }

    /// `log_limit N [burst=N] | off;`
    pub(crate) fn log_limit(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        const NAME: &str = "log_limit";
        const MOST: u64 = 10_000_000;
        let value = match (conf.argument(0), conf.optional(1)) {
            (b"off", None) => LogLimit { rate: 0, burst: 0 },
            (rate, None) => {
                let rate = number(NAME, rate, 1, MOST)?;
                LogLimit { rate, burst: rate }
            }
            (rate, Some(burst)) => {
                let count = burst.strip_prefix(b"burst=");
                let count = count.ok_or_else(|| invalid(NAME, burst, "\"burst=\" and a number"))?;
                LogLimit { rate: number(NAME, rate, 1, MOST)?, burst: number(NAME, count, 1, MOST)? }
            }
        };
        main.with_block(|block| once(NAME, &mut block.limits.log, value))
    }

    /// `memory_reservation SIZE;`
    pub(crate) fn memory_reservation(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = size("memory_reservation", conf.argument(0), WASM_PAGE, 64 << 30)?;
        main.with_block(|block| once("memory_reservation", &mut block.limits.memory_reservation, value))
    }

    /// `keep_resident SIZE;`
    pub(crate) fn keep_resident(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = size("keep_resident", conf.argument(0), 0, 4 << 30)?;
        main.with_block(|block| once("keep_resident", &mut block.limits.keep_resident, value))
    }

    /// `instance_reset auto | protect | scan | off;`
    pub(crate) fn instance_reset(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = match conf.argument(0) {
            b"auto" => Tracking::Auto,
            b"protect" => Tracking::Protect,
            b"scan" => Tracking::Scan,
            b"off" => Tracking::Renew,
            other => {
                return Err(invalid("instance_reset", other, "\"auto\", \"protect\", \"scan\" or \"off\""));
            }
        };
        main.with_block(|block| once("instance_reset", &mut block.limits.tracking, value))
    }
}
