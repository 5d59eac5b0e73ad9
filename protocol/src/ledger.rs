//! The provider's word: what is held, granted and let. Nothing here is ever sold twice.
//!
//! ```text
//!           quote                accept               confirm                release, failure
//!  (free) ────────▶ hold ──────────────▶ provisional ────────▶ active ────────────────────────▶ ended ─▶ (free)
//!    ▲                │ 30 s, decline        │ 30 s              │ time is over                  ▲  when the VM
//!    └────────────────┴──────────────────────┘                   └─▶ expired ── grace time ──────┘  is gone
//! ```
//! Capacity counts as taken from the accept until the VM is gone: a VM that is still being taken down uses its memory. A
//! hold stands for 30 s, or until somebody else has accepted what it held.
use crate::envelope::{Sealed, Signed};
use crate::error::Fault;
use crate::identity::PeerId;
use crate::lease::{Accept, LeaseDocument, QUOTE_HOLD, Quote};
use crate::message::{LeaseStage, LeaseStatus, VmPhase};
use crate::money::Price;
use crate::names::{ActId, CreateId, Digest, GuestUser, LeaseId, Network, QuoteId};
use crate::quota::{Tier, Usage};
use crate::refusal::Refusal;
use crate::renewal::Renewal;
use crate::shard::{Block, Site};
use crate::spec::VmSpec;
use crate::units::{Millis, Resources, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Open holds of one requestor: as many VMs as it makes at once here. A further one drops the oldest.
pub const HOLDS_PER_REQUESTOR: usize = 16;
/// Open holds of one block of addresses (version 4: a /24): a site whose machines rent at once, and a quarter of all.
pub const HOLDS_PER_BLOCK: usize = 64;
/// A hold younger than this is still being decided on, and is not dropped for a further one.
/// A requestor waits half a second for other quotes, and an answer goes around the world twice.
const HOLD_IN_USE: Millis = Millis::secs(2);
/// Who was told that there is no room asks again after this at the latest.
const ASK_AGAIN: Millis = Millis::secs(5);
/// A hold that is asked for again is given again while it has this long to stand; then a new one replaces it.
pub const HOLD_REUSED: Millis = Millis::secs(20);
/// Open holds in all. Each costs nothing to take.
pub const MAX_HOLDS: usize = 256;
/// Releases of leases that are not here (yet), kept until no accept of theirs can still be valid.
pub const MAX_TOMBSTONES: usize = 4096;
pub const TOMBSTONES_PER_REQUESTOR: usize = 32;
/// Ended leases kept so that a late question gets a true answer.
pub const MAX_ENDED: usize = 1024;
pub const ENDED_KEPT: Millis = Millis::secs(24 * 3600);
/// A lease is warned of this long before it ends, a short one when half of it is over.
const WARN: Millis = Millis::secs(600);
/// Actions of one VM that are known again: as many as its tenant has under way (`MAX_POWERS`).
const MAX_ACTS: usize = 16;

/// What a node has to let, apart from what is let already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    pub total: Resources,
    pub max_vms: u32,
}

#[derive(Clone, Debug)]
pub struct Hold {
    pub quote: Sealed<Quote>,
    pub create_id: CreateId,
    /// Where its requestor is.
    pub site: Option<Site>,
    /// The same, of one who pays nothing and whom the operator does not know.
    pub stranger_from: Option<Site>,
    /// By our clock as it is now; what the quote says is by our clock as it was.
    pub until: Timestamp,
}

/// A lease as the provider stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    pub lease_id: LeaseId,
    pub requestor: PeerId,
    pub spec: VmSpec,
    pub image_digest: Digest,
    pub guest_user: GuestUser,
    pub seed_hash: Digest,
    pub quote: Signed,
    pub accept: Signed,
    pub grant: Signed,
    pub confirm: Option<Signed>,
    pub active: Option<Signed>,
    /// Kept while the VM may still have to be made (again); wiped with it.
    #[serde(with = "serde_bytes")]
    pub seed: Vec<u8>,
    pub stage: LeaseStage,
    pub provisional_until: Timestamp,
    /// Zero before it is active.
    pub ends_at: Timestamp,
    pub ended_at: Timestamp,
    /// How long an expired lease's disk is kept: fixed when it expires, whatever is offered later.
    pub keep_until: Timestamp,
    /// Whether the tenant wants it to run: a host that was rebooted starts it again.
    pub wants_power: bool,
    /// Whether its tenant has had it: from then on a failure does not end the lease.
    pub ran: bool,
    pub vm: VmPhase,
    pub revision: u64,
    /// The last that were done, the latest last: one that is asked for again is not done again.
    #[serde(default)]
    pub acts: Vec<ActId>,
    pub fault: Option<Fault>,
    /// What it costs now: as quoted, or as renewed.
    #[serde(default)]
    pub price: Option<Price>,
    /// It runs on credit that was granted; else on trust, whatever is offered later.
    #[serde(default)]
    pub prepaid: bool,
    /// Stopped because its tenant's credit was used up.
    #[serde(default)]
    pub unpaid: bool,
    #[serde(default)]
    pub renewal: Option<Renewal>,
    /// Where its tenant was that pays nothing and whom the operator does not know.
    #[serde(default)]
    pub stranger_from: Option<Site>,
    /// When it is stopped, unless its tenant uses it before. None once that one has.
    #[serde(default)]
    pub unused_until: Option<Timestamp>,
    /// While it is given another size: of the old one and the new the larger.
    #[serde(default)]
    pub scaling: Option<Resources>,
}

impl LeaseRow {
    /// Whether its capacity is taken.
    pub fn counts(&self) -> bool {
        self.vm != VmPhase::Gone
    }
    /// What is let with it.
    pub fn takes(&self) -> Resources {
        self.scaling.unwrap_or(self.spec.resources)
    }
    /// When it is stopped because nobody has ever used it.
    pub fn unused_at(&self) -> Option<Timestamp> {
        self.unused_until.filter(|_| self.stage == LeaseStage::Active && self.vm == VmPhase::Running)
    }
    pub fn status(&self) -> LeaseStatus {
        LeaseStatus {
            lease_id: self.lease_id,
            stage: self.stage,
            revision: self.revision,
            vm: self.vm,
            fault: self.fault.clone(),
            guest_user: self.guest_user.clone(),
            active: self.active.clone(),
            receipt: None,
            credit_ends: None,
            resources: Some(self.spec.resources),
        }
    }
    pub fn document(&self, network: &Network) -> LeaseDocument {
        LeaseDocument {
            version: LeaseDocument::VERSION,
            network: network.clone(),
            quote: (&self.quote).into(),
            accept: (&self.accept).into(),
            grant: (&self.grant).into(),
            confirm: self.confirm.as_ref().map(Into::into),
            active: self.active.as_ref().map(Into::into),
            renewal: self.renewal.as_ref().map(Into::into),
        }
    }
    pub fn acted(&mut self, act: ActId) {
        if self.acts.len() >= MAX_ACTS {
            self.acts.remove(0);
        }
        self.acts.push(act);
    }
    pub fn touch(&mut self) {
        self.revision += 1;
    }
}

/// When it is to be said that an active lease ends soon.
pub fn expiry_warning(row: &LeaseRow) -> Option<Timestamp> {
    (row.stage == LeaseStage::Active).then(|| row.ends_at.set_back(warn_before(row.spec.duration)))
}

/// How long before its end a lease of so much time is warned of: time enough to renew it.
pub fn warn_before(duration: Millis) -> Millis {
    Millis(WARN.0.min(duration.0 / 2))
}

fn is_gone(row: &LeaseRow) -> bool {
    row.stage == LeaseStage::Ended && row.vm == VmPhase::Gone
}

/// When something about it next ends by itself.
fn lapses(row: &LeaseRow) -> Option<Timestamp> {
    match row.stage {
        LeaseStage::Provisional => Some(row.provisional_until),
        LeaseStage::Active => Some(row.unused_at().map_or(row.ends_at, |at| at.min(row.ends_at))),
        LeaseStage::Expired => Some(row.keep_until),
        LeaseStage::Ended => is_gone(row).then(|| row.ended_at + ENDED_KEPT),
    }
}

fn is_idle(until: Timestamp, now: Timestamp) -> bool {
    until + HOLD_IN_USE <= now + QUOTE_HOLD
}

#[derive(Debug, Default)]
pub struct Ledger {
    capacity: Capacity,
    holds: BTreeMap<QuoteId, Hold>,
    leases: BTreeMap<LeaseId, LeaseRow>,
    /// Whose, and until when. By whom, too: a stranger's release of the same lease takes the place of nobody's.
    tombstones: BTreeMap<(PeerId, LeaseId), Timestamp>,
    /// Grows with every change of a lease.
    changes: u64,
    sums: OnceLock<Sums>,
}

/// What follows from all leases and tombstones, until one of them changes: most of what a node is told changes none, and
/// a host has a thousand that are over.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    taken: Resources,
    vms: usize,
    next_lapse: Option<Timestamp>,
}

impl Ledger {
    /// Differs from what it was when anything about a lease may be different.
    pub fn changes(&self) -> u64 {
        self.changes
    }
    fn changed(&mut self) {
        self.changes += 1;
        self.sums.take();
    }
    pub fn set_capacity(&mut self, capacity: Capacity) {
        self.capacity = capacity;
    }
    pub fn restore(&mut self, row: LeaseRow) {
        self.changed();
        self.leases.insert(row.lease_id, row);
    }
    pub fn leases(&self) -> impl Iterator<Item = &LeaseRow> {
        self.leases.values()
    }
    pub fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.holds.values()
    }
    pub fn lease(&self, id: LeaseId) -> Option<&LeaseRow> {
        self.leases.get(&id)
    }

    /// What is let.
    pub fn taken(&self) -> Resources {
        self.sums().taken
    }
    /// What is not let, whoever is being quoted to: this is advertised. (Holds come and go with every question.)
    pub fn free(&self) -> Resources {
        self.capacity.total.minus(self.taken())
    }
    pub fn drop_holds(&mut self) {
        self.holds.clear();
    }
    pub fn vms(&self) -> usize {
        self.sums().vms
    }
    fn sums(&self) -> &Sums {
        self.sums.get_or_init(|| {
            let (mut sums, mut gone) = (Sums::default(), 0);
            sums.next_lapse = self.tombstones.values().copied().min();
            for row in self.leases.values() {
                if row.counts() {
                    sums.taken = sums.taken.plus(row.takes());
                    sums.vms += 1;
                }
                gone += usize::from(is_gone(row));
                sums.next_lapse = sums.next_lapse.into_iter().chain(lapses(row)).min();
            }
            if gone > MAX_ENDED {
                sums.next_lapse = Some(Timestamp(0));
            }
            sums
        })
    }

    /// A hold that this requestor has for this create already: a repeated question gets the same answer.
    pub fn hold_for(&self, requestor: PeerId, create_id: CreateId) -> Option<&Hold> {
        self.holds.values().find(|hold| hold.create_id == create_id && hold.quote.requestor == requestor)
    }

    /// Whether it fits beside what is let. Asked before a quote, and again when that is accepted: a hold keeps a place
    /// until somebody else takes it, so that nobody keeps others from renting by asking only.
    pub fn admit(&self, now: Timestamp, asked: Resources) -> Result<(), Refusal> {
        let free = self.free();
        if !asked.fits_in(free) {
            let ever = asked.fits_in(self.capacity.total);
            return Err(Refusal::Exhausted {
                asked,
                free,
                retry_after_s: ever.then(|| self.again_after(now, |_| true)),
            });
        }
        if self.vms() >= self.capacity.max_vms as usize {
            let retry_after_s = (self.capacity.max_vms > 0).then(|| self.again_after(now, |_| true));
            return Err(Refusal::TooManyVms { most: self.capacity.max_vms, retry_after_s });
        }
        Ok(())
    }

    /// Whether this one may have so much, beside what is let to others.
    pub fn may_grow(&self, now: Timestamp, row: &LeaseRow, to: Resources) -> Result<(), Refusal> {
        let free = self.free().plus(row.takes());
        if to.fits_in(free) {
            return Ok(());
        }
        let ever = to.fits_in(self.capacity.total);
        let retry_after_s = ever.then(|| self.again_after(now, |other| other.lease_id != row.lease_id));
        Err(Refusal::Exhausted { asked: to, free, retry_after_s })
    }

    /// Whether the tier of these (one party's keys) has room for it. What is held for them must not be more, too.
    pub fn may_grow_in_tier(
        &self,
        now: Timestamp,
        peers: &[PeerId],
        tier: Tier,
        row: &LeaseRow,
        to: Resources,
    ) -> Result<(), Refusal> {
        let (quota, used) = (tier.quota(), self.usage_of(peers));
        let others = Usage { vms: used.vms.saturating_sub(1), resources: used.resources.minus(row.takes()) };
        if quota.allows(others.plus(to)) {
            return Ok(());
        }
        let ever = quota.allows(Usage::default().plus(to));
        let of_others = |other: &LeaseRow| other.lease_id != row.lease_id && peers.contains(&other.requestor);
        let retry_after_s = ever.then(|| self.again_after(now, of_others));
        Err(Refusal::Quota { tier, used: others, asked: to, retry_after_s })
    }

    /// When to ask again, in seconds, for what these have now. It is no promise: a lease may be given back at any time,
    /// so nobody is sent away for long.
    pub fn again_after(&self, now: Timestamp, of: impl Fn(&LeaseRow) -> bool) -> u32 {
        let ends = |row: &LeaseRow| match row.stage {
            LeaseStage::Provisional => row.provisional_until,
            LeaseStage::Active | LeaseStage::Expired | LeaseStage::Ended => row.ends_at,
        };
        let first = self.leases.values().filter(|row| row.counts() && of(row)).map(ends).min();
        let wait = first.map_or(Millis(0), |first| Millis(first.0.saturating_sub(now.0)));
        wait.clamp(Millis::secs(1), ASK_AGAIN).as_secs() as u32
    }

    /// What these peers have: leases, and what is held for them.
    pub fn usage_of(&self, peers: &[PeerId]) -> Usage {
        let held = self.holds.values().filter(|hold| peers.contains(&hold.quote.requestor));
        held.fold(self.leased_by(peers), |used, hold| used.plus(hold.quote.spec.resources))
    }
    fn leased_by(&self, peers: &[PeerId]) -> Usage {
        let rows = self.leases.values().filter(|row| row.counts() && peers.contains(&row.requestor));
        rows.fold(Usage::default(), |used, row| used.plus(row.takes()))
    }

    /// Whether the tier of these (one party's keys) has room for it. What was held for them and not taken makes room, the
    /// oldest first, unless it is so young that it is still in use.
    pub fn admit_to_tier(
        &mut self,
        now: Timestamp,
        peers: &[PeerId],
        tier: Tier,
        asked: Resources,
    ) -> Result<(), Refusal> {
        let quota = tier.quota();
        let leased = self.leased_by(peers);
        while !quota.allows(self.usage_of(peers).plus(asked)) {
            let own = self.holds.values().filter(|hold| peers.contains(&hold.quote.requestor));
            let oldest = own.map(|hold| (hold.until, hold.quote.quote_id)).min();
            let idle = oldest.filter(|(until, _)| is_idle(*until, now));
            let Some((_, quote)) = idle.filter(|_| quota.allows(leased.plus(asked))) else {
                let used = self.usage_of(peers);
                let ever = quota.allows(Usage::default().plus(asked));
                let retry_after_s = ever.then(|| self.again_after(now, |row| peers.contains(&row.requestor)));
                return Err(Refusal::Quota { tier, used, asked, retry_after_s });
            };
            self.holds.remove(&quote);
        }
        Ok(())
    }

    /// Makes room for one more hold: where a requestor, a block of addresses or all together have as many as they may,
    /// the oldest of those goes, unless it is so young that it is still in use.
    pub fn make_room(&mut self, now: Timestamp, from: PeerId, block: Option<Block>) -> Result<(), Refusal> {
        self.drop_oldest(now, HOLDS_PER_REQUESTOR, |hold| hold.quote.requestor == from)?;
        if block.is_some() {
            self.drop_oldest(now, HOLDS_PER_BLOCK, |hold| hold.site.and_then(Site::block) == block)?;
        }
        self.drop_oldest(now, MAX_HOLDS, |_| true)
    }

    fn drop_oldest(&mut self, now: Timestamp, most: usize, of: impl Fn(&Hold) -> bool) -> Result<(), Refusal> {
        let holds = self.holds.values().filter(|hold| of(hold));
        if holds.clone().count() < most {
            return Ok(());
        }
        let oldest = holds.map(|hold| (hold.until, hold.quote.quote_id)).min();
        let Some((_, quote)) = oldest.filter(|(until, _)| is_idle(*until, now)) else {
            return Err(Refusal::TooManyRequests { retry_after_s: HOLD_IN_USE.as_secs() as u32 });
        };
        self.holds.remove(&quote);
        Ok(())
    }

    /// Whether there is not enough for it and for all that others are deciding on.
    pub fn is_contested(&self, now: Timestamp, asked: Resources) -> bool {
        let young = self.holds.values().filter(|hold| !is_idle(hold.until, now)).map(|hold| hold.quote.spec.resources);
        let wanted = young.clone().fold(asked, Resources::plus);
        !wanted.fits_in(self.free()) || self.vms() + young.count() >= self.capacity.max_vms as usize
    }

    /// Must follow `admit` and `make_room`.
    pub fn hold(&mut self, hold: Hold) {
        self.holds.insert(hold.quote.quote_id, hold);
    }

    /// The requestor does not want it. Nobody else's hold is touched.
    pub fn decline(&mut self, requestor: PeerId, quote: QuoteId) {
        if self.holds.get(&quote).is_some_and(|hold| hold.quote.requestor == requestor) {
            self.holds.remove(&quote);
        }
    }

    /// The hold behind an accept, if it still stands.
    pub fn held(&self, now: Timestamp, accept: &Accept) -> Result<&Hold, Refusal> {
        let mut own = self
            .holds
            .values()
            .filter(|hold| hold.quote.requestor == accept.requestor && hold.create_id == accept.create_id);
        own.find(|hold| hold.until > now && hold.quote.digest() == accept.quote_hash).ok_or(Refusal::QuoteGone)
    }

    /// Hold → provisional in one step. Must follow `admit` with nothing between.
    pub fn commit(&mut self, quote: QuoteId, row: LeaseRow) {
        self.changed();
        self.holds.remove(&quote);
        self.leases.insert(row.lease_id, row);
    }

    /// The lease, if it is this peer's. A stranger learns only that it is not his.
    pub fn owned(&self, from: PeerId, id: LeaseId) -> Result<&LeaseRow, Refusal> {
        match self.leases.get(&id) {
            Some(row) if row.requestor == from => Ok(row),
            Some(_) => Err(Refusal::NotYours(id)),
            None if self.is_buried(from, id) => Err(Refusal::Released(id)),
            None => Err(Refusal::NoSuchLease(id)),
        }
    }
    pub fn owned_mut(&mut self, from: PeerId, id: LeaseId) -> Result<&mut LeaseRow, Refusal> {
        self.owned(from, id)?;
        self.changed();
        self.leases.get_mut(&id).ok_or(Refusal::NoSuchLease(id))
    }
    pub fn row_mut(&mut self, id: LeaseId) -> Option<&mut LeaseRow> {
        self.changed();
        self.leases.get_mut(&id)
    }

    pub fn is_buried(&self, owner: PeerId, id: LeaseId) -> bool {
        self.tombstones.contains_key(&(owner, id))
    }
    /// Remembers a release that came before its accept, so that a late accept starts nothing.
    pub fn bury(&mut self, owner: PeerId, id: LeaseId, until: Timestamp) -> Result<(), Refusal> {
        if self.is_buried(owner, id) {
            return Ok(());
        }
        let own = self.tombstones.keys().filter(|(of, _)| *of == owner).count();
        if own >= TOMBSTONES_PER_REQUESTOR || self.tombstones.len() >= MAX_TOMBSTONES {
            return Err(Refusal::TooManyRequests { retry_after_s: 60 });
        }
        self.changed();
        self.tombstones.insert((owner, id), until);
        Ok(())
    }

    /// Removes what is over: holds, tombstones, provisional leases never confirmed, ended leases long gone.
    /// Returns the leases whose rows are to be dropped from the store.
    pub fn lapse(&mut self, now: Timestamp) -> Vec<LeaseId> {
        self.changed();
        self.holds.retain(|_, hold| hold.until > now);
        self.tombstones.retain(|_, until| *until > now);
        let over = |row: &LeaseRow| match row.stage {
            LeaseStage::Provisional => row.provisional_until <= now,
            LeaseStage::Ended => is_gone(row) && row.ended_at + ENDED_KEPT <= now,
            LeaseStage::Active | LeaseStage::Expired => false,
        };
        let mut dropped: Vec<LeaseId> = self.leases.values().filter(|row| over(row)).map(|row| row.lease_id).collect();
        let mut gone: Vec<(Timestamp, LeaseId)> = self
            .leases
            .values()
            .filter(|row| is_gone(row) && !over(row))
            .map(|row| (row.ended_at, row.lease_id))
            .collect();
        gone.sort_unstable();
        let surplus = gone.len().saturating_sub(MAX_ENDED);
        dropped.extend(gone.into_iter().take(surplus).map(|(_, id)| id));
        for id in &dropped {
            self.leases.remove(id);
        }
        dropped
    }

    /// When something here next ends by itself.
    pub fn next_lapse(&self) -> Option<Timestamp> {
        let holds = self.holds.values().map(|hold| hold.until);
        holds.chain(self.sums().next_lapse).min()
    }

    /// The clock was set while this node ran. When a lease ends was signed by the clock as it was; what counts is how
    /// long it lasts. The leases that it concerns.
    pub fn clock_set(&mut self, by: i64) -> Vec<LeaseId> {
        self.changed();
        let mut moved = Vec::new();
        for row in self.leases.values_mut() {
            let end = match row.stage {
                LeaseStage::Active => &mut row.ends_at,
                LeaseStage::Expired => &mut row.keep_until,
                // Set back, it has been seen to with everything else that waits.
                LeaseStage::Provisional if by > 0 => &mut row.provisional_until,
                LeaseStage::Provisional | LeaseStage::Ended => continue,
            };
            *end = Timestamp(end.0.saturating_add_signed(by));
            row.unused_until = row.unused_until.map(|at| Timestamp(at.0.saturating_add_signed(by)));
            moved.push(row.lease_id);
        }
        moved
    }

    /// The clock was set back: what had so long to go has as long still. The ends of leases are `clock_set`'s affair.
    pub fn clock_set_back(&mut self, by: Millis) {
        self.changed();
        for hold in self.holds.values_mut() {
            hold.until = hold.until.set_back(by);
        }
        for until in self.tombstones.values_mut() {
            *until = until.set_back(by);
        }
        for row in self.leases.values_mut() {
            row.provisional_until = row.provisional_until.set_back(by);
            row.ended_at = row.ended_at.set_back(by);
        }
    }
}
