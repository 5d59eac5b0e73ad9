//! One binary: the whole thing, from outside.
mod billing;
mod frames;
mod hostile;
mod nat;
mod overload;
mod project;
mod rent;
mod simulated;
