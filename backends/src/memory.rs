//! A simulated backend: it makes no guest at all and says so (`Isolation::Simulated`). Deterministic: it does what
//! its options say and reads no clock; a delay is the runtime's, so that paused time works.
use crate::{
    Backend, Capabilities, Check, HostInfo, HostLoad, Instance, InstanceOrder, Measured, PowerState, Progress, Stage,
    no_such_vm, wrong_state,
};
use async_trait::async_trait;
use protocol::names::{Arch, BackendKind, Digest, Egress, ImageName, Isolation, LeaseId};
use protocol::units::{DiskGib, MemoryMib, Resources};
use protocol::{ErrorCode, Fault};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct MemoryOptions {
    pub arch: Arch,
    /// What the simulated host has. Orders beyond what is left are refused with `RES_002`.
    pub host: Resources,
    /// Images and their digests.
    pub images: BTreeMap<ImageName, Digest>,
    /// So many creates fail before the first succeeds.
    pub fail_creates: u32,
    /// At which stage a failing create fails.
    pub fail_at: Stage,
    /// How long each stage of a create takes, and every other change of state.
    pub delay: Duration,
    /// Handed out by `endpoint` for every port, so that a test can point it to a real server on loopback. Without
    /// one there is nothing to reach and `endpoint` says so.
    pub endpoint: Option<SocketAddr>,
    /// `stop` without force is never obeyed.
    pub ignore_shutdown: bool,
    /// How busy the simulated host is; without, nothing is said of it.
    pub load: Option<HostLoad>,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        let tiny: ImageName = "tiny".parse().expect("a constant that is a valid name");
        MemoryOptions {
            arch: Arch::of_this_build().unwrap_or(Arch::X86_64),
            host: Resources::new(8, 16 * 1024, 200),
            images: BTreeMap::from([(tiny, Self::digest_of("tiny"))]),
            fail_creates: 0,
            fail_at: Stage::Boot,
            delay: Duration::ZERO,
            endpoint: None,
            ignore_shutdown: false,
            load: None,
        }
    }
}

impl MemoryOptions {
    /// The digest that a simulated image of this name has.
    pub fn digest_of(image: &str) -> Digest {
        Digest::of(format!("simulated image {image}").as_bytes())
    }
}

struct State {
    options: MemoryOptions,
    vms: BTreeMap<LeaseId, Instance>,
    /// Creates under way. Entries go with the last of them, dropped ones included.
    making: BTreeMap<LeaseId, Making>,
    /// Counts that tests look at.
    creates: u64,
    destroys: u64,
}

#[derive(Default)]
struct Making {
    creates: usize,
    /// How often it has been destroyed meanwhile.
    destroyed: u64,
}

/// A create that is under way.
struct Begun<'a> {
    backend: &'a MemoryBackend,
    id: LeaseId,
    destroyed_before: u64,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let mut state = self.backend.lock();
        let Some(making) = state.making.get_mut(&self.id) else { return };
        making.creates -= 1;
        if making.creates == 0 {
            state.making.remove(&self.id);
        }
    }
}

/// Clones share one simulated host: a clone is what a restarted node finds.
#[derive(Clone)]
pub struct MemoryBackend {
    state: Arc<Mutex<State>>,
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new(MemoryOptions::default())
    }
}

impl MemoryBackend {
    pub fn new(options: MemoryOptions) -> Self {
        let state = State { options, vms: BTreeMap::new(), making: BTreeMap::new(), creates: 0, destroys: 0 };
        MemoryBackend { state: Arc::new(Mutex::new(state)) }
    }
    /// Changes the options from now on.
    pub fn tune(&self, change: impl FnOnce(&mut MemoryOptions)) {
        change(&mut self.lock().options);
    }
    /// How many creates made a VM, and how many destroys removed one.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.creates, state.destroys)
    }
    /// The guest powers itself off, or fails.
    pub fn set_state(&self, id: LeaseId, to: PowerState) -> Result<(), Fault> {
        self.lock().vms.get_mut(&id).ok_or_else(|| no_such_vm(id))?.state = to;
        Ok(())
    }
    /// No caller panics while it holds the lock, and a poisoned map is still a map.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
    async fn pause(&self) {
        let delay = self.lock().options.delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }
    fn begin(&self, id: LeaseId) -> Begun<'_> {
        let mut state = self.lock();
        let making = state.making.entry(id).or_default();
        making.creates += 1;
        Begun { backend: self, id, destroyed_before: making.destroyed }
    }
    /// One change of state: from any of `from`, or already there.
    async fn change(&self, id: LeaseId, from: &[PowerState], to: PowerState, what: &str) -> Result<(), Fault> {
        self.pause().await;
        let mut state = self.lock();
        let vm = state.vms.get_mut(&id).ok_or_else(|| no_such_vm(id))?;
        if vm.state != to && !from.contains(&vm.state) {
            return Err(wrong_state(id, &vm.state, what));
        }
        vm.state = to;
        Ok(())
    }
}

impl State {
    fn free(&self) -> Resources {
        self.vms.values().fold(self.options.host, |free, vm| free.minus(vm.resources))
    }
    fn admit(&self, order: &InstanceOrder) -> Result<(), Fault> {
        match self.options.images.get(&order.image) {
            None => {
                return Err(Fault::new(ErrorCode::NoSuchImage, format!("no image {} here", order.image))
                    .hint("the memory backend has only the images that its options name"));
            }
            Some(digest) if *digest != order.image_digest => {
                return Err(Fault::new(
                    ErrorCode::ChecksumMismatch,
                    format!("image {} is not the one that was quoted", order.image),
                ));
            }
            Some(_) => {}
        }
        // As at a hypervisor, guests share the CPUs: how many are let is a matter of whoever lets them.
        let free = self.free();
        if !(Resources { cpus: 0, ..order.resources }).fits_in(free) {
            return Err(Fault::new(
                ErrorCode::Exhausted,
                format!("asked for {}, but only {free} are free", order.resources),
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn kind(&self) -> BackendKind {
        "memory".parse().expect("a constant that is a valid kind")
    }

    async fn capabilities(&self) -> Capabilities {
        Capabilities {
            isolation: Isolation::Simulated,
            egress: Egress::None,
            arch: self.lock().options.arch,
            suspend: true,
            snapshots: false,
            live_scale: false,
            volumes: false,
            user_data: false,
            console: false,
            disk_limit: false,
        }
    }

    async fn host(&self) -> Result<HostInfo, Fault> {
        let state = self.lock();
        let (all, free) = (state.options.host, state.free());
        Ok(HostInfo {
            arch: state.options.arch,
            cpus: all.cpus,
            memory_mib: all.memory_mib,
            memory_mib_free: MemoryMib(free.memory_mib.0),
            disk_gib: all.disk_gib,
            disk_gib_free: DiskGib(free.disk_gib.0),
        })
    }

    async fn create(&self, order: &InstanceOrder, progress: &dyn Progress) -> Result<(), Fault> {
        let existing = self.lock().vms.get(&order.id).map(|vm| vm.state.clone());
        match existing {
            Some(PowerState::Stopped) => return self.start(order.id).await,
            Some(PowerState::Running | PowerState::Suspended) => return Ok(()),
            Some(PowerState::Failed(_)) => self.destroy(order.id).await?,
            None => {}
        }
        self.lock().admit(order)?;
        let begun = self.begin(order.id);
        for stage in [Stage::Image, Stage::Disk, Stage::Seed, Stage::Define, Stage::Boot] {
            progress.stage(stage);
            self.pause().await;
            let mut state = self.lock();
            if state.options.fail_creates > 0 && state.options.fail_at == stage {
                state.options.fail_creates -= 1;
                return Err(Fault::new(
                    ErrorCode::CreateFailed,
                    format!("VM {} failed at stage {} (simulated)", order.id, stage.as_str()),
                ));
            }
        }
        let mut state = self.lock();
        if state.making.get(&order.id).is_some_and(|making| making.destroyed > begun.destroyed_before) {
            let said = format!("VM {} was destroyed while it was being made", order.id);
            return Err(Fault::new(ErrorCode::CreateFailed, said));
        }
        if state.vms.contains_key(&order.id) {
            return Ok(()); // a parallel create of the same id was faster
        }
        state.admit(order)?;
        state.creates += 1;
        let vm = Instance {
            id: order.id,
            state: PowerState::Running,
            resources: order.resources,
            image: order.image.clone(),
            isolation: Isolation::Simulated,
        };
        state.vms.insert(order.id, vm);
        Ok(())
    }

    async fn start(&self, id: LeaseId) -> Result<(), Fault> {
        self.change(id, &[PowerState::Stopped], PowerState::Running, "started").await
    }

    async fn stop(&self, id: LeaseId, force: bool) -> Result<(), Fault> {
        let ignored = self.lock().options.ignore_shutdown && !force;
        if ignored && self.lock().vms.get(&id).is_some_and(|vm| vm.state == PowerState::Running) {
            return Err(Fault::new(ErrorCode::Timeout, format!("VM {id} did not shut down (simulated)"))
                .hint("stop it with --force"));
        }
        let from: &[PowerState] =
            if force { &[PowerState::Running, PowerState::Suspended] } else { &[PowerState::Running] };
        self.change(id, from, PowerState::Stopped, "stopped").await
    }

    async fn restart(&self, id: LeaseId) -> Result<(), Fault> {
        self.stop(id, true).await?;
        self.start(id).await
    }

    async fn suspend(&self, id: LeaseId) -> Result<(), Fault> {
        self.change(id, &[PowerState::Running], PowerState::Suspended, "suspended").await
    }

    async fn resume(&self, id: LeaseId) -> Result<(), Fault> {
        self.change(id, &[PowerState::Suspended], PowerState::Running, "resumed").await
    }

    async fn scale(&self, id: LeaseId, to: Resources) -> Result<(), Fault> {
        self.pause().await;
        let mut state = self.lock();
        let free = state.free();
        let vm = state.vms.get_mut(&id).ok_or_else(|| no_such_vm(id))?;
        if vm.state != PowerState::Stopped {
            return Err(wrong_state(id, &vm.state, "scaled"));
        }
        let to = Resources { disk_gib: to.disk_gib.max(vm.resources.disk_gib), ..to };
        let free = free.plus(vm.resources);
        if !(Resources { cpus: 0, ..to }).fits_in(free) {
            return Err(Fault::new(ErrorCode::Exhausted, format!("asked for {to}, but only {free} are free")));
        }
        vm.resources = to;
        Ok(())
    }

    async fn destroy(&self, id: LeaseId) -> Result<(), Fault> {
        {
            let mut state = self.lock();
            if let Some(making) = state.making.get_mut(&id) {
                making.destroyed += 1;
            }
            if state.vms.remove(&id).is_some() {
                state.destroys += 1;
            }
        }
        // Last: a create that is called meanwhile comes after it.
        self.pause().await;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Instance>, Fault> {
        Ok(self.lock().vms.values().cloned().collect())
    }

    async fn get(&self, id: LeaseId) -> Result<Option<Instance>, Fault> {
        Ok(self.lock().vms.get(&id).cloned())
    }

    async fn endpoint(&self, id: LeaseId, port: u16) -> Result<SocketAddr, Fault> {
        let state = self.lock();
        let vm = state.vms.get(&id).ok_or_else(|| no_such_vm(id))?;
        if vm.state != PowerState::Running {
            return Err(wrong_state(id, &vm.state, "connected to"));
        }
        state.options.endpoint.ok_or_else(|| {
            Fault::new(ErrorCode::BackendCannot, format!("VM {id} is simulated and has no port {port} to connect to"))
                .hint("rent from a provider with a real backend (--isolation vm)")
        })
    }

    async fn measure(&self) -> Result<Measured, Fault> {
        Ok(Measured { host: self.lock().options.load, vms: Vec::new() })
    }
    async fn check(&self) -> Vec<Check> {
        vec![Check::ok("memory", "simulated: no guest is made")]
    }
}
