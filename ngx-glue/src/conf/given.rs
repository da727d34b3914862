//! What a filter reads as its configuration: text in nginx.conf, whose words nginx bounds to 4 KiB, or a file; and what
//! else may stand behind it.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use weir_core::engine::limits::MAX_CONFIGURATION_BYTES;

use super::Refusal;
use crate::ngx::{conf::Conf, cycle::Process};

/// `['configuration' [file=PATH] [root_id=ID] [vm_id=ID]]`, as it is given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// What the filter reads.
    pub(super) configuration: Vec<u8>,
    /// Which of the module's root contexts is meant; empty for the one without a name.
    pub(super) root_id: String,
    /// Scope of what the module shares, if it is not its name.
    pub(super) vm_id: Option<String>,
}

/// What `name=value` says behind a configuration.
#[derive(Debug, PartialEq, Eq)]
enum Further<'a> {
    File(&'a [u8]),
    RootId(String),
    VmId(String),
}

impl<'a> Further<'a> {
    fn parse(argument: &'a [u8]) -> Option<Self> {
        if let Some(path) = argument.strip_prefix(b"file=").filter(|path| !path.is_empty()) {
            return Some(Self::File(path));
        }
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).ok();
        if let Some(id) = argument.strip_prefix(b"vm_id=").filter(|id| !id.is_empty()) {
            return text(id).map(Self::VmId);
        }
        text(argument.strip_prefix(b"root_id=")?).map(Self::RootId)
    }
}

impl Given {
    /// Reads it from argument number `at` on; files too, but in a process that only sends a signal.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub(super) fn read(conf: &Conf<'_>, at: usize) -> Result<Self, Refusal> {
        let mut given = Self { configuration: conf.argument(at).to_vec(), ..Self::default() };
        for argument in (at + 1..).map_while(|at| conf.optional(at)) {
            let shown = String::from_utf8_lossy(argument);
            match Further::parse(argument) {
                Some(Further::RootId(id)) => given.root_id = id,
                Some(Further::VmId(id)) => given.vm_id = Some(id),
                Some(Further::File(_)) if !given.configuration.is_empty() => {
                    return Err(format!(
                        "\"{shown}\" and a configuration exclude each other: write '' in the place of the configuration"
                    )
                    .into());
                }
                Some(Further::File(path)) => {
                    let path = conf.cycle().full_path(path).ok_or(Refusal::Logged)?;
                    if Process::current() != Process::Signaller {
                        given.configuration = read(&path).map_err(|error| {
                            format!("the configuration \"{}\" cannot be read: {error}", path.display())
                        })?;
                    }
                }
                None => {
                    return Err(format!(
                        "invalid argument \"{shown}\": what follows a configuration must be \"file=PATH\", \
                         \"root_id=ID\" of a use, or \"vm_id=ID\" of a module, in UTF-8; a configuration with spaces has \
                         to be quoted"
                    )
                    .into());
                }
            }
        }
        if conf.optional(at + 1).is_none() && Further::parse(&given.configuration).is_some() {
            let shown = String::from_utf8_lossy(&given.configuration);
            conf.warn(&format!(
                "\"{shown}\" is the configuration itself here; if that is not what it is for, write '' before it"
            ));
        }
        Ok(given)
    }
}

/// The bytes of a file.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for somebody to write into it, and a device may never end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_CONFIGURATION_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_CONFIGURATION_BYTES {
        return Err(io::Error::other(format!("it has more than {} MiB", MAX_CONFIGURATION_BYTES >> 20)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{Further, MAX_CONFIGURATION_BYTES, read};

    #[test]
    fn what_may_stand_behind_a_configuration() {
        assert_eq!(Further::parse(b"file=a b"), Some(Further::File(b"a b")));
        assert_eq!(Further::parse(b"root_id="), Some(Further::RootId(String::new())));
        assert_eq!(Further::parse(b"vm_id=a b"), Some(Further::VmId("a b".into())));
        for other in [&b""[..], b"file=", b"file", b"root_id=\xff", b"vm_id=", b"vm_id=\xff", b"{}"] {
            assert_eq!(Further::parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn only_files_of_some_size_are_read() {
        let folder = std::env::temp_dir();
        let path = folder.join(format!("weir-given-{}", std::process::id()));
        fs::write(&path, b"a\0\xff").expect("a file");
        assert_eq!(read(&path).expect("its bytes"), b"a\0\xff");
        let file = fs::File::create(&path).expect("a file");
        file.set_len(MAX_CONFIGURATION_BYTES + 1).expect("a file full of holes");
        let error = read(&path).expect_err("too large").to_string();
        fs::remove_file(&path).expect("its end");
        assert!(error.contains("16 MiB"), "{error}");
        assert!(read(&folder).is_err() && read(Path::new("/dev/zero")).is_err());
    }
}
