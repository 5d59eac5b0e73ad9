//! Runs the tasks of connections, each when `pace` lets it.
//!
//! ```text
//!  guard: whose it is ──▶ seat ──▶ executor: its task ──polled──▶ took 0.3 ms ──▶ account of its payer
//!                                      ▲                                             │ in debt
//!                                      └──────────── waits for its turn ◀────────────┘
//! ```
//! The library says nothing of whose task it gives to the executor. But it asks the guard about each connection just
//! before, in the same turn.
//!
//! Handshakes have a thread of their own besides, which the kernel runs after all others: two hundred who call in the
//! same moment take what is left of the processor, and no question of those who are there waits behind them.
use super::pace::{Accounts, Payer};
use futures::future::BoxFuture;
use libp2p::swarm::Executor;
use rustix::time::{ClockId, clock_gettime};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::runtime::{self, Runtime};
use tokio::time::Sleep;

/// What is built for debugging takes several times as long for the same.
const SLOWNESS: u32 = if cfg!(debug_assertions) { 4 } else { 1 };

/// Of the thread that shakes hands: where both want a core, it has a tenth of it (`sched(7)`: 110 of 1024).
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

#[derive(Clone)]
pub struct Pacer {
    /// None: nobody waits.
    accounts: Option<Arc<Mutex<Accounts>>>,
    /// None: they are shaken where everything else is done.
    handshakes: Option<Arc<Aside>>,
    next: Arc<Mutex<Option<Arc<Seat>>>>,
}

/// A thread of less importance, for as long as somebody has this.
struct Aside(Option<Runtime>);

impl Aside {
    fn new() -> std::io::Result<Self> {
        let mut runtime = runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("handshakes").on_thread_start(|| {
            // Of this thread alone: on other systems than Linux it would be of the whole process. Where it is forbidden,
            // it is as important as the others.
            #[cfg(target_os = "linux")]
            let _ = rustix::process::setpriority_process(None, NICENESS);
        });
        Ok(Aside(Some(runtime.enable_all().build()?)))
    }
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(task);
        }
    }
}

impl Drop for Aside {
    /// Waiting for it is not allowed in a task, and nothing of it matters any more.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A task's place at the table. Its owner may let it go free while it runs.
pub struct Seat {
    payer: Payer,
    free: AtomicBool,
    accounts: Arc<Mutex<Accounts>>,
}

impl Pacer {
    pub fn new() -> Self {
        let accounts = Arc::new(Mutex::new(Accounts::new(Instant::now())));
        let handshakes =
            Aside::new().map(Arc::new).inspect_err(|error| tracing::warn!(%error, "no thread for handshakes"));
        Pacer { accounts: Some(accounts), handshakes: handshakes.ok(), next: Arc::default() }
    }
    /// For nodes by the hundred in one process, which have a processor together.
    pub fn boundless() -> Self {
        Pacer { accounts: None, handshakes: None, next: Arc::default() }
    }

    /// The next task to be run is paid for by this one.
    pub fn expect(&self, payer: Payer) -> Option<Arc<Seat>> {
        let accounts = self.accounts.clone()?;
        locked(&accounts).open(Instant::now(), payer);
        let seat = Arc::new(Seat { payer, free: AtomicBool::new(false), accounts });
        *locked(&self.next) = Some(seat.clone());
        Some(seat)
    }
    /// The next task to be run is nobody's, or is not to be run at all.
    pub fn expect_none(&self) {
        *locked(&self.next) = None;
    }
}

impl Executor for Pacer {
    fn exec(&self, task: BoxFuture<'static, ()>) {
        let seat = locked(&self.next).take();
        let Some(seat) = seat else {
            tokio::spawn(task);
            return;
        };
        let (payer, paced) = (seat.payer, Paced { task, seat, turn: None });
        match self.handshakes.as_ref().filter(|_| payer == Payer::Callers) {
            Some(aside) => aside.spawn(paced),
            None => drop(tokio::spawn(paced)),
        }
    }
}

impl Seat {
    pub fn set_free(&self, free: bool) {
        self.free.store(free, Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        locked(&self.accounts).close(self.payer);
    }
}

struct Paced {
    task: BoxFuture<'static, ()>,
    seat: Arc<Seat>,
    /// While it waits for it.
    turn: Option<Pin<Box<Sleep>>>,
}

impl Future for Paced {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Paced { task, seat, turn } = &mut *self;
        if seat.free.load(Ordering::Relaxed) {
            *turn = None;
            return task.as_mut().poll(cx);
        }
        if turn.is_none()
            && let Some(wait) = locked(&seat.accounts).book(Instant::now(), seat.payer)
        {
            *turn = Some(Box::pin(tokio::time::sleep(wait)));
        }
        let booked = turn.is_some();
        if let Some(waiting) = turn {
            ready!(waiting.as_mut().poll(cx));
            *turn = None;
        }
        let before = processor_time();
        let done = task.as_mut().poll(cx);
        let took = processor_time().saturating_sub(before) / SLOWNESS;
        locked(&seat.accounts).charge(seat.payer, took, booked);
        done
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        if self.turn.is_some() {
            locked(&self.seat.accounts).charge(self.seat.payer, Duration::ZERO, true);
        }
    }
}

/// Of this thread: on a busy machine a task is interrupted, and does not pay for that.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::swarm::ConnectionId;
    use std::sync::atomic::AtomicU64;
    use tokio::sync::oneshot;

    /// Takes `each` of the processor, `times` over, and says when it is done.
    async fn work(times: u32, each: Duration, done: oneshot::Sender<Duration>) {
        let began = Instant::now();
        for _ in 0..times {
            let before = processor_time();
            while processor_time() - before < each {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
        let _ = done.send(began.elapsed());
    }

    fn seated(pacer: &Pacer, number: usize) -> (Option<Arc<Seat>>, oneshot::Receiver<Duration>) {
        let seat = pacer.expect(Payer::Connection(ConnectionId::new_unchecked(number)));
        let (done, took) = oneshot::channel();
        pacer.exec(Box::pin(work(100, Duration::from_millis(2) * SLOWNESS, done)));
        (seat, took)
    }

    #[tokio::test]
    async fn a_greedy_task_waits_and_one_that_goes_free_does_not() {
        let pacer = Pacer::new();
        let (_seat, greedy) = seated(&pacer, 1);
        // 200 ms of work at the share of a core, but for what it has saved.
        let (took, share) = (greedy.await.unwrap(), crate::mesh::limits::TASKS_SHARE);
        assert!(took.as_secs_f64() > 0.8 * (0.2 / share - 0.2), "{took:?}");
        let (seat, freed) = seated(&pacer, 2);
        seat.unwrap().set_free(true);
        assert!(freed.await.unwrap() < took);
        let (seat, unbound) = seated(&Pacer::boundless(), 3);
        assert!(seat.is_none() && unbound.await.unwrap() < took);
    }

    #[tokio::test]
    async fn a_seat_is_for_one_task_and_its_account_ends_with_it() {
        let pacer = Pacer::new();
        let runs = Arc::new(AtomicU64::new(0));
        pacer.expect(Payer::Callers);
        pacer.expect(Payer::Connection(ConnectionId::new_unchecked(1)));
        pacer.expect_none();
        let (done, ended) = oneshot::channel();
        let counted = runs.clone();
        pacer.exec(Box::pin(async move {
            counted.fetch_add(1, Ordering::Relaxed);
            let _ = done.send(());
        }));
        ended.await.unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        let left = locked(pacer.accounts.as_ref().unwrap())
            .book(Instant::now(), Payer::Connection(ConnectionId::new_unchecked(1)));
        assert_eq!(left, None);
    }
}
