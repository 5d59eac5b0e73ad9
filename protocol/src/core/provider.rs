//! The provider's side of renting: quote, grant, let, and what follows until the VM is gone.
use super::{Ctx, Effect, EventKind, Severity, StoreOp, Table, VmOrder, VmReport};
use crate::advert::Terms;
use crate::codec::{self, MAX_STORED};
use crate::envelope::Sealed;
use crate::error::Fault;
use crate::identity::PeerId;
use crate::lease::{ACCEPT_LIFE, Accept, Active, Confirm, Grant, PROVISIONAL, QUOTE_HOLD, Quote};
use crate::ledger::{Capacity, Hold, LeaseRow, Ledger};
use crate::message::{ConfirmReq, LeaseStage, PowerAction, QuoteReq, Request, Response, VmPhase};
use crate::money::Price;
use crate::names::{
    Arch, BackendKind, Country, Digest, Egress, GuestUser, ImageName, Isolation, LeaseId, NodeName, QuoteId,
};
use crate::refusal::Refusal;
use crate::seed::Seed;
use crate::units::{DiskGib, Millis, Resources, Timestamp};
use std::collections::BTreeMap;

/// How long a watch waits for a change: inside the 5 s that a requestor waits for an answer.
pub const WATCH: Millis = Millis::secs(4);
/// Watches open at once: every VM of a large provider has one while it is being made.
const MAX_WATCHES: usize = 256;
const WATCHES_PER_PEER: usize = 16;
/// Clocks differ by up to this, so an accept made just now may seem to come from before or after.
const SKEW: Millis = crate::advert::MAX_SKEW;

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
    watchers: Vec<Watcher>,
}

impl Provider {
    pub fn new(boot_id: u64) -> Self {
        Provider {
            boot_id,
            offering: Offering::Nothing { reason: "this node does not provide".into() },
            draining: false,
            ledger: Ledger::default(),
            watchers: Vec::new(),
        }
    }

    pub fn restore(&mut self, value: &[u8]) -> Result<(), Fault> {
        let row: LeaseRow = codec::decode(value, MAX_STORED).map_err(|error| {
            Fault::internal(format!("a stored lease is {error}")).hint("restore the home from a backup")
        })?;
        self.ledger.restore(row);
        Ok(())
    }

    /// After a restart: what was let is made sure of, what was ended is taken down, whatever the last run had done.
    pub fn resume(&mut self, ctx: &mut Ctx) {
        let rows: Vec<LeaseRow> = self.ledger.leases().filter(|row| row.vm != VmPhase::Gone).cloned().collect();
        for row in rows {
            match row.stage {
                LeaseStage::Provisional => {}
                LeaseStage::Ended => ctx.effect(Effect::DestroyVm(row.lease_id)),
                LeaseStage::Active if row.wants_power => ctx.effect(start_effect(&row)),
                LeaseStage::Active | LeaseStage::Expired if row.vm == VmPhase::Stopped => {}
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
            Offering::Vms(offer) if !offer.minimum.fits_in(self.ledger.free()) => {
                Some(format!("free are {}, less than the minimum of {}", self.ledger.free(), offer.minimum))
            }
            Offering::Vms(_) => None,
        }
    }
    pub fn set_offering(&mut self, _ctx: &mut Ctx, offering: Offering) {
        let capacity = match &offering {
            Offering::Vms(offer) => Capacity { total: offer.total, max_vms: offer.max_vms },
            Offering::Nothing { .. } => Capacity::default(),
        };
        self.ledger.set_capacity(capacity);
        self.offering = offering;
    }
    pub fn drain(&mut self) {
        self.draining = true;
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
            price: offer.price.clone(),
            images: offer.images.keys().take(crate::advert::MAX_IMAGES).cloned().collect(),
        })
    }

    pub fn request(&mut self, ctx: &mut Ctx, token: u64, from: PeerId, request: Request) {
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
            Request::Power { lease_id, action } => ("a power action", self.power(ctx, from, lease_id, action)),
            Request::Board { .. } | Request::Post(_) => return,
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

    fn quote(&mut self, ctx: &mut Ctx, from: PeerId, request: QuoteReq) -> Result<Response, Refusal> {
        if self.draining {
            return Err(Refusal::NotProviding);
        }
        let Offering::Vms(offer) = &self.offering else { return Err(Refusal::NotProviding) };
        let QuoteReq { create_id, spec } = request;
        spec.check().map_err(|fault| Refusal::Malformed(fault.message))?;
        let image = offer.images.get(&spec.image).ok_or_else(|| Refusal::NoSuchImage(spec.image.clone()))?;
        if let Some(backend) = spec.backend.as_ref().filter(|backend| **backend != offer.backend) {
            return Err(Refusal::NoSuchBackend(backend.clone()));
        }
        if let Some(arch) = spec.arch.filter(|arch| *arch != offer.arch) {
            return Err(Refusal::Unsuitable(format!("its machine is {}, not {arch}", offer.arch)));
        }
        if !spec.isolation.takes(offer.isolation) {
            return Err(Refusal::Unsuitable(format!("its guests are {}", offer.isolation)));
        }
        if spec.resources.disk_gib < image.least_disk {
            return Err(Refusal::Unsuitable(format!("image '{}' needs {} of disk", spec.image, image.least_disk)));
        }
        if spec.duration > offer.max_lease {
            return Err(Refusal::LeaseTooLong { longest: offer.max_lease });
        }
        if let Some(hold) = self.ledger.hold_for(from, create_id).filter(|hold| hold.quote.spec == spec) {
            return Ok(Response::Quote(hold.quote.signed().clone()));
        }
        self.ledger.trim_holds(from);
        self.ledger.admit(spec.resources)?;
        let quote = Quote {
            network: ctx.network.clone(),
            provider: ctx.me(),
            requestor: from,
            quote_id: QuoteId(ctx.random_16()),
            boot_id: self.boot_id,
            image_digest: image.digest,
            guest_user: image.user.clone(),
            backend: offer.backend.clone(),
            isolation: offer.isolation,
            egress: offer.egress,
            price: offer.price.clone(),
            issued: ctx.now,
            hold_until: ctx.now + QUOTE_HOLD,
            spec,
        };
        let quote = Sealed::seal(quote, ctx.key);
        let signed = quote.signed().clone();
        self.ledger.hold(Hold { quote, create_id });
        Ok(Response::Quote(signed))
    }

    fn accept(&mut self, ctx: &mut Ctx, from: PeerId, signed: crate::envelope::Signed) -> Result<Response, Refusal> {
        let accept: Sealed<Accept> = signed.open(ctx.network)?;
        parties(ctx, from, accept.requestor, accept.provider)?;
        let lease_id = LeaseId::derive(ctx.me(), from, accept.create_id);
        if let Some(row) = self.ledger.lease(lease_id) {
            // Said before: the same words get the same answer, other words none.
            return if row.accept == *accept.signed() {
                Ok(Response::Granted(row.grant.clone()))
            } else {
                Err(Refusal::Conflict)
            };
        }
        if self.ledger.is_buried(from, lease_id) {
            return Err(Refusal::Released(lease_id));
        }
        if accept.expires + SKEW <= ctx.now || accept.expires > ctx.now + ACCEPT_LIFE + SKEW {
            return Err(Refusal::Expired("the accept".into()));
        }
        let quote = self.ledger.held(ctx.now, &accept)?.quote.clone();
        let provisional_until = ctx.now + PROVISIONAL;
        let grant = Grant {
            network: ctx.network.clone(),
            provider: ctx.me(),
            requestor: from,
            lease_id,
            accept_hash: accept.digest(),
            provisional_until,
        };
        let grant = Sealed::seal(grant, ctx.key);
        let row = LeaseRow {
            lease_id,
            requestor: from,
            spec: quote.spec.clone(),
            image_digest: quote.image_digest,
            guest_user: quote.guest_user.clone(),
            seed_hash: accept.seed_hash,
            quote: quote.signed().clone(),
            accept: accept.signed().clone(),
            grant: grant.signed().clone(),
            confirm: None,
            active: None,
            seed: Vec::new(),
            stage: LeaseStage::Provisional,
            provisional_until,
            ends_at: Timestamp(0),
            ended_at: Timestamp(0),
            wants_power: false,
            vm: VmPhase::Waiting,
            revision: 1,
            fault: None,
        };
        ctx.persist(vec![put(&row)]);
        self.ledger.commit(quote.quote_id, row);
        Ok(Response::Granted(grant.signed().clone()))
    }

    fn confirm(&mut self, ctx: &mut Ctx, from: PeerId, request: ConfirmReq, token: u64) -> Result<Response, Refusal> {
        let confirm: Sealed<Confirm> = request.confirm.open(ctx.network)?;
        parties(ctx, from, confirm.requestor, confirm.provider)?;
        let row = self.ledger.owned_mut(from, confirm.lease_id)?;
        if confirm.grant_hash != row.grant.digest() {
            return Err(Refusal::Conflict);
        }
        match row.stage {
            LeaseStage::Provisional if row.provisional_until > ctx.now => {}
            LeaseStage::Provisional => return Err(Refusal::Expired("the grant".into())),
            LeaseStage::Active | LeaseStage::Expired => {
                let active = row.active.clone().ok_or(Refusal::Conflict)?;
                ctx.reply(token, Response::Active { active: active.clone(), status: row.status() });
                return Ok(Response::Active { active, status: row.status() });
            }
            LeaseStage::Ended => return Err(Refusal::Released(row.lease_id)),
        }
        Seed::decode(&request.seed, row.seed_hash).map_err(|fault| Refusal::BadSeed(fault.message))?;
        let active = Active {
            network: ctx.network.clone(),
            provider: ctx.me(),
            requestor: from,
            lease_id: row.lease_id,
            grant_hash: confirm.grant_hash,
            started_at: ctx.now,
            ends_at: ctx.now + row.spec.duration,
        };
        row.ends_at = active.ends_at;
        let active = Sealed::seal(active, ctx.key).signed().clone();
        row.confirm = Some(confirm.signed().clone());
        row.active = Some(active.clone());
        row.seed = request.seed;
        row.stage = LeaseStage::Active;
        row.wants_power = true;
        row.vm = VmPhase::Provisioning(crate::message::ProvisionStep::Image);
        row.touch();
        let row = row.clone();
        ctx.persist(vec![put(&row)]);
        let response = Response::Active { active, status: row.status() };
        ctx.reply(token, response.clone());
        ctx.effect(start_effect(&row));
        let message = format!("lease {} is active: {}, image {}", row.lease_id, row.spec.resources, row.spec.image);
        ctx.event(EventKind::Market, Severity::Info, message, Some(from.to_string()));
        Ok(response)
    }

    fn release(&mut self, ctx: &mut Ctx, from: PeerId, lease_id: LeaseId) -> Result<Response, Refusal> {
        match self.ledger.owned(from, lease_id) {
            Ok(_) => {}
            Err(Refusal::NoSuchLease(_)) => {
                // Its accept may still be on the way: until that can no longer be valid, nothing of it starts.
                self.ledger.bury(from, lease_id, ctx.now + Millis(ACCEPT_LIFE.0 + 2 * SKEW.0))?;
                return Err(Refusal::NoSuchLease(lease_id));
            }
            Err(refusal) => return Err(refusal),
        }
        self.end(ctx, lease_id, None);
        self.status(from, lease_id)
    }

    /// Ends a lease, whatever its stage: on disk first, then the VM is taken down.
    fn end(&mut self, ctx: &mut Ctx, lease_id: LeaseId, fault: Option<Fault>) {
        let Some(row) = self.ledger.row_mut(lease_id) else { return };
        if row.stage == LeaseStage::Ended {
            return;
        }
        let never_started = row.stage == LeaseStage::Provisional;
        row.stage = LeaseStage::Ended;
        row.ended_at = ctx.now;
        row.wants_power = false;
        row.fault = fault.or(row.fault.take());
        row.vm = if never_started { VmPhase::Gone } else { VmPhase::Destroying };
        row.seed.clear();
        row.touch();
        let op = put(row);
        ctx.persist(vec![op]);
        if !never_started {
            ctx.effect(Effect::DestroyVm(lease_id));
        }
        ctx.event(EventKind::Market, Severity::Info, format!("lease {lease_id} has ended"), None);
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

    fn power(
        &mut self,
        ctx: &mut Ctx,
        from: PeerId,
        lease_id: LeaseId,
        action: PowerAction,
    ) -> Result<Response, Refusal> {
        let row = self.ledger.owned_mut(from, lease_id)?;
        let wrong = |wanted: &str| Err(Refusal::WrongState { is: row.vm.word().to_owned(), wanted: wanted.to_owned() });
        if row.stage != LeaseStage::Active {
            return wrong("leased");
        }
        let next = match (action, row.vm) {
            (PowerAction::Start, VmPhase::Stopped) => VmPhase::Booting,
            (PowerAction::Start, VmPhase::Running | VmPhase::Booting) => return Ok(Response::Status(row.status())),
            (PowerAction::Start, _) => return wrong("stopped"),
            (PowerAction::Stop { .. }, VmPhase::Stopped) => return Ok(Response::Status(row.status())),
            // A second stop is how one forces a guest that ignores the first.
            (PowerAction::Stop { .. }, VmPhase::Running | VmPhase::Booting | VmPhase::Stopping) => VmPhase::Stopping,
            (PowerAction::Stop { .. }, _) => return wrong("running"),
            (PowerAction::Restart, VmPhase::Running | VmPhase::Booting) => VmPhase::Stopping,
            (PowerAction::Restart, _) => return wrong("running"),
        };
        row.vm = next;
        row.wants_power = !matches!(action, PowerAction::Stop { .. });
        row.fault = None;
        row.touch();
        let op = put(row);
        let status = row.status();
        ctx.persist(vec![op]);
        ctx.effect(Effect::PowerVm { lease_id, action });
        Ok(Response::Status(status))
    }

    /// What the vm worker says. A phase that only repeats changes nothing.
    pub fn vm_report(&mut self, ctx: &mut Ctx, lease_id: LeaseId, report: VmReport) {
        let Some(row) = self.ledger.row_mut(lease_id) else { return };
        let ended = row.stage == LeaseStage::Ended;
        match report {
            VmReport::Phase(VmPhase::Gone) => {
                if !ended {
                    // Nobody asked for that: it is made anew, or its power state is restored, by the reconciler.
                    return;
                }
                row.vm = VmPhase::Gone;
                row.touch();
            }
            // A late report about a VM that is being taken down says nothing.
            _ if ended => return,
            VmReport::Phase(phase) if phase == row.vm => return,
            VmReport::Phase(phase) => {
                row.vm = phase;
                if phase == VmPhase::Running {
                    row.fault = None;
                }
                row.touch();
            }
            VmReport::ActionFailed { phase, fault } => {
                row.vm = phase;
                row.fault = Some(fault);
                row.touch();
            }
            VmReport::Failed(fault) => {
                let message = format!("the VM of lease {lease_id} failed: {}", fault.message);
                ctx.event(EventKind::Vm, Severity::Warning, message, None);
                // A VM that never ran ends its lease; one that has run keeps its disk for its tenant.
                if matches!(row.vm, VmPhase::Provisioning(_) | VmPhase::Waiting) {
                    self.end(ctx, lease_id, Some(fault));
                    return self.answer_watchers(ctx);
                }
                row.vm = VmPhase::Failed;
                row.fault = Some(fault);
                row.touch();
            }
        }
        let op = put(row);
        ctx.persist(vec![op]);
        self.answer_watchers(ctx);
    }

    pub fn authorise_tunnel(&mut self, ctx: &mut Ctx, from: PeerId, lease_id: LeaseId) -> Result<(), Refusal> {
        let verdict = self.ledger.owned(from, lease_id).and_then(|row| match (row.stage, row.vm) {
            (LeaseStage::Active, VmPhase::Running | VmPhase::Booting | VmPhase::Stopping) => Ok(()),
            (_, phase) => Err(Refusal::WrongState { is: phase.word().to_owned(), wanted: "running".to_owned() }),
        });
        if let Err(refusal) = &verdict {
            note_refusal(ctx, from, "a tunnel", refusal);
        }
        verdict
    }

    pub fn advance(&mut self, ctx: &mut Ctx) {
        let over: Vec<(LeaseId, LeaseStage)> = self
            .ledger
            .leases()
            .filter(|row| match row.stage {
                LeaseStage::Active => row.ends_at <= ctx.now,
                LeaseStage::Expired => row.ends_at + self.grace() <= ctx.now,
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
        self.answer_watchers(ctx);
    }

    /// The time is over: the VM stops, the disk stays for the grace time.
    fn expire(&mut self, ctx: &mut Ctx, lease_id: LeaseId) {
        let Some(row) = self.ledger.row_mut(lease_id) else { return };
        row.stage = LeaseStage::Expired;
        row.wants_power = false;
        row.vm = VmPhase::Stopping;
        row.touch();
        let op = put(row);
        ctx.persist(vec![op]);
        ctx.effect(Effect::PowerVm { lease_id, action: PowerAction::Stop { force: true } });
        ctx.event(EventKind::Market, Severity::Info, format!("lease {lease_id} has expired"), None);
    }

    fn grace(&self) -> Millis {
        self.offer().map_or(Millis::secs(24 * 3600), |offer| offer.grace)
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
        let expired = self.ledger.leases().filter(|row| row.stage == LeaseStage::Expired);
        let graces = expired.map(|row| row.ends_at + self.grace());
        self.ledger.next_lapse().into_iter().chain(watchers).chain(graces).min()
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

/// A signed message must be between the two ends of the connection it came over.
fn parties(ctx: &Ctx, from: PeerId, requestor: PeerId, provider: PeerId) -> Result<(), Refusal> {
    if requestor != from {
        return Err(Refusal::BadSignature("it was signed by another peer than the one that sent it".into()));
    }
    if provider != ctx.me() {
        return Err(Refusal::BadSignature("it is meant for another provider".into()));
    }
    Ok(())
}

/// What an honest requestor never does is recorded.
fn note_refusal(ctx: &mut Ctx, from: PeerId, what: &str, refusal: &Refusal) {
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
