//! A virtual hypervisor and the worker before it. The VMs outlive the node's process; the jobs under way do not.
use crate::rng::Dice;
use crate::watch::Watch;
use protocol::core::{JobOrder, Work};
use protocol::job::{Found, FoundState, JobId, JobReport};
use protocol::message::{PowerAction, ProvisionStep, VmPhase};
use protocol::names::LeaseId;
use protocol::units::Resources;
use protocol::{ErrorCode, Fault};
use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Clone, Debug)]
pub struct Temper {
    /// How long a step of a start takes, in milliseconds.
    pub step: Range<u64>,
    /// How often a start, a switch or a removal fails, in percent.
    pub failures: u32,
}

impl Temper {
    pub fn good() -> Self {
        Temper { step: 50..2_000, failures: 0 }
    }
    pub fn bad() -> Self {
        Temper { step: 50..20_000, failures: 15 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vm {
    pub resources: Resources,
    /// Else something of it is there, and no guest can run.
    pub made: bool,
    pub on: bool,
    pub suspended: bool,
}

impl Vm {
    pub fn state(&self) -> FoundState {
        match (self.made, self.on) {
            (false, _) => FoundState::Broken,
            (true, true) if self.suspended => FoundState::Suspended,
            (true, true) => FoundState::On,
            (true, false) => FoundState::Off,
        }
    }
}

/// What is done next. Each has its effect at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Make(ProvisionStep),
    Boot,
    Switch(PowerAction),
    /// And then it is on, or not.
    Resize {
        on: bool,
    },
    Ready,
    Remove,
}

/// A job under way.
#[derive(Clone, Copy)]
struct Task {
    lease_id: LeaseId,
    resources: Resources,
    scales: bool,
}

/// What follows at once, and what later.
#[derive(Default)]
pub struct Outcome {
    pub reports: Vec<(JobId, JobReport)>,
    pub later: Vec<(u64, JobId, Step)>,
}

pub struct Host {
    pub temper: Temper,
    pub vms: BTreeMap<LeaseId, Vm>,
    pub watch: Watch,
    /// Its disk has no room.
    pub full: bool,
    tasks: BTreeMap<JobId, Task>,
}

impl Host {
    pub fn new(temper: Temper) -> Self {
        Host { temper, vms: BTreeMap::new(), watch: Watch::default(), full: false, tasks: BTreeMap::new() }
    }
    /// The node's process ends: whatever it was doing to VMs ends with it.
    pub fn forget_jobs(&mut self) {
        self.watch.death();
        self.tasks.clear();
    }
    pub fn abort(&mut self, job: JobId) {
        self.tasks.remove(&job);
    }
    pub fn list(&self) -> Vec<Found> {
        self.vms.iter().map(|(lease_id, vm)| Found { lease_id: *lease_id, state: vm.state() }).collect()
    }

    pub fn run(&mut self, dice: &mut Dice, order: &JobOrder) -> Outcome {
        let (mut outcome, lease_id) = (Outcome::default(), order.lease_id);
        let alone = self.tasks.values().all(|task| task.lease_id != lease_id);
        assert!(alone, "invariant one_at_a_time: VM {lease_id} is given a second job");
        let there = self.vms.get(&lease_id).map(Vm::state);
        let (step, resources) = match &order.work {
            Work::Remove => (Step::Remove, Resources::default()),
            Work::Power { action, .. } => (Step::Switch(*action), Resources::default()),
            Work::Scale(scaling) => (Step::Resize { on: scaling.on }, scaling.to),
            Work::Provision(order) => {
                let step = match there {
                    Some(FoundState::On) => Step::Ready,
                    Some(FoundState::Off) => Step::Boot,
                    Some(FoundState::Suspended) => Step::Switch(PowerAction::Resume),
                    _ => Step::Make(ProvisionStep::Image),
                };
                (step, order.spec.resources)
            }
        };
        let scales = matches!(order.work, Work::Scale(_));
        self.tasks.insert(order.job, Task { lease_id, resources, scales });
        self.goes_on(dice, order.job, step, &mut outcome);
        outcome
    }

    /// Says so, and does it after a while.
    fn goes_on(&mut self, dice: &mut Dice, job: JobId, step: Step, outcome: &mut Outcome) {
        let phase = match step {
            Step::Make(step) => Some(VmPhase::Provisioning(step)),
            Step::Ready => Some(VmPhase::Booting),
            Step::Boot | Step::Switch(_) | Step::Resize { .. } | Step::Remove => None,
        };
        outcome.reports.extend(phase.map(|phase| (job, JobReport::Phase(phase))));
        outcome.later.push((dice.within(self.temper.step.clone()), job, step));
    }

    /// The time of a step has come, unless its job was aborted.
    pub fn step(&mut self, dice: &mut Dice, job: JobId, step: Step) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(task) = self.tasks.get(&job).copied() else { return outcome };
        let next = match dice.percent(self.temper.failures) {
            true => Err(fails(dice, step)),
            false => self.takes_effect(task, step),
        };
        match next {
            Ok(Next::Step(step)) => {
                self.goes_on(dice, job, step, &mut outcome);
                return outcome;
            }
            Ok(Next::Done(phase)) => outcome.reports.push((job, JobReport::Done(phase))),
            Err(fault) => {
                // On a fault nothing half made is left.
                if matches!(step, Step::Make(_)) && self.vms.get(&task.lease_id).is_some_and(|vm| !vm.made) {
                    self.vms.remove(&task.lease_id);
                }
                let state = self.vms.get(&task.lease_id).map_or(VmPhase::Failed, |vm| vm.state().phase());
                let phase = if matches!(step, Step::Switch(_)) { state } else { VmPhase::Failed };
                let report = match self.vms.get(&task.lease_id) {
                    Some(vm) if task.scales && step != Step::Ready => {
                        JobReport::NotScaled { phase: state, fault, has: vm.resources }
                    }
                    _ => JobReport::Failed { phase, fault },
                };
                outcome.reports.push((job, report));
            }
        }
        self.tasks.remove(&job);
        outcome
    }

    fn takes_effect(&mut self, task: Task, step: Step) -> Result<Next, Fault> {
        let id = task.lease_id;
        let gone = || Fault::new(ErrorCode::NoSuchVm, "there is no such VM");
        let off = || Fault::new(ErrorCode::WrongState, "it is off");
        if self.full && matches!(step, Step::Make(_)) {
            return Err(Fault::new(ErrorCode::Exhausted, "the provider's disk is full"));
        }
        let next = match step {
            Step::Make(ProvisionStep::Image) => Next::Step(Step::Make(ProvisionStep::Disk)),
            Step::Make(ProvisionStep::Disk) => {
                self.vms.insert(id, Vm { resources: task.resources, made: false, on: false, suspended: false });
                Next::Step(Step::Make(ProvisionStep::Seed))
            }
            Step::Make(ProvisionStep::Seed) => Next::Step(Step::Make(ProvisionStep::Define)),
            Step::Make(ProvisionStep::Define) => {
                self.vms.get_mut(&id).ok_or_else(gone)?.made = true;
                Next::Step(Step::Boot)
            }
            Step::Boot => {
                self.vms.get_mut(&id).ok_or_else(gone)?.on = true;
                Next::Step(Step::Ready)
            }
            Step::Ready if self.vms.get(&id).is_some_and(|vm| vm.on) => Next::Done(VmPhase::Running),
            Step::Ready => return Err(Fault::new(ErrorCode::CreateFailed, "the guest has died")),
            Step::Switch(action) => {
                let vm = self.vms.get_mut(&id).filter(|vm| vm.made).ok_or_else(gone)?;
                match action {
                    PowerAction::Suspend | PowerAction::Resume if !vm.on => return Err(off()),
                    PowerAction::Suspend => {
                        vm.suspended = true;
                        return Ok(Next::Done(VmPhase::Suspended));
                    }
                    PowerAction::Stop { .. } => (vm.on, vm.suspended) = (false, false),
                    PowerAction::Start | PowerAction::Restart | PowerAction::Resume => {
                        (vm.on, vm.suspended) = (true, false)
                    }
                    PowerAction::Scale(_) => return Err(Fault::internal("another size is a work of its own")),
                }
                if vm.on { Next::Step(Step::Ready) } else { Next::Done(VmPhase::Stopped) }
            }
            Step::Resize { on } => {
                let vm = self.vms.get_mut(&id).filter(|vm| vm.made).ok_or_else(gone)?;
                (vm.on, vm.suspended, vm.resources) = (false, false, task.resources);
                if on { Next::Step(Step::Boot) } else { Next::Done(VmPhase::Stopped) }
            }
            Step::Remove => {
                self.vms.remove(&id);
                Next::Done(VmPhase::Gone)
            }
        };
        Ok(next)
    }
}

enum Next {
    Step(Step),
    Done(VmPhase),
}

/// Half of all faults pass by themselves.
fn fails(dice: &mut Dice, step: Step) -> Fault {
    let code = if dice.percent(50) { ErrorCode::Unavailable } else { ErrorCode::CreateFailed };
    Fault::new(code, format!("{step:?} did not work"))
}
