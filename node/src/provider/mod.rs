//! The provider's hands: what the host offers, and what is done to its VMs.
pub mod monitor;
pub mod offering;
pub mod worker;
