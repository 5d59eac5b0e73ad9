//! The provider's side of renting: quote, grant, let, and what follows until the VM is gone.
pub mod jobs;
mod metering;
mod negotiate;
mod reconcile;
mod renewing;
mod scaling;
mod strangers;
mod tenancy;
mod unused;

use super::{Ctx, Effect, EventKind, JobOrder, Scaling, Severity, StoreOp, Table, VmOrder, Work};
use crate::advert::Terms;
use crate::codec::{self, MAX_STORED};
use crate::error::Fault;
use crate::identity::PeerId;
use crate::job::{JobKind, JobRow, JobState};
use crate::lease::Quote;
use crate::ledger::{Capacity, LeaseRow, Ledger};
use crate::message::{LeaseStage, PowerAction, Request, Response, VmPhase};
use crate::money::Price;
use crate::names::{
    Arch, BackendKind, Country, Digest, Egress, GuestUser, ImageName, Isolation, LeaseId, Network, NodeName,
};
use crate::quota::{QuotaRow, Quotas, Tier};
use crate::refusal::Refusal;
use crate::shard::Site;
use crate::units::{DiskGib, Millis, Overcommit, Resources, Timestamp};
use jobs::{Jobs, Slots};
use metering::Metering;
use reconcile::Looks;
use renewing::Warnings;
use std::collections::{BTreeMap, BTreeSet};
pub use strangers::Strangers;
pub use tenancy::may_cancel;

/// How long a watch waits for a change: inside the 5 s that a requestor waits for an answer.
pub const WATCH: Millis = Millis::secs(4);
/// Watches open at once: every VM of a large provider has one while it is being made.
const MAX_WATCHES: usize = 256;
const WATCHES_PER_PEER: usize = 16;
/// Clocks differ by up to this, so an accept made just now may seem to come from before or after.
const SKEW: Millis = crate::advert::MAX_SKEW;
/// The grace time while no offer has said another.
const GRACE: Millis = Millis::secs(24 * 3600);

/// What the host offers now.
#[derive(Clone, Debug)]
pub enum Offering {
    Nothing {
        reason: String,
    },
    /// Nothing, and what was quoted is not granted either: there is no room to keep what would be promised.
    NoRoom {
        reason: String,
    },
    Vms(Box<Offer>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub name: Option<NodeName>,
    pub country: Option<Country>,
    pub arch: Arch,
    pub backend: BackendKind,
    pub isolation: Isolation,
    pub egress: Egress,
    /// What there is to let in all, overcommitment included.
    pub total: Resources,
    pub overcommit_cpu: Overcommit,
    pub max_vms: u32,
    /// Below this nothing is advertised.
    pub minimum: Resources,
    pub max_lease: Millis,
    pub strangers: Strangers,
    /// A VM that its tenant has not used for so long is stopped, if it never was.
    pub unused_stop: Option<Millis>,
    /// Whether a price asks for credit that was granted.
    pub prepaid: bool,
    /// How long the disk of an expired lease is kept.
    pub grace: Millis,
    pub price: Price,
    pub images: BTreeMap<ImageName, OfferedImage>,
    pub policy: Policy,
    pub slots: Slots,
}

/// Whom this provider serves. An empty list of the allowed allows everybody who is not denied. Who goes on for another
/// key is treated as that one was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub allow: BTreeSet<PeerId>,
    pub deny: BTreeSet<PeerId>,
}

impl Policy {
    fn serves(&self, peer: PeerId, predecessors: &[PeerId]) -> bool {
        !is_in(&self.deny, peer, predecessors) && (self.allow.is_empty() || self.names(peer, predecessors))
    }
    fn names(&self, peer: PeerId, predecessors: &[PeerId]) -> bool {
        is_in(&self.allow, peer, predecessors)
    }
}

fn is_in(list: &BTreeSet<PeerId>, peer: PeerId, predecessors: &[PeerId]) -> bool {
    list.contains(&peer) || predecessors.iter().any(|old| list.contains(old))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedImage {
    pub digest: Digest,
    pub user: GuestUser,
    /// A guest's disk is never smaller than its image.
    pub least_disk: DiskGib,
}

struct Watcher {
    token: u64,
    from: PeerId,
    lease_id: LeaseId,
    seen: u64,
    until: Timestamp,
}

pub struct Provider {
    boot_id: u64,
    offering: Offering,
    draining: bool,
    ledger: Ledger,
    quotas: Quotas,
    watchers: Vec<Watcher>,
    /// How often the ledger had changed when they were last answered.
    answered: u64,
    jobs: Jobs,
    metering: Metering,
    warnings: Warnings,
    looks: Looks,
    /// The process ends soon.
    stopping: bool,
    /// As last offered, these three: a host that is busy for a moment stands by them.
    grace: Millis,
    unused_stop: Option<Millis>,
    prepaid: bool,
}

impl Provider {
    pub fn new(boot_id: u64) -> Self {
        Provider {
            boot_id,
            offering: Offering::Nothing { reason: "this node does not provide".into() },
            draining: false,
            ledger: Ledger::default(),
            quotas: Quotas::default(),
            watchers: Vec::new(),
            answered: 0,
            jobs: Jobs::default(),
            metering: Metering::default(),
            warnings: Warnings::default(),
            looks: Looks::default(),
            stopping: false,
            grace: GRACE,
            unused_stop: None,
            prepaid: false,
        }
    }

    pub fn restore(&mut self, value: &[u8]) -> Result<(), Fault> {
        let row: LeaseRow = codec::decode(value, MAX_STORED).map_err(|error| {
            Fault::internal(format!("a stored lease is {error}")).hint("restore the home from a backup")
        })?;
        self.ledger.restore(row);
        Ok(())
    }

    pub fn restore_quota(&mut self, value: &[u8]) -> Result<(), Fault> {
        let row: QuotaRow = codec::decode(value, MAX_STORED).map_err(|error| {
            Fault::internal(format!("a stored quota is {error}")).hint("restore the home from a backup")
        })?;
        self.quotas.restore(row);
        Ok(())
    }

    pub fn restore_job(&mut self, value: &[u8]) -> Result<(), Fault> {
        self.jobs.restore(value)
    }

    /// The operator gives a peer a tier, or takes it back. What it has already stays.
    pub fn set_quota(&mut self, ctx: &mut Ctx, peer: PeerId, tier: Option<Tier>) {
        if !self.quotas.set(peer, tier) {
            return;
        }
        ctx.persist(vec![match tier {
            Some(tier) => StoreOp::put(Table::Quotas, peer.public_key(), &QuotaRow { peer, tier }),
            None => StoreOp::delete(Table::Quotas, peer.public_key()),
        }]);
    }
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// After a restart: what was to be done is done, what was ended is taken down. The rest is seen to when the
    /// hypervisor has said what it has.
    pub fn resume(&mut self, ctx: &mut Ctx) {
        for job in self.jobs.take_interrupted().iter().filter_map(|id| self.jobs.get(*id)) {
            let step = self.ledger.lease(job.lease_id).map_or("its lease is gone", |row| row.vm.step());
            let message =
                format!("the {} of lease {} was under way ({step}) when the node ended", job.kind.word(), job.lease_id);
            ctx.event(EventKind::Vm, Severity::Info, message, None);
        }
        self.drop_meters(ctx);
        let ended = self.ledger.leases().filter(|row| row.stage == LeaseStage::Ended && row.counts());
        let forgotten: Vec<(LeaseId, VmPhase)> =
            ended.filter(|row| !self.jobs.removes(row.lease_id)).map(|row| (row.lease_id, row.vm)).collect();
        for (lease_id, before) in forgotten {
            let ops = self.jobs.order(ctx.now, lease_id, JobKind::Remove, None, before);
            ctx.persist(ops);
        }
        self.schedule(ctx);
    }

    /// Begins what may begin. What runs from now on is on disk before it does.
    fn schedule(&mut self, ctx: &mut Ctx) {
        for job in self.jobs.take_aborted() {
            ctx.effect(Effect::AbortJob(job));
        }
        if self.stopping {
            return;
        }
        while let Some((job, op)) = self.jobs.start_next(ctx.now) {
            let Some(work) = self.work_of(ctx.network, &job) else {
                let gone = Fault::new(crate::ErrorCode::NoSuchVm, "its lease is gone");
                let ops = self.jobs.over(ctx.now, job.id, JobState::Failed, Some(gone));
                ctx.persist(ops);
                continue;
            };
            ctx.persist(vec![op]);
            ctx.effect(Effect::RunJob(Box::new(JobOrder { job: job.id, lease_id: job.lease_id, work })));
        }
    }

    fn work_of(&self, network: &Network, job: &JobRow) -> Option<Work> {
        let row = || self.ledger.lease(job.lease_id);
        Some(match job.kind {
            JobKind::Remove => Work::Remove,
            JobKind::Power(PowerAction::Scale(to)) => {
                let row = row()?;
                let from = row.spec.resources;
                Work::Scale(Scaling { from, to, on: row.wants_power, seed: row.seed.clone() })
            }
            JobKind::Power(action) => Work::Power { action, seed: row()?.seed.clone() },
            JobKind::Provision => {
                let row = row()?;
                // Our own, signed by us; one that cannot be read any more promises nothing.
                let quote = row.quote.clone().open::<Quote>(network);
                Work::Provision(VmOrder {
                    lease_id: row.lease_id,
                    spec: row.spec.clone(),
                    image: row.spec.image.clone(),
                    image_digest: row.image_digest,
                    egress: quote.map_or(Egress::None, |quote| quote.egress),
                    seed: row.seed.clone(),
                })
            }
        })
    }

    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }
    /// No new work, and no job is begun any more: what waits is on disk. Whoever has a VM here is told; who is not
    /// reached finds out by itself.
    pub fn stop(&mut self, ctx: &mut Ctx) {
        self.stopping = true;
        self.drain();
        let tenants: BTreeSet<PeerId> =
            self.ledger.leases().filter(|row| row.counts()).map(|row| row.requestor).collect();
        for tenant in tenants {
            ctx.send(tenant, Request::Away);
        }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
    pub fn offer(&self) -> Option<&Offer> {
        match &self.offering {
            Offering::Vms(offer) => Some(offer),
            Offering::Nothing { .. } | Offering::NoRoom { .. } => None,
        }
    }
    /// Why nothing is advertised, if nothing is.
    pub fn silent_because(&self) -> Option<String> {
        match &self.offering {
            _ if self.draining => Some("the node is draining".into()),
            Offering::Nothing { reason } | Offering::NoRoom { reason } => Some(reason.clone()),
            Offering::Vms(offer) if offer.images.is_empty() => Some("it has no image to offer".into()),
            Offering::Vms(offer) if self.ledger.vms() >= offer.max_vms as usize => {
                Some(format!("all {} VMs are let", offer.max_vms))
            }
            Offering::Vms(offer) if !offer.minimum.fits_in(self.ledger.free()) => {
                Some(format!("free are {}, less than the minimum of {}", self.ledger.free(), offer.minimum))
            }
            Offering::Vms(_) => None,
        }
    }
    pub fn set_offering(&mut self, _ctx: &mut Ctx, offering: Offering) {
        match &offering {
            Offering::Vms(offer) => {
                (self.grace, self.unused_stop, self.prepaid) = (offer.grace, offer.unused_stop, offer.prepaid);
                self.ledger.set_capacity(Capacity { total: offer.total, max_vms: offer.max_vms });
                self.jobs.set_slots(offer.slots);
            }
            // A host that is busy for a moment still stands by what it has quoted, with what it had then.
            Offering::Nothing { .. } | Offering::NoRoom { .. } => {}
        }
        self.offering = offering;
    }
    /// Nothing new may be written; what was let already goes on, and ends, all the same.
    fn must_have_room(&self) -> Result<(), Refusal> {
        match &self.offering {
            Offering::NoRoom { reason } => {
                Err(Refusal::Backend(Fault::new(crate::ErrorCode::Exhausted, reason.clone())))
            }
            Offering::Nothing { .. } | Offering::Vms(_) => Ok(()),
        }
    }
    /// No new work: what was only quoted is taken back, what was granted is honoured.
    pub fn drain(&mut self) {
        self.draining = true;
        self.ledger.drop_holds();
    }

    /// After a drain: new work is welcome again.
    pub fn undrain(&mut self) {
        self.draining = false;
    }
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// What to post on the board now, if anything.
    pub fn advertisable(&self) -> Option<Terms> {
        if self.silent_because().is_some() {
            return None;
        }
        let offer = self.offer()?;
        Some(Terms {
            name: offer.name.clone(),
            country: offer.country.clone(),
            arch: offer.arch,
            backend: offer.backend.clone(),
            isolation: offer.isolation,
            egress: offer.egress,
            free: self.ledger.free(),
            largest: offer.total,
            overcommit_cpu: offer.overcommit_cpu,
            price: offer.price.clone(),
            images: offer.images.keys().take(crate::advert::MAX_IMAGES).cloned().collect(),
        })
    }

    pub fn request(&mut self, ctx: &mut Ctx, token: u64, from: PeerId, site: Option<Site>, request: Request) {
        // What is over frees its place before anybody is told that there is none.
        self.lapse(ctx);
        let (what, answer) = match request {
            Request::Quote(request) => ("a quote", self.quote(ctx, from, site, request)),
            Request::Decline(quote) => {
                self.ledger.decline(from, quote);
                ("a decline", Ok(Response::Declined))
            }
            Request::Accept(signed) => ("an accept", self.accept(ctx, from, signed)),
            Request::Confirm(request) => ("a confirm", self.confirm(ctx, from, request, token)),
            Request::Release(lease_id) => ("a release", self.release(ctx, from, lease_id)),
            Request::Status(lease_id) => ("a status", self.status(from, lease_id)),
            Request::Watch { lease_id, seen } => return self.watch(ctx, token, from, lease_id, seen),
            Request::Power { lease_id, act, action } => (action.what(), self.power(ctx, from, lease_id, act, action)),
            Request::RenewQuote { lease_id, duration } => {
                ("a renewal's quote", self.renew_quote(ctx, from, lease_id, duration))
            }
            Request::Renew { quote, renew } => ("a renewal", self.renew(ctx, from, quote, renew)),
            Request::Countersign(signed) => ("a countersignature", self.countersigned(ctx, from, signed)),
            Request::Board { .. } | Request::Post(_) | Request::Shard(_) | Request::Away => return,
        };
        let response = answer.unwrap_or_else(|refusal| {
            note_refusal(ctx, from, what, &refusal);
            Response::Refused(refusal)
        });
        // What a lease has come to is said with its end.
        self.meter(ctx);
        // A confirm replies itself, between its transaction and the start of the VM.
        if !matches!(response, Response::Active { .. }) {
            ctx.reply(token, self.with_cost(response));
        }
        self.answer_watchers(ctx);
    }

    fn status(&self, from: PeerId, lease_id: LeaseId) -> Result<Response, Refusal> {
        self.ledger.owned(from, lease_id).map(|row| Response::Status(row.status()))
    }

    fn watch(&mut self, ctx: &mut Ctx, token: u64, from: PeerId, lease_id: LeaseId, seen: u64) {
        let response = match self.ledger.owned(from, lease_id) {
            Err(refusal) => {
                note_refusal(ctx, from, "a watch", &refusal);
                Response::Refused(refusal)
            }
            Ok(row) => {
                let own = self.watchers.iter().filter(|watcher| watcher.from == from).count();
                let room = self.watchers.len() < MAX_WATCHES && own < WATCHES_PER_PEER;
                if row.revision == seen && room {
                    self.watchers.push(Watcher { token, from, lease_id, seen, until: ctx.now + WATCH });
                    return;
                }
                Response::Status(row.status())
            }
        };
        ctx.reply(token, self.with_cost(response));
    }

    pub fn advance(&mut self, ctx: &mut Ctx) {
        self.lapse(ctx);
        self.warn_of_ends(ctx);
        self.meter(ctx);
        self.schedule(ctx);
        self.answer_watchers(ctx);
    }

    fn lapse(&mut self, ctx: &mut Ctx) {
        let next = self.ledger.next_lapse().into_iter().chain(self.jobs.next_lapse()).min();
        if next.is_none_or(|at| at > ctx.now) {
            return;
        }
        let over: Vec<(LeaseId, LeaseStage)> = self
            .ledger
            .leases()
            .filter(|row| match row.stage {
                LeaseStage::Active => row.ends_at <= ctx.now,
                LeaseStage::Expired => row.keep_until <= ctx.now,
                LeaseStage::Provisional | LeaseStage::Ended => false,
            })
            .map(|row| (row.lease_id, row.stage))
            .collect();
        for (lease_id, stage) in over {
            if stage == LeaseStage::Active {
                self.expire(ctx, lease_id);
            } else {
                self.end(ctx, lease_id, None);
            }
        }
        self.stop_unused(ctx);
        let dropped = self.ledger.lapse(ctx.now);
        let mut ops: Vec<StoreOp> = dropped.iter().map(|id| StoreOp::delete(Table::Leases, &id.0)).collect();
        ops.extend(self.jobs.lapse(ctx.now));
        ctx.persist(ops);
    }

    fn answer_watchers(&mut self, ctx: &mut Ctx) {
        let changes = self.ledger.changes();
        let as_before = std::mem::replace(&mut self.answered, changes) == changes;
        if as_before && self.watchers.iter().all(|watcher| watcher.until > ctx.now) {
            return;
        }
        let ledger = &self.ledger;
        let due = |watcher: &Watcher| {
            let row = ledger.owned(watcher.from, watcher.lease_id);
            watcher.until <= ctx.now || row.map_or(true, |row| row.revision != watcher.seen)
        };
        let (ready, waiting) = self.watchers.drain(..).partition(due);
        self.watchers = waiting;
        let ready: Vec<Watcher> = ready;
        for watcher in ready {
            let response = match self.ledger.owned(watcher.from, watcher.lease_id) {
                Ok(row) => Response::Status(row.status()),
                Err(refusal) => Response::Refused(refusal),
            };
            ctx.reply(watcher.token, self.with_cost(response));
        }
    }

    pub fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let watchers = self.watchers.iter().map(|watcher| watcher.until);
        let jobs = self.jobs.next_deadline(now).into_iter().chain(self.jobs.next_lapse());
        self.ledger.next_lapse().into_iter().chain(watchers).chain(jobs).chain(self.next_warning()).min()
    }

    /// The clock was set, back or forward: a lease lasts as long as it was let for, whatever the time is called.
    pub fn clock_set(&mut self, ctx: &mut Ctx, by: i64) {
        let moved = self.ledger.clock_set(by);
        let mut ops: Vec<StoreOp> = moved.iter().filter_map(|id| self.ledger.lease(*id)).map(put).collect();
        ops.extend(self.metering.clock_set(by));
        ctx.persist(ops);
        let (way, by) = (if by < 0 { "back" } else { "forward" }, Millis(by.unsigned_abs()));
        let message =
            format!("this host's clock was set {way} by {by}: {} leases end when they would have", moved.len());
        ctx.event(EventKind::System, Severity::Warning, message, None);
    }

    /// The clock was set back: what had so long to go has as long still.
    pub fn clock_set_back(&mut self, by: Millis) {
        self.ledger.clock_set_back(by);
        for watcher in &mut self.watchers {
            watcher.until = watcher.until.set_back(by);
        }
        self.jobs.clock_set_back(by);
        self.metering.clock_set_back(by);
        self.looks.clock_set_back(by);
    }
}

fn put(row: &LeaseRow) -> StoreOp {
    StoreOp::put(Table::Leases, &row.lease_id.0, row)
}

/// What an honest requestor never does is recorded.
fn note_refusal(ctx: &mut Ctx, from: PeerId, what: &'static str, refusal: &Refusal) {
    let hostile = matches!(
        refusal,
        Refusal::NotYours(_)
            | Refusal::BadSignature(_)
            | Refusal::Unsigned(_)
            | Refusal::Malformed(_)
            | Refusal::Denied
    );
    if hostile {
        ctx.offence(from, what, refusal);
    }
}
