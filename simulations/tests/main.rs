//! The scenarios. A seed that fails is printed with the command that replays it.
mod board;
mod chaos;
mod crash;
mod crashes;
mod failover;
#[cfg(feature = "live")]
mod live;
mod month;
mod race;
mod scenarios;
mod sharded;
mod tenancy;
