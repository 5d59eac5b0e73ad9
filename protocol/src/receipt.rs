//! What a VM has cost so far: signed by the provider, by the hour and at the end, and countersigned by the requestor who
//! finds the same. Each says all that its lease has come to, so the last one stands for all before it.
use crate::envelope::{EnvelopeError, Payload, Sealed, Signed};
use crate::error::{ErrorCode, Fault};
use crate::identity::PeerId;
use crate::lease::SignedText;
use crate::meter::{MAX_PRICES, Meter};
use crate::money::{Price, Sum};
use crate::names::{Digest, LeaseId, Network};
use crate::units::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

/// While a VM is charged for, a receipt is due this often.
pub const EVERY: Millis = Millis::secs(3600);
/// `MAX_PRICES` of some 60 bytes, and a head of 300.
const LIMIT: usize = 4 * 1024;

/// Seconds at one price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub price: Price,
    pub seconds: u64,
}

impl Line {
    pub fn cost(&self) -> Sum {
        Sum::of(&self.price, self.seconds)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub network: Network,
    pub provider: PeerId,
    pub requestor: PeerId,
    pub lease_id: LeaseId,
    /// What was agreed: the grant of the lease.
    pub grant_hash: Digest,
    /// Counts up from 1 within a lease.
    pub number: u32,
    pub issued: Timestamp,
    pub lines: Vec<Line>,
    pub total: Sum,
    /// The lease is over: nothing follows.
    pub last: bool,
}

impl Receipt {
    pub fn seconds(&self) -> u64 {
        self.lines.iter().fold(0, |all, line| all.saturating_add(line.seconds))
    }
    pub fn lines_of(meter: &Meter) -> Vec<Line> {
        let line = |used: &crate::meter::Usage| Line { price: used.price.clone(), seconds: used.time.as_secs() };
        meter.used().iter().map(line).collect()
    }
    /// Whether it goes on from an earlier one: no line takes back what that said.
    pub fn follows(&self, before: &Receipt) -> bool {
        let goes_on = |(old, new): (&Line, &Line)| old.price == new.price && old.seconds <= new.seconds;
        self.number > before.number
            && !before.last
            && self.grant_hash == before.grant_hash
            && self.lines.len() >= before.lines.len()
            && before.lines.iter().zip(&self.lines).all(goes_on)
    }
}

impl Payload for Receipt {
    const DOMAIN: &'static str = "golemnode/receipt/1";
    const LIMIT: usize = LIMIT;
    fn network(&self) -> Option<&Network> {
        Some(&self.network)
    }
    fn signer(&self) -> PeerId {
        self.provider
    }
    fn check(&self) -> Result<(), EnvelopeError> {
        let one_currency = self.lines.windows(2).all(|pair| pair[0].price.currency == pair[1].price.currency);
        let sum = self.lines.iter().fold(Sum::ZERO, |all, line| all.plus(line.cost()));
        let sound = !self.lines.is_empty() && self.lines.len() <= MAX_PRICES && one_currency && sum == self.total;
        if sound { Ok(()) } else { Err(EnvelopeError::Unsound("its lines do not come to its total")) }
    }
}

/// The requestor found the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Countersign {
    pub network: Network,
    pub provider: PeerId,
    pub requestor: PeerId,
    pub lease_id: LeaseId,
    pub receipt_hash: Digest,
    pub signed_at: Timestamp,
}

impl Payload for Countersign {
    const DOMAIN: &'static str = "golemnode/countersign/1";
    const LIMIT: usize = LIMIT;
    fn network(&self) -> Option<&Network> {
        Some(&self.network)
    }
    fn signer(&self) -> PeerId {
        self.requestor
    }
}

/// A receipt as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRow {
    pub lease_id: LeaseId,
    pub issued: Timestamp,
    pub receipt: Signed,
    pub countersign: Option<Signed>,
}

impl ReceiptRow {
    pub fn document(&self, network: &Network) -> ReceiptDocument {
        ReceiptDocument {
            version: ReceiptDocument::VERSION,
            network: network.clone(),
            receipt: (&self.receipt).into(),
            countersign: self.countersign.as_ref().map(Into::into),
        }
    }
}

/// A receipt as it is shown and given to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptDocument {
    pub version: u8,
    pub network: Network,
    pub receipt: SignedText,
    pub countersign: Option<SignedText>,
}

/// What a receipt says, once every signature and hash has been checked.
#[derive(Clone, Debug)]
pub struct VerifiedReceipt {
    pub receipt: Sealed<Receipt>,
    pub countersign: Option<Sealed<Countersign>>,
}

impl ReceiptDocument {
    pub const VERSION: u8 = 1;

    pub fn verify(&self) -> Result<VerifiedReceipt, Fault> {
        if self.version != Self::VERSION {
            return Err(Fault::new(ErrorCode::UnknownVersion, format!("receipt version {} is unknown", self.version)));
        }
        let invalid = |what: &str, error: EnvelopeError| {
            Fault::new(error.code(), format!("the receipt is not valid: in its {what}, {error}"))
        };
        let receipt: Sealed<Receipt> =
            self.receipt.signed()?.open(&self.network).map_err(|error| invalid("bill", error))?;
        let countersign = match &self.countersign {
            None => None,
            Some(text) => {
                let signed: Sealed<Countersign> =
                    text.signed()?.open(&self.network).map_err(|error| invalid("countersignature", error))?;
                if !signed.is_of(&receipt) {
                    let what = "the receipt is not valid: the countersignature is of another one";
                    return Err(Fault::new(ErrorCode::BadToken, what));
                }
                Some(signed)
            }
        };
        Ok(VerifiedReceipt { receipt, countersign })
    }
}

impl Countersign {
    pub fn is_of(&self, receipt: &Sealed<Receipt>) -> bool {
        let same = (self.provider, self.requestor) == (receipt.provider, receipt.requestor);
        same && self.lease_id == receipt.lease_id && self.receipt_hash == receipt.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Keypair;

    fn line(per_hour: &str, seconds: u64) -> Line {
        let price = Price { per_hour: per_hour.parse().unwrap(), currency: "EUR".parse().unwrap() };
        Line { price, seconds }
    }
    fn receipt(number: u32, lines: Vec<Line>) -> Receipt {
        let (provider, requestor) =
            (Keypair::from_secret(&[1; 32]).peer_id(), Keypair::from_secret(&[2; 32]).peer_id());
        let total = lines.iter().fold(Sum::ZERO, |all, line| all.plus(line.cost()));
        Receipt {
            network: "test".parse().unwrap(),
            provider,
            requestor,
            lease_id: LeaseId([1; 16]),
            grant_hash: Digest::of(b"grant"),
            number,
            issued: Timestamp(1),
            lines,
            total,
            last: false,
        }
    }
    fn document(receipt: Receipt) -> ReceiptDocument {
        let receipt = Sealed::seal(receipt, &Keypair::from_secret(&[1; 32]));
        let countersign = Countersign {
            network: receipt.network.clone(),
            provider: receipt.provider,
            requestor: receipt.requestor,
            lease_id: receipt.lease_id,
            receipt_hash: receipt.digest(),
            signed_at: Timestamp(2),
        };
        let countersign = Sealed::seal(countersign, &Keypair::from_secret(&[2; 32])).signed().clone();
        let (lease_id, issued) = (receipt.lease_id, receipt.issued);
        let row = ReceiptRow { lease_id, issued, receipt: receipt.signed().clone(), countersign: Some(countersign) };
        row.document(&"test".parse().unwrap())
    }

    #[test]
    fn a_receipt_verifies_offline_and_any_changed_byte_is_refused() {
        let good = document(receipt(3, vec![line("0.01", 3600), line("0.02", 30)]));
        let verified = good.verify().unwrap();
        assert_eq!((verified.receipt.total.to_string(), verified.receipt.seconds()), ("0.010166666667".into(), 3630));
        assert!(verified.countersign.is_some());
        let flip = |text: &str, at: usize| {
            let mut bytes = hex::decode(text).unwrap();
            bytes[at] ^= 1;
            hex::encode(bytes)
        };
        for at in 0..good.receipt.body.len() / 2 {
            let mut bad = good.clone();
            bad.receipt.body = flip(&bad.receipt.body, at);
            assert!(bad.verify().is_err(), "byte {at} of the receipt");
        }
        let countersign = good.countersign.clone().unwrap();
        for at in 0..countersign.body.len() / 2 {
            let mut bad = good.clone();
            bad.countersign = Some(SignedText { body: flip(&countersign.body, at), ..countersign.clone() });
            assert!(bad.verify().is_err(), "byte {at} of the countersignature");
        }
        let other = document(receipt(4, vec![line("0.01", 3600)]));
        let swapped = ReceiptDocument { countersign: other.countersign, ..good.clone() };
        assert_eq!(swapped.verify().unwrap_err().code, ErrorCode::BadToken);
        let bare = ReceiptDocument { countersign: None, ..good };
        assert!(bare.verify().unwrap().countersign.is_none());
    }

    #[test]
    fn a_sum_that_its_lines_do_not_give_is_no_receipt() {
        let dear = Receipt { total: "1".parse().unwrap(), ..receipt(1, vec![line("0.01", 3600)]) };
        assert!(document(dear).verify().is_err());
        assert!(document(receipt(1, Vec::new())).verify().is_err());
    }

    #[test]
    fn the_next_one_takes_nothing_back() {
        let first = receipt(1, vec![line("1", 100)]);
        assert!(receipt(2, vec![line("1", 100)]).follows(&first));
        assert!(receipt(2, vec![line("1", 150), line("2", 3)]).follows(&first));
        assert!(!receipt(1, vec![line("1", 150)]).follows(&first), "the same number");
        assert!(!receipt(2, vec![line("1", 99)]).follows(&first), "less");
        assert!(!receipt(2, vec![line("2", 150)]).follows(&first), "another price");
        assert!(!receipt(2, vec![line("1", 100)]).follows(&Receipt { last: true, ..first }), "it was the last");
    }
}
