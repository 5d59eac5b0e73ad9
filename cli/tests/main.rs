//! The command line from the outside: the binary itself, as a script calls it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
