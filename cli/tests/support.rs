//! Commands with an environment of their own, and waiting for what they bring about.
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// A node stops within 10 s; a busy machine doubles that.
pub const DEADLINE: Duration = Duration::from_secs(30);
pub const LOCAL: &str = "mdns = false\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n";

pub type Words<'a> = &'a [&'a str];
pub type Env<'a> = &'a [(&'a str, &'a str)];

pub fn command(home: &Path, args: Words<'_>, env: Env<'_>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_golemnode"));
    command.arg("--home").arg(home).args(args).env_clear().envs(env.iter().copied());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
    command
}
pub fn run(home: &Path, args: Words<'_>, env: Env<'_>) -> Output {
    command(home, args, env).output().unwrap()
}

pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn ended(child: &mut Child) -> ExitStatus {
    eventually("the process ends", || child.try_wait().unwrap())
}

/// Stops the node at the end of a test, also of one that fails.
pub struct Stopped<'a>(pub &'a Path);
impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        run(self.0, &["node", "stop", "--quiet"], &[]);
    }
}
