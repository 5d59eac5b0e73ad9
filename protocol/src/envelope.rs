//! What must stand later is signed over its exact bytes, behind a prefix that says what it is. Nothing is re-encoded
//! before it is verified, and a signature made for one kind of message fits no other.
use crate::codec::{self, DecodeError};
use crate::error::{ErrorCode, Fault};
use crate::identity::{Keypair, PeerId};
use crate::names::{Digest, Network};
use crate::text::plain;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Something that can be signed. Its body names the network and its own signer, so that neither can be swapped.
pub trait Payload: Serialize + DeserializeOwned {
    /// The domain-separation prefix, unique to the kind and its version.
    const DOMAIN: &'static str;
    const LIMIT: usize;
    /// None: it holds in every network.
    fn network(&self) -> Option<&Network>;
    fn signer(&self) -> PeerId;
    /// What else has to fit once the signature does.
    fn check(&self) -> Result<(), EnvelopeError> {
        Ok(())
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    pub domain: String,
    pub signer: PeerId,
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub signature: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("it is a '{got}', not a '{expected}'")]
    WrongDomain { expected: &'static str, got: String },
    #[error("it is unsigned")]
    Unsigned,
    #[error("its signature does not fit")]
    BadSignature,
    #[error("it is signed by another key than the one it names")]
    WrongSigner,
    #[error("it is of another network")]
    WrongNetwork,
    #[error("{0}")]
    Unsound(&'static str),
    #[error("it is {0}")]
    Undecodable(DecodeError),
}

impl EnvelopeError {
    pub fn code(&self) -> ErrorCode {
        match self {
            EnvelopeError::Unsigned => ErrorCode::Unsigned,
            EnvelopeError::Undecodable(_) | EnvelopeError::Unsound(_) => ErrorCode::InvalidRequest,
            _ => ErrorCode::BadToken,
        }
    }
}
impl From<EnvelopeError> for Fault {
    fn from(error: EnvelopeError) -> Fault {
        Fault::new(error.code(), format!("a signed message is refused: {error}"))
    }
}

/// The bytes under a signature: `domain ‖ 0 ‖ body`. A domain has no zero byte, so no two pairs give the same bytes.
fn signed_bytes(domain: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(domain.len() + 1 + body.len());
    bytes.extend_from_slice(domain.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(body);
    bytes
}

impl Signed {
    /// What one signed message is known by in the next.
    pub fn digest(&self) -> Digest {
        Digest::of(&signed_bytes(&self.domain, &self.body))
    }

    /// Bounds first, then the signature, then the content.
    pub fn open<T: Payload>(self, network: &Network) -> Result<Sealed<T>, EnvelopeError> {
        let sealed = self.checked::<T>()?;
        match sealed.network() {
            Some(own) if own != network => Err(EnvelopeError::WrongNetwork),
            _ => Ok(sealed),
        }
    }
    /// The same, of something that names no network.
    pub fn open_anywhere<T: Payload>(self) -> Result<Sealed<T>, EnvelopeError> {
        let sealed = self.checked::<T>()?;
        if sealed.network().is_some() { Err(EnvelopeError::WrongNetwork) } else { Ok(sealed) }
    }

    fn checked<T: Payload>(self) -> Result<Sealed<T>, EnvelopeError> {
        if self.domain != T::DOMAIN {
            let got = plain(&self.domain, 64);
            return Err(EnvelopeError::WrongDomain { expected: T::DOMAIN, got });
        }
        if self.body.len() > T::LIMIT {
            return Err(EnvelopeError::Undecodable(DecodeError::Oversized { size: self.body.len(), limit: T::LIMIT }));
        }
        if self.signature.is_empty() {
            return Err(EnvelopeError::Unsigned);
        }
        let signature = self.signature.as_slice().try_into().map_err(|_| EnvelopeError::BadSignature)?;
        if !self.signer.verifies(&signed_bytes(T::DOMAIN, &self.body), signature) {
            return Err(EnvelopeError::BadSignature);
        }
        let content: T = codec::decode(&self.body, T::LIMIT).map_err(EnvelopeError::Undecodable)?;
        if content.signer() != self.signer {
            return Err(EnvelopeError::WrongSigner);
        }
        content.check()?;
        Ok(Sealed { signed: self, content })
    }
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signed({:?} by {:?}, {} bytes)", self.domain, self.signer, self.body.len())
    }
}

/// A signed message whose signature has been checked, with the bytes that were signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed<T> {
    signed: Signed,
    content: T,
}

impl<T: Payload> Sealed<T> {
    pub fn seal(content: T, keypair: &Keypair) -> Self {
        debug_assert_eq!(content.signer(), keypair.peer_id());
        let body = codec::encode(&content);
        let signature = keypair.sign(&signed_bytes(T::DOMAIN, &body)).to_vec();
        let signed = Signed { domain: T::DOMAIN.to_owned(), signer: keypair.peer_id(), body, signature };
        Sealed { signed, content }
    }
    pub fn digest(&self) -> Digest {
        self.signed.digest()
    }
    pub fn signed(&self) -> &Signed {
        &self.signed
    }
}
impl<T> std::ops::Deref for Sealed<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        network: Network,
        by: PeerId,
        text: String,
    }
    impl Payload for Note {
        const DOMAIN: &'static str = "golemnode/note/1";
        const LIMIT: usize = 256;
        fn network(&self) -> Option<&Network> {
            Some(&self.network)
        }
        fn signer(&self) -> PeerId {
            self.by
        }
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Other(Note);
    impl Payload for Other {
        const DOMAIN: &'static str = "golemnode/other/1";
        const LIMIT: usize = 256;
        fn network(&self) -> Option<&Network> {
            Some(&self.0.network)
        }
        fn signer(&self) -> PeerId {
            self.0.by
        }
    }

    fn key(n: u8) -> Keypair {
        Keypair::from_secret(&[n; 32])
    }
    fn net(name: &str) -> Network {
        name.parse().unwrap()
    }
    fn note() -> Sealed<Note> {
        Sealed::seal(Note { network: net("main"), by: key(1).peer_id(), text: "hello".into() }, &key(1))
    }
    fn open(signed: Signed) -> Result<Sealed<Note>, EnvelopeError> {
        signed.open::<Note>(&net("main"))
    }

    #[test]
    fn what_was_sealed_opens() {
        assert_eq!(open(note().signed().clone()).unwrap(), note());
    }

    #[test]
    fn each_way_to_tamper_has_its_reason() {
        let good = note().signed().clone();
        let flipped = Signed { body: good.body.iter().map(|b| b ^ 1).collect(), ..good.clone() };
        assert_eq!(open(flipped), Err(EnvelopeError::BadSignature));
        assert_eq!(open(Signed { signature: vec![], ..good.clone() }), Err(EnvelopeError::Unsigned));
        assert_eq!(open(Signed { signature: vec![0; 63], ..good.clone() }), Err(EnvelopeError::BadSignature));
        assert_eq!(open(Signed { signer: key(2).peer_id(), ..good.clone() }), Err(EnvelopeError::BadSignature));
        let claimed = Note { network: net("main"), by: key(1).peer_id(), text: "by 2".into() };
        let body = codec::encode(&claimed);
        let signature = key(2).sign(&signed_bytes(Note::DOMAIN, &body)).to_vec();
        let substituted = Signed { domain: Note::DOMAIN.into(), signer: key(2).peer_id(), body, signature };
        assert_eq!(open(substituted), Err(EnvelopeError::WrongSigner));
        assert!(matches!(good.clone().open::<Other>(&net("main")), Err(EnvelopeError::WrongDomain { .. })));
        let relabelled = Signed { domain: Other::DOMAIN.into(), ..good.clone() };
        assert!(matches!(relabelled.open::<Other>(&net("main")), Err(EnvelopeError::BadSignature)));
        assert_eq!(good.clone().open::<Note>(&net("test")), Err(EnvelopeError::WrongNetwork));
        let loud = Signed { domain: "\u{1b}[2J\u{9b}".into(), ..good.clone() };
        assert!(!format!("{loud:?}").contains(['\u{1b}', '\u{9b}']));
        assert!(open(loud).unwrap_err().to_string().chars().all(crate::text::is_plain));
        let big = Signed { body: vec![0; 257], ..good };
        assert!(matches!(open(big), Err(EnvelopeError::Undecodable(DecodeError::Oversized { .. }))));
    }
}
