//! The provider's side of renting: quote, grant, let, and what follows until the VM is gone.
mod negotiate;
mod tenancy;

use super::{Ctx, Effect, StoreOp, Table, VmOrder};
use crate::advert::Terms;
use crate::codec::{self, MAX_STORED};
use crate::error::Fault;
use crate::identity::PeerId;
use crate::ledger::{Capacity, LeaseRow, Ledger};
use crate::message::{LeaseStage, PowerAction, Request, Response, VmPhase};
use crate::money::Price;
use crate::names::{Arch, BackendKind, Country, Digest, Egress, GuestUser, ImageName, Isolation, LeaseId, NodeName};
use crate::quota::{QuotaRow, Quotas, Tier};
use crate::refusal::Refusal;
use crate::units::{DiskGib, Millis, Resources, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// How long a watch waits for a change: inside the 5 s that a requestor waits for an answer.
pub const WATCH: Millis = Millis::secs(4);
/// Watches open at once: every VM of a large provider has one while it is being made.
const MAX_WATCHES: usize = 256;
const WATCHES_PER_PEER: usize = 16;
/// Clocks differ by up to this, so an accept made just now may seem to come from before or after.
const SKEW: Millis = crate::advert::MAX_SKEW;
/// The grace time while no offer has said another.
const GRACE: Millis = Millis::secs(24 * 3600);
/// How often a guest that goes on running after its lease has expired is switched off again.
const STOP_AGAIN: Millis = Millis::secs(30);

/// What the host offers now.
#[derive(Clone, Debug)]
pub enum Offering {
    Nothing { reason: String },
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
    pub max_vms: u32,
    /// Below this nothing is advertised.
    pub minimum: Resources,
    pub max_lease: Millis,
    /// How long the disk of an expired lease is kept.
    pub grace: Millis,
    pub price: Price,
    pub images: BTreeMap<ImageName, OfferedImage>,
    pub policy: Policy,
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
        let is_in = |list: &BTreeSet<PeerId>| list.contains(&peer) || predecessors.iter().any(|old| list.contains(old));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }
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
    /// As last offered.
    grace: Millis,
    stop_again: Option<Timestamp>,
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
            grace: GRACE,
            stop_again: None,
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

    /// After a restart: what was let is made sure of, what was ended is taken down, whatever the last run had done.
    pub fn resume(&mut self, ctx: &mut Ctx) {
        let rows: Vec<LeaseRow> = self.ledger.leases().filter(|row| row.vm != VmPhase::Gone).cloned().collect();
        for row in rows {
            match row.stage {
                LeaseStage::Provisional => {}
                LeaseStage::Ended => ctx.effect(Effect::DestroyVm(row.lease_id)),
                // Its time ran out meanwhile: the first tick sees to it, and nothing is started for it.
                LeaseStage::Active if row.ends_at <= ctx.now => {}
                LeaseStage::Active if row.wants_power => ctx.effect(start_effect(&row)),
                LeaseStage::Active | LeaseStage::Expired if matches!(row.vm, VmPhase::Stopped | VmPhase::Failed) => {}
                LeaseStage::Active | LeaseStage::Expired => {
                    let action = PowerAction::Stop { force: row.stage == LeaseStage::Expired };
                    ctx.effect(Effect::PowerVm { lease_id: row.lease_id, action });
                }
            }
        }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
    pub fn offer(&self) -> Option<&Offer> {
        match &self.offering {
            Offering::Vms(offer) => Some(offer),
            Offering::Nothing { .. } => None,
        }
    }
    /// Why nothing is advertised, if nothing is.
    pub fn silent_because(&self) -> Option<String> {
        match &self.offering {
            _ if self.draining => Some("the node is draining".into()),
            Offering::Nothing { reason } => Some(reason.clone()),
            Offering::Vms(offer) if offer.images.is_empty() => Some("it has no image to offer".into()),
            Offering::Vms(offer) if self.ledger.vms() >= offer.max_vms as usize => {
                Some(format!("all {} VMs are let", offer.max_vms))
            }
            Offering::Vms(offer) if !offer.minimum.fits_in(self.ledger.not_let()) => {
                Some(format!("free are {}, less than the minimum of {}", self.ledger.not_let(), offer.minimum))
            }
            Offering::Vms(_) => None,
        }
    }
    pub fn set_offering(&mut self, _ctx: &mut Ctx, offering: Offering) {
        match &offering {
            Offering::Vms(offer) => {
                self.grace = offer.grace;
                self.ledger.set_capacity(Capacity { total: offer.total, max_vms: offer.max_vms });
                self.ledger.drop_surplus_holds();
            }
            // A host that is busy for a moment still stands by what it has quoted.
            Offering::Nothing { .. } => self.ledger.set_capacity(Capacity::default()),
        }
        self.offering = offering;
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
            free: self.ledger.not_let(),
            largest: offer.total,
            price: offer.price.clone(),
            images: offer.images.keys().take(crate::advert::MAX_IMAGES).cloned().collect(),
        })
    }

    pub fn request(&mut self, ctx: &mut Ctx, token: u64, from: PeerId, request: Request) {
        // What is over frees its place before anybody is told that there is none.
        self.lapse(ctx);
        let (what, answer) = match request {
            Request::Quote(request) => ("a quote", self.quote(ctx, from, request)),
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
            Request::Board { .. } | Request::Post(_) | Request::Shard(_) => return,
        };
        let response = answer.unwrap_or_else(|refusal| {
            note_refusal(ctx, from, what, &refusal);
            Response::Refused(refusal)
        });
        // A confirm replies itself, between its transaction and the start of the VM.
        if !matches!(response, Response::Active { .. }) {
            ctx.reply(token, response);
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
        ctx.reply(token, response);
    }

    pub fn advance(&mut self, ctx: &mut Ctx) {
        self.lapse(ctx);
        if self.stop_again.is_some_and(|at| at <= ctx.now) {
            self.stop_again = None;
            self.stop_expired(ctx);
        }
        self.answer_watchers(ctx);
    }

    fn lapse(&mut self, ctx: &mut Ctx) {
        if self.ledger.next_lapse().is_none_or(|at| at > ctx.now) {
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
        let dropped = self.ledger.lapse(ctx.now);
        ctx.persist(dropped.iter().map(|id| StoreOp::delete(Table::Leases, &id.0)).collect());
    }

    fn answer_watchers(&mut self, ctx: &mut Ctx) {
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
            ctx.reply(watcher.token, response);
        }
    }

    pub fn next_deadline(&self) -> Option<Timestamp> {
        let watchers = self.watchers.iter().map(|watcher| watcher.until);
        self.ledger.next_lapse().into_iter().chain(watchers).chain(self.stop_again).min()
    }

    /// The clock was set back: what had so long to go has as long still.
    pub fn clock_set_back(&mut self, by: Millis) {
        self.ledger.clock_set_back(by);
        for watcher in &mut self.watchers {
            watcher.until = watcher.until.set_back(by);
        }
        self.stop_again = self.stop_again.map(|at| at.set_back(by));
    }
}

fn put(row: &LeaseRow) -> StoreOp {
    StoreOp::put(Table::Leases, &row.lease_id.0, row)
}

fn start_effect(row: &LeaseRow) -> Effect {
    Effect::StartVm(Box::new(VmOrder {
        lease_id: row.lease_id,
        spec: row.spec.clone(),
        image: row.spec.image.clone(),
        image_digest: row.image_digest,
        seed: row.seed.clone(),
    }))
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
