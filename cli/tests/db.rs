//! `golemnode db` with a node that runs and without one.
use super::support::Stopped;
use super::{golemnode, stderr, stdout};
use std::path::Path;

fn json(home: &Path, args: &[&str]) -> serde_json::Value {
    let output = golemnode(home, args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

fn rows(report: &serde_json::Value, table: &str) -> u64 {
    let tables = report["tables"].as_array().unwrap();
    tables.iter().find(|row| row["table"] == table).unwrap()["rows"].as_u64().unwrap()
}

#[test]
fn a_store_is_checked_saved_and_restored_with_a_node_and_without() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (home, file) = (dir.path(), elsewhere.path().join("saved"));
    let file = file.to_str().unwrap();
    let _stopped = Stopped(home);
    let none = golemnode(home, &["db", "check"]);
    assert_eq!(none.status.code(), Some(3), "{}", stderr(&none));
    assert!(stderr(&none).contains("there is no store in"), "{}", stderr(&none));

    json(home, &["vm", "list", "--json"]);
    let running = json(home, &["db", "check", "--json"]);
    assert_eq!((running["sound"].as_bool(), rows(&running, "settings")), (Some(true), 1));
    let saved = json(home, &["db", "backup", file, "--json"]);
    assert_eq!(saved["rows"].as_u64(), Some(1 + rows(&running, "events") + rows(&running, "peers")));
    let again = golemnode(home, &["db", "backup", file]);
    assert_eq!(again.status.code(), Some(2), "{}", stderr(&again));
    assert!(stderr(&again).contains("hint: --yes replaces it"), "{}", stderr(&again));
    json(home, &["db", "backup", file, "--json", "--yes"]);

    let meant = golemnode(home, &["db", "restore", file]);
    assert_eq!(meant.status.code(), Some(2), "nobody was asked: {}", stderr(&meant));
    let restored = json(home, &["db", "restore", file, "--json", "--yes"]);
    assert_eq!((restored["stopped"].as_bool(), restored["rows"].as_u64()), (Some(true), saved["rows"].as_u64()));
    assert!(home.join("db.restored").exists(), "the next start takes it up");
    json(home, &["vm", "list", "--json"]);
    assert!(home.join("db.before-restore").exists() && !home.join("db.restored").exists());
    assert!(golemnode(home, &["node", "stop"]).status.success());

    // The same without a node, as when none starts.
    assert_eq!(json(home, &["db", "check", "--json"])["sound"].as_bool(), Some(true));
    json(home, &["db", "backup", file, "--json", "--yes"]);
    std::fs::remove_dir_all(home.join("db")).unwrap();
    let restored = json(home, &["db", "restore", file, "--json", "--yes"]);
    assert_eq!(restored["stopped"].as_bool(), Some(false));
    let checked = golemnode(home, &["db", "check"]);
    assert!(checked.status.success() && stdout(&checked).contains("TABLE"), "{}", stderr(&checked));
    let other = tempfile::tempdir().unwrap();
    let fresh = golemnode(other.path(), &["db", "restore", file, "--yes"]);
    assert_eq!(fresh.status.code(), Some(3), "{}", stderr(&fresh));
    assert!(golemnode(other.path(), &["identity", "show"]).status.success());
    let foreign = golemnode(other.path(), &["db", "restore", file, "--yes"]);
    assert_eq!(foreign.status.code(), Some(4), "{}", stderr(&foreign));
}
