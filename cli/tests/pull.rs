//! `image pull` as a script calls it, from a server on this machine that the home's catalogue.toml names.
use super::http_server::{Act, Server};
use super::support::{LOCAL, Stopped, command, ended, eventually, run};
use super::{stderr, stdout};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// A qcow2 disk, and its digest as another tool finds it.
fn disk(dir: &Path) -> (Vec<u8>, String) {
    let path = dir.join("made.qcow2");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("64M").status();
    assert!(made.unwrap().success());
    let summed = Command::new("sha512sum").arg(&path).output().unwrap();
    let digest = stdout(&summed).split(' ').next().unwrap().to_owned();
    (std::fs::read(path).unwrap(), digest)
}

fn entry(server: &Server, name: &str, trust: &str) -> String {
    let url = server.url("/disk.qcow2");
    format!(
        "[[image]]\nname = \"{name}\"\narch = \"amd64\"\nurl = \"{url}\"\nuser = \"me\"\nformat = \"qcow2\"\n{trust}\n"
    )
}

fn answer(home: &Path, args: &[&str]) -> Value {
    let output = run(home, args, &[]);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

#[test]
fn an_image_of_the_homes_own_catalogue_is_pulled_and_offered() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let home = home.path();
    let (bytes, sha512) = disk(files.path());
    let server = Server::start(&bytes, &[]);
    server.state.lock().unwrap().texts.insert("/SHA512SUMS".into(), format!("{sha512}  disk.qcow2\n"));
    let listed = format!("checksums = \"{}\"", server.url("/SHA512SUMS"));
    std::fs::write(home.join("catalogue.toml"), entry(&server, "far:1", &listed)).unwrap();
    let catalogue = answer(home, &["image", "list", "--catalogue", "--json"]);
    let of = |name: &str| catalogue.as_array().unwrap().iter().filter(|one| one["name"] == name).count();
    assert_eq!((of("far:1"), of("ubuntu:24.04"), of("debian:12")), (1, 2, 2));

    // A provider that runs offers it at once: libvirt's own test driver needs neither root nor QEMU.
    let _stopped = Stopped(home);
    let settings = format!("network = \"test\"\nlibvirt_uri = \"test:///default\"\n{LOCAL}");
    std::fs::write(home.join("config.toml"), settings).unwrap();
    let provides = cfg!(feature = "libvirt");
    let node: &[&str] = if provides { &["-q", "node", "run", "--provide"] } else { &["-q", "node", "run"] };
    let mut node = command(home, node, &[]).spawn().unwrap();
    eventually("the node is there", || home.join("api.sock").exists().then_some(()));
    let offered = || answer(home, &["node", "status", "--json"])["provider"]["images"].clone();
    eventually("it knows what it offers", || (!provides || offered() == serde_json::json!([])).then_some(()));
    let pulled = run(home, &["image", "pull", "far:1", "--arch", "x86_64", "--json"], &[]);
    assert!(pulled.status.success(), "{}", stderr(&pulled));
    assert!(stderr(&pulled).contains(" of "), "progress in lines: {}", stderr(&pulled));
    let view: Value = serde_json::from_str(&stdout(&pulled)).unwrap();
    assert_eq!(view["name"], "far:1");
    assert_eq!((view["default_user"].as_str(), view["downloaded"].as_u64()), (Some("me"), Some(bytes.len() as u64)));
    assert_eq!(view["checksum"], format!("sha512:{sha512}"));
    let far = serde_json::json!(["far:1"]);
    eventually("the provider offers it", || (!provides || offered() == far).then_some(()));

    let again = answer(home, &["image", "pull", "far:1", "--arch", "x86_64", "--json"]);
    assert_eq!((&again["already_here"], &again["digest"]), (&Value::Bool(true), &view["digest"]));
    let catalogue = answer(home, &["image", "list", "--catalogue", "--json"]);
    let far = catalogue.as_array().unwrap().iter().find(|one| one["name"] == "far:1").unwrap();
    assert_eq!(far["here"], true);
    assert!(run(home, &["node", "stop", "--quiet"], &[]).status.success());
    assert!(ended(&mut node).success());
    let text = stdout(&run(home, &["image", "pull", "far:1", "--arch", "x86_64"], &[]));
    assert!(text.starts_with("far:1 is here already, and up to date: "), "{text}");
}

#[test]
fn a_pull_that_is_interrupted_says_what_it_keeps_and_goes_on_from_there() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let home = home.path();
    let (bytes, sha512) = disk(files.path());
    let server = Server::start(&bytes, &[Act::Stall(4096)]);
    std::fs::write(home.join("catalogue.toml"), entry(&server, "far:1", &format!("sha512 = \"{sha512}\""))).unwrap();
    let pull = ["image", "pull", "far:1", "--arch", "x86_64"];
    let mut first = command(home, &pull, &[]).stderr(Stdio::piped()).spawn().unwrap();
    let part = home.join("images/.pull-far+1.part");
    let length = || std::fs::metadata(&part).map(|meta| meta.len()).unwrap_or(0);
    eventually("the first bytes are here", || (length() == 4096).then_some(()));
    kill_process(Pid::from_child(&first), Signal::INT).unwrap();
    assert_eq!(ended(&mut first).code(), Some(130));
    let said = stderr(&first.wait_with_output().unwrap());
    assert!(said.contains("interrupted: 4.0 KiB of 192.") && said.contains("goes on from there"), "{said}");
    assert_eq!(length(), 4096);

    let second = run(home, &pull, &[]);
    assert!(second.status.success(), "{}", stderr(&second));
    assert!(stderr(&second).contains("far:1: going on behind the 4.0 KiB that are here"), "{}", stderr(&second));
    assert_eq!(server.ranges(), [0, 4096]);
    assert!(!part.exists());
}

#[test]
fn what_cannot_be_pulled_is_said_in_one_line() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let home = home.path();
    let (bytes, sha512) = disk(files.path());
    let server = Server::start(&bytes, &[]);
    let said = |name: &str| {
        let output = run(home, &["--quiet", "image", "pull", name, "--arch", "x86_64"], &[]);
        let parts = std::fs::read_dir(home.join("images")).map(|entries| entries.count()).unwrap_or(0);
        assert_eq!(parts, 0, "something is left");
        (output.status.code().unwrap(), stderr(&output).lines().next().unwrap().to_owned())
    };
    let zeros = format!("sha256 = \"{}\"", "0".repeat(64));
    std::fs::write(home.join("catalogue.toml"), entry(&server, "far:1", &zeros)).unwrap();
    let (code, line) = said("far:1");
    assert!(code == 1 && line.starts_with("error[IMG_002]: what came from http://127.0.0.1"), "{line}");
    server.then(&[Act::Status(404, "")]);
    let (code, line) = said("far:1");
    assert!(code == 3 && line.starts_with("error[IMG_001]: http://127.0.0.1") && line.contains("404"), "{line}");
    let (code, line) = said("fa");
    assert!(code == 3 && line.starts_with("error[IMG_001]: the catalogue has no image 'fa'"), "{line}");

    let misspelt = entry(&server, "far:1", &format!("sha521 = \"{sha512}\""));
    std::fs::write(home.join("catalogue.toml"), misspelt).unwrap();
    let (code, line) = said("far:1");
    assert!(code == 2 && line.contains("catalogue.toml: line 7: unknown field `sha521`"), "{line}");

    let by_url = ["image", "pull", "mine", "--url", &server.url("/disk.qcow2"), "--sha512", &sha512, "--json"];
    assert_eq!(answer(home, &by_url)["default_user"], "root");
}
