//! What the protocol says of one provider, in few words and none of the provider's own: who holds what, where each VM
//! stands, what is still to be done to it, and so what each question must be answered with.
use protocol::ErrorCode;
use protocol::job::{JobKind, JobReport};
use protocol::message::{LeaseStage, PowerAction, ProvisionStep, VmPhase};
use protocol::names::QuoteId;
use std::collections::BTreeMap;

/// What there is to let: small VMs count one unit, the others two.
pub const UNITS: u32 = 3;
pub const SLOTS: u32 = 2;
pub const DURATION: u64 = 3_600_000;
pub const GRACE: u64 = 60_000;
pub const HOLD: u64 = 30_000;
pub const KEPT: u64 = 24 * 3_600_000;
/// A hold that stands for less is replaced when it is asked for again.
const REUSED: u64 = 20_000;
/// An accept is good for so long, and clocks may differ by so much.
const ACCEPT: u64 = 30_000;
const SKEW: u64 = 60_000;
const TRIES: u32 = 3;

/// Whose, and which of their VMs.
pub type Which = (u8, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The quote that stands already, or a new one.
    Quoted(Option<QuoteId>),
    Declined,
    Granted,
    Active(LeaseStage, VmPhase),
    Status(LeaseStage, VmPhase),
    Open,
    Refused(ErrorCode),
}
use Answer::Refused;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Doing {
    Waits {
        from: u64,
    },
    Acts,
    /// Only the guest is waited for.
    Guest,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    kind: JobKind,
    doing: Doing,
    tries: u32,
}

#[derive(Clone, Debug)]
pub struct Lease {
    pub stage: LeaseStage,
    pub vm: VmPhase,
    units: u32,
    /// While it is given another size: the larger of both is let.
    scaling: Option<u32>,
    /// When its stage ends by itself; of what is gone, when it is forgotten.
    until: u64,
    ran: bool,
    quote: QuoteId,
    grant: u32,
    /// In their order; the first may be under way.
    jobs: Vec<Job>,
}

impl Lease {
    pub fn kinds(&self) -> Vec<JobKind> {
        self.jobs.iter().map(|job| job.kind).collect()
    }
    fn status(&self) -> Answer {
        Answer::Status(self.stage, self.vm)
    }
    fn takes(&self) -> u32 {
        self.scaling.unwrap_or(self.units)
    }
    /// If that is what the first job is for.
    fn scaled(&mut self) {
        if let Some(JobKind::Power(PowerAction::Scale(to))) = self.jobs.first().map(|job| job.kind) {
            (self.units, self.scaling) = (to.cpus, None);
        }
    }
    fn order(&mut self, now: u64, kind: JobKind) {
        self.jobs.retain(|job| !is_overtaken(job, kind));
        self.jobs.push(Job { kind, doing: Doing::Waits { from: now }, tries: 0 });
    }
    fn begin(&mut self, now: u64) {
        let first = self.jobs.first_mut();
        if let Some(job) = first.filter(|job| matches!(job.doing, Doing::Waits { from } if from <= now)) {
            job.doing = Doing::Acts;
        }
    }
    fn expire(&mut self, now: u64) {
        (self.stage, self.until) = (LeaseStage::Expired, self.until.max(now) + GRACE);
        if !matches!(self.vm, VmPhase::Stopped | VmPhase::Failed) {
            self.vm = VmPhase::Stopping;
            self.order(now, JobKind::Power(PowerAction::Stop { force: true }));
        }
    }
    fn end(&mut self, now: u64) {
        match self.stage {
            LeaseStage::Ended => {}
            LeaseStage::Provisional => {
                (self.stage, self.vm, self.until) = (LeaseStage::Ended, VmPhase::Gone, now + KEPT);
            }
            LeaseStage::Active | LeaseStage::Expired => {
                (self.stage, self.vm) = (LeaseStage::Ended, VmPhase::Destroying);
                self.order(now, JobKind::Remove);
            }
        }
    }
    /// A VM that never ran ends its lease, another one keeps its disk.
    fn fail(&mut self, now: u64) {
        if self.ran {
            self.vm = VmPhase::Failed;
        } else {
            self.end(now);
        }
    }
    fn stands(&mut self, now: u64, phase: VmPhase) {
        self.ran |= phase == VmPhase::Running;
        if self.stage != LeaseStage::Ended {
            self.vm = phase;
        } else if phase == VmPhase::Gone {
            (self.vm, self.until) = (VmPhase::Gone, now + KEPT);
        }
    }
    fn failed(&mut self, now: u64, phase: VmPhase, passes: bool, size_is_known: bool) {
        let job = &mut self.jobs[0];
        let scales = matches!(job.kind, JobKind::Power(PowerAction::Scale(_)));
        let on = matches!(phase, VmPhase::Running | VmPhase::Booting | VmPhase::Suspended);
        let insists = job.kind == JobKind::Remove || self.stage == LeaseStage::Expired && on && !scales;
        if insists || passes && job.tries < TRIES {
            let (first, most) = if insists { (2_000, 60_000) } else { (1_000, 30_000) };
            job.doing = Doing::Waits { from: now + (first << job.tries.min(16)).min(most) };
            job.tries += 1;
            return;
        }
        let kind = self.jobs.remove(0).kind;
        self.scaling = self.scaling.filter(|_| !size_is_known);
        if kind == JobKind::Provision || phase == VmPhase::Failed {
            self.fail(now);
        } else if self.jobs.is_empty() {
            self.vm = phase;
        }
    }
}

/// A removal makes everything superfluous. A stop does what has not begun or waits for a guest only, and by force also
/// a polite stop. Anything else waits for its turn, but for a guest that boots.
fn is_overtaken(job: &Job, by: JobKind) -> bool {
    let scales = matches!(job.kind, JobKind::Power(PowerAction::Scale(_)));
    let not_begun = matches!(job.doing, Doing::Waits { .. }) && job.kind != JobKind::Remove && !scales;
    let polite = job.kind == JobKind::Power(PowerAction::Stop { force: false });
    match by {
        JobKind::Remove => true,
        JobKind::Power(PowerAction::Stop { force }) => job.doing == Doing::Guest || not_begun || force && polite,
        JobKind::Power(_) | JobKind::Provision => job.doing == Doing::Guest,
    }
}

#[derive(Default)]
pub struct Model {
    now: u64,
    holds: BTreeMap<Which, (QuoteId, u64, u32)>,
    pub leases: BTreeMap<Which, Lease>,
    /// Released by whom before there was anything.
    buried: BTreeMap<(u8, Which), u64>,
    /// When each quote was first accepted: said again, it is said in the same words.
    accepted: BTreeMap<QuoteId, u64>,
    /// The grants that were told, by their number.
    told: BTreeMap<Which, u32>,
    grants: u32,
}

impl Model {
    pub fn taken(&self) -> (u32, u32) {
        let leases = self.leases.values().filter(|lease| lease.vm != VmPhase::Gone);
        let all: Vec<u32> = leases.map(Lease::takes).collect();
        (all.iter().sum(), all.len() as u32)
    }
    pub fn holds(&self) -> usize {
        self.holds.len()
    }
    pub fn now(&self) -> u64 {
        self.now
    }
    /// What is being done to it.
    pub fn under_way(&self, which: Which) -> Option<JobKind> {
        let first = self.leases.get(&which)?.jobs.first()?;
        (!matches!(first.doing, Doing::Waits { .. })).then_some(first.kind)
    }

    pub fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.settle();
    }
    /// What time alone brings about, and what may begin after anything that has happened.
    pub fn settle(&mut self) {
        let now = self.now;
        self.holds.retain(|_, (_, until, _)| *until > now);
        self.buried.retain(|_, until| *until > now);
        for lease in self.leases.values_mut() {
            if lease.stage == LeaseStage::Active && lease.until <= now {
                lease.expire(now);
            }
            if lease.stage == LeaseStage::Expired && lease.until <= now {
                lease.end(now);
            }
            lease.begin(now);
        }
        let ends = |lease: &Lease| lease.stage == LeaseStage::Provisional || lease.vm == VmPhase::Gone;
        self.leases.retain(|_, lease| !ends(lease) || lease.until > now);
    }
    /// The process ends and another one begins: what lived in memory is gone, what was under way is begun anew.
    pub fn restart(&mut self) {
        self.holds.clear();
        self.buried.clear();
        for job in self.leases.values_mut().flat_map(|lease| &mut lease.jobs) {
            (job.doing, job.tries) = (Doing::Waits { from: 0 }, 0);
        }
        self.settle();
    }

    fn fits(&self, units: u32) -> bool {
        let (taken, slots) = self.taken();
        taken + units <= UNITS && slots < SLOTS
    }
    pub fn quote(&mut self, which: Which, units: u32) -> Answer {
        let hold = self.holds.get(&which);
        if let Some((quote, ..)) = hold.filter(|(_, until, held)| *until > self.now + REUSED && *held == units) {
            return Answer::Quoted(Some(*quote));
        }
        self.holds.remove(&which);
        if self.fits(units) { Answer::Quoted(None) } else { Refused(ErrorCode::Exhausted) }
    }
    pub fn quoted(&mut self, which: Which, quote: QuoteId, units: u32) {
        self.holds.entry(which).or_insert((quote, self.now + HOLD, units));
    }
    /// A peer gives back what it holds itself, and nothing else.
    pub fn decline(&mut self, by: u8, which: Which, quote: QuoteId) -> Answer {
        self.holds.retain(|of, (id, ..)| by != which.0 || *of != which || *id != quote);
        Answer::Declined
    }
    pub fn accept(&mut self, by: u8, which: Which, quote: QuoteId) -> Answer {
        let said = *self.accepted.entry(quote).or_insert(self.now);
        if by != which.0 {
            return Refused(ErrorCode::BadToken);
        }
        if let Some(lease) = self.leases.get(&which) {
            return match lease.stage {
                _ if lease.quote != quote => Refused(ErrorCode::VmExists),
                LeaseStage::Ended => Refused(ErrorCode::NoSuchVm),
                _ => Answer::Granted,
            };
        }
        if self.buried.contains_key(&(by, which)) {
            return Refused(ErrorCode::NoSuchVm);
        }
        if said + ACCEPT + SKEW <= self.now {
            return Refused(ErrorCode::Expired);
        }
        let Some((_, _, units)) = self.holds.get(&which).copied().filter(|(held, ..)| *held == quote) else {
            return Refused(ErrorCode::Unavailable);
        };
        if !self.fits(units) {
            return Refused(ErrorCode::Exhausted);
        }
        self.holds.remove(&which);
        self.grants += 1;
        let lease = Lease {
            stage: LeaseStage::Provisional,
            vm: VmPhase::Waiting,
            units,
            scaling: None,
            until: self.now + HOLD,
            ran: false,
            quote,
            grant: self.grants,
            jobs: vec![],
        };
        self.leases.insert(which, lease);
        Answer::Granted
    }
    /// The tenant has read its grant.
    pub fn granted(&mut self, which: Which) {
        self.told.insert(which, self.leases[&which].grant);
    }
    pub fn confirm(&mut self, by: u8, which: Which) -> Answer {
        if by != which.0 {
            return Refused(ErrorCode::BadToken);
        }
        let (now, told) = (self.now, self.told.get(&which).copied());
        let lease = match self.owned(by, which) {
            Ok(lease) => lease,
            Err(refused) => return refused,
        };
        if Some(lease.grant) != told {
            return Refused(ErrorCode::VmExists);
        }
        if lease.stage == LeaseStage::Ended {
            return Refused(ErrorCode::NoSuchVm);
        }
        if lease.stage == LeaseStage::Provisional {
            (lease.stage, lease.until) = (LeaseStage::Active, now + DURATION);
            lease.vm = VmPhase::Provisioning(ProvisionStep::Image);
            lease.order(now, JobKind::Provision);
        }
        Answer::Active(lease.stage, lease.vm)
    }
    pub fn release(&mut self, by: u8, which: Which) -> Answer {
        let now = self.now;
        match self.owned(by, which) {
            Ok(lease) => {
                lease.end(now);
                lease.status()
            }
            Err(refused) => {
                let released = self.buried.contains_key(&(by, which));
                if !self.leases.contains_key(&which) && !released {
                    self.buried.insert((by, which), now + ACCEPT + 2 * SKEW);
                    self.holds.retain(|of, _| *of != which || by != which.0);
                }
                refused
            }
        }
    }
    pub fn status(&mut self, by: u8, which: Which) -> Answer {
        self.owned(by, which).map_or_else(|refused| refused, |lease| lease.status())
    }
    pub fn tunnel(&mut self, by: u8, which: Which) -> Answer {
        match self.owned(by, which).map(|lease| (lease.stage, lease.vm)) {
            Err(refused) => refused,
            Ok((LeaseStage::Active, VmPhase::Booting | VmPhase::Running | VmPhase::Stopping)) => Answer::Open,
            Ok(_) => Refused(ErrorCode::WrongState),
        }
    }
    pub fn power(&mut self, by: u8, which: Which, action: PowerAction) -> Answer {
        let (now, taken) = (self.now, self.taken().0);
        let lease = match self.owned(by, which) {
            Ok(lease) => lease,
            Err(refused) => return refused,
        };
        let on = matches!(lease.vm, VmPhase::Running | VmPhase::Booting);
        let (job, vm) = match action {
            _ if lease.stage != LeaseStage::Active => return Refused(ErrorCode::WrongState),
            PowerAction::Scale(_) if !matches!(lease.vm, VmPhase::Running | VmPhase::Stopped) => {
                return Refused(ErrorCode::WrongState);
            }
            PowerAction::Scale(to) if to.cpus == lease.units && lease.scaling.is_none() => return lease.status(),
            // Its disk would be smaller.
            PowerAction::Scale(to) if to.cpus < lease.takes() => return Refused(ErrorCode::BackendCannot),
            PowerAction::Scale(to) if to.cpus > lease.takes() && taken - lease.takes() + to.cpus > UNITS => {
                return Refused(ErrorCode::Exhausted);
            }
            PowerAction::Scale(to) => {
                lease.scaling = Some(lease.takes().max(to.cpus));
                (JobKind::Power(action), VmPhase::Stopping)
            }
            PowerAction::Start if on => return lease.status(),
            PowerAction::Stop { .. } if lease.vm == VmPhase::Stopped => return lease.status(),
            PowerAction::Start if lease.vm == VmPhase::Stopped => (JobKind::Power(action), VmPhase::Booting),
            PowerAction::Start if lease.vm == VmPhase::Failed => {
                (JobKind::Provision, VmPhase::Provisioning(ProvisionStep::Image))
            }
            PowerAction::Stop { .. } if on || lease.vm == VmPhase::Stopping => {
                (JobKind::Power(action), VmPhase::Stopping)
            }
            PowerAction::Restart if on => (JobKind::Power(action), VmPhase::Stopping),
            PowerAction::Stop { force: true } if lease.vm == VmPhase::Suspended => {
                (JobKind::Power(action), VmPhase::Stopping)
            }
            PowerAction::Suspend if lease.vm == VmPhase::Running => (JobKind::Power(action), VmPhase::Stopping),
            PowerAction::Suspend if lease.vm == VmPhase::Suspended => return lease.status(),
            PowerAction::Resume if on => return lease.status(),
            PowerAction::Resume if lease.vm == VmPhase::Suspended => (JobKind::Power(action), VmPhase::Booting),
            _ => return Refused(ErrorCode::WrongState),
        };
        lease.vm = vm;
        lease.order(now, job);
        lease.status()
    }
    /// Of a lease, nobody but its owner learns more than that it is not theirs.
    fn owned(&mut self, by: u8, which: Which) -> Result<&mut Lease, Answer> {
        match self.leases.get_mut(&which) {
            Some(lease) if by == which.0 => Ok(lease),
            Some(_) => Err(Refused(ErrorCode::NotYours)),
            None => Err(Refused(ErrorCode::NoSuchVm)),
        }
    }

    /// Whoever does the first job says how it fares.
    pub fn reported(&mut self, which: Which, report: &JobReport) {
        let now = self.now;
        let Some(lease) = self.leases.get_mut(&which) else { return };
        match report {
            JobReport::Phase(phase) if lease.jobs.len() == 1 => {
                lease.scaled();
                lease.jobs[0].doing = Doing::Guest;
                lease.stands(now, *phase);
            }
            // What is to be done next need not wait for a guest.
            JobReport::Phase(_) => {
                lease.scaled();
                lease.jobs.remove(0);
            }
            JobReport::Done(phase) => {
                lease.scaled();
                lease.jobs.remove(0);
                lease.ran |= *phase == VmPhase::Running;
                if lease.jobs.is_empty() {
                    lease.stands(now, *phase);
                }
            }
            JobReport::Failed { phase, fault } => lease.failed(now, *phase, fault.is_transient(), false),
            JobReport::NotScaled { phase, fault, .. } => lease.failed(now, *phase, fault.is_transient(), true),
        }
        self.settle();
    }
}
