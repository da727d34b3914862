//! `shm_kv` and `shm_queue`: the zones that filters of all workers share.

use std::{path::PathBuf, sync::Arc};

use weir_core::shared::{
    Eviction, OpenError, Zones, ZonesSpec,
    layout::Kind,
    regions::{QueuesSpec, TableSpec},
};

use super::{
    Main, Refusal,
    main::{Block, size},
    place::Place,
    resolve::Failure,
};
use crate::ngx::{conf::Conf, cycle};

/// Bytes of the smallest zone; users of ngx_wasm_module may have zones of 15k.
const SMALLEST: usize = 15 << 10;

/// Bytes of the largest zone.
const LARGEST: usize = 8 << 30;

/// One `shm_kv` or `shm_queue`.
#[derive(Debug)]
pub(crate) struct Zone {
    kind: Kind,
    name: String,
    size: usize,
    eviction: Eviction,
    persist: Option<PathBuf>,
    place: Place,
}

impl Main {
    /// `shm_kv NAME SIZE [eviction=slru|lru|none] [persist=PATH];`
    pub(crate) fn shm_kv(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let (mut eviction, mut persist) = (None, None);
        for argument in (2..).map_while(|at| conf.optional(at)) {
            let text = String::from_utf8_lossy(argument);
            let fresh = match text.split_once('=') {
                Some(("eviction", policy)) => eviction.replace(match policy {
                    "slru" => Eviction::Slru,
                    "lru" => Eviction::Lru,
                    "none" => Eviction::None,
                    _ => {
                        return Err(format!(
                            "invalid eviction \"{policy}\" in \"shm_kv\" directive: it must be \"slru\", \"lru\" or \
                             \"none\""
                        )
                        .into());
                    }
                })
                .is_none(),
                Some(("persist", path)) if !path.is_empty() => {
                    let path = argument.get("persist=".len()..).unwrap_or_default();
                    persist.replace(conf.cycle().full_path(path).ok_or(Refusal::Logged)?).is_none()
                }
                _ => {
                    return Err(format!(
                        "invalid parameter \"{text}\" in \"shm_kv\" directive: it must be \"eviction=POLICY\" or \
                         \"persist=PATH\""
                    )
                    .into());
                }
            };
            if !fresh {
                return Err(format!("parameter \"{text}\" in \"shm_kv\" directive is duplicate").into());
            }
        }
        main.zone("shm_kv", conf, Kind::Table, eviction.unwrap_or_default(), persist)
    }

    /// `shm_queue NAME SIZE;`
    pub(crate) fn shm_queue(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        main.zone("shm_queue", conf, Kind::Queues, Eviction::None, None)
    }

    fn zone(
        &self,
        directive: &str,
        conf: &Conf<'_>,
        kind: Kind,
        eviction: Eviction,
        persist: Option<PathBuf>,
    ) -> Result<(), Refusal> {
        let name = name(directive, conf.argument(0))?;
        let size = size(directive, conf.argument(1), SMALLEST, LARGEST)?;
        let place = conf.place();
        self.with_block(|block| {
            let mut others = block.zones.iter().filter(|other| other.kind == kind);
            if let Some(first) = others.clone().find(|other| other.name == name) {
                let first = &first.place;
                return Err(format!("\"{directive}\" zone \"{name}\" is declared twice (first in {first})").into());
            }
            if let Some(first) = others.find(|other| persist.is_some() && other.persist == persist) {
                let (other, first) = (&first.name, &first.place);
                return Err(format!(
                    "\"{directive}\" zone \"{other}\" has the same \"persist\" file already (in {first}): give each \
                     zone its own"
                )
                .into());
            }
            block.zones.push(Zone { kind, name, size, eviction, persist, place });
            Ok(())
        })
    }
}

/// A zone's name: what stands before the first slash of a key.
fn name(directive: &str, bytes: &[u8]) -> Result<String, Refusal> {
    match str::from_utf8(bytes) {
        Ok(name) if !name.is_empty() && !name.contains(|c: char| c == '/' || c.is_control()) => Ok(name.to_owned()),
        _ => Err(format!(
            "invalid name in \"{directive}\" directive: it must be text without slashes and control characters, or \
             \"*\" for all keys that name no other zone"
        )
        .into()),
    }
}

/// Opens the zones of `block`.
pub(super) fn open(block: &Block) -> Result<Arc<Zones>, Failure> {
    let of = |kind| block.zones.iter().filter(move |zone| zone.kind == kind);
    let spec = ZonesSpec {
        tables: of(Kind::Table)
            .map(|zone| TableSpec {
                name: zone.name.clone(),
                size: zone.size,
                eviction: zone.eviction,
                // A test of the configuration leaves the files of a server that runs alone.
                persist: zone.persist.clone().filter(|_| !cycle::is_test()),
            })
            .collect(),
        queues: of(Kind::Queues)
            .map(|zone| QueuesSpec { name: zone.name.clone(), size: zone.size })
            .collect(),
    };
    Zones::open(&spec).map_err(|error: OpenError| {
        let found = of(error.kind).find(|zone| zone.name == error.zone);
        Failure::new(found.map_or(&block.place, |zone| &zone.place), error)
    })
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn names_have_no_slash() {
        for good in ["*", "sessions", "größe", "a.b-c"] {
            assert_eq!(name("shm_kv", good.as_bytes()).ok().as_deref(), Some(good));
        }
        for bad in [&b""[..], b"a/b", b"a\nb", b"\xff"] {
            assert!(name("shm_kv", bad).is_err());
        }
    }
}
