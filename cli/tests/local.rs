//! A node started by the first command, shared by those at the same time, and stopped.
use super::{golemnode, stderr, stdout};
use std::path::Path;
use std::sync::Arc;

/// Stops the node at the end of a test, also of one that fails.
struct Stopped<'a>(&'a Path);
impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        golemnode(self.0, &["node", "stop", "--quiet"]);
    }
}

fn json(home: &Path, args: &[&str]) -> serde_json::Value {
    let output = golemnode(home, args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

#[test]
fn the_first_of_many_commands_starts_the_one_node() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let _stopped = Stopped(dir.path());
    let ask = |_| {
        let dir = dir.clone();
        std::thread::spawn(move || {
            let output = golemnode(dir.path(), &["--network", "test", "vm", "list", "--json"]);
            assert!(output.status.success(), "{}", stderr(&output));
            assert_eq!(stdout(&output).trim(), "[]");
        })
    };
    let asking: Vec<_> = (0..6).map(ask).collect();
    for thread in asking {
        thread.join().unwrap();
    }
    let status = json(dir.path(), &["node", "status", "--json"]);
    assert_eq!((status["network"].as_str(), status["provider"].is_null()), (Some("test"), true));
    assert_eq!(status["peer_id"], json(dir.path(), &["node", "id", "--json"])["peer_id"]);

    let wrong = golemnode(dir.path(), &["--network", "other", "vm", "list"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    let second = golemnode(dir.path(), &["node", "run"]);
    assert_eq!(second.status.code(), Some(3));
    assert!(stderr(&second).contains("a node runs on"), "{}", stderr(&second));
    for (args, exit, code) in [
        (&["vm", "info", "absent"][..], 3, "VM_002"),
        (&["vm", "destroy", "absent"], 3, "VM_002"),
        (&["vm", "exec", "absent", "--", "true"], 255, "VM_002"),
        (&["vm", "ssh", "absent"], 255, "VM_002"),
        (&["vm", "proxy", "absent"], 255, "VM_002"),
        (&["lease", "show", "absent"], 3, "RES_001"),
    ] {
        let output = golemnode(dir.path(), args);
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with(&format!("error[{code}]: ")), "{args:?}: {}", stderr(&output));
    }
    let stopped = golemnode(dir.path(), &["node", "stop"]);
    assert!(stopped.status.success(), "{}", stderr(&stopped));
    assert_eq!(golemnode(dir.path(), &["node", "stop"]).status.code(), Some(3));
}

#[test]
fn keys_are_made_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let made = json(dir.path(), &["key", "generate", "laptop", "--json"]);
    assert!(made["public_key"].as_str().unwrap().starts_with("ssh-ed25519 "));
    assert_eq!(golemnode(dir.path(), &["key", "generate", "laptop"]).status.code(), Some(2));
    let listed = json(dir.path(), &["key", "list", "--json"]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]), (1, &made));
    assert!(golemnode(dir.path(), &["key", "remove", "laptop"]).status.success());
    assert_eq!(json(dir.path(), &["key", "list", "--json"]), serde_json::json!([]));
    assert!(!dir.path().join("api.sock").exists(), "keys need no node");
}

#[test]
fn manual_pages_and_completions_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man");
    let output = golemnode(dir.path(), &["man", pages.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    for page in ["golemnode.1", "golemnode-vm-create.1"] {
        assert!(std::fs::read_to_string(pages.join(page)).unwrap().contains("golemnode"), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&golemnode(dir.path(), &["completions", shell])).contains("golemnode"), "{shell}");
    }
}

#[test]
fn the_doctor_names_every_check_and_its_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let output = golemnode(dir.path(), &["doctor", "--json"]);
    let checks: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let checks = checks.as_array().unwrap();
    let failed = checks.iter().filter(|check| check["ok"] == false);
    for check in failed.clone() {
        assert!(check["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{check}");
    }
    assert_eq!(output.status.code(), Some(i32::from(failed.count() > 0)));
    for name in ["home", "settings", "disk", "ssh", "clock"] {
        assert!(checks.iter().any(|check| check["name"] == name), "{name}");
    }
}
