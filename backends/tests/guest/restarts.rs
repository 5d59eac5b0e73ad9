//! What happens to guests while no node is there: they go on, they end, or the whole host starts again.
use super::alone;
use crate::conformance::{PATIENCE, Subject, id, seed, small};
use crate::libvirt_host::LibvirtHost;
use backends::images::ImageStore;
use backends::libvirt::{Accel, Libvirt, LibvirtConfig, Limits};
use backends::{Backend, InstanceOrder, PowerState};
use protocol::names::Egress;
use protocol::seed::Seed;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The embedded driver's account of a running guest.
fn account(host: &LibvirtHost) -> PathBuf {
    let run = host.dir.path().join("libvirt/run");
    fn find(dir: &Path) -> Option<PathBuf> {
        fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).find_map(|path| {
            let xml = path.extension().is_some_and(|ext| ext == "xml")
                && path.file_name()?.to_str()?.starts_with("golemnode-");
            if xml { Some(path) } else { find(&path) }
        })
    }
    find(&run).unwrap_or_else(|| panic!("no account of a running guest below {}", run.display()))
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let deadline = Instant::now() + PATIENCE;
    // One that has ended and that nobody has waited for has no arguments any more.
    while fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|arguments| !arguments.is_empty()) {
        assert!(Instant::now() < deadline, "process {pid} does not end");
        sleep(Duration::from_millis(10));
    }
}

/// Set for the process that makes a guest and is killed: the embedded driver of this one would hear of everything.
const HOME: &str = "GOLEMNODE_TEST_RESTARTS_HOME";
const GUEST: u8 = 1;

/// Makes one guest, or does nothing: see `made_by_a_process_that_is_killed`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_killed() {
    let Some(home) = std::env::var_os(HOME).map(PathBuf::from) else { return };
    let images = ImageStore::new(home.join("images"));
    let image = images.list().unwrap().remove(0);
    let host_key = fs::read_to_string(home.join("host")).unwrap();
    let order = InstanceOrder {
        id: id(GUEST),
        resources: small(),
        image: image.name.clone(),
        image_digest: image.digest(),
        seed: Seed { host_key, ..seed() },
        ports: vec![],
        egress: Egress::None,
    };
    let backend = Libvirt::new(LibvirtConfig {
        home: home.clone(),
        uri: None,
        accel: Accel::Tcg,
        egress: Some(Egress::None),
        limits: Limits::default(),
        images,
    });
    backend.create(&order, &()).await.unwrap();
    fs::write(home.join("made"), "").unwrap();
    std::future::pending::<()>().await;
}

fn made_by_a_process_that_is_killed(host: &LibvirtHost) {
    let home = host.dir.path();
    let mut maker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "guest::restarts::the_process_that_is_killed", "--nocapture"])
        .env(HOME, home)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !home.join("made").exists() {
        assert!(maker.try_wait().unwrap().is_none() && Instant::now() < deadline, "no guest was made");
        sleep(Duration::from_millis(20));
    }
    maker.kill().unwrap();
    maker.wait().unwrap();
    assert_eq!(host.processes().len(), 1, "the guest goes on");
}

#[test]
fn guests_that_ended_meanwhile_are_stopped_and_start_again() {
    alone("guest::restarts::guests_that_ended_meanwhile_are_stopped_and_start_again", guest_ended());
}

async fn guest_ended() {
    let Some(host) = LibvirtHost::real("tiny") else { return };
    made_by_a_process_that_is_killed(&host);
    let guest = host.processes()[0];
    kill(guest);
    let backend = host.new_backend();
    let listed = backend.list().await.unwrap();
    assert_eq!((listed.len(), &listed[0].state), (1, &PowerState::Stopped), "at the first look");
    backend.start(id(GUEST)).await.unwrap();
    host.wait(&backend, id(GUEST)).await;
    backend.destroy(id(GUEST)).await.unwrap();
    assert!(host.left().is_empty(), "{:?}", host.left());
    backend.close().await;
}

/// After a boot of the host the guest's process number is somebody else's.
#[test]
fn after_a_boot_of_the_host_no_strangers_process_is_killed() {
    alone("guest::restarts::after_a_boot_of_the_host_no_strangers_process_is_killed", host_booted());
}

async fn host_booted() {
    let Some(host) = LibvirtHost::real("tiny") else { return };
    made_by_a_process_that_is_killed(&host);
    let (guest, account) = (host.processes()[0], account(&host));
    kill(guest);
    let mut bystander = Command::new("sleep").arg("600").spawn().unwrap();
    let text = fs::read_to_string(&account).unwrap();
    let (old, new) = (format!("pid='{guest}'"), format!("pid='{}'", bystander.id()));
    assert!(text.contains(&old), "libvirt writes it otherwise: {text}");
    fs::write(&account, text.replace(&old, &new)).unwrap();
    fs::write(host.dir.path().join("libvirt/boot"), "an earlier boot").unwrap();
    let backend = host.new_backend();
    let listed = backend.list().await.unwrap();
    assert_eq!((listed.len(), &listed[0].state), (1, &PowerState::Stopped));
    assert_eq!(listed[0].resources, small());
    backend.start(id(GUEST)).await.unwrap();
    host.wait(&backend, id(GUEST)).await;
    let spared = bystander.try_wait().unwrap().is_none();
    bystander.kill().ok();
    bystander.wait().unwrap();
    assert!(spared, "a stranger's process was killed");
    backend.destroy(id(GUEST)).await.unwrap();
    assert!(host.left().is_empty(), "{:?}", host.left());
    backend.close().await;
}

/// libvirt writes its account of a guest before the guest has a process.
#[test]
fn a_start_that_was_cut_short_does_not_hold_the_guest_for_ever() {
    alone("guest::restarts::a_start_that_was_cut_short_does_not_hold_the_guest_for_ever", never_begun());
}

async fn never_begun() {
    let Some(host) = LibvirtHost::real("tiny") else { return };
    made_by_a_process_that_is_killed(&host);
    let (guest, account) = (host.processes()[0], account(&host));
    kill(guest);
    let text = fs::read_to_string(&account).unwrap();
    let old = format!("pid='{guest}'");
    assert!(text.contains(&old), "libvirt writes it otherwise: {text}");
    fs::write(&account, text.replace(&old, "pid='0'")).unwrap();
    let backend = host.new_backend();
    let listed = backend.list().await.unwrap();
    assert_eq!((listed.len(), &listed[0].state), (1, &PowerState::Stopped));
    backend.start(id(GUEST)).await.unwrap();
    host.wait(&backend, id(GUEST)).await;
    backend.destroy(id(GUEST)).await.unwrap();
    assert!(host.left().is_empty(), "{:?}", host.left());
    backend.close().await;
}
