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
//!
//! A revocation may name a successor, whose past is then that of both. Whoever has stolen the key could name one as well:
//! of two that differ neither counts, for ever.
use super::{StoreOp, Table};
use crate::board::BoardRefusal;
use crate::codec::{self, MAX_STORED};
use crate::envelope::{Sealed, Signed};
use crate::error::Fault;
use crate::identity::PeerId;
use crate::names::Network;
use crate::revocation::Revocation;
use crate::units::{Millis, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Keys remembered, at about 300 bytes each, and 1200 at most.
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
/// Keys of one's past that count: nobody changes keys that often.
const MAX_PREDECESSORS: usize = 8;

struct Entry {
    /// One, or the two that name different successors.
    signed: Vec<Signed>,
    heir: Heir,
    number: u64,
    known: bool,
}

/// Who goes on for a revoked key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heir {
    Nobody,
    One(PeerId),
    Disputed,
}

impl Heir {
    fn of(successor: Option<PeerId>) -> Self {
        successor.map_or(Heir::Nobody, Heir::One)
    }
    /// What is known once this is said too.
    fn with(self, said: Heir) -> Heir {
        match (self, said) {
            (Heir::Nobody, other) | (other, Heir::Nobody) => other,
            (one, other) if one == other => one,
            _ => Heir::Disputed,
        }
    }
}

#[derive(Default)]
pub struct Revoked {
    keys: BTreeMap<PeerId, Entry>,
    /// By successor, as many as there are keys.
    predecessors: BTreeMap<PeerId, BTreeSet<PeerId>>,
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
        self.keep(&revocation, true);
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

    /// Whether this one says more than is known; its signature need not have been checked.
    pub fn is_news(&self, revoked: PeerId, successor: Option<PeerId>) -> bool {
        self.keys.get(&revoked).is_none_or(|entry| entry.heir.with(Heir::of(successor)) != entry.heir)
    }

    pub fn heir_of(&self, revoked: PeerId) -> Heir {
        self.keys.get(&revoked).map_or(Heir::Nobody, |entry| entry.heir)
    }

    /// Who goes on for a key that means something here, or that nobody does.
    pub fn tells_more(&self, revoked: PeerId) -> bool {
        self.keys.get(&revoked).is_some_and(|entry| entry.known && entry.heir != Heir::Nobody)
    }

    /// The keys that this one goes on for, and those that they went on for.
    pub fn predecessors(&self, peer: PeerId) -> Vec<PeerId> {
        let mut found = Vec::new();
        let mut heirs = vec![peer];
        while let Some(heir) = heirs.pop() {
            let before = self.predecessors.get(&heir).into_iter().flatten().filter(|old| **old != peer);
            let new: Vec<PeerId> = before.filter(|old| !found.contains(*old)).copied().collect();
            found.extend(&new);
            heirs.extend(new);
            if found.len() >= MAX_PREDECESSORS {
                found.truncate(MAX_PREDECESSORS);
                break;
            }
        }
        found
    }

    /// Takes one whose signature was checked; `known` says that its key means something here.
    pub fn admit(&mut self, now: Timestamp, it: &Sealed<Revocation>, known: bool) -> Result<(), BoardRefusal> {
        if !self.is_news(it.revoked, it.successor()) {
            return Err(BoardRefusal::Revoked);
        }
        let known = known || self.keys.get(&it.revoked).is_some_and(|entry| entry.known);
        if !known && !self.has_time_for_a_stranger(now) {
            return Err(BoardRefusal::Full);
        }
        if !self.contains(it.revoked) && self.keys.len() >= MAX_REVOKED {
            let first = self.keys.iter().min_by_key(|(_, entry)| (entry.known, entry.number));
            match first.map(|(peer, entry)| (*peer, entry.known)) {
                Some((_, true)) if !known => return Err(BoardRefusal::Full),
                Some((peer, _)) => self.forget(peer),
                None => {}
            }
        }
        self.keep(it, known);
        if known {
            self.store(it.revoked);
        }
        Ok(())
    }

    fn keep(&mut self, it: &Sealed<Revocation>, known: bool) {
        self.number += 1;
        let (peer, number, said) = (it.revoked, self.number, Heir::of(it.successor()));
        let entry =
            self.keys.entry(peer).or_insert_with(|| Entry { signed: Vec::new(), heir: Heir::Nobody, number, known });
        let before = entry.heir;
        entry.heir = before.with(said);
        entry.known |= known;
        match (before, entry.heir) {
            // Both, so that others can see for themselves.
            (Heir::One(_), Heir::Disputed) => entry.signed.push(it.signed().clone()),
            (before, after) if before == after && !entry.signed.is_empty() => {}
            _ => entry.signed = vec![it.signed().clone()],
        }
        if let (Heir::One(heir), true) = (before, entry.heir != before) {
            self.disinherit(heir, peer);
        }
        if let Some(Heir::One(heir)) = self.keys.get(&peer).map(|entry| entry.heir) {
            self.predecessors.entry(heir).or_default().insert(peer);
        }
        self.fresh.push(peer);
    }

    fn disinherit(&mut self, heir: PeerId, peer: PeerId) {
        if let Some(before) = self.predecessors.get_mut(&heir) {
            before.remove(&peer);
            if before.is_empty() {
                self.predecessors.remove(&heir);
            }
        }
    }

    fn forget(&mut self, peer: PeerId) {
        let Some(entry) = self.keys.remove(&peer) else { return };
        if let Heir::One(heir) = entry.heir {
            self.disinherit(heir, peer);
        }
        if entry.known {
            self.ops.extend((0..entry.signed.len()).map(|n| StoreOp::delete(Table::Revoked, &row(peer, n))));
        }
    }

    fn store(&mut self, peer: PeerId) {
        let Some(entry) = self.keys.get(&peer) else { return };
        let rows = entry.signed.iter().enumerate();
        self.ops.extend(rows.map(|(n, signed)| StoreOp::put(Table::Revoked, &row(peer, n), signed)));
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
        self.store(peer);
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
        all.into_iter().flat_map(|entry| &entry.signed).take(MAX_TOLD).cloned().collect()
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

/// A key's first row is under the key itself.
fn row(peer: PeerId, n: usize) -> Vec<u8> {
    let nth = (n > 0).then(|| u8::try_from(n).unwrap_or(u8::MAX));
    peer.public_key().iter().copied().chain(nth).collect()
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

    fn key(n: u8) -> Keypair {
        Keypair::from_secret(&[n; 32])
    }
    fn id(n: u8) -> PeerId {
        key(n).peer_id()
    }
    fn handed(from: u8, to: u8) -> Sealed<Revocation> {
        Revocation::in_favour_of(&key(to), &key(from))
    }
    fn restored(ops: &[StoreOp]) -> Revoked {
        let mut rows = BTreeMap::new();
        for op in ops {
            match &op.value {
                Some(value) => rows.insert(op.key.clone(), value.clone()),
                None => rows.remove(&op.key),
            };
        }
        let mut revoked = Revoked::default();
        rows.values().for_each(|value| revoked.restore(value, &"main".parse().unwrap()).unwrap());
        revoked
    }

    #[test]
    fn of_two_successors_neither_counts_in_any_order_and_after_a_restart() {
        let plain = Revocation::of(&key(1));
        let [two, three] = [handed(1, 2), handed(1, 3)];
        let disputed = [(&plain, Heir::Nobody), (&two, Heir::One(id(2))), (&three, Heir::Disputed)];
        for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0], [0, 2, 1], [2, 0, 1]] {
            let (mut revoked, mut ops) = (Revoked::default(), Vec::new());
            for at in order {
                let _ = revoked.admit(START, disputed[at].0, true);
                ops.extend(revoked.take_ops());
            }
            for known in [&revoked, &restored(&ops)] {
                assert_eq!(known.heir_of(id(1)), Heir::Disputed, "{order:?}");
                assert!(known.predecessors(id(2)).is_empty() && known.predecessors(id(3)).is_empty());
                assert_eq!(known.latest().len(), 2, "both are told, as they were signed");
            }
            for said in [&plain, &two, &three] {
                assert_eq!(revoked.admit(START, said, true), Err(BoardRefusal::Revoked), "it goes on no more");
            }
            assert_eq!(revoked.admit(START, &handed(1, 4), true), Err(BoardRefusal::Revoked));
        }
    }

    #[test]
    fn a_successor_has_the_past_of_those_before_it() {
        let (mut revoked, mut ops) = (Revoked::default(), Vec::new());
        revoked.admit(START, &Revocation::of(&key(1)), true).unwrap();
        assert_eq!(revoked.heir_of(id(1)), Heir::Nobody);
        for (from, to) in [(1, 2), (5, 2), (2, 3)] {
            revoked.admit(START, &handed(from, to), true).expect("it says more than was known");
        }
        ops.extend(revoked.take_ops());
        for known in [&revoked, &restored(&ops)] {
            let mut before = known.predecessors(id(3));
            before.sort();
            let mut expected = vec![id(1), id(2), id(5)];
            expected.sort();
            assert_eq!(before, expected);
            assert_eq!(known.heir_of(id(1)), Heir::One(id(2)));
        }
        revoked.admit(START, &handed(3, 1), true).unwrap();
        assert!(!revoked.predecessors(id(3)).contains(&id(3)), "round and round ends");
        for n in 10..40 {
            revoked.admit(START, &handed(n, 9), true).unwrap();
        }
        assert_eq!(revoked.predecessors(id(9)).len(), MAX_PREDECESSORS);
    }

    #[test]
    fn what_is_forgotten_leaves_no_successor_behind() {
        let mut revoked = Revoked::default();
        revoked.admit(START, &handed(1, 2), false).unwrap();
        (0..MAX_REVOKED).for_each(|n| revoked.admit(START, &of(n), true).unwrap());
        assert!(!revoked.contains(id(1)) && revoked.predecessors(id(2)).is_empty());
        assert!(revoked.predecessors.is_empty());
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
