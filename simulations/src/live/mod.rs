//! The real node, many times in one process: over the memory transport, with the delays of links injected and the
//! memory backend behind it; and beside it, in the same run, what libp2p gives without us.
//!
//! ```text
//!  Setup ─▶ fleet started ─▶ settled: nobody connects any more ─▶ one message a second ─▶ Figures
//!              └ CPU, bytes of joining ┘                   └ who shows it when; copies, bytes, CPU ┘
//! ```
//! Memory is the process's, so a setup that is compared with another has a process of its own (see `compare`).
//! Messages are spaced and links slow, or two cores shared by hundreds of nodes would be all that is measured.
mod arrivals;
mod bare;
mod calibrate;
mod compare;
mod figures;
mod lookups;
mod ours;
mod play;
mod process;

pub use calibrate::{Calibration, Line, Sizes, calibrate};
pub use compare::{Plan, Report, Row, compare};
pub use figures::{Figures, Kind, Setup};
pub use lookups::{LookupPlan, Lookups, run_lookups};
pub use play::{Played, play};

use arrivals::Arrivals;
use figures::Phase;
use process::Usage;
use protocol::{ErrorCode, Fault};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// A message that has not reached everybody by then, after the last was said, is counted as it is.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);
/// As many as each is told of.
const LEAST_PEERS: usize = 3;
/// How often it is looked whether connections still come and go.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What is counted of a whole fleet, since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    /// Connections made, counted at both ends.
    pub opened: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Requests of ours.
    pub requests: u64,
    /// Messages that came, each node's first copy and every copy.
    pub firsts: u64,
    pub copies: u64,
}

/// Nodes of one kind that know each other.
pub(crate) trait Fleet: Sized {
    async fn start(setup: &Setup, arrivals: &Arrivals) -> Result<Self, Fault>;
    fn counted(&self) -> Counted;
    /// How many peers each node has.
    async fn connections(&self) -> Result<Vec<usize>, Fault>;
    /// Has one node say something new. `Arrivals` hears of it when that node itself knows it.
    async fn publish(&self, message: usize) -> Result<(), Fault>;
    async fn stop(self) -> Result<(), Fault>;
}

/// Runs one setup in this process, on a runtime of its own.
pub fn run(setup: &Setup) -> Result<Figures, Fault> {
    runtime()?.block_on(async {
        match setup.kind {
            Kind::Ours => measure::<ours::Ours>(setup).await,
            Kind::Bare | Kind::GossipOnly => measure::<bare::Bare>(setup).await,
        }
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Fault::internal(format!("no runtime: {error}")))
}

async fn measure<F: Fleet>(setup: &Setup) -> Result<Figures, Fault> {
    let arrivals = Arrivals::new(setup.nodes, setup.messages);
    let (usage, began) = (Usage::now()?, Instant::now());
    let fleet = F::start(setup, &arrivals).await?;
    settle(setup, &fleet).await?;
    let (joined, joined_in) = (Usage::now()?, began.elapsed());
    let before = fleet.counted();
    let connections = fleet.connections().await?;
    let began = Instant::now();
    say_everything(setup, &fleet, &arrivals).await?;
    let (done, after) = (Usage::now()?, fleet.counted());
    let join = Phase { took: joined_in, cpu: joined.cpu - usage.cpu, counted: before };
    let steady = Phase { took: began.elapsed(), cpu: done.cpu - joined.cpu, counted: after.since(&before) };
    let rss = done.rss.saturating_sub(usage.rss);
    let figures = Figures::new(setup.clone(), &connections, &join, &steady, rss, &arrivals.times());
    fleet.stop().await?;
    Ok(figures)
}

/// Until hardly anybody has connected to anybody for a while, and nobody is left over: three nodes that hundreds turn to
/// at once refuse most of them, who come again after a pause that looks like rest.
async fn settle<F: Fleet>(setup: &Setup, fleet: &F) -> Result<(), Fault> {
    let deadline = Instant::now() + setup.settle_within();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut quiet_since, mut opened) = (Instant::now(), fleet.counted().opened);
    loop {
        look.tick().await;
        if quiet_since.elapsed() >= setup.quiet() {
            let least = LEAST_PEERS.min(setup.nodes.saturating_sub(1));
            if fleet.connections().await?.iter().all(|peers| *peers >= least) {
                return Ok(());
            }
            quiet_since = Instant::now();
        }
        let now = fleet.counted().opened;
        if now > opened + setup.nodes as u64 / 50 {
            (quiet_since, opened) = (Instant::now(), now);
        }
        if Instant::now() > deadline {
            let message =
                format!("{} did not settle within {:?}: {now} connections made", setup, setup.settle_within());
            return Err(Fault::new(ErrorCode::Timeout, message));
        }
    }
}

async fn say_everything<F: Fleet>(setup: &Setup, fleet: &F, arrivals: &Arrivals) -> Result<(), Fault> {
    let mut spacing = tokio::time::interval(setup.spacing());
    spacing.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for message in 0..setup.messages {
        spacing.tick().await;
        fleet.publish(message).await?;
    }
    // What is late shows in the figures; it is no failure of the measurement.
    let _ = tokio::time::timeout(ARRIVES_WITHIN, arrivals.complete()).await;
    Ok(())
}

impl Counted {
    fn since(&self, before: &Counted) -> Counted {
        Counted {
            opened: self.opened - before.opened,
            bytes_in: self.bytes_in - before.bytes_in,
            bytes_out: self.bytes_out - before.bytes_out,
            requests: self.requests - before.requests,
            firsts: self.firsts - before.firsts,
            copies: self.copies - before.copies,
        }
    }
}

impl std::ops::Add for Counted {
    type Output = Counted;
    fn add(self, other: Counted) -> Counted {
        Counted {
            opened: self.opened + other.opened,
            bytes_in: self.bytes_in + other.bytes_in,
            bytes_out: self.bytes_out + other.bytes_out,
            requests: self.requests + other.requests,
            firsts: self.firsts + other.firsts,
            copies: self.copies + other.copies,
        }
    }
}
