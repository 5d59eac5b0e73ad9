//! The scenarios. A seed that fails is printed with the command that replays it.
mod board;
mod chaos;
mod crash;
mod failover;
#[cfg(feature = "live")]
mod live;
mod race;
mod scenarios;
mod sharded;
mod tenancy;
