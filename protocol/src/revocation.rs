//! "This key speaks for nobody any more", said by the key itself. It is signed when the key is made and kept elsewhere:
//! whoever loses the key to a thief has its last word already. It may say who goes on: a key that has agreed to. It holds
//! in every network, and does not end.
use crate::codec;
use crate::envelope::{EnvelopeError, Payload, Sealed, Signed};
use crate::error::{ErrorCode, Fault};
use crate::identity::{Keypair, PeerId};
use crate::lease::SignedText;
use crate::names::Network;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    pub revoked: PeerId,
    /// An `Accession`, signed by who goes on: nobody is made to answer for another's past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accession: Option<Signed>,
}

/// "I go on for that key."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accession {
    retired: PeerId,
    successor: PeerId,
}

impl Payload for Accession {
    const DOMAIN: &'static str = "golemnode/accede/1";
    const LIMIT: usize = 192;
    fn network(&self) -> Option<&Network> {
        None
    }
    fn signer(&self) -> PeerId {
        self.successor
    }
}

impl Payload for Revocation {
    const DOMAIN: &'static str = "golemnode/revoke/1";
    const LIMIT: usize = 640;
    fn network(&self) -> Option<&Network> {
        None
    }
    fn signer(&self) -> PeerId {
        self.revoked
    }
    fn check(&self) -> Result<(), EnvelopeError> {
        let Some(accession) = &self.accession else { return Ok(()) };
        let agreed = accession.clone().open_anywhere::<Accession>()?;
        let fits = agreed.retired == self.revoked && agreed.successor != self.revoked;
        if fits { Ok(()) } else { Err(EnvelopeError::WrongSigner) }
    }
}

impl Revocation {
    pub fn of(key: &Keypair) -> Sealed<Revocation> {
        Sealed::seal(Revocation { revoked: key.peer_id(), accession: None }, key)
    }

    /// With who goes on, who has to be another.
    pub fn in_favour_of(successor: &Keypair, key: &Keypair) -> Sealed<Revocation> {
        let agreed = Accession { retired: key.peer_id(), successor: successor.peer_id() };
        let accession = Some(Sealed::seal(agreed, successor).signed().clone());
        Sealed::seal(Revocation { revoked: key.peer_id(), accession }, key)
    }

    pub fn successor(&self) -> Option<PeerId> {
        self.accession.as_ref().map(|signed| signed.signer)
    }

    /// What a message says whose signature nobody has checked.
    pub fn claimed_successor(signed: &Signed) -> Option<PeerId> {
        codec::decode::<Revocation>(&signed.body, Self::LIMIT).ok()?.successor()
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
        Self::from(&Revocation::of(key))
    }
    pub fn in_favour_of(successor: &Keypair, key: &Keypair) -> Self {
        Self::from(&Revocation::in_favour_of(successor, key))
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

impl From<&Sealed<Revocation>> for RevocationDocument {
    fn from(revocation: &Sealed<Revocation>) -> Self {
        RevocationDocument { version: Self::VERSION, revocation: revocation.signed().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advert::Withdrawal;
    use crate::units::Timestamp;

    fn key(n: u8) -> Keypair {
        Keypair::from_secret(&[n; 32])
    }
    fn open(signed: &Signed) -> Result<Sealed<Revocation>, EnvelopeError> {
        signed.clone().open(&"main".parse().unwrap())
    }
    /// By whoever that is, and whatever it says.
    fn signed<T: Payload>(content: &T, by: &Keypair) -> Signed {
        let body = codec::encode(content);
        let bytes = [T::DOMAIN.as_bytes(), &[0], &body].concat();
        Signed { domain: T::DOMAIN.into(), signer: by.peer_id(), body, signature: by.sign(&bytes).to_vec() }
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
        let stranger = signed(&Revocation { revoked: key(1).peer_id(), accession: None }, &key(2));
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
    fn who_goes_on_has_agreed_to_this_very_key() {
        let good = Revocation::in_favour_of(&key(2), &key(1));
        assert_eq!(open(good.signed()).unwrap(), good);
        assert_eq!(good.successor(), Some(key(2).peer_id()));
        assert_eq!(Revocation::claimed_successor(good.signed()), good.successor());
        assert_eq!(Revocation::of(&key(1)).successor(), None);
        assert!(good.signed().body.len() <= Revocation::LIMIT);
        let accession = |retired: u8, successor: u8, by: u8| {
            let agreed = Accession { retired: key(retired).peer_id(), successor: key(successor).peer_id() };
            signed(&agreed, &key(by))
        };
        let said = |accession: Signed| {
            open(&signed(&Revocation { revoked: key(1).peer_id(), accession: Some(accession) }, &key(1)))
        };
        assert_eq!(said(accession(1, 2, 2)).unwrap(), good);
        for (why, accession, error) in [
            ("it agreed to another", accession(3, 2, 2), EnvelopeError::WrongSigner),
            ("another agreed for it", accession(1, 2, 3), EnvelopeError::WrongSigner),
            ("by itself", accession(1, 1, 1), EnvelopeError::WrongSigner),
            ("unsigned", Signed { signature: vec![], ..accession(1, 2, 2) }, EnvelopeError::Unsigned),
            ("for another", Signed { signer: key(3).peer_id(), ..accession(1, 2, 2) }, EnvelopeError::BadSignature),
        ] {
            assert_eq!(said(accession), Err(error), "{why}");
        }
        let other = said(Revocation::of(&key(2)).signed().clone());
        assert!(matches!(other, Err(EnvelopeError::WrongDomain { .. })), "{other:?}");
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
