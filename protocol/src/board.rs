//! The board: the adverts now alive, as every node keeps them. Whatever comes from a peer is verified before it is
//! kept or forwarded, and bounded. The gossiped board is one, and so is what a holder keeps of each shard.
//!
//! ```text
//!            advert, newer seq            300 s since issued or first seen
//!  (nothing) ──────────────────▶ alive ───────────────────────────────────▶ (nothing)
//!                                  │ withdrawal, newer seq                      ▲
//!                                  └────────────▶ tombstone ────────────────────┘ 360 s
//! ```
use crate::advert::{ADVERT_TTL, Advert, MAX_ADDRS, MAX_IMAGES, MAX_SKEW, TOMBSTONE_TTL, Withdrawal};
use crate::codec::{DecodeError, MAX_ADVERT};
use crate::envelope::{EnvelopeError, Sealed, Signed};
use crate::error::ErrorCode;
use crate::identity::PeerId;
use crate::names::Network;
use crate::revocation::Revocation;
use crate::shard::Index;
use crate::spec::Query;
use crate::units::{Millis, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Adverts of one board. At about 1 KiB each a full one stays near 4 MiB; gossip ends long before that.
pub const MAX_ADVERTS: usize = 4096;
/// Withdrawn providers remembered. Those beyond it are forgotten soonest-to-expire first.
pub const MAX_TOMBSTONES: usize = 4096;
/// Adverts in one page of a snapshot; the byte limit of a message binds first for large ones.
pub const PAGE: usize = 128;
const PAGE_BYTES: usize = 128 * 1024;

/// Why an advert or a withdrawal was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoardRefusal {
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("it is older than {} s", ADVERT_TTL.as_secs())]
    Expired,
    #[error("it was issued more than {} s in the future", MAX_SKEW.as_secs())]
    Future,
    #[error("sequence {got} is not after {known}: replayed or out of order")]
    Stale { got: u64, known: u64 },
    #[error("it names more than {MAX_IMAGES} images")]
    TooManyImages,
    #[error("it names more than {MAX_ADDRS} addresses")]
    TooManyAddrs,
    #[error("its place is not in this shard")]
    Misplaced,
    #[error("too many adverts here come from addresses like its own")]
    CrowdedBlock,
    #[error("its key has been revoked")]
    Revoked,
    #[error("the board is full")]
    Full,
}

impl BoardRefusal {
    pub fn code(&self) -> ErrorCode {
        match self {
            BoardRefusal::Envelope(error) => error.code(),
            BoardRefusal::Expired | BoardRefusal::Future | BoardRefusal::Stale { .. } => ErrorCode::Expired,
            BoardRefusal::TooManyImages | BoardRefusal::TooManyAddrs | BoardRefusal::Misplaced => {
                ErrorCode::InvalidRequest
            }
            BoardRefusal::CrowdedBlock => ErrorCode::Quota,
            BoardRefusal::Revoked => ErrorCode::BadToken,
            BoardRefusal::Full => ErrorCode::TooManyRequests,
        }
    }
    /// A word for metrics and events.
    pub fn label(&self) -> &'static str {
        match self {
            BoardRefusal::Envelope(EnvelopeError::WrongDomain { .. }) => "wrong_domain",
            BoardRefusal::Envelope(EnvelopeError::Unsigned) => "unsigned",
            BoardRefusal::Envelope(EnvelopeError::BadSignature) => "forged",
            BoardRefusal::Envelope(EnvelopeError::WrongSigner) => "key_substituted",
            BoardRefusal::Envelope(EnvelopeError::WrongNetwork) => "wrong_network",
            BoardRefusal::Envelope(EnvelopeError::Undecodable(DecodeError::Oversized { .. })) => "oversized",
            BoardRefusal::Envelope(
                EnvelopeError::Undecodable(DecodeError::Malformed(_)) | EnvelopeError::Unsound(_),
            ) => "malformed",
            BoardRefusal::Expired => "expired",
            BoardRefusal::Future => "future",
            BoardRefusal::Stale { .. } => "stale",
            BoardRefusal::TooManyImages => "too_many_images",
            BoardRefusal::TooManyAddrs => "too_many_addrs",
            BoardRefusal::Misplaced => "misplaced",
            BoardRefusal::CrowdedBlock => "crowded_block",
            BoardRefusal::Revoked => "revoked",
            BoardRefusal::Full => "full",
        }
    }
    /// Honest peers send stale and expired ones too (gossip travels several ways), and those of a key of whose end they
    /// have not heard, so those cost no reputation.
    pub fn is_hostile(&self) -> bool {
        let honest = matches!(self, BoardRefusal::Stale { .. } | BoardRefusal::Expired | BoardRefusal::Revoked);
        !honest && !matches!(self, BoardRefusal::CrowdedBlock | BoardRefusal::Full)
    }
}

/// What travels on the board's topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Posting {
    Advert(Signed),
    Withdrawal(Signed),
    /// Ends all that this key says, for good; it goes everywhere, however large the mesh is.
    Revocation(Signed),
}

impl Posting {
    pub fn signed(&self) -> &Signed {
        match self {
            Posting::Advert(signed) | Posting::Withdrawal(signed) | Posting::Revocation(signed) => signed,
        }
    }
}

/// One advert of a snapshot, with the life it has left: a peer may shorten it, never lengthen it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageItem {
    pub advert: Signed,
    pub life: Millis,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    pub items: Vec<PageItem>,
    /// Ask again after this one; none when this was the last page.
    pub next: Option<PeerId>,
    /// Adverts in the whole mesh, as far as whoever answers knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u32>,
    /// Keys that were revoked lately, with the first page.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Signed>,
    /// How deep whoever answers has found trees of the sharded board, with the first page.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depths: Vec<(Index, u8)>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    /// Shared, for the same advert stands in several shards and in what was found lately.
    pub advert: Arc<Sealed<Advert>>,
    pub expires: Timestamp,
    /// When these very words were first taken here.
    first_seen: Timestamp,
}

impl Entry {
    pub fn first_seen(&self) -> Timestamp {
        self.first_seen
    }
    /// What is remembered of one that ends although its words would look fresh if they came again.
    fn tombstone(&self, now: Timestamp) -> Tombstone {
        // From a clock ahead of ours: it has had its 300 s here. Or a forwarder cut its life short: it may come again by
        // another way, but nothing that its provider said before it.
        let outlived = self.first_seen + ADVERT_TTL <= now;
        let seq = self.advert.seq.saturating_sub(u64::from(!outlived));
        Tombstone { seq, until: self.advert.issued + ADVERT_TTL }
    }
}

#[derive(Clone, Copy, Debug)]
struct Tombstone {
    seq: u64,
    until: Timestamp,
}

#[derive(Debug)]
pub struct Board {
    network: Network,
    most: usize,
    entries: BTreeMap<PeerId, Entry>,
    tombstones: BTreeMap<PeerId, Tombstone>,
    /// Nothing here ends before this; what was replaced meanwhile may make it early, never late.
    earliest: Option<Timestamp>,
    revision: u64,
    taken_off: u64,
}

impl Board {
    pub fn new(network: Network) -> Self {
        Board::with_room_for(network, MAX_ADVERTS)
    }
    pub fn with_room_for(network: Network, most: usize) -> Self {
        let (entries, tombstones) = (BTreeMap::new(), BTreeMap::new());
        Board { network, most, entries, tombstones, earliest: None, revision: 0, taken_off: 0 }
    }

    pub fn post(&mut self, now: Timestamp, posting: Posting) -> Result<PeerId, BoardRefusal> {
        match posting {
            Posting::Advert(signed) => self.advertise(now, signed, ADVERT_TTL),
            Posting::Withdrawal(signed) => self.withdraw(now, signed),
            Posting::Revocation(signed) => {
                let revoked = signed.open::<Revocation>(&self.network)?.revoked;
                self.revoke(now, revoked);
                Ok(revoked)
            }
        }
    }

    /// Takes an advert that may live at most `life` more.
    pub fn advertise(&mut self, now: Timestamp, signed: Signed, life: Millis) -> Result<PeerId, BoardRefusal> {
        self.is_news(&signed)?;
        let advert = signed.open::<Advert>(&self.network)?;
        self.admit(now, Arc::new(advert), life)
    }

    /// What can be said without a look at the signature.
    pub fn is_news(&self, signed: &Signed) -> Result<(), BoardRefusal> {
        if signed.body.len() > MAX_ADVERT {
            let oversized = DecodeError::Oversized { size: signed.body.len(), limit: MAX_ADVERT };
            return Err(EnvelopeError::Undecodable(oversized).into());
        }
        // Snapshots bring most adverts again: the very same bytes need no second signature check.
        if let Some(known) = self.entries.get(&signed.signer).filter(|entry| entry.advert.signed() == signed) {
            return Err(BoardRefusal::Stale { got: known.advert.seq, known: known.advert.seq });
        }
        Ok(())
    }

    /// Takes an advert whose signature was checked.
    pub fn admit(&mut self, now: Timestamp, advert: Arc<Sealed<Advert>>, life: Millis) -> Result<PeerId, BoardRefusal> {
        let provider = advert.provider;
        self.check_times(now, provider, advert.seq, advert.issued)?;
        if advert.terms.images.len() > MAX_IMAGES {
            return Err(BoardRefusal::TooManyImages);
        }
        if advert.addrs.len() > MAX_ADDRS {
            return Err(BoardRefusal::TooManyAddrs);
        }
        if self.entries.len() >= self.most {
            self.expire(now);
        }
        if self.entries.len() >= self.most && !self.entries.contains_key(&provider) {
            return Err(BoardRefusal::Full);
        }
        let lives_until = (advert.issued.min(now) + ADVERT_TTL).min(now + life);
        self.entries.insert(provider, Entry { advert, expires: lives_until, first_seen: now });
        self.ends(lives_until);
        self.tombstones.remove(&provider);
        self.revision += 1;
        Ok(provider)
    }

    fn withdraw(&mut self, now: Timestamp, signed: Signed) -> Result<PeerId, BoardRefusal> {
        let withdrawal = signed.open::<Withdrawal>(&self.network)?;
        self.take_off(now, &withdrawal)
    }

    /// Takes a provider off the board by a withdrawal whose signature was checked.
    pub fn take_off(&mut self, now: Timestamp, withdrawal: &Sealed<Withdrawal>) -> Result<PeerId, BoardRefusal> {
        let provider = withdrawal.provider;
        self.check_times(now, provider, withdrawal.seq, withdrawal.issued)?;
        self.taken_off += u64::from(self.entries.remove(&provider).is_some());
        self.bury(provider, Tombstone { seq: withdrawal.seq, until: now + TOMBSTONE_TTL });
        Ok(provider)
    }

    /// Takes a provider off whose key was revoked. That nothing more of it is taken is up to whoever asks the board:
    /// the list of such keys is the node's, and not of one board.
    pub fn revoke(&mut self, now: Timestamp, provider: PeerId) -> bool {
        let stood = self.entries.remove(&provider).is_some();
        self.taken_off += u64::from(stood);
        self.bury(provider, Tombstone { seq: u64::MAX, until: now + TOMBSTONE_TTL });
        stood
    }

    fn bury(&mut self, provider: PeerId, tombstone: Tombstone) {
        if self.tombstones.len() >= MAX_TOMBSTONES && !self.tombstones.contains_key(&provider) {
            let soonest = self.tombstones.iter().min_by_key(|(_, t)| t.until).map(|(peer, _)| *peer);
            soonest.map(|peer| self.tombstones.remove(&peer));
        }
        self.tombstones.insert(provider, tombstone);
        self.ends(tombstone.until);
    }

    fn check_times(&self, now: Timestamp, from: PeerId, seq: u64, issued: Timestamp) -> Result<(), BoardRefusal> {
        if issued > now + MAX_SKEW {
            return Err(BoardRefusal::Future);
        }
        if issued + ADVERT_TTL <= now {
            return Err(BoardRefusal::Expired);
        }
        match self.known_seq(from) {
            Some(known) if seq <= known => Err(BoardRefusal::Stale { got: seq, known }),
            _ => Ok(()),
        }
    }

    fn known_seq(&self, peer: PeerId) -> Option<u64> {
        let alive = self.entries.get(&peer).map(|entry| entry.advert.seq);
        alive.max(self.tombstones.get(&peer).map(|tombstone| tombstone.seq))
    }

    fn ends(&mut self, at: Timestamp) {
        self.earliest = Some(self.earliest.map_or(at, |earliest| earliest.min(at)));
    }

    /// Forgets what is over. Cheap while nothing is.
    pub fn expire(&mut self, now: Timestamp) {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return;
        }
        self.tombstones.retain(|_, tombstone| tombstone.until > now);
        let early: Vec<(PeerId, Tombstone)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.expires <= now && entry.advert.issued + ADVERT_TTL > now)
            .map(|(peer, entry)| (*peer, entry.tombstone(now)))
            .collect();
        self.entries.retain(|_, entry| entry.expires > now);
        for (peer, tombstone) in early {
            self.bury(peer, tombstone);
        }
        let alive = self.entries.values().map(|entry| entry.expires);
        self.earliest = alive.chain(self.tombstones.values().map(|tombstone| tombstone.until)).min();
    }

    /// When something here next ends, or earlier.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.earliest
    }

    /// Grows with every advert taken: whoever waits for one need not look again before.
    pub fn revision(&self) -> u64 {
        self.revision
    }
    /// Grows with every advert that its provider took back.
    pub fn taken_off(&self) -> u64 {
        self.taken_off
    }
    /// The clock was set back: what had so long to live has as long still.
    pub fn clock_set_back(&mut self, by: Millis) {
        for entry in self.entries.values_mut() {
            entry.expires = entry.expires.set_back(by);
            entry.first_seen = entry.first_seen.set_back(by);
        }
        for tombstone in self.tombstones.values_mut() {
            tombstone.until = tombstone.until.set_back(by);
        }
        self.earliest = self.earliest.map(|at| at.set_back(by));
    }

    /// Whether this provider offers here, or did until lately.
    pub fn knows(&self, peer: PeerId) -> bool {
        self.known_seq(peer).is_some()
    }
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    pub fn get(&self, now: Timestamp, peer: PeerId) -> Option<&Entry> {
        self.entries.get(&peer).filter(|entry| entry.expires > now)
    }
    pub fn alive(&self, now: Timestamp) -> impl Iterator<Item = PeerId> + '_ {
        self.entries.iter().filter(move |(_, entry)| entry.expires > now).map(|(peer, _)| *peer)
    }
    pub fn query<'a>(&'a self, now: Timestamp, query: &Query) -> impl Iterator<Item = &'a Entry> {
        self.entries.values().filter(move |entry| entry.expires > now && entry.advert.terms.answers(query))
    }

    /// Up to `limit` that answer the query, from behind `after` to `until`, past the end if need be. Whoever asks begins
    /// anywhere, so that not everybody finds the same few; once round is from a point to itself.
    pub fn shelf(&self, now: Timestamp, query: &Query, after: PeerId, until: PeerId, limit: usize) -> Page {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let round = after >= until;
        let behind = (Excluded(after), if round { Unbounded } else { Included(until) });
        let past_the_end = round.then(|| self.entries.range((Unbounded, Included(until)))).into_iter().flatten();
        let all = self.entries.range(behind).chain(past_the_end);
        let fitting = all.filter(|(_, entry)| entry.expires > now && entry.advert.terms.answers(query));
        collect_page(now, fitting, limit)
    }

    /// A page of everything alive, in the order of ids, beginning after `after`.
    pub fn page(&self, now: Timestamp, after: Option<PeerId>, limit: usize) -> Page {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        collect_page(now, self.entries.range((from, Unbounded)).filter(|(_, entry)| entry.expires > now), limit)
    }
}

fn collect_page<'a>(now: Timestamp, entries: impl Iterator<Item = (&'a PeerId, &'a Entry)>, limit: usize) -> Page {
    let mut page = Page::default();
    let (mut bytes, mut last) = (0, None);
    for (peer, entry) in entries {
        bytes += entry.advert.signed().body.len() + 256;
        if page.items.len() >= limit.clamp(1, PAGE) || bytes > PAGE_BYTES {
            page.next = last;
            break;
        }
        page.items.push(PageItem { advert: entry.advert.signed().clone(), life: entry.expires - now });
        last = Some(*peer);
    }
    page
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
