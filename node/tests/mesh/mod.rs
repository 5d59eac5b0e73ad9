//! Real nodes over loopback TCP and QUIC, and in memory.
mod bans;
mod carriers;
mod gossip;
mod hand_driven;
mod heartbeat;
mod membership;
mod neighbours;
mod reach;
mod sites;
mod support;
mod talk;
