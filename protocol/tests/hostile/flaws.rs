//! What can be wrong with an advert, one thing at a time.
use super::victim::{GONE, HONEST, NOW, ON_BOARD, REVOKED, Victim, Way, advert, key, network, withdrawal};
use protocol::advert::{ADVERT_TTL, Advert, MAX_ADDRS, MAX_IMAGES, MAX_SKEW, Withdrawal};
use protocol::board::Posting;
use protocol::codec::{self, MAX_ADVERT};
use protocol::envelope::{Payload, Sealed, Signed};
use protocol::message::{Frame, Request};
use protocol::revocation::Revocation;
use protocol::units::{Millis, Timestamp};
use protocol::{ErrorCode, Keypair, PeerId};
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    // Told apart before any signature is looked at.
    Cut,
    Garbage,
    Oversized,
    OversizedMessage,
    Unsigned,
    ShortSignature,
    WrongDomain,
    Replayed,
    OfRevoked,
    RevokedAgain,
    // Not before the signature has been checked.
    ForgedBody,
    ForgedSignature,
    Malleated,
    WeakKey,
    ClaimedSigner,
    Relabelled,
    RevocationForged,
    RevocationClaimed,
    RevocationRelabelled,
    // Signed well, for the purpose.
    KeySubstituted,
    WrongNetwork,
    Expired,
    Future,
    SameNumber,
    EarlierNumber,
    Withdrawn,
    WithdrawnAgain,
    TooManyImages,
    TooManyAddrs,
    MalformedBody,
    RevocationSubstituted,
    RevocationMalformed,
    SuccessorUnwilling,
    SuccessorForged,
    // Cross-shard: an advert on a board that is not its own. Here, and in `Forge::make`, when there are several boards.
}
use Flaw::*;

pub const FLAWS: [Flaw; 34] = [
    Cut,
    Garbage,
    Oversized,
    OversizedMessage,
    Unsigned,
    ShortSignature,
    WrongDomain,
    Replayed,
    OfRevoked,
    RevokedAgain,
    ForgedBody,
    ForgedSignature,
    Malleated,
    WeakKey,
    ClaimedSigner,
    Relabelled,
    RevocationForged,
    RevocationClaimed,
    RevocationRelabelled,
    KeySubstituted,
    WrongNetwork,
    Expired,
    Future,
    SameNumber,
    EarlierNumber,
    Withdrawn,
    WithdrawnAgain,
    TooManyImages,
    TooManyAddrs,
    MalformedBody,
    RevocationSubstituted,
    RevocationMalformed,
    SuccessorUnwilling,
    SuccessorForged,
];

impl Flaw {
    pub fn index(self) -> usize {
        self as usize
    }
    /// What a provider is told, and what the board calls it.
    pub fn label(self) -> &'static str {
        match self {
            Cut | Garbage => "malformed",
            Oversized | OversizedMessage => "oversized",
            Unsigned => "unsigned",
            ShortSignature | ForgedBody | ForgedSignature | Malleated | WeakKey | ClaimedSigner | Relabelled => {
                "forged"
            }
            RevocationForged | RevocationClaimed | RevocationRelabelled | SuccessorForged => "forged",
            RevocationSubstituted | SuccessorUnwilling => "key_substituted",
            RevocationMalformed => "malformed",
            OfRevoked | RevokedAgain => "revoked",
            WrongDomain => "wrong_domain",
            KeySubstituted => "key_substituted",
            WrongNetwork => "wrong_network",
            Expired => "expired",
            Future => "future",
            Replayed | SameNumber | EarlierNumber | Withdrawn | WithdrawnAgain => "stale",
            TooManyImages => "too_many_images",
            TooManyAddrs => "too_many_addrs",
            MalformedBody => "malformed",
        }
    }
    pub fn code(self) -> ErrorCode {
        match self.label() {
            "malformed" | "oversized" | "too_many_images" | "too_many_addrs" => ErrorCode::InvalidRequest,
            "unsigned" => ErrorCode::Unsigned,
            "expired" | "future" | "stale" => ErrorCode::Expired,
            _ => ErrorCode::BadToken,
        }
    }
    /// Honest peers send these too: they are ignored, and cost nobody its score.
    pub fn is_innocent(self) -> bool {
        matches!(self.label(), "expired" | "stale" | "revoked")
    }
    /// A page has adverts only, and is itself a well-formed message.
    pub fn comes(self, way: Way) -> bool {
        let revokes = matches!(
            self,
            RevokedAgain
                | RevocationForged
                | RevocationClaimed
                | RevocationRelabelled
                | RevocationSubstituted
                | RevocationMalformed
                | SuccessorUnwilling
                | SuccessorForged
        );
        way != Way::Page || !revokes && !matches!(self, Cut | Garbage | OversizedMessage | WithdrawnAgain)
    }
}

const ADDR: &str = "/ip4/192.0.2.1/tcp/4001";

/// As it goes on the wire: a posting, or bytes that are none.
#[derive(Clone, Debug)]
pub enum Bad {
    Posting(Posting),
    Bytes(Vec<u8>),
}

pub struct Forge {
    /// What is on the victim's board, what was taken off it, and what took it off.
    there: Vec<Signed>,
    gone: Vec<Signed>,
    withdrawals: Vec<Signed>,
    /// What the honest say next: it has not come to the victim, so that nothing but its flaw keeps it out.
    unseen: Vec<Signed>,
    /// A good withdrawal, in the place of an advert.
    withdrawal: Signed,
    fresh: Keypair,
    strangers: Vec<Keypair>,
    honest: Vec<Keypair>,
}

impl Forge {
    pub fn new(victim: &Victim) -> Self {
        let fresh = key(900);
        Forge {
            there: victim.there.clone(),
            gone: victim.gone.clone(),
            withdrawals: victim.withdrawals.clone(),
            unseen: victim.honest().map(|by| seal(Advert { seq: 2_000, ..advert(&by) }, &by)).collect(),
            withdrawal: Sealed::seal(withdrawal(&fresh, 9, NOW), &fresh).signed().clone(),
            fresh,
            strangers: (1000..1064).map(key).collect(),
            honest: victim.honest().collect(),
        }
    }

    pub fn bad(&mut self, rng: &mut ChaCha8Rng, way: Way) -> (Flaw, Bad) {
        loop {
            let flaw = FLAWS[draw(rng)];
            if flaw.comes(way) {
                return (flaw, self.make(flaw, rng, way));
            }
        }
    }

    fn make(&mut self, flaw: Flaw, rng: &mut ChaCha8Rng, way: Way) -> Bad {
        let there = pick(&self.there, rng).clone();
        let unseen = pick(&self.unseen, rng).clone();
        let stranger = &self.strangers[rng.next_u32() as usize % self.strangers.len()];
        let seq = rng.next_u64();
        let good = || Advert { seq, ..advert(stranger) };
        let post = |signed: Signed| Bad::Posting(Posting::Advert(signed));
        let revoke = |signed: Signed| Bad::Posting(Posting::Revocation(signed));
        let revoked = |rng: &mut ChaCha8Rng| key(REVOKED + rng.next_u32() % GONE);
        match flaw {
            Cut => {
                let posting = Posting::Advert(unseen);
                let whole = match way {
                    Way::Posted => Frame::encode(NOW, Request::Post(posting)),
                    Way::Gossip | Way::Page => codec::encode(&posting),
                };
                let at = rng.next_u32() as usize % whole.len();
                Bad::Bytes(whole[..at].to_vec())
            }
            Garbage => {
                let mut bytes = vec![0; rng.next_u32() as usize % 600];
                rng.fill_bytes(&mut bytes);
                // No CBOR begins with a break.
                bytes.insert(0, 0xff);
                Bad::Bytes(bytes)
            }
            Oversized => {
                let body = vec![0x60; MAX_ADVERT + 1 + rng.next_u32() as usize % 64];
                post(Signed { body, ..unseen })
            }
            OversizedMessage => Bad::Bytes(vec![0x60; way.longest() + 1 + rng.next_u32() as usize % 64]),
            Unsigned => post(Signed { signature: vec![], ..unseen }),
            ShortSignature => {
                let mut signature = unseen.signature.clone();
                match rng.next_u32() % 2 {
                    0 => signature.truncate(1 + rng.next_u32() as usize % 63),
                    _ => signature.push(0),
                }
                post(Signed { signature, ..unseen })
            }
            WrongDomain if rng.next_u32().is_multiple_of(2) => post(self.withdrawal.clone()),
            WrongDomain => post(Signed { domain: format!("golemnode/advert/{}", 2 + rng.next_u32() % 9), ..unseen }),
            Replayed => post(there),
            OfRevoked => {
                let by = revoked(rng);
                post(seal(Advert { seq, ..advert(&by) }, &by))
            }
            RevokedAgain => revoke(Revocation::of(&revoked(rng)).signed().clone()),
            RevocationForged => {
                let mut forged = Revocation::of(&self.honest[seq as usize % self.honest.len()]).signed().clone();
                match rng.next_u32() % 2 {
                    0 => flip(&mut forged.body, rng),
                    _ => flip(&mut forged.signature, rng),
                }
                revoke(forged)
            }
            RevocationClaimed => {
                let own = Revocation::of(stranger).signed().clone();
                let body = codec::encode(&Revocation { revoked: there.signer, accession: None });
                revoke(Signed { signer: there.signer, body, ..own })
            }
            // What a provider signs day by day must not end it.
            RevocationRelabelled => {
                let daily = pick(&self.withdrawals, rng).clone();
                revoke(Signed { domain: Revocation::DOMAIN.into(), ..daily })
            }
            RevocationSubstituted => {
                let body = codec::encode(&Revocation { revoked: there.signer, accession: None });
                revoke(signed_with(stranger, Revocation::DOMAIN, body))
            }
            RevocationMalformed => {
                let mut body = codec::encode(&Revocation { revoked: stranger.peer_id(), accession: None });
                match rng.next_u32() % 3 {
                    0 => body.push(0),
                    1 => body.truncate(rng.next_u32() as usize % body.len()),
                    // With more beside it, it would be another one each time.
                    _ => body = codec::encode(&BTreeMap::from([("revoked", stranger.peer_id()), ("x", there.signer)])),
                }
                revoke(signed_with(stranger, Revocation::DOMAIN, body))
            }
            // Agreed to go on for somebody, and not for this one.
            SuccessorUnwilling => {
                let accession = Revocation::in_favour_of(&self.fresh, &self.honest[seq as usize % self.honest.len()])
                    .accession
                    .clone();
                let body = codec::encode(&Revocation { revoked: stranger.peer_id(), accession });
                revoke(signed_with(stranger, Revocation::DOMAIN, body))
            }
            SuccessorForged => {
                let mut accession = Revocation::in_favour_of(&self.fresh, stranger).accession.clone();
                accession.iter_mut().for_each(|signed| flip(&mut signed.signature, rng));
                let body = codec::encode(&Revocation { revoked: stranger.peer_id(), accession });
                revoke(signed_with(stranger, Revocation::DOMAIN, body))
            }
            ForgedBody => {
                let mut forged = unseen;
                flip(&mut forged.body, rng);
                post(forged)
            }
            ForgedSignature => {
                let mut forged = unseen;
                flip(&mut forged.signature, rng);
                post(forged)
            }
            Malleated => {
                let mut forged = unseen;
                malleate(&mut forged.signature);
                post(forged)
            }
            WeakKey => post(weak(rng)),
            ClaimedSigner => {
                let signer = stranger.peer_id();
                let body = codec::encode(&Advert { provider: signer, ..good() });
                let own = signed_with(&self.fresh, Advert::DOMAIN, body);
                post(Signed { signer, ..own })
            }
            Relabelled => post(Signed { domain: Advert::DOMAIN.into(), ..self.withdrawal.clone() }),
            KeySubstituted => {
                // Signed well by its signer, and naming somebody else as the provider.
                let body = codec::encode(&Advert { provider: there.signer, seq: u64::MAX, ..good() });
                post(signed_with(stranger, Advert::DOMAIN, body))
            }
            WrongNetwork => {
                let name = ["other", "mai", "main2", "main-"][rng.next_u32() as usize % 4];
                post(seal(Advert { network: name.parse().unwrap(), ..good() }, stranger))
            }
            Expired => {
                let late = near(rng, ADVERT_TTL.0);
                post(seal(Advert { issued: NOW.set_back(Millis(ADVERT_TTL.0 + late)), ..good() }, stranger))
            }
            Future => {
                let early = Millis(1 + near(rng, u64::from(u32::MAX)));
                post(seal(Advert { issued: NOW + MAX_SKEW + early, ..good() }, stranger))
            }
            SameNumber | EarlierNumber => {
                let (by, seq) = self.known(rng);
                let seq = if flaw == SameNumber { seq } else { seq - 1 - rng.next_u64() % seq };
                let terms = protocol::advert::Terms { name: None, ..advert(by).terms };
                post(seal(Advert { seq, terms, issued: NOW + Millis(rng.next_u64() % 1000), ..advert(by) }, by))
            }
            Withdrawn => post(pick(&self.gone, rng).clone()),
            WithdrawnAgain => Bad::Posting(Posting::Withdrawal(pick(&self.withdrawals, rng).clone())),
            TooManyImages => {
                let mut crowded = good();
                let more = MAX_IMAGES + 1 + rng.next_u32() as usize % 30;
                crowded.terms.images = vec!["tiny".parse().unwrap(); more];
                post(seal(crowded, stranger))
            }
            TooManyAddrs => {
                let more = MAX_ADDRS + 1 + rng.next_u32() as usize % 9;
                post(seal(Advert { addrs: vec![ADDR.parse().unwrap(); more], ..good() }, stranger))
            }
            MalformedBody => {
                let body = malformed(&good(), rng);
                post(signed_with(stranger, Advert::DOMAIN, body))
            }
        }
    }

    /// One of the honest, and the number of its word that is on the board.
    fn known(&self, rng: &mut ChaCha8Rng) -> (&Keypair, u64) {
        (&self.honest[rng.next_u32() as usize % self.honest.len()], ON_BOARD)
    }

    /// The other side of each boundary.
    pub fn at_the_bounds(&self, rng: &mut ChaCha8Rng) -> Vec<Posting> {
        let mut by = 2000 + rng.next_u32() % 1_000_000;
        let mut next = |change: &dyn Fn(&mut Advert)| {
            by += 1;
            let mut content = advert(&key(by));
            change(&mut content);
            Posting::Advert(seal(content, &key(by)))
        };
        let addrs = |content: &mut Advert| content.addrs = vec![ADDR.parse().unwrap(); MAX_ADDRS];
        let images = |content: &mut Advert| content.terms.images = vec!["tiny".parse().unwrap(); MAX_IMAGES];
        let mut all = vec![
            next(&|_| {}),
            next(&|content| content.issued = NOW.set_back(Millis(ADVERT_TTL.0 - 1))),
            next(&|content| content.issued = NOW + MAX_SKEW),
            next(&images),
            next(&addrs),
            next(&|content| content.seq = 0),
        ];
        // News of those that are there, and of those that had gone.
        let back = key(HONEST);
        for (by, seq) in [(&self.honest[1], ON_BOARD + 1), (&back, ON_BOARD + 2)] {
            all.push(Posting::Advert(seal(Advert { seq, ..advert(by) }, by)));
        }
        all
    }
}

/// Four in ten cost nothing, three a check, three a signature as well.
fn draw(rng: &mut ChaCha8Rng) -> usize {
    let of = |from: usize, to: usize, rng: &mut ChaCha8Rng| from + rng.next_u32() as usize % (to - from);
    match rng.next_u32() % 10 {
        0..4 => of(0, ForgedBody.index(), rng),
        4..7 => of(ForgedBody.index(), KeySubstituted.index(), rng),
        _ => of(KeySubstituted.index(), FLAWS.len(), rng),
    }
}

fn pick<'a>(all: &'a [Signed], rng: &mut ChaCha8Rng) -> &'a Signed {
    &all[rng.next_u32() as usize % all.len()]
}

/// At the boundary itself, one millisecond beyond, or anywhere.
fn near(rng: &mut ChaCha8Rng, most: u64) -> u64 {
    match rng.next_u32() % 3 {
        0 => 0,
        1 => 1,
        _ => rng.next_u64() % most,
    }
}

fn flip(bytes: &mut [u8], rng: &mut ChaCha8Rng) {
    let (at, bit) = (rng.next_u32() as usize % bytes.len(), rng.next_u32() % 8);
    bytes[at] ^= 1 << bit;
}

pub fn seal<T: Payload>(content: T, by: &Keypair) -> Signed {
    Sealed::seal(content, by).signed().clone()
}

fn signed_with(by: &Keypair, domain: &str, body: Vec<u8>) -> Signed {
    let mut bytes = domain.as_bytes().to_vec();
    bytes.push(0);
    bytes.extend_from_slice(&body);
    Signed { domain: domain.into(), signer: by.peer_id(), signature: by.sign(&bytes).to_vec(), body }
}

/// The order of the curve's group, added to the second half: an equation that holds as well, unless one looks closely.
fn malleate(signature: &mut [u8]) {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0;
    for (byte, more) in signature[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(more) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
}

/// Under a key of small order nearly any signature holds, unless one looks closely.
fn weak(rng: &mut ChaCha8Rng) -> Signed {
    let mut point = [0; 32];
    match rng.next_u32() % 3 {
        0 => point[0] = 1,
        1 => {}
        _ => {
            point = [0xff; 32];
            (point[0], point[31]) = (0xec, 0x7f);
        }
    }
    let signer = PeerId::from_public_key(point);
    let body = codec::encode(&Advert { provider: signer, seq: rng.next_u64(), ..advert(&key(1)) });
    let mut signature = vec![0; 64];
    signature[..32].copy_from_slice(&point);
    Signed { domain: Advert::DOMAIN.into(), signer, body, signature }
}

/// Signed well, and no advert.
fn malformed(good: &Advert, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut body = codec::encode(good);
    match rng.next_u32() % 5 {
        0 => body.push(0),
        1 => body.truncate(rng.next_u32() as usize % body.len()),
        2 => body = codec::encode(&withdrawal(&key(5), 1, NOW)),
        // A country in small letters; a price below zero.
        3 => replace(&mut body, b"DE", b"de"),
        _ => replace(&mut body, b"0.02", b"-0.2"),
    }
    body
}

fn replace(body: &mut [u8], what: &[u8], with: &[u8]) {
    let at = body.windows(what.len()).rposition(|window| window == what).expect("every advert here has it");
    body[at..at + what.len()].copy_from_slice(with);
}

pub fn taken_back(by: &Keypair, seq: u64, issued: Timestamp) -> Signed {
    seal(Withdrawal { network: network(), provider: by.peer_id(), seq, issued }, by)
}
