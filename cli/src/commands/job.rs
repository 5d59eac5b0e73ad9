//! `golemnode job …`: what this provider does to its guests.
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{dash, table};
use clap::Subcommand;
use node::api::types::JobView;

#[derive(Subcommand)]
pub enum JobCommand {
    /// List what waits, what runs and what has been done in the last day
    List,
    /// Show one of them
    Show { id: u64 },
    /// Take one back. A guest that never ran ends its lease; another one stays as it is. A removal cannot be taken back
    Cancel { id: u64 },
}

pub fn run(context: &Context, command: JobCommand) -> Outcome {
    let node = context.node()?;
    match command {
        JobCommand::List => {
            let all = context.block_on(async { node.jobs().await })?;
            context.show(&all, || text(&all))
        }
        JobCommand::Show { id } => {
            let one = context.block_on(async { node.job(id).await })?;
            context.show(&one, || text(std::slice::from_ref(&one)))
        }
        JobCommand::Cancel { id } => {
            let one = context.block_on(async { node.cancel_job(id).await })?;
            context.show(&one, || text(std::slice::from_ref(&one)))
        }
    }
}

fn text(jobs: &[JobView]) -> String {
    let row = |job: &JobView| {
        vec![
            job.id.to_string(),
            job.kind.clone(),
            job.state.clone(),
            job.lease_id.to_string(),
            job.created_at.clone(),
            job.failed_tries.to_string(),
            dash(job.fault.as_ref().map(|fault| &fault.message)),
        ]
    };
    table(&["ID", "JOB", "STATE", "LEASE", "SINCE", "FAILED", "ERROR"], &jobs.iter().map(row).collect::<Vec<_>>())
}
