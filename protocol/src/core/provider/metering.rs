//! What a lease costs: a meter for each, receipts by the hour and at the end, and the credit that VMs run on.
//!
//! A VM is charged for from when it first runs, while its tenant has it: on, or off because its tenant wants it off.
//! What it is away through its provider's fault is not: after a fault nothing since it was last seen, while it is being
//! started nothing, and nothing of the time in which this process was not there.
use super::Provider;
use crate::codec::{self, MAX_STORED};
use crate::core::receipts::Receipts;
use crate::core::{Ctx, EventKind, Severity, StoreOp, Table};
use crate::credit::{CreditRow, Credits};
use crate::envelope::{Sealed, Signed};
use crate::error::Fault;
use crate::identity::PeerId;
use crate::job::{Found, FoundState};
use crate::ledger::LeaseRow;
use crate::message::{LeaseStage, LeaseStatus, Response, VmPhase};
use crate::meter::{MAX_PRICES, Meter, MeterRow};
use crate::money::{Price, Sum};
use crate::names::{Currency, LeaseId};
use crate::receipt::{Countersign, EVERY, Receipt, ReceiptRow};
use crate::refusal::Refusal;
use crate::units::{Millis, Timestamp};
use std::collections::BTreeMap;

/// What a new lease asks for in advance, and when a tenant is warned: so much of all that it rents.
const AHEAD: Millis = Millis::secs(3600);

#[derive(Default)]
pub(super) struct Metering {
    meters: BTreeMap<LeaseId, Meter>,
    receipts: Receipts,
    credits: Credits,
    /// Leases whose credit ends soon, and when: their tenants and the operator were told.
    ending: BTreeMap<LeaseId, Timestamp>,
    /// How often the ledger had changed when meters last followed it; none when they have something to say themselves.
    followed: Option<u64>,
}

/// Whether its tenant has it now.
fn is_charged(row: &LeaseRow) -> bool {
    let has_it = match row.vm {
        VmPhase::Running | VmPhase::Suspended | VmPhase::Stopping => true,
        VmPhase::Stopped => !row.wants_power,
        _ => false,
    };
    row.stage == LeaseStage::Active && row.ran && !row.unpaid && has_it
}

/// Whether it is away though its tenant did nothing for it.
fn is_fault(row: &LeaseRow) -> bool {
    let failed = matches!(row.vm, VmPhase::Failed | VmPhase::Provisioning(_));
    row.stage == LeaseStage::Active && (failed || row.vm == VmPhase::Stopped && row.wants_power)
}

fn is_over(row: &LeaseRow) -> bool {
    matches!(row.stage, LeaseStage::Expired | LeaseStage::Ended)
}

impl Metering {
    fn save(&mut self, lease_id: LeaseId) -> Option<StoreOp> {
        let meter = self.meters.get_mut(&lease_id)?;
        meter.saved();
        let row = MeterRow { lease_id, meter: meter.clone() };
        Some(StoreOp::put(Table::Meters, &lease_id.0, &row))
    }
    pub(super) fn clock_set(&mut self, by: i64) -> Vec<StoreOp> {
        self.followed = None;
        self.meters.values_mut().for_each(|meter| meter.clock_set(by));
        let all: Vec<LeaseId> = self.meters.keys().copied().collect();
        all.into_iter().filter_map(|id| self.save(id)).collect()
    }
    pub(super) fn clock_set_back(&mut self, by: Millis) {
        self.followed = None;
        for meter in self.meters.values_mut() {
            meter.clock_set_back(by);
        }
        for at in self.ending.values_mut() {
            *at = at.set_back(by);
        }
    }
}

impl Provider {
    pub fn restore_meter(&mut self, value: &[u8]) -> Result<(), Fault> {
        let row: MeterRow = codec::decode(value, MAX_STORED).map_err(|error| {
            Fault::internal(format!("a stored meter is {error}")).hint("restore the home from a backup")
        })?;
        self.metering.meters.insert(row.lease_id, row.meter.restored());
        Ok(())
    }
    pub fn restore_receipt(&mut self, row: ReceiptRow) {
        self.metering.receipts.restore(row);
    }
    pub fn restore_credit(&mut self, value: &[u8]) -> Result<(), Fault> {
        let row: CreditRow = codec::decode(value, MAX_STORED).map_err(|error| {
            Fault::internal(format!("a stored credit is {error}")).hint("restore the home from a backup")
        })?;
        self.metering.credits.restore(row);
        Ok(())
    }
    pub fn meter_of(&self, lease_id: LeaseId) -> Option<&Meter> {
        self.metering.meters.get(&lease_id)
    }
    pub fn receipts(&self) -> &Receipts {
        &self.metering.receipts
    }
    pub fn credits(&self) -> &Credits {
        &self.metering.credits
    }

    /// Those of no lease: a store that was put together by hand.
    pub(super) fn drop_meters(&mut self, ctx: &mut Ctx) {
        let astray = |id: &&LeaseId| self.ledger.lease(**id).is_none();
        let astray: Vec<LeaseId> = self.metering.meters.keys().filter(astray).copied().collect();
        ctx.persist(astray.iter().map(|id| StoreOp::delete(Table::Meters, &id.0)).collect());
        self.metering.meters.retain(|id, _| !astray.contains(id));
    }

    /// Follows what has just happened to VMs: starts and stops their meters, and closes those of leases that are over.
    pub(super) fn meter(&mut self, ctx: &mut Ctx) {
        let changes = Some(self.ledger.changes());
        if std::mem::replace(&mut self.metering.followed, changes) == changes {
            return;
        }
        let news = |row: &&LeaseRow| match self.metering.meters.get(&row.lease_id) {
            Some(meter) => is_over(row) || meter.is_running() != is_charged(row) || meter.is_due(ctx.now, EVERY),
            None => is_charged(row),
        };
        let changed: Vec<LeaseId> = self.ledger.leases().filter(news).map(|row| row.lease_id).collect();
        for id in changed {
            let ops = self.follow(ctx, id);
            ctx.persist(ops);
        }
    }

    fn follow(&mut self, ctx: &mut Ctx, id: LeaseId) -> Vec<StoreOp> {
        let Some(row) = self.ledger.lease(id) else { return Vec::new() };
        let Some(price) = row.price.clone() else { return Vec::new() };
        let meter = self.metering.meters.entry(id).or_insert_with(|| Meter::new(price));
        match is_charged(row) {
            true => meter.start(ctx.now),
            false if is_fault(row) => meter.miss(),
            false => meter.stop(ctx.now.min(row.ends_at)),
        }
        if is_over(row) {
            return self.close(ctx, id);
        }
        let mut ops = Vec::new();
        if meter.is_due(ctx.now, EVERY) {
            ops.extend(self.issue(ctx, id, false));
        }
        ops.extend(self.metering.save(id));
        ops
    }

    /// The last receipt; what it says is taken off the credit in the same step.
    fn close(&mut self, ctx: &mut Ctx, id: LeaseId) -> Vec<StoreOp> {
        let mut ops = self.issue(ctx, id, true);
        self.metering.ending.remove(&id);
        let (Some(meter), Some(row)) = (self.metering.meters.remove(&id), self.ledger.lease(id)) else { return ops };
        ops.push(StoreOp::delete(Table::Meters, &id.0));
        let currency = meter.price().map(|price| price.currency.clone());
        let settled = currency.and_then(|it| self.metering.credits.settle(row.requestor, &it, meter.total()));
        ops.extend(settled.map(|row| credit_op(&row)));
        ops
    }

    fn issue(&mut self, ctx: &mut Ctx, id: LeaseId, last: bool) -> Vec<StoreOp> {
        let (Some(row), Some(meter)) = (self.ledger.lease(id), self.metering.meters.get_mut(&id)) else {
            return Vec::new();
        };
        let receipt = Receipt {
            network: ctx.network.clone(),
            provider: ctx.me(),
            requestor: row.requestor,
            lease_id: id,
            grant_hash: row.grant.digest(),
            number: meter.bill(ctx.now),
            issued: ctx.now,
            lines: Receipt::lines_of(meter),
            total: meter.total(),
            last,
        };
        let receipt = Sealed::seal(receipt, ctx.key).signed().clone();
        self.metering.receipts.put(ReceiptRow { lease_id: id, issued: ctx.now, receipt, countersign: None })
    }

    /// A look at the hypervisor: what runs there has run until now.
    pub(super) fn meters_seen(&mut self, ctx: &mut Ctx, found: &[Found]) {
        let on = found.iter().filter(|found| found.state != FoundState::Broken);
        let there = on.map(|found| (found.lease_id, found.state.phase()));
        let mut ops = Vec::new();
        for (id, phase) in there {
            let Some(row) = self.ledger.lease(id).filter(|row| row.vm == phase && is_charged(row)) else { continue };
            let until = ctx.now.min(row.ends_at);
            let Some(meter) = self.metering.meters.get_mut(&id) else { continue };
            meter.seen(until);
            if meter.is_unsaved() {
                ops.extend(self.metering.save(id));
            }
        }
        ctx.persist(ops);
        self.metering.followed = None;
        self.watch_credit(ctx);
    }

    pub(super) fn countersigned(&mut self, ctx: &mut Ctx, from: PeerId, signed: Signed) -> Result<Response, Refusal> {
        let countersign: Sealed<Countersign> = signed.open(ctx.network)?;
        super::negotiate::parties(ctx, from, countersign.requestor, countersign.provider)?;
        let id = countersign.lease_id;
        let row = self.metering.receipts.of(id).ok_or(Refusal::NoSuchLease(id))?;
        // Ours, and signed by us; one that cannot be read any more is nobody's.
        let receipt: Sealed<Receipt> = row.receipt.clone().open(ctx.network)?;
        if receipt.requestor != from {
            return Err(Refusal::NotYours(id));
        }
        if !countersign.is_of(&receipt) {
            return Err(Refusal::Conflict);
        }
        if row.countersign.is_none() {
            let row = ReceiptRow { countersign: Some(countersign.signed().clone()), ..row.clone() };
            let ops = self.metering.receipts.put(row);
            ctx.persist(ops);
        }
        Ok(Response::Countersigned)
    }

    /// With what its tenant is to know of its cost.
    pub(super) fn with_cost(&self, response: Response) -> Response {
        let told = |status: LeaseStatus| {
            let row = self.metering.receipts.of(status.lease_id).filter(|row| row.countersign.is_none());
            let credit_ends = self.metering.ending.get(&status.lease_id).copied();
            LeaseStatus { receipt: row.map(|row| row.receipt.clone()), credit_ends, ..status }
        };
        match response {
            Response::Status(status) => Response::Status(told(status)),
            other => other,
        }
    }

    /// The operator was paid. False when there is no room for one more account.
    pub fn grant_credit(&mut self, ctx: &mut Ctx, peer: PeerId, currency: &Currency, sum: Sum) {
        let Some(row) = self.metering.credits.grant(peer, currency, sum) else { return };
        ctx.persist(vec![credit_op(&row)]);
        self.watch_credit(ctx);
    }

    /// What these keys have of what they paid, less what has come together since.
    pub fn credit_left(&self, keys: &[PeerId], currency: &Currency) -> Sum {
        let accounts = keys.iter().map(|key| self.metering.credits.of(*key, currency));
        let left = accounts.fold((Sum::ZERO, Sum::ZERO), |(granted, settled), account| {
            (granted.plus(account.granted), settled.plus(account.settled))
        });
        let theirs = self.ledger.leases().filter(|row| keys.contains(&row.requestor));
        let meters = theirs.filter_map(|row| self.metering.meters.get(&row.lease_id));
        let in_it = meters.filter(|meter| meter.price().is_some_and(|price| price.currency == *currency));
        in_it.fold(left.0.minus(left.1), |left, meter| left.minus(meter.total()))
    }
    /// What all that these keys rent costs: an hour of it.
    fn rate_of(&self, keys: &[PeerId], currency: &Currency) -> Sum {
        let let_out = |row: &&LeaseRow| !is_over(row) && !row.unpaid && keys.contains(&row.requestor);
        let prices = self.ledger.leases().filter(let_out).filter_map(|row| row.price.as_ref());
        let in_it = prices.filter(|price| price.currency == *currency);
        in_it.fold(Sum::ZERO, |all, price| all.plus(Sum::of(price, AHEAD.as_secs())))
    }

    /// Whether these keys' credit covers an hour of all that they rent and of this (or its whole time, if that is less).
    pub(super) fn affords(&self, keys: &[PeerId], price: &Price, time: Millis) -> Result<(), Refusal> {
        if price.per_hour.is_zero() || !self.prepaid {
            return Ok(());
        }
        let left = self.credit_left(keys, &price.currency);
        let needed = self.rate_of(keys, &price.currency).plus(Sum::of(price, time.min(AHEAD).as_secs()));
        if needed <= left {
            return Ok(());
        }
        Err(Refusal::NoCredit { needed, left, currency: price.currency.clone() })
    }

    /// Warns who has credit for an hour or less, and stops the VMs of who has none.
    fn watch_credit(&mut self, ctx: &mut Ctx) {
        if !self.prepaid {
            return;
        }
        let priced = |row: &&LeaseRow| {
            row.prepaid && is_charged(row) && row.price.as_ref().is_some_and(|price| !price.per_hour.is_zero())
        };
        // What all of an account's VMs cost is looked at once for all of them.
        let mut accounts: BTreeMap<(PeerId, Currency), Vec<LeaseId>> = BTreeMap::new();
        for row in self.ledger.leases().filter(priced) {
            let account = row.price.as_ref().map(|price| (row.requestor, price.currency.clone()));
            account.into_iter().for_each(|it| accounts.entry(it).or_default().push(row.lease_id));
        }
        for ((requestor, currency), leases) in accounts {
            let keys = keys_of(ctx, requestor);
            let left = self.credit_left(&keys, &currency);
            let lasts = left.lasts_at(self.rate_of(&keys, &currency));
            for lease_id in leases {
                if left.is_zero() {
                    self.out_of_credit(ctx, lease_id, requestor);
                } else if lasts <= AHEAD {
                    self.warn_of_credit(ctx, lease_id, requestor, lasts);
                } else {
                    self.metering.ending.remove(&lease_id);
                }
            }
        }
    }

    /// A VM that was stopped for want of credit is started only when there is some.
    pub(super) fn may_start(&self, ctx: &Ctx, row: &LeaseRow) -> Result<(), Refusal> {
        let Some(price) = row.price.as_ref().filter(|_| row.unpaid) else { return Ok(()) };
        let left = self.credit_left(&keys_of(ctx, row.requestor), &price.currency);
        if !left.is_zero() {
            return Ok(());
        }
        Err(Refusal::NoCredit { needed: Sum::of(price, AHEAD.as_secs()), left, currency: price.currency.clone() })
    }

    /// From then on it costs so much.
    pub(super) fn agree_price(
        &mut self,
        id: LeaseId,
        from: Timestamp,
        price: Price,
    ) -> Result<Option<StoreOp>, Refusal> {
        let Some(now) = self.ledger.lease(id).and_then(|row| row.price.clone()) else { return Ok(None) };
        self.metering.followed = None;
        let meter = self.metering.meters.entry(id).or_insert_with(|| Meter::new(now));
        if !meter.agree(from, price) {
            return Err(Refusal::Unsuitable(format!("it was renewed at {MAX_PRICES} prices already; rent anew")));
        }
        Ok(self.metering.save(id))
    }

    fn warn_of_credit(&mut self, ctx: &mut Ctx, lease_id: LeaseId, requestor: PeerId, lasts: Millis) {
        let new = self.metering.ending.insert(lease_id, ctx.now + lasts).is_none();
        if new {
            let message = format!("the credit that lease {lease_id} runs on lasts for {lasts} more");
            ctx.event(EventKind::Market, Severity::Warning, message, Some(requestor.to_string()));
        }
    }

    fn out_of_credit(&mut self, ctx: &mut Ctx, lease_id: LeaseId, requestor: PeerId) {
        let ops = self.switch_off(ctx, lease_id, no_credit(), |row| row.unpaid = true);
        self.metering.ending.remove(&lease_id);
        ctx.persist(ops);
        let message = format!("the credit that lease {lease_id} ran on is used up: its VM is stopped");
        ctx.event(EventKind::Market, Severity::Warning, message, Some(requestor.to_string()));
    }
}

/// One party's: those for which this one goes on count with it.
pub(super) fn keys_of(ctx: &Ctx, peer: PeerId) -> Vec<PeerId> {
    [&[peer], &ctx.revoked.predecessors(peer)[..]].concat()
}

fn no_credit() -> Fault {
    Fault::new(crate::ErrorCode::Quota, "stopped: your credit with the provider is used up")
        .hint("pay its operator, and start it again; its disk is kept until its lease ends")
}

fn credit_op(row: &CreditRow) -> StoreOp {
    StoreOp::put(Table::Credits, &row.key(), row)
}
