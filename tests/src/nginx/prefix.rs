//! The temporary folder that nginx runs in.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use tempfile::TempDir;

use super::Ended;
use crate::{conf::Conf, paths};

/// A prefix with nginx.conf, its files, and links to the built modules and guests.
#[derive(Debug)]
pub(super) struct Prefix {
    folder: TempDir,
    environment: Vec<(String, String)>,
}

impl Prefix {
    pub(super) fn new(conf: &Conf, ports: &[u16]) -> Self {
        let folder = tempfile::Builder::new().prefix("weir-").tempdir().expect("a temporary folder");
        // Workers run as another user, and have to reach the files in here.
        set_mode(folder.path(), 0o755);
        // What has not been built leaves a dead link, which nginx then complains of.
        let links = [("modules", paths::edge().join("modules")), ("guests", paths::guests())];
        for (name, target) in links {
            symlink(target, folder.path().join(name)).expect("a link in the prefix");
        }
        let prefix = Self { folder, environment: conf.variables() };
        prefix.write(conf, ports);
        prefix
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes nginx.conf and the files beside it.
    pub(super) fn write(&self, conf: &Conf, ports: &[u16]) {
        for (path, content) in conf.files() {
            self.write_file(path, content);
        }
        for path in conf.open_folders() {
            set_mode(&self.path().join(path), 0o777);
        }
        self.write_file("nginx.conf", conf.render(self.path(), ports).as_bytes());
    }

    fn write_file(&self, path: &str, content: &[u8]) {
        let path = self.path().join(path);
        let folders: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        for folder in folders.iter().rev().filter(|folder| folder.starts_with(self.path())) {
            match fs::create_dir(folder) {
                Ok(()) => set_mode(folder, 0o755),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", folder.display()),
            }
        }
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        set_mode(&path, 0o644);
    }

    /// Runs nginx in this prefix. What it writes to its standard error is for [`Prefix::ended`].
    pub(super) fn run(&self, arguments: &[&str]) -> Child {
        let stderr = fs::File::create(self.path().join("stderr")).expect("a file for stderr");
        // The folder in place of `-p PREFIX -c nginx.conf` would do, but this is what operators type.
        Command::new(paths::nginx())
            .arg("-p")
            .arg(self.path())
            .args(["-c", "nginx.conf"])
            .args(arguments)
            // What nginx frees is overwritten (mallopt(3)), so that nothing goes on with it unnoticed.
            .env("MALLOC_PERTURB_", "90")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("run nginx")
    }

    pub(super) fn log(&self) -> String {
        // The log is made by nginx, once it has read that it shall.
        String::from_utf8_lossy(&fs::read(self.path().join("error.log")).unwrap_or_default()).into_owned()
    }

    /// What nginx's pid file holds, if there is one.
    pub(super) fn pid(&self) -> Option<String> {
        let text = fs::read_to_string(self.path().join("nginx.pid")).ok()?;
        text.ends_with('\n').then(|| text.trim().to_owned())
    }

    pub(super) fn ended(&self, status: ExitStatus) -> Ended {
        let read = |name| fs::read_to_string(self.path().join(name)).unwrap_or_default();
        Ended { status, stderr: read("stderr"), log: self.log(), conf: read("nginx.conf") }
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions of a file of the prefix");
}
