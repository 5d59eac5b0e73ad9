//! The very core that the node runs, under a virtual clock. One seed decides every delay, loss, crash and failure, so
//! a run that breaks an invariant can be replayed bit for bit.
//!
//! ```text
//!  scenario ─▶ world ── inputs ──▶ NodeCore (one a node)
//!                ▲ ▲                  │ effects, one by one; a crash may come between any two
//!                │ └── network ◀──────┤ Send, Reply, Publish: delayed, lost, doubled, reordered, cut
//!                └──── host ◀─────────┤ StartVm, PowerVm, DestroyVm: slow, failing; VMs outlive the node
//!                      store ◀────────┘ Persist: what is here is all that a restart finds
//!  after every step: invariants
//! ```
//!
//! `live` is the other engine: the real node with its libp2p, many times in one process, in real time.
#![allow(clippy::missing_panics_doc, reason = "a simulation ends in a panic that says how to replay it")]
pub mod chaos;
pub mod crashes;
pub mod host;
pub mod invariants;
#[cfg(feature = "live")]
pub mod live;
pub mod model;
pub mod month;
pub mod network;
pub mod node;
pub mod rng;
pub mod room;
pub mod scenario;
pub mod watch;
pub mod world;

pub use scenario::Scenario;
pub use world::{NodeId, World};
