//! Who is kept out, since when, why, and until when. Pure: time is told, the mesh and the disk are its owner's.
//!
//! ```text
//!             5 proven offences                     its end, or lifted
//!  (a peer) ─────────────────────▶ banned for 1 h ─────────────────────▶ over
//!                                    ▲   2 h, 4 h … 24 h                   │ 24 h without another ban
//!                                    └──────────── 5 more ─────────────────┼─────▶ forgotten
//! ```
//! A proven offence is a message that no honest node sends, whatever it has heard from others: an advert or a signed
//! message that is forged, unsigned or in a wrong place, a frame that is malformed or too long. One may be a bug or a
//! broken machine; five within ten minutes are somebody who means it. What only looks bad is not counted: an old advert,
//! a clock that is off, too many requests, a gossip score (others behind the same address lower that).
use crate::mesh::limits::MAX_BANNED;
use protocol::units::{Millis, Timestamp};
use protocol::{ErrorCode, PeerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// So many proven offences …
pub const OFFENCES: usize = 5;
/// … within this time make a ban.
pub const OFFENCES_WITHIN: Millis = Millis::secs(600);
/// The first ban of a peer; each further one lasts twice as long …
pub const BAN_FIRST: Millis = Millis::secs(3600);
/// … up to this: an id costs nothing, so a longer ban keeps nobody away, and may keep away who has mended a bug.
pub const BAN_LONGEST: Millis = Millis::secs(24 * 3600);
/// After its end a ban counts for the length of the next one for so long.
pub const BAN_KEPT: Millis = Millis::secs(24 * 3600);
/// Peers with offences that make no ban yet, some 100 bytes each; beyond it who offended longest ago is forgotten.
pub const MAX_SUSPECTS: usize = 1024;
/// Bans told in `TOLD_WITHIN`: ids cost nothing, and the node keeps 10,000 events. Further ones are counted in the next.
pub const MAX_TOLD: usize = 16;
pub const TOLD_WITHIN: Millis = Millis::secs(60);

/// One peer's ban, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    pub peer: PeerId,
    pub reason: String,
    pub since: Timestamp,
    pub until: Timestamp,
    /// Offences that made it, and those since.
    pub offences: u64,
    /// How many bans of this peer, this one among them, followed one another.
    pub times: u32,
}

/// What a peer is to be banned for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    pub peer: PeerId,
    pub reason: String,
    pub code: ErrorCode,
    pub offences: u64,
}

/// What has changed, for the mesh and the disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// These may come again.
    pub freed: Vec<PeerId>,
    /// Nothing of these is remembered.
    pub forgotten: Vec<PeerId>,
}

#[derive(Default)]
pub struct Bans {
    /// When each offended lately, the latest last.
    suspects: BTreeMap<PeerId, VecDeque<Timestamp>>,
    in_force: BTreeMap<PeerId, Ban>,
    /// For the length of the next one. Both together are `MAX_BANNED` at most.
    over: BTreeMap<PeerId, Ban>,
    told: VecDeque<Timestamp>,
    untold: u64,
}

impl Bans {
    /// What an earlier run has left.
    pub fn restore(now: Timestamp, rows: impl IntoIterator<Item = Ban>) -> Self {
        let mut bans = Bans::default();
        for ban in rows.into_iter().take(MAX_BANNED) {
            let place = if ban.until > now { &mut bans.in_force } else { &mut bans.over };
            place.insert(ban.peer, ban);
        }
        bans.keep_time(now);
        bans
    }

    /// Counts a proven offence; the one that is too much is answered with the charge.
    pub fn offence(&mut self, now: Timestamp, peer: PeerId, what: &str, code: ErrorCode) -> Option<Charge> {
        if let Some(ban) = self.in_force.get_mut(&peer) {
            // A leased peer, which is still connected. On disk stays what made the ban: this is not worth a write.
            ban.offences = ban.offences.saturating_add(1);
            return None;
        }
        if !self.suspects.contains_key(&peer) && self.suspects.len() >= MAX_SUSPECTS {
            let oldest = self.suspects.iter().min_by_key(|(_, at)| at.back()).map(|(peer, _)| *peer);
            oldest.map(|oldest| self.suspects.remove(&oldest));
        }
        let lately = self.suspects.entry(peer).or_default();
        // One from the future was noted before the clock was set back.
        lately.retain(|at| *at <= now && now - *at < OFFENCES_WITHIN);
        lately.push_back(now);
        if lately.len() < OFFENCES {
            return None;
        }
        self.suspects.remove(&peer);
        let reason = format!(
            "{OFFENCES} proven offences within {} min, the last: {what}, {} ({code})",
            OFFENCES_WITHIN.as_secs() / 60,
            code.meaning()
        );
        Some(Charge { peer, reason, code, offences: OFFENCES as u64 })
    }

    /// The ban, and who is forgotten for it.
    pub fn ban(&mut self, now: Timestamp, charge: &Charge) -> (Ban, Changes) {
        let before = self.in_force.remove(&charge.peer).or_else(|| self.over.remove(&charge.peer));
        let times = before.map_or(0, |ban| ban.times).saturating_add(1);
        let length = BAN_FIRST.0.saturating_mul(1 << (times - 1).min(16)).min(BAN_LONGEST.0);
        let ban = Ban {
            peer: charge.peer,
            reason: charge.reason.clone(),
            since: now,
            until: now + Millis(length),
            offences: charge.offences,
            times,
        };
        let mut changes = Changes::default();
        if self.in_force.len() + self.over.len() >= MAX_BANNED {
            self.forget_oldest(&mut changes);
        }
        self.in_force.insert(ban.peer, ban.clone());
        (ban, changes)
    }

    fn forget_oldest(&mut self, changes: &mut Changes) {
        let oldest = |bans: &BTreeMap<PeerId, Ban>| bans.values().min_by_key(|ban| ban.since).map(|ban| ban.peer);
        if let Some(peer) = oldest(&self.over) {
            self.over.remove(&peer);
            changes.forgotten.push(peer);
        } else if let Some(peer) = oldest(&self.in_force) {
            self.in_force.remove(&peer);
            changes.freed.push(peer);
            changes.forgotten.push(peer);
        }
    }

    /// The user forgives, and what was before is forgotten as well.
    pub fn lift(&mut self, peer: PeerId) -> Option<Ban> {
        self.suspects.remove(&peer);
        self.in_force.remove(&peer)
    }

    /// What time alone brings about.
    pub fn advance(&mut self, now: Timestamp) -> Changes {
        self.keep_time(now);
        let (mut changes, over) = (Changes::default(), &mut self.over);
        self.in_force.retain(|peer, ban| {
            let goes_on = ban.until > now;
            if !goes_on {
                over.insert(*peer, ban.clone());
                changes.freed.push(*peer);
            }
            goes_on
        });
        self.over.retain(|peer, ban| {
            let kept = ban.until + BAN_KEPT > now;
            changes.forgotten.extend((!kept).then_some(*peer));
            kept
        });
        self.suspects.retain(|_, at| at.back().is_some_and(|last| *last <= now && now - *last < OFFENCES_WITHIN));
        changes
    }

    /// A ban that begins in the future was made before the clock was set back: it has as long to go as it ever had.
    fn keep_time(&mut self, now: Timestamp) {
        for ban in self.in_force.values_mut().chain(self.over.values_mut()).filter(|ban| ban.since > now) {
            let by = ban.since - now;
            ban.since = now;
            ban.until = ban.until.set_back(by);
        }
    }

    /// How many before it were not told, if this one is to be.
    pub fn tell(&mut self, now: Timestamp) -> Option<u64> {
        self.told.retain(|at| *at <= now && now - *at < TOLD_WITHIN);
        if self.told.len() >= MAX_TOLD {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.told.push_back(now);
        Some(std::mem::take(&mut self.untold))
    }

    /// Those in force, the latest first.
    pub fn list(&self) -> Vec<&Ban> {
        let mut list: Vec<&Ban> = self.in_force.values().collect();
        list.sort_by_key(|ban| (std::cmp::Reverse(ban.since), ban.peer));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_700_000_000_000);

    fn peer(n: u32) -> PeerId {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        PeerId::from_public_key(key)
    }
    fn charge(n: u32) -> Charge {
        Charge { peer: peer(n), reason: "it was tested".into(), code: ErrorCode::BadToken, offences: 5 }
    }
    fn offend(bans: &mut Bans, now: Timestamp, n: u32) -> Option<Charge> {
        bans.offence(now, peer(n), "an advert", ErrorCode::BadToken)
    }
    fn hours(ban: &Ban) -> u64 {
        (ban.until - ban.since).as_secs() / 3600
    }

    #[test]
    fn five_within_ten_minutes_and_each_peer_for_itself() {
        let mut bans = Bans::default();
        let at = |s: u64| START + Millis::secs(s);
        assert!((0..4).all(|s| offend(&mut bans, at(s), 1).is_none()));
        assert_eq!(offend(&mut bans, at(4), 2), None, "another's do not count");
        let charge = offend(&mut bans, at(599), 1).unwrap();
        assert_eq!((charge.peer, charge.offences), (peer(1), 5));
        assert!(charge.reason.contains("an advert, bad token or signature (AUTH_001)"), "{}", charge.reason);
        // Four, then four more when those have lapsed: never five in the time.
        assert!((0..4).all(|s| offend(&mut bans, at(s), 3).is_none()));
        assert!((0..4).all(|s| offend(&mut bans, at(604 + s), 3).is_none()));
        assert!(offend(&mut bans, at(608), 3).is_some());
    }

    #[test]
    fn a_ban_ends_by_itself_and_the_next_is_twice_as_long() {
        let (mut bans, mut now, mut lengths) = (Bans::default(), START, Vec::new());
        for _ in 0..7 {
            let (ban, changes) = bans.ban(now, &charge(1));
            assert_eq!(bans.list(), [&ban]);
            assert_eq!(changes, Changes::default());
            lengths.push(hours(&ban));
            assert_eq!(bans.advance(Timestamp(ban.until.0 - 1)), Changes::default());
            now = ban.until;
            assert_eq!(bans.advance(now), Changes { freed: vec![peer(1)], forgotten: vec![] });
            assert!(bans.list().is_empty());
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 24, 24]);
        now = now + BAN_KEPT;
        assert_eq!(bans.advance(now).forgotten, [peer(1)]);
        assert_eq!(hours(&bans.ban(now, &charge(1)).0), 1, "a day of peace, and it starts anew");
    }

    #[test]
    fn who_is_forgiven_starts_anew_and_more_offences_meanwhile_are_counted() {
        let mut bans = Bans::default();
        bans.ban(START, &charge(1));
        assert_eq!(offend(&mut bans, START, 1), None);
        assert_eq!(bans.lift(peer(1)).map(|ban| ban.offences), Some(6));
        assert_eq!((bans.lift(peer(1)), bans.lift(peer(2))), (None, None));
        assert!((0..4).all(|_| offend(&mut bans, START, 1).is_none()));
        assert_eq!(hours(&bans.ban(START, &charge(1)).0), 1);
    }

    #[test]
    fn what_was_stored_is_in_force_again_for_as_long_as_it_had() {
        let mut before = Bans::default();
        let (ended, _) = before.ban(START, &charge(1));
        let now = ended.until + Millis::secs(1);
        let (running, _) = before.ban(now, &charge(2));
        let mut bans = Bans::restore(now, [ended.clone(), running.clone()]);
        assert_eq!(bans.list(), [&running]);
        assert_eq!(hours(&bans.ban(now, &charge(1)).0), 2, "the one that is over is remembered");
        // The clock was set back by a month meanwhile: nobody is banned for a month.
        let earlier = now.set_back(Millis::secs(30 * 86_400));
        let bans = Bans::restore(earlier, [running]);
        assert_eq!((bans.list()[0].since, bans.list()[0].until), (earlier, earlier + BAN_FIRST));
    }

    #[test]
    fn any_number_of_ids_is_bounded() {
        let mut bans = Bans::default();
        for n in 0..2 * MAX_SUSPECTS as u32 {
            assert!(offend(&mut bans, START + Millis(u64::from(n)), n).is_none());
        }
        assert_eq!(bans.suspects.len(), MAX_SUSPECTS);
        let (first, _) = bans.ban(START, &charge(0));
        bans.advance(first.until);
        for n in 1..=MAX_BANNED as u32 {
            let (_, changes) = bans.ban(first.until + Millis(u64::from(n)), &charge(n));
            let expected = if n == MAX_BANNED as u32 { vec![peer(0)] } else { vec![] };
            assert_eq!((changes.freed, changes.forgotten), (vec![], expected), "one that is over goes first");
        }
        let (_, changes) = bans.ban(first.until + Millis::secs(60), &charge(9_999));
        assert_eq!((changes.freed, changes.forgotten), (vec![peer(1)], vec![peer(1)]), "then the oldest");
        assert_eq!(bans.in_force.len() + bans.over.len(), MAX_BANNED);
    }

    #[test]
    fn a_botnet_does_not_fill_the_log() {
        let mut bans = Bans::default();
        assert_eq!((0..1000).filter(|_| bans.tell(START).is_some()).count(), MAX_TOLD);
        assert_eq!(bans.tell(START + TOLD_WITHIN), Some(1000 - MAX_TOLD as u64));
        assert_eq!(bans.tell(START + TOLD_WITHIN), Some(0));
    }
}
