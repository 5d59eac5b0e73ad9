//! "This key speaks for nobody any more", said by the key itself. It is signed when the key is made and kept elsewhere:
//! whoever loses the key to a thief has its last word already. It holds in every network, and does not end.
use crate::envelope::{Payload, Sealed};
use crate::error::{ErrorCode, Fault};
use crate::identity::{Keypair, PeerId};
use crate::lease::SignedText;
use crate::names::Network;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    pub revoked: PeerId,
}

impl Payload for Revocation {
    const DOMAIN: &'static str = "golemnode/revoke/1";
    const LIMIT: usize = 128;
    fn network(&self) -> Option<&Network> {
        None
    }
    fn signer(&self) -> PeerId {
        self.revoked
    }
}

impl Revocation {
    pub fn of(key: &Keypair) -> Sealed<Revocation> {
        Sealed::seal(Revocation { revoked: key.peer_id() }, key)
    }
}

/// As it lies in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationDocument {
    pub version: u8,
    pub revocation: SignedText,
}

impl RevocationDocument {
    pub const VERSION: u8 = 1;

    pub fn of(key: &Keypair) -> Self {
        RevocationDocument { version: Self::VERSION, revocation: Revocation::of(key).signed().into() }
    }
    pub fn verify(&self) -> Result<Sealed<Revocation>, Fault> {
        if self.version != Self::VERSION {
            let message = format!("version {} of a revocation is unknown", self.version);
            return Err(Fault::new(ErrorCode::UnknownVersion, message));
        }
        let signed =
            self.revocation.signed().map_err(|_| Fault::invalid("the revocation has bytes that are not hex"))?;
        signed.open_anywhere().map_err(|error| {
            Fault::new(error.code(), format!("the revocation is not valid: {error}"))
                .hint("use the file 'identity.revocation' that was made with the identity")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advert::Withdrawal;
    use crate::codec;
    use crate::envelope::{EnvelopeError, Signed};
    use crate::units::Timestamp;

    fn key(n: u8) -> Keypair {
        Keypair::from_secret(&[n; 32])
    }
    fn open(signed: &Signed) -> Result<Sealed<Revocation>, EnvelopeError> {
        signed.clone().open(&"main".parse().unwrap())
    }

    #[test]
    fn it_holds_in_every_network_and_for_its_own_key_only() {
        let good = Revocation::of(&key(1)).signed().clone();
        for network in ["main", "test"] {
            assert_eq!(good.clone().open::<Revocation>(&network.parse().unwrap()).unwrap().revoked, key(1).peer_id());
        }
        assert_eq!(open(&Signed { signer: key(2).peer_id(), ..good.clone() }), Err(EnvelopeError::BadSignature));
        assert_eq!(open(&Signed { signature: vec![], ..good.clone() }), Err(EnvelopeError::Unsigned));
        // Signed well, by another key than the one that it takes away.
        let body = codec::encode(&Revocation { revoked: key(1).peer_id() });
        let mut bytes = Revocation::DOMAIN.as_bytes().to_vec();
        bytes.push(0);
        bytes.extend_from_slice(&body);
        let signature = key(2).sign(&bytes).to_vec();
        let stranger = Signed { domain: Revocation::DOMAIN.into(), signer: key(2).peer_id(), body, signature };
        assert_eq!(open(&stranger), Err(EnvelopeError::WrongSigner));
        // What a provider signs every day is none, whatever it is called.
        let (network, provider) = ("main".parse().unwrap(), key(1).peer_id());
        let withdrawal = Withdrawal { network, provider, seq: 1, issued: Timestamp(1) };
        let daily = Sealed::seal(withdrawal, &key(1)).signed().clone();
        assert!(matches!(open(&daily), Err(EnvelopeError::WrongDomain { .. })));
        let relabelled = Signed { domain: Revocation::DOMAIN.into(), ..daily };
        assert_eq!(open(&relabelled), Err(EnvelopeError::BadSignature));
        let padded = Signed { body: [good.body.clone(), vec![0; Revocation::LIMIT]].concat(), ..good };
        assert!(matches!(open(&padded), Err(EnvelopeError::Undecodable(_))));
    }

    #[test]
    fn the_file_says_the_same_and_a_changed_one_nothing() {
        let document = RevocationDocument::of(&key(1));
        let text = serde_json::to_string(&document).unwrap();
        let read: RevocationDocument = serde_json::from_str(&text).unwrap();
        assert_eq!(read.verify().unwrap(), Revocation::of(&key(1)));
        let forged = |change: &dyn Fn(&mut RevocationDocument)| {
            let mut document = document.clone();
            change(&mut document);
            document.verify().unwrap_err().code
        };
        assert_eq!(forged(&|it| it.version = 2), ErrorCode::UnknownVersion);
        assert_eq!(forged(&|it| it.revocation.body = "x".into()), ErrorCode::InvalidRequest);
        assert_eq!(forged(&|it| it.revocation.signer = key(2).peer_id()), ErrorCode::BadToken);
        assert_eq!(forged(&|it| it.revocation.signature = String::new()), ErrorCode::Unsigned);
    }
}
