//! What is done to one domain, and what is known of all. Everything here blocks; what changes a VM holds its turn.
use super::accel::Verdict;
use super::launch::runs_under_kvm;
use super::{Host, unavailable, xml};
use crate::{Instance, PowerState, no_such_vm, wrong_state};
use protocol::names::{Digest, Egress, ImageName, Isolation, LeaseId};
use protocol::units::Resources;
use protocol::{ErrorCode, Fault};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
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
/// A guest that boots does not hear its power button yet.
const PRESS_AGAIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
pub(super) const ORDER: &str = "order.json";
pub(super) const OVERLAY: &str = "disk.qcow2";
pub(super) const SEED: &str = "seed.iso";

/// What a domain was made from, to describe it anew when the way to run it changes.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub resources: Resources,
    pub image: ImageName,
    /// The overlay stands on this very image and no later one of the same name.
    pub digest: Digest,
    pub ports: Vec<u16>,
    /// What the lease says; none in what was kept before leases had any.
    #[serde(default)]
    pub egress: Egress,
}

impl Host {
    /// Every part is there; with the domain it is a VM.
    pub(super) fn is_whole(&self, id: LeaseId) -> bool {
        let folder = self.folder(id);
        [OVERLAY, SEED].iter().all(|part| folder.join(part).exists()) && self.order(id).is_ok()
    }

    pub(super) fn order(&self, id: LeaseId) -> Result<Order, Fault> {
        let path = self.folder(id).join(ORDER);
        let text = fs::read(&path).map_err(|error| Fault::internal(format!("{}: {error}", path.display())))?;
        serde_json::from_slice(&text).map_err(|error| Fault::internal(format!("{}: {error}", path.display())))
    }

    pub(super) fn stop(&self, id: LeaseId, force: bool) -> Result<(), Fault> {
        let connect = self.connection.get()?;
        let domain = self.must_find(&connect, id, "stopped")?;
        self.last_words(id, &domain);
        if force { cut(id, &domain) } else { self.shut_down(id, &domain, SHUTDOWN) }
    }

    pub(super) fn restart(&self, id: LeaseId) -> Result<(), Fault> {
        let connect = self.connection.get()?;
        let domain = self.must_find(&connect, id, "restarted")?;
        self.last_words(id, &domain);
        if self.shut_down(id, &domain, RESTART_SHUTDOWN).is_err() {
            cut(id, &domain)?;
        }
        self.start(id)
    }

    /// The ring with the guest's output goes with QEMU.
    fn last_words(&self, id: LeaseId, domain: &Domain) {
        if let Err(fault) = self.keep_console(id, domain) {
            tracing::debug!(%id, %fault, "the end of the guest's output is not kept");
        }
    }

    fn shut_down(&self, id: LeaseId, domain: &Domain, patience: Duration) -> Result<(), Fault> {
        match state_of(domain)? {
            PowerState::Running => {}
            PowerState::Stopped | PowerState::Failed(_) => return Ok(()),
            state @ PowerState::Suspended => return Err(wrong_state(id, &state, "shut down")),
        }
        let deadline = Instant::now() + patience;
        let mut press = Instant::now();
        while state_of(domain)? == PowerState::Running {
            if Instant::now() > deadline || self.turns.is_hurried(id) {
                return Err(Fault::new(ErrorCode::Timeout, format!("VM {id} does not shut down"))
                    .hint("'golemnode vm stop --force' cuts its power"));
            }
            if Instant::now() >= press {
                domain
                    .shutdown()
                    .or_else(off_is_fine)
                    .map_err(|error| refused(id, "press its power button", &error))?;
                press = Instant::now() + PRESS_AGAIN;
            }
            sleep(POLL);
        }
        Ok(())
    }

    pub(super) fn suspend(&self, id: LeaseId) -> Result<(), Fault> {
        let connect = self.connection.get()?;
        let domain = self.must_find(&connect, id, "suspended")?;
        match state_of(&domain)? {
            PowerState::Suspended => Ok(()),
            PowerState::Running => domain.suspend().map_err(|error| refused(id, "suspend it", &error)),
            state => Err(wrong_state(id, &state, "suspended")),
        }
    }

    pub(super) fn resume(&self, id: LeaseId) -> Result<(), Fault> {
        let connect = self.connection.get()?;
        let domain = self.must_find(&connect, id, "resumed")?;
        match state_of(&domain)? {
            PowerState::Running => Ok(()),
            PowerState::Suspended => domain.resume().map_err(|error| refused(id, "resume it", &error)),
            state => Err(wrong_state(id, &state, "resumed")),
        }
    }

    pub(super) fn destroy(&self, id: LeaseId) -> Result<(), Fault> {
        if let Some(domain) = find(&self.connection.get()?, id)? {
            cut(id, &domain)?;
            // The test driver has no guests with firmware, and refuses the flag.
            let nvram = if self.connection.is_simulated() { 0 } else { sys::VIR_DOMAIN_UNDEFINE_NVRAM };
            let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | nvram;
            domain.undefine_flags(flags).or_else(gone_is_fine).map_err(|error| refused(id, "remove it", &error))?;
        }
        // Whoever reads its console has finished, and finds no VM from now on.
        let known = self.forwards.of(id);
        let _alone = known.lock().unwrap_or_else(PoisonError::into_inner);
        self.forwards.forget(id);
        if let Some(log) = self.connection.log_of(&xml::domain_name(id)) {
            absent_is_fine(fs::remove_file(log))?;
        }
        absent_is_fine(fs::remove_dir_all(self.folder(id)))
    }

    /// Domains, and folders whose domain is missing: what a crash left half-made.
    pub(super) fn list(&self) -> Result<Vec<Instance>, Fault> {
        let connect = self.connection.get()?;
        let domains = connect.list_all_domains(0).map_err(|error| unavailable(&error))?;
        let mut instances = Vec::new();
        for domain in domains.iter().filter(|domain| self.is_ours(domain)) {
            let Some(id) = domain.name().ok().as_deref().and_then(xml::id_of) else { continue };
            instances.extend(self.instance(id, domain)?);
        }
        let folders = match fs::read_dir(self.home.join("vms")) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(disk_fault(&error)),
            folders => folders.into_iter().flatten().flatten(),
        };
        for entry in folders {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<LeaseId>().ok());
            let Some(id) = id.filter(|id| instances.iter().all(|there| there.id != *id)) else { continue };
            instances.extend(self.remains(id));
        }
        Ok(instances)
    }

    pub(super) fn get(&self, id: LeaseId) -> Result<Option<Instance>, Fault> {
        let connect = self.connection.get()?;
        let found = find(&connect, id)?.map(|domain| self.instance(id, &domain)).transpose()?.flatten();
        Ok(found.or_else(|| self.remains(id)))
    }

    /// One libvirt may serve several nodes, and each calls every VM a stray that its ledger does not name.
    pub(super) fn is_ours(&self, domain: &Domain) -> bool {
        let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
        self.connection.is_private()
            || domain.metadata(kind, Some(xml::NAMESPACE), 0).is_ok_and(|text| text.contains(&self.owner))
    }

    /// None when it is gone by now.
    fn instance(&self, id: LeaseId, domain: &Domain) -> Result<Option<Instance>, Fault> {
        let state = match domain.state() {
            Err(error) if is(&error, ErrorNumber::NoDomain) => return Ok(None),
            Err(error) => return Err(unavailable(&error)),
            Ok((state, _)) => power_state(state.unwrap_or(DomainState::NoState)),
        };
        let whole = self.is_whole(id) || self.turns.is_busy(id);
        let kvm = match state {
            PowerState::Stopped => self.acceleration.verdict() == Verdict::Works,
            _ => self.acceleration.proven() && runs_under_kvm(domain),
        };
        let isolation = if kvm { Isolation::Hardware } else { self.least_isolation() };
        Ok(Some(self.describe(id, if whole { state } else { half_made() }, isolation)))
    }

    /// A folder without a domain. While somebody is at work on it there is nothing to say yet.
    fn remains(&self, id: LeaseId) -> Option<Instance> {
        let there = self.folder(id).exists() && !self.turns.is_busy(id);
        there.then(|| self.describe(id, half_made(), self.least_isolation()))
    }

    fn describe(&self, id: LeaseId, state: PowerState, isolation: Isolation) -> Instance {
        let order = self.order(id).ok();
        let unknown = || "unknown".parse().expect("a constant that is a valid name");
        Instance {
            id,
            state,
            resources: order.as_ref().map(|order| order.resources).unwrap_or_default(),
            image: order.map_or_else(unknown, |order| order.image),
            isolation,
        }
    }

    pub(super) fn least_isolation(&self) -> Isolation {
        if self.connection.is_simulated() { Isolation::Simulated } else { Isolation::Emulated }
    }

    pub(super) fn must_find(&self, connect: &Connect, id: LeaseId, what: &str) -> Result<Domain, Fault> {
        find(connect, id)?.ok_or_else(|| match self.folder(id).exists() {
            true => wrong_state(id, &half_made(), what),
            false => no_such_vm(id),
        })
    }
}

pub(super) fn half_made() -> PowerState {
    PowerState::Failed("half-made".into())
}

pub(super) fn find(connect: &Connect, id: LeaseId) -> Result<Option<Domain>, Fault> {
    match connect.lookup_domain_by_name(&xml::domain_name(id)) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if is(&error, ErrorNumber::NoDomain) => Ok(None),
        Err(error) => Err(unavailable(&error)),
    }
}

fn is(error: &Error, number: ErrorNumber) -> bool {
    error.code().is_known_and(|code| code == number)
}

fn gone_is_fine(error: Error) -> Result<(), Error> {
    if is(&error, ErrorNumber::NoDomain) { Ok(()) } else { Err(error) }
}

fn off_is_fine<T: Default>(error: Error) -> Result<T, Error> {
    if is(&error, ErrorNumber::OperationInvalid) { Ok(T::default()) } else { Err(error) }
}

pub(super) fn absent_is_fine(removed: std::io::Result<()>) -> Result<(), Fault> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(disk_fault(&error)),
        _ => Ok(()),
    }
}

pub(super) fn state_of(domain: &Domain) -> Result<PowerState, Fault> {
    let (state, _) = domain.state().map_err(|error| unavailable(&error))?;
    Ok(power_state(state.unwrap_or(DomainState::NoState)))
}

fn power_state(state: DomainState) -> PowerState {
    match state {
        DomainState::Running | DomainState::Blocked | DomainState::Shutdown => PowerState::Running,
        DomainState::Paused | DomainState::PMSuspended => PowerState::Suspended,
        DomainState::Crashed => PowerState::Failed("the guest has crashed".into()),
        _ => PowerState::Stopped,
    }
}

/// Only a guest that runs can be reached.
pub(super) fn must_run(domain: &Domain, id: LeaseId, what: &str) -> Result<(), Fault> {
    match state_of(domain)? {
        PowerState::Running => Ok(()),
        state => Err(wrong_state(id, &state, what)),
    }
}

/// Cuts the power; what is off already is fine.
fn cut(id: LeaseId, domain: &Domain) -> Result<(), Fault> {
    let cut = domain.destroy().or_else(off_is_fine).or_else(gone_is_fine);
    cut.map_err(|error| refused(id, "cut its power", &error))
}

/// A guest that cannot be made or started.
pub(super) fn failed(what: &str, error: &Error) -> Fault {
    let text = error.message();
    let fault = Fault::new(ErrorCode::CreateFailed, format!("libvirt cannot {what}: {text}"));
    if text.contains("Permission denied") || text.contains("Cannot access") {
        return fault
            .hint("QEMU's own user must be able to enter the home: put it outside of /root and other private folders");
    }
    fault
}

/// Anything else that libvirt does not do.
pub(super) fn refused(id: LeaseId, what: &str, error: &Error) -> Fault {
    let code = match error.code().known() {
        Some(ErrorNumber::NoDomain) => return no_such_vm(id),
        Some(ErrorNumber::OperationInvalid) => ErrorCode::WrongState,
        Some(ErrorNumber::NoSupport | ErrorNumber::OperationUnsupported) => ErrorCode::BackendCannot,
        Some(ErrorNumber::Rpc | ErrorNumber::SystemError | ErrorNumber::InvalidConn) => ErrorCode::Unavailable,
        _ => ErrorCode::Internal,
    };
    Fault::new(code, format!("VM {id}: libvirt cannot {what}: {}", error.message()))
}

pub(super) fn disk_fault(error: &std::io::Error) -> Fault {
    match error.kind() {
        ErrorKind::StorageFull => Fault::new(ErrorCode::Exhausted, "the provider's disk is full"),
        _ => Fault::new(ErrorCode::CreateFailed, format!("a VM's files: {error}")),
    }
}
