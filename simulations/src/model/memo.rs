//! Signatures checked once for all nodes of a process. Everything else of opening an advert is done each time by the
//! same code; that a signature fits does not depend on who looks.
use protocol::advert::{Advert, Withdrawal};
use protocol::envelope::{EnvelopeError, Sealed, Signed};
use protocol::names::Network;
use protocol::opener::Opener;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

#[derive(Default)]
pub struct Memo {
    /// By signature; the words are compared too.
    seen: Mutex<HashMap<[u8; 16], Arc<Sealed<Advert>>>>,
}

impl Memo {
    /// These very words, if somebody has found their signature right and has them still.
    pub fn verified(&self, signed: &Signed) -> Option<Arc<Sealed<Advert>>> {
        let mark = signed.signature.first_chunk::<16>()?;
        let seen = self.seen.lock().ok()?;
        seen.get(mark).filter(|advert| advert.signed() == signed).cloned()
    }
    /// Forgets what no node has any more.
    pub fn sweep(&self) {
        if let Ok(mut seen) = self.seen.lock() {
            seen.retain(|_, advert| Arc::strong_count(advert) > 1);
        }
    }
}

impl Opener for Memo {
    fn advert(&self, signed: &Signed, network: &Network) -> Result<Arc<Sealed<Advert>>, EnvelopeError> {
        let Some(mark) = signed.signature.first_chunk::<16>() else {
            return signed.clone().open(network).map(Arc::new);
        };
        let Ok(mut seen) = self.seen.lock() else { return signed.clone().open(network).map(Arc::new) };
        if let Some(advert) = seen.get(mark).filter(|advert| advert.signed() == signed) {
            return Ok(advert.clone());
        }
        let advert: Arc<Sealed<Advert>> = Arc::new(signed.clone().open(network)?);
        seen.insert(*mark, advert.clone());
        Ok(advert)
    }
    fn withdrawal(&self, signed: &Signed, network: &Network) -> Result<Sealed<Withdrawal>, EnvelopeError> {
        signed.clone().open(network)
    }
}
