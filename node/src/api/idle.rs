//! When a node that was started by a command may leave: nothing was asked for a while, nobody is connected, and
//! nothing is left to release.
use crate::handle::NodeHandle;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[derive(Clone)]
pub struct IdleWatch {
    after: Option<Duration>,
    state: Arc<State>,
}

struct State {
    began: Instant,
    /// Milliseconds after `began` at which something last happened.
    last: AtomicU64,
    /// Requests being answered, tunnels among them.
    open: AtomicUsize,
}

/// Something is going on for as long as this lives.
pub struct Busy(Arc<State>);

impl IdleWatch {
    pub fn new(after: Option<Duration>) -> Self {
        let state = State { began: Instant::now(), last: AtomicU64::new(0), open: AtomicUsize::new(0) };
        IdleWatch { after, state: Arc::new(state) }
    }
    pub fn busy(&self) -> Busy {
        self.state.open.fetch_add(1, Ordering::AcqRel);
        Busy(self.state.clone())
    }
    fn idle_for(&self) -> Duration {
        if self.state.open.load(Ordering::Acquire) > 0 {
            return Duration::ZERO;
        }
        self.state.began.elapsed().saturating_sub(Duration::from_millis(self.state.last.load(Ordering::Acquire)))
    }
    /// Returns when the node has been idle for long enough; never, when it stays.
    pub async fn expired(&self, node: &NodeHandle) {
        let Some(after) = self.after else { return std::future::pending().await };
        loop {
            let left = after.saturating_sub(self.idle_for());
            if left.is_zero() && !node.has_unfinished().await.unwrap_or(false) {
                return;
            }
            tokio::time::sleep(left.max(Duration::from_millis(200))).await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.last.store(self.0.began.elapsed().as_millis() as u64, Ordering::Release);
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}
