//! `golemnode quota …`: how much a requestor may have at this provider at once.
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{dash, table};
use clap::{Subcommand, ValueEnum};
use node::api::types::QuotaView;
use protocol::PeerId;
use protocol::quota::Tier;

#[derive(Subcommand)]
pub enum QuotaCommand {
    /// Show what a peer may have here and has; without one, all peers that have a tier or VMs
    Show { peer: Option<PeerId> },
    /// Give a peer a tier: free (1 VM, 2 CPUs, 4G) or pro (3 VMs, 4 CPUs, 8G); none takes it back. What it has stays
    Set {
        peer: PeerId,
        #[arg(long, value_enum)]
        tier: TierName,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum TierName {
    Free,
    Pro,
    None,
}

pub fn run(context: &Context, command: QuotaCommand) -> Outcome {
    let node = context.node()?;
    match command {
        QuotaCommand::Show { peer: None } => {
            let all = context.block_on(async { node.quotas().await })?;
            context.show(&all, || text(&all))
        }
        QuotaCommand::Show { peer: Some(peer) } => {
            let one = context.block_on(async { node.quota(peer).await })?;
            context.show(&one, || text(std::slice::from_ref(&one)))
        }
        QuotaCommand::Set { peer, tier } => {
            let tier = match tier {
                TierName::Free => Some(Tier::Free),
                TierName::Pro => Some(Tier::Pro),
                TierName::None => None,
            };
            let one = context.block_on(async { node.set_quota(peer, tier).await })?;
            context.show(&one, || text(std::slice::from_ref(&one)))
        }
    }
}

fn text(quotas: &[QuotaView]) -> String {
    let row = |view: &QuotaView| {
        vec![
            view.peer_id.to_string(),
            dash(view.tier),
            dash(view.limits),
            view.used.vms.to_string(),
            view.used.resources.to_string(),
        ]
    };
    table(&["PEER", "TIER", "LIMITS", "VMS", "IN USE"], &quotas.iter().map(row).collect::<Vec<_>>())
}
