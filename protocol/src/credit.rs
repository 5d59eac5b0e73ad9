//! What requestors have paid a provider in advance, and what their VMs have used of it. A priced offer is for those who
//! have credit; how it was paid is between them.
use crate::identity::PeerId;
use crate::money::Sum;
use crate::names::Currency;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Opened by hand, each; a row has some 120 bytes.
pub const MAX_ACCOUNTS: usize = 4096;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub granted: Sum,
    /// What leases have come to that are over.
    pub settled: Sum,
}

/// As it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditRow {
    pub peer: PeerId,
    pub currency: Currency,
    pub account: Account,
}

impl CreditRow {
    pub fn key(&self) -> Vec<u8> {
        [self.peer.public_key().as_slice(), self.currency.as_str().as_bytes()].concat()
    }
}

#[derive(Debug, Default)]
pub struct Credits(BTreeMap<(PeerId, Currency), Account>);

impl Credits {
    pub fn iter(&self) -> impl Iterator<Item = CreditRow> + '_ {
        self.0.iter().map(|((peer, currency), account)| row(*peer, currency, *account))
    }
    pub fn restore(&mut self, row: CreditRow) {
        self.0.insert((row.peer, row.currency), row.account);
    }
    pub fn of(&self, peer: PeerId, currency: &Currency) -> Account {
        self.0.get(&(peer, currency.clone())).copied().unwrap_or_default()
    }
    /// None when there is no room for one more account.
    pub fn grant(&mut self, peer: PeerId, currency: &Currency, sum: Sum) -> Option<CreditRow> {
        let full = self.0.len() >= MAX_ACCOUNTS && !self.0.contains_key(&(peer, currency.clone()));
        if full {
            return None;
        }
        let account = self.0.entry((peer, currency.clone())).or_default();
        account.granted = account.granted.plus(sum);
        Some(row(peer, currency, *account))
    }
    /// A lease is over and has come to this. None where there is no account: nothing was asked for then.
    pub fn settle(&mut self, peer: PeerId, currency: &Currency, sum: Sum) -> Option<CreditRow> {
        let account = self.0.get_mut(&(peer, currency.clone()))?;
        account.settled = account.settled.plus(sum);
        Some(row(peer, currency, *account))
    }
}

fn row(peer: PeerId, currency: &Currency, account: Account) -> CreditRow {
    CreditRow { peer, currency: currency.clone(), account }
}
