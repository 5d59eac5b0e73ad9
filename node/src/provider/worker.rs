//! Does to VMs what the core has decided: each job in a task of its own, one at a time for each VM. In which order, how
//! many at once and how often is the core's affair.
//!
//! ```text
//! provision ─▶ create ─▶ (slot free) wait until its own host key answers ─▶ done
//! power ─▶ stop/start/restart ─▶ (slot free) the same wait, where it is on ─▶ done
//! scale ─▶ stop, resize, start ─▶ (slot free) the same wait; or back to what it was ─▶ failed
//! remove ─▶ destroy ─▶ done                            a fault on the way ─▶ failed
//! ```
use crate::ssh;
use backends::{Backend, InstanceOrder, PowerState, Stage};
use protocol::Fault;
use protocol::core::{JobOrder, Scaling, VmOrder, Work};
use protocol::job::{Found, FoundState, JobId, JobReport};
use protocol::message::{PowerAction, ProvisionStep, VmPhase};
use protocol::names::{Digest, Isolation, LeaseId};
use protocol::seed::Seed;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Reports on their way to the node's actor, which takes them at once; a full queue makes workers wait.
pub const REPORTS: usize = 256;
/// How long a guest may take from power-on to its own sshd. Emulated, a full distribution takes about 45 s.
const BOOT_DEADLINE: Duration = Duration::from_secs(280);

pub type Report = (JobId, JobReport);

struct Task {
    job: JobId,
    unwanted: CancellationToken,
    ended: JoinHandle<()>,
}

/// Owned by the actor; its calls never wait. The core gives no VM a second job while it has one, so there are no more
/// tasks than VMs, and those that are being dropped.
pub struct Workers {
    backend: Arc<dyn Backend>,
    reports: mpsc::Sender<Report>,
    tasks: HashMap<LeaseId, Task>,
}

impl Workers {
    pub fn new(backend: Arc<dyn Backend>, reports: mpsc::Sender<Report>) -> Self {
        Workers { backend, reports, tasks: HashMap::new() }
    }

    pub fn run(&mut self, order: JobOrder) {
        self.tasks.retain(|_, task| !task.ended.is_finished());
        let unwanted = CancellationToken::new();
        // One that was aborted may still be letting go of the hypervisor.
        let before = self.tasks.remove(&order.lease_id).map(|task| task.ended);
        let worker = Worker {
            backend: self.backend.clone(),
            reports: self.reports.clone(),
            job: order.job,
            lease_id: order.lease_id,
        };
        let (job, lease_id) = (order.job, order.lease_id);
        let ended = tokio::spawn(worker.run(order.work, before, unwanted.clone()));
        self.tasks.insert(lease_id, Task { job, unwanted, ended });
    }

    /// Nothing more is said of it.
    pub fn abort(&mut self, job: JobId) {
        if let Some(task) = self.tasks.values().find(|task| task.job == job) {
            task.unwanted.cancel();
        }
    }
}

#[derive(Clone)]
struct Worker {
    backend: Arc<dyn Backend>,
    reports: mpsc::Sender<Report>,
    job: JobId,
    lease_id: LeaseId,
}

impl Worker {
    async fn run(self, work: Work, before: Option<JoinHandle<()>>, unwanted: CancellationToken) {
        if let Some(before) = before {
            // However it ended, it has.
            let _ = before.await;
        }
        let doing = self.clone();
        let mut working = tokio::spawn(async move { doing.work(work).await });
        let report = tokio::select! {
            biased;
            () = unwanted.cancelled() => {
                working.abort();
                let _ = working.await;
                return;
            }
            ended = &mut working => ended,
        };
        let report = report.unwrap_or_else(|error| JobReport::Failed {
            phase: VmPhase::Failed,
            fault: Fault::internal(format!("the job ended: {error}")),
        });
        self.report(report).await;
    }

    async fn report(&self, report: JobReport) {
        // The actor outlives the workers, but for the moment in which the node stops.
        let _ = self.reports.send((self.job, report)).await;
    }

    async fn work(&self, work: Work) -> JobReport {
        match work {
            Work::Provision(order) => match self.start(&order).await {
                Ok(()) => JobReport::Done(VmPhase::Running),
                Err(fault) => JobReport::Failed { phase: VmPhase::Failed, fault },
            },
            Work::Power { action, seed } => self.power(action, &seed).await,
            Work::Scale(scaling) => self.scale(&scaling).await,
            Work::Remove => match self.backend.destroy(self.lease_id).await {
                Ok(()) => JobReport::Done(VmPhase::Gone),
                Err(fault) => {
                    tracing::warn!(lease_id = %self.lease_id, %fault, "a VM resists its removal; again soon");
                    JobReport::Failed { phase: VmPhase::Destroying, fault }
                }
            },
        }
    }

    async fn start(&self, order: &VmOrder) -> Result<(), Fault> {
        let (seed, host_key) = open_seed(&order.seed)?;
        let backend = &self.backend;
        let there = backend.get(self.lease_id).await?.map(|instance| instance.state);
        if there == Some(PowerState::Suspended) {
            backend.resume(self.lease_id).await?;
        } else if there != Some(PowerState::Running) {
            let order = InstanceOrder {
                id: self.lease_id,
                resources: order.spec.resources,
                image: order.image.clone(),
                image_digest: order.image_digest,
                seed,
                ports: order.spec.ports.clone(),
                egress: order.egress,
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
                let _ = self.reports.try_send((self.job, JobReport::Phase(phase)));
            };
            backend.create(&order, &progress).await?;
        }
        self.report(JobReport::Phase(VmPhase::Booting)).await;
        self.ready(&host_key).await
    }

    async fn ready(&self, host_key: &str) -> Result<(), Fault> {
        if self.backend.capabilities().await.isolation == Isolation::Simulated {
            // There is no guest that could answer.
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + BOOT_DEADLINE;
        backends::wait_ready(&*self.backend, self.lease_id, host_key, deadline).await
    }

    async fn power(&self, action: PowerAction, seed: &[u8]) -> JobReport {
        let (backend, id) = (&self.backend, self.lease_id);
        let done = match action {
            PowerAction::Start => backend.start(id).await,
            PowerAction::Stop { force } => backend.stop(id, force).await,
            PowerAction::Restart => backend.restart(id).await,
            PowerAction::Suspend => backend.suspend(id).await,
            PowerAction::Resume => backend.resume(id).await,
            PowerAction::Scale(_) => Err(Fault::internal("another size is given by a work of its own")),
        };
        if let Err(fault) = done {
            return JobReport::Failed { phase: self.phase().await, fault };
        }
        match action {
            PowerAction::Stop { .. } => return JobReport::Done(VmPhase::Stopped),
            PowerAction::Suspend => return JobReport::Done(VmPhase::Suspended),
            // It goes on where it was.
            PowerAction::Resume => return JobReport::Done(VmPhase::Running),
            PowerAction::Start | PowerAction::Restart | PowerAction::Scale(_) => {}
        }
        self.boots(seed).await
    }

    /// Where the hypervisor has it.
    async fn phase(&self) -> VmPhase {
        let now = self.backend.get(self.lease_id).await.ok().flatten();
        now.map_or(VmPhase::Failed, |instance| state_of(&instance.state).phase())
    }

    /// Off, resized and on again. What cannot be started so is what it was before.
    async fn scale(&self, scaling: &Scaling) -> JobReport {
        let (backend, id) = (&self.backend, self.lease_id);
        let resized = async {
            if self.phase().await != VmPhase::Stopped && backend.stop(id, false).await.is_err() {
                backend.stop(id, true).await?;
            }
            backend.scale(id, scaling.to).await?;
            if scaling.on { backend.start(id).await } else { Ok(()) }
        };
        match resized.await {
            Ok(()) if scaling.on => self.boots(&scaling.seed).await,
            Ok(()) => JobReport::Done(VmPhase::Stopped),
            Err(fault) => self.scale_back(scaling, fault).await,
        }
    }

    async fn scale_back(&self, scaling: &Scaling, fault: Fault) -> JobReport {
        let (backend, id) = (&self.backend, self.lease_id);
        let mut back = backend.scale(id, scaling.from).await;
        if scaling.on {
            // With whichever size it has.
            back = back.and(backend.start(id).await);
        }
        if let Err(worse) = back {
            tracing::warn!(lease_id = %id, fault = %worse, "a VM that could not be scaled cannot be put back, either");
        }
        match backend.get(id).await {
            Ok(Some(vm)) => JobReport::NotScaled { phase: state_of(&vm.state).phase(), fault, has: vm.resources },
            // Both stay reserved.
            _ => JobReport::Failed { phase: VmPhase::Failed, fault },
        }
    }

    /// Switched on, and waited for.
    async fn boots(&self, seed: &[u8]) -> JobReport {
        self.report(JobReport::Phase(VmPhase::Booting)).await;
        let ready = match open_seed(seed) {
            Ok((_, host_key)) => self.ready(&host_key).await,
            Err(fault) => Err(fault),
        };
        match ready {
            Ok(()) => JobReport::Done(VmPhase::Running),
            Err(fault) => JobReport::Failed { phase: VmPhase::Failed, fault },
        }
    }
}

/// The seed that the lease names, and the host key that its guest must present.
fn open_seed(bytes: &[u8]) -> Result<(Seed, String), Fault> {
    let seed = Seed::decode(bytes, Digest::of(bytes))?;
    let host_key = ssh::public_line(&seed.host_key)?;
    Ok((seed, host_key))
}

pub fn found(instance: &backends::Instance) -> Found {
    Found { lease_id: instance.id, state: state_of(&instance.state) }
}

fn state_of(state: &PowerState) -> FoundState {
    match state {
        PowerState::Running => FoundState::On,
        PowerState::Stopped => FoundState::Off,
        PowerState::Suspended => FoundState::Suspended,
        PowerState::Failed(_) => FoundState::Broken,
    }
}
