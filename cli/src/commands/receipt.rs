//! `golemnode receipt …`: what VMs have cost, signed by both sides.
use super::lease::read;
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{fields, table};
use clap::Subcommand;
use node::api::billing::ReceiptView;
use node::clock::rfc3339;
use protocol::names::LeaseId;
use protocol::receipt::{Line, ReceiptDocument, VerifiedReceipt};
use protocol::units::Millis;
use protocol::{Fault, PeerId};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum ReceiptCommand {
    /// List the latest receipt of each lease this node has a part in; it says all that the lease has come to
    List,
    /// Show a receipt; with --json the signed document, which 'receipt verify' takes
    Show {
        /// A lease id, or a VM's name or id
        lease: String,
    },
    /// Check every signature and sum of a receipt, without a node and without the network
    Verify {
        /// A file that 'receipt show --json' wrote; - for stdin
        file: PathBuf,
    },
}

pub fn run(context: &Context, command: ReceiptCommand) -> Outcome {
    match command {
        ReceiptCommand::List => {
            let receipts = context.node().and_then(|node| context.block_on(async { node.receipts().await }))?;
            context.show(&receipts, || list_text(&receipts))
        }
        ReceiptCommand::Show { lease } => {
            let node = context.node()?;
            let document = context.block_on(async { node.receipt(&lease).await })?;
            // Verified here too: what is shown in words must be what was signed.
            let verified = Verified::of(&document.verify()?);
            context.show(&document, || verified.text())
        }
        ReceiptCommand::Verify { file } => {
            let document: ReceiptDocument = serde_json::from_str(&read(&file)?).map_err(|error| {
                Fault::invalid(format!("{} is not a receipt: {error}", file.display()))
                    .hint("'golemnode receipt show NAME --json' writes one")
            })?;
            let verified = Verified::of(&document.verify()?);
            context.show(&verified, || verified.text())
        }
    }
}

/// What a receipt says, once it has been checked.
#[derive(Serialize)]
struct Verified {
    lease_id: LeaseId,
    network: String,
    provider: PeerId,
    requestor: PeerId,
    number: u32,
    issued_at: String,
    lines: Vec<Line>,
    seconds: u64,
    total: String,
    currency: String,
    last: bool,
    countersigned: bool,
}

impl Verified {
    fn of(verified: &VerifiedReceipt) -> Self {
        let receipt = &verified.receipt;
        Verified {
            lease_id: receipt.lease_id,
            network: receipt.network.to_string(),
            provider: receipt.provider,
            requestor: receipt.requestor,
            number: receipt.number,
            issued_at: rfc3339(receipt.issued),
            lines: receipt.lines.clone(),
            seconds: receipt.seconds(),
            total: receipt.total.to_string(),
            currency: receipt.lines.first().map(|line| line.price.currency.to_string()).unwrap_or_default(),
            last: receipt.last,
            countersigned: verified.countersign.is_some(),
        }
    }
    fn text(&self) -> String {
        let standing = match self.countersigned {
            true => "signed by both sides: every signature and sum is good",
            false => "signed by the provider alone: its signature and sum are good",
        };
        let line = |line: &Line| format!("{} at {}", Millis::secs(line.seconds), line.price);
        fields(&[
            ("standing", Some(standing.to_owned())),
            ("lease id", Some(self.lease_id.to_string())),
            ("network", Some(self.network.clone())),
            ("provider", Some(self.provider.to_string())),
            ("requestor", Some(self.requestor.to_string())),
            ("number", Some(format!("{}{}", self.number, if self.last { ", the last" } else { "" }))),
            ("issued", Some(self.issued_at.clone())),
            ("used", Some(self.lines.iter().map(line).collect::<Vec<_>>().join(", "))),
            ("total", Some(format!("{} {}", self.total, self.currency))),
        ])
    }
}

fn list_text(receipts: &[ReceiptView]) -> String {
    let row = |receipt: &ReceiptView| {
        let other = if receipt.role == "provider" { receipt.requestor } else { receipt.provider };
        vec![
            receipt.lease_id.to_string(),
            receipt.role.clone(),
            other.short(),
            receipt.number.to_string(),
            Millis::secs(receipt.seconds).to_string(),
            format!("{} {}", receipt.total, receipt.currency),
            if receipt.last { "yes" } else { "no" }.to_owned(),
            if receipt.countersigned { "yes" } else { "no" }.to_owned(),
            receipt.issued_at.clone(),
        ]
    };
    let head = ["LEASE", "ROLE", "WITH", "NUMBER", "USED", "TOTAL", "LAST", "COUNTERSIGNED", "ISSUED"];
    table(&head, &receipts.iter().map(row).collect::<Vec<_>>())
}
