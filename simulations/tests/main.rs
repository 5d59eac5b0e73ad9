//! The scenarios. A seed that fails is printed with the command that replays it.
mod chaos;
mod race;
