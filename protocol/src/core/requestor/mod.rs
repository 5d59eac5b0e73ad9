//! The requestor's side of renting: from a wish to a VM, and back to nothing.
//!
//! ```text
//!               candidates       best quote           granted             active
//!  discovering ───────────▶ quoting ───────▶ accepting ────────▶ confirming ─────▶ leased ─▶ (running, …)
//!       ▲                      │  refused       │  refused, late     │  late          │ failed before it ran
//!       └──────────────────────┴────────────────┴────────────────────┴────────────────┘ next best; old one released
//!  any ── taken back, out of time, nobody left ──▶ releasing ─▶ (gone)     or failed
//! ```
//! An intent is on disk before the accept is sent, the grant before the confirm, the wish to release before anything
//! else is tried. After a restart each row says what may have happened and is asked about.
mod checks;
mod negotiate;
mod past;
mod receipts;
mod release;
mod renewing;
mod silent;
mod smaller;
mod tenancy;

use super::{Ctx, Effect, RpcFailure, StoreOp, Table};
use crate::board::Board;
use crate::codec::{self, MAX_STORED};
use crate::envelope::{Sealed, Signed};
use crate::error::{ErrorCode, Fault};
use crate::history::History;
use crate::identity::PeerId;
use crate::lease::{LeaseDocument, Quote};
use crate::message::{LeaseStatus, PowerAction, Request, Response};
use crate::money::Amount;
use crate::names::{ActId, CreateId, Digest, LeaseId, Network, ProjectName, VmName};
use crate::ranking::Experience;
use crate::renewal::{RenewQuote, Renewal};
use crate::spec::{Query, VmSpec};
use crate::units::{Millis, Timestamp};
use receipts::Bills;
pub use release::Release;
pub use renewing::Agreed;
use renewing::Renewing;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// VMs one node rents at once, and failed creates it remembers beside them.
pub const MAX_RENTALS: usize = 1024;
/// Providers that one create turns to before it gives up.
const MAX_TRIES: usize = 32;
/// Providers whose past is remembered; the least recent goes.
const MAX_EXPERIENCES: usize = 4096;
/// How soon an unanswered message is said again, and at most after doubling.
const RETRY: Millis = Millis::secs(1);
const MAX_RETRY: Millis = Millis::secs(30);
/// The mesh answers or fails every request within 5 s; one that it forgot is taken for lost after this.
const UNANSWERED: Millis = Millis::secs(15);
/// After a restart nobody waits for a create any more, but what became of it is worth finding out for this long.
const RESOLVE: Millis = Millis::secs(60);
/// A board that changes while a create waits for a provider is looked at this often: a full one is 4096 adverts.
const LOOK_SPACING: Millis = Millis(100);
/// Power actions of one VM under way; a user has one, scripts a few.
const MAX_POWERS: usize = 16;
/// How often an action is asked for that is not answered.
pub const POWER_TRIES: u32 = 3;
/// Quotes that are no longer waited for, remembered so that what they hold is given back when they come.
const MAX_LATE: usize = 1024;
/// Leases being given back. Each belongs to a try of a create; with so many that do not get through, no more is begun.
const MAX_RELEASES: usize = 4096;

/// What a user asks for.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    pub create_id: CreateId,
    pub name: VmName,
    pub spec: VmSpec,
    pub query: Query,
    pub provider: Option<PeerId>,
    pub seed: Vec<u8>,
    /// How long it may take until the VM runs.
    pub timeout: Millis,
    /// Where nobody gives that much, less will do.
    pub allow_smaller: bool,
    /// The private key's path, for the user's ssh; it means nothing here.
    pub identity_file: Option<String>,
    pub project: Option<ProjectName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Discovering,
    Quoting,
    Accepting,
    Confirming,
    Leased,
    /// Ended by us; kept until the provider has said that the VM is gone.
    Releasing,
    Failed,
}

/// A VM that this node rents, as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub struct Rental {
    pub create_id: CreateId,
    pub name: VmName,
    pub spec: VmSpec,
    pub query: Query,
    pub provider: Option<PeerId>,
    #[serde(with = "serde_bytes")]
    pub seed: Vec<u8>,
    pub seed_hash: Digest,
    pub identity_file: Option<String>,
    pub created: Timestamp,
    pub deadline: Timestamp,
    pub phase: Phase,
    pub deal: Option<Deal>,
    /// Who was turned to already, and what came of it.
    pub tried: Vec<(PeerId, Fault)>,
    pub status: Option<LeaseStatus>,
    pub seen: Timestamp,
    pub unreachable_since: Option<Timestamp>,
    pub ran: bool,
    pub fault: Option<Fault>,
    pub marks: Marks,
    /// How often half as much may be asked for still.
    #[serde(default)]
    pub halvings: u8,
    #[serde(default)]
    pub project: Option<ProjectName>,
}

/// When each stage ended; zero while it has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    pub discovered: Timestamp,
    pub quoted: Timestamp,
    pub leased: Timestamp,
    pub provisioned: Timestamp,
    pub running: Timestamp,
}

/// What has been agreed with one provider so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deal {
    pub provider: PeerId,
    pub lease_id: LeaseId,
    pub quote: Signed,
    pub accept: Signed,
    pub accept_expires: Timestamp,
    pub grant: Option<Signed>,
    /// By our clock.
    pub granted: Timestamp,
    pub provisional_until: Timestamp,
    pub confirm: Option<Signed>,
    pub active: Option<Signed>,
    pub ends_at: Timestamp,
    /// As quoted: what was asked for, or less.
    #[serde(default)]
    pub lasts: Option<Millis>,
    #[serde(default)]
    pub renewal: Option<Renewal>,
    #[serde(default)]
    pub agreed: Option<Agreed>,
}

impl Rental {
    /// The terms that were agreed, from the quote that was verified when it came.
    pub fn terms(&self, network: &Network) -> Option<Sealed<Quote>> {
        self.deal.as_ref()?.quote.clone().open(network).ok()
    }
    pub fn document(&self, network: &Network) -> Option<LeaseDocument> {
        let deal = self.deal.as_ref()?;
        Some(LeaseDocument {
            version: LeaseDocument::VERSION,
            network: network.clone(),
            quote: (&deal.quote).into(),
            accept: (&deal.accept).into(),
            grant: deal.grant.as_ref()?.into(),
            confirm: deal.confirm.as_ref().map(Into::into),
            active: deal.active.as_ref().map(Into::into),
            renewal: deal.renewal.as_ref().map(Into::into),
        })
    }
    /// What an hour costs now: as quoted, or as it was renewed.
    pub fn costs(&self, network: &Network) -> Option<Amount> {
        let renewal = self.deal.as_ref().and_then(|deal| deal.renewal.as_ref());
        let renewed = renewal.and_then(|last| last.quote.clone().open::<RenewQuote>(network).ok());
        let renewed = renewed.map(|quote| quote.price.per_hour);
        renewed.or_else(|| self.terms(network).map(|terms| terms.price.per_hour))
    }
    fn is_creating(&self) -> bool {
        !self.ran && !matches!(self.phase, Phase::Releasing | Phase::Failed)
    }
}
/// The seed holds a secret key.
impl std::fmt::Debug for Rental {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rental({} {:?} {:?})", self.name, self.phase, self.status.as_ref().map(|status| status.vm))
    }
}

/// What a rental has under way; lost in a crash without loss.
#[derive(Default)]
struct Work {
    asked: BTreeMap<u64, (PeerId, Timestamp)>,
    quotes: Vec<Sealed<Quote>>,
    /// Others were asked because all of those may sell to somebody else first.
    widened: bool,
    /// Providers that may answer better in a moment: how often they did not, and what came instead.
    shaky: BTreeMap<PeerId, (u32, Fault)>,
    /// When those are asked again.
    retry_at: Option<Timestamp>,
    /// When the board was last looked at.
    looked: Timestamp,
    /// Since when more is looked for than was found: all that was found is out, which was so many.
    more_since: Option<(Timestamp, usize)>,
    /// Its user has been told that nobody but a silent provider is left.
    waits_for_silent: bool,
    rpc: Option<u64>,
    sent: Timestamp,
    /// When to act next if nothing comes before.
    wake: Option<Timestamp>,
    backoff: Option<Millis>,
    powers: BTreeMap<u64, Power>,
}

struct Power {
    ticket: u64,
    act: ActId,
    action: PowerAction,
    tries: u32,
    until: Timestamp,
}

impl Work {
    /// The next delay, doubling from `RETRY` to `MAX_RETRY`.
    fn back_off(&mut self, ctx: &mut Ctx) -> Timestamp {
        let delay = self.backoff.map_or(RETRY, |last| Millis((last.0 * 2).min(MAX_RETRY.0)));
        self.backoff = Some(delay);
        ctx.now + ctx.jitter(delay)
    }
    fn ask(&mut self, ctx: &mut Ctx, to: PeerId, request: Request) {
        self.rpc = Some(ctx.send(to, request));
        self.sent = ctx.now;
        self.wake = Some(ctx.now + UNANSWERED);
    }
}

#[derive(Default)]
pub struct Requestor {
    rentals: BTreeMap<CreateId, Rental>,
    work: BTreeMap<CreateId, Work>,
    releases: BTreeMap<LeaseId, Release>,
    late: BTreeMap<u64, PeerId>,
    /// With the number of the change that was the last.
    experience: BTreeMap<PeerId, (u64, Experience)>,
    lessons: u64,
    history: History,
    bills: Bills,
    renewing: Renewing,
    /// The board as it was last looked at, and whether it was settled.
    board_seen: (u64, Option<Timestamp>),
    /// Creates of an earlier run, for which nobody waits: what was begun is brought to its end, nothing new is begun.
    unattended: BTreeSet<CreateId>,
}

impl Requestor {
    pub fn restore_rental(&mut self, value: &[u8]) -> Result<(), Fault> {
        let rental: Rental = codec::decode(value, MAX_STORED).map_err(unreadable)?;
        self.rentals.insert(rental.create_id, rental);
        Ok(())
    }
    pub fn restore_release(&mut self, value: &[u8]) -> Result<(), Fault> {
        let release: Release = codec::decode(value, MAX_STORED).map_err(unreadable)?;
        self.releases.insert(release.lease_id, release);
        Ok(())
    }

    /// After a restart. Nobody waits any more for a create whose confirm never went out: it is taken back. What may
    /// have been confirmed is asked about, since it may be running and paid for.
    pub fn resume(&mut self, ctx: &mut Ctx) {
        let ids: Vec<CreateId> = self.rentals.keys().copied().collect();
        for id in ids {
            let Some(rental) = self.rentals.get_mut(&id) else { continue };
            match rental.phase {
                Phase::Discovering | Phase::Quoting | Phase::Accepting => self.give_up_deal_and_forget(ctx, id),
                Phase::Confirming | Phase::Leased => {
                    rental.deadline = rental.deadline.max(ctx.now + RESOLVE);
                    self.unattended.insert(id);
                    let wake = Some(ctx.now);
                    self.work.insert(id, Work { wake, ..Work::default() });
                }
                Phase::Releasing => {
                    let journaled = rental.deal.as_ref().is_some_and(|deal| self.releases.contains_key(&deal.lease_id));
                    if !journaled {
                        self.give_up_deal_and_forget(ctx, id);
                    }
                }
                Phase::Failed => {}
            }
        }
        self.resume_renewals(ctx);
        for release in self.releases.values_mut() {
            release.wake_now(ctx.now);
        }
    }

    pub fn rentals(&self) -> impl Iterator<Item = &Rental> {
        self.rentals.values()
    }
    pub fn rental(&self, id: CreateId) -> Option<&Rental> {
        self.rentals.get(&id)
    }
    /// What creates that have no provider yet look for, how many they know already that will not do, and since when.
    pub fn discovering(&self) -> impl Iterator<Item = (&Query, usize, Timestamp)> {
        let looking = self.rentals.values().filter(|rental| rental.phase == Phase::Discovering);
        looking.map(|rental| {
            let more = self.work.get(&rental.create_id).and_then(|work| work.more_since);
            let (since, out) = more.unwrap_or_default();
            (&rental.query, out, since)
        })
    }
    pub fn by_name(&self, name: &VmName) -> Option<&Rental> {
        self.rentals.values().find(|rental| rental.name == *name)
    }
    /// Providers whose connection must not be dropped: a VM of ours runs there.
    pub fn leased_peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        let dealing = self.rentals.values().filter(|rental| rental.phase != Phase::Failed);
        let rented = dealing.filter_map(|rental| rental.deal.as_ref().map(|deal| deal.provider));
        rented.chain(self.releases.values().map(|release| release.provider))
    }
    /// With that of the keys that it goes on for.
    pub fn experience(&self, peer: PeerId, predecessors: &[PeerId]) -> Experience {
        let of = |peer: &PeerId| self.experience.get(peer).map(|(_, experience)| *experience);
        let past = predecessors.iter().filter_map(of);
        past.fold(of(&peer).unwrap_or_default(), |all, past| Experience {
            succeeded: all.succeeded.saturating_add(past.succeeded),
            failed: all.failed.saturating_add(past.failed),
            ..all
        })
    }
    /// Whether a release still has to get through.
    pub fn has_unfinished(&self) -> bool {
        !self.releases.is_empty() || self.rentals.values().any(Rental::is_creating)
    }
    pub fn release_of(&self, lease_id: LeaseId) -> Option<&Release> {
        self.releases.get(&lease_id)
    }

    pub fn peer_connected(&mut self, ctx: &mut Ctx, peer: PeerId) {
        self.wake_deals_with(ctx.now, peer);
    }
    pub fn peer_disconnected(&mut self, ctx: &mut Ctx, peer: PeerId) {
        self.wake_deals_with(ctx.now, peer);
    }
    /// The way to this provider has changed: look at once.
    fn wake_deals_with(&mut self, now: Timestamp, peer: PeerId) {
        let theirs =
            self.rentals.values().filter(|rental| rental.deal.as_ref().is_some_and(|deal| deal.provider == peer));
        let dealing = [Phase::Accepting, Phase::Confirming, Phase::Leased];
        for rental in theirs.filter(|rental| dealing.contains(&rental.phase)) {
            let work = self.work.entry(rental.create_id).or_default();
            if work.rpc.is_none() {
                work.wake = Some(now);
            }
        }
        for release in self.releases.values_mut().filter(|release| release.provider == peer) {
            release.wake_now(now);
        }
    }

    pub fn response(&mut self, ctx: &mut Ctx, board: &Board, rpc: u64, result: Result<Response, RpcFailure>) {
        if let Some(lease_id) = self.releases.values().find(|release| release.rpc == Some(rpc)).map(|r| r.lease_id) {
            return self.release_answered(ctx, lease_id, result);
        }
        if self.renewal_answered(ctx, rpc, &result) {
            return;
        }
        if let Some(peer) = self.late.remove(&rpc) {
            return checks::late_quote(ctx, peer, result);
        }
        let owner = self
            .work
            .iter()
            .find(|(_, work)| work.rpc == Some(rpc) || work.asked.contains_key(&rpc) || work.powers.contains_key(&rpc));
        let Some((&id, _)) = owner else { return };
        let Some(work) = self.work.get_mut(&id) else { return };
        if let Some(power) = work.powers.remove(&rpc) {
            return self.power_answered(ctx, board, id, power, result);
        }
        if let Some((peer, sent)) = work.asked.remove(&rpc) {
            return self.quote_answered(ctx, board, id, peer, ctx.now - sent, result);
        }
        self.answered(ctx, board, id, result);
    }

    fn answered(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId, result: Result<Response, RpcFailure>) {
        if let Some(work) = self.work.get_mut(&id) {
            (work.rpc, work.wake) = (None, None);
        }
        match self.rentals.get(&id).map(|rental| rental.phase) {
            Some(Phase::Accepting) => self.accept_answered(ctx, board, id, result),
            Some(Phase::Confirming) => self.confirm_answered(ctx, board, id, result),
            Some(Phase::Leased) => self.status_answered(ctx, board, id, result),
            _ => {}
        }
    }

    pub fn advance(&mut self, ctx: &mut Ctx, board: &Board) {
        let seen = (board.revision(), ctx.settled);
        if seen != self.board_seen {
            self.board_seen = seen;
            self.wake_discovering(ctx.now);
        }
        let due: Vec<CreateId> = self
            .rentals
            .values()
            .filter(|rental| self.due_at(rental).is_some_and(|at| at <= ctx.now))
            .map(|rental| rental.create_id)
            .collect();
        for id in due {
            self.step(ctx, board, id);
        }
        self.advance_releases(ctx);
        self.advance_renewals(ctx);
    }

    /// The board has changed: who waits for a provider looks again, soon.
    fn wake_discovering(&mut self, now: Timestamp) {
        for rental in self.rentals.values().filter(|rental| rental.phase == Phase::Discovering) {
            let work = self.work.entry(rental.create_id).or_default();
            let soon = now.max(work.looked + LOOK_SPACING);
            work.wake = Some(work.wake.map_or(soon, |at| at.min(soon)));
        }
    }

    /// One rental, whose time has come.
    fn step(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId) {
        let Some(rental) = self.rentals.get(&id) else { return };
        if rental.is_creating() && rental.deadline <= ctx.now {
            let fault = self.out_of_time(ctx, board, rental);
            return self.fail(ctx, id, fault);
        }
        let phase = rental.phase;
        if let Some(work) = self.work.get_mut(&id) {
            let overdue: Vec<u64> =
                work.powers.iter().filter(|(_, power)| power.until <= ctx.now).map(|(rpc, _)| *rpc).collect();
            let overdue: Vec<Power> = overdue.into_iter().filter_map(|rpc| work.powers.remove(&rpc)).collect();
            let unanswered = work.rpc.is_some();
            let woken = work.wake.is_none_or(|at| at <= ctx.now);
            for power in overdue {
                self.power_answered(ctx, board, id, power, Err(RpcFailure::Timeout));
            }
            if !woken {
                return;
            }
            if unanswered {
                return self.answered(ctx, board, id, Err(RpcFailure::Timeout));
            }
        }
        match phase {
            Phase::Discovering => self.discover(ctx, board, id),
            Phase::Quoting => self.choose(ctx, board, id),
            Phase::Accepting => self.send_accept(ctx, board, id),
            Phase::Confirming => self.send_confirm(ctx, board, id),
            Phase::Leased => self.watch(ctx, id),
            Phase::Releasing | Phase::Failed => self.drop_work(ctx, id),
        }
    }

    fn due_at(&self, rental: &Rental) -> Option<Timestamp> {
        let work = self.work.get(&rental.create_id);
        let powers = work.into_iter().flat_map(|work| work.powers.values().map(|power| power.until));
        let deadline = rental.is_creating().then_some(rental.deadline);
        work.and_then(|work| work.wake).into_iter().chain(deadline).chain(powers).min()
    }

    fn out_of_time(&self, ctx: &Ctx, board: &Board, rental: &Rental) -> Fault {
        let work = self.work.get(&rental.create_id);
        if rental.phase == Phase::Discovering
            && rental.tried.is_empty()
            && let Some(work) = work.filter(|work| work.shaky.is_empty())
        {
            // Nobody was ever there to be waited for.
            return checks::nobody(ctx, board, rental, work);
        }
        let fault = Fault::new(ErrorCode::Timeout, format!("'{}' was not running in time", rental.name))
            .hint("give it longer with --timeout");
        let shaky = work.into_iter().flat_map(|work| &work.shaky);
        let tried = rental.tried.iter().map(|(peer, fault)| (peer, fault));
        let all: Vec<String> = tried
            .chain(shaky.map(|(peer, (_, fault))| (peer, fault)))
            .map(|(peer, fault)| format!("{}: {}", peer.short(), fault.message))
            .collect();
        if all.is_empty() { fault } else { fault.details(all.join("; ")) }
    }

    pub fn next_deadline(&self) -> Option<Timestamp> {
        let rentals = self.rentals.values().filter_map(|rental| self.due_at(rental));
        rentals.chain(self.releases.values().filter_map(Release::wake)).chain(self.next_renewal()).min()
    }

    fn learn(&mut self, peer: PeerId, change: impl FnOnce(&mut Experience)) {
        if self.experience.len() >= MAX_EXPERIENCES && !self.experience.contains_key(&peer) {
            let oldest = self.experience.iter().min_by_key(|(_, (lesson, _))| *lesson).map(|(peer, _)| *peer);
            oldest.map(|peer| self.experience.remove(&peer));
        }
        self.lessons += 1;
        let known = self.experience.entry(peer).or_default();
        known.0 = self.lessons;
        change(&mut known.1);
    }

    /// The clock was set back: what had so long to go has as long still.
    pub fn clock_set_back(&mut self, by: Millis) {
        for rental in self.rentals.values_mut().filter(|rental| rental.is_creating()) {
            rental.created = rental.created.set_back(by);
            rental.deadline = rental.deadline.set_back(by);
            if let Some(deal) = &mut rental.deal {
                deal.accept_expires = deal.accept_expires.set_back(by);
                deal.granted = deal.granted.set_back(by);
                deal.provisional_until = deal.provisional_until.set_back(by);
            }
        }
        for work in self.work.values_mut() {
            let more = work.more_since.as_mut().map(|(since, _)| since);
            let times = [&mut work.looked, &mut work.sent].into_iter().chain(&mut work.wake).chain(&mut work.retry_at);
            for at in times.chain(more) {
                *at = at.set_back(by);
            }
            for power in work.powers.values_mut() {
                power.until = power.until.set_back(by);
            }
        }
        self.renewals_set_back(by);
        for release in self.releases.values_mut() {
            release.clock_set_back(by);
        }
    }

    /// Ends a create with its reason; whatever may have been agreed is released.
    fn fail(&mut self, ctx: &mut Ctx, id: CreateId, fault: Fault) {
        let mut ops = self.release_deal(ctx, id);
        let Some(rental) = self.rentals.get_mut(&id) else { return };
        rental.phase = Phase::Failed;
        rental.fault = Some(fault);
        rental.seed.clear();
        ops.push(put(rental));
        ctx.persist(ops);
        self.drop_work(ctx, id);
        ctx.effect(Effect::Rental(id));
    }

    /// Nothing is done for it any more: who waits for an answer gets one, what was held for it is given back.
    fn drop_work(&mut self, ctx: &mut Ctx, id: CreateId) {
        let Some(work) = self.work.remove(&id) else { return };
        for quote in work.quotes {
            ctx.send(quote.provider, Request::Decline(quote.quote_id));
        }
        self.let_come_late(work.asked);
        for power in work.powers.into_values() {
            let result = Err(Fault::new(ErrorCode::WrongState, "the VM was destroyed meanwhile"));
            ctx.effect(Effect::Answer { ticket: power.ticket, result });
        }
    }

    fn let_come_late(&mut self, asked: BTreeMap<u64, (PeerId, Timestamp)>) {
        for (rpc, (peer, _)) in asked {
            if self.late.len() >= MAX_LATE {
                // Each that is forgotten costs its provider a hold of 30 s.
                self.late.pop_first();
            }
            self.late.insert(rpc, peer);
        }
    }

    fn forget(&mut self, ctx: &mut Ctx, id: CreateId) -> StoreOp {
        self.rentals.remove(&id);
        self.unattended.remove(&id);
        self.drop_work(ctx, id);
        StoreOp::delete(Table::Rentals, &id.0)
    }

    fn give_up_deal_and_forget(&mut self, ctx: &mut Ctx, id: CreateId) {
        let mut ops = self.release_deal(ctx, id);
        ops.push(self.forget(ctx, id));
        ctx.persist(ops);
        ctx.effect(Effect::Rental(id));
    }
}

fn put(rental: &Rental) -> StoreOp {
    StoreOp::put(Table::Rentals, &rental.create_id.0, rental)
}

fn unreadable(error: codec::DecodeError) -> Fault {
    Fault::internal(format!("a stored rental is {error}")).hint("restore the home from a backup")
}

fn no_such_vm(id: CreateId) -> Fault {
    Fault::new(ErrorCode::NoSuchVm, format!("no VM {id}")).hint("'golemnode vm list' shows yours")
}
