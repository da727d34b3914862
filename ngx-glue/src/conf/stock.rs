//! `instances`: how many there are in a worker, how many are kept ready, and how long requests wait for one.

use std::time::Duration;

use weir_core::shard::Stock;

use super::{
    Refusal,
    main::{Main, invalid, number, once, time},
};
use crate::ngx::conf::Conf;

/// The directive.
const NAME: &str = "instances";

impl Main {
    /// `instances NUMBER [spare=NUMBER] [idle=NUMBER] [wait=TIME];`
    pub(crate) fn instances(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let most: u32 = number(NAME, conf.argument(0), 1, 30_000)?;
        let mut stock = Stock::default();
        let mut given = Vec::new();
        let parameters = (1..).map_while(|index| conf.optional(index));
        for parameter in parameters {
            let at = parameter.iter().position(|byte| *byte == b'=');
            let (name, value) = parameter.split_at(at.map_or(0, |at| at + 1));
            match name {
                b"spare=" => stock.spare = number("instances spare=", value, 0, u64::from(most))?,
                b"idle=" => stock.idle = number("instances idle=", value, 0, u64::from(most))?,
                b"wait=" if value == b"0" => stock.wait = Duration::ZERO,
                b"wait=" => stock.wait = time("instances wait=", value)?,
                _ => return Err(invalid(NAME, parameter, "\"spare=\", \"idle=\" or \"wait=\" and a value")),
            }
            if given.contains(&name) {
                let name = String::from_utf8_lossy(name);
                return Err(format!("\"{NAME}\" has \"{name}\" twice: remove one").into());
            }
            given.push(name);
        }
        if stock.spare > stock.idle {
            return Err(format!(
                "\"{NAME}\" has more \"spare=\" ({}) than \"idle=\" ({}): lower the one or raise the other",
                stock.spare, stock.idle
            )
            .into());
        }
        main.with_block(|block| once(NAME, &mut block.instances, (most, stock)))
    }
}
