//! A whole distribution with real cloud-init: the tenant's user-data is kept, the lease's keys win.
use super::{PROVIDER, nothing_left};
use tests::{Home, guest};

const USER_DATA: &str = "#cloud-config
write_files:
  - {path: /etc/motd.tenant, content: \"hello from user-data\\n\"}
runcmd:
  - [sh, -c, 'echo ran > /root/ran']
";

#[test]
fn cloud_init_does_what_the_tenant_says_and_the_lease_wins() {
    let Some(bundle) = guest("debian") else { return };
    let (p, r) = (Home::new(), Home::new());
    p.config(PROVIDER);
    p.import(&bundle);
    let node = p.node(&["--provide", "--network", "test"]);
    let _tenant = r.node(&["--network", "test", "--bootstrap", &node.addr()]);
    let file = r.path().join("user-data");
    std::fs::write(&file, "#cloud-config\nssh_keys: {ed25519_private: mine}\n").unwrap();
    let shape = ["--image", "debian:12", "--cpus", "2", "--memory", "512M", "--disk", "4G"];
    let create = |name: &str| {
        let file = file.to_str().unwrap().to_owned();
        let mut args = vec!["vm".to_owned(), "create".into(), name.into(), "--cloud-init".into(), file];
        args.extend(shape.map(str::to_owned));
        args
    };
    let words = create("deb");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    r.run(&words).fails(2, "REQ_001");
    std::fs::write(&file, USER_DATA).unwrap();
    let vm = r.json(&words);
    assert_eq!((vm["status"].as_str(), vm["ssh"]["user"].as_str()), (Some("running"), Some("debian")));
    let exec = |command: &str| r.run(&["vm", "exec", "deb", "--", "sh", "-c", command]).ok().stdout().trim().to_owned();
    exec("cloud-init status --wait >/dev/null || true");
    assert_eq!(exec("hostname"), "deb");
    assert_eq!(exec("cat /etc/motd.tenant"), "hello from user-data");
    assert_eq!(exec("sudo cat /root/ran"), "ran");
    assert_eq!(exec("ls /etc/ssh/ssh_host_*_key"), "/etc/ssh/ssh_host_ed25519_key");
    assert!(exec("df --output=size -BG / | tail -1").trim().starts_with(['3', '4']), "the disk is as large as ordered");
    r.run(&["vm", "destroy", "deb", "--yes"]).ok();
    nothing_left(&p);
}
