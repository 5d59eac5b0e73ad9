//! One binary: the whole thing, from outside.
mod hostile;
mod nat;
mod rent;
mod simulated;
