//! Real nodes over loopback TCP and QUIC.
mod gossip;
mod hand_driven;
mod heartbeat;
mod membership;
mod neighbours;
mod support;
mod talk;
