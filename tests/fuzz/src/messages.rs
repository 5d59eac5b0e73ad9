//! What nodes say to each other, before anything is believed.
use crate::{must_be_plain, world};
use protocol::advert::{Advert, Withdrawal};
use protocol::board::{Board, Posting};
use protocol::codec::{self, DecodeError, MAX_ADVERT, MAX_MESSAGE, MAX_QUOTED};
use protocol::core::Verdict;
use protocol::envelope::{EnvelopeError, Payload, Signed};
use protocol::lease::{Accept, Active, Confirm, Grant, Quote};
use protocol::message::{Frame, FrameError, Request, Response, VERSION};
use protocol::refusal::Refusal;
use protocol::revocation::Revocation;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// More than any of the errors says around what it quotes.
const ERROR: usize = MAX_QUOTED + 80;

pub fn frame_request(data: &[u8]) {
    frame::<Request>(data);
}

pub fn frame_response(data: &[u8]) {
    if let Some(Response::Refused(refusal)) = frame::<Response>(data) {
        // A provider's refusal is shown to a user.
        let fault = protocol::Fault::from(refusal).from_peer();
        must_be_plain(&fault.message, MAX_MESSAGE);
        fault.details.iter().chain(&fault.hint).for_each(|text| must_be_plain(text, MAX_MESSAGE));
    }
}

fn frame<T: Serialize + DeserializeOwned + Clone + PartialEq + Debug>(data: &[u8]) -> Option<T> {
    match Frame::<T>::decode(data) {
        Ok(frame) => {
            let again = Frame::<T>::decode(&codec::encode(&frame)).expect("what was read is written as it can be read");
            assert_eq!(again, frame);
            Some(frame.body)
        }
        Err(FrameError::UnknownVersion(version)) => {
            assert_ne!(version, VERSION);
            None
        }
        Err(FrameError::Undecodable(error)) => {
            must_be_plain(&Refusal::Malformed(error.to_string()).to_string(), ERROR);
            None
        }
    }
}

/// What gossip brings: on the board if it is somebody's word, and not at all if it is not.
pub fn posting(data: &[u8]) {
    let posting = match codec::decode::<Posting>(data, MAX_ADVERT + 512) {
        Ok(posting) => posting,
        Err(error) => return must_be_plain(&error.to_string(), ERROR),
    };
    assert_eq!(codec::decode::<Posting>(&codec::encode(&posting), MAX_MESSAGE).as_ref(), Ok(&posting));
    let mut board = Board::new(world::network());
    let signed = posting.signed().clone();
    match board.post(world::START, posting) {
        Ok(peer) => {
            assert_eq!(peer, signed.signer);
            assert!(signed.clone().open::<Advert>(&world::network()).is_ok() || board.is_empty());
        }
        Err(refusal) => {
            must_be_plain(&refusal.to_string(), ERROR);
            must_be_plain(&Refusal::from(refusal).to_string(), ERROR + 80);
            assert!(board.is_empty() && board.revision() == 0);
        }
    }
}

/// How many kinds of signed messages there are.
pub const KINDS: u8 = 8;

/// The first byte says which kind, the second how: as it came, or signed well, with the rest as its body. So the
/// signature keeps nothing out.
pub fn envelope(data: &[u8]) {
    let (Some(kind), Some(how)) = (data.first(), data.get(1)) else { return };
    let body = &data[2..];
    match kind % KINDS {
        0 => opened::<Advert>(body, *how),
        1 => opened::<Withdrawal>(body, *how),
        2 => opened::<Quote>(body, *how),
        3 => opened::<Accept>(body, *how),
        4 => opened::<Grant>(body, *how),
        5 => opened::<Confirm>(body, *how),
        6 => opened::<Active>(body, *how),
        _ => opened::<Revocation>(body, *how),
    }
}

fn opened<T: Payload + PartialEq + Debug>(body: &[u8], how: u8) {
    let as_it_came = how & 1 == 1;
    let signed = if as_it_came {
        let Ok(signed) = codec::decode::<Signed>(body, MAX_MESSAGE) else { return };
        signed
    } else {
        world::sign::<T>(&world::key(how >> 1 & 7), body)
    };
    must_be_plain(&format!("{signed:?}"), usize::MAX);
    match signed.clone().open::<T>(&world::network()) {
        Ok(sealed) => {
            assert_eq!(sealed.signer(), signed.signer);
            assert!(sealed.network().is_none_or(|network| *network == world::network()));
            assert_eq!(sealed.signed(), &signed, "the very bytes that were signed");
            let again: T = codec::decode(&codec::encode(&*sealed), MAX_MESSAGE).expect("as it was read");
            assert_eq!(again, *sealed);
            // One bit of it changed, and it is nobody's word.
            let mut forged = signed.clone();
            let at = usize::from(how) % forged.body.len();
            forged.body[at] ^= 1;
            assert_eq!(forged.open::<T>(&world::network()).map(drop), Err(EnvelopeError::BadSignature));
        }
        Err(error) => {
            must_be_plain(&error.to_string(), ERROR);
            let oversized = EnvelopeError::Undecodable(DecodeError::Oversized { size: body.len(), limit: T::LIMIT });
            assert!(as_it_came || body.len() <= T::LIMIT || error == oversized);
            // A revocation encloses its successor's word, which is signed apart.
            let encloses = T::DOMAIN == Revocation::DOMAIN;
            let ill_signed = matches!(error, EnvelopeError::BadSignature | EnvelopeError::Unsigned);
            assert!(as_it_came || encloses || !ill_signed);
        }
    }
}

/// The first words on a tunnel, both ends'.
pub fn tunnel(data: &[u8]) {
    if let Some((open, written)) = node::fuzzing::tunnel_open(data) {
        assert_eq!(node::fuzzing::tunnel_open(&written).map(|(again, _)| again), Some(open));
    }
    if let Some((reply, written)) = node::fuzzing::tunnel_reply(data) {
        let again = node::fuzzing::tunnel_reply(&written).map(|(again, _)| again);
        // A text may be written longer than it was read, and then it is over the limit; it is never another one.
        assert!(again.is_none_or(|again| again == reply));
        if let protocol::tunnel::TunnelReply::Refused(refusal) = reply {
            must_be_plain(&protocol::Fault::from(refusal).from_peer().message, MAX_MESSAGE);
        }
    }
}

/// What a verdict may be of what a board refused.
pub(crate) fn is_no(verdict: Verdict) -> bool {
    verdict != Verdict::Accept
}
