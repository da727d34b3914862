//! Where a panic of ours comes from, as its report in the log has it.
//!
//! Functions have names where their file can be read: those that nobody else calls by name are in no memory. Workers are
//! often another user than the one who starts nginx, and may not read what that can. Then there are places instead, which
//! a tool that may read the file gives names to.

use std::{
    backtrace::Backtrace,
    ffi::{CStr, OsStr, c_void},
    fmt::Write as _,
    fs::File,
    io,
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    ptr,
};

/// Most functions that are told by their places.
const MOST: usize = 128;

/// A place in a file's code.
#[derive(Debug)]
struct Place {
    file: PathBuf,
    /// Bytes from where the file begins in memory.
    offset: usize,
}

/// The functions that run, the innermost first, a line or two for each.
pub(super) fn capture() -> String {
    match own_file() {
        Some((file, Err(error))) => {
            let file = file.display();
            format!(
                "functions have no names here, since {file} cannot be read ({error}): let the user of nginx's workers \
                 read it, or ask 'addr2line -Cfie {file} PLACE' for what is at a place:\n{}",
                places()
            )
        }
        Some((_, Ok(()))) | None => Backtrace::force_capture().to_string(),
    }
}

/// The file that this code is in, and whether it can be read.
fn own_file() -> Option<(PathBuf, io::Result<()>)> {
    let Place { file, .. } = place(capture as fn() -> String as *const c_void)?;
    // A program that was found by its name alone is looked for elsewhere.
    let readable = if file.is_absolute() { File::open(&file).map(drop) } else { Ok(()) };
    Some((file, readable))
}

/// Where the calls are that run now.
fn places() -> String {
    let mut addresses = [ptr::null_mut::<c_void>(); MOST];
    let most = i32::try_from(MOST).unwrap_or_default();
    // SAFETY: there is room for as many.
    let count = unsafe { libc::backtrace(addresses.as_mut_ptr(), most) };
    let count = usize::try_from(count).unwrap_or_default();
    let mut text = String::new();
    for (number, address) in addresses.iter().take(count).enumerate() {
        // A call comes before where it returns to.
        let call = address.wrapping_byte_sub(1);
        // Writing to a string does not fail.
        let _ = match place(call) {
            Some(Place { file, offset }) => writeln!(text, "{number:4}: {}: {offset:#x}", file.display()),
            None => writeln!(text, "{number:4}: {call:p}"),
        };
    }
    text
}

/// What is at `address`, if a file is.
fn place(address: *const c_void) -> Option<Place> {
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: any address may be asked for, and there is room for the answer.
    if unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: it has been answered (dladdr(3)).
    let info = unsafe { info.assume_init() };
    if info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the linker's own string, which lives as long as the file is loaded, and this code runs in it or is called
    // by what does.
    let file = unsafe { CStr::from_ptr(info.dli_fname) };
    let file = PathBuf::from(OsStr::from_bytes(file.to_bytes()));
    Some(Place { file, offset: address.addr().wrapping_sub(info.dli_fbase.addr()) })
}

#[cfg(test)]
mod tests {
    use super::{own_file, place, places};

    #[test]
    fn a_place_is_in_a_file() {
        let (file, readable) = own_file().expect("a file");
        assert!(readable.is_ok(), "{file:?}: {readable:?}");
        let program = std::env::current_exe().expect("its path");
        assert_eq!(file.canonicalize().expect("a path"), program);
        assert!(place(std::ptr::without_provenance(1)).is_none());
    }

    #[test]
    fn all_calls_have_places() {
        let text = places();
        let own = std::env::current_exe().expect("its path");
        let name = own.file_name().and_then(|name| name.to_str()).expect("a name");
        let first = text.lines().next().expect("a line");
        assert!(first.starts_with("   0: ") && first.contains(&format!("{name}: 0x")), "{text}");
        assert!(text.lines().count() > 3, "{text}");
    }
}
