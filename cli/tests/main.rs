//! The command line from the outside: the binary itself, as a script calls it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic and say why")]
mod db;
mod docs;
mod help;
#[allow(dead_code, reason = "backends' tests use more of it")]
#[path = "../../backends/src/images/http_server.rs"]
mod http_server;
mod interrupt;
mod leases;
mod local;
mod pull;
mod settings;
mod sim;
mod support;
mod usage;

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the binary on a home of its own, with nothing of the caller's environment.
fn golemnode(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_golemnode"))
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GOLEMNODE_HOME", home)
        .env("GOLEMNODE_MDNS", "false")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}
fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
