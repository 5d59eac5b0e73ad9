//! What a tenant says to have a VM, made by hand: for those who speak the protocol without a node of their own.
use node::clock::now;
use protocol::envelope::Sealed;
use protocol::lease::{ACCEPT_LIFE, Accept, Confirm, Grant, Quote};
use protocol::message::{ConfirmReq, QuoteReq, Request};
use protocol::names::{CreateId, Digest, IsolationWanted, Network};
use protocol::seed::Seed;
use protocol::spec::VmSpec;
use protocol::units::{Millis, Resources, Timestamp};
use protocol::{Fault, Keypair};

/// What every provider of a test has.
pub const IMAGE: &str = "tiny";
pub const SMALLEST: Resources = Resources::new(1, 128, 1);

pub fn key(n: u64) -> Keypair {
    let mut secret = [7; 32];
    secret[..8].copy_from_slice(&n.to_le_bytes());
    Keypair::from_secret(&secret)
}
pub fn create_id(n: u64) -> CreateId {
    CreateId(u128::from(n).to_be_bytes())
}
pub fn spec(resources: Resources) -> Result<VmSpec, Fault> {
    Ok(VmSpec {
        resources,
        image: IMAGE.parse()?,
        isolation: IsolationWanted::Any,
        arch: None,
        backend: None,
        ports: vec![],
        duration: Millis::secs(24 * 3600),
        or_less: false,
    })
}
/// With a key of its own: whoever makes the guest looks at it.
pub fn seed() -> Result<Vec<u8>, Fault> {
    let (host_key, public) = node::ssh::generate("bargain")?;
    Ok(Seed { hostname: "web".parse()?, authorized_keys: vec![public], host_key, user_data: None }.encode())
}

pub fn quote(create_id: CreateId, resources: Resources) -> Result<Request, Fault> {
    Ok(Request::Quote(QuoteReq { create_id, spec: spec(resources)? }))
}

/// Who takes what was quoted: its key, and what its guest is told.
pub struct Taker<'a> {
    pub key: &'a Keypair,
    pub network: &'a Network,
    pub seed: &'a [u8],
    pub now: Timestamp,
}

impl<'a> Taker<'a> {
    pub fn at_once(key: &'a Keypair, network: &'a Network, seed: &'a [u8]) -> Self {
        Taker { key, network, seed, now: now() }
    }
    pub fn accept(&self, quote: &Sealed<Quote>, create_id: CreateId) -> Request {
        let accept = Accept {
            network: self.network.clone(),
            provider: quote.provider,
            requestor: self.key.peer_id(),
            quote_hash: quote.digest(),
            create_id,
            seed_hash: Digest::of(self.seed),
            nonce: 1,
            expires: self.now + ACCEPT_LIFE,
        };
        Request::Accept(Sealed::seal(accept, self.key).signed().clone())
    }
    pub fn confirm(&self, grant: &Sealed<Grant>) -> Request {
        let confirm = Confirm {
            network: self.network.clone(),
            provider: grant.provider,
            requestor: self.key.peer_id(),
            lease_id: grant.lease_id,
            grant_hash: grant.digest(),
            expires: self.now + Millis::secs(30),
        };
        let confirm = Sealed::seal(confirm, self.key).signed().clone();
        Request::Confirm(ConfirmReq { confirm, seed: self.seed.to_vec() })
    }
}
