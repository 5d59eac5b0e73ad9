//! How much of the processor the tasks of connections may take, so that who sends as fast as we read does not keep the
//! others waiting. All together have a share of one core. While they want less nobody waits; when they want more, it is
//! divided by max-min fairness (D. Bertsekas and R. Gallager, Data Networks, 1992, section 6.5.2): who wants little has
//! all of it, and those who want more have equal parts of the rest. Nothing is refused: the sender's window fills, and
//! it waits. Pure; `paced` holds the tasks back.
use super::limits;
use libp2p::swarm::ConnectionId;
use protocol::shard::Site;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often it is divided anew.
const PERIOD: Duration = Duration::from_millis(100);
/// What is not used is kept for so long: a page of the board, or a dozen questions at once.
const SAVED: Duration = Duration::from_millis(200);
/// … and what callers do not use for so long: a crowd that comes all at once after a quiet moment, some two hundred
/// handshakes. They stand in nobody's way (`paced`), and who calls all along saves nothing.
const SAVED_BY_CALLERS: Duration = Duration::from_secs(2);
/// What a turn is thought to take until it has been taken. Who waits books it, so that those who wait for the same
/// account come one after the other.
const TURN: Duration = Duration::from_micros(300);
/// Whoever has connected has this much: to say who it is and what it speaks, and to ask something, takes half of it.
const FIRST: Duration = Duration::from_millis(10);
/// However deep the debt: a connection that says nothing for longer would be given up by the other side.
const LONGEST: Duration = Duration::from_secs(2);

/// Whose account it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Payer {
    /// All that call and are not yet through their handshake. They have a share of their own.
    Callers,
    /// All connections of a site: ids are free.
    Site(Site),
    /// One that has no site.
    Connection(ConnectionId),
}

struct Account {
    /// In seconds; less than nothing is a debt.
    credit: f64,
    at: Instant,
    /// In this period.
    spent: f64,
    waited: bool,
    /// Turns that are waited for.
    booked: usize,
    tasks: usize,
}

/// One for each payer that has a task: as many as there are connections.
pub struct Accounts {
    /// What each has at most, in seconds of a second.
    level: f64,
    began: Instant,
    of: HashMap<Payer, Account>,
}

impl Accounts {
    pub fn new(now: Instant) -> Self {
        Accounts { level: limits::TASKS_SHARE, began: now, of: HashMap::new() }
    }

    /// A task more that this one pays for.
    pub fn open(&mut self, now: Instant, payer: Payer) {
        let credit = FIRST.as_secs_f64();
        let fresh = || Account { credit, at: now, spent: 0.0, waited: false, booked: 0, tasks: 0 };
        self.of.entry(payer).or_insert_with(fresh).tasks += 1;
    }

    /// A task less. The callers' account stays, and with it what they owe.
    pub fn close(&mut self, payer: Payer) {
        let Some(account) = self.of.get_mut(&payer) else { return };
        account.tasks -= 1;
        if account.tasks == 0 && payer != Payer::Callers {
            self.of.remove(&payer);
        }
    }

    /// How long a task has to wait for its turn; if at all, the turn is booked.
    pub fn book(&mut self, now: Instant, payer: Payer) -> Option<Duration> {
        self.divide(now);
        let (level, most) = (self.level_of(payer), saved_of(payer));
        let account = self.of.get_mut(&payer)?;
        let earned = now.saturating_duration_since(account.at).as_secs_f64() * level;
        (account.credit, account.at) = ((account.credit + earned).min(most), now);
        if account.credit > 0.0 {
            return None;
        }
        account.waited = true;
        let wait = Duration::try_from_secs_f64(-account.credit / level).unwrap_or(LONGEST);
        account.credit -= TURN.as_secs_f64();
        account.booked += 1;
        Some(wait.min(LONGEST))
    }

    /// What a turn has taken. One that was booked is charged, even if it is not taken any more.
    pub fn charge(&mut self, payer: Payer, took: Duration, booked: bool) {
        let Some(account) = self.of.get_mut(&payer) else { return };
        account.credit -= took.as_secs_f64();
        account.spent += took.as_secs_f64();
        if booked {
            account.credit += TURN.as_secs_f64();
            account.booked -= 1;
        }
    }

    fn level_of(&self, payer: Payer) -> f64 {
        if payer == Payer::Callers { limits::HANDSHAKES_SHARE } else { self.level }
    }

    fn divide(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.began);
        if since < PERIOD {
            return;
        }
        let want = |account: &Account| match account.waited || account.booked > 0 {
            true => f64::INFINITY,
            false => account.spent / since.as_secs_f64(),
        };
        let divided = self.of.iter().filter(|(payer, _)| **payer != Payer::Callers);
        self.level = water_level(limits::TASKS_SHARE, divided.map(|(_, account)| want(account)).collect());
        self.began = now;
        for account in self.of.values_mut() {
            (account.spent, account.waited) = (0.0, false);
        }
    }
}

/// In seconds.
fn saved_of(payer: Payer) -> f64 {
    match payer {
        Payer::Callers => limits::HANDSHAKES_SHARE * SAVED_BY_CALLERS.as_secs_f64(),
        _ => limits::TASKS_SHARE * SAVED.as_secs_f64(),
    }
}

/// The most that one may have, so that all together have no more than the share; all of it, when that is enough for all.
fn water_level(share: f64, mut wants: Vec<f64>) -> f64 {
    wants.sort_by(f64::total_cmp);
    let mut left = share;
    for (served, want) in wants.iter().enumerate() {
        let part = left / (wants.len() - served) as f64;
        if *want > part {
            return part;
        }
        left -= want;
    }
    share
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn connection(number: usize) -> Payer {
        Payer::Connection(ConnectionId::new_unchecked(number))
    }

    /// Each wants a turn of `turns[n]` every millisecond, for so many of them. What each had, in seconds a second.
    fn run(turns: &[Duration], millis: u32) -> Vec<f64> {
        let start = Instant::now();
        let mut accounts = Accounts::new(start);
        let mut free_at = vec![(start, false); turns.len()];
        let mut had = vec![0.0; turns.len()];
        (0..turns.len()).for_each(|n| accounts.open(start, connection(n)));
        for milli in 0..millis {
            let now = start + MILLI * milli;
            for (n, turn) in turns.iter().enumerate().filter(|(_, turn)| !turn.is_zero()) {
                let (due, booked) = free_at[n];
                if due > now {
                    continue;
                }
                let wait = if booked { None } else { accounts.book(now, connection(n)) };
                if let Some(wait) = wait {
                    free_at[n] = (now + wait, true);
                    continue;
                }
                accounts.charge(connection(n), *turn, booked);
                free_at[n] = (now, false);
                had[n] += turn.as_secs_f64();
            }
        }
        had.iter().map(|had| had / (f64::from(millis) / 1000.0)).collect()
    }

    #[test]
    fn one_alone_has_the_share_and_little_is_given_at_once() {
        let had = run(&[Duration::from_micros(500)], 10_000);
        assert!((had[0] / limits::TASKS_SHARE - 1.0).abs() < 0.1, "{had:?}");
        let start = Instant::now();
        let mut accounts = Accounts::new(start);
        accounts.open(start, connection(1));
        assert_eq!(accounts.book(start, connection(1)), None);
        accounts.charge(connection(1), FIRST + MILLI, false);
        let wait = accounts.book(start, connection(1)).unwrap();
        assert!(wait > Duration::ZERO && wait <= MILLI.div_f64(limits::TASKS_SHARE / 2.0), "{wait:?}");
        let next = accounts.book(start, connection(1)).unwrap();
        assert!(next > wait, "it comes after the one that has booked");
        accounts.charge(connection(1), MILLI * 10_000, true);
        assert_eq!(accounts.book(start, connection(1)), Some(LONGEST));
    }

    #[test]
    fn the_callers_share_is_their_own_and_their_debt_outlives_them() {
        let start = Instant::now();
        let mut accounts = Accounts::new(start);
        accounts.open(start, Payer::Callers);
        accounts.charge(Payer::Callers, MILLI * 50, false);
        accounts.close(Payer::Callers);
        accounts.open(start, Payer::Callers);
        assert!(accounts.book(start, Payer::Callers).is_some());
        accounts.open(start, connection(1));
        assert_eq!(accounts.book(start + PERIOD, connection(1)), None);
        accounts.close(connection(1));
        assert_eq!(accounts.of.len(), 1);
    }

    /// How many turns are taken at once by callers who were quiet for so long.
    fn at_once(quiet: Duration) -> u32 {
        let start = Instant::now();
        let mut accounts = Accounts::new(start);
        accounts.open(start, Payer::Callers);
        accounts.charge(Payer::Callers, FIRST, false);
        let then = start + quiet;
        let mut turns = 0;
        while accounts.book(then, Payer::Callers).is_none() {
            accounts.charge(Payer::Callers, MILLI, false);
            turns += 1;
        }
        turns
    }

    #[test]
    fn callers_save_up_for_a_crowd_and_no_more() {
        assert_eq!(at_once(MILLI * 10), 1);
        assert_eq!(at_once(SAVED_BY_CALLERS / 2), 50);
        assert_eq!(at_once(SAVED_BY_CALLERS), 100);
        assert_eq!(at_once(Duration::from_secs(3600)), 100);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn the_modest_never_want_and_the_greedy_have_the_rest_alike(
            greedy in 1usize..60,
            modest in 0usize..20,
            part in 0.0f64..0.5,
        ) {
            // The modest want half of an equal part at most, all day.
            let each = limits::TASKS_SHARE / (greedy + modest) as f64 * part;
            let turns: Vec<Duration> = (0..greedy + modest)
                .map(|n| if n < greedy { Duration::from_micros(800) } else { MILLI.mul_f64(each) })
                .collect();
            let had = run(&turns, 20_000);
            let all: f64 = had.iter().sum();
            // What they had saved, and a period until it is seen how much they want.
            let saved = (FIRST.div_f64(limits::TASKS_SHARE) + PERIOD).as_secs_f64() * turns.len() as f64 / 20.0;
            prop_assert!(all < limits::TASKS_SHARE * (1.1 + saved), "{all}");
            let all_they_want = had.iter().zip(&turns).skip(greedy).all(|(had, turn)| *had >= turn.as_secs_f64() * 999.0);
            prop_assert!(all_they_want, "{each}: {:?}", &had[greedy..]);
            let (least, most) = had[..greedy].iter().fold((f64::MAX, 0.0f64), |(a, b), had| (a.min(*had), b.max(*had)));
            prop_assert!(least > most * 0.7, "{least} {most}");
            let rest = limits::TASKS_SHARE - each * modest as f64;
            prop_assert!(had[..greedy].iter().sum::<f64>() > rest * 0.8, "{rest}: {:?}", &had[..greedy]);
        }
    }
}
