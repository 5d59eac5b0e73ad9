//! From a question to an active lease, and its release.
use super::metering::keys_of;
use super::{Offering, Provider, SKEW, put};
use crate::core::{Ctx, EventKind, Severity};
use crate::envelope::{Sealed, Signed};
use crate::identity::PeerId;
use crate::job::JobKind;
use crate::lease::{ACCEPT_LIFE, Accept, Active, Confirm, Grant, PROVISIONAL, QUOTE_HOLD, Quote};
use crate::ledger::{HOLD_REUSED, Hold, LeaseRow};
use crate::message::{ConfirmReq, LeaseStage, ProvisionStep, QuoteReq, Response, VmPhase};
use crate::names::{LeaseId, QuoteId};
use crate::refusal::Refusal;
use crate::seed::Seed;
use crate::shard::Site;
use crate::units::{Millis, Timestamp};

impl Provider {
    pub(super) fn quote(
        &mut self,
        ctx: &mut Ctx,
        from: PeerId,
        site: Option<Site>,
        request: QuoteReq,
    ) -> Result<Response, Refusal> {
        if self.draining {
            return Err(Refusal::NotProviding);
        }
        self.must_have_room()?;
        let Offering::Vms(offer) = &self.offering else { return Err(Refusal::NotProviding) };
        let predecessors = ctx.revoked.predecessors(from);
        if !offer.policy.serves(from, &predecessors) {
            return Err(Refusal::Denied);
        }
        let QuoteReq { create_id, mut spec } = request;
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
        let stranger_from = self.stranger_from(ctx, offer, from, site);
        let longest = Self::longest(offer, stranger_from);
        if spec.duration > longest && !spec.or_less {
            return Err(Refusal::LeaseTooLong { longest });
        }
        spec.duration = spec.duration.min(longest);
        if let Some(hold) = self.ledger.hold_for(from, create_id) {
            if hold.quote.spec == spec && hold.until > ctx.now + HOLD_REUSED {
                return Ok(Response::Quote(hold.quote.signed().clone()));
            }
            // Asked for again late, or in other words: a create holds a place once.
            let old = hold.quote.quote_id;
            self.ledger.decline(from, old);
        }
        let keys = keys_of(ctx, from);
        self.affords(&keys, &offer.price, spec.duration)?;
        if let Some(tier) = self.quotas.of(from, &predecessors) {
            self.ledger.admit_to_tier(ctx.now, &keys, tier, spec.resources)?;
        }
        if let Some(site) = stranger_from {
            self.admit_stranger(ctx, offer, site)?;
        }
        self.ledger.admit(ctx.now, spec.resources)?;
        self.ledger.make_room(ctx.now, from, site.and_then(Site::block))?;
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
            contested: self.ledger.is_contested(ctx.now, spec.resources),
            spec,
        };
        let quote = Sealed::seal(quote, ctx.key);
        let signed = quote.signed().clone();
        let until = quote.hold_until;
        self.ledger.hold(Hold { quote, create_id, site, stranger_from, until });
        Ok(Response::Quote(signed))
    }

    pub(super) fn accept(&mut self, ctx: &mut Ctx, from: PeerId, signed: Signed) -> Result<Response, Refusal> {
        let accept: Sealed<Accept> = signed.open(ctx.network)?;
        parties(ctx, from, accept.requestor, accept.provider)?;
        let lease_id = LeaseId::derive(ctx.me(), from, accept.create_id);
        if let Some(row) = self.ledger.lease(lease_id) {
            // Said before: the same words get the same answer, other words none.
            return match row.stage {
                _ if row.accept != *accept.signed() => Err(Refusal::Conflict),
                LeaseStage::Ended => Err(Refusal::Released(lease_id)),
                _ => Ok(Response::Granted(row.grant.clone())),
            };
        }
        if self.ledger.is_buried(from, lease_id) {
            return Err(Refusal::Released(lease_id));
        }
        if accept.expires + SKEW <= ctx.now || accept.expires > ctx.now + ACCEPT_LIFE + SKEW {
            return Err(Refusal::Expired("the accept".into()));
        }
        self.must_have_room()?;
        let hold = self.ledger.held(ctx.now, &accept)?;
        let (quote, stranger_from) = (hold.quote.clone(), hold.stranger_from);
        if let (Some(site), Offering::Vms(offer)) = (stranger_from, &self.offering) {
            self.admit_stranger(ctx, offer, site)?;
        }
        self.ledger.admit(ctx.now, quote.spec.resources)?;
        self.affords(&keys_of(ctx, from), &quote.price, quote.spec.duration)?;
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
            keep_until: Timestamp(0),
            wants_power: false,
            ran: false,
            vm: VmPhase::Waiting,
            revision: 1,
            acts: Vec::new(),
            fault: None,
            price: Some(quote.price.clone()),
            prepaid: self.prepaid,
            unpaid: false,
            renewal: None,
            stranger_from,
            unused_until: None,
            scaling: None,
        };
        ctx.persist(vec![put(&row)]);
        self.ledger.commit(quote.quote_id, row);
        Ok(Response::Granted(grant.signed().clone()))
    }

    pub(super) fn confirm(
        &mut self,
        ctx: &mut Ctx,
        from: PeerId,
        request: ConfirmReq,
        token: u64,
    ) -> Result<Response, Refusal> {
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
        row.vm = VmPhase::Provisioning(ProvisionStep::Image);
        row.touch();
        let row = row.clone();
        let mut ops = vec![put(&row)];
        ops.extend(self.jobs.order(ctx.now, row.lease_id, JobKind::Provision, None, VmPhase::Waiting));
        ctx.persist(ops);
        let response = Response::Active { active, status: row.status() };
        ctx.reply(token, response.clone());
        let message = format!("lease {} is active: {}, image {}", row.lease_id, row.spec.resources, row.spec.image);
        ctx.event(EventKind::Market, Severity::Info, message, Some(from.to_string()));
        Ok(response)
    }

    pub(super) fn release(&mut self, ctx: &mut Ctx, from: PeerId, lease_id: LeaseId) -> Result<Response, Refusal> {
        match self.ledger.owned(from, lease_id) {
            Ok(_) => {}
            Err(Refusal::NoSuchLease(_)) => {
                // Its accept may still be on the way: until that can no longer be valid, nothing of it starts.
                self.ledger.bury(from, lease_id, ctx.now + Millis(ACCEPT_LIFE.0 + 2 * SKEW.0))?;
                let me = ctx.me();
                let held = self
                    .ledger
                    .holds()
                    .find(|hold| hold.quote.requestor == from && LeaseId::derive(me, from, hold.create_id) == lease_id);
                if let Some(quote) = held.map(|hold| hold.quote.quote_id) {
                    self.ledger.decline(from, quote);
                }
                return Err(Refusal::NoSuchLease(lease_id));
            }
            Err(refusal) => return Err(refusal),
        }
        self.end(ctx, lease_id, None);
        self.status(from, lease_id)
    }
}

/// A signed message must be between the two ends of the connection it came over.
pub(super) fn parties(ctx: &Ctx, from: PeerId, requestor: PeerId, provider: PeerId) -> Result<(), Refusal> {
    if requestor != from {
        return Err(Refusal::BadSignature("it was signed by another peer than the one that sent it".into()));
    }
    if provider != ctx.me() {
        return Err(Refusal::BadSignature("it is meant for another provider".into()));
    }
    Ok(())
}
