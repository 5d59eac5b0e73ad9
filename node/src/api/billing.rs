//! What the local API says of money and time: receipts, credit, renewals.
use super::types::Time;
use protocol::PeerId;
use protocol::money::{Amount, Sum};
use protocol::names::{Currency, LeaseId};
use serde::{Deserialize, Serialize};

/// A row of `GET /api/v1/receipts`: the latest of each lease, which says all that it has come to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReceiptView {
    pub lease_id: LeaseId,
    /// `requestor` or `provider`: this node's side of it.
    pub role: String,
    pub provider: PeerId,
    pub requestor: PeerId,
    /// Counts up from 1 within a lease.
    pub number: u32,
    pub issued_at: Time,
    pub seconds: u64,
    pub total: Sum,
    pub currency: Currency,
    /// The lease is over: nothing follows.
    pub last: bool,
    pub countersigned: bool,
}

/// What a requestor has paid this provider in advance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreditView {
    pub peer_id: PeerId,
    pub currency: Currency,
    pub granted: Sum,
    /// By leases that are over, and by those that run.
    pub used: Sum,
    pub left: Sum,
}

/// The body of `POST /api/v1/credits/{peer}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreditBody {
    pub grant: Sum,
    /// That of this provider's price unless given.
    #[serde(default)]
    pub currency: Option<Currency>,
}

/// The body of `POST /api/v1/vms/{id}/renew`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewBody {
    pub duration_s: u64,
    /// What the VM costs now unless given.
    #[serde(default)]
    pub max_price: Option<Amount>,
}
