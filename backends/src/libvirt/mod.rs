//! libvirt, by default its embedded QEMU driver. Calls into libvirt block, so each runs on a thread of its own; work on
//! one VM is one thing after the other, also when whoever asked has stopped waiting.
//!
//! `<home>/vms/<lease id>/` holds a VM's overlay, seed, order and console; its domain is named after the lease.
mod accel;
mod connection;
pub(crate) mod console;
mod domain;
mod egress;
pub(crate) mod forwards;
mod launch;
mod leftovers;
mod limits;
mod qemu_user;
mod turns;
mod usage;
mod way_out;
pub(crate) mod xml;

pub use accel::Accel;
pub use limits::Limits;
pub use xml::domain_name;

use crate::images::ImageStore;
use crate::measure::HostMeter;
use crate::{Backend, Capabilities, Check, HostInfo, Instance, InstanceOrder, Measured, Progress, Stage, images, seed};
use accel::{Acceleration, Verdict};
use async_trait::async_trait;
use connection::Connection;
use forwards::Forwards;
use protocol::names::{Arch, BackendKind, Digest, Egress, Isolation, LeaseId};
use protocol::units::{DiskGib, MemoryMib, Resources};
use protocol::{ErrorCode, Fault};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use turns::Turns;
use way_out::WayOut;

/// The stages of one create.
const STAGES: usize = 8;

#[derive(Clone, Debug)]
pub struct LibvirtConfig {
    pub home: PathBuf,
    /// None: the embedded driver.
    pub uri: Option<String>,
    pub accel: Accel,
    /// What guests may reach at most. None: the Internet, where it can be held to that.
    pub egress: Option<Egress>,
    pub limits: Limits,
    pub images: ImageStore,
}

pub struct Libvirt {
    host: Arc<Host>,
}

/// What blocking work needs.
struct Host {
    connection: Connection,
    acceleration: Acceleration,
    limits: Limits,
    way_out: WayOut,
    images: ImageStore,
    home: PathBuf,
    /// This home's mark on its domains.
    owner: String,
    turns: Turns,
    forwards: Forwards,
    meter: Mutex<HostMeter>,
}

impl Libvirt {
    pub fn new(config: LibvirtConfig) -> Self {
        let connection = Connection::new(&config);
        let owner = Digest::of(config.home.as_os_str().as_encoded_bytes());
        let accel = if connection.is_simulated() { Accel::Tcg } else { config.accel };
        Libvirt {
            host: Arc::new(Host {
                connection,
                acceleration: Acceleration::new(accel, &config.home),
                limits: config.limits,
                way_out: WayOut::new(config.egress, owner, config.limits),
                images: config.images,
                meter: Mutex::new(HostMeter::new(config.home.clone())),
                owner: owner.to_string(),
                home: config.home,
                turns: Turns::default(),
                forwards: Forwards::default(),
            }),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Host) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let host = self.host.clone();
        let done = tokio::task::spawn_blocking(move || work(&host)).await;
        done.unwrap_or_else(|error| Err(Fault::internal(format!("work on libvirt has ended: {error}"))))
    }

    /// Work on one VM, after whatever is under way for it. Once begun it goes on, whoever waits for it.
    async fn on<T: Send + 'static>(
        &self,
        id: LeaseId,
        hurry: bool,
        work: impl FnOnce(&Host) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let turn = self.host.turns.take(id, hurry).await;
        self.blocking(move |host| {
            let _turn = turn;
            work(host)
        })
        .await
    }
}

impl Host {
    fn folder(&self, id: LeaseId) -> PathBuf {
        self.home.join("vms").join(id.to_string())
    }
}

#[async_trait]
impl Backend for Libvirt {
    fn kind(&self) -> BackendKind {
        "libvirt".parse().expect("a constant that is a valid name")
    }

    async fn capabilities(&self) -> Capabilities {
        let proven = self.host.acceleration.verdict() == Verdict::Works;
        let real = !self.host.connection.is_simulated();
        Capabilities {
            isolation: if proven { Isolation::Hardware } else { self.host.least_isolation() },
            egress: self.blocking(|host| Ok(host.egress())).await.unwrap_or_default(),
            arch: Arch::of_this_build().unwrap_or(Arch::X86_64),
            suspend: true,
            snapshots: false,
            live_scale: false,
            volumes: false,
            user_data: real,
            console: real,
            disk_limit: real,
        }
    }

    async fn host(&self) -> Result<HostInfo, Fault> {
        self.blocking(|host| {
            let node = host.connection.get()?.node_info().map_err(|error| unavailable(&error))?;
            let disk = rustix::fs::statvfs(&host.home)
                .map_err(|error| Fault::internal(format!("the home's disk cannot be measured: {error}")))?;
            let gib = |blocks: u64| DiskGib(((u128::from(blocks) * u128::from(disk.f_frsize)) >> 30) as u64);
            let total = MemoryMib(node.memory / 1024);
            Ok(HostInfo {
                arch: Arch::of_this_build()
                    .ok_or_else(|| Fault::new(ErrorCode::BackendCannot, "no guests on this architecture"))?,
                cpus: node.cpus,
                memory_mib: total,
                // The test driver's host is not this one.
                memory_mib_free: available_memory().unwrap_or(total).min(total),
                disk_gib: gib(disk.f_blocks),
                disk_gib_free: gib(disk.f_bavail),
            })
        })
        .await
    }

    async fn create(&self, order: &InstanceOrder, progress: &dyn Progress) -> Result<(), Fault> {
        let (stages, mut seen) = mpsc::channel::<Stage>(STAGES);
        let order = order.clone();
        let id = order.id;
        let work = self.on(id, false, move |host| {
            // Nobody may be listening any more; the work goes on until it is whole or undone.
            host.create(&order, &|stage| {
                let _ = stages.blocking_send(stage);
            })
        });
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                Some(stage) = seen.recv() => progress.stage(stage),
                done = &mut work => return done,
            }
        }
    }

    async fn start(&self, id: LeaseId) -> Result<(), Fault> {
        self.on(id, false, move |host| host.start(id)).await
    }
    async fn stop(&self, id: LeaseId, force: bool) -> Result<(), Fault> {
        self.on(id, force, move |host| host.stop(id, force)).await
    }
    async fn restart(&self, id: LeaseId) -> Result<(), Fault> {
        self.on(id, false, move |host| host.restart(id)).await
    }
    async fn suspend(&self, id: LeaseId) -> Result<(), Fault> {
        self.on(id, false, move |host| host.suspend(id)).await
    }
    async fn resume(&self, id: LeaseId) -> Result<(), Fault> {
        self.on(id, false, move |host| host.resume(id)).await
    }
    async fn scale(&self, id: LeaseId, to: Resources) -> Result<(), Fault> {
        self.on(id, false, move |host| host.scale(id, to)).await
    }
    async fn destroy(&self, id: LeaseId) -> Result<(), Fault> {
        self.on(id, true, move |host| host.destroy(id)).await
    }

    async fn list(&self) -> Result<Vec<Instance>, Fault> {
        self.blocking(|host| host.list()).await
    }
    async fn get(&self, id: LeaseId) -> Result<Option<Instance>, Fault> {
        self.blocking(move |host| host.get(id)).await
    }
    async fn endpoint(&self, id: LeaseId, port: u16) -> Result<SocketAddr, Fault> {
        self.blocking(move |host| host.endpoint(id, port)).await
    }
    async fn console_tail(&self, id: LeaseId, most: usize) -> Result<Vec<u8>, Fault> {
        self.blocking(move |host| host.console_tail(id, most)).await
    }

    async fn measure(&self) -> Result<Measured, Fault> {
        self.blocking(|host| host.measure()).await
    }

    async fn check(&self) -> Vec<Check> {
        let opened = self.blocking(|host| host.connection.get().map(|_| host.connection.uri().to_owned())).await;
        let mut checks = vec![match opened {
            Ok(uri) => Check::ok("libvirt", uri),
            Err(fault) => Check::bad("libvirt", fault.message, fault.hint.unwrap_or_default()),
        }];
        checks.push(match images::qemu_img_version() {
            Ok(version) => Check::ok("qemu-img", version),
            Err(fault) => Check::bad("qemu-img", fault.message, fault.hint.unwrap_or_default()),
        });
        checks.push(match seed::iso_tool() {
            Some(tool) => Check::ok("iso tool", tool),
            None => Check::bad("iso tool", "none found", "install genisoimage or xorriso"),
        });
        checks.push(match self.host.acceleration.verdict() {
            _ if self.host.connection.is_private() && self.host.acceleration.closed_to_qemu() => Check {
                hint: Some("chgrp kvm /dev/kvm; chmod 660 /dev/kvm (udev does so where it runs)".to_owned()),
                ..Check::ok("kvm", "QEMU's user may not open /dev/kvm: guests are emulated, and start slowly")
            },
            Verdict::Works => Check::ok("kvm", "guests run under KVM"),
            Verdict::Unproven => Check::ok("kvm", "there is a device; the first guest will show whether it works"),
            Verdict::Fails => Check::ok("kvm", "not usable: guests are emulated, slow and without promised isolation"),
        });
        let walls = self.blocking(|host| Ok(vec![host.connection.check_user(), host.check_egress()])).await;
        checks.extend(walls.unwrap_or_default());
        checks
    }

    async fn close(&self) {
        let host = self.host.clone();
        let work = move || {
            host.leave_the_way_out();
            host.connection.close();
        };
        // A thread that could not be had leaves the connection to the end of the process.
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

fn available_memory() -> Option<MemoryMib> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().split(' ').next()?.parse().ok()?;
    Some(MemoryMib(kib / 1024))
}

fn unavailable(error: &virt::error::Error) -> Fault {
    Fault::new(ErrorCode::Unavailable, format!("libvirt: {}", error.message()))
}
