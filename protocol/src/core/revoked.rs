//! The keys that are nobody's any more. What they say is not taken, whatever else is right about it.
//!
//! ```text
//!              revocation, signature fits                 more than MAX_REVOKED
//!  (nothing) ───────────────────────────▶ kept ─────────────────────────────────▶ (nothing)
//!                                          │ an advert of it was here               strangers first, oldest first
//!                                          └──────────▶ kept on disk, too
//! ```
//! A key costs nothing, and so does a revocation: those of keys that mean nothing here are taken slowly, and never push
//! out one of a provider that was known.
use super::{StoreOp, Table};
use crate::board::BoardRefusal;
use crate::codec::{self, MAX_STORED};
use crate::envelope::{Sealed, Signed};
use crate::error::Fault;
use crate::identity::PeerId;
use crate::names::Network;
use crate::revocation::Revocation;
use crate::units::{Millis, Timestamp};
use std::collections::BTreeMap;

/// Keys remembered, at about 300 bytes each.
pub const MAX_REVOKED: usize = 2048;
/// Told to whoever reads a board, the newest of known providers first: a newcomer has not heard what was said before.
pub const MAX_TOLD: usize = 64;
/// Of strangers, taken at once; what three boards may tell a newcomer.
pub const MAX_STRANGERS: u32 = 256;
/// One more after each such time: to fill the list takes an hour, and pushes out strangers only.
const STRANGER_EVERY: Millis = Millis::secs(2);
/// What was posted here is told to every neighbour that comes within this time: it may be the first.
const TELL_FOR: Millis = Millis::secs(600);
/// Posted here lately; by a person, so a few.
const MAX_POSTED: usize = 8;

struct Entry {
    signed: Signed,
    number: u64,
    known: bool,
}

#[derive(Default)]
pub struct Revoked {
    keys: BTreeMap<PeerId, Entry>,
    number: u64,
    /// Not yet taken off the boards.
    fresh: Vec<PeerId>,
    /// How many of strangers were taken lately, and since when that many.
    strangers: (u32, Timestamp),
    posted: Vec<(Signed, Timestamp)>,
    ops: Vec<StoreOp>,
}

impl Revoked {
    /// One that an earlier run has kept.
    pub fn restore(&mut self, value: &[u8], network: &Network) -> Result<(), Fault> {
        let unreadable = |why: String| Fault::internal(format!("a stored revocation is not valid: {why}"));
        let signed: Signed = codec::decode(value, MAX_STORED).map_err(|error| unreadable(error.to_string()))?;
        let revocation = signed.open(network).map_err(|error| unreadable(error.to_string()))?;
        self.insert(&revocation, true);
        self.fresh.clear();
        Ok(())
    }

    pub fn contains(&self, peer: PeerId) -> bool {
        self.keys.contains_key(&peer)
    }
    pub fn len(&self) -> usize {
        self.keys.len()
    }
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Takes one whose signature was checked; `known` says that its key means something here.
    pub fn admit(&mut self, now: Timestamp, it: &Sealed<Revocation>, known: bool) -> Result<(), BoardRefusal> {
        if self.contains(it.revoked) {
            return Err(BoardRefusal::Revoked);
        }
        if !known && !self.has_time_for_a_stranger(now) {
            return Err(BoardRefusal::Full);
        }
        if self.keys.len() >= MAX_REVOKED {
            let first = self.keys.iter().min_by_key(|(_, entry)| (entry.known, entry.number));
            match first.map(|(peer, entry)| (*peer, entry.known)) {
                Some((_, true)) if !known => return Err(BoardRefusal::Full),
                Some((peer, was_known)) => {
                    self.keys.remove(&peer);
                    self.ops.extend(was_known.then(|| delete(peer)));
                }
                None => {}
            }
        }
        self.insert(it, known);
        if known {
            self.ops.push(put(it.revoked, it.signed()));
        }
        Ok(())
    }

    fn insert(&mut self, it: &Sealed<Revocation>, known: bool) {
        self.number += 1;
        self.keys.insert(it.revoked, Entry { signed: it.signed().clone(), number: self.number, known });
        self.fresh.push(it.revoked);
    }

    fn has_time_for_a_stranger(&mut self, now: Timestamp) -> bool {
        let (taken, since) = self.strangers;
        let forgotten = (now - since).0 / STRANGER_EVERY.0;
        let taken = taken.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
        let since = if taken == 0 { now } else { since + Millis(forgotten * STRANGER_EVERY.0) };
        let has = taken < MAX_STRANGERS;
        self.strangers = (taken + u32::from(has), since);
        has
    }

    /// It turned out that this key means something here.
    pub fn is_known(&mut self, peer: PeerId) {
        let Some(entry) = self.keys.get_mut(&peer).filter(|entry| !entry.known) else { return };
        entry.known = true;
        self.ops.push(put(peer, &entry.signed));
    }

    /// Said by our own user, and so told to everybody who comes.
    pub fn posted_here(&mut self, now: Timestamp, signed: Signed) {
        self.posted.retain(|(known, until)| *until > now && *known != signed);
        if self.posted.len() >= MAX_POSTED {
            self.posted.remove(0);
        }
        self.posted.push((signed, now + TELL_FOR));
    }
    pub fn to_tell(&self, now: Timestamp) -> Vec<Signed> {
        self.posted.iter().filter(|(_, until)| *until > now).map(|(signed, _)| signed.clone()).collect()
    }

    /// For a page of a board.
    pub fn latest(&self) -> Vec<Signed> {
        let mut all: Vec<&Entry> = self.keys.values().collect();
        all.sort_by_key(|entry| std::cmp::Reverse((entry.known, entry.number)));
        all.into_iter().take(MAX_TOLD).map(|entry| entry.signed.clone()).collect()
    }

    /// Whose adverts are to be taken down now.
    pub fn take_fresh(&mut self) -> Vec<PeerId> {
        std::mem::take(&mut self.fresh)
    }
    pub fn take_ops(&mut self) -> Vec<StoreOp> {
        std::mem::take(&mut self.ops)
    }

    pub fn clock_set_back(&mut self, by: Millis) {
        self.strangers.1 = self.strangers.1.set_back(by);
        self.posted.iter_mut().for_each(|(_, until)| *until = until.set_back(by));
    }
}

fn put(peer: PeerId, signed: &Signed) -> StoreOp {
    StoreOp::put(Table::Revoked, peer.public_key(), signed)
}
fn delete(peer: PeerId) -> StoreOp {
    StoreOp::delete(Table::Revoked, peer.public_key())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Keypair;

    const START: Timestamp = Timestamp(1_700_000_000_000);

    fn of(n: usize) -> Sealed<Revocation> {
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&(n as u64).to_be_bytes());
        Revocation::of(&Keypair::from_secret(&secret))
    }

    #[test]
    fn strangers_are_taken_slowly_and_push_out_only_one_another() {
        let (mut revoked, mut now) = (Revoked::default(), START);
        let known: Vec<_> = (0..8).map(of).collect();
        known.iter().for_each(|it| revoked.admit(now, it, true).unwrap());
        let mut next = 8;
        let mut burst = 0;
        while revoked.admit(now, &of(next), false).is_ok() {
            (next, burst) = (next + 1, burst + 1);
        }
        assert_eq!(burst, MAX_STRANGERS);
        assert_eq!(revoked.admit(now, &of(next), false), Err(BoardRefusal::Full));
        revoked.admit(now, &of(9_999_999), true).expect("who is known does not wait");
        for _ in 0..MAX_REVOKED + 50 {
            now = now + STRANGER_EVERY;
            revoked.admit(now, &of(next), false).expect("one in this time");
            assert_eq!(revoked.admit(now, &of(next + 1), false), Err(BoardRefusal::Full));
            next += 1;
        }
        assert_eq!(revoked.len(), MAX_REVOKED);
        assert!(known.iter().all(|it| revoked.contains(it.revoked)));
        assert!(!revoked.contains(of(8).revoked), "the oldest stranger has gone");
        assert!(revoked.latest().len() == MAX_TOLD && revoked.latest()[1..9].contains(known[0].signed()));
        assert_eq!(revoked.take_ops().len(), 9, "on disk are those that were known");
    }

    #[test]
    fn a_list_full_of_known_keys_takes_no_stranger_and_the_oldest_known_gives_way() {
        let mut revoked = Revoked::default();
        (0..MAX_REVOKED).for_each(|n| revoked.admit(START, &of(n), true).unwrap());
        assert_eq!(revoked.admit(START, &of(MAX_REVOKED), false), Err(BoardRefusal::Full));
        revoked.take_ops();
        revoked.admit(START, &of(MAX_REVOKED), true).unwrap();
        assert!(!revoked.contains(of(0).revoked) && revoked.len() == MAX_REVOKED);
        assert_eq!(revoked.take_ops().len(), 2, "one row goes, one comes");
    }

    #[test]
    fn what_was_posted_here_is_told_for_ten_minutes() {
        let mut revoked = Revoked::default();
        (0..MAX_POSTED + 3).for_each(|n| revoked.posted_here(START, of(n).signed().clone()));
        revoked.posted_here(START, of(MAX_POSTED).signed().clone());
        assert_eq!(revoked.to_tell(START).len(), MAX_POSTED);
        assert!(revoked.to_tell(START + TELL_FOR).is_empty());
    }
}
