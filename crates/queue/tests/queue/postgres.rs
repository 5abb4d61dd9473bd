//! A PostgreSQL server of the tests' own: in a temporary folder, for as long as the tests run.
//!
//! Without one installed the tests that need it are left out, which they say;
//! `DISTORCH_EXPECT_POSTGRES` makes that a failure.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;

/// A server that is up.
pub struct Server {
    port: u16,
    folder: PathBuf,
    programs: PathBuf,
    /// Ends the server once this process no longer holds its input, however it ended.
    _warden: Child,
    _input: Option<ChildStdin>,
}

/// The server that tests share which do not restart it; nothing where none is installed.
pub fn shared() -> Option<&'static Server> {
    static SERVER: LazyLock<Option<Server>> = LazyLock::new(Server::start);
    SERVER.as_ref()
}

impl Server {
    /// Starts a server; `None` where none is installed.
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            let expected = std::env::var_os("DISTORCH_EXPECT_POSTGRES").is_some();
            assert!(!expected, "PostgreSQL is expected: no initdb in /usr/lib/postgresql or PATH");
            eprintln!("left out: no PostgreSQL server is installed (Debian: postgresql)");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("distorch-pg").tempdir().unwrap().keep();
        if let Some((user, group)) = unprivileged() {
            std::os::unix::fs::chown(&folder, Some(user), Some(group)).unwrap();
        }
        // The programs look at the folder that they are started in, which may be closed to them.
        let run = |program: &str, arguments: &[&str]| {
            let output =
                command(&programs.join(program), &folder).args(arguments).output().unwrap();
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(output.status.success(), "{program}: {output:?}\n{log}");
        };
        let data = folder.join("data").display().to_string();
        // `trust`: any password is right. The folder is gone after the tests: no need to sync.
        let arguments = ["--no-sync", "-E", "UTF8", "--locale=C", "-U", "distorch", "-A", "trust"];
        run("initdb", &[&arguments[..], &["-D", &data]].concat());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(
            folder.join("data/postgresql.auto.conf"),
            format!(
                "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n\
                 fsync = off\nmax_connections = 200\n"
            ),
        )
        .unwrap();
        let log = folder.join("log").display().to_string();
        run("pg_ctl", &["-D", &data, "-l", &log, "-w", "start"]);
        let mut warden = command(Path::new("/bin/sh"), &folder)
            .arg("-c")
            .arg("trap '' INT TERM; cat; \"$0/pg_ctl\" -D \"$1/data\" -m immediate stop; rm -rf \"$1\"")
            .arg(&programs)
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = warden.stdin.take();
        Some(Self { port, folder, programs, _warden: warden, _input: input })
    }

    /// The address of a database; the password is one that messages must not show.
    pub fn address(&self, database: &str) -> String {
        format!("postgres://distorch:hunter2@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database and returns its address.
    pub fn database(&self, name: &str) -> String {
        let port = self.port.to_string();
        let output = command(&self.programs.join("createdb"), &self.folder)
            .args(["-h", "127.0.0.1", "-p", &port, "-U", "distorch", name])
            .output()
            .unwrap();
        assert!(output.status.success(), "createdb: {output:?}");
        self.address(name)
    }

    /// Stops the server without warning its clients, and starts it again.
    pub fn restart(&self) {
        let data = self.folder.join("data").display().to_string();
        let log = self.folder.join("log").display().to_string();
        let arguments = ["-D", &data, "-l", &log, "-w", "-m", "immediate", "restart"];
        let status = command(&self.programs.join("pg_ctl"), &self.folder)
            .args(arguments)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    }
}

/// A command that runs as a user whom PostgreSQL accepts: it refuses root.
fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    if let Some((user, group)) = unprivileged() {
        command.uid(user).gid(group);
    }
    command
}

/// The user and the group `postgres`, where this process is root's.
fn unprivileged() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| -> Option<u32> {
        let output = Command::new("id").args(arguments).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    (id(&["-u"])? == 0).then_some(())?;
    Some((id(&["-u", "postgres"])?, id(&["-g", "postgres"])?))
}

/// Where the newest server's programs are.
fn programs() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = debian.map(|entry| entry.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    folders.into_iter().find(|folder| folder.join("initdb").exists())
}
