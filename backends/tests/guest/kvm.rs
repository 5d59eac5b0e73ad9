//! KVM as it is on this machine: it works, or there is a device and guests hang, or there is none.
use super::alone;
use crate::conformance::{PATIENCE, Subject, id};
use crate::libvirt_host::LibvirtHost;
use backends::Backend;
use backends::libvirt::{Accel, domain_name};
use protocol::names::{Isolation, LeaseId};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the watch gives a silent guest is 10 s: a start without a watch takes a fraction of that.
const NO_WATCH: Duration = Duration::from_secs(8);

fn verdict_file(host: &LibvirtHost) -> PathBuf {
    host.dir.path().join("libvirt/kvm-verdict")
}

/// libvirt's own log of a guest.
fn log(host: &LibvirtHost, id: LeaseId) -> PathBuf {
    host.dir.path().join("libvirt/log/qemu").join(format!("{}.log", domain_name(id)))
}

/// As QEMU was started each time.
fn starts(host: &LibvirtHost, id: LeaseId) -> Vec<&'static str> {
    let accel = |line: &str| match line {
        line if line.starts_with("-accel kvm") => Some("kvm"),
        line if line.starts_with("-accel tcg") => Some("tcg"),
        _ => None,
    };
    let log = fs::read_to_string(log(host, id)).unwrap_or_default();
    log.lines().filter_map(|line| accel(line.trim())).collect()
}

#[test]
fn the_first_guest_under_kvm_is_watched_and_no_other() {
    alone("guest::kvm::the_first_guest_under_kvm_is_watched_and_no_other", first_guest());
}

async fn first_guest() {
    if !Path::new("/dev/kvm").exists() {
        eprintln!("SKIPPED: there is no /dev/kvm that could work or fail");
        return;
    }
    let Some(mut host) = LibvirtHost::real("tiny") else { return };
    host.accel = Accel::Auto;
    let backend = host.new_backend();
    assert_eq!(backend.capabilities().await.isolation, Isolation::Emulated, "not before it is proven");
    destroyed_on_the_way_proves_nothing(&host, &backend).await;

    let known = verdict_file(&host).exists();
    let (first, began) = (id(1), Instant::now());
    backend.create(&host.order(first), &()).await.unwrap();
    eprintln!("the first guest, with its watch: {:?}; started under {:?}", began.elapsed(), starts(&host, first));
    let remembered = fs::read_to_string(verdict_file(&host)).unwrap();
    let (boot, word) = remembered.split_once(' ').unwrap();
    assert_eq!(boot, fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim());
    let (engine, isolation, first_starts) = match word {
        "works" => ("kvm", Isolation::Hardware, vec!["kvm"]),
        "fails" if known => ("tcg", Isolation::Emulated, vec!["tcg"]),
        "fails" => ("tcg", Isolation::Emulated, vec!["kvm", "tcg"]),
        other => panic!("{other}"),
    };
    assert_eq!(starts(&host, first), first_starts);
    assert_eq!(backend.capabilities().await.isolation, isolation);
    assert_eq!(backend.get(first).await.unwrap().unwrap().isolation, isolation);
    host.wait(&backend, first).await;
    assert_eq!(host.ssh(&backend, first, "hostname").await, "web");

    // The next instance has read it, and does not try again.
    backend.close().await;
    drop(backend);
    let backend = host.new_backend();
    assert_eq!(backend.capabilities().await.isolation, isolation);
    backend.list().await.unwrap();
    let (second, began) = (id(2), Instant::now());
    backend.create(&host.order(second), &()).await.unwrap();
    assert!(began.elapsed() < NO_WATCH, "{:?}", began.elapsed());
    assert_eq!(starts(&host, second), [engine]);
    assert_eq!(fs::read_to_string(verdict_file(&host)).unwrap(), remembered);
    backend.destroy(first).await.unwrap();
    backend.destroy(second).await.unwrap();
    assert!(host.left().is_empty(), "{:?}", host.left());
    backend.close().await;
}

/// Who wants the guest gone does not wait for the watch, and no verdict comes of it.
async fn destroyed_on_the_way_proves_nothing(host: &LibvirtHost, backend: &dyn Backend) {
    let (id, order) = (id(3), host.order(id(3)));
    let started = async {
        let deadline = Instant::now() + PATIENCE;
        // Not by its processes: libvirt asks QEMU first what it can.
        while starts(host, id).is_empty() {
            assert!(Instant::now() < deadline, "QEMU has not started");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        made = backend.create(&order, &()) => made.unwrap(),
        () = started => {}
    }
    // What is destroyed leaves no log: by its second name it is read to the end.
    let kept = host.dir.path().join("kept.log");
    fs::hard_link(log(host, id), &kept).unwrap();
    let (began, tried) = (Instant::now(), starts(host, id));
    backend.destroy(id).await.unwrap();
    assert!(began.elapsed() < NO_WATCH, "{:?}", began.elapsed());
    assert!(host.left().is_empty(), "{:?}", host.left());
    // A user who may not open the device is told so by libvirt, before anything is started; and where QEMU cannot use it
    // at all, it may have ended of itself before anybody was asked to end it.
    let proven = tried == ["tcg"] || fs::read_to_string(kept).unwrap().contains("reason=failed");
    assert_eq!(verdict_file(host).exists(), proven, "learnt from {tried:?}");
}
