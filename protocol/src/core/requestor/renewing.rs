//! More time for a VM. What we agree to is on disk before it is said, and said again until there is an answer.
use super::checks::refused;
use super::{Deal, POWER_TRIES, Phase, Requestor, UNANSWERED, no_such_vm, put};
use crate::core::{Ctx, Effect, EventKind, RpcFailure, Severity};
use crate::envelope::{Sealed, Signed};
use crate::error::{ErrorCode, Fault};
use crate::ledger::warn_before;
use crate::message::{Request, Response};
use crate::money::Amount;
use crate::names::CreateId;
use crate::refusal::Refusal;
use crate::renewal::{Renew, RenewQuote, Renewal, Renewed};
use crate::units::{Millis, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Renewals under way: a user has one, scripts a few.
const MAX_RENEWING: usize = 64;

/// What we have agreed to, until the provider has said that it has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    pub quote: Signed,
    pub renew: Signed,
    pub until: Timestamp,
}

struct Asked {
    create_id: CreateId,
    /// Nobody waits for one that an earlier run has begun.
    ticket: Option<u64>,
    duration: Millis,
    most: Option<Amount>,
    tries: u32,
    until: Timestamp,
}

#[derive(Default)]
pub(super) struct Renewing {
    asked: BTreeMap<u64, Asked>,
    /// Rentals of which it was said that they end soon, and when.
    warned: BTreeMap<CreateId, Timestamp>,
}

impl Requestor {
    pub fn renew(&mut self, ctx: &mut Ctx, ticket: u64, id: CreateId, duration: Millis, most: Option<Amount>) {
        let refusal = match self.rentals.get(&id) {
            None => no_such_vm(id),
            Some(_) if self.renewing.asked.len() >= MAX_RENEWING => {
                Refusal::TooManyRequests { retry_after_s: 1 }.into()
            }
            Some(_) if self.renewing.asked.values().any(|asked| asked.create_id == id) => {
                Fault::new(ErrorCode::WrongState, "it is being renewed already")
            }
            Some(rental) => match rental.deal.as_ref().filter(|_| rental.phase == Phase::Leased) {
                Some(deal) => {
                    let until = ctx.now + UNANSWERED;
                    let asked = Asked { create_id: id, ticket: Some(ticket), duration, most, tries: 1, until };
                    let request = Request::RenewQuote { lease_id: deal.lease_id, duration };
                    let rpc = ctx.send(deal.provider, request);
                    self.renewing.asked.insert(rpc, asked);
                    return;
                }
                None => Fault::new(ErrorCode::WrongState, format!("'{}' has no active lease", rental.name))
                    .hint("'golemnode vm info' shows its state"),
            },
        };
        ctx.effect(Effect::Answer { ticket, result: Err(refusal) });
    }

    /// After a restart: what was agreed to may have been taken.
    pub(super) fn resume_renewals(&mut self, ctx: &mut Ctx) {
        let open = self.rentals.values().filter(|rental| rental.phase == Phase::Leased);
        let open: Vec<CreateId> = open
            .filter(|rental| rental.deal.as_ref().is_some_and(|deal| deal.agreed.is_some()))
            .map(|rental| rental.create_id)
            .collect();
        for create_id in open {
            let until = ctx.now + UNANSWERED;
            let asked = Asked { create_id, ticket: None, duration: Millis(0), most: None, tries: 0, until };
            self.say_renewal(ctx, asked);
        }
    }

    fn say_renewal(&mut self, ctx: &mut Ctx, asked: Asked) {
        let deal = self.rentals.get(&asked.create_id).and_then(|rental| rental.deal.as_ref());
        let Some((deal, agreed)) = deal.and_then(|deal| Some((deal, deal.agreed.as_ref()?))) else {
            return answer(ctx, &asked, Err(Fault::new(ErrorCode::WrongState, "its lease has ended meanwhile")));
        };
        let request = Request::Renew { quote: agreed.quote.clone(), renew: agreed.renew.clone() };
        let rpc = ctx.send(deal.provider, request);
        self.renewing.asked.insert(rpc, Asked { tries: asked.tries + 1, ..asked });
    }

    /// True if the answer was to one of these.
    pub(super) fn renewal_answered(&mut self, ctx: &mut Ctx, rpc: u64, result: &Result<Response, RpcFailure>) -> bool {
        let Some(asked) = self.renewing.asked.remove(&rpc) else { return false };
        match result {
            Ok(Response::RenewQuote(quote)) => self.renewal_quoted(ctx, asked, quote.clone()),
            Ok(Response::Renewed { renewed, .. }) => self.renewed(ctx, asked, renewed.clone()),
            // Whether it was taken nobody knows. The provider takes it once.
            Err(_) if self.has_agreed(asked.create_id) && asked.tries < POWER_TRIES && ctx.now < asked.until => {
                self.say_renewal(ctx, asked);
            }
            // It stays agreed to, and is said again by the next run or with the next renewal.
            Err(_) if self.has_agreed(asked.create_id) => answer(ctx, &asked, Err(refused(result.clone()))),
            _ => {
                self.drop_agreed(ctx, asked.create_id);
                answer(ctx, &asked, Err(refused(result.clone())));
            }
        }
        true
    }

    fn has_agreed(&self, id: CreateId) -> bool {
        let deal = self.rentals.get(&id).and_then(|rental| rental.deal.as_ref());
        deal.is_some_and(|deal| deal.agreed.is_some())
    }
    fn drop_agreed(&mut self, ctx: &mut Ctx, id: CreateId) {
        let Some(rental) = self.rentals.get_mut(&id) else { return };
        let Some(deal) = rental.deal.as_mut().filter(|deal| deal.agreed.is_some()) else { return };
        deal.agreed = None;
        ctx.persist(vec![put(rental)]);
    }

    fn renewal_quoted(&mut self, ctx: &mut Ctx, asked: Asked, signed: Signed) {
        let Some(rental) = self.rentals.get_mut(&asked.create_id) else { return };
        let costs = rental.costs(ctx.network).unwrap_or_default();
        let currency = rental.terms(ctx.network).map(|terms| terms.price.currency.clone());
        let Some(deal) = rental.deal.as_mut() else { return };
        let quote = match signed.open::<RenewQuote>(ctx.network) {
            Ok(quote) => quote,
            Err(error) => return answer(ctx, &asked, Err(error.into())),
        };
        if currency.as_ref() != Some(&quote.price.currency) {
            let fault = Fault::new(ErrorCode::BadToken, format!("the provider asks for {} now", quote.price.currency));
            return answer(ctx, &asked, Err(fault.hint("a lease is paid in one currency: rent anew")));
        }
        if let Err(fault) = fits(ctx, deal, &asked, &quote, costs) {
            return answer(ctx, &asked, Err(fault));
        }
        let renew = Renew {
            network: ctx.network.clone(),
            provider: deal.provider,
            requestor: ctx.me(),
            lease_id: deal.lease_id,
            quote_hash: quote.digest(),
            nonce: u64::from_be_bytes(first_8(ctx.random_16())),
            expires: quote.hold_until,
        };
        let renew = Sealed::seal(renew, ctx.key).signed().clone();
        deal.agreed = Some(Agreed { quote: quote.signed().clone(), renew, until: quote.until });
        ctx.persist(vec![put(rental)]);
        self.say_renewal(ctx, Asked { tries: 0, until: ctx.now + UNANSWERED, ..asked });
    }

    fn renewed(&mut self, ctx: &mut Ctx, asked: Asked, signed: Signed) {
        let Some(rental) = self.rentals.get_mut(&asked.create_id) else { return };
        let Some(deal) = rental.deal.as_mut() else { return };
        let Some(agreed) = deal.agreed.take() else { return };
        let sound = signed.clone().open::<Renewed>(ctx.network).is_ok_and(|renewed| {
            let theirs = (renewed.provider, renewed.requestor, renewed.lease_id);
            theirs == (deal.provider, ctx.me(), deal.lease_id)
                && renewed.renew_hash == agreed.renew.digest()
                && renewed.ends_at == agreed.until
        });
        if !sound {
            deal.agreed = Some(agreed);
            let fault = Fault::new(ErrorCode::BadToken, "the provider's word for the renewal does not fit it");
            return answer(ctx, &asked, Err(fault));
        }
        deal.ends_at = agreed.until;
        deal.renewal = Some(Renewal { quote: agreed.quote, renew: agreed.renew, renewed: signed });
        ctx.persist(vec![put(rental)]);
        ctx.effect(Effect::Rental(asked.create_id));
        answer(ctx, &asked, Ok(()));
    }

    pub(super) fn advance_renewals(&mut self, ctx: &mut Ctx) {
        let asked = &self.renewing.asked;
        // The mesh forgot them.
        let lost: Vec<u64> =
            asked.iter().filter(|(_, asked)| asked.until + UNANSWERED <= ctx.now).map(|(rpc, _)| *rpc).collect();
        for rpc in lost {
            self.renewal_answered(ctx, rpc, &Err(RpcFailure::Timeout));
        }
        let ends = self.rentals.values().filter_map(|rental| Some((rental, ending(rental)?)));
        let soon = ends.filter(|(rental, (warn_at, ends_at))| {
            *warn_at <= ctx.now && self.renewing.warned.get(&rental.create_id) != Some(ends_at)
        });
        let soon: Vec<(CreateId, String, Timestamp)> =
            soon.map(|(rental, (_, ends_at))| (rental.create_id, rental.name.to_string(), ends_at)).collect();
        for (id, name, ends_at) in soon {
            self.renewing.warned.insert(id, ends_at);
            let message = format!(
                "VM '{name}' stops in {}, when its lease ends: 'golemnode vm renew {name} --for 2h' prolongs it",
                ends_at - ctx.now
            );
            ctx.event(EventKind::Market, Severity::Warning, message, Some(name));
        }
        let rentals = &self.rentals;
        self.renewing.warned.retain(|id, _| rentals.contains_key(id));
    }

    pub(super) fn next_renewal(&self) -> Option<Timestamp> {
        let lost = self.renewing.asked.values().map(|asked| asked.until + UNANSWERED);
        let unwarned = self.rentals.values().filter_map(|rental| {
            let (warn_at, ends_at) = ending(rental)?;
            (self.renewing.warned.get(&rental.create_id) != Some(&ends_at)).then_some(warn_at)
        });
        lost.chain(unwarned).min()
    }

    pub(super) fn renewals_set_back(&mut self, by: Millis) {
        for asked in self.renewing.asked.values_mut() {
            asked.until = asked.until.set_back(by);
        }
    }
}

/// When it is to be said of a VM that it stops soon, and when it does.
fn ending(rental: &super::Rental) -> Option<(Timestamp, Timestamp)> {
    let deal = rental.deal.as_ref().filter(|deal| rental.phase == Phase::Leased && deal.ends_at > Timestamp(0))?;
    Some((deal.ends_at.set_back(warn_before(rental.lasts())), deal.ends_at))
}

fn fits(ctx: &Ctx, deal: &Deal, asked: &Asked, quote: &RenewQuote, costs: Amount) -> Result<(), Fault> {
    let theirs = (quote.provider, quote.requestor, quote.lease_id);
    let same_grant = deal.grant.as_ref().is_some_and(|grant| grant.digest() == quote.grant_hash);
    let time = quote.from == deal.ends_at && quote.from.0.checked_add(asked.duration.0) == Some(quote.until.0);
    if theirs != (deal.provider, ctx.me(), deal.lease_id) || !same_grant || !time {
        return Err(Fault::new(ErrorCode::InvalidRequest, "the provider quoted something else than was asked"));
    }
    if quote.price.per_hour > asked.most.unwrap_or(costs) {
        let fault = Fault::new(ErrorCode::Unavailable, format!("the provider asks {} now", quote.price));
        return Err(fault.hint(format!("'--max-price {}' agrees to that", quote.price.per_hour)));
    }
    Ok(())
}

fn answer(ctx: &mut Ctx, asked: &Asked, result: Result<(), Fault>) {
    if let Some(ticket) = asked.ticket {
        ctx.effect(Effect::Answer { ticket, result: result.map(|()| asked.create_id) });
    }
}

fn first_8(bytes: [u8; 16]) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    first
}
