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
