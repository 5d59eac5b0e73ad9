//! A home with one image for the libvirt backend, and the suite's questions about it.
use crate::conformance::{Claims, Subject, seed, small};
use async_trait::async_trait;
use backends::images::{ImageStore, ImportSource, Manifest};
use backends::libvirt::{Accel, Libvirt, LibvirtConfig, Limits};
use backends::{Backend, Capabilities, InstanceOrder, wait_ready};
use protocol::ErrorCode;
use protocol::names::{Arch, Egress, Isolation, LeaseId};
use protocol::seed::Seed;
use protocol::units::Resources;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

pub struct LibvirtHost {
    pub dir: tempfile::TempDir,
    pub uri: Option<String>,
    pub accel: Accel,
    pub egress: Option<Egress>,
    pub limits: Limits,
    pub image: Manifest,
    /// What the guest must present; none where there is no guest.
    pub host_key: Option<String>,
    pub seed: Seed,
}

/// Short, for the embedded driver's sockets.
fn home(prefix: &str) -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix(prefix).rand_bytes(5).tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn keygen(path: &Path) -> String {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(made.unwrap().success());
    fs::read_to_string(path.with_extension("pub")).unwrap()
}

fn bundle(name: &str) -> Option<PathBuf> {
    let bundle = std::env::var_os("GOLEMNODE_TEST_IMAGES").map(|dir| Path::new(&dir).join(name));
    let bundle = bundle.filter(|bundle| bundle.join("manifest.json").exists());
    if bundle.is_none() {
        eprintln!("SKIPPED: no guest image '{name}': set GOLEMNODE_TEST_IMAGES, or run 'make test'");
    }
    bundle
}

impl LibvirtHost {
    /// With a guest that boots, where its image is at hand.
    pub fn real(image: &str) -> Option<Self> {
        Self::real_in("gn-", image)
    }

    /// In a home whose name begins like this.
    pub fn real_in(prefix: &str, image: &str) -> Option<Self> {
        let bundle = bundle(image)?;
        let dir = home(prefix);
        let images = ImageStore::new(dir.path().join("images"));
        let image = images.import(&ImportSource::Bundle { dir: bundle, name: None }, &mut |_, _| {}).unwrap();
        let tenant = keygen(&dir.path().join("tenant"));
        let host_key = keygen(&dir.path().join("host"));
        let seed = Seed {
            hostname: "web".parse().unwrap(),
            authorized_keys: vec![tenant.trim().to_owned()],
            host_key: fs::read_to_string(dir.path().join("host")).unwrap(),
            user_data: None,
        };
        Some(LibvirtHost {
            dir,
            uri: None,
            accel: Accel::Tcg,
            egress: Some(Egress::None),
            limits: Limits::default(),
            image,
            host_key: Some(host_key),
            seed,
        })
    }

    /// With a disk of nothing, for a driver that boots nothing.
    pub fn hollow(uri: &str) -> Option<Self> {
        for tool in ["qemu-img", "genisoimage"] {
            if Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_err() {
                eprintln!("SKIPPED: {uri} is not tried: install {tool}");
                return None;
            }
        }
        let dir = home("gn-");
        let disk = dir.path().join("hollow");
        let mut sectors = vec![0u8; 1 << 20];
        sectors[510..512].copy_from_slice(&[0x55, 0xaa]);
        fs::write(&disk, sectors).unwrap();
        let source = ImportSource::Disk {
            disk,
            name: "hollow".parse().unwrap(),
            arch: Arch::of_this_build().unwrap_or(Arch::X86_64),
            default_user: "root".parse().unwrap(),
            kernel: None,
            initrd: None,
            cmdline: None,
            sha256: None,
        };
        let image = ImageStore::new(dir.path().join("images")).import(&source, &mut |_, _| {}).unwrap();
        let (uri, limits) = (Some(uri.to_owned()), Limits::default());
        Some(LibvirtHost {
            dir,
            uri,
            accel: Accel::Auto,
            egress: Some(Egress::None),
            limits,
            image,
            host_key: None,
            seed: seed(),
        })
    }

    pub fn new_backend(&self) -> Libvirt {
        Libvirt::new(LibvirtConfig {
            home: self.dir.path().to_owned(),
            uri: self.uri.clone(),
            accel: self.accel,
            egress: self.egress,
            limits: self.limits,
            images: ImageStore::new(self.dir.path().join("images")),
        })
    }

    pub async fn wait(&self, backend: &dyn Backend, id: LeaseId) {
        let Some(key) = &self.host_key else { return };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
        wait_ready(backend, id, key, deadline).await.unwrap();
    }

    pub async fn ssh(&self, backend: &dyn Backend, id: LeaseId, command: &str) -> String {
        let port = backend.endpoint(id, 22).await.unwrap().port().to_string();
        let pinned = self.dir.path().join("known_hosts");
        fs::write(&pinned, format!("guest {}", self.host_key.as_deref().unwrap())).unwrap();
        let known = format!("UserKnownHostsFile={}", pinned.display());
        let mut ssh = Command::new("ssh");
        ssh.args(["-p", &port, "-o", &known, "-o", "StrictHostKeyChecking=yes", "-o", "HostKeyAlias=guest"]);
        ssh.args(["-o", "BatchMode=yes", "-i"]).arg(self.dir.path().join("tenant")).args(["root@127.0.0.1", command]);
        let output = tokio::task::spawn_blocking(move || ssh.stdin(Stdio::null()).output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// This home's QEMU processes. A folder of its own is in each one's arguments.
    pub fn processes(&self) -> Vec<u32> {
        let home = self.dir.path().to_str().unwrap();
        let ours = |pid: &u32| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).into_owned();
            arguments.contains("qemu-system") && arguments.contains(home)
        };
        let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.to_str()?.parse().ok()).filter(ours).collect()
    }

    pub fn folder(&self, id: LeaseId) -> PathBuf {
        self.dir.path().join("vms").join(id.to_string())
    }
}

impl Drop for LibvirtHost {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

/// Whatever is named after a VM.
fn named_after_vms(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if name.contains("golemnode") || path.parent().is_some_and(|parent| parent.ends_with("vms")) {
            found.push(path.display().to_string());
        } else if path.is_dir() {
            named_after_vms(&path, found);
        }
    }
}

#[async_trait]
impl Subject for LibvirtHost {
    fn claims(&self) -> Claims {
        let real = self.host_key.is_some();
        Claims {
            kind: "libvirt",
            capabilities: Capabilities {
                isolation: if real { Isolation::Emulated } else { Isolation::Simulated },
                egress: Egress::None,
                arch: Arch::of_this_build().unwrap_or(Arch::X86_64),
                suspend: true,
                snapshots: false,
                live_scale: false,
                volumes: false,
                user_data: real,
                console: real,
                disk_limit: real,
            },
            endpoint: real,
            slow: real,
            // With `quiet` on its command line the kernel says little; what is typed into no terminal is all ours.
            console_says: None,
        }
    }
    async fn open(&self) -> Arc<dyn Backend> {
        Arc::new(self.new_backend())
    }
    async fn reopen(&self, old: Arc<dyn Backend>) -> Arc<dyn Backend> {
        let next = Arc::new(self.new_backend());
        if self.host_key.is_none() {
            // The test driver's table goes with its last connection.
            next.list().await.unwrap();
        }
        old.close().await;
        next
    }
    fn order(&self, id: LeaseId) -> InstanceOrder {
        InstanceOrder {
            id,
            resources: small(),
            image: self.image.name.clone(),
            image_digest: self.image.digest(),
            seed: self.seed.clone(),
            ports: vec![],
            egress: self.egress.unwrap_or_default(),
        }
    }
    fn bad_orders(&self, id: LeaseId) -> Vec<(InstanceOrder, ErrorCode)> {
        let order = || self.order(id);
        let no_cloud_config = Seed { user_data: Some("no cloud-config".into()), ..self.seed.clone() };
        let mut bad = vec![(InstanceOrder { seed: no_cloud_config, ..order() }, ErrorCode::InvalidRequest)];
        if self.host_key.is_some() {
            let huge = InstanceOrder { resources: Resources::new(1, 1 << 24, 1), ..order() };
            let wide = InstanceOrder { resources: Resources::new(1000, 256, 1), ..order() };
            bad.extend([(huge, ErrorCode::CreateFailed), (wide, ErrorCode::CreateFailed)]);
        }
        bad
    }
    async fn halve(&self, backend: &dyn Backend, id: LeaseId, way: usize) -> bool {
        match way {
            0 => fs::remove_file(self.folder(id).join("seed.iso")).unwrap(),
            1 => fs::write(self.folder(id).join("order.json"), "").unwrap(),
            2 => {
                // Before there was a domain.
                backend.destroy(id).await.unwrap();
                fs::create_dir(self.folder(id)).unwrap();
                fs::write(self.folder(id).join("disk.qcow2"), "").unwrap();
            }
            3 => {
                // The domain alone, its files lost.
                backend.stop(id, true).await.unwrap();
                fs::remove_dir_all(self.folder(id)).unwrap();
            }
            _ => return false,
        }
        true
    }
    async fn ready(&self, backend: &dyn Backend, id: LeaseId) {
        self.wait(backend, id).await;
    }
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        named_after_vms(self.dir.path(), &mut left);
        left.extend(self.processes().iter().map(|pid| format!("process {pid}")));
        left
    }
}
