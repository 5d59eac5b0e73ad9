//! The whole of it on this machine.
use crate::context::Context;
use crate::failure::Outcome;
use protocol::{ErrorCode, Fault};

#[derive(clap::Args)]
pub struct DemoArgs {}

pub fn run(_context: &Context, _args: &DemoArgs) -> Outcome {
    Err(Fault::new(ErrorCode::BackendCannot, "this build has no demo").hint("'make demo' in the source tree").into())
}
