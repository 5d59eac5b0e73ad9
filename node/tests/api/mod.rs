//! The local API over a real Unix socket, with a scripted node behind it.
mod calls;
mod create;
mod errors;
mod life;
mod support;
mod tunnel;
