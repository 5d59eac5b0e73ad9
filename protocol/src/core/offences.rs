//! Who tried what is not allowed, said once in a while: every refused message can be told to its sender, but if each
//! made an event, a single peer would soon fill the log with them, and what matters would fall out of it.
use super::{Ctx, Effect, Event, EventKind, Severity};
use crate::error::ErrorCode;
use crate::identity::PeerId;
use crate::refusal::Refusal;
use crate::units::{Millis, Timestamp};
use std::collections::BTreeMap;

/// One peer's offences of one kind are one event in this time.
pub const OFFENCE_EVERY: Millis = Millis::secs(10);
/// Offences told in that time, of all peers: keys cost nothing, and the node keeps 10,000 events. At this rate a whole
/// botnet takes 26 minutes to push the last of them out.
pub const MAX_OFFENCES: usize = 64;

/// Whether the refused message proves by itself that no honest node sent it: whatever is forwarded or shown was verified
/// by who does it. What two clocks differ about, what our own policy denies, and a lease that is another's (who lost
/// its identity asks for its old ones) prove nothing.
fn is_proof(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Unsigned(_) | Refusal::BadSignature(_) | Refusal::Malformed(_))
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Offence {
    by: PeerId,
    code: ErrorCode,
    what: &'static str,
}

struct Told {
    at: Timestamp,
    left_out: u64,
}

#[derive(Default)]
pub struct Offences {
    told: BTreeMap<Offence, Told>,
    /// Of those that are not in `told` (any more).
    others: u64,
}

impl Offences {
    /// How many before it were left out, if this one is to be told.
    pub fn tell(&mut self, now: Timestamp, by: PeerId, code: ErrorCode, what: &'static str) -> Option<u64> {
        let offence = Offence { by, code, what };
        if let Some(told) = self.told.get_mut(&offence)
            && now - told.at < OFFENCE_EVERY
        {
            told.left_out = told.left_out.saturating_add(1);
            return None;
        }
        let mut left_out = self.told.remove(&offence).map_or(0, |told| told.left_out);
        if self.told.len() >= MAX_OFFENCES {
            self.forget(now);
        }
        if self.told.len() >= MAX_OFFENCES {
            self.others = self.others.saturating_add(left_out).saturating_add(1);
            return None;
        }
        left_out = left_out.saturating_add(std::mem::take(&mut self.others));
        self.told.insert(offence, Told { at: now, left_out: 0 });
        Some(left_out)
    }

    fn forget(&mut self, now: Timestamp) {
        let others = &mut self.others;
        self.told.retain(|_, told| {
            let kept = now - told.at < OFFENCE_EVERY;
            *others = others.saturating_add(if kept { 0 } else { told.left_out });
            kept
        });
    }

    /// The clock was set back: what had so long to go has as long still.
    pub fn clock_set_back(&mut self, by: Millis) {
        for told in self.told.values_mut() {
            told.at = told.at.set_back(by);
        }
    }
}

impl Ctx<'_> {
    /// Somebody tried what is not allowed: an event, unless there was one like it a moment ago.
    pub fn offence(&mut self, from: PeerId, what: &'static str, refusal: &Refusal) {
        // One page may have a hundred forged adverts; it is one deed.
        let counted = |effect: &Effect| matches!(effect, Effect::Offence { by, .. } if *by == from);
        if is_proof(refusal) && !self.effects.iter().rev().any(counted) {
            self.effect(Effect::Offence { by: from, what, code: refusal.code() });
        }
        let message = match self.offences.tell(self.now, from, refusal.code(), what) {
            None => return,
            Some(0) => format!("refused {what}: {refusal}"),
            Some(left_out) => format!("refused {what}: {refusal}; {left_out} refusals before it are not listed"),
        };
        self.effect(Effect::Event(Event {
            kind: EventKind::Security,
            severity: Severity::Warning,
            message,
            subject: Some(from.to_string()),
            code: Some(refusal.code()),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHAT: &str = "a status";

    #[test]
    fn the_same_again_is_counted_and_told_later() {
        let (mut offences, start) = (Offences::default(), Timestamp(1_000_000));
        let [one, two] = [1, 2].map(|n| PeerId::from_public_key([n; 32]));
        let mut tell = |s: u64, by, what| offences.tell(start + Millis::secs(s), by, ErrorCode::NotYours, what);
        assert_eq!(tell(0, one, WHAT), Some(0));
        assert_eq!((0..100).filter_map(|_| tell(9, one, WHAT)).count(), 0);
        assert_eq!((tell(9, two, WHAT), tell(9, one, "a watch")), (Some(0), Some(0)), "others are others");
        assert_eq!((tell(10, one, WHAT), tell(20, one, WHAT)), (Some(100), Some(0)));
    }

    #[test]
    fn any_number_of_keys_is_bounded_and_nothing_is_uncounted() {
        let (mut offences, start) = (Offences::default(), Timestamp(1_000_000));
        let (mut told, mut counted, mut all) = (0, 0, 0);
        for s in 0..100u64 {
            for n in 0..200u8 {
                let by = PeerId::from_public_key([n; 32]);
                all += 1;
                if let Some(left_out) = offences.tell(start + Millis::secs(s), by, ErrorCode::Denied, WHAT) {
                    (told, counted) = (told + 1, counted + left_out + 1);
                }
                assert!(offences.told.len() <= MAX_OFFENCES);
            }
        }
        assert_eq!(told, 10 * MAX_OFFENCES);
        let waiting: u64 = offences.told.values().map(|told| told.left_out).sum();
        assert_eq!(counted + waiting + offences.others, all);
    }

    #[test]
    fn a_clock_that_is_set_back_silences_nobody() {
        let (mut offences, day) = (Offences::default(), Millis::secs(86_400));
        let (by, now) = (PeerId::from_public_key([1; 32]), Timestamp(0) + day + day);
        assert_eq!(offences.tell(now, by, ErrorCode::Denied, WHAT), Some(0));
        offences.clock_set_back(day);
        let later = now.set_back(day) + OFFENCE_EVERY;
        assert_eq!(offences.tell(later, by, ErrorCode::Denied, WHAT), Some(0));
    }
}
