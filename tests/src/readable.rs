//! What has been built, for workers of nginx to read: they are another user where root runs the tests, and may have no
//! way to a repository in a folder that only root may enter (`/root` is one). Such tests use a copy.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

/// What copies are called, before two numbers: of the folder that they are of, and of what is in it.
const PREFIX: &str = "weir-edge-";

/// `folder`, or a copy that everybody may read where they may not read it itself.
///
/// # Errors
/// When it cannot be copied. What is not there is answered as it is.
pub(crate) fn readable(folder: PathBuf) -> io::Result<PathBuf> {
    let Ok(whole) = folder.canonicalize() else { return Ok(folder) };
    if !geteuid().is_root() || is_open(&whole)? {
        return Ok(folder);
    }
    copy_in(&std::env::temp_dir(), &whole)
}

/// Whether everybody may come to `folder`.
fn is_open(folder: &Path) -> io::Result<bool> {
    for folder in folder.ancestors() {
        if fs::metadata(folder)?.mode() & 0o001 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The copy of `folder` in `place`; made if there is none of what is in it now, and then earlier ones are removed.
fn copy_in(place: &Path, folder: &Path) -> io::Result<PathBuf> {
    let mut files = Vec::new();
    list(folder, &mut files)?;
    let (mut whose, mut what) = (DefaultHasher::new(), DefaultHasher::new());
    folder.hash(&mut whose);
    for file in &files {
        let about = fs::metadata(file)?;
        (file, about.len(), about.mtime(), about.mtime_nsec()).hash(&mut what);
    }
    let of_folder = format!("{PREFIX}{:016x}-", whose.finish());
    let name = format!("{of_folder}{:016x}", what.finish());
    let copy = place.join(&name);
    if copy.exists() {
        return Ok(copy);
    }
    let begun = tempfile::Builder::new().prefix("weir-begun-").tempdir_in(place)?;
    for file in &files {
        let to = begun.path().join(file.strip_prefix(folder).map_err(io::Error::other)?);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
            open(folder)?;
        }
        fs::copy(file, &to)?;
        open(&to)?;
    }
    open(begun.path())?;
    // Another test may have been faster.
    if let Err(error) = fs::rename(begun.path(), &copy)
        && !copy.exists()
    {
        return Err(error);
    }
    for earlier in fs::read_dir(place)?.flatten() {
        let other = earlier.file_name();
        if other.to_str().is_some_and(|other| other.starts_with(&of_folder) && other != name) {
            // One that cannot be removed is only in the way.
            let _ = fs::remove_dir_all(earlier.path());
        }
    }
    Ok(copy)
}

/// Lets everybody read what its owner may read.
fn open(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6))
}

/// All files in `folder`, in order.
fn list(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    entries.sort_unstable();
    for entry in entries {
        if entry.is_dir() {
            list(&entry, files)?;
        } else {
            files.push(entry);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    };

    use super::{copy_in, is_open};

    #[test]
    fn a_copy_is_made_once_and_again_when_something_has_changed() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().join("private/edge");
        fs::create_dir_all(folder.join("sbin")).expect("folders");
        fs::write(folder.join("sbin/nginx"), "one").expect("a file");
        for (path, mode) in [("private", 0o700), ("private/edge/sbin/nginx", 0o700)] {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(place.path().join(path), mode).expect("permissions");
        }
        assert!(!is_open(&folder).expect("there"));
        let copy = copy_in(place.path(), &folder).expect("a copy");
        assert_eq!(fs::read_to_string(copy.join("sbin/nginx")).expect("a file"), "one");
        assert_eq!(fs::metadata(copy.join("sbin/nginx")).expect("a file").mode() & 0o777, 0o755);
        assert_eq!(fs::metadata(&copy).expect("a folder").mode() & 0o777, 0o755);
        assert_eq!(copy_in(place.path(), &folder).expect("a copy"), copy);

        fs::write(folder.join("sbin/nginx"), "other").expect("a file");
        let other = copy_in(place.path(), &folder).expect("a copy");
        assert_eq!(fs::read_to_string(other.join("sbin/nginx")).expect("a file"), "other");
        assert!(other != copy && !copy.exists());
        assert_eq!(fs::read_dir(place.path()).expect("a folder").count(), 2, "nothing else is left");
    }
}
