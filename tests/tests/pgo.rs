//! Which profile of what runs how often a build is optimized by (`ngx-glue/pgo/config`).

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use weir_tests::paths;

/// A target directory with a space in its name, and a rustc that says what it is told to.
struct Build {
    folder: TempDir,
}

impl Build {
    fn new(release: &str, commit: &str) -> Self {
        let folder = TempDir::with_prefix("a build ").expect("a folder");
        let rustc = folder.path().join("rustc");
        let text =
            format!("#!/bin/sh\nprintf 'commit-hash: {commit}\\nhost: {HOST}\\nrelease: {release}\\n'\n");
        fs::write(&rustc, text).expect("a file");
        fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).expect("its mode");
        Self { folder }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("target")
    }

    /// What cargo is told, and what the builder is.
    fn run(&self, rustflags: Option<&str>) -> (String, String) {
        let mut script = Command::new(committed_folder().join("config"));
        script.env("RUSTC", self.folder.path().join("rustc")).env("CARGO_TARGET_DIR", self.target());
        script.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        if let Some(rustflags) = rustflags {
            script.env("RUSTFLAGS", rustflags);
        }
        let output = script.output().expect("the script runs");
        assert!(output.status.success(), "{output:?}");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (text(output.stdout), text(output.stderr))
    }

    fn setting(&self) -> String {
        self.run(None).0
    }
}

const HOST: &str = "x86_64-unknown-linux-gnu";

fn committed_folder() -> PathBuf {
    paths::repository("ngx-glue/pgo")
}

fn uses(profile: &Path) -> String {
    format!(
        "target.{HOST}.rustflags=['-Cprofile-use={}', '-Cllvm-args=-no-pgo-warn-mismatch']\n",
        profile.display()
    )
}

#[test]
fn another_rustc_has_no_profile() {
    let (setting, said) = Build::new("1.0.0", "0123456789abcdef").run(None);
    assert_eq!(setting, "");
    assert!(said.contains("scripts/pgo"), "{said}");
}

#[test]
fn a_profile_of_ones_own_is_found_by_its_rustc() {
    let build = Build::new("1.0.0", "0123456789abcdef");
    let folder = build.target().join("pgo");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(format!("{HOST}.rustc-1.0.1-012345678.cafe.profdata")), "").expect("a file");
    assert_eq!(build.setting(), "");
    let own = folder.join(format!("{HOST}.rustc-1.0.0-012345678.cafe.profdata"));
    fs::write(&own, "").expect("a file");
    assert_eq!(build.setting(), uses(&own));

    // cargo would not heed the setting; the builder can.
    let (setting, said) = build.run(Some("-Ctarget-cpu=native"));
    assert_eq!(setting, "");
    assert!(said.contains(&format!("-Cprofile-use={}", own.display())), "{said}");
}

#[test]
fn the_committed_profile_is_used_unless_there_is_one_of_ones_own() {
    let start = format!("{HOST}.rustc-");
    let committed = fs::read_dir(committed_folder())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "profdata"))
        .expect("there is a profile");
    let name = committed.file_name().expect("a name").to_str().expect("text");
    let (release, commit) = name
        .strip_prefix(&start)
        .and_then(|rest| rest.rsplit_once('.'))
        .and_then(|(rest, _)| rest.rsplit_once('.'))
        .and_then(|(rustc, _)| rustc.split_once('-'))
        .expect("HOST.rustc-RELEASE-COMMIT.CHECKSUM.profdata");
    let build = Build::new(release, &format!("{commit}0123456789"));
    assert_eq!(build.setting(), uses(&committed));
    let own = build.target().join("pgo").join(name);
    fs::create_dir_all(build.target().join("pgo")).expect("a folder");
    fs::write(&own, "").expect("a file");
    assert_eq!(build.setting(), uses(&own));
}
