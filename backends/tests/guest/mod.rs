//! Real guests, one at a time: see `.config/nextest.toml`.
mod conformance;
mod egress;
mod kvm;
mod life;
mod restarts;
mod world;

use std::process::Command;

/// Names the test that a process was started for.
pub(crate) const ALONE: &str = "GOLEMNODE_TEST_ALONE";

/// libvirt's embedded driver takes one root a process. nextest gives each test a process of its own; plain `cargo test`
/// runs all in one, so there each is started again by itself.
fn alone(test: &str, body: impl Future<Output = ()>) {
    let own_process = std::env::var_os("NEXTEST").is_some() || std::env::var_os(ALONE).is_some();
    if own_process {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(body);
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, test)
        .output()
        .unwrap();
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{test}: {said}");
}
