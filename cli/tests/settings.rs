//! The home and the settings, and the node that is started with them.
use super::support::{Env, LOCAL, Stopped, Words, command, ended, eventually, run};
use super::{stderr, stdout};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

/// Whoever holds the home's lock wrote its process id into it.
fn node_pid(home: &Path) -> Pid {
    let pid = std::fs::read_to_string(home.join("node.lock")).unwrap();
    Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
}

#[test]
fn a_flag_goes_before_the_environment_before_the_file_before_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let network = |args: &[&str], env: &[(&str, &str)]| {
        let _stopped = Stopped(dir.path());
        let output = run(dir.path(), &[args, &["node", "status", "--json"]].concat(), env);
        let status: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{output:?}"));
        status["network"].as_str().unwrap().to_owned()
    };
    let env = [("GOLEMNODE_NETWORK", "from-env")];
    std::fs::write(dir.path().join("config.toml"), LOCAL).unwrap();
    assert_eq!(network(&[], &[]), "main");
    std::fs::write(dir.path().join("config.toml"), format!("network = \"from-file\"\n{LOCAL}")).unwrap();
    assert_eq!(network(&[], &[]), "from-file");
    assert_eq!(network(&[], &env), "from-env");
    assert_eq!(network(&["--network", "from-flag"], &env), "from-flag");
}

#[test]
fn what_is_wrong_with_a_home_or_a_setting_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let long = dir.path().join("x".repeat(60));
    let cases: [(&Path, Words<'_>, Env<'_>, &str, &str); 7] = [
        (&file, &["node", "id"], &[], "cannot ", "--home"),
        (Path::new("/proc/golemnode"), &["vm", "list"], &[], "cannot create /proc/golemnode", "--home"),
        (&long, &["node", "run", "--provide", "--backend", "libvirt"], &[], "the home ", "libvirt_uri"),
        (dir.path(), &["node", "run"], &[("GOLEMNODE_MAX_VMS", "0")], "GOLEMNODE_MAX_VMS: '0' is not a number", ""),
        (dir.path(), &["node", "run"], &[("GOLEMNODE_MIN_DISK", "5")], "GOLEMNODE_MIN_DISK: '5' is not a size", "4G"),
        (dir.path(), &["vm", "list"], &[("GOLEMNODE_MDNS", "maybe")], "GOLEMNODE_MDNS: 'maybe'", ""),
        (
            dir.path(),
            &["vm", "create", "a"],
            &[("GOLEMNODE_DEFAULT_IMAGE", "/x")],
            "GOLEMNODE_DEFAULT_IMAGE: ",
            "24.04",
        ),
    ];
    for (home, args, env, message, hint) in cases {
        let output = run(home, args, env);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?} {env:?} said {said}");
        let first = said.lines().next().unwrap_or_default();
        assert!(first.starts_with("error[REQ_001]: ") && first.contains(message), "{args:?} {env:?} said {said}");
        let hinted = said.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap_or_default();
        assert!(hinted.contains(hint), "{args:?} {env:?} hinted {hinted}");
    }
}

#[test]
fn an_identity_that_cannot_be_used_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run(dir.path(), &["node", "id"], &[]).status.success());
    let identity = dir.path().join("identity");
    let refused = |hint: &str| {
        for args in [&["node", "id"][..], &["node", "run"], &["vm", "list"]] {
            let output = run(dir.path(), args, &[]);
            assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
            assert!(stderr(&output).contains(hint), "{}", stderr(&output));
        }
    };
    std::fs::set_permissions(&identity, PermissionsExt::from_mode(0o640)).unwrap();
    refused("chmod 600");
    std::fs::set_permissions(&identity, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&identity, "garbage").unwrap();
    refused("restore it from a backup");
    assert_eq!(std::fs::read_to_string(&identity).unwrap(), "garbage");
}

#[test]
fn a_started_node_has_its_own_session_outlives_a_hangup_and_leaves_when_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), LOCAL).unwrap();
    let _stopped = Stopped(dir.path());
    assert!(run(dir.path(), &["vm", "list"], &[]).status.success());
    let pid = node_pid(dir.path());
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    // Behind the name in brackets: state, parent, group, session.
    let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().to_owned();
    assert_eq!(session, pid.as_raw_nonzero().to_string());

    kill_process(pid, Signal::HUP).unwrap();
    let second = run(dir.path(), &["node", "run"], &[]);
    assert_eq!(second.status.code(), Some(3), "{}", stderr(&second));
    assert!(stderr(&second).contains(&format!("(process {})", pid.as_raw_nonzero())), "{}", stderr(&second));
    assert!(run(dir.path(), &["vm", "list"], &[]).status.success());
    assert_eq!(node_pid(dir.path()), pid);

    kill_process(pid, Signal::TERM).unwrap();
    eventually("it stops", || (run(dir.path(), &["node", "stop"], &[]).status.code() == Some(3)).then_some(()));
}

#[test]
fn a_node_leaves_by_itself_when_idle_and_in_order_when_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), LOCAL).unwrap();
    let mut idle = command(dir.path(), &["--quiet", "node", "run", "--idle-exit", "1s"], &[]).spawn().unwrap();
    assert!(ended(&mut idle).success());

    let mut stays = command(dir.path(), &["node", "run"], &[("GOLEMNODE_LOG", "off")]);
    let mut stays = stays.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(stays.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("node 12D3KooW") && said.contains("Ctrl-C stops it"), "{said}");
    kill_process(Pid::from_child(&stays), Signal::INT).unwrap();
    assert!(ended(&mut stays).success());
}

/// A large disk that is mostly a hole: it takes a while to hash, and no room.
#[test]
fn an_import_that_is_interrupted_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.raw");
    std::fs::File::create(&disk).unwrap().set_len(2 << 30).unwrap();
    let images = dir.path().join("images");
    for signal in [Signal::INT, Signal::TERM] {
        let args = ["image", "import", disk.to_str().unwrap(), "--name", "big"];
        let mut import = command(dir.path(), &args, &[]).stderr(Stdio::piped()).spawn().unwrap();
        let entries = || std::fs::read_dir(&images).map(|dir| dir.flatten().count()).unwrap_or(0);
        eventually("it copies", || (entries() > 0 || import.try_wait().unwrap().is_some()).then_some(()));
        kill_process(Pid::from_child(&import), signal).unwrap();
        assert_eq!(ended(&mut import).code(), Some(130));
        assert_eq!(entries(), 0, "after {signal:?}");
    }
    let listed = run(dir.path(), &["image", "list", "--json"], &[]);
    assert_eq!(stdout(&listed).trim(), "[]");
}
