//! What is done to one domain. Everything here blocks, and holds the VM's lock.
use super::accel::{FIRST_GUEST, SILENCE, Verdict};
use super::connection::give_to_qemu;
use super::xml::{self, CONSOLE, CONSOLE_BYTES, DISK, Description, Engine, NETDEV};
use super::{Forwards, Host, unavailable};
use crate::{Instance, InstanceOrder, PowerState, Stage, images, no_such_vm, seed, ssh_probe, wrong_state};
use protocol::names::{ImageName, Isolation, LeaseId};
use protocol::units::Resources;
use protocol::{ErrorCode, Fault};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::PoisonError;
use std::thread::sleep;
use std::time::{Duration, Instant};
use virt::connect::Connect;
use virt::domain::{Domain, DomainState};
use virt::error::{Error, ErrorNumber};
use virt::sys;

/// A guest that shuts down does so in 4 s when it is small and 20 s when it is a distribution.
const SHUTDOWN: Duration = Duration::from_secs(90);
/// A restart does not wait that long for a guest that ignores its power button.
const RESTART_SHUTDOWN: Duration = Duration::from_secs(30);
/// slirp accepts for a guest that does not listen yet: only a banner counts.
const BANNER: Duration = Duration::from_millis(400);
const POLL: Duration = Duration::from_millis(50);
const ORDER: &str = "order.json";
const OVERLAY: &str = "disk.qcow2";
const SEED: &str = "seed.iso";
/// The monitor's human language; its answers are text.
const HMP: u32 = sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP;

/// What a domain was made from, to describe it anew when the way to run it changes.
#[derive(Serialize, Deserialize)]
struct Order {
    resources: Resources,
    image: ImageName,
    ports: Vec<u16>,
}

impl Host {
    pub(super) fn create(&self, order: &InstanceOrder, stage: &dyn Fn(Stage)) -> Result<(), Fault> {
        let connect = self.connection.get()?;
        if self.is_whole(&connect, order.id)? {
            return self.start(order.id);
        }
        self.destroy(order.id)?;
        self.make(&connect, order, stage).inspect_err(|_| {
            if let Err(fault) = self.destroy(order.id) {
                tracing::warn!(id = %order.id, %fault, "parts of a VM that failed are left");
            }
        })
    }

    fn is_whole(&self, connect: &Connect, id: LeaseId) -> Result<bool, Fault> {
        let folder = self.folder(id);
        let parts = [ORDER, OVERLAY, SEED].iter().all(|part| folder.join(part).exists());
        Ok(parts && find(connect, id)?.is_some())
    }

    fn make(&self, connect: &Connect, order: &InstanceOrder, stage: &dyn Fn(Stage)) -> Result<(), Fault> {
        stage(Stage::Image);
        let image = self.images.get(&order.image)?;
        if image.digest() != order.image_digest {
            return Err(Fault::new(ErrorCode::ChecksumMismatch, format!("image '{}' has changed", order.image)));
        }
        let bytes = order.resources.disk_gib.bytes();
        if bytes < image.disk.virtual_size_bytes {
            let least = image.least_disk_gib();
            return Err(Fault::invalid(format!("image '{}' needs {least}G of disk", order.image)));
        }
        stage(Stage::Disk);
        let folder = self.folder(order.id);
        let made = fs::create_dir_all(&folder)
            .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)))
            .and_then(|()| give_to_qemu(&folder));
        made.map_err(|error| disk_fault(&error))?;
        let base = self.images.path(&image.name, &image.disk.file);
        images::create_overlay(&folder.join(OVERLAY), &base, image.disk.format, bytes)?;
        stage(Stage::Seed);
        seed::write_iso(&folder.join(SEED), order.id, &image.default_user, &order.seed)?;
        let kept = Order { resources: order.resources, image: order.image.clone(), ports: order.ports.clone() };
        let text = serde_json::to_vec(&kept).expect("an order is plain data");
        fs::write(folder.join(ORDER), text).map_err(|error| disk_fault(&error))?;
        stage(Stage::Define);
        let domain = self.define(connect, order.id, &kept)?;
        stage(Stage::Boot);
        self.boot(connect, order.id, &kept, domain)
    }

    fn define(&self, connect: &Connect, id: LeaseId, order: &Order) -> Result<Domain, Fault> {
        let (image, folder) = (self.images.get(&order.image)?, self.folder(id));
        let file = |name: &str| self.images.path(&image.name, name);
        let (kernel, initrd) = (image.kernel.as_ref(), image.initrd.as_ref());
        let text = xml::describe(&Description {
            id,
            resources: order.resources,
            image: &image,
            engine: self.acceleration.engine(),
            overlay: &folder.join(OVERLAY),
            base: &file(&image.disk.file),
            seed: &folder.join(SEED),
            kernel: kernel.map(|kernel| file(&kernel.file)).as_deref(),
            initrd: initrd.map(|initrd| file(&initrd.file)).as_deref(),
            ports: &order.ports,
        });
        connect.define_domain_xml(&text).map_err(|error| failed("describe the VM", &error))
    }

    /// Starts a defined domain. The first one under KVM is watched; if it does not come up it is started again,
    /// emulated, and so are all that follow.
    fn boot(&self, connect: &Connect, id: LeaseId, order: &Order, domain: Domain) -> Result<(), Fault> {
        let unproven = self.acceleration.verdict() == Verdict::Unproven;
        let started = domain.create();
        if !unproven {
            return started.map_err(|error| failed("start the VM", &error));
        }
        let works = started.is_ok() && self.comes_up(id, &domain);
        self.acceleration.remember(if works { Verdict::Works } else { Verdict::Fails });
        if works {
            return Ok(());
        }
        if domain.is_active().unwrap_or(false) {
            domain.destroy().map_err(|error| failed("stop the VM that hangs under KVM", &error))?;
        }
        let emulated = self.define(connect, id, order)?;
        emulated.create().map_err(|error| failed("start the VM", &error))
    }

    /// True once its sshd greets. A guest whose disk has been silent for a while hangs, and so does one that takes
    /// longer than any.
    fn comes_up(&self, id: LeaseId, domain: &Domain) -> bool {
        let began = Instant::now();
        let (mut activity, mut last) = (0, began);
        loop {
            if state_of(domain).is_ok_and(|state| state != PowerState::Running) {
                return false;
            }
            if self.endpoint(id, 22).is_ok_and(greets) {
                return true;
            }
            let now = domain.block_stats(DISK).map_or(0, |stats| stats.rd_req + stats.wr_req);
            if now != activity {
                (activity, last) = (now, Instant::now());
            }
            if last.elapsed() > SILENCE || began.elapsed() > FIRST_GUEST {
                return false;
            }
            sleep(POLL);
        }
    }

    pub(super) fn start(&self, id: LeaseId) -> Result<(), Fault> {
        let connect = self.connection.get()?;
        let domain = must_find(&connect, id)?;
        match state_of(&domain)? {
            PowerState::Running => Ok(()),
            state @ PowerState::Suspended => Err(wrong_state(id, &state, "started")),
            PowerState::Stopped | PowerState::Failed(_) => {
                // Described anew: whether KVM works may have turned out since it was made.
                let order = self.order(id)?;
                let domain = self.define(&connect, id, &order)?;
                self.boot(&connect, id, &order, domain)
            }
        }
    }

    fn order(&self, id: LeaseId) -> Result<Order, Fault> {
        let path = self.folder(id).join(ORDER);
        let text = fs::read(&path).map_err(|error| Fault::internal(format!("{}: {error}", path.display())))?;
        serde_json::from_slice(&text).map_err(|error| Fault::internal(format!("{}: {error}", path.display())))
    }

    pub(super) fn stop(&self, id: LeaseId, force: bool) -> Result<(), Fault> {
        let domain = must_find(&self.connection.get()?, id)?;
        if force { cut(&domain) } else { shut_down(id, &domain, SHUTDOWN) }
    }

    pub(super) fn restart(&self, id: LeaseId) -> Result<(), Fault> {
        let domain = must_find(&self.connection.get()?, id)?;
        if shut_down(id, &domain, RESTART_SHUTDOWN).is_err() {
            cut(&domain)?;
        }
        self.start(id)
    }

    pub(super) fn suspend(&self, id: LeaseId) -> Result<(), Fault> {
        let domain = must_find(&self.connection.get()?, id)?;
        match state_of(&domain)? {
            PowerState::Suspended => Ok(()),
            PowerState::Running => domain.suspend().map_err(|error| failed("suspend the VM", &error)),
            state => Err(wrong_state(id, &state, "suspended")),
        }
    }

    pub(super) fn resume(&self, id: LeaseId) -> Result<(), Fault> {
        let domain = must_find(&self.connection.get()?, id)?;
        match state_of(&domain)? {
            PowerState::Running => Ok(()),
            PowerState::Suspended => domain.resume().map_err(|error| failed("resume the VM", &error)),
            state => Err(wrong_state(id, &state, "resumed")),
        }
    }

    pub(super) fn destroy(&self, id: LeaseId) -> Result<(), Fault> {
        if let Some(domain) = find(&self.connection.get()?, id)? {
            cut(&domain)?;
            let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
            domain.undefine_flags(flags).or_else(gone_is_fine).map_err(|error| failed("remove the VM", &error))?;
        }
        self.forwards.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        match fs::remove_dir_all(self.folder(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(disk_fault(&error)),
            _ => Ok(()),
        }
    }

    /// Domains, and folders whose domain is missing: what a crash left half-made.
    pub(super) fn list(&self) -> Result<Vec<Instance>, Fault> {
        let connect = self.connection.get()?;
        let domains = connect.list_all_domains(0).map_err(|error| unavailable(&error))?;
        let mut instances = Vec::new();
        for domain in domains {
            let Some(id) = domain.name().ok().as_deref().and_then(xml::id_of) else { continue };
            instances.push(self.instance(id, state_of(&domain)?));
        }
        for entry in fs::read_dir(self.home.join("vms")).into_iter().flatten().flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<LeaseId>().ok());
            let Some(id) = id.filter(|id| instances.iter().all(|there| there.id != *id)) else { continue };
            instances.push(self.instance(id, PowerState::Failed("half-made".into())));
        }
        Ok(instances)
    }

    pub(super) fn get(&self, id: LeaseId) -> Result<Option<Instance>, Fault> {
        let domain = find(&self.connection.get()?, id)?;
        domain.map(|domain| Ok(self.instance(id, state_of(&domain)?))).transpose()
    }

    fn instance(&self, id: LeaseId, state: PowerState) -> Instance {
        let order = self.order(id).ok();
        let proven = self.acceleration.verdict() == Verdict::Works;
        Instance {
            id,
            state,
            resources: order.as_ref().map(|order| order.resources).unwrap_or_default(),
            image: order
                .map(|order| order.image)
                .unwrap_or_else(|| "unknown".parse().expect("a constant that is a valid name")),
            isolation: if proven && self.acceleration.engine() == Engine::Kvm {
                Isolation::Hardware
            } else {
                Isolation::Emulated
            },
        }
    }

    /// Where a guest's port is reached; QEMU has picked the host's.
    pub(super) fn endpoint(&self, id: LeaseId, port: u16) -> Result<SocketAddr, Fault> {
        let domain = must_find(&self.connection.get()?, id)?;
        let number = domain.id().ok_or_else(|| wrong_state(id, &PowerState::Stopped, "reached"))?;
        let mut forwards = self.forwards.lock().unwrap_or_else(PoisonError::into_inner);
        let known = forwards.entry(id).or_default();
        if known.domain != number {
            *known = Forwards { domain: number, ports: HashMap::new() };
        }
        let ports = &mut known.ports;
        if let Some(address) = ports.get(&port) {
            return Ok(*address);
        }
        let monitor = |command: &str| {
            domain.qemu_monitor_command(command, HMP).map_err(|error| failed("ask QEMU for its ports", &error))
        };
        *ports = parse_forwards(&monitor("info usernet")?);
        if !ports.contains_key(&port) {
            monitor(&format!("hostfwd_add {NETDEV} tcp:127.0.0.1:0-:{port}"))?;
            *ports = parse_forwards(&monitor("info usernet")?);
        }
        let address = ports.get(&port).copied();
        address.ok_or_else(|| Fault::new(ErrorCode::PortBlocked, format!("QEMU does not forward port {port}")))
    }

    pub(super) fn console_tail(&self, id: LeaseId, most: usize) -> Result<Vec<u8>, Fault> {
        let domain = must_find(&self.connection.get()?, id)?;
        let command = format!("ringbuf_read {CONSOLE} {}", most.min(CONSOLE_BYTES));
        let text = domain.qemu_monitor_command(&command, HMP).map_err(|error| failed("read the console", &error))?;
        Ok(text.into_bytes())
    }
}

/// Lines such as `TCP[HOST_FORWARD]  12  127.0.0.1 40123  10.0.2.15 22  0 0`.
fn parse_forwards(text: &str) -> HashMap<u16, SocketAddr> {
    let forward = |line: &str| {
        let mut words = line.trim().strip_prefix("TCP[HOST_FORWARD]")?.split_whitespace().skip(1);
        let (host, port) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((words.nth(1)?.parse().ok()?, SocketAddr::new(host, port)))
    };
    text.lines().filter_map(forward).collect()
}

/// From a thread that may block.
fn greets(address: SocketAddr) -> bool {
    tokio::runtime::Handle::current().block_on(ssh_probe::banner(address, BANNER)).is_ok()
}

fn find(connect: &Connect, id: LeaseId) -> Result<Option<Domain>, Fault> {
    match connect.lookup_domain_by_name(&xml::domain_name(id)) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if is(&error, ErrorNumber::NoDomain) => Ok(None),
        Err(error) => Err(unavailable(&error)),
    }
}

fn must_find(connect: &Connect, id: LeaseId) -> Result<Domain, Fault> {
    find(connect, id)?.ok_or_else(|| no_such_vm(id))
}

fn is(error: &Error, number: ErrorNumber) -> bool {
    error.code().is_known_and(|code| code == number)
}

fn gone_is_fine(error: Error) -> Result<(), Error> {
    if is(&error, ErrorNumber::NoDomain) { Ok(()) } else { Err(error) }
}

fn state_of(domain: &Domain) -> Result<PowerState, Fault> {
    let (state, _) = domain.state().map_err(|error| unavailable(&error))?;
    Ok(match state.unwrap_or(DomainState::NoState) {
        DomainState::Running | DomainState::Blocked | DomainState::Shutdown => PowerState::Running,
        DomainState::Paused | DomainState::PMSuspended => PowerState::Suspended,
        DomainState::Crashed => PowerState::Failed("the guest has crashed".into()),
        _ => PowerState::Stopped,
    })
}

/// Cuts the power; what is off already is fine.
fn cut(domain: &Domain) -> Result<(), Fault> {
    match domain.destroy() {
        Ok(()) => Ok(()),
        Err(error) if is(&error, ErrorNumber::OperationInvalid) || is(&error, ErrorNumber::NoDomain) => Ok(()),
        Err(error) => Err(failed("cut the VM's power", &error)),
    }
}

fn shut_down(id: LeaseId, domain: &Domain, patience: Duration) -> Result<(), Fault> {
    match state_of(domain)? {
        PowerState::Running => {}
        PowerState::Stopped | PowerState::Failed(_) => return Ok(()),
        state @ PowerState::Suspended => return Err(wrong_state(id, &state, "shut down")),
    }
    domain.shutdown().map_err(|error| failed("press the VM's power button", &error))?;
    let deadline = Instant::now() + patience;
    while state_of(domain)? == PowerState::Running {
        if Instant::now() > deadline {
            return Err(Fault::new(ErrorCode::Timeout, format!("VM {id} does not shut down"))
                .hint("'golemnode vm stop --force' cuts its power"));
        }
        sleep(POLL);
    }
    Ok(())
}

fn failed(what: &str, error: &Error) -> Fault {
    let text = error.message();
    let fault = Fault::new(ErrorCode::CreateFailed, format!("libvirt cannot {what}: {text}"));
    if text.contains("Permission denied") || text.contains("Cannot access") {
        return fault
            .hint("QEMU's own user must be able to enter the home: put it outside of /root and other private folders");
    }
    fault
}

fn disk_fault(error: &std::io::Error) -> Fault {
    match error.kind() {
        std::io::ErrorKind::StorageFull => Fault::new(ErrorCode::Exhausted, "the provider's disk is full"),
        _ => Fault::new(ErrorCode::CreateFailed, format!("a VM's files: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_table_of_forwards_is_read() {
        let text = "Hub -1 (n0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n\
            \x20 TCP[HOST_FORWARD]  12       127.0.0.1 40123       10.0.2.15    22     0     0\n\
            \x20 TCP[ESTABLISHED]   13       127.0.0.1 40123       10.0.2.15    22     0     0\n\
            \x20 TCP[HOST_FORWARD]  14       127.0.0.1 40124                    8080     0     0\n";
        let forwards = parse_forwards(text);
        assert_eq!(forwards.get(&22), Some(&"127.0.0.1:40123".parse().unwrap()));
    }
}
