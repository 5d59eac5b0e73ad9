//! Another size, seen from inside the guest.
use super::{TINY, create, nothing_left, provider};
use tests::{Home, guest};

fn exec(r: &Home, script: &str) -> String {
    r.run(&["vm", "exec", "web", "--", "sh", "-c", script]).ok().stdout().trim().to_owned()
}

/// CPUs, MiB of memory and GiB of disk, as the guest sees them.
fn seen(r: &Home) -> (u64, u64, u64) {
    let number = |script: &str| exec(r, script).parse::<u64>().unwrap();
    let memory = number("awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo");
    (number("nproc"), memory, number("cat /sys/block/vda/size") >> 21)
}

#[test]
fn a_vm_is_scaled_up_and_down_and_what_does_not_fit_changes_nothing() {
    let Some(bundle) = guest("tiny") else { return };
    let (p, r) = (Home::new(), Home::new());
    let node = provider(&p, &bundle);
    let _tenant = r.node(&["--network", "test", "--bootstrap", &node.addr()]);
    create(&r, "web");
    exec(&r, "echo kept > /root/kept; sync");
    let first = seen(&r);
    assert!(first.0 == 1 && (150..=256).contains(&first.1) && first.2 == 1, "{first:?}");

    r.run(&["vm", "scale", "web"]).fails(2, "REQ_001");
    let said = r.run(&["vm", "scale", "web", "--cpus", "2", "--memory", "512M", "--disk", "2G", "--yes"]).ok();
    assert!(
        said.stderr().contains("'web' is shut down and booted again, if it can have that size"),
        "{}",
        said.stderr()
    );
    assert_eq!(said.stdout(), "web has 2 CPU, 512M memory, 2G disk now, and is running\n");
    let larger = seen(&r);
    assert!(larger.0 == 2 && (400..=512).contains(&larger.1) && larger.2 == 2, "{larger:?}");
    assert_eq!(exec(&r, "cat /root/kept"), "kept");
    let leased = p.json(&["lease", "list"]);
    assert_eq!((&leased[0]["resources"]["cpus"], &leased[0]["resources"]["memory_mib"]), (&2.into(), &512.into()));

    let before = r.json(&["vm", "info", "web"]);
    let refused = r.run(&["vm", "scale", "web", "--memory", "8G", "--yes"]).fails(1, "RES_002");
    assert!(refused.stderr().contains("free are"), "{}", refused.stderr());
    r.run(&["vm", "scale", "web", "--disk", "1G", "--yes"]).fails(2, "REQ_001");
    let after = r.json(&["vm", "info", "web"]);
    for part in ["status", "cpus", "memory_mib", "disk_gib", "error"] {
        assert_eq!(before[part], after[part], "{part}");
    }

    // What is off stays off, and has the new size when it is started.
    r.run(&["vm", "stop", "web"]).ok();
    r.run(&["vm", "scale", "web", "--cpus", "1", "--memory", "256M"]).ok();
    assert_eq!(r.json(&["vm", "info", "web"])["status"], "stopped");
    r.run(&["vm", "start", "web"]).ok();
    assert_eq!(seen(&r), (1, first.1, 2), "the disk stays as large");
    assert_eq!(exec(&r, "cat /root/kept"), "kept");

    // A create that is repeated finds it, whatever size it has by now.
    let mut again = vec!["vm", "create", "web"];
    again.extend(TINY);
    assert_eq!(r.json(&again)["id"], before["id"]);
    r.run(&["vm", "destroy", "web", "--yes"]).ok();
    nothing_left(&p);
}
