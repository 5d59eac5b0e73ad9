//! A lease: quote, accept, grant and confirm, each signed, each naming the one before by its hash. It can be verified
//! offline by anybody, and holds the seed's hash and no secret.
//!
//! ```text
//! quote (P) ◀── accept (R) ◀── grant (P) ◀── confirm (R) ◀── active (P: the receipt of the start)
//!                              provisional    active
//! ```
use crate::envelope::{EnvelopeError, Payload, Sealed, Signed};
use crate::error::{ErrorCode, Fault};
use crate::identity::PeerId;
use crate::money::Price;
use crate::names::{BackendKind, CreateId, Digest, Egress, GuestUser, Isolation, LeaseId, Network, QuoteId};
use crate::renewal::{RenewalText, VerifiedRenewal};
use crate::spec::VmSpec;
use crate::units::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

/// How long a quote holds capacity.
pub const QUOTE_HOLD: Millis = Millis::secs(30);
/// How long a grant waits for its confirm.
pub const PROVISIONAL: Millis = Millis::secs(30);
/// The requestor sends no first confirm later than this after the grant, so that the provider's 30 s cannot end on the
/// way.
pub const FIRST_CONFIRM: Millis = Millis::secs(20);
/// How long an accept may travel.
pub const ACCEPT_LIFE: Millis = Millis::secs(30);
/// Signed negotiation messages are small; a quote with 16 ports stays under 1 KiB.
const SMALL: usize = 4 * 1024;

macro_rules! payload {
    ($name:ident, $domain:literal, $signer:ident) => {
        impl Payload for $name {
            const DOMAIN: &'static str = $domain;
            const LIMIT: usize = SMALL;
            fn network(&self) -> Option<&Network> {
                Some(&self.network)
            }
            fn signer(&self) -> PeerId {
                self.$signer
            }
        }
    };
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    pub network: Network,
    pub provider: PeerId,
    pub requestor: PeerId,
    pub quote_id: QuoteId,
    /// Changes with every start of the provider: holds live in memory only, so an earlier run's quote is void.
    pub boot_id: u64,
    pub spec: VmSpec,
    pub image_digest: Digest,
    pub guest_user: GuestUser,
    pub backend: BackendKind,
    pub isolation: Isolation,
    pub egress: Egress,
    pub price: Price,
    pub issued: Timestamp,
    pub hold_until: Timestamp,
    /// Others are deciding on the same place just now: who accepts first has it.
    #[serde(default)]
    pub contested: bool,
}
payload!(Quote, "golemnode/quote/1", provider);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    pub network: Network,
    pub provider: PeerId,
    pub requestor: PeerId,
    pub quote_hash: Digest,
    pub create_id: CreateId,
    pub seed_hash: Digest,
    pub nonce: u64,
    pub expires: Timestamp,
}
payload!(Accept, "golemnode/accept/1", requestor);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub network: Network,
    pub provider: PeerId,
    pub requestor: PeerId,
    pub lease_id: LeaseId,
    pub accept_hash: Digest,
    pub provisional_until: Timestamp,
}
payload!(Grant, "golemnode/grant/1", provider);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    pub network: Network,
    pub provider: PeerId,
    pub requestor: PeerId,
    pub lease_id: LeaseId,
    pub grant_hash: Digest,
    pub expires: Timestamp,
}
payload!(Confirm, "golemnode/confirm/1", requestor);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    pub network: Network,
    pub provider: PeerId,
    pub requestor: PeerId,
    pub lease_id: LeaseId,
    pub grant_hash: Digest,
    pub started_at: Timestamp,
    pub ends_at: Timestamp,
}
payload!(Active, "golemnode/active/1", provider);

impl Active {
    /// Whether it gives the time that was agreed, no less and no more.
    pub fn is_for(&self, duration: Millis) -> bool {
        self.started_at.0.checked_add(duration.0) == Some(self.ends_at.0)
    }
}

impl LeaseId {
    /// The id that a create has at a provider. Both sides can name it before any grant has arrived, so a release
    /// works even when the grant was lost; nobody else can know it, since the create id is random.
    pub fn derive(provider: PeerId, requestor: PeerId, create: CreateId) -> LeaseId {
        let mut bytes = b"golemnode/lease-id/1\0".to_vec();
        bytes.extend_from_slice(provider.public_key());
        bytes.extend_from_slice(requestor.public_key());
        bytes.extend_from_slice(&create.0);
        let mut id = [0; 16];
        id.copy_from_slice(&Digest::of(&bytes).0[..16]);
        LeaseId(id)
    }
}

/// The lease as it is shown, stored and given to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseDocument {
    pub version: u8,
    pub network: Network,
    pub quote: SignedText,
    pub accept: SignedText,
    pub grant: SignedText,
    pub confirm: Option<SignedText>,
    pub active: Option<SignedText>,
    /// The latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<RenewalText>,
}

/// A signed message in text, for JSON: the exact bytes in hex, so that nothing is re-encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedText {
    pub domain: String,
    pub signer: PeerId,
    pub body: String,
    pub signature: String,
}

impl From<&Signed> for SignedText {
    fn from(signed: &Signed) -> Self {
        SignedText {
            domain: signed.domain.clone(),
            signer: signed.signer,
            body: hex::encode(&signed.body),
            signature: hex::encode(&signed.signature),
        }
    }
}
impl SignedText {
    pub fn signed(&self) -> Result<Signed, Fault> {
        let bytes = |text: &str| hex::decode(text).map_err(|_| Fault::invalid("the lease has bytes that are not hex"));
        Ok(Signed {
            domain: self.domain.clone(),
            signer: self.signer,
            body: bytes(&self.body)?,
            signature: bytes(&self.signature)?,
        })
    }
    pub(crate) fn open<T: Payload>(&self, network: &Network, what: &str) -> Result<Sealed<T>, Fault> {
        self.signed()?.open(network).map_err(|error: EnvelopeError| {
            Fault::new(error.code(), format!("the lease is not valid: in its {what}, {error}"))
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseStanding {
    /// Granted, never confirmed: it lapsed, or will.
    Provisional,
    Active,
}

/// What a lease says, once every signature and every hash has been checked.
#[derive(Clone, Debug)]
pub struct VerifiedLease {
    pub standing: LeaseStanding,
    pub quote: Sealed<Quote>,
    pub accept: Sealed<Accept>,
    pub grant: Sealed<Grant>,
    pub confirm: Option<Sealed<Confirm>>,
    pub active: Option<Sealed<Active>>,
    pub renewal: Option<VerifiedRenewal>,
}

impl VerifiedLease {
    pub fn lease_id(&self) -> LeaseId {
        self.grant.lease_id
    }
    /// None before the provider has said that it started.
    pub fn ends_at(&self) -> Option<Timestamp> {
        let renewed = self.renewal.as_ref().map(|renewal| renewal.renewed.ends_at);
        renewed.or_else(|| self.active.as_ref().map(|active| active.ends_at))
    }
}

impl LeaseDocument {
    pub const VERSION: u8 = 1;

    pub fn verify(&self) -> Result<VerifiedLease, Fault> {
        if self.version != Self::VERSION {
            return Err(Fault::new(ErrorCode::UnknownVersion, format!("lease version {} is unknown", self.version)));
        }
        let broken = |what: &str| Fault::new(ErrorCode::BadToken, format!("the lease is not valid: {what}"));
        let quote: Sealed<Quote> = self.quote.open(&self.network, "quote")?;
        let accept: Sealed<Accept> = self.accept.open(&self.network, "accept")?;
        let grant: Sealed<Grant> = self.grant.open(&self.network, "grant")?;
        let parties = (quote.provider, quote.requestor);
        if (accept.provider, accept.requestor) != parties || (grant.provider, grant.requestor) != parties {
            return Err(broken("its parts are of different parties"));
        }
        if accept.quote_hash != quote.digest() {
            return Err(broken("the accept is of another quote"));
        }
        if grant.accept_hash != accept.digest() {
            return Err(broken("the grant is of another accept"));
        }
        if grant.lease_id != LeaseId::derive(parties.0, parties.1, accept.create_id) {
            return Err(broken("its id is not that of its parties and create"));
        }
        let confirm = match &self.confirm {
            None => None,
            Some(text) => {
                let confirm: Sealed<Confirm> = text.open(&self.network, "confirm")?;
                let same = (confirm.provider, confirm.requestor) == parties && confirm.lease_id == grant.lease_id;
                if !same || confirm.grant_hash != grant.digest() {
                    return Err(broken("the confirm is of another grant"));
                }
                Some(confirm)
            }
        };
        let active = match &self.active {
            None => None,
            Some(_) if confirm.is_none() => return Err(broken("it was started without being confirmed")),
            Some(text) => {
                let active: Sealed<Active> = text.open(&self.network, "active")?;
                let same = (active.provider, active.requestor) == parties && active.lease_id == grant.lease_id;
                if !same || active.grant_hash != grant.digest() {
                    return Err(broken("the start is of another grant"));
                }
                if !active.is_for(quote.spec.duration) {
                    return Err(broken("it ends at another time than was agreed"));
                }
                Some(active)
            }
        };
        let renewal = match &self.renewal {
            None => None,
            Some(_) if active.is_none() => return Err(broken("it was renewed without being started")),
            Some(text) => Some(text.verify(&self.network, parties, grant.lease_id, grant.digest())?),
        };
        let standing = if confirm.is_some() { LeaseStanding::Active } else { LeaseStanding::Provisional };
        Ok(VerifiedLease { standing, quote, accept, grant, confirm, active, renewal })
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
