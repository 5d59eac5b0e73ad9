//! Receipts, credit and renewals, for whoever asks by the local API.
use super::Actor;
use super::commands::{Ticket, reply};
use crate::api::billing::{CreditView, ReceiptView, RenewBody};
use crate::api::types::VmView;
use crate::clock;
use crate::handle::Answer;
use protocol::core::Input;
use protocol::credit::MAX_ACCOUNTS;
use protocol::money::Sum;
use protocol::names::Currency;
use protocol::receipt::{Receipt, ReceiptDocument, ReceiptRow};
use protocol::units::Millis;
use protocol::{ErrorCode, Fault, PeerId};
use std::collections::BTreeSet;

impl Actor {
    fn receipts(&self) -> impl Iterator<Item = &ReceiptRow> {
        self.core.requestor().receipts().iter().chain(self.core.provider().receipts().iter())
    }

    /// The latest first.
    pub(super) fn receipt_views(&self) -> Vec<ReceiptView> {
        let mut rows: Vec<&ReceiptRow> = self.receipts().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.issued));
        rows.into_iter().filter_map(|row| self.receipt_view(row)).collect()
    }

    fn receipt_view(&self, row: &ReceiptRow) -> Option<ReceiptView> {
        let receipt = row.receipt.clone().open::<Receipt>(self.core.network()).ok()?;
        let role = if receipt.provider == self.core.me() { "provider" } else { "requestor" };
        Some(ReceiptView {
            lease_id: receipt.lease_id,
            role: role.into(),
            provider: receipt.provider,
            requestor: receipt.requestor,
            number: receipt.number,
            issued_at: clock::rfc3339(receipt.issued),
            seconds: receipt.seconds(),
            total: receipt.total,
            currency: receipt.lines.first()?.price.currency.clone(),
            last: receipt.last,
            countersigned: row.countersign.is_some(),
        })
    }

    /// By a lease's id, or by a VM's name or id.
    pub(super) fn receipt_document(&self, key: &str) -> Result<ReceiptDocument, Fault> {
        let of_vm = self.find(key).ok().and_then(|rental| rental.deal.as_ref()).map(|deal| deal.lease_id.to_string());
        let id = of_vm.unwrap_or_else(|| key.to_owned());
        let row = self.receipts().find(|row| row.lease_id.to_string() == id).ok_or_else(|| {
            Fault::new(ErrorCode::NoSuchResource, format!("no receipt for '{key}'"))
                .hint("the first comes an hour after a VM has begun to run, or when its lease ends")
        })?;
        Ok(row.document(self.core.network()))
    }

    /// Of one peer, or of all that have an account.
    pub(super) fn credit_views(&self, of: Option<PeerId>) -> Result<Vec<CreditView>, Fault> {
        self.must_provide()?;
        let provider = self.core.provider();
        let accounts = provider.credits().iter().filter(|row| of.is_none_or(|peer| peer == row.peer));
        let mut all: BTreeSet<(PeerId, Currency)> = accounts.map(|row| (row.peer, row.currency)).collect();
        if let Some(peer) = of.filter(|_| all.is_empty()) {
            all.extend(self.own_currency().map(|currency| (peer, currency)));
        }
        let view = |(peer_id, currency): (PeerId, Currency)| {
            let granted = provider.credits().of(peer_id, &currency).granted;
            let left = provider.credit_left(&[peer_id], &currency);
            CreditView { peer_id, granted, used: granted.minus(left), left, currency }
        };
        Ok(all.into_iter().map(view).collect())
    }

    fn own_currency(&self) -> Option<Currency> {
        self.provider.as_ref().map(|provider| provider.settings.currency.clone())
    }

    pub(super) fn grant_credit(
        &mut self,
        peer: PeerId,
        grant: Sum,
        currency: Option<Currency>,
    ) -> Result<Vec<CreditView>, Fault> {
        self.must_provide()?;
        let currency = currency.or_else(|| self.own_currency());
        let currency = currency.ok_or_else(|| Fault::invalid("name the currency"))?;
        let before = self.core.provider().credits().of(peer, &currency).granted;
        if before.plus(grant).minus(before) != grant {
            return Err(Fault::invalid(format!("{grant} {currency} is more than an account holds")));
        }
        self.input(Input::GrantCredit { peer, currency: currency.clone(), sum: grant });
        if self.core.provider().credits().of(peer, &currency).granted != before.plus(grant) {
            return Err(Fault::new(ErrorCode::Quota, format!("there are {MAX_ACCOUNTS} accounts, and no more")));
        }
        self.credit_views(Some(peer))
    }

    pub(super) fn renew(&mut self, vm: &str, body: &RenewBody, answer: Answer<VmView>) {
        let create_id = match self.find(vm) {
            Ok(rental) => rental.create_id,
            Err(fault) => return reply(answer, Err(fault)),
        };
        let duration = Millis(body.duration_s.saturating_mul(1000));
        let ticket = self.ticket(Ticket::View(answer));
        self.input(Input::Renew { ticket, create_id, duration, most: body.max_price });
    }
}
