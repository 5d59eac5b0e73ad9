//! The main job with a real guest: libvirt's embedded driver, QEMU, OpenSSH.
mod clients;
mod copying;
mod debian;
mod failover;
mod interrupt;
mod killed;
mod noise;
mod scaling;

use std::process::{Command, Stdio};
use tests::{Home, Node, PATIENCE, eventually, guest};

const PROVIDER: &str = "min_memory = \"128M\"\nmin_disk = \"1G\"\noffer_cpus = 4\noffer_memory = \"2G\"\n";
const TINY: [&str; 8] = ["--image", "tiny", "--cpus", "1", "--memory", "256M", "--disk", "1G"];

fn provider<'a>(home: &'a Home, bundle: &std::path::Path) -> Node<'a> {
    home.config(PROVIDER);
    home.import(bundle);
    home.node(&["--provide", "--network", "test"])
}

fn create(home: &Home, name: &str) -> serde_json::Value {
    let mut args = vec!["vm", "create", name];
    args.extend(TINY);
    home.json(&args)
}

/// Neither a guest's process nor its disk.
fn nothing_left(home: &Home) {
    eventually("its disks are gone", PATIENCE, || {
        let disks = std::fs::read_dir(home.path().join("vms")).map(|dir| dir.flatten().count()).unwrap_or(0);
        (disks == 0).then_some(())
    });
    let pattern = format!("qemu-system.*{}", home.path().display());
    let guests = Command::new("pgrep").args(["-f", &pattern]).output().unwrap();
    assert!(guests.stdout.is_empty(), "guests still run: {}", String::from_utf8_lossy(&guests.stdout));
}

#[test]
fn a_guest_is_rented_used_and_given_back() {
    let Some(bundle) = guest("tiny") else { return };
    let (p, r) = (Home::new(), Home::new());
    let provider = provider(&p, &bundle);
    let addr = provider.addr();
    let _node = r.node(&["--network", "test", "--bootstrap", &addr]);
    let vm = create(&r, "web");
    assert_eq!(vm["status"], "running", "{vm}");
    assert_eq!(vm["isolation"], "emulated");
    assert_eq!(vm["egress"], "none");
    measured(&p, &vm);

    assert_eq!(r.run(&["vm", "ssh", "web", "--", "hostname"]).ok().stdout().trim(), "web");
    assert_eq!(r.run(&["vm", "exec", "web", "--", "sh", "-c", "exit 7"]).code(), 7);
    assert_eq!(r.run(&["vm", "exec", "web", "--", "echo", "a b", "$HOME"]).ok().stdout(), "a b $HOME\n");

    // OpenSSH's own clients, five at once beside a list.
    let config = r.path().join("ssh_config");
    std::fs::write(&config, r.run(&["vm", "ssh-config"]).ok().stdout()).unwrap();
    let local = r.path().join("20M");
    let noise: Vec<u8> = (0..20u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&local, &noise).unwrap();
    let sum = output(Command::new("sha256sum").arg(&local));
    std::thread::scope(|scope| {
        let copies: Vec<_> = (0..5)
            .map(|n| {
                let (config, local) = (&config, &local);
                scope.spawn(move || {
                    let mut command = Command::new("scp");
                    command.arg("-F").arg(config).arg(local).arg(format!("web:/tmp/copy{n}"));
                    assert!(command.stdin(Stdio::null()).status().unwrap().success());
                })
            })
            .collect();
        assert_eq!(r.json(&["vm", "list"])[0]["name"], "web");
        copies.into_iter().for_each(|copy| copy.join().unwrap());
    });
    let sums = r.run(&["vm", "exec", "web", "--", "sh", "-c", "sha256sum /tmp/copy*"]).ok().stdout();
    assert_eq!(sums.lines().filter(|line| line[..64] == sum[..64]).count(), 5, "{sums}");
    r.run(&["vm", "exec", "web", "--", "sh", "-c", "rm /tmp/copy*"]).ok();
    let shell = format!("ssh -F {}", config.display());
    assert!(Command::new("rsync").args(["-e", &shell]).arg(&local).arg("web:/tmp/r").status().unwrap().success());
    let back = r.path().join("back");
    assert!(Command::new("rsync").args(["-e", &shell, "web:/tmp/r"]).arg(&back).status().unwrap().success());
    assert_eq!(std::fs::read(&back).unwrap(), noise);

    r.run(&["vm", "rename", "web", "www"]).ok();
    assert_eq!(r.run(&["vm", "exec", "www", "--", "hostname"]).ok().stdout().trim(), "web");
    r.run(&["vm", "rename", "www", "web"]).ok();
    let says = "printf 'said \\033[31mthere\\n' > /dev/console";
    r.run(&["vm", "exec", "web", "--", "sh", "-c", says]).ok();
    let log = || r.run(&["vm", "logs", "web"]).ok().stdout();
    let log = eventually("it is in the log", PATIENCE, || Some(log()).filter(|log| log.contains("there")));
    assert!(log.contains("said \u{fffd}[31mthere\n"), "{log:?}");
    assert_eq!(r.run(&["vm", "logs", "web", "--raw", "--bytes", "7"]).ok().stdout(), "there\r\n");
    copying::keys(&r);
    copying::copies(&r);
    copying::forwards(&r);

    // Lifecycle.
    assert_eq!(r.json(&["vm", "stop", "web"])["status"], "stopped");
    assert_eq!(r.run(&["vm", "exec", "web", "--", "true"]).code(), 255);
    assert_eq!(r.json(&["vm", "start", "web"])["status"], "running");
    assert_eq!(r.run(&["vm", "exec", "web", "--", "hostname"]).ok().stdout().trim(), "web");
    assert_eq!(r.json(&["vm", "restart", "web"])["status"], "running");
    assert_eq!(r.run(&["vm", "exec", "web", "--", "hostname"]).ok().stdout().trim(), "web");
    r.run(&["vm", "wait", "web", "running"]).ok();
    r.run(&["vm", "exec", "web", "--", "sh", "-c", "echo kept > /dev/shm/note"]).ok();
    assert_eq!(r.json(&["vm", "suspend", "web"])["status"], "suspended");
    assert_eq!(r.run(&["vm", "exec", "web", "--", "true"]).code(), 255);
    assert_eq!(r.json(&["vm", "resume", "web"])["status"], "running");
    let note = ["vm", "exec", "web", "--", "cat", "/dev/shm/note"];
    assert_eq!(r.run(&note).ok().stdout(), "kept\n", "what it had in memory");

    r.run(&["vm", "destroy", "web", "--yes"]).ok();
    assert_eq!(r.json(&["vm", "list"]), serde_json::json!([]));
    nothing_left(&p);
}

/// What the provider sees of its host and of this guest.
fn measured(home: &Home, vm: &serde_json::Value) {
    let report = eventually("its guest is measured", PATIENCE, || {
        let report = home.json(&["provider", "status"]);
        // It has booted, which took processor time; it may have been looked at before that.
        (report["vms"][0]["cpu_s"].as_u64() > Some(0)).then_some(report)
    });
    let guest = &report["vms"][0];
    assert_eq!(guest["lease_id"], vm["lease"]["id"]);
    assert!(guest["memory_bytes"].as_u64() > Some(50 << 20), "{guest}");
    assert!(guest["disk_bytes"].as_u64() > Some(0) && guest["disk_read_bytes"].as_u64() > Some(0), "{guest}");
    let host = &report["host"];
    assert!(host["cpus"].as_u64() >= std::thread::available_parallelism().ok().map(|n| n.get() as u64), "{host}");
    for used in ["memory_percent", "disk_percent"] {
        assert!(host[used].as_f64().is_some_and(|percent| percent > 0.0 && percent <= 100.0), "{host}");
    }
}

#[test]
fn a_host_that_is_too_busy_lets_nothing_and_says_why() {
    let (p, r) = (Home::new().with_env("GOLEMNODE_MEMORY_THRESHOLD", "1"), Home::new());
    p.config(PROVIDER);
    let node = p.node(&["--provide", "--network", "test"]);
    let report = eventually("it has looked at its host", PATIENCE, || {
        let report = p.json(&["provider", "status"]);
        report["host"].is_object().then_some(report)
    });
    assert_eq!(report["advertised"], false);
    let reason = report["reason"].as_str().unwrap();
    assert!(reason.starts_with("the host's memory is in use to") && reason.ends_with("(threshold 1 %)"), "{reason}");
    assert!(p.run(&["events"]).ok().stdout().contains("nothing new is let for now: the host's memory"));
    let wanted = ["--network", "test", "--bootstrap", &node.addr(), "vm", "create", "web", "--timeout", "3s"];
    assert_eq!(r.run(&wanted).code(), 3);
}

#[test]
fn a_killed_provider_finds_its_guest_again() {
    let Some(bundle) = guest("tiny") else { return };
    let (p, r) = (Home::new(), Home::new());
    let node = provider(&p, &bundle);
    let _tenant = r.node(&["--network", "test", "--bootstrap", &node.addr()]);
    let vm = create(&r, "kept");
    let uptime = |home: &Home| -> f64 {
        let text = home.run(&["vm", "exec", "kept", "--", "cut", "-d ", "-f1", "/proc/uptime"]).ok().stdout();
        text.trim().parse().unwrap()
    };
    let before = uptime(&r);
    node.kill();
    let node = p.node(&["--provide", "--network", "test"]);
    r.run(&["--bootstrap", &node.addr(), "vm", "list"]).ok();
    let after = eventually("it is reachable again", PATIENCE, || {
        (r.run(&["vm", "exec", "kept", "--", "true"]).code() == 0).then(|| uptime(&r))
    });
    assert!(after > before, "it was not booted again: {before} s, then {after} s");
    let status = p.json(&["node", "status"]);
    assert_eq!(status["provider"]["leases"], 1);
    assert_eq!(r.json(&["vm", "info", "kept"])["lease"]["id"], vm["lease"]["id"]);
    r.run(&["vm", "destroy", "kept", "--yes"]).ok();
    nothing_left(&p);
}

#[test]
fn another_sshd_behind_the_tunnel_is_refused_without_a_prompt() {
    let Some(bundle) = guest("tiny") else { return };
    let (p, r) = (Home::new(), Home::new());
    let node = provider(&p, &bundle);
    let _tenant = r.node(&["--network", "test", "--bootstrap", &node.addr()]);
    create(&r, "web");
    create(&r, "other");
    // The other guest's server stands for an impostor: its key is not the one that is pinned for `web`.
    let config = r.run(&["vm", "ssh-config", "web"]).ok().stdout().replace("vm proxy web", "vm proxy other");
    let file = r.path().join("ssh_config");
    std::fs::write(&file, config).unwrap();
    let refused = Command::new("ssh").arg("-F").arg(&file).args(["web", "true"]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(255), "{said}");
    assert!(said.contains("Host key verification failed"), "{said}");
    for name in ["web", "other"] {
        r.run(&["vm", "destroy", name, "--yes"]).ok();
    }
    nothing_left(&p);
}

fn output(command: &mut Command) -> String {
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}
