//! More time for a lease, at what the provider asks now: a quote, its acceptance, and the provider's word that it was
//! taken, each signed, each naming the one before by its hash.
use crate::envelope::{Payload, Sealed, Signed};
use crate::error::{ErrorCode, Fault};
use crate::identity::PeerId;
use crate::lease::SignedText;
use crate::money::Price;
use crate::names::{Digest, LeaseId, Network};
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

/// Each stays under 1 KiB.
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
pub struct RenewQuote {
    pub network: Network,
    pub provider: PeerId,
    pub requestor: PeerId,
    pub lease_id: LeaseId,
    pub grant_hash: Digest,
    /// When the lease ends as it is now: a renewal is good once.
    pub from: Timestamp,
    pub until: Timestamp,
    /// From `from` on.
    pub price: Price,
    pub hold_until: Timestamp,
}
payload!(RenewQuote, "golemnode/renew-quote/1", provider);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    pub network: Network,
    pub provider: PeerId,
    pub requestor: PeerId,
    pub lease_id: LeaseId,
    pub quote_hash: Digest,
    pub nonce: u64,
    pub expires: Timestamp,
}
payload!(Renew, "golemnode/renew/1", requestor);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    pub network: Network,
    pub provider: PeerId,
    pub requestor: PeerId,
    pub lease_id: LeaseId,
    pub renew_hash: Digest,
    pub ends_at: Timestamp,
}
payload!(Renewed, "golemnode/renewed/1", provider);

/// The latest one of a lease, as both sides keep it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    pub quote: Signed,
    pub renew: Signed,
    pub renewed: Signed,
}

/// As it stands in a lease's document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalText {
    pub quote: SignedText,
    pub renew: SignedText,
    pub renewed: SignedText,
}

impl From<&Renewal> for RenewalText {
    fn from(renewal: &Renewal) -> Self {
        let Renewal { quote, renew, renewed } = renewal;
        RenewalText { quote: quote.into(), renew: renew.into(), renewed: renewed.into() }
    }
}

#[derive(Clone, Debug)]
pub struct VerifiedRenewal {
    pub quote: Sealed<RenewQuote>,
    pub renew: Sealed<Renew>,
    pub renewed: Sealed<Renewed>,
}

impl RenewalText {
    /// Of a lease between these, with this id and grant.
    pub fn verify(
        &self,
        network: &Network,
        parties: (PeerId, PeerId),
        lease_id: LeaseId,
        grant_hash: Digest,
    ) -> Result<VerifiedRenewal, Fault> {
        let broken = |what: &str| Fault::new(ErrorCode::BadToken, format!("the lease is not valid: {what}"));
        let quote: Sealed<RenewQuote> = self.quote.open(network, "renewal's quote")?;
        let renew: Sealed<Renew> = self.renew.open(network, "renewal")?;
        let renewed: Sealed<Renewed> = self.renewed.open(network, "renewal's receipt")?;
        let ids = [quote.lease_id, renew.lease_id, renewed.lease_id];
        let between = [
            (quote.provider, quote.requestor),
            (renew.provider, renew.requestor),
            (renewed.provider, renewed.requestor),
        ];
        if ids != [lease_id; 3] || between != [parties; 3] || quote.grant_hash != grant_hash {
            return Err(broken("its renewal is of another lease"));
        }
        if renew.quote_hash != quote.digest() || renewed.renew_hash != renew.digest() {
            return Err(broken("the parts of its renewal do not belong together"));
        }
        if renewed.ends_at != quote.until {
            return Err(broken("its renewal ends at another time than was agreed"));
        }
        Ok(VerifiedRenewal { quote, renew, renewed })
    }
}
