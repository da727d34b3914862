//! Names of guests' functions for Linux's `perf`, which looks for those of code made at run time in `/tmp/perf-PID.map`:
//! a line for each, its address and size in hexadecimal, and its name (`tools/perf/Documentation/jit-interface.txt`).

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use weir_core::plan::Plans;

use crate::host::Ngx;

/// The file of this process. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct PerfMap(PathBuf);

impl PerfMap {
    /// Writes down all code of `plans`.
    ///
    /// # Errors
    /// When there is such a file that cannot be replaced, or no room for one.
    pub(crate) fn write(plans: &Plans<Ngx>) -> io::Result<Self> {
        let path = PathBuf::from(format!("/tmp/perf-{}.map", std::process::id()));
        // One that an earlier process with this number has left.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Everybody may write to /tmp: nothing that is there is opened, and no link followed.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
        let map = Self(path);
        let mut text = String::new();
        for symbol in plans.symbols() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:x} {:x} {}", symbol.address, symbol.size, symbol.name);
        }
        file.write_all(text.as_bytes())?;
        Ok(map)
    }
}

impl Drop for PerfMap {
    fn drop(&mut self) {
        // Somebody may have been faster.
        let _ = fs::remove_file(&self.0);
    }
}
