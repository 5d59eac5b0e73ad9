//! One piece of work at a time for each VM, in the order in which it was asked for: a destroy that is called after a
//! create, also after one that nobody waits for any more, is done after it. What waits does so without a thread.
use protocol::names::LeaseId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::OwnedMutexGuard;

/// Entries go with the last who holds one, so there are as many as there is work.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<LeaseId, Weak<Turn>>>);

#[derive(Default)]
struct Turn {
    /// Fair: first come, first served.
    queue: Arc<tokio::sync::Mutex<()>>,
    /// How many who wait want the guest gone: whoever waits for the guest need not go on.
    hurried: AtomicUsize,
}

/// Held while the work is done.
pub struct Held {
    _turn: Arc<Turn>,
    _guard: OwnedMutexGuard<()>,
}

struct Hurry<'a>(&'a AtomicUsize);
impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Turns {
    fn of(&self, id: LeaseId) -> Arc<Turn> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&id).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Turn::default());
        turns.insert(id, Arc::downgrade(&turn));
        turn
    }

    /// `hurry`: what is under way stops waiting for the guest.
    pub async fn take(&self, id: LeaseId, hurry: bool) -> Held {
        let turn = self.of(id);
        let _hurry = hurry.then(|| {
            turn.hurried.fetch_add(1, Ordering::AcqRel);
            Hurry(&turn.hurried)
        });
        let guard = turn.queue.clone().lock_owned().await;
        Held { _turn: turn.clone(), _guard: guard }
    }

    fn there(&self, id: LeaseId) -> Option<Arc<Turn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).and_then(Weak::upgrade)
    }
    pub fn is_hurried(&self, id: LeaseId) -> bool {
        self.there(id).is_some_and(|turn| turn.hurried.load(Ordering::Acquire) > 0)
    }
    pub fn is_busy(&self, id: LeaseId) -> bool {
        self.there(id).is_some_and(|turn| turn.queue.try_lock().is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn turns_are_taken_in_order_and_forgotten() {
        let (turns, id) = (Turns::default(), LeaseId([1; 16]));
        assert!(!turns.is_busy(id));
        let first = turns.take(id, false).await;
        assert!(turns.is_busy(id) && !turns.is_hurried(id));
        let mut second = Box::pin(turns.take(id, false));
        let mut third = Box::pin(turns.take(id, true));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        assert!(turns.is_hurried(id));
        drop(turns.take(LeaseId([2; 16]), false).now_or_never().expect("another VM has its own turn"));
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "the second was first");
        drop(second.await);
        drop(third.await);
        assert!(!turns.is_hurried(id) && !turns.is_busy(id));
        // Whoever gives up leaves the line.
        let first = turns.take(id, false).await;
        let mut gives_up = Box::pin(turns.take(id, true));
        assert!(gives_up.as_mut().now_or_never().is_none());
        drop(gives_up);
        assert!(!turns.is_hurried(id));
        drop(first);
        turns.take(LeaseId([3; 16]), false).await;
        assert!(turns.0.lock().unwrap().len() <= 1);
    }
}
