//! Does to VMs what the core has decided. Each lease has a task of its own that takes one job after the other; the end
//! of a lease overtakes whatever is under way.
//!
//! ```text
//! start ─▶ (permit) ─▶ create ─▶ wait until its own host key answers ─▶ running
//!                         │ fault                    │ late
//!                         └────────────▶ failed ◀────┘
//! destroy ─▶ whatever runs is dropped ─▶ destroy, again and again until it works ─▶ gone
//! ```
use crate::ssh;
use backends::{Backend, InstanceOrder, PowerState, Stage};
use protocol::core::{VmOrder, VmReport};
use protocol::message::{PowerAction, ProvisionStep, VmPhase};
use protocol::names::{Digest, Isolation, LeaseId};
use protocol::seed::Seed;
use protocol::{ErrorCode, Fault};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Guests made at once: making one is disk and CPU, and two keep a small host busy.
const PROVISIONS: usize = 2;
/// Power actions and removals at once.
const CONTROLS: usize = 5;
/// Jobs of one lease that wait: a start and a few switches; beyond it the tenant is told to be patient.
const JOBS: usize = 8;
/// Reports on their way to the node's actor, which takes them at once; a full queue makes workers wait.
pub const REPORTS: usize = 256;
/// How long a guest may take from power-on to its own sshd. Emulated, a full distribution takes about 45 s.
const BOOT_DEADLINE: Duration = Duration::from_secs(280);
/// Between tries to remove a VM that resists.
const DESTROY_RETRY: Duration = Duration::from_secs(2);
const DESTROY_RETRY_MOST: Duration = Duration::from_secs(60);

pub type Report = (LeaseId, VmReport);

enum Job {
    Start(Box<VmOrder>),
    /// With the seed: after a power-on, too, the guest is ready when its own host key answers.
    Power(PowerAction, Vec<u8>),
}

struct Lane {
    jobs: mpsc::Sender<Job>,
    destroy: CancellationToken,
    busy: Arc<std::sync::atomic::AtomicUsize>,
}

/// The lanes of all leases. Owned by the actor; its calls never wait.
pub struct Workers {
    shared: Arc<Shared>,
    lanes: HashMap<LeaseId, Lane>,
}

struct Shared {
    backend: Arc<dyn Backend>,
    reports: mpsc::Sender<Report>,
    provisions: Semaphore,
    controls: Semaphore,
}

impl Workers {
    pub fn new(backend: Arc<dyn Backend>, reports: mpsc::Sender<Report>) -> Self {
        let (provisions, controls) = (Semaphore::new(PROVISIONS), Semaphore::new(CONTROLS));
        Workers { shared: Arc::new(Shared { backend, reports, provisions, controls }), lanes: HashMap::new() }
    }

    pub fn start(&mut self, order: VmOrder) {
        self.push(order.lease_id, Job::Start(Box::new(order)));
    }
    pub fn power(&mut self, lease_id: LeaseId, action: PowerAction, seed: Vec<u8>) {
        self.push(lease_id, Job::Power(action, seed));
    }
    pub fn destroy(&mut self, lease_id: LeaseId) {
        self.lane(lease_id).destroy.cancel();
    }
    /// Whether something is under way for it: then what the hypervisor says of it means nothing yet.
    pub fn is_busy(&self, lease_id: LeaseId) -> bool {
        let idle =
            |lane: &Lane| lane.busy.load(std::sync::atomic::Ordering::Acquire) == 0 && !lane.destroy.is_cancelled();
        self.lanes.get(&lease_id).is_some_and(|lane| !idle(lane))
    }
    /// Forgets the lanes whose VM is gone.
    pub fn sweep(&mut self) {
        self.lanes.retain(|_, lane| !lane.jobs.is_closed());
    }

    fn lane(&mut self, lease_id: LeaseId) -> &mut Lane {
        self.sweep();
        let shared = &self.shared;
        self.lanes.entry(lease_id).or_insert_with(|| {
            let (jobs, queue) = mpsc::channel(JOBS);
            let lane = Lane { jobs, destroy: CancellationToken::new(), busy: Arc::default() };
            let task =
                LaneTask { shared: shared.clone(), lease_id, destroy: lane.destroy.clone(), busy: lane.busy.clone() };
            tokio::spawn(task.run(queue));
            lane
        })
    }

    fn push(&mut self, lease_id: LeaseId, job: Job) {
        let lane = self.lane(lease_id);
        lane.busy.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        if lane.jobs.try_send(job).is_err() {
            lane.busy.fetch_sub(1, std::sync::atomic::Ordering::AcqRel);
            tracing::warn!(%lease_id, "too many actions wait for this VM: one was dropped");
        }
    }
}

struct LaneTask {
    shared: Arc<Shared>,
    lease_id: LeaseId,
    destroy: CancellationToken,
    busy: Arc<std::sync::atomic::AtomicUsize>,
}

impl LaneTask {
    async fn run(self, mut queue: mpsc::Receiver<Job>) {
        loop {
            let job = tokio::select! {
                biased;
                () = self.destroy.cancelled() => break,
                job = queue.recv() => job,
            };
            let Some(job) = job else { return };
            tokio::select! {
                biased;
                () = self.destroy.cancelled() => break,
                () = self.work(job) => {}
            }
            self.busy.fetch_sub(1, std::sync::atomic::Ordering::AcqRel);
        }
        self.remove().await;
        queue.close();
        self.report(VmReport::Phase(VmPhase::Gone)).await;
    }

    async fn report(&self, report: VmReport) {
        // The actor outlives the workers, but for the moment in which the node stops.
        let _ = self.shared.reports.send((self.lease_id, report)).await;
    }

    async fn work(&self, job: Job) {
        let report = match job {
            Job::Start(order) => match self.start(&order).await {
                Ok(()) => VmReport::Phase(VmPhase::Running),
                Err(fault) => VmReport::Failed(fault),
            },
            Job::Power(action, seed) => self.power(action, &seed).await,
        };
        self.report(report).await;
    }

    async fn start(&self, order: &VmOrder) -> Result<(), Fault> {
        let (seed, host_key) = open_seed(&order.seed)?;
        let backend = &self.shared.backend;
        let there = backend.get(self.lease_id).await?.map(|instance| instance.state);
        if there != Some(PowerState::Running) {
            let _permit = self.shared.provisions.acquire().await.map_err(|_| stopping())?;
            let order = InstanceOrder {
                id: self.lease_id,
                resources: order.spec.resources,
                image: order.image.clone(),
                image_digest: order.image_digest,
                seed,
                ports: order.spec.ports.clone(),
            };
            let progress = |stage: Stage| {
                let phase = match stage {
                    Stage::Image => VmPhase::Provisioning(ProvisionStep::Image),
                    Stage::Disk => VmPhase::Provisioning(ProvisionStep::Disk),
                    Stage::Seed => VmPhase::Provisioning(ProvisionStep::Seed),
                    Stage::Define => VmPhase::Provisioning(ProvisionStep::Define),
                    Stage::Boot => VmPhase::Booting,
                };
                // A step that nobody has room to hear of is overtaken by the next one.
                let _ = self.shared.reports.try_send((self.lease_id, VmReport::Phase(phase)));
            };
            backend.create(&order, &progress).await?;
            self.report(VmReport::Phase(VmPhase::Booting)).await;
        }
        self.ready(&host_key).await
    }

    async fn ready(&self, host_key: &str) -> Result<(), Fault> {
        if self.shared.backend.capabilities().await.isolation == Isolation::Simulated {
            // There is no guest that could answer.
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + BOOT_DEADLINE;
        backends::wait_ready(&*self.shared.backend, self.lease_id, host_key, deadline).await
    }

    async fn power(&self, action: PowerAction, seed: &[u8]) -> VmReport {
        let (backend, id) = (&self.shared.backend, self.lease_id);
        let Ok(permit) = self.shared.controls.acquire().await else { return VmReport::Failed(stopping()) };
        let done = match action {
            PowerAction::Start => backend.start(id).await,
            PowerAction::Stop { force } => backend.stop(id, force).await,
            PowerAction::Restart => backend.restart(id).await,
        };
        drop(permit);
        let now = match backend.get(id).await {
            Ok(Some(instance)) => phase_of(&instance.state),
            _ => VmPhase::Failed,
        };
        match done {
            Err(fault) => VmReport::ActionFailed { phase: now, fault },
            Ok(()) if matches!(action, PowerAction::Stop { .. }) => VmReport::Phase(VmPhase::Stopped),
            Ok(()) => {
                self.report(VmReport::Phase(VmPhase::Booting)).await;
                let ready = match open_seed(seed) {
                    Ok((_, host_key)) => self.ready(&host_key).await,
                    Err(fault) => Err(fault),
                };
                ready.map_or_else(VmReport::Failed, |()| VmReport::Phase(VmPhase::Running))
            }
        }
    }

    async fn remove(&self) {
        let mut pause = DESTROY_RETRY;
        loop {
            let result = {
                let _permit = self.shared.controls.acquire().await;
                self.shared.backend.destroy(self.lease_id).await
            };
            match result {
                Ok(()) => return,
                Err(fault) => tracing::warn!(lease_id = %self.lease_id, %fault, "a VM resists its removal; again soon"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(DESTROY_RETRY_MOST);
        }
    }
}

/// The seed that the lease names, and the host key that its guest must present.
fn open_seed(bytes: &[u8]) -> Result<(Seed, String), Fault> {
    let seed = Seed::decode(bytes, Digest::of(bytes))?;
    let host_key = ssh::public_line(&seed.host_key)?;
    Ok((seed, host_key))
}

pub fn phase_of(state: &PowerState) -> VmPhase {
    match state {
        PowerState::Running => VmPhase::Running,
        PowerState::Stopped => VmPhase::Stopped,
        PowerState::Suspended => VmPhase::Suspended,
        PowerState::Failed(_) => VmPhase::Failed,
    }
}

fn stopping() -> Fault {
    Fault::new(ErrorCode::Unavailable, "the node is stopping")
}
