//! How long a VM was at its tenant's service, by the second, and what that comes to. Time is charged up to when the VM
//! was last seen to be there, never up to when it was missed: what nobody saw is nobody's debt.
use crate::money::{Price, Sum};
use crate::names::LeaseId;
use crate::units::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

/// Different prices within one lease: it was renewed as often at another price. A receipt lists all of them.
pub const MAX_PRICES: usize = 24;
/// What a meter has counted is on disk this soon: a crash costs the provider as much at most, and its tenant nothing.
pub const SAMPLE: Millis = Millis::secs(60);

/// Time at one price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub price: Price,
    pub time: Millis,
}

impl Usage {
    /// Whole seconds are charged.
    pub fn cost(&self) -> Sum {
        Sum::of(&self.price, self.time.as_secs())
    }
}

/// What the last receipt said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Billed {
    number: u32,
    time: Millis,
    at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// The last one counts.
    used: Vec<Usage>,
    billed: Billed,
    /// From when on other prices hold, the earliest first.
    agreed: Vec<(Timestamp, Price)>,
    /// Counted up to here and going on; none while nothing is charged. A new process has seen nothing yet.
    #[serde(skip)]
    since: Option<Timestamp>,
    #[serde(skip)]
    saved: Millis,
}

impl Meter {
    pub fn new(price: Price) -> Self {
        let used = vec![Usage { price, time: Millis(0) }];
        Meter { used, billed: Billed::default(), agreed: Vec::new(), since: None, saved: Millis(0) }
    }

    pub fn is_running(&self) -> bool {
        self.since.is_some()
    }
    pub fn start(&mut self, now: Timestamp) {
        self.since.get_or_insert(now);
    }
    /// It has been there until now.
    pub fn seen(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.agreed.first().filter(|(at, _)| *at <= now) {
            let at = *at;
            self.count(at);
            let (_, price) = self.agreed.remove(0);
            if self.used.last().is_none_or(|last| last.price != price) {
                self.used.push(Usage { price, time: Millis(0) });
            }
        }
        self.count(now);
    }
    fn count(&mut self, until: Timestamp) {
        let Some(since) = self.since.as_mut().filter(|since| **since < until) else { return };
        if let Some(last) = self.used.last_mut() {
            last.time = Millis(last.time.0.saturating_add((until - *since).0));
        }
        *since = until;
    }
    /// Nothing is charged from here on.
    pub fn stop(&mut self, now: Timestamp) {
        self.seen(now);
        self.since = None;
    }
    /// It has been away, nobody knows since when: what was not seen is not charged.
    pub fn miss(&mut self) {
        self.since = None;
    }

    /// From then on it costs so much. False when it had as many prices as there may be.
    pub fn agree(&mut self, from: Timestamp, price: Price) -> bool {
        let last = self.agreed.last().map_or_else(|| self.price(), |(_, price)| Some(price));
        if last == Some(&price) {
            return true;
        }
        let room = self.used.len() + self.agreed.len() < MAX_PRICES;
        if room {
            self.agreed.push((from, price));
        }
        room
    }

    pub fn price(&self) -> Option<&Price> {
        self.used.last().map(|used| &used.price)
    }
    pub fn used(&self) -> &[Usage] {
        &self.used
    }
    pub fn time(&self) -> Millis {
        Millis(self.used.iter().fold(0, |all, used| all.saturating_add(used.time.0)))
    }
    pub fn total(&self) -> Sum {
        total(&self.used)
    }

    /// Whether something has come to it since the last receipt, and that is so long ago.
    pub fn is_due(&self, now: Timestamp, every: Millis) -> bool {
        let more = self.time().as_secs() > self.billed.time.as_secs();
        // What was counted in all is the least that has gone by since it began.
        let first = self.billed.number == 0 && self.time() >= every;
        more && (first || self.billed.number > 0 && self.billed.at + every <= now)
    }
    /// The number of the receipt that says what has come together until now.
    pub fn bill(&mut self, now: Timestamp) -> u32 {
        let number = self.billed.number.saturating_add(1);
        self.billed = Billed { number, time: self.time(), at: now };
        number
    }

    /// Whether more was counted than a crash may cost.
    pub fn is_unsaved(&self) -> bool {
        self.time().0 >= self.saved.0.saturating_add(SAMPLE.0)
    }
    pub fn saved(&mut self) {
        self.saved = self.time();
    }
    pub fn restored(mut self) -> Self {
        self.saved();
        self
    }
    /// The clock was set while this ran, forward if positive: so long as something was to last, it does. Set back, what
    /// counts has been seen to with everything else that waits.
    pub fn clock_set(&mut self, by: i64) {
        let moved = |at: Timestamp| Timestamp(at.0.saturating_add_signed(by));
        for (from, _) in &mut self.agreed {
            *from = moved(*from);
        }
        if by > 0 {
            self.since = self.since.map(moved);
            self.billed.at = moved(self.billed.at);
        }
    }
    pub fn clock_set_back(&mut self, by: Millis) {
        self.since = self.since.map(|since| since.set_back(by));
        self.billed.at = self.billed.at.set_back(by);
    }
}

/// As it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MeterRow {
    pub lease_id: LeaseId,
    pub meter: Meter,
}

/// What times at prices of one currency come to.
pub fn total(used: &[Usage]) -> Sum {
    used.iter().fold(Sum::ZERO, |all, used| all.plus(used.cost()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(per_hour: &str) -> Price {
        Price { per_hour: per_hour.parse().unwrap(), currency: "EUR".parse().unwrap() }
    }
    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    #[test]
    fn what_was_seen_is_charged_and_what_was_missed_is_not() {
        let mut meter = Meter::new(price("3.6"));
        meter.seen(at(50));
        assert_eq!(meter.time(), Millis(0), "it was not on");
        meter.start(at(100));
        meter.seen(at(160));
        meter.miss();
        assert_eq!((meter.time(), meter.total().to_string()), (Millis::secs(60), "0.06".to_owned()));
        meter.start(at(300));
        meter.start(at(310));
        meter.stop(at(320));
        meter.seen(at(1000));
        assert_eq!((meter.time(), meter.total().to_string()), (Millis::secs(80), "0.08".to_owned()));
    }

    #[test]
    fn another_price_holds_from_when_it_was_agreed() {
        let mut meter = Meter::new(price("3.6"));
        meter.start(at(0));
        assert!(meter.agree(at(100), price("7.2")));
        assert!(meter.agree(at(200), price("7.2")), "the same goes on");
        assert!(meter.agree(at(300), price("0")));
        meter.seen(at(350));
        let used: Vec<u64> = meter.used().iter().map(|used| used.time.as_secs()).collect();
        assert_eq!((used, meter.total().to_string()), (vec![100, 200, 50], "0.5".to_owned()));
        let more = (0..100).filter(|n| meter.agree(at(400 + n), price(&format!("{}", n + 1)))).count();
        assert_eq!(more, MAX_PRICES - 3);
    }

    #[test]
    fn a_meter_that_comes_back_from_disk_has_seen_nothing_since() {
        let mut meter = Meter::new(price("1"));
        meter.start(at(0));
        meter.seen(at(59));
        assert!(!meter.is_unsaved());
        meter.seen(at(61));
        assert!(meter.is_unsaved());
        let bytes = crate::codec::encode(&meter);
        let back = crate::codec::decode::<Meter>(&bytes, 4096).unwrap().restored();
        assert!(!back.is_running() && !back.is_unsaved());
        assert_eq!(back.time(), Millis::secs(61));
    }
}
