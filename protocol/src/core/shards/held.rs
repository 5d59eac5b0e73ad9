//! One shard, as one of its holders keeps it.
//!
//! ```text
//!            over LEAF adverts            both children are leaves, under MERGE together
//!   leaf ───────────────────────▶ split ─────────────────────────────────────────────────▶ leaf
//!    ▲  └─ its parent merges ─▶ folded (providers are sent up; it empties within a life) ─▶ (gone)
//!    └── warming: new here, until a snapshot was read or every provider has refreshed
//! ```
//! What a shard held when it split stays readable until it expires: its providers move with their next refresh, so
//! nothing is missing in between and nothing has to be handed down.
use crate::advert::ADVERT_TTL;
use crate::board::Board;
use crate::identity::PeerId;
use crate::shard::{Child, HOLDERS, LEAF, MAX_DEPTH, Position, Shard, Standing, State};
use crate::units::{Millis, Timestamp};
use std::collections::BTreeMap;

use super::block::Blocks;

/// Adverts that one shard takes at most: a leaf that just split, twice over; ids ground into one prefix fill no more.
pub const MAX_SHARD_ADVERTS: usize = 4 * LEAF;
/// Who holds a shard without a snapshot has heard from every provider after this: a refresh and its jitter.
const WARMS_FOR: Millis = Millis::secs(150);
/// A report about a child is good for so long: two may be lost.
const COUNTED_FOR: Millis = Millis::secs(400);
/// Reporters remembered of each child: its two first holders, and those that were it a moment ago.
const REPORTERS: usize = 4;
/// What has not changed is said again after this; three times within `COUNTED_FOR`.
const SAY_EVERY: Millis = Millis::secs(120);
/// The first so many holders tell the others how the shard stands: two that agree are believed, two may fail.
pub const VOTERS: usize = 4;
/// Children that are counted: two, or the classes under the whole (2 architectures × 4 isolations × 3 tiers).
const CHILDREN: usize = 24;

/// What another of the first holders says of this shard.
#[derive(Clone, Copy)]
struct Vote {
    by: PeerId,
    at: Timestamp,
    below: Option<u32>,
    folded: bool,
    total: Option<u32>,
}

#[derive(Clone, Copy)]
struct Report {
    by: PeerId,
    at: Timestamp,
    adverts: u32,
    leaf: bool,
}

pub struct Held {
    pub place: Position,
    pub board: Board,
    pub blocks: Blocks,
    split: Option<Timestamp>,
    merged: Option<Timestamp>,
    /// Its parent is a leaf again.
    pub folded: bool,
    warm_at: Timestamp,
    reports: BTreeMap<Shard, Vec<Report>>,
    votes: Vec<Vote>,
    total: Option<(u32, Timestamp)>,
    /// The other holders, as they were when last looked at.
    pub others: Vec<PeerId>,
    /// What was last said of it, and when.
    said: Option<(u32, bool, bool, Timestamp)>,
    /// When it was last put to, shared or counted here.
    pub used: Timestamp,
}

impl Held {
    pub fn new(now: Timestamp, place: Position, board: Board, counts_only: bool) -> Self {
        Held {
            place,
            board,
            blocks: Blocks::default(),
            split: counts_only.then_some(now),
            merged: None,
            folded: false,
            warm_at: now + WARMS_FOR,
            reports: BTreeMap::new(),
            votes: Vec::new(),
            total: None,
            others: Vec::with_capacity(HOLDERS),
            said: None,
            used: now,
        }
    }

    pub fn is_split(&self) -> bool {
        self.split.is_some()
    }
    /// A snapshot was read to its end.
    pub fn warmed(&mut self, now: Timestamp) {
        self.warm_at = self.warm_at.min(now);
    }
    /// What another holder says of it. Two that agree are believed: one alone can neither send everybody down nor up.
    pub fn told(&mut self, now: Timestamp, by: PeerId, state: &State, merge: usize) {
        self.used = now;
        self.votes.retain(|vote| vote.by != by && now - vote.at < COUNTED_FOR);
        if self.votes.len() >= REPORTERS {
            self.votes.remove(0);
        }
        self.votes.push(Vote { by, at: now, below: state.below, folded: state.folded, total: state.total });
        // Who was one of the first for the time of a partition was told of a part.
        let first = || self.others.iter().take(VOTERS);
        let counts = |vote: &&Vote| self.others.is_empty() || first().any(|peer| *peer == vote.by);
        let agree = |is: fn(&Vote) -> bool| self.votes.iter().filter(counts).filter(|vote| is(vote)).count() >= 2;
        let (split, whole) = (agree(|vote| vote.below.is_some()), agree(|vote| vote.below.is_none()));
        let (folded, stands) = (agree(|vote| vote.folded), agree(|vote| !vote.folded));
        match self.split {
            None if split && !whole => self.split = Some(now),
            // What it has counted itself is not taken back before its own adverts have moved, nor while those below say
            // otherwise: who held a part of it for the time of a partition takes it for a leaf.
            Some(since) if whole && !split && now - since > ADVERT_TTL && self.reported(now) < merge => self.merge(now),
            _ => {}
        }
        if folded != stands {
            self.folded = folded;
        }
    }
    /// Adverts in the whole mesh, as a holder of the parent said. Only this is told further, so that a number comes
    /// down from the top and never goes round.
    pub fn total_from_above(&self, now: Timestamp) -> Option<u32> {
        self.total.filter(|(_, at)| now - *at < COUNTED_FOR).map(|(total, _)| total)
    }
    pub fn set_total(&mut self, now: Timestamp, total: u32) {
        self.total = Some((total, now));
    }
    /// The same, or what the others of its holders were told.
    pub fn total(&self, now: Timestamp) -> Option<u32> {
        let told = || median(self.fresh_votes(now).filter_map(|vote| vote.total).collect());
        self.total_from_above(now).or_else(told)
    }

    /// True when it has just split.
    pub fn split_if_full(&mut self, now: Timestamp, shard: &Shard, leaf: usize) -> bool {
        let can = shard.depth < MAX_DEPTH && shard.alternate == 0;
        let full = self.board.len() > leaf && can && !self.is_split();
        if full {
            (self.split, self.merged) = (Some(now), None);
        }
        full
    }

    /// Adverts below, as this holder was told by those of the children. 0 for a holder that nobody tells.
    fn counted_below(&self, now: Timestamp) -> u32 {
        self.sum_of_children(now, attested)
    }
    fn sum_of_children(&self, now: Timestamp, of_each: fn(Vec<u32>) -> Option<u32>) -> u32 {
        let of_children = self.reports.values().filter_map(|reports| of_each(adverts(reports, now)));
        of_children.fold(0, u32::saturating_add)
    }
    fn votes_below(&self, now: Timestamp) -> Vec<u32> {
        self.fresh_votes(now).filter_map(|vote| vote.below).filter(|below| *below > 0).collect()
    }
    /// Adverts here and below, as far as is known: who is told of by a part of the children only believes the others.
    pub fn count(&self, now: Timestamp) -> Option<u32> {
        if !self.is_split() {
            return Some(self.board.len() as u32);
        }
        let told = attested(self.votes_below(now)).unwrap_or(0);
        Some(self.counted_below(now).max(told)).filter(|below| *below > 0)
    }
    /// For who asks; 1 is said by who was not told.
    fn below(&self, now: Timestamp) -> u32 {
        self.count(now).unwrap_or(1)
    }
    /// For who puts: so many there are by all accounts. Too few cost it a step; too many would have it make a leaf where
    /// nobody is sent.
    pub fn least_below(&self, now: Timestamp) -> u32 {
        match self.sum_of_children(now, median) {
            0 => median(self.votes_below(now)).unwrap_or(1),
            counted => counted,
        }
    }
    fn fresh_votes(&self, now: Timestamp) -> impl Iterator<Item = &Vote> {
        self.votes.iter().filter(move |vote| now - vote.at < COUNTED_FOR)
    }
    /// For the other holders: only what it knows of itself, so that no number goes round among them.
    pub fn state(&self, now: Timestamp, shard: &Shard) -> State {
        State {
            shard: shard.clone(),
            below: self.is_split().then(|| self.counted_below(now)),
            folded: self.folded,
            total: self.total_from_above(now),
        }
    }
    /// What the one who invites knows of a shard that is new here.
    pub fn take_over(&mut self, now: Timestamp, by: PeerId, state: &State, merge: usize) {
        if state.below.is_some() && self.board.is_empty() {
            self.split.get_or_insert(now);
        }
        self.told(now, by, state, merge);
    }

    pub fn standing(&self, now: Timestamp) -> Standing {
        let moving = self.merged.is_some_and(|at| now - at < ADVERT_TTL);
        match self.is_split() || moving {
            true => Standing::Split { below: self.below(now) },
            false if self.board.is_empty() => Standing::Absent,
            false if self.warm_at > now => Standing::Warming,
            false => Standing::Leaf,
        }
    }

    /// A holder of a child says how much it holds.
    pub fn counted(&mut self, now: Timestamp, by: PeerId, child: &Child) {
        self.used = now;
        if self.reports.len() >= CHILDREN && !self.reports.contains_key(&child.shard) {
            self.reports.retain(|_, reports| fresh(reports, now).next().is_some());
            if self.reports.len() >= CHILDREN {
                return;
            }
        }
        let reports = self.reports.entry(child.shard.clone()).or_default();
        reports.retain(|report| report.by != by && now - report.at < COUNTED_FOR);
        if reports.len() >= REPORTERS {
            reports.remove(0);
        }
        reports.push(Report { by, at: now, adverts: child.adverts, leaf: child.leaf });
    }

    /// After a report: both children can be one leaf here again, by everybody's word (a single one who knows of more
    /// prevents it); or this holder is new and learns that there is a tree below. True when anything has changed.
    pub fn merge_or_split(&mut self, now: Timestamp, merge: usize) -> bool {
        let Some(since) = self.split else {
            let split = self.reported(now) >= merge;
            self.split = split.then_some(now);
            return split;
        };
        // Its own adverts are still moving down at first.
        if now - since < ADVERT_TTL {
            return false;
        }
        let most = |reports: &Vec<Report>| adverts(reports, now).into_iter().max().unwrap_or(0) as usize;
        let small = self.reports.values().map(most).sum::<usize>() < merge;
        let leaves = self.reports.values().flat_map(|reports| fresh(reports, now)).all(|report| report.leaf);
        let told_of_more = self.fresh_votes(now).any(|vote| vote.below.is_some_and(|below| below as usize >= merge));
        if small && leaves && !told_of_more {
            self.merge(now);
        }
        !self.is_split()
    }
    /// Adverts in those children of which two report.
    fn reported(&self, now: Timestamp) -> usize {
        let told = self.reports.values().filter(|reports| fresh(reports, now).count() >= 2);
        told.filter_map(|reports| median(adverts(reports, now))).map(|n| n as usize).sum()
    }
    /// What a child is told: that it is not needed any more.
    pub fn takes_back(&self) -> bool {
        !self.is_split()
    }

    pub fn merge(&mut self, now: Timestamp) {
        (self.split, self.merged) = (None, Some(now));
    }

    /// Whether there is something to say of it (what is withheld adds up from level to level): its state has changed, its count by an eighth, or it is time again.
    pub fn has_news(&mut self, now: Timestamp) -> bool {
        let (count, split, folded) = (self.count(now), self.is_split(), self.folded);
        let news = self.said.is_none_or(|(said, was_split, was_folded, at)| {
            let moved = count.unwrap_or(0).abs_diff(said) > said / 8;
            moved || (split, folded) != (was_split, was_folded) || now - at >= SAY_EVERY
        });
        if news {
            self.said = Some((count.unwrap_or(0), split, folded, now));
        }
        news
    }

    /// An empty leaf may be one that nobody has told anything: its word is worth nothing.
    pub fn knows(&self) -> bool {
        self.is_split() || self.folded || !self.board.is_empty()
    }
    pub fn say_again(&mut self) {
        self.said = None;
    }

    /// Nothing is here, nobody has come for a while, and nobody reports from below.
    pub fn is_idle(&self, now: Timestamp) -> bool {
        self.board.is_empty() && now - self.used > COUNTED_FOR
    }

    pub fn clock_set_back(&mut self, by: Millis) {
        self.board.clock_set_back(by);
        self.total = self.total.map(|(total, at)| (total, at.set_back(by)));
        self.said = self.said.map(|(count, split, folded, at)| (count, split, folded, at.set_back(by)));
        let times = [&mut self.warm_at, &mut self.used].into_iter().chain(&mut self.split).chain(&mut self.merged);
        times.for_each(|at| *at = at.set_back(by));
        self.reports.values_mut().flatten().for_each(|report| report.at = report.at.set_back(by));
    }
}

fn adverts(reports: &[Report], now: Timestamp) -> Vec<u32> {
    fresh(reports, now).map(|report| report.adverts).collect()
}

/// What two say at least, or the only one. One who lies cannot make it more; and however many say less, having been told
/// by a part of those below only, or before it grew, two who know more are believed.
fn attested(mut values: Vec<u32>) -> Option<u32> {
    values.sort_unstable();
    values.get(values.len().saturating_sub(2)).copied()
}

/// The lower one of two.
fn median(mut values: Vec<u32>) -> Option<u32> {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

fn fresh(reports: &[Report], now: Timestamp) -> impl Iterator<Item = &Report> {
    reports.iter().filter(move |report| now - report.at < COUNTED_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Arch, Isolation};
    use crate::shard::{Class, Index, MERGE, Tier};

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn peer(n: u8) -> PeerId {
        crate::identity::Keypair::from_secret(&[n; 32]).peer_id()
    }
    fn root() -> Shard {
        Shard::root(Index::All(Class { arch: Arch::X86_64, isolation: Isolation::Hardware, tier: Tier::Small }))
    }
    fn split() -> Held {
        Held::new(NOW, Position(0), Board::new("main".parse().unwrap()), true)
    }
    fn said(below: Option<u32>) -> State {
        State { shard: root(), below, folded: false, total: None }
    }
    fn report(held: &mut Held, by: u8, child: u32, adverts: u32) {
        held.counted(NOW, peer(by), &Child { shard: root().down_to(1, child), adverts, leaf: false });
    }

    #[test]
    fn two_who_were_told_of_all_are_believed_whatever_others_say() {
        let mut held = split();
        assert_eq!((held.count(NOW), held.below(NOW)), (None, 1));
        for (by, adverts) in [(1, 806), (2, 2), (3, 13), (4, 806)] {
            report(&mut held, by, 0, adverts);
        }
        assert_eq!(held.count(NOW), Some(806), "two were told of a part only, or long ago");
        for (by, adverts) in [(5, 381), (6, 1_000_000)] {
            report(&mut held, by, 1, adverts);
        }
        assert_eq!(held.count(NOW), Some(806 + 381), "one alone makes it no more");
        assert_eq!(held.count(NOW + COUNTED_FOR), None);
    }

    /// For the time of a partition others held the half of it, and have never heard that it has split.
    #[test]
    fn who_is_told_of_adverts_below_by_those_who_hold_them_takes_nobodys_word_that_it_is_a_leaf() {
        let later = NOW + ADVERT_TTL + Millis(1);
        let leaf = |held: &mut Held| (5..7).for_each(|by| held.told(later, peer(by), &said(None), MERGE));
        let mut held = split();
        leaf(&mut held);
        assert!(!held.is_split(), "nobody says otherwise");
        for (by, adverts) in [(1, MERGE as u32), (2, MERGE as u32 + 3)] {
            assert!(!held.is_split());
            report(&mut held, by, 0, adverts);
            held.merge_or_split(later, MERGE);
        }
        assert!(held.is_split(), "two holders of a child do, though it has just been merged");
        let mut held = split();
        for by in 1..3 {
            report(&mut held, by, 0, MERGE as u32);
        }
        leaf(&mut held);
        assert!(held.is_split());
    }

    #[test]
    fn only_who_is_among_the_first_now_says_whether_it_has_split() {
        let leaf = || Held::new(NOW, Position(0), Board::new("main".parse().unwrap()), false);
        for (by, splits) in [([1, 2], true), ([4, 1], true), ([1, 5], false), ([5, 6], false)] {
            let mut held = leaf();
            held.others = (1..7).map(peer).collect();
            by.into_iter().for_each(|by| held.told(NOW, peer(by), &said(Some(90)), MERGE));
            assert_eq!(held.is_split(), splits, "{by:?}");
        }
        // Two that have come from the other side of a partition do not outweigh two of the first.
        let mut held = leaf();
        held.others = (1..7).map(peer).collect();
        for (by, below) in [(5, None), (6, None), (1, Some(90)), (2, Some(90))] {
            held.told(NOW, peer(by), &said(below), MERGE);
        }
        assert!(held.is_split());
    }

    #[test]
    fn who_is_told_of_by_a_part_of_the_children_believes_the_others() {
        let mut held = split();
        report(&mut held, 1, 0, 13);
        for (by, below) in [(2, 1187), (3, 1180), (4, 0)] {
            held.told(NOW, peer(by), &said(Some(below)), MERGE);
        }
        assert_eq!(held.count(NOW), Some(1180));
    }
}
