//! Who a node is: an ed25519 key. A peer id *is* its public key, so a key cannot be swapped under an id.
use crate::error::Fault;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The identity multihash of a protobuf-encoded ed25519 key: what libp2p writes before the 32 bytes of the key.
/// <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>
const MULTIHASH_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    pub fn from_public_key(key: [u8; 32]) -> Self {
        PeerId(key)
    }
    /// The next lower one, round to the highest: as a bound of a range, not as anybody's.
    pub fn before(&self) -> Self {
        let mut key = self.0;
        for byte in key.iter_mut().rev() {
            let borrow = *byte == 0;
            *byte = byte.wrapping_sub(1);
            if !borrow {
                break;
            }
        }
        PeerId(key)
    }
    pub fn public_key(&self) -> &[u8; 32] {
        &self.0
    }
    /// The bytes that libp2p uses for this peer.
    pub fn to_multihash(self) -> [u8; 38] {
        let mut bytes = [0; 38];
        bytes[..6].copy_from_slice(&MULTIHASH_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        bytes
    }
    pub fn from_multihash(bytes: &[u8]) -> Result<Self, Fault> {
        let key = bytes.strip_prefix(&MULTIHASH_PREFIX).and_then(|key| <[u8; 32]>::try_from(key).ok());
        key.map(PeerId).ok_or_else(|| Fault::invalid("not the id of a peer with an ed25519 key"))
    }
    /// Strict: refuses the weak keys and the non-canonical signatures under which one signature fits two messages.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .and_then(|key| key.verify_strict(message, &Signature::from_bytes(signature)))
            .is_ok()
    }
    /// The last characters, for tables.
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len() - 8..].to_owned()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_multihash()).into_string())
    }
}
impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", self.short())
    }
}
impl FromStr for PeerId {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        let bad = || {
            Fault::invalid(format!("'{}' is not a peer id", text.chars().take(80).collect::<String>()))
                .hint("a peer id begins with 12D3KooW; 'golemnode provider list' shows those of providers")
        };
        if text.len() > 64 {
            return Err(bad());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| bad())?;
        PeerId::from_multihash(&bytes).map_err(|_| bad())
    }
}
/// Text in JSON, the 32 bytes of the key in CBOR.
impl Serialize for PeerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
    }
}
impl<'de> Deserialize<'de> for PeerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
            <[u8; 32]>::try_from(bytes.as_slice()).map(PeerId).map_err(|_| D::Error::custom("a peer id has 32 bytes"))
        }
    }
}

/// The secret half. Shown by nobody: no `Debug`, no `Serialize`; dalek wipes it on drop.
#[derive(Clone)]
pub struct Keypair(SigningKey);

impl Keypair {
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Keypair(SigningKey::from_bytes(secret))
    }
    pub fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }
    pub fn peer_id(&self) -> PeerId {
        PeerId(self.0.verifying_key().to_bytes())
    }
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip_and_prefix() {
        let id = Keypair::from_secret(&[1; 32]).peer_id();
        assert!(id.to_string().starts_with("12D3KooW"));
        assert_eq!(id.to_string().parse::<PeerId>().unwrap(), id);
        for bad in ["", "12D3KooW", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "0OIl", &"1".repeat(10_000)] {
            assert!(bad.parse::<PeerId>().is_err());
        }
    }

    #[test]
    fn a_signature_fits_one_message_and_one_key() {
        let (a, b) = (Keypair::from_secret(&[1; 32]), Keypair::from_secret(&[2; 32]));
        let signature = a.sign(b"m");
        assert!(a.peer_id().verifies(b"m", &signature));
        assert!(!a.peer_id().verifies(b"n", &signature));
        assert!(!b.peer_id().verifies(b"m", &signature));
        // The neutral element is a key under which anything verifies, unless verification is strict.
        let mut weak = [0; 32];
        weak[0] = 1;
        assert!(!PeerId::from_public_key(weak).verifies(b"m", &[0; 64]));
    }
}
