//! The queue of what is to be done to VMs: which job is next, how many run at once, what overtakes what. One job of a VM
//! runs at a time, and they run in their order.
use crate::codec::{self, MAX_STORED};
use crate::core::{StoreOp, Table};
use crate::error::Fault;
use crate::job::{JobId, JobKind, JobRow, JobState};
use crate::ledger::ENDED_KEPT;
use crate::message::{PowerAction, VmPhase};
use crate::names::{ActId, LeaseId};
use crate::units::{Millis, Timestamp};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Jobs of one VM that are not over: a start and a few switches; beyond it the tenant is told to be patient.
pub const JOBS_PER_VM: usize = 8;
/// Jobs that are over and can still be looked up, for a day; the oldest goes.
pub const MAX_JOBS_KEPT: usize = 256;
/// Tries after the first, where the fault is one that passes.
const RETRIES: u32 = 3;
/// Before the second try; twice that before each further one.
const RETRY_FIRST: Millis = Millis::secs(1);
const RETRY_MOST: Millis = Millis::secs(30);
/// What must be done in the end (a removal, the stop of an expired lease's guest) is tried on, however often it fails.
const INSIST_FIRST: Millis = Millis::secs(2);
const INSIST_MOST: Millis = Millis::secs(60);

/// How many jobs run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Guests being made: that is disk and CPU, and two keep a small host busy.
    pub provision: usize,
    /// Guests being switched or removed.
    pub control: usize,
}

impl Default for Slots {
    fn default() -> Self {
        Slots { provision: 2, control: 5 }
    }
}

struct Active {
    row: JobRow,
    /// It has a slot. One that only waits for its guest has none.
    acting: bool,
}

#[derive(Default)]
pub struct Jobs {
    active: BTreeMap<JobId, Active>,
    over: BTreeMap<JobId, JobRow>,
    /// Of jobs that run although they are over: whoever does them is to be told.
    aborted: Vec<JobId>,
    /// Under way when the last process ended.
    interrupted: Vec<JobId>,
    slots: Slots,
    last: u64,
    /// Before that none may begin, unless something changes: a thousand may wait, and are not looked through at each word.
    none_before: Option<Timestamp>,
    next_lapse: OnceLock<Option<Timestamp>>,
}

/// What is done for a tenant comes before what is done for the provider itself.
fn rank(row: &JobRow) -> (bool, JobId) {
    (row.act.is_none(), row.id)
}

fn put(row: &JobRow) -> StoreOp {
    StoreOp::put(Table::Jobs, &row.id.key(), row)
}

impl Jobs {
    fn changed(&mut self) {
        self.none_before = None;
        self.next_lapse.take();
    }
    pub fn set_slots(&mut self, slots: Slots) {
        self.changed();
        self.slots = slots;
    }

    /// One that was running when the last run ended is to be done again: each is safe to repeat.
    pub fn restore(&mut self, value: &[u8]) -> Result<(), Fault> {
        let mut row: JobRow = codec::decode(value, MAX_STORED).map_err(|error| {
            Fault::internal(format!("a stored job is {error}")).hint("restore the home from a backup")
        })?;
        self.changed();
        self.last = self.last.max(row.id.0);
        if row.state.is_over() {
            self.over.insert(row.id, row);
        } else {
            if row.state == JobState::Running {
                self.interrupted.push(row.id);
            }
            (row.state, row.tries, row.not_before) = (JobState::Waiting, 0, Timestamp(0));
            self.active.insert(row.id, Active { row, acting: false });
        }
        Ok(())
    }

    /// The newest last.
    pub fn rows(&self) -> impl Iterator<Item = &JobRow> {
        let mut rows: Vec<&JobRow> = self.over.values().chain(self.active.values().map(|job| &job.row)).collect();
        rows.sort_unstable_by_key(|row| row.id);
        rows.into_iter()
    }
    pub fn get(&self, id: JobId) -> Option<&JobRow> {
        self.active.get(&id).map(|job| &job.row).or_else(|| self.over.get(&id))
    }
    /// Those that are not over.
    pub fn active(&self) -> impl Iterator<Item = &JobRow> {
        self.active.values().map(|job| &job.row)
    }
    /// Whether something was ordered after this one that is not over.
    pub fn has_newer(&self, lease_id: LeaseId, than: JobId) -> bool {
        self.active().any(|row| row.lease_id == lease_id && row.id > than)
    }
    pub fn is_full(&self, lease_id: LeaseId) -> bool {
        self.active().filter(|row| row.lease_id == lease_id).count() >= JOBS_PER_VM
    }
    pub fn removes(&self, lease_id: LeaseId) -> bool {
        self.active().any(|row| row.lease_id == lease_id && row.kind == JobKind::Remove)
    }
    /// The one that runs.
    pub fn running(&self, lease_id: LeaseId) -> Option<JobId> {
        let runs = |row: &&JobRow| row.lease_id == lease_id && row.state == JobState::Running;
        self.active().find(runs).map(|row| row.id)
    }
    /// Jobs that do something to a hypervisor now.
    pub fn acting(&self) -> usize {
        self.active.values().filter(|job| job.acting).count()
    }

    /// Puts it at the end of the VM's queue, and takes out what it makes superfluous. To be persisted with what ordered it.
    pub fn order(
        &mut self,
        now: Timestamp,
        lease_id: LeaseId,
        kind: JobKind,
        act: Option<ActId>,
        before: VmPhase,
    ) -> Vec<StoreOp> {
        let overtaken = |job: &Active| job.row.lease_id == lease_id && overtakes(kind, job);
        let overtaken: Vec<JobId> = self.active.iter().filter(|(_, job)| overtaken(job)).map(|(id, _)| *id).collect();
        let mut ops = Vec::new();
        for id in overtaken {
            ops.extend(self.drop(now, id, None));
        }
        self.changed();
        self.last += 1;
        let row = JobRow {
            id: JobId(self.last),
            lease_id,
            kind,
            state: JobState::Waiting,
            act,
            before,
            tries: 0,
            created: now,
            not_before: now,
            ended: Timestamp(0),
            fault: None,
        };
        ops.push(put(&row));
        self.active.insert(row.id, Active { row, acting: false });
        ops
    }

    /// It is no longer wanted. Whoever does it is told to stop; where only the guest was waited for, it is done.
    pub fn drop(&mut self, now: Timestamp, id: JobId, fault: Option<Fault>) -> Vec<StoreOp> {
        let Some(job) = self.active.get(&id) else { return Vec::new() };
        let runs = job.row.state == JobState::Running;
        let state = if runs && !job.acting { JobState::Done } else { JobState::Cancelled };
        if runs {
            self.aborted.push(id);
        }
        self.over(now, id, state, fault)
    }

    /// It has ended.
    pub fn over(&mut self, now: Timestamp, id: JobId, state: JobState, fault: Option<Fault>) -> Vec<StoreOp> {
        let Some(Active { mut row, .. }) = self.active.remove(&id) else { return Vec::new() };
        self.changed();
        (row.state, row.ended) = (state, now);
        row.fault = fault.or(row.fault);
        let mut ops = vec![put(&row)];
        self.over.insert(id, row);
        while self.over.len() > MAX_JOBS_KEPT {
            ops.extend(self.over.pop_first().map(|(id, _)| StoreOp::delete(Table::Jobs, &id.key())));
        }
        ops
    }

    /// Only the guest is waited for: another may have the slot. And what is to be done to this VM next need not wait.
    pub fn waits_for_guest(&mut self, now: Timestamp, id: JobId) -> Vec<StoreOp> {
        self.changed();
        let Some(job) = self.active.get_mut(&id) else { return Vec::new() };
        job.acting = false;
        let lease_id = job.row.lease_id;
        let next = self.active().any(|row| row.lease_id == lease_id && row.id != id);
        if next { self.drop(now, id, None) } else { Vec::new() }
    }

    /// Whether it is tried again, and then what is to be persisted. With `insist` there is no last time.
    pub fn again(&mut self, now: Timestamp, id: JobId, fault: &Fault, insist: bool) -> Option<StoreOp> {
        self.changed();
        let job = self.active.get_mut(&id)?;
        let (first, most) = if insist { (INSIST_FIRST, INSIST_MOST) } else { (RETRY_FIRST, RETRY_MOST) };
        if !insist && (!fault.is_transient() || job.row.tries >= RETRIES) {
            return None;
        }
        let pause = Millis(first.0.saturating_mul(1 << job.row.tries.min(16)).min(most.0));
        job.acting = false;
        job.row.tries = job.row.tries.saturating_add(1);
        (job.row.state, job.row.not_before) = (JobState::Waiting, now + pause);
        job.row.fault = Some(fault.clone());
        Some(put(&job.row))
    }

    /// The next that may run now runs from now on.
    pub fn start_next(&mut self, now: Timestamp) -> Option<(JobRow, StoreOp)> {
        if self.none_before.is_some_and(|at| now < at) {
            return None;
        }
        let next = self.next_ready(now);
        let Some(job) = next.and_then(|id| self.active.get_mut(&id)) else {
            self.none_before = Some(self.next_deadline(now).unwrap_or(Timestamp(u64::MAX)));
            return None;
        };
        (job.row.state, job.acting) = (JobState::Running, true);
        Some((job.row.clone(), put(&job.row)))
    }

    fn next_ready(&self, now: Timestamp) -> Option<JobId> {
        let acting = |provision: bool| {
            let of_kind = |job: &&Active| job.acting && (job.row.kind == JobKind::Provision) == provision;
            self.active.values().filter(of_kind).count()
        };
        let (provision, control) = (acting(true) < self.slots.provision, acting(false) < self.slots.control);
        // Tenants that switch without end leave a slot for what ends leases.
        let of_tenants = self
            .active
            .values()
            .filter(|job| job.acting && job.row.kind != JobKind::Provision && job.row.act.is_some())
            .count();
        let shared = of_tenants + 1 < self.slots.control.max(2);
        let has_slot = |row: &JobRow| match row.kind {
            JobKind::Provision => provision,
            JobKind::Power(_) if row.act.is_some() => control && shared,
            JobKind::Power(_) | JobKind::Remove => control,
        };
        let may = |row: &JobRow| row.state == JobState::Waiting && row.not_before <= now && has_slot(row);
        if !self.active().any(may) {
            return None;
        }
        let mut heads: BTreeMap<LeaseId, &JobRow> = BTreeMap::new();
        for job in self.active.values() {
            heads.entry(job.row.lease_id).or_insert(&job.row);
        }
        heads.into_values().filter(|row| may(row)).min_by_key(|row| rank(row)).map(|row| row.id)
    }

    /// Forgets what has been over for long. To be persisted.
    pub fn lapse(&mut self, now: Timestamp) -> Vec<StoreOp> {
        let old = self.over.values().filter(|row| row.ended + ENDED_KEPT <= now).map(|row| row.id);
        let old: Vec<JobId> = old.collect();
        for id in &old {
            self.over.remove(id);
        }
        self.changed();
        old.iter().map(|id| StoreOp::delete(Table::Jobs, &id.key())).collect()
    }
    pub fn next_lapse(&self) -> Option<Timestamp> {
        *self.next_lapse.get_or_init(|| self.over.values().map(|row| row.ended + ENDED_KEPT).min())
    }

    pub fn take_interrupted(&mut self) -> Vec<JobId> {
        std::mem::take(&mut self.interrupted)
    }
    pub fn take_aborted(&mut self) -> Vec<JobId> {
        std::mem::take(&mut self.aborted)
    }

    /// When a job that waits for its time may run.
    pub fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let waiting = self.active().filter(|row| row.state == JobState::Waiting).map(|row| row.not_before);
        waiting.filter(|at| *at > now).min()
    }

    pub fn clock_set_back(&mut self, by: Millis) {
        self.changed();
        for job in self.active.values_mut() {
            job.row.not_before = job.row.not_before.set_back(by);
        }
        for row in self.over.values_mut() {
            row.ended = row.ended.set_back(by);
        }
    }
}

/// Whether the new one makes the other superfluous. What is half done is finished first, but for a removal.
fn overtakes(new: JobKind, other: &Active) -> bool {
    let waits_for_guest = other.row.state == JobState::Running && !other.acting;
    // Another size was promised, and comes before what was asked for after it.
    let superfluous = other.row.kind != JobKind::Remove && other.row.kind.scales_to().is_none();
    let not_begun = other.row.state == JobState::Waiting && superfluous;
    let polite = other.row.kind == JobKind::Power(PowerAction::Stop { force: false });
    match new {
        JobKind::Remove => true,
        JobKind::Power(PowerAction::Stop { force }) => waits_for_guest || not_begun || force && polite,
        JobKind::Power(_) | JobKind::Provision => waits_for_guest,
    }
}
