//! One binary: the whole thing, from outside.
mod hostile;
mod rent;
mod simulated;
