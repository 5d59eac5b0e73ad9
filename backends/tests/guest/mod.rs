//! Real guests, one at a time: see `.config/nextest.toml`.
mod conformance;
mod life;
