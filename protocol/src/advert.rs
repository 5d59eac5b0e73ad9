//! A provider's signed offer, and its withdrawal.
use crate::codec::MAX_ADVERT;
use crate::envelope::Payload;
use crate::identity::PeerId;
use crate::money::Price;
use crate::names::{Arch, BackendKind, Country, Egress, ImageName, Isolation, Network, NodeName, PeerAddr};
use crate::spec::Query;
use crate::units::{Millis, Overcommit, Resources, Timestamp};
use serde::{Deserialize, Serialize};

/// How long an advert lives. Fixed by the protocol: everybody must agree on when a silent provider is gone.
pub const ADVERT_TTL: Millis = Millis::secs(300);
/// How far ahead a peer's clock may be.
pub const MAX_SKEW: Millis = Millis::secs(60);
/// How long a withdrawn provider's sequence number is kept: a life and the skew, so that no earlier advert returns.
pub const TOMBSTONE_TTL: Millis = Millis::secs(360);
pub const MAX_IMAGES: usize = 32;
/// Addresses in one advert: both transports of a public node, or two relays of a private one.
pub const MAX_ADDRS: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    pub network: Network,
    pub provider: PeerId,
    /// Grows with every advert and withdrawal of this provider: `max(unix_ms, last + 1)`.
    pub seq: u64,
    pub issued: Timestamp,
    /// Where the provider can be reached: behind a NAT it is in no routing table, so nobody else could tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addrs: Vec<PeerAddr>,
    pub terms: Terms,
}

/// What is offered, apart from who says so and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub name: Option<NodeName>,
    pub country: Option<Country>,
    pub arch: Arch,
    pub backend: BackendKind,
    pub isolation: Isolation,
    pub egress: Egress,
    /// What could be leased now.
    pub free: Resources,
    /// The largest VM it ever offers; this, not what is free now, places it on the board.
    pub largest: Resources,
    #[serde(default, skip_serializing_if = "Overcommit::is_none")]
    pub overcommit_cpu: Overcommit,
    pub price: Price,
    pub images: Vec<ImageName>,
}

impl Payload for Advert {
    const DOMAIN: &'static str = "golemnode/advert/1";
    const LIMIT: usize = MAX_ADVERT;
    fn network(&self) -> Option<&Network> {
        Some(&self.network)
    }
    fn signer(&self) -> PeerId {
        self.provider
    }
}

impl Terms {
    pub fn answers(&self, query: &Query) -> bool {
        query.want.fits_in(self.free)
            && query.isolation.takes(self.isolation)
            && query.image.as_ref().is_none_or(|image| self.images.contains(image))
            && query.arch.is_none_or(|arch| arch == self.arch)
            && query.country.as_ref().is_none_or(|country| self.country.as_ref() == Some(country))
            && query.backend.as_ref().is_none_or(|backend| *backend == self.backend)
            && query.max_price.is_none_or(|most| self.price.per_hour <= most)
    }
}

/// "I offer nothing any more": takes every advert up to this sequence number off the board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    pub network: Network,
    pub provider: PeerId,
    pub seq: u64,
    pub issued: Timestamp,
}

impl Payload for Withdrawal {
    const DOMAIN: &'static str = "golemnode/withdraw/1";
    const LIMIT: usize = 512;
    fn network(&self) -> Option<&Network> {
        Some(&self.network)
    }
    fn signer(&self) -> PeerId {
        self.provider
    }
}
