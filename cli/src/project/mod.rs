//! Project files: what somebody wants to have rented, what has to be done for it, and doing it.
pub mod apply;
pub mod file;
pub mod place;
pub mod plan;
pub mod wanted;

#[cfg(test)]
mod tests;
