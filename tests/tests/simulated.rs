//! Several nodes, real processes and connections, and the simulated backend: what needs no guest.
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::Duration;
use tests::{Home, PATIENCE, eventually};

const PROVIDER: &str = "min_memory = \"128M\"\nmin_disk = \"1G\"\n";
const CREATE: [&str; 5] = ["vm", "create", "web", "--isolation", "any"];

fn provider_home() -> Home {
    let home = Home::new();
    home.config(PROVIDER);
    home
}
const PROVIDE: [&str; 5] = ["--provide", "--backend", "memory", "--network", "test"];

#[test]
fn a_vm_lives_through_every_lifecycle_command() {
    let (p, r) = (provider_home(), Home::new());
    let provider = p.node(&PROVIDE);
    let addr = provider.addr();
    let _node = r.node(&["--network", "test", "--bootstrap", &addr]);
    let vm = r.json(&CREATE);
    assert_eq!((&vm["name"], &vm["status"]), (&Value::from("web"), &Value::from("running")));
    for field in ["id", "provider", "image", "cpus", "memory_mib", "disk_gib", "created_at"] {
        assert!(!vm[field].is_null(), "{field} in {vm}");
    }
    for (object, fields) in [
        ("lease", vec!["id", "price_per_hour", "currency", "expires_at"]),
        ("ssh", vec!["user", "host_alias", "identity_file", "known_hosts_file"]),
        ("timings_ms", vec!["discover", "quote", "lease", "provision", "boot", "total"]),
    ] {
        for field in fields {
            assert!(!vm[object][field].is_null(), "{object}.{field} in {vm}");
        }
    }
    assert_eq!(r.json(&CREATE)["id"], vm["id"], "the same create is the same VM");
    r.run(&["vm", "create", "web", "--isolation", "any", "--cpus", "2"]).fails(1, "VM_003");
    assert_eq!(r.json(&["vm", "stop", "web"])["status"], "stopped");
    r.run(&["vm", "restart", "web"]).fails(1, "VM_004");
    assert_eq!(r.json(&["vm", "start", "web"])["status"], "running");
    assert_eq!(r.json(&["vm", "restart", "web"])["status"], "running");
    r.run(&["vm", "logs", "web"]).fails(1, "VM_005");
    r.run(&["vm", "resume", "web"]).ok();
    assert_eq!(r.json(&["vm", "suspend", "web"])["status"], "suspended");
    assert_eq!(r.json(&["vm", "suspend", "web"])["status"], "suspended");
    r.run(&["vm", "start", "web"]).fails(1, "VM_004");
    r.run(&["vm", "stop", "web"]).fails(1, "VM_004");
    assert_eq!(r.json(&["vm", "resume", "web"])["status"], "running");
    r.run(&["vm", "suspend", "web"]).ok();
    assert_eq!(r.json(&["vm", "stop", "--force", "web"])["status"], "stopped");
    r.run(&["vm", "resume", "web"]).fails(1, "VM_004");
    r.run(&["vm", "start", "web"]).ok();
    let lease = r.run(&["--json", "lease", "show", "web"]).ok().stdout();
    let file = r.path().join("lease.json");
    std::fs::write(&file, &lease).unwrap();
    let verified = r.run(&["lease", "verify", file.to_str().unwrap()]).ok();
    assert!(verified.stdout().contains("active"), "{}", verified.stdout());
    std::fs::write(
        &file,
        lease.replacen("\"body\": \"a", "\"body\": \"b", 1).replacen("\"body\":\"a", "\"body\":\"b", 1),
    )
    .unwrap();
    assert_eq!(r.run(&["lease", "verify", file.to_str().unwrap()]).code(), 4);
    r.run(&["vm", "destroy", "web", "--yes"]).ok();
    assert_eq!(r.json(&["vm", "list"]), serde_json::json!([]));
    eventually("its capacity is free again", PATIENCE, || {
        let status = p.json(&["node", "status"]);
        (status["provider"]["leases"] == 0).then_some(())
    });
}

/// What bash offers behind these words, by the script that it is given.
fn offered(home: &Home, words: &[&str]) -> Vec<String> {
    let line = "source <(golemnode completions bash); COMP_WORDS=(golemnode \"$@\"); COMP_CWORD=$#; \
                _clap_complete_golemnode golemnode \"${!#}\" ''; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let binary = tests::golemnode();
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-c", line, "bash"]).args(words).env("PATH", path).env("GOLEMNODE_HOME", home.path());
    let output = bash.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn a_shell_completes_what_there_is() {
    let (p, r) = (provider_home(), Home::new());
    assert_eq!(offered(&r, &["vm", "info", "w"]), [""], "nothing, and no node is started for it");
    assert!(!r.path().join("api.sock").exists());
    assert_eq!(offered(&r, &["vm", "sus"]), ["suspend"]);
    let provider = p.node(&PROVIDE);
    let _node = r.node(&["--network", "test", "--bootstrap", &provider.addr()]);
    let on_the_board = || (!r.json(&["provider", "list", "--isolation", "any"]).as_array()?.is_empty()).then_some(());
    eventually("an offer is heard of", PATIENCE, on_the_board);
    assert_eq!(offered(&r, &["vm", "create", "db", "--provider", "12"]), [provider.peer_id()]);
    r.json(&CREATE);
    r.run(&["key", "generate", "laptop"]).ok();
    for words in
        [&["vm", "info", "w"][..], &["vm", "key", "list", "w"], &["vm", "ssh-config", "w"], &["vm", "ssh", "w"]]
    {
        assert_eq!(offered(&r, words), ["web"], "{words:?}");
    }
    assert_eq!(offered(&r, &["vm", "create", "w"]), [""], "a new name is nobody else's");
    assert_eq!(offered(&r, &["vm", "create", "db", "--ssh-key", "lap"]), ["laptop"]);
    assert!(offered(&r, &["vm", "copy", "w"]).contains(&"web:".to_owned()));
    let lease = r.json(&["vm", "info", "web"])["lease"]["id"].as_str().unwrap().to_owned();
    assert_eq!(offered(&r, &["lease", "show", ""]).first(), Some(&lease));
    let elsewhere = Home::new();
    let home = format!("--home={}", r.path().display());
    assert_eq!(offered(&elsewhere, &[&home, "vm", "info", "w"]), ["web"]);
}

#[test]
fn what_a_create_usually_takes_is_said_before_the_next_also_by_a_later_node() {
    let (p, r) = (provider_home(), Home::new());
    p.config(&format!("{PROVIDER}offer_cpus = 8\noffer_memory = \"64G\"\n"));
    let provider = p.node(&PROVIDE);
    let (addr, peer) = (provider.addr(), provider.peer_id());
    let node = r.node(&["--network", "test", "--bootstrap", &addr]);
    let estimate = || r.json(&["provider", "list", "--isolation", "any"])[0]["estimate_ms"].clone();
    assert_eq!(estimate(), Value::Null, "it has no past");
    let first = r.run(&CREATE).ok();
    assert!(!first.stderr().contains("takes") && !first.stderr().contains("took"), "{}", first.stderr());
    let total = r.json(&["vm", "info", "web"])["timings_ms"]["total"].clone();
    assert!(total.as_u64().is_some_and(|ms| ms > 0), "{total}");
    assert_eq!(estimate(), total);
    r.run(&["vm", "destroy", "web", "--yes"]).ok();

    drop(node);
    let _node = r.node(&["--network", "test", "--bootstrap", &addr]);
    eventually("the provider is on its board again", PATIENCE, || estimate().is_number().then_some(()));
    assert_eq!(estimate(), total, "it is on the disk");
    let info = r.run(&["provider", "info", &peer]).ok().stdout();
    assert!(info.contains("create takes:"), "{info}");
    let second = r.run(&CREATE).ok().stderr();
    let (said, makes) = (second.find(" here the last time"), second.find("makes the VM"));
    assert!(said.is_some() && (makes.is_none() || said < makes), "{second}");
    assert_eq!(r.run(&["vm", "create", "third", "--isolation", "any", "--quiet"]).ok().stderr(), "");
    let fourth = r.run(&["vm", "create", "fourth", "--isolation", "any"]).ok().stderr();
    assert!(fourth.contains(" in 3 creates)"), "{fourth}");
}

#[test]
fn a_stolen_key_is_ended_from_another_machine_and_nobody_rents_under_it_any_more() {
    let (p, r, elsewhere) = (provider_home(), Home::new(), Home::new());
    let provider = p.node(&PROVIDE);
    let (addr, peer) = (provider.addr(), provider.peer_id());
    let join = ["--network", "test", "--bootstrap", &addr];
    let (_requestor, _other) = (r.node(&join), elsewhere.node(&join));
    let listed = |home: &Home| home.json(&["provider", "list", "--isolation", "any"]).as_array().map(Vec::len);
    eventually("it is on their boards", PATIENCE, || (listed(&r) == Some(1)).then_some(()));
    let shown = p.json(&["identity", "show"]);
    assert_eq!(shown["peer_id"], Value::from(peer.clone()));
    let copy = elsewhere.path().join("copy");
    std::fs::copy(shown["revocation_file"].as_str().unwrap(), &copy).unwrap();

    let copy = copy.to_str().unwrap();
    elsewhere.run(&["identity", "revoke", "--file", copy]).fails(2, "REQ_001");
    assert_eq!(listed(&r), Some(1), "nothing happens unless it is meant");
    let said = elsewhere.json(&["identity", "revoke", "--file", copy, "--yes"]);
    assert_eq!((&said["peer_id"], &said["own"]), (&Value::from(peer.clone()), &Value::from(false)));
    assert!(said["told"].as_u64() > Some(0), "{said}");
    for home in [&r, &elsewhere, &p] {
        eventually("its advert is gone", PATIENCE, || (listed(home) == Some(0)).then_some(()));
    }
    let named = r.run(&["vm", "create", "web", "--isolation", "any", "--provider", &peer]).fails(4, "AUTH_001");
    assert!(named.stderr().contains("has been revoked"), "{}", named.stderr());
    let status = provider.status()["provider"].clone();
    assert_eq!(
        (&status["advertised"], &status["reason"]),
        (&Value::from(false), &Value::from("its key has been revoked"))
    );
    let events = p.run(&["events"]).ok().stdout();
    assert!(events.contains("own key has been revoked"), "{events}");
    // For good: it is on the disk.
    drop(provider);
    let again = p.node(&PROVIDE);
    assert_eq!(again.status()["provider"]["reason"], "its key has been revoked");
    assert_eq!((listed(&p), listed(&r)), (Some(0), Some(0)));
}

#[test]
fn a_provider_goes_on_under_another_key_and_keeps_what_it_is_known_for() {
    let (p, q, r) = (provider_home(), provider_home(), Home::new());
    let provider = p.node(&PROVIDE);
    let (addr, peer) = (provider.addr(), provider.peer_id());
    let _requestor = r.node(&["--network", "test", "--bootstrap", &addr]);
    r.run(&CREATE).ok();
    let of = |peer: &str| {
        let list = r.json(&["provider", "list", "--isolation", "any"]);
        list.as_array().and_then(|all| all.iter().find(|it| it["peer_id"] == peer).cloned())
    };
    assert!(of(&peer).expect("it is on the board")["estimate_ms"].is_number());

    let to = q.path().to_str().unwrap();
    let handed = p.json(&["identity", "hand-over", to]);
    let (file, heir) = (handed["file"].as_str().unwrap(), handed["successor"].as_str().unwrap());
    p.run(&["identity", "hand-over", to]).fails(2, "REQ_001");
    p.run(&["identity", "hand-over", p.path().to_str().unwrap()]).fails(2, "REQ_001");
    assert!(of(&peer).is_some(), "nobody knows yet");
    let second = q.node(&[&PROVIDE[..], &["--bootstrap", &addr]].concat());
    assert_eq!(second.peer_id(), heir);
    eventually("both are on the board", PATIENCE, || of(heir));
    let said = p.json(&["identity", "revoke", "--file", file, "--yes"]);
    assert_eq!(said["successor"], Value::from(heir));
    eventually("the old one has gone", PATIENCE, || of(&peer).is_none().then_some(()));
    let second = r.run(&["vm", "create", "db", "--isolation", "any", "--provider", heir]).ok().stderr();
    assert!(second.contains(" here the last time"), "its past is that of both: {second}");
    let named = r.run(&["vm", "create", "third", "--isolation", "any", "--provider", &peer]).fails(4, "AUTH_001");
    assert!(named.stderr().contains(heir), "{}", named.stderr());
}

#[test]
fn commands_without_a_node_share_the_one_that_the_first_starts() {
    let (p, r) = (provider_home(), Home::new());
    let provider = p.node(&PROVIDE);
    let addr = provider.addr();
    r.config(&format!(
        "network = \"test\"\nmdns = false\nbootstrap = [\"{addr}\"]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n"
    ));
    let listed: Vec<Value> = std::thread::scope(|scope| {
        let lists: Vec<_> =
            (0..5).map(|_| scope.spawn(|| r.json(&["provider", "list", "--isolation", "any"]))).collect();
        lists.into_iter().map(|list| list.join().unwrap()).collect()
    });
    // The very first query answers with the board of a neighbour.
    assert!(listed.iter().all(|list| list.as_array().map(Vec::len) == Some(1)), "{listed:?}");
    r.run(&["node", "stop"]).ok();
    eventually("it has gone", PATIENCE, || (r.run(&["node", "stop"]).code() == 3).then_some(()));
}

#[test]
fn nobody_there_is_said_in_one_line() {
    let r = Home::new();
    let _node = r.node(&["--network", "test"]);
    let ran = r.run(&["vm", "create", "web", "--isolation", "any"]).fails(3, "RES_003");
    assert!(ran.stderr().contains("hint:"), "{}", ran.stderr());
    assert_eq!(r.json(&["vm", "list"]), serde_json::json!([]));
    let second = r.run(&["node", "run", "--no-mdns"]);
    assert_ne!(second.code(), 0);
    assert!(second.stderr().contains("a node runs on"), "{}", second.stderr());
}

#[test]
fn killed_requestor_and_provider_find_their_leases_again() {
    let (p, r) = (provider_home(), Home::new());
    let provider = p.node(&PROVIDE);
    let addr = provider.addr();
    let node = r.node(&["--network", "test", "--bootstrap", &addr]);
    let vm = r.json(&CREATE);
    node.kill();
    let node = r.node(&["--network", "test", "--bootstrap", &addr]);
    assert_eq!(r.json(&["vm", "list"])[0]["id"], vm["id"]);
    assert_eq!(r.json(&CREATE)["id"], vm["id"]);
    drop(node);
    provider.kill();
    let provider = p.node(&PROVIDE);
    // The simulated backend forgets its VMs with its process: the ledger has it made again.
    let _node = r.node(&["--network", "test", "--bootstrap", &provider.addr()]);
    eventually("it runs again", Duration::from_secs(90), || {
        (r.json(&["vm", "info", "web"])["status"] == "running").then_some(())
    });
    assert_eq!(r.json(&["vm", "info", "web"])["lease"]["id"], vm["lease"]["id"]);
}

/// `kill -9` of the requestor's node around every message: what it rents is what its own list shows.
#[test]
fn a_requestor_killed_around_the_confirm_knows_its_vms_or_has_none() {
    let (p, r) = (provider_home(), Home::new());
    p.config(&format!("{PROVIDER}offer_cpus = 32\noffer_memory = \"64G\"\nmax_vms = 32\n"));
    let provider = p.node(&PROVIDE);
    let join = ["--network", "test", "--bootstrap", &provider.addr()];
    let create = |n: usize| format!("web{n}");
    for n in 0..8 {
        let node = r.node(&join);
        let name = create(n);
        let mut child =
            r.command(&["vm", "create", &name, "--isolation", "any"]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + 12 * n as u64));
        node.kill();
        let _ = child.wait();
        // A command that came only then has started a node of its own.
        r.run(&["node", "stop"]);
    }
    let _node = r.node(&join);
    // Before the confirm: lapsed after 30 s. After it: running, and listed.
    let listed = eventually("provider and requestor agree", PATIENCE, || {
        let list = r.json(&["vm", "list"]);
        let list = list.as_array()?;
        let leases = p.json(&["node", "status"])["provider"]["leases"].as_u64()?;
        let settled = list.iter().all(|vm| vm["status"] == "running");
        (settled && leases == list.len() as u64).then(|| list.clone())
    });
    for vm in listed {
        let name = vm["name"].as_str().unwrap();
        assert_eq!(
            r.json(&["vm", "create", name, "--isolation", "any"])["id"],
            vm["id"],
            "the same create, the same VM"
        );
    }
}

/// Full disk, unreadable image, dead bootstrap: one clear line, and nothing left behind.
#[test]
fn a_full_disk_and_a_dead_bootstrap_are_said_clearly() {
    let r = Home::new();
    let small = r.path().join("s");
    std::fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&small).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a full disk: mounting one needs root");
    } else {
        let disk = r.path().join("disk.raw");
        let mut image = vec![0_u8; 4 << 20];
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(&disk, image).unwrap();
        let import = Command::new(tests::golemnode())
            .arg("--home")
            .arg(&small)
            .args(["image", "import", disk.to_str().unwrap(), "--name", "big"])
            .output()
            .unwrap();
        let left = std::fs::read_dir(small.join("images")).map(|dir| dir.flatten().count()).unwrap_or(0);
        let _ = Command::new("umount").arg(&small).status();
        let said = String::from_utf8_lossy(&import.stderr);
        assert_eq!(import.status.code(), Some(1), "{said}");
        assert!(said.contains("error[RES_002]") && said.contains("hint"), "{said}");
        assert_eq!(left, 0, "something is left of the import");
    }
    r.config("network = \"test\"\nmdns = false\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n");
    let dead = ["--bootstrap", "/ip4/127.0.0.1/tcp/9", "vm", "create", "web", "--isolation", "any"];
    let ran = r.run(&dead).fails(3, "RES_003");
    assert!(ran.stderr().contains("hint"), "{}", ran.stderr());
    assert_eq!(r.json(&["vm", "list"]), serde_json::json!([]));
}

#[test]
fn a_drained_provider_lets_nothing_new_also_after_a_restart_until_it_resumes() {
    let (p, r) = (provider_home(), Home::new());
    let provider = p.node(&PROVIDE);
    let _node = r.node(&["--network", "test", "--bootstrap", &provider.addr()]);
    r.json(&CREATE);
    let report = p.json(&["provider", "drain"]);
    assert_eq!((&report["draining"], &report["advertised"]), (&Value::from(true), &Value::from(false)));
    assert_eq!(report["leases"], 1, "what is let goes on");
    eventually("its advert is gone", PATIENCE, || {
        (r.json(&["provider", "list", "--isolation", "any"]) == serde_json::json!([])).then_some(())
    });
    let other = ["vm", "create", "other", "--isolation", "any", "--timeout", "3s"];
    assert_eq!(r.run(&other).code(), 3);
    assert_eq!(r.json(&["vm", "restart", "web"])["status"], "running");
    p.run(&["node", "stop"]).ok();
    drop(provider);
    let vm = eventually("its tenant knows why it is out of reach", PATIENCE, || {
        let vm = r.json(&["vm", "info", "web"]);
        (vm["status"] == "unknown").then_some(vm)
    });
    assert!(vm["status_detail"].as_str().is_some_and(|said| said.contains("node was stopped")), "{vm}");
    let events = r.run(&["events"]).ok().stdout();
    assert!(events.contains("VM 'web' runs on, out of reach until it is back"), "{events}");

    let provider = p.node(&PROVIDE);
    let said = p.run(&["provider", "status"]).ok().stdout();
    assert!(said.contains("none: the node is draining"), "{said}");
    r.run(&["--bootstrap", &provider.addr(), "node", "status"]).ok();
    let report = p.json(&["provider", "resume"]);
    assert_eq!((&report["draining"], &report["reason"]), (&Value::from(false), &Value::Null));
    assert_eq!(r.json(&["vm", "create", "other", "--isolation", "any"])["status"], "running");
    let events = p.run(&["events"]).ok().stdout();
    assert!(events.contains("draining: nothing new is let") && events.contains("new VMs are let again"), "{events}");
    r.run(&["provider", "status"]).fails(3, "RES_003");
}

#[test]
fn a_tier_bounds_what_a_tenant_rents_until_it_has_another() {
    let (p, r) = (provider_home(), Home::new());
    let provider = p.node(&PROVIDE);
    let node = r.node(&["--network", "test", "--bootstrap", &provider.addr()]);
    let tenant = node.peer_id();
    let given = p.json(&["quota", "set", &tenant, "--tier", "free"]);
    assert_eq!(
        (&given["tier"], &given["limits"]["vms"], &given["used"]["vms"]),
        (&"free".into(), &1.into(), &0.into())
    );
    r.json(&CREATE);
    let second = ["vm", "create", "second", "--isolation", "any"];
    let refused = r.run(&second).fails(4, "RES_004");
    assert!(
        refused.stderr().contains("tier 'free' allows 1 VM, 2 CPUs, 4G memory; in use are 1 VM"),
        "{}",
        refused.stderr()
    );
    assert_eq!(r.json(&["vm", "list"]).as_array().map(Vec::len), Some(1), "nothing is left of it");
    p.run(&["quota", "set", &tenant, "--tier", "pro"]).ok();
    assert_eq!(r.json(&second)["status"], "running");
    let shown = p.run(&["quota", "show"]).ok().stdout();
    assert!(shown.contains(&tenant) && shown.contains("3 VMs, 4 CPUs, 8G memory"), "{shown}");
    assert_eq!(p.json(&["quota", "set", &tenant, "--tier", "none"])["tier"], Value::Null);
    assert_eq!(p.json(&["quota", "show", &tenant])["used"]["vms"], 2, "what it has stays");
    r.run(&["quota", "show"]).fails(3, "RES_003");
}

#[test]
fn what_is_done_to_guests_is_listed_and_a_removal_is_not_taken_back() {
    let (p, r) = (provider_home(), Home::new());
    let provider = p.node(&PROVIDE);
    let _node = r.node(&["--network", "test", "--bootstrap", &provider.addr()]);
    let lease = r.json(&CREATE)["lease"]["id"].clone();
    let jobs = p.json(&["job", "list"]);
    assert_eq!(
        (&jobs[0]["kind"], &jobs[0]["state"], &jobs[0]["lease_id"], &jobs[0]["failed_tries"]),
        (&"provision".into(), &"done".into(), &lease, &0.into())
    );
    r.run(&["vm", "stop", "web", "--force"]).ok();
    r.run(&["vm", "destroy", "web", "--yes"]).ok();
    let jobs = eventually("the removal is done", PATIENCE, || {
        let jobs = p.json(&["job", "list"]);
        (jobs[2]["state"] == "done").then_some(jobs)
    });
    let kinds: Vec<&str> = jobs.as_array().unwrap().iter().filter_map(|job| job["kind"].as_str()).collect();
    assert_eq!(kinds, ["provision", "stop", "remove"]);
    let id = jobs[2]["id"].to_string();
    p.run(&["job", "cancel", &id]).fails(1, "VM_004");
    assert_eq!(p.json(&["job", "show", &id]), jobs[2]);
    p.run(&["job", "show", "99"]).fails(3, "RES_001");
    r.run(&["job", "list"]).fails(3, "RES_003");
}

#[test]
fn a_vm_gets_another_name_and_keeps_everything_else() {
    let (p, r) = (provider_home(), Home::new());
    let provider = p.node(&PROVIDE);
    let addr = provider.addr();
    let node = r.node(&["--network", "test", "--bootstrap", &addr]);
    let vm = r.json(&CREATE);
    r.run(&["vm", "create", "db", "--isolation", "any"]).ok();
    r.run(&["vm", "rename", "web", "db"]).fails(1, "VM_003");
    r.run(&["vm", "rename", "www", "x"]).fails(3, "VM_002");
    r.run(&["vm", "rename", "web", "No_Name"]).fails(2, "REQ_001");
    let key = |vm: &Value| std::fs::read(vm["ssh"]["identity_file"].as_str().unwrap()).unwrap();
    let before = key(&vm);
    let renamed = r.json(&["vm", "rename", "web", "www"]);
    assert_eq!((&renamed["name"], &renamed["id"]), (&Value::from("www"), &vm["id"]));
    assert_eq!(key(&renamed), before);
    let pinned = std::fs::read_to_string(renamed["ssh"]["known_hosts_file"].as_str().unwrap()).unwrap();
    assert!(pinned.starts_with("golemnode-www ssh-ed25519 "), "{pinned}");
    assert!(!r.path().join("ssh/vms/web").exists(), "nothing is left under the old name");
    r.run(&["vm", "info", "web"]).fails(3, "VM_002");
    drop(node);
    let _node = r.node(&["--network", "test", "--bootstrap", &addr]);
    assert_eq!(r.json(&["vm", "info", "www"])["id"], vm["id"]);
    assert_ne!(r.json(&CREATE)["id"], vm["id"], "the old name is free");
}

#[test]
fn less_time_is_taken_where_no_more_is_let_and_what_nobody_uses_is_stopped() {
    let (p, r) = (provider_home(), Home::new());
    p.config(&format!("{PROVIDER}max_lease = \"2h\"\nunused_stop = \"1s\"\n"));
    let provider = p.node(&PROVIDE);
    let _node = r.node(&["--network", "test", "--bootstrap", &provider.addr()]);
    let long = r.run(&["vm", "create", "long", "--isolation", "any", "--for", "3h"]).fails(2, "REQ_001");
    assert!(long.stderr().contains("at most 2h"), "{}", long.stderr());
    let made = r.run(&CREATE).ok();
    assert!(made.stderr().contains("it is let for 2h at a time"), "{}", made.stderr());
    let id = r.json(&["vm", "info", "web"])["id"].clone();
    assert_eq!(r.json(&CREATE)["id"], id, "the same create is the same VM");
    r.run(&["vm", "wait", "web", "stopped"]).ok();
    let error = r.json(&["vm", "info", "web"])["error"].clone();
    assert_eq!(error["code"], "AUTH_005", "{error}");
    assert_eq!(r.json(&["vm", "start", "web"])["status"], "running");
    let events = p.run(&["events"]).ok().stdout();
    assert!(events.contains("nobody has used the VM of lease"), "{events}");
}

#[test]
fn less_of_a_machine_is_taken_where_that_was_said() {
    let (p, r) = (provider_home(), Home::new());
    p.config(&format!("{PROVIDER}offer_cpus = 1\noffer_memory = \"1G\"\noffer_disk = \"10G\"\n"));
    let provider = p.node(&PROVIDE);
    let _node = r.node(&["--network", "test", "--bootstrap", &provider.addr()]);
    let medium = ["vm", "create", "web", "--isolation", "any", "--size", "medium"];
    r.run(&medium).fails(3, "RES_003");
    let smaller = [&medium[..], &["--allow-smaller"]].concat();
    let vm = r.json(&smaller);
    assert_eq!((&vm["cpus"], &vm["memory_mib"]), (&Value::from(1), &Value::from(1024)));
    assert_eq!(r.json(&smaller)["id"], vm["id"], "the same create is the same VM");
    r.run(&medium).fails(1, "VM_003");
}
