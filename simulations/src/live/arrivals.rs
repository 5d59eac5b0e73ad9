//! Which message reached whom, and when.
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Clones share one book.
#[derive(Clone)]
pub struct Arrivals(Arc<Book>);

struct Book {
    state: Mutex<State>,
    complete: Notify,
}

struct State {
    /// When each message was said, and by whom.
    said: Vec<Option<(usize, Instant)>>,
    /// By message, then by node.
    came: Vec<Vec<Option<Instant>>>,
    missing: usize,
}

/// What became of one message: how long it took to each other node that it reached, the fastest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    pub took: Vec<Duration>,
    /// How many nodes it should have reached.
    pub others: usize,
}

impl Arrivals {
    pub fn new(nodes: usize, messages: usize) -> Self {
        let state = State {
            said: vec![None; messages],
            came: vec![vec![None; nodes]; messages],
            missing: messages * nodes.saturating_sub(1),
        };
        Arrivals(Arc::new(Book { state: Mutex::new(state), complete: Notify::new() }))
    }

    /// Nobody panics while it holds the lock, and a poisoned list is still a list.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn said(&self, message: usize, by: usize, at: Instant) {
        self.lock().said[message].get_or_insert((by, at));
    }

    /// Only the first time counts.
    pub fn came(&self, message: usize, to: usize, at: Instant) {
        let mut state = self.lock();
        let own = state.said[message].is_some_and(|(by, _)| by == to);
        let place = &mut state.came[message][to];
        if own || place.is_some() {
            return;
        }
        *place = Some(at);
        state.missing -= 1;
        if state.missing == 0 {
            self.0.complete.notify_waiters();
        }
    }

    /// When every message has reached everybody.
    pub async fn complete(&self) {
        let complete = self.0.complete.notified();
        tokio::pin!(complete);
        // From here on no notification is missed.
        complete.as_mut().enable();
        if self.lock().missing > 0 {
            complete.await;
        }
    }

    pub fn times(&self) -> Vec<Spread> {
        let state = self.lock();
        let spread = |(said, came): (&Option<(usize, Instant)>, &Vec<Option<Instant>>)| {
            let took = said.iter().flat_map(|(_, at)| came.iter().flatten().map(|when| when.duration_since(*at)));
            let mut took: Vec<Duration> = took.collect();
            took.sort();
            Spread { took, others: came.len().saturating_sub(1) }
        };
        state.said.iter().zip(&state.came).map(spread).collect()
    }
}

impl Spread {
    /// When this share of all others had it; none if so many never did.
    pub fn reached(&self, percent: usize) -> Option<Duration> {
        let wanted = (self.others * percent).div_ceil(100).max(1);
        self.took.get(wanted - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn first_arrivals_count_and_the_one_who_said_it_does_not() {
        let arrivals = Arrivals::new(5, 1);
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        arrivals.said(0, 2, start);
        arrivals.came(0, 2, at(1));
        for (node, ms) in [(0, 40), (1, 10), (1, 5), (3, 20)] {
            arrivals.came(0, node, at(ms));
        }
        let waiting = arrivals.clone();
        let complete = tokio::spawn(async move { waiting.complete().await });
        let [spread] = arrivals.times().try_into().unwrap();
        assert_eq!(spread.reached(50), Some(Duration::from_millis(20)));
        assert_eq!((spread.reached(75), spread.reached(100)), (Some(Duration::from_millis(40)), None));
        arrivals.came(0, 4, at(90));
        tokio::time::timeout(Duration::from_secs(20), complete).await.unwrap().unwrap();
        assert_eq!(arrivals.times()[0].reached(100), Some(Duration::from_millis(90)));
    }
}
