//! A virtual hypervisor and the worker before it. The VMs outlive the node's process; the jobs under way do not.
use crate::rng::Dice;
use protocol::core::{VmOrder, VmReport};
use protocol::message::{PowerAction, ProvisionStep, VmPhase};
use protocol::names::LeaseId;
use protocol::units::Resources;
use protocol::{ErrorCode, Fault};
use std::collections::{BTreeMap, VecDeque};
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
    pub on: bool,
}

#[derive(Clone, Copy, Debug)]
enum Job {
    Start(Resources),
    Power(PowerAction),
}

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Define(Resources),
    Switch(PowerAction),
    Ready,
    Remove,
}

#[derive(Default)]
struct Lane {
    jobs: VecDeque<Job>,
    /// Of the step that is awaited; an older one is of a job that was dropped.
    serial: u64,
    busy: bool,
    destroying: bool,
}

/// What follows at once, and what later.
#[derive(Default)]
pub struct Outcome {
    pub reports: Vec<(LeaseId, VmReport)>,
    pub later: Vec<(u64, LeaseId, u64, Step)>,
}

pub struct Host {
    pub temper: Temper,
    pub vms: BTreeMap<LeaseId, Vm>,
    lanes: BTreeMap<LeaseId, Lane>,
    next_serial: u64,
}

impl Host {
    pub fn new(temper: Temper) -> Self {
        Host { temper, vms: BTreeMap::new(), lanes: BTreeMap::new(), next_serial: 0 }
    }
    /// The node's process ends: whatever it was doing to VMs ends with it.
    pub fn forget_jobs(&mut self) {
        self.lanes.clear();
    }
    pub fn is_busy(&self, id: LeaseId) -> bool {
        self.lanes.get(&id).is_some_and(|lane| lane.busy)
    }

    pub fn start(&mut self, dice: &mut Dice, order: &VmOrder) -> Outcome {
        self.push(dice, order.lease_id, Job::Start(order.spec.resources))
    }
    pub fn power(&mut self, dice: &mut Dice, id: LeaseId, action: PowerAction) -> Outcome {
        self.push(dice, id, Job::Power(action))
    }
    /// Overtakes whatever is under way, and is tried until it works.
    pub fn destroy(&mut self, dice: &mut Dice, id: LeaseId) -> Outcome {
        let mut outcome = Outcome::default();
        let lane = self.lanes.entry(id).or_default();
        if !lane.destroying {
            lane.jobs.clear();
            (lane.destroying, lane.busy) = (true, true);
            self.later(dice, id, Step::Remove, &mut outcome);
        }
        outcome
    }

    fn push(&mut self, dice: &mut Dice, id: LeaseId, job: Job) -> Outcome {
        let mut outcome = Outcome::default();
        let lane = self.lanes.entry(id).or_default();
        if lane.destroying {
            return outcome;
        }
        lane.jobs.push_back(job);
        if !lane.busy {
            self.next_job(dice, id, &mut outcome);
        }
        outcome
    }

    fn next_job(&mut self, dice: &mut Dice, id: LeaseId, outcome: &mut Outcome) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let job = lane.jobs.pop_front();
        lane.busy = job.is_some();
        match job {
            None => {}
            Some(Job::Start(_)) if self.vms.get(&id).is_some_and(|vm| vm.on) => {
                self.later(dice, id, Step::Ready, outcome);
            }
            Some(Job::Start(resources)) => {
                outcome.reports.push((id, VmReport::Phase(VmPhase::Provisioning(ProvisionStep::Disk))));
                self.later(dice, id, Step::Define(resources), outcome);
            }
            Some(Job::Power(action)) => self.later(dice, id, Step::Switch(action), outcome),
        }
    }

    fn later(&mut self, dice: &mut Dice, id: LeaseId, step: Step, outcome: &mut Outcome) {
        self.next_serial += 1;
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.serial = self.next_serial;
        }
        outcome.later.push((dice.within(self.temper.step.clone()), id, self.next_serial, step));
    }

    /// The time of a step has come.
    pub fn step(&mut self, dice: &mut Dice, id: LeaseId, serial: u64, step: Step) -> Outcome {
        let mut outcome = Outcome::default();
        if self.lanes.get(&id).is_none_or(|lane| lane.serial != serial) {
            return outcome;
        }
        let fails = dice.percent(self.temper.failures);
        let failed = |what: &str| VmReport::Failed(Fault::new(ErrorCode::CreateFailed, format!("{what} failed")));
        let report = match step {
            Step::Remove if fails => {
                self.later(dice, id, Step::Remove, &mut outcome);
                return outcome;
            }
            Step::Remove => {
                self.vms.remove(&id);
                self.lanes.remove(&id);
                outcome.reports.push((id, VmReport::Phase(VmPhase::Gone)));
                return outcome;
            }
            Step::Define(_) if fails => failed("the define"),
            Step::Define(resources) => {
                self.vms.insert(id, Vm { resources, on: true });
                return self.boots(dice, id, outcome);
            }
            Step::Ready if fails => failed("the boot"),
            Step::Ready if self.vms.get(&id).is_some_and(|vm| vm.on) => VmReport::Phase(VmPhase::Running),
            Step::Ready => failed("the guest"),
            Step::Switch(action) => match self.switch(id, action, fails) {
                Ok(VmPhase::Booting) => return self.boots(dice, id, outcome),
                Ok(phase) => VmReport::Phase(phase),
                Err(report) => report,
            },
        };
        outcome.reports.push((id, report));
        self.next_job(dice, id, &mut outcome);
        outcome
    }

    fn boots(&mut self, dice: &mut Dice, id: LeaseId, mut outcome: Outcome) -> Outcome {
        outcome.reports.push((id, VmReport::Phase(VmPhase::Booting)));
        self.later(dice, id, Step::Ready, &mut outcome);
        outcome
    }

    fn switch(&mut self, id: LeaseId, action: PowerAction, fails: bool) -> Result<VmPhase, VmReport> {
        let fault = Fault::new(ErrorCode::WrongState, "the switch failed");
        let Some(vm) = self.vms.get_mut(&id) else {
            return Err(VmReport::ActionFailed { phase: VmPhase::Failed, fault });
        };
        if fails {
            let phase = if vm.on { VmPhase::Running } else { VmPhase::Stopped };
            return Err(VmReport::ActionFailed { phase, fault });
        }
        vm.on = !matches!(action, PowerAction::Stop { .. });
        Ok(if vm.on { VmPhase::Booting } else { VmPhase::Stopped })
    }
}
