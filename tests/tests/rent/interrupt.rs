//! Ctrl-C at each stage of a create: nothing rented, nothing left.
use super::{TINY, nothing_left, provider};
use std::process::Stdio;
use std::time::Duration;
use tests::{Home, PATIENCE, eventually, guest};

#[test]
fn ctrl_c_at_any_stage_leaves_nothing() {
    let Some(bundle) = guest("tiny") else { return };
    let (p, r) = (Home::new(), Home::new());
    let node = provider(&p, &bundle);
    let _tenant = r.node(&["--network", "test", "--bootstrap", &node.addr()]);
    // While it looks, quotes, leases, makes the disk, boots: the later ones take seconds, the first milliseconds.
    for after_ms in [60, 90, 130, 300, 1000, 3000] {
        let mut args = vec!["vm", "create", "web"];
        args.extend(TINY);
        let mut child = r.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(after_ms));
        let interrupted = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(interrupted.success(), "it ended before {after_ms} ms");
        let status = child.wait().unwrap();
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status) == Some(2);
        assert!(status.code() == Some(130) || by_signal, "after {after_ms} ms: {status}");
        eventually("its list is empty", PATIENCE, || (r.json(&["vm", "list"]) == serde_json::json!([])).then_some(()));
        eventually("nothing is let", PATIENCE, || (node.status()["provider"]["leases"] == 0).then_some(()));
        nothing_left(&p);
    }
}

/// The provider hears nothing after the confirm: the list says so until the release gets through.
#[test]
fn a_release_that_cannot_get_through_is_shown_until_it_does() {
    let Some(bundle) = guest("tiny") else { return };
    let (p, r) = (Home::new(), Home::new());
    let node = provider(&p, &bundle);
    let _tenant = r.node(&["--network", "test", "--bootstrap", &node.addr()]);
    let status = || r.json(&["vm", "list"])[0]["status"].as_str().map(str::to_owned);
    let signal = |name: &str, pid: u32| {
        let sent = std::process::Command::new("kill").args([name, &pid.to_string()]).status().unwrap();
        assert!(sent.success(), "kill {name} {pid}");
    };
    let mut args = vec!["vm", "create", "web"];
    args.extend(TINY);
    let mut child = r.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the lease is active", PATIENCE, || {
        status().filter(|status| matches!(status.as_str(), "provisioning" | "booting"))
    });
    signal("-STOP", node.pid());
    signal("-INT", child.id());
    child.wait().unwrap();
    eventually("its list says so", PATIENCE, || status().filter(|status| status == "destroying"));
    signal("-CONT", node.pid());
    eventually("its list is empty", PATIENCE, || (r.json(&["vm", "list"]) == serde_json::json!([])).then_some(()));
    eventually("nothing is let", PATIENCE, || (node.status()["provider"]["leases"] == 0).then_some(()));
    nothing_left(&p);
}
