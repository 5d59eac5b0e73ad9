//! The store on a real disk: saved and restored, torn, full, and as an earlier release wrote it.
mod full;
mod layout;
mod nodes;
mod saved;
mod support;
mod torn;
