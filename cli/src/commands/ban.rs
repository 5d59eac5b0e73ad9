//! `golemnode ban …`: who is kept out, and letting them in again.
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::table;
use clap::Subcommand;
use node::api::types::BanView;
use protocol::PeerId;

#[derive(Subcommand)]
pub enum BanCommand {
    /// List the peers that are kept out, with the reason and the end
    List,
    /// Let a peer in again before its ban ends, and forget what it did
    Lift { peer: PeerId },
}

pub fn run(context: &Context, command: BanCommand) -> Outcome {
    let node = context.node()?;
    match command {
        BanCommand::List => {
            let bans = context.block_on(async { node.bans().await })?;
            context.show(&bans, || text(&bans))
        }
        BanCommand::Lift { peer } => {
            let lifted = context.block_on(async { node.lift_ban(peer).await })?;
            context.show(&lifted, || text(std::slice::from_ref(&lifted)))
        }
    }
}

fn text(bans: &[BanView]) -> String {
    let row = |ban: &BanView| {
        vec![
            ban.peer_id.to_string(),
            ban.since.clone(),
            ban.until.clone(),
            ban.offences.to_string(),
            ban.reason.clone(),
        ]
    };
    table(&["PEER", "SINCE", "UNTIL", "OFFENCES", "REASON"], &bans.iter().map(row).collect::<Vec<_>>())
}
