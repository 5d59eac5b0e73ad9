//! `golemnode lease …`: what was agreed, and whether it holds.
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{dash, fields, table};
use clap::Subcommand;
use node::api::types::LeaseView;
use node::clock::rfc3339;
use node::config::io;
use protocol::lease::{LeaseDocument, LeaseStanding, VerifiedLease};
use protocol::names::{Digest, LeaseId};
use protocol::spec::VmSpec;
use protocol::{Fault, PeerId};
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A lease has some 5 KiB; a file beyond this is something else.
const MOST: u64 = 256 * 1024;

#[derive(Subcommand)]
pub enum LeaseCommand {
    /// List the leases this node has a part in
    List,
    /// Show a lease; with --json the signed document, which 'lease verify' takes
    Show {
        /// A lease id, or a VM's name or id
        lease: String,
    },
    /// Check every signature and hash of a lease, without a node and without the network
    Verify {
        /// A file that 'lease show --json' wrote; - for stdin
        file: PathBuf,
    },
}

pub fn run(context: &Context, command: LeaseCommand) -> Outcome {
    match command {
        LeaseCommand::List => {
            let leases = context.node().and_then(|node| context.block_on(async { node.leases().await }))?;
            context.show(&leases, || list_text(&leases))
        }
        LeaseCommand::Show { lease } => {
            let node = context.node()?;
            let document = context.block_on(async { node.lease(&lease).await })?;
            // Verified here too: what is shown in words must be what was signed.
            let verified = Verified::of(&document.verify()?);
            context.show(&document, || verified.text())
        }
        LeaseCommand::Verify { file } => verify(context, &file),
    }
}

fn verify(context: &Context, file: &Path) -> Outcome {
    let text = read(file)?;
    let document: LeaseDocument = serde_json::from_str(&text).map_err(|error| {
        Fault::invalid(format!("{} is not a lease: {error}", file.display()))
            .hint("'golemnode lease show NAME --json' writes one")
    })?;
    let verified = Verified::of(&document.verify()?);
    if verified.standing == LeaseStanding::Provisional && !context.is_json() {
        context.say("provisional: granted but never confirmed, which makes no lease");
    }
    context.show(&verified, || verified.text())
}

pub(super) fn read(file: &Path) -> Result<String, Failure> {
    let unreadable = |error: std::io::Error| {
        Fault::invalid(format!("cannot read {}: {error}", file.display())).hint("name a file, or - for stdin")
    };
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().take(MOST + 1).read_to_string(&mut text).map_err(|error| io("read", file, &error))?;
    } else {
        File::open(file).map_err(unreadable)?.take(MOST + 1).read_to_string(&mut text).map_err(unreadable)?;
    }
    if text.len() as u64 > MOST {
        return Err(Fault::invalid(format!("{} is too large for a signed document", file.display())).into());
    }
    Ok(text)
}

/// What a lease says, once it has been checked.
#[derive(Serialize)]
struct Verified {
    standing: LeaseStanding,
    lease_id: LeaseId,
    network: String,
    provider: PeerId,
    requestor: PeerId,
    spec: VmSpec,
    backend: String,
    isolation: String,
    egress: String,
    price_per_hour: String,
    currency: String,
    quoted_at: String,
    started_at: Option<String>,
    ends_at: Option<String>,
    image_digest: Digest,
    seed_hash: Digest,
    quote_hash: Digest,
    accept_hash: Digest,
    grant_hash: Digest,
}

impl Verified {
    fn of(lease: &VerifiedLease) -> Self {
        let quote = &lease.quote;
        Verified {
            standing: lease.standing,
            lease_id: lease.lease_id(),
            network: quote.network.to_string(),
            provider: quote.provider,
            requestor: quote.requestor,
            spec: quote.spec.clone(),
            backend: quote.backend.to_string(),
            isolation: quote.isolation.to_string(),
            egress: quote.egress.to_string(),
            price_per_hour: quote.price.per_hour.to_string(),
            currency: quote.price.currency.to_string(),
            quoted_at: rfc3339(quote.issued),
            started_at: lease.active.as_ref().map(|active| rfc3339(active.started_at)),
            ends_at: lease.ends_at().map(rfc3339),
            image_digest: quote.image_digest,
            seed_hash: lease.accept.seed_hash,
            quote_hash: lease.quote.digest(),
            accept_hash: lease.accept.digest(),
            grant_hash: lease.grant.digest(),
        }
    }
    fn text(&self) -> String {
        let standing = match self.standing {
            LeaseStanding::Active => "active: every signature and hash is good",
            LeaseStanding::Provisional => "provisional: signatures are good, but it was never confirmed",
        };
        fields(&[
            ("standing", Some(standing.to_owned())),
            ("lease id", Some(self.lease_id.to_string())),
            ("network", Some(self.network.clone())),
            ("provider", Some(self.provider.to_string())),
            ("requestor", Some(self.requestor.to_string())),
            ("resources", Some(self.spec.resources.to_string())),
            ("image", Some(self.spec.image.to_string())),
            ("duration", Some(self.spec.duration.to_string())),
            ("backend", Some(format!("{} ({}, egress {})", self.backend, self.isolation, self.egress))),
            ("price", Some(format!("{} {}/h", self.price_per_hour, self.currency))),
            ("quoted", Some(self.quoted_at.clone())),
            ("started", self.started_at.clone()),
            ("ends", self.ends_at.clone()),
            ("image digest", Some(self.image_digest.to_string())),
            ("seed hash", Some(self.seed_hash.to_string())),
            ("quote hash", Some(self.quote_hash.to_string())),
            ("accept hash", Some(self.accept_hash.to_string())),
            ("grant hash", Some(self.grant_hash.to_string())),
        ])
    }
}

fn list_text(leases: &[LeaseView]) -> String {
    let row = |lease: &LeaseView| {
        let other = if lease.role == "provider" { lease.requestor } else { lease.provider };
        vec![
            lease.id.to_string(),
            lease.role.clone(),
            lease.state.clone(),
            dash(lease.vm.as_ref()),
            other.short(),
            lease.image.to_string(),
            lease.resources.to_string(),
            format!("{} {}/h", lease.price_per_hour, lease.currency),
            lease.expires_at.clone(),
        ]
    };
    let head = ["LEASE", "ROLE", "STATE", "VM", "WITH", "IMAGE", "RESOURCES", "PRICE", "EXPIRES"];
    table(&head, &leases.iter().map(row).collect::<Vec<_>>())
}
