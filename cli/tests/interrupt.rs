//! A create that is given up on leaves nothing rented: interrupted, or killed without a word.
use super::support::{DEADLINE, LOCAL, Stopped, command, ended, eventually, run};
use super::{stderr, stdout};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

/// A provider of simulated machines. Stopped in its tracks it is one that does not answer.
struct Provider {
    home: tempfile::TempDir,
    child: Child,
}

impl Provider {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let settings = format!("network = \"test\"\nmin_memory = \"128M\"\nmin_disk = \"1G\"\n{LOCAL}");
        std::fs::write(home.path().join("config.toml"), settings).unwrap();
        let args = ["--quiet", "node", "run", "--provide", "--backend", "memory"];
        let child = command(home.path(), &args, &[]).spawn().unwrap();
        let provider = Provider { home, child };
        eventually("it is on the board", || provider.status()["provider"]["advertised"].as_bool()?.then_some(()));
        provider
    }
    fn status(&self) -> serde_json::Value {
        // Asked only when it is there, or the question would start another node.
        if !self.home.path().join("api.sock").exists() {
            return serde_json::Value::Null;
        }
        let output = run(self.home.path(), &["node", "status", "--json"], &[]);
        serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)))
    }
    fn addr(&self) -> String {
        self.status()["listen_addrs"][0].as_str().unwrap().to_owned()
    }
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        ended(&mut self.child);
    }
}

fn vms(home: &Path) -> serde_json::Value {
    serde_json::from_str(&stdout(&run(home, &["vm", "list", "--json"], &[]))).unwrap()
}

#[test]
fn a_create_that_is_given_up_on_leaves_nothing_rented() {
    let provider = Provider::start();
    let tenant = tempfile::tempdir().unwrap();
    let home = tenant.path();
    let settings = format!("network = \"test\"\nbootstrap = [\"{}\"]\n{LOCAL}", provider.addr());
    std::fs::write(home.join("config.toml"), settings).unwrap();
    let _stopped = Stopped(home);
    eventually("the advert arrives", || {
        let listed = run(home, &["provider", "list", "--isolation", "any", "--json"], &[]);
        (stdout(&listed).trim() != "[]").then_some(())
    });
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        provider.signal(Signal::STOP);
        let mut create = command(home, &["vm", "create", "web", "--isolation", "any"], &[]);
        let mut create = create.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(create.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("asking for quotes")), "{signal:?}");
        assert_eq!(vms(home)[0]["status"], "pending", "{signal:?}");

        kill_process(Pid::from_child(&create), signal).unwrap();
        let rest: Vec<String> = said.map(|line| line.unwrap()).collect();
        let code = ended(&mut create).code();
        match signal {
            Signal::KILL => assert_eq!(code, None),
            _ => assert_eq!((code, rest), (Some(130), vec!["interrupted: taking the request back".to_owned()])),
        }
        eventually("nothing is listed", || (vms(home) == serde_json::json!([])).then_some(()));
        provider.signal(Signal::CONT);
        eventually("nothing is let", || (provider.status()["provider"]["leases"] == 0).then_some(()));
        assert!(!home.join("ssh/vms/web").exists(), "its keys are gone with it ({signal:?})");
    }
    // And the provider is none the worse for it.
    let created = run(home, &["vm", "create", "web", "--isolation", "any", "--json"], &[]);
    assert!(created.status.success(), "{}", stderr(&created));
    // One that was there before is not the interrupted command's to remove.
    assert!(run(home, &["vm", "create", "web", "--isolation", "any"], &[]).status.success());
    assert_eq!(vms(home)[0]["status"], "running");
    assert!(run(home, &["vm", "destroy", "web"], &[]).status.success(), "within {DEADLINE:?}");
    assert_eq!(vms(home), serde_json::json!([]));
}
