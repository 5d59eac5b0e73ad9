//! Counters of the mesh. One writer (the actor), any number of readers.
use super::metered::Traffic;
use super::types::Refused;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        #[derive(Default)]
        pub(super) struct Metrics {
            $(pub $name: AtomicU64,)*
            pub traffic: Arc<Traffic>,
            refused: [AtomicU64; Refused::ALL.len()],
        }
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct MetricsSnapshot {
            $($(#[$meta])* pub $name: u64,)*
            /// Bytes on the wire: of TCP everything above the socket, of QUIC what its streams carry.
            pub bytes_in: u64,
            pub bytes_out: u64,
            /// In the order of `Refused::ALL`.
            pub refused: [u64; Refused::ALL.len()],
        }
        impl Metrics {
            pub fn snapshot(&self) -> MetricsSnapshot {
                MetricsSnapshot {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    bytes_in: self.traffic.bytes_in.load(Ordering::Relaxed),
                    bytes_out: self.traffic.bytes_out.load(Ordering::Relaxed),
                    refused: std::array::from_fn(|i| self.refused[i].load(Ordering::Relaxed)),
                }
            }
        }
    };
}

counters! {
    /// Gossip messages that arrived for the first time.
    gossip_in,
    /// The same, with every further copy.
    gossip_copies,
    /// Gossip messages that we published.
    gossip_published,
    gossip_accepted,
    gossip_rejected,
    gossip_ignored,
    /// Gossip messages that nobody judged in time, or for which there was no room.
    gossip_unjudged,
    requests_in,
    requests_out,
    /// Requests of ours that failed.
    requests_failed,
    tunnels_in,
    tunnels_out,
    dials,
    dials_failed,
    connections_opened,
    connections_closed,
    /// Connections that we closed because there were too many.
    pruned,
    /// Neighbours given up in favour of newcomers.
    evicted,
    lookups,
    /// Holes punched: relayed connections that became direct ones.
    punched,
    /// Holes that could not be punched.
    punches_failed,
    /// Relayed connections that were given up for direct ones.
    relayed_closed,
    /// 1 while this node relays for others.
    relaying,
    /// Reservations at this relay, now.
    relay_reservations,
    /// Connections that this node relays, now.
    relay_circuits,
    /// Bytes relayed in the windows that run.
    relay_bytes,
    /// Peers connected now.
    connected,
    /// Neighbours now.
    neighbours,
}

impl Metrics {
    pub fn refuse(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl MetricsSnapshot {
    pub fn refused(&self, why: Refused) -> u64 {
        self.refused[why as usize]
    }
}
