//! Zones that are kept in a file when the server has stopped.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FallocateFlags, fallocate};

use super::{
    carry,
    layout::Layout,
    map::Mapping,
    members::Lifelines,
    regions::{Made, Pending},
    zone::Zone,
};

/// A zone and who uses it.
type Used = (Arc<Zone<Mapping>>, Arc<Lifelines>);

/// Opens the zone in the file at `path`, or makes it. `from` has what belongs into it, if it is not what the file has.
///
/// # Errors
/// When the file cannot be used, or is something else.
pub(super) fn open(path: &Path, layout: Layout, from: Option<Used>) -> io::Result<Made> {
    let stored = match &from {
        Some(_) => None,
        None => stored(path, layout)?,
    };
    match stored {
        Some((zone, lifelines)) if zone.layout == layout => Ok((zone, lifelines, None)),
        Some(stored) => made(path, layout, Some(stored)),
        None => made(path, layout, from),
    }
}

/// A new file beside `path`, which takes its place when the zone is used.
fn made(path: &Path, layout: Layout, from: Option<Used>) -> io::Result<Made> {
    let mut beside = OsString::from(path);
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // What a start that failed has left.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&beside)?;
    // All of it, so that no process is killed later because the disk is full.
    fallocate(&file, FallocateFlags::empty(), 0, layout.bytes() as u64)?;
    let zone = carry::create(&file, layout, from.as_ref().map(|(zone, _)| &**zone))?;
    let lifelines = Arc::new(Lifelines::in_file(file));
    if let Some((zone_before, lifelines_before)) = from {
        let pending = Pending {
            zone: zone_before,
            lifelines: lifelines_before,
            rename: Some((beside, path.to_owned())),
        };
        return Ok((Arc::new(zone), lifelines, Some(pending)));
    }
    fs::rename(&beside, path)?;
    Ok((Arc::new(zone), lifelines, None))
}

/// The zone that is in the file already. If no process uses it, it is put in order.
fn stored(path: &Path, wanted: Layout) -> io::Result<Option<Used>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() == 0 {
        return Ok(None);
    }
    let other = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it is no shared data of this version: remove it, or name another file",
        )
    };
    let zone = Zone::open(Mapping::new(&file)?, wanted.kind()).ok_or_else(other)?;
    let lifelines = Lifelines::in_file(file);
    if !lifelines.others() {
        zone.settle();
    } else if zone.layout != wanted {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another server uses it with another size: stop that first, or give the same size",
        ));
    }
    Ok(Some((Arc::new(zone), Arc::new(lifelines))))
}
