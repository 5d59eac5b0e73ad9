//! How a VM is made and started, and what becomes of the first one under KVM.
use super::Host;
use super::accel::{FIRST_GUEST, SILENCE, Verdict};
use super::domain::{self, ORDER, OVERLAY, Order, SEED, disk_fault, failed, find, half_made, state_of};
use super::limits;
use super::qemu_user::QemuUser;
use super::xml::{self, DISK, Description, Engine};
use crate::{InstanceOrder, PowerState, Stage, images, seed, ssh_probe, wrong_state};
use protocol::names::{Egress, LeaseId};
use protocol::units::Resources;
use protocol::{ErrorCode, Fault};
use std::fs::{self, Permissions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;

/// slirp accepts for a guest that does not listen yet: only a banner counts.
const BANNER: Duration = Duration::from_millis(400);
const POLL: Duration = Duration::from_millis(50);
/// An order that is to take the place of another.
const NEXT_ORDER: &str = "order.json.new";

/// What the watch over the first guest under KVM has seen.
#[derive(Debug, PartialEq, Eq)]
enum Watched {
    Up,
    Hangs,
    /// Somebody wants the guest gone: nothing has been learnt.
    Interrupted,
}

/// A domain as it has just been described.
struct Defined {
    domain: Domain,
    /// It is the first under KVM, or no other has come up yet.
    unproven: bool,
}

impl Host {
    pub(super) fn create(&self, order: &InstanceOrder, stage: &dyn Fn(Stage)) -> Result<(), Fault> {
        let connect = self.connection.get()?;
        if let Some(domain) = find(&connect, order.id)?.filter(|_| self.is_whole(order.id)) {
            // What is suspended is whole, and left as it is.
            return if state_of(&domain)? == PowerState::Suspended { Ok(()) } else { self.start(order.id) };
        }
        self.destroy(order.id)?;
        self.make(&connect, order, stage).inspect_err(|_| {
            if let Err(fault) = self.destroy(order.id) {
                tracing::warn!(id = %order.id, %fault, "parts of a VM that failed are left");
            }
        })
    }

    fn make(&self, connect: &Connect, order: &InstanceOrder, stage: &dyn Fn(Stage)) -> Result<(), Fault> {
        stage(Stage::Image);
        let image = self.images.get(&order.image)?;
        if image.digest() != order.image_digest {
            return Err(changed(&order.image));
        }
        let bytes = order.resources.disk_gib.bytes();
        if bytes < image.disk.virtual_size_bytes {
            let least = image.least_disk_gib();
            return Err(Fault::invalid(format!("image '{}' needs {least}G of disk", order.image)));
        }
        stage(Stage::Disk);
        let folder = self.folder(order.id);
        let made = fs::create_dir_all(&folder).and_then(|()| self.connection.let_qemu_in(&folder));
        made.map_err(|error| disk_fault(&error))?;
        let (overlay, base) = (folder.join(OVERLAY), self.images.path(&image.name, &image.disk.file));
        images::create_overlay(&overlay, &base, image.disk.format, bytes)?;
        fs::set_permissions(&overlay, Permissions::from_mode(0o600)).map_err(|error| disk_fault(&error))?;
        stage(Stage::Seed);
        seed::write_iso(&folder.join(SEED), order.id, &image.default_user, &order.seed)?;
        let kept = Order {
            resources: order.resources,
            image: order.image.clone(),
            digest: order.image_digest,
            ports: order.ports.clone(),
            egress: order.egress,
        };
        write_order(&folder.join(ORDER), &kept).map_err(|error| disk_fault(&error))?;
        stage(Stage::Define);
        let defined = self.define(connect, order.id, &kept)?;
        stage(Stage::Boot);
        self.boot(connect, order.id, &kept, defined)
    }

    /// Described for KVM unless that is known to fail. Where libvirt itself says that there is none (a device that
    /// this user may not open), that is the verdict.
    fn define(&self, connect: &Connect, id: LeaseId, order: &Order) -> Result<Defined, Fault> {
        let verdict = self.acceleration.verdict();
        let unproven = verdict == Verdict::Unproven;
        let engine = if verdict == Verdict::Fails { Engine::Tcg } else { Engine::Kvm };
        match self.define_for(connect, id, order, engine) {
            Ok(domain) => Ok(Defined { domain, unproven }),
            Err(_) if unproven => {
                let domain = self.define_for(connect, id, order, Engine::Tcg)?;
                self.acceleration.remember(Verdict::Fails);
                Ok(Defined { domain, unproven: false })
            }
            Err(fault) => Err(fault),
        }
    }

    fn define_for(&self, connect: &Connect, id: LeaseId, order: &Order, engine: Engine) -> Result<Domain, Fault> {
        let (image, folder) = (self.images.get(&order.image)?, self.folder(id));
        if image.digest() != order.digest {
            return Err(changed(&order.image));
        }
        let egress = self.way_out_of(order.egress);
        let user = self.connection.qemu_user();
        let group = |user: QemuUser| self.way_out.group(egress, id).unwrap_or(user.gid);
        let run_as = user.map(|user| self.give_to(id, user, group(user))).transpose()?;
        let file = |name: &str| self.images.path(&image.name, name);
        let (kernel, initrd) = (image.kernel.as_ref(), image.initrd.as_ref());
        let text = xml::describe(&Description {
            id,
            resources: order.resources,
            image: &image,
            engine,
            overlay: &folder.join(OVERLAY),
            base: &file(&image.disk.file),
            seed: &folder.join(SEED),
            kernel: kernel.map(|kernel| file(&kernel.file)).as_deref(),
            initrd: initrd.map(|initrd| file(&initrd.file)).as_deref(),
            ports: &order.ports,
            limits: self.limits,
            egress: egress != Egress::None,
            run_as,
            owner: &self.owner,
        });
        connect.define_domain_xml(&text).map_err(|error| failed("describe the VM", &error))
    }

    /// The files that QEMU writes, and the seed that it reads: nobody else can open them.
    fn give_to(&self, id: LeaseId, user: QemuUser, gid: u32) -> Result<(u32, u32), Fault> {
        for part in [OVERLAY, SEED] {
            user.own(&self.folder(id).join(part), gid).map_err(|error| disk_fault(&error))?;
        }
        Ok((user.uid, gid))
    }

    /// With its threads behind all others.
    fn power_on(&self, id: LeaseId, domain: &Domain) -> Result<(), Error> {
        domain.create()?;
        match self.connection.pid_of(&xml::domain_name(id)) {
            Some(pid) => limits::come_last(pid),
            None => tracing::debug!(%id, "whose process a guest is, is not known: it keeps its priority"),
        }
        Ok(())
    }

    /// Starts a domain. The first one under KVM is watched; if it does not come up it is started again, emulated, and
    /// so are all that follow.
    fn boot(&self, connect: &Connect, id: LeaseId, order: &Order, defined: Defined) -> Result<(), Fault> {
        let Defined { domain, unproven } = defined;
        let started = self.power_on(id, &domain);
        if !unproven {
            return started.map_err(|error| failed("start the VM", &error));
        }
        self.judge(connect, id, order, &domain, started)
    }

    fn judge(
        &self,
        connect: &Connect,
        id: LeaseId,
        order: &Order,
        domain: &Domain,
        started: Result<(), Error>,
    ) -> Result<(), Fault> {
        match started.map_or(Watched::Hangs, |()| self.watch(id, domain)) {
            Watched::Up => self.acceleration.remember(Verdict::Works),
            Watched::Interrupted => {}
            Watched::Hangs => {
                // Off first: a process that ends here leaves a guest that is stopped, and not one that hangs.
                if domain.is_active().unwrap_or(false) {
                    domain.destroy().map_err(|error| failed("stop the VM that hangs under KVM", &error))?;
                }
                // Not the same object: that the first process has ended libvirt may hear late, and up to version 9.0 it
                // then ends whichever process the object has by that time.
                domain.undefine().map_err(|error| failed("describe the VM anew", &error))?;
                let emulated = self.define_for(connect, id, order, Engine::Tcg)?;
                self.power_on(id, &emulated).map_err(|error| failed("start the VM", &error))?;
                // Now it is KVM that was to blame: what cannot be started either way says nothing about it.
                self.acceleration.remember(Verdict::Fails);
            }
        }
        Ok(())
    }

    /// Up once its sshd greets. A guest whose disk has been silent for a while hangs, and so does one that takes
    /// longer than any.
    fn watch(&self, id: LeaseId, domain: &Domain) -> Watched {
        let began = Instant::now();
        let (mut activity, mut last) = (0, began);
        loop {
            if self.turns.is_hurried(id) {
                return Watched::Interrupted;
            }
            if state_of(domain).is_ok_and(|state| state != PowerState::Running) {
                return Watched::Hangs;
            }
            if self.endpoint(id, 22).is_ok_and(greets) {
                return Watched::Up;
            }
            let now = domain.block_stats(DISK).map_or(0, |stats| stats.rd_req + stats.wr_req);
            if now != activity {
                (activity, last) = (now, Instant::now());
            }
            if last.elapsed() > SILENCE || began.elapsed() > FIRST_GUEST {
                return Watched::Hangs;
            }
            sleep(POLL);
        }
    }

    pub(super) fn start(&self, id: LeaseId) -> Result<(), Fault> {
        let connect = self.connection.get()?;
        let domain = self.must_find(&connect, id, "started")?;
        if !self.is_whole(id) {
            return Err(wrong_state(id, &half_made(), "started"));
        }
        let order = self.order(id)?;
        match state_of(&domain)? {
            // Left by a run that ended while it watched: the watch goes on.
            PowerState::Running if self.acceleration.verdict() == Verdict::Unproven && runs_under_kvm(&domain) => {
                self.judge(&connect, id, &order, &domain, Ok(()))
            }
            PowerState::Running => Ok(()),
            state @ PowerState::Suspended => Err(wrong_state(id, &state, "started")),
            PowerState::Stopped | PowerState::Failed(_) => {
                // Described anew: whether KVM works may have turned out since it was made.
                let defined = self.define(&connect, id, &order)?;
                self.boot(&connect, id, &order, defined)
            }
        }
    }
}

impl Host {
    /// What is started is described anew from its order. Each step may be repeated, and the disk comes first: one that is
    /// larger than its order says is a lesser evil than one that is smaller.
    pub(super) fn scale(&self, id: LeaseId, to: Resources) -> Result<(), Fault> {
        let connect = self.connection.get()?;
        let domain = self.must_find(&connect, id, "scaled")?;
        match state_of(&domain)? {
            PowerState::Stopped | PowerState::Failed(_) if self.is_whole(id) => {}
            state => return Err(wrong_state(id, &state, "scaled")),
        }
        let (mut order, folder) = (self.order(id)?, self.folder(id));
        if to.disk_gib > order.resources.disk_gib {
            images::grow_overlay(&folder.join(OVERLAY), to.disk_gib.bytes())?;
        }
        order.resources = Resources { disk_gib: to.disk_gib.max(order.resources.disk_gib), ..to };
        let (path, new) = (folder.join(ORDER), folder.join(NEXT_ORDER));
        domain::absent_is_fine(fs::remove_file(&new))?;
        write_order(&new, &order).and_then(|()| fs::rename(&new, &path)).map_err(|error| disk_fault(&error))
    }
}

pub(super) fn runs_under_kvm(domain: &Domain) -> bool {
    domain.xml_desc(0).is_ok_and(|description| xml::is_kvm(&description))
}

fn changed(image: &protocol::names::ImageName) -> Fault {
    Fault::new(ErrorCode::ChecksumMismatch, format!("image '{image}' has changed"))
}

fn write_order(path: &Path, order: &Order) -> std::io::Result<()> {
    let text = serde_json::to_vec(order).expect("an order is plain data");
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(&text)
}

/// From a thread that may block.
fn greets(address: SocketAddr) -> bool {
    tokio::runtime::Handle::current().block_on(ssh_probe::banner(address, BANNER)).is_ok()
}
