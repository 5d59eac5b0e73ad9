//! `golemnode doctor`: what this machine needs, and how to mend what is missing.
use crate::context::Context;
use crate::failure::Outcome;
use clap::Args;

#[derive(Args)]
pub struct DoctorArgs {}

pub fn run(context: &Context, _args: &DoctorArgs) -> Outcome {
    context.show(&[0; 0], String::new)
}
