//! Files to a guest and back, and ports that lead to it.
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use tests::Home;

/// Both ways, whole directories with their modes, and without a file.
pub fn copies(home: &Home) {
    let tree = home.path().join("tree");
    std::fs::create_dir_all(tree.join("deep")).unwrap();
    std::fs::write(tree.join("deep/a b"), "one").unwrap();
    std::fs::write(tree.join("run.sh"), "#!/bin/sh\necho ran\n").unwrap();
    std::fs::set_permissions(tree.join("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let here = |name: &str| home.path().join(name).display().to_string();
    home.run(&["vm", "copy", &here("tree"), "web:/tmp/"]).ok();
    assert_eq!(home.run(&["vm", "exec", "web", "--", "/tmp/tree/run.sh"]).ok().stdout(), "ran\n");
    home.run(&["vm", "transfer", "web:/tmp/tree", "web:/etc/hostname", &here("")]).ok();
    std::fs::remove_file(home.path().join("hostname")).unwrap();
    home.run(&["vm", "copy", "web:/tmp/tree", &here("back-again")]).ok();
    assert_eq!(std::fs::read_to_string(home.path().join("back-again/deep/a b")).unwrap(), "one");
    let mode = std::fs::metadata(home.path().join("back-again/run.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);

    let mut command = home.command(&["vm", "copy", "-", "web:/tmp/from stdin"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"said\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(home.run(&["vm", "copy", "web:/tmp/from stdin", "-"]).ok().stdout(), "said\n");
    home.run(&["vm", "copy", "web:/tmp/nothing", &here("nothing")]).fails(3, "RES_001");
    home.run(&["vm", "copy", &here("nothing"), "web:"]).fails(3, "RES_001");
    home.run(&["vm", "copy", "a", "b"]).fails(2, "REQ_001");
}

/// Who may log in: one more, and one less, but never nobody.
pub fn keys(home: &Home) {
    let own = home.json(&["vm", "key", "list", "web"]);
    assert_eq!(own.as_array().map(Vec::len), Some(1), "{own}");
    let print = own[0]["fingerprint"].as_str().unwrap();
    home.run(&["vm", "key", "remove", "web", print, "--yes"]).fails(1, "VM_004");
    let made = home.json(&["key", "generate", "laptop"]);
    let both = home.json(&["vm", "key", "add", "web", "laptop"]);
    assert_eq!(both.as_array().map(Vec::len), Some(2), "{both}");
    assert_eq!(home.json(&["vm", "key", "add", "web", "laptop"]), both, "once is enough");
    let path = |json: &serde_json::Value| json.as_str().unwrap().to_owned();
    let (laptop, ours) =
        (path(&made["identity_file"]), path(&home.json(&["vm", "info", "web"])["ssh"]["identity_file"]));
    let config = home.path().join("ssh_config_laptop");
    std::fs::write(&config, home.run(&["vm", "ssh-config", "web"]).ok().stdout().replace(&ours, &laptop)).unwrap();
    let by_it = Command::new("ssh").arg("-F").arg(&config).args(["web", "hostname"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&by_it.stdout).trim(), "web", "{by_it:?}");
    home.run(&["vm", "key", "remove", "web", "nobody", "--yes"]).fails(3, "RES_001");
    assert_eq!(home.json(&["--yes", "vm", "key", "remove", "web", "laptop"]), own);
}

/// A port here that leads to the guest's sshd, and a port of the guest that leads here.
pub fn forwards(home: &Home) {
    let mut child = home.command(&["vm", "forward", "web", "0:22"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    let at = said.split(' ').next().unwrap().to_owned();
    for _ in 0..2 {
        let mut greeting = String::new();
        BufReader::new(TcpStream::connect(&at).unwrap()).read_line(&mut greeting).unwrap();
        assert!(greeting.starts_with("SSH-2.0"), "{greeting}");
    }
    home.run(&["vm", "forward", "web", &format!("{}:22", at.rsplit(':').next().unwrap())]).fails(1, "NET_003");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
