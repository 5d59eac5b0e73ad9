//! Homes, nodes and commands for end-to-end tests: every node is a process of its own, and every command is the
//! `golemnode` that was built beside this test.
pub mod bargain;
pub mod crash;
pub mod crowd;
pub mod hand;
pub mod noise;

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Long enough for a busy machine with emulated guests, short enough that a hang ends.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test. Cargo builds it beside the tests; `GOLEMNODE_BIN` names another.
pub fn golemnode() -> PathBuf {
    if let Some(named) = std::env::var_os("GOLEMNODE_BIN") {
        return named.into();
    }
    let own = std::env::current_exe().expect("a program has a path");
    // A test runs from target/PROFILE/deps, the benchmark from target/PROFILE.
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("golemnode")).find(|binary| binary.exists());
    beside.unwrap_or_else(|| panic!("no golemnode beside {}: run 'cargo build -p cli' first", own.display()))
}

/// The bundle of a test guest, built by `make test`; without it the test says that it was skipped.
pub fn guest(name: &str) -> Option<PathBuf> {
    let bundle = std::env::var_os("GOLEMNODE_TEST_IMAGES").map(|dir| Path::new(&dir).join(name));
    let bundle = bundle.filter(|bundle| bundle.join("manifest.json").exists());
    if bundle.is_none() {
        eprintln!("SKIPPED: no guest image '{name}': set GOLEMNODE_TEST_IMAGES, or run 'make test'");
    }
    bundle
}

/// Polls until it is there.
pub fn eventually<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A home of its own, short enough for the sockets below it, gone with the test. Its node is stopped before.
pub struct Home {
    dir: tempfile::TempDir,
    env: Vec<(&'static str, &'static str)>,
}

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("gn-").rand_bytes(5).tempdir_in("/tmp").expect("/tmp is writable");
        // QEMU runs as a user of its own and must reach the disks.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("own folder");
        Home { dir, env: Vec::new() }
    }
    /// For every command and node of this home.
    pub fn with_env(mut self, key: &'static str, value: &'static str) -> Self {
        self.env.push((key, value));
        self
    }
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(golemnode());
        command.arg("--home").arg(self.path()).args(args).env_remove("GOLEMNODE_HOME").stdin(Stdio::null());
        // The machine that runs the tests is busy with them.
        for threshold in ["CPU", "MEMORY", "DISK"] {
            command.env(format!("GOLEMNODE_{threshold}_THRESHOLD"), "100");
        }
        // Whether this machine's firewall holds guests is no matter of most tests, and they leave it alone.
        command.env("GOLEMNODE_EGRESS", "none");
        command.envs(self.env.iter().copied());
        command
    }
    pub fn run(&self, args: &[&str]) -> Ran {
        let output = self.command(args).output().expect("golemnode runs");
        Ran { args: args.join(" "), output }
    }
    /// A command that must work; its answer in JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        let ran = self.run(&all).ok();
        serde_json::from_str(&ran.stdout()).unwrap_or_else(|error| panic!("{}: {error} in {}", ran.args, ran.stdout()))
    }
    pub fn import(&self, bundle: &Path) {
        self.run(&["image", "import", bundle.to_str().expect("a plain path")]).ok();
    }
    pub fn config(&self, toml: &str) -> &Self {
        std::fs::write(self.path().join("config.toml"), toml).expect("own folder");
        self
    }
    /// Starts a node and waits until it answers.
    pub fn node(&self, args: &[&str]) -> Node<'_> {
        let mut all = vec!["node", "run", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"];
        all.extend(args);
        let log = std::fs::File::create(self.path().join("test.log")).expect("own folder");
        let child = self.command(&all).stdout(Stdio::null()).stderr(log).spawn().expect("golemnode runs");
        let mut node = Node { home: self, child };
        eventually("the node answers", PATIENCE, || node.try_status().filter(|s| !s["listen_addrs"][0].is_null()));
        node
    }
}

impl Default for Home {
    fn default() -> Self {
        Home::new()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A node that a command started by itself goes with its home.
        if self.path().join("api.sock").exists() {
            let _ = self.command(&["node", "stop"]).output();
        }
        // Whatever a failed test leaves must not run on.
        let _ = Command::new("pkill").args(["-9", "-f", &format!("{}/", self.path().display())]).status();
    }
}

/// What a node says of itself, if one answers there.
fn ask(socket: &Path) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /api/v1/node HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}

pub struct Ran {
    pub args: String,
    pub output: Output,
}

impl Ran {
    pub fn code(&self) -> i32 {
        self.output.status.code().unwrap_or(-1)
    }
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code(), 0, "golemnode {}: {}{}", self.args, self.stdout(), self.stderr());
        self
    }
    /// It failed as it should: this exit code, this error.
    #[track_caller]
    pub fn fails(self, exit: i32, code: &str) -> Self {
        let text = self.stderr();
        assert_eq!(self.code(), exit, "golemnode {}: {}{text}", self.args, self.stdout());
        assert!(text.contains(&format!("error[{code}]")), "golemnode {}: no {code} in {text}", self.args);
        self
    }
}

/// A node's process; stopped with the value, and properly, so that its guests are looked at by nobody after it.
pub struct Node<'a> {
    pub home: &'a Home,
    child: Child,
}

impl Node<'_> {
    pub fn try_status(&mut self) -> Option<Value> {
        if let Ok(Some(status)) = self.child.try_wait() {
            let log = std::fs::read_to_string(self.home.path().join("test.log")).unwrap_or_default();
            panic!("the node has ended ({status}): {log}");
        }
        // Not by a command: where a killed node has left its socket, that would start another node in this one's place.
        ask(&self.home.path().join("api.sock"))
    }
    pub fn status(&self) -> Value {
        self.home.json(&["node", "status"])
    }
    pub fn addr(&self) -> String {
        self.status()["listen_addrs"][0].as_str().expect("it listens").to_owned()
    }
    pub fn peer_id(&self) -> String {
        self.status()["peer_id"].as_str().expect("it has an id").to_owned()
    }
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    /// Without goodbye.
    pub fn kill(mut self) {
        let ended = self.child.try_wait().expect("own child");
        assert!(ended.is_none(), "it has ended by itself ({ended:?}): {}", self.log());
        self.child.kill().expect("own child");
        self.child.wait().expect("own child");
    }
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("test.log")).unwrap_or_default()
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.home.path().display(), self.log());
        }
        if let Ok(None) = self.child.try_wait() {
            let _ = self.home.command(&["node", "stop"]).output();
        }
        let deadline = Instant::now() + Duration::from_secs(15);
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
