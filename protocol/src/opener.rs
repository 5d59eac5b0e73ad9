//! Who checks the signatures of adverts. A node does it itself; a simulation of a hundred thousand nodes in one process
//! remembers what it has checked once for all of them.
use crate::advert::{Advert, Withdrawal};
use crate::envelope::{EnvelopeError, Sealed, Signed};
use crate::names::Network;
use std::sync::Arc;

pub trait Opener: Send + Sync {
    fn advert(&self, signed: &Signed, network: &Network) -> Result<Arc<Sealed<Advert>>, EnvelopeError>;
    fn withdrawal(&self, signed: &Signed, network: &Network) -> Result<Sealed<Withdrawal>, EnvelopeError>;
}

/// Checks every time.
pub struct Direct;

impl Opener for Direct {
    fn advert(&self, signed: &Signed, network: &Network) -> Result<Arc<Sealed<Advert>>, EnvelopeError> {
        signed.clone().open(network).map(Arc::new)
    }
    fn withdrawal(&self, signed: &Signed, network: &Network) -> Result<Sealed<Withdrawal>, EnvelopeError> {
        signed.clone().open(network)
    }
}
