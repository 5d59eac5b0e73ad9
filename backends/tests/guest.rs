//! The libvirt backend with a real guest, from its making to its end.
use backends::images::{ImageStore, ImportSource};
use backends::libvirt::{Accel, Libvirt, LibvirtConfig};
use backends::{Backend, InstanceOrder, PowerState, Stage, wait_ready};
use protocol::ErrorCode;
use protocol::names::{Digest, Isolation, LeaseId};
use protocol::seed::Seed;
use protocol::units::Resources;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

fn bundle(name: &str) -> Option<PathBuf> {
    let bundle = std::env::var_os("GOLEMNODE_TEST_IMAGES").map(|dir| Path::new(&dir).join(name));
    let bundle = bundle.filter(|bundle| bundle.join("manifest.json").exists());
    if bundle.is_none() {
        eprintln!("SKIPPED: no guest image '{name}': set GOLEMNODE_TEST_IMAGES, or run 'make test'");
    }
    bundle
}

struct Host {
    dir: tempfile::TempDir,
    order: InstanceOrder,
    host_key: String,
}

fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(made.unwrap().success());
}

fn host(name: &str) -> Option<Host> {
    let bundle = bundle(name)?;
    let dir = tempfile::Builder::new().prefix("gn-").rand_bytes(5).tempdir_in("/tmp").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let images = ImageStore::new(dir.path().join("images"));
    let image = images.import(&ImportSource::Bundle { dir: bundle, name: None }, &mut |_, _| {}).unwrap();
    keygen(&dir.path().join("tenant"));
    keygen(&dir.path().join("host"));
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let host_key = read("host.pub");
    let order = InstanceOrder {
        id: LeaseId([0xab; 16]),
        resources: Resources::new(1, 256, 1),
        image: image.name.clone(),
        image_digest: image.digest(),
        seed: Seed {
            hostname: "web".parse().unwrap(),
            authorized_keys: vec![read("tenant.pub").trim().to_owned()],
            host_key: read("host"),
            user_data: None,
        },
        ports: vec![],
    };
    Some(Host { dir, order, host_key })
}

impl Host {
    fn open(&self) -> Libvirt {
        Libvirt::new(LibvirtConfig {
            home: self.dir.path().to_owned(),
            uri: None,
            accel: Accel::Tcg,
            images: ImageStore::new(self.dir.path().join("images")),
        })
    }
    async fn ready(&self, backend: &Libvirt) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        wait_ready(backend, self.order.id, &self.host_key, deadline).await.unwrap();
    }
    async fn ssh(&self, backend: &Libvirt, command: &str) -> String {
        let port = backend.endpoint(self.order.id, 22).await.unwrap().port().to_string();
        let pinned = self.dir.path().join("known_hosts");
        std::fs::write(&pinned, format!("guest {}", self.host_key)).unwrap();
        let known = format!("UserKnownHostsFile={}", pinned.display());
        let mut ssh = Command::new("ssh");
        ssh.args(["-p", &port, "-o", &known, "-o", "StrictHostKeyChecking=yes", "-o", "HostKeyAlias=guest"]);
        ssh.args(["-o", "BatchMode=yes", "-i"]).arg(self.dir.path().join("tenant")).args(["root@127.0.0.1", command]);
        let output = tokio::task::spawn_blocking(move || ssh.stdin(Stdio::null()).output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
    fn processes(&self) -> usize {
        let pattern = format!("qemu-system.*{}", self.dir.path().display());
        let found = Command::new("pgrep").args(["-f", &pattern]).output().unwrap();
        String::from_utf8_lossy(&found.stdout).lines().count()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let pattern = format!("qemu-system.*{}", self.dir.path().display());
        let _ = Command::new("pkill").args(["-9", "-f", &pattern]).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tiny_guest_through_its_whole_life() {
    let Some(host) = host("tiny") else { return };
    // One process has one embedded driver: the two share it.
    what_cannot_be_made_leaves_nothing(&host).await;
    let backend = host.open();
    let id = host.order.id;
    let stages = Mutex::new(Vec::new());
    let began = Instant::now();
    backend.create(&host.order, &|stage: Stage| stages.lock().unwrap().push(stage)).await.unwrap();
    assert_eq!(*stages.lock().unwrap(), [Stage::Image, Stage::Disk, Stage::Seed, Stage::Define, Stage::Boot]);
    let created = began.elapsed();
    host.ready(&backend).await;
    eprintln!("create {created:?}, ready {:?}", began.elapsed());
    assert_eq!(host.ssh(&backend, "hostname").await, "web");
    assert_eq!(backend.capabilities().await.isolation, Isolation::Emulated);

    // Again is no fault, and changes nothing.
    backend.create(&host.order, &()).await.unwrap();
    backend.start(id).await.unwrap();
    assert_eq!(backend.list().await.unwrap().len(), 1);
    backend.suspend(id).await.unwrap();
    assert_eq!(backend.get(id).await.unwrap().unwrap().state, PowerState::Suspended);
    assert_eq!(backend.start(id).await.unwrap_err().code, ErrorCode::WrongState);
    backend.resume(id).await.unwrap();
    host.ssh(&backend, "echo kept > /root/kept; sync").await;
    backend.stop(id, false).await.unwrap();
    assert_eq!(backend.get(id).await.unwrap().unwrap().state, PowerState::Stopped);
    assert_eq!(backend.endpoint(id, 22).await.unwrap_err().code, ErrorCode::WrongState);
    backend.start(id).await.unwrap();
    host.ready(&backend).await;
    assert_eq!(host.ssh(&backend, "cat /root/kept").await, "kept");

    // A port that was not forwarded at the start is, when it is asked for.
    let late = backend.endpoint(id, 8080).await.unwrap();
    assert!(late.port() > 0 && late != backend.endpoint(id, 22).await.unwrap());
    // No egress, and nothing of the host within reach.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let reach = format!(
        "nc -w 2 10.0.2.2 {} < /dev/null && echo reached || echo closed",
        listener.local_addr().unwrap().port()
    );
    assert_eq!(host.ssh(&backend, &reach).await, "closed");

    // Another process finds it as it was.
    backend.close().await;
    drop(backend);
    let backend = host.open();
    let found = backend.list().await.unwrap();
    assert_eq!((found.len(), found[0].id, &found[0].state), (1, id, &PowerState::Running));
    assert_eq!(found[0].resources, host.order.resources);
    host.ready(&backend).await;
    assert_eq!(host.ssh(&backend, "cat /root/kept").await, "kept");

    backend.destroy(id).await.unwrap();
    backend.destroy(id).await.unwrap();
    assert!(backend.list().await.unwrap().is_empty());
    assert_eq!(backend.start(id).await.unwrap_err().code, ErrorCode::NoSuchVm);
    assert_eq!(std::fs::read_dir(host.dir.path().join("vms")).unwrap().count(), 0);
    assert_eq!(host.processes(), 0);
}

async fn what_cannot_be_made_leaves_nothing(host: &Host) {
    let backend = host.open();
    let changed = InstanceOrder { image_digest: Digest([0; 32]), ..host.order.clone() };
    assert_eq!(backend.create(&changed, &()).await.unwrap_err().code, ErrorCode::ChecksumMismatch);
    let unknown = InstanceOrder { image: "none".parse().unwrap(), ..host.order.clone() };
    assert_eq!(backend.create(&unknown, &()).await.unwrap_err().code, ErrorCode::NoSuchImage);
    let huge = InstanceOrder { resources: Resources::new(1, 1 << 24, 1), ..host.order.clone() };
    assert_eq!(backend.create(&huge, &()).await.unwrap_err().code, ErrorCode::CreateFailed);
    assert!(backend.list().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(host.dir.path().join("vms")).unwrap().count(), 0);
    assert_eq!(host.processes(), 0);
}
