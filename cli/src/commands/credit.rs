//! `golemnode credit …`: what requestors have paid this provider in advance.
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::table;
use clap::Subcommand;
use node::api::billing::{CreditBody, CreditView};
use protocol::PeerId;
use protocol::money::Sum;
use protocol::names::Currency;

#[derive(Subcommand)]
pub enum CreditCommand {
    /// Show what a peer has left here; without one, all peers that have an account
    Show { peer: Option<PeerId> },
    /// Add what a peer has paid; its VMs run as long as it lasts
    Grant {
        peer: PeerId,
        /// A decimal number, such as 12.50
        amount: Sum,
        /// In another currency than that of this provider's price
        #[arg(long)]
        currency: Option<Currency>,
    },
}

pub fn run(context: &Context, command: CreditCommand) -> Outcome {
    let node = context.node()?;
    let credits = match command {
        CreditCommand::Show { peer: None } => context.block_on(async { node.credits().await })?,
        CreditCommand::Show { peer: Some(peer) } => context.block_on(async { node.credit(peer).await })?,
        CreditCommand::Grant { peer, amount, currency } => {
            let body = CreditBody { grant: amount, currency };
            context.block_on(async { node.grant_credit(peer, &body).await })?
        }
    };
    context.show(&credits, || text(&credits))
}

fn text(credits: &[CreditView]) -> String {
    let row = |view: &CreditView| {
        let CreditView { peer_id, currency, granted, used, left } = view;
        vec![peer_id.to_string(), currency.to_string(), granted.to_string(), used.to_string(), left.to_string()]
    };
    table(&["PEER", "CURRENCY", "GRANTED", "USED", "LEFT"], &credits.iter().map(row).collect::<Vec<_>>())
}
