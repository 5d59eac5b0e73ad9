//! What the suite cannot ask, for it takes a login: the tenant's key, the disk, the network, the walls.
use super::alone;
use crate::conformance::{Subject, id, small};
use crate::libvirt_host::LibvirtHost;
use backends::{Backend, InstanceOrder};
use protocol::ErrorCode;
use protocol::names::LeaseId;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

#[test]
fn a_tiny_guest_through_its_whole_life() {
    alone("guest::life::a_tiny_guest_through_its_whole_life", whole_life());
}

async fn whole_life() {
    let Some(host) = LibvirtHost::real("tiny") else { return };
    let (backend, id) = (host.new_backend(), id(0xab));
    let began = Instant::now();
    let order = InstanceOrder { ports: vec![8022], ..host.order(id) };
    backend.create(&order, &()).await.unwrap();
    let created = began.elapsed();
    assert_walls(&host, id);
    host.wait(&backend, id).await;
    eprintln!("create {created:?}, ready {:?}", began.elapsed());
    assert_eq!(host.ssh(&backend, id, "hostname").await, "web");
    let size = host.ssh(&backend, id, "cat /sys/block/vda/size").await;
    assert_eq!(size.parse::<u64>().unwrap() * 512, small().disk_gib.bytes());
    host.ssh(&backend, id, "echo kept > /root/kept; sync").await;
    assert_console(&host, &backend, id).await;
    backend.restart(id).await.unwrap();
    host.wait(&backend, id).await;
    assert_eq!(host.ssh(&backend, id, "cat /root/kept").await, "kept");

    assert_network(&host, &backend, id).await;
    assert_forwards(&backend, id).await;

    // Another instance finds it as it was.
    backend.close().await;
    drop(backend);
    let backend = host.new_backend();
    assert_eq!(backend.list().await.unwrap().len(), 1);
    assert_eq!(host.ssh(&backend, id, "cat /root/kept").await, "kept");
    let said = backend.console_tail(id, 1 << 20).await.unwrap();
    assert!(String::from_utf8_lossy(&said).contains("the-last-line"), "kept over restarts of guest and node");
    backend.destroy(id).await.unwrap();
    assert!(host.left().is_empty(), "{:?}", host.left());
    backend.close().await;
}

/// QEMU is a user of its own, in its sandbox; nobody else reads the tenant's files, and QEMU changes no image.
fn assert_walls(host: &LibvirtHost, id: LeaseId) {
    let pid = host.processes()[0];
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let status = read("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let first = |name: &str| field(name)[0].clone();
    assert_eq!(first("Seccomp:"), "2", "the sandbox");
    assert_eq!(first("NoNewPrivs:"), "1", "no program gives it rights");
    assert_eq!(first("VmLck:"), "0", "no guest pins the host's memory");
    for rights in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(first(rights), "0000000000000000", "{rights}");
    }
    let arguments = read("cmdline");
    for denied in ["-sandbox\0on,", "elevateprivileges=deny", "spawn=deny", "obsolete=deny", "resourcecontrol=deny"] {
        assert!(arguments.contains(denied), "{denied}");
    }
    let limits = read("limits");
    for (limit, most) in [("Max core file size", "0"), ("Max open files", "4096")] {
        let line = limits.lines().find_map(|line| line.strip_prefix(limit)).unwrap();
        assert_eq!(line.split_whitespace().next(), Some(most), "{limit}");
    }
    assert_eq!(read("oom_score_adj").trim(), "300");
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap();
        // The 19th field, of those behind the name the 17th.
        let nice = stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().to_owned();
        assert_eq!(nice, "5", "{stat}");
    }
    let (uids, ours) = (field("Uid:"), fs::metadata("/proc/self").unwrap().uid());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = host.folder(id);
    for name in ["disk.qcow2", "seed.iso", "order.json"] {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
    }
    for dir in [folder.as_path(), folder.parent().unwrap()] {
        assert_eq!(fs::metadata(dir).unwrap().uid(), ours, "QEMU puts nothing into {}", dir.display());
        assert_eq!(mode(dir) & 0o067, 0, "{}", dir.display());
    }
    for file in fs::read_dir(host.dir.path().join("images/tiny")).unwrap().flatten() {
        assert_eq!(file.metadata().unwrap().uid(), ours, "QEMU changes no {}", file.path().display());
    }
    if ours == 0 {
        assert!(uids.iter().all(|uid| uid != "0" && *uid == uids[0]), "{uids:?}");
        assert!(field("Gid:").iter().chain(&field("Groups:")).all(|gid| gid != "0"));
        assert_eq!(fs::metadata(folder.join("disk.qcow2")).unwrap().uid().to_string(), uids[0]);
    }
}

/// The last bytes, and all of them again when asked again; kept when the guest goes.
async fn assert_console(host: &LibvirtHost, backend: &dyn Backend, id: LeaseId) {
    let noise = "i=0; while [ $i -lt 3000 ]; do echo line-$i-0123456789012345678901234567890; i=$((i+1)); done";
    host.ssh(backend, id, &format!("({noise}; echo the-last-line) > /dev/console")).await;
    for most in [1 << 20, 1 << 20, 15] {
        let said = backend.console_tail(id, most).await.unwrap();
        let text = String::from_utf8_lossy(&said);
        assert!(text.ends_with("the-last-line\r\n"), "{}", &text[text.len().saturating_sub(200)..]);
        assert!(said.len() <= most.min(64 << 10), "{}", said.len());
        assert!(!text.contains("line-0-"), "the first bytes went out of the ring");
    }
    assert_eq!(backend.console_tail(id, 15).await.unwrap(), b"the-last-line\r\n");
}

/// No egress, and nothing of the host within reach.
async fn assert_network(host: &LibvirtHost, backend: &dyn Backend, id: LeaseId) {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // No packet is sent: it is asked which address of the host faces the others.
    let own = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map(|address| address.ip().to_string());
    for address in ["10.0.2.2".to_owned(), own.unwrap_or_else(|_| "127.0.0.1".into())] {
        let reach = format!("nc -w 2 {address} {port} < /dev/null && echo reached || echo closed");
        assert_eq!(host.ssh(backend, id, &reach).await, "closed", "{address}");
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// Ports are forwarded when they are asked for, up to a bound.
async fn assert_forwards(backend: &dyn Backend, id: LeaseId) {
    let ssh = backend.endpoint(id, 22).await.unwrap();
    let ordered = backend.endpoint(id, 8022).await.unwrap();
    let late = backend.endpoint(id, 8080).await.unwrap();
    assert!(ssh != ordered && ordered != late && late != ssh);
    assert_eq!(backend.endpoint(id, 8080).await.unwrap(), late);
    assert_eq!(backend.endpoint(id, 0).await.unwrap_err().code, ErrorCode::InvalidRequest);
    for port in 9001..=9061 {
        backend.endpoint(id, port).await.unwrap();
    }
    assert_eq!(backend.endpoint(id, 9999).await.unwrap_err().code, ErrorCode::TooManyRequests);
    assert_eq!(backend.endpoint(id, 22).await.unwrap(), ssh);
}
