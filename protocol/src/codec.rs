//! CBOR, and nothing else, happens here: serde_cbor is no longer developed, so it can be replaced in one place.
//! What arrives is bounded before it is decoded; serde_cbor itself bounds nesting at 128 and refuses trailing bytes.
use crate::text::plain;
use serde::{Serialize, de::DeserializeOwned};

/// The largest message of the control protocol, either way. A page of adverts is what comes closest.
pub const MAX_MESSAGE: usize = 256 * 1024;
/// The largest advert; a full one (32 images, long names) takes about 2 KiB.
pub const MAX_ADVERT: usize = 4 * 1024;
/// Characters of what is wrong with a message, which may quote it: enough for a name and the first of those expected.
pub const MAX_QUOTED: usize = 120;
/// The largest value in the store, set above a rental with its seed and lease.
pub const MAX_STORED: usize = 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{size} bytes, more than the {limit} allowed")]
    Oversized { size: usize, limit: usize },
    #[error("malformed: {0}")]
    Malformed(String),
}

pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing to memory cannot fail, and no type here refuses to be serialised.
    serde_cbor::to_vec(value).expect("own types serialise")
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::Oversized { size: bytes.len(), limit });
    }
    serde_cbor::from_slice(bytes).map_err(|e| DecodeError::Malformed(plain(&e.to_string(), MAX_QUOTED)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits() {
        assert_eq!(decode::<u8>(&[0; 9], 8), Err(DecodeError::Oversized { size: 9, limit: 8 }));
        assert!(matches!(decode::<u8>(&[0, 0], 8), Err(DecodeError::Malformed(_))), "trailing bytes");
        let nested = vec![0x81; 100_000];
        assert!(decode::<Vec<Vec<u8>>>(&nested, MAX_MESSAGE).is_err(), "deep nesting ends in an error, not a crash");
        // An array that claims 2^60 elements must not be believed before they are there.
        let huge = [0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0];
        assert!(decode::<Vec<u64>>(&huge, MAX_MESSAGE).is_err());
    }

    #[test]
    fn what_is_quoted_of_a_message_is_short_and_drives_no_terminal() {
        let name = "\u{1b}]0;\u{9b}2J\u{202e}".repeat(1000);
        for bytes in [encode(&name), encode(&std::collections::BTreeMap::from([(&name, 1)]))] {
            let error = decode::<crate::message::Request>(&bytes, MAX_MESSAGE).unwrap_err().to_string();
            assert!(error.contains("]0;") && error.chars().count() < 200, "{error:?}");
            assert!(error.chars().all(crate::text::is_plain), "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode::<crate::seed::Seed>(&bytes, MAX_MESSAGE);
        }
    }
}
