//! `golemnode identity …`: the key that a node is, and its end.
use crate::context::{Context, left_alone};
use crate::failure::Outcome;
use crate::output::fields;
use clap::Subcommand;
use node::api::client::Client;
use node::api::types::RevokedView;
use node::config::Home;
use protocol::revocation::RevocationDocument;
use protocol::{Fault, PeerId};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a node that has just started is given to meet somebody.
const MEET: Duration = Duration::from_secs(15);
const MEET_PAUSE: Duration = Duration::from_millis(300);

#[derive(Subcommand)]
pub enum IdentityCommand {
    /// Show this node's peer id, and where its key and its revocation lie
    Show,
    /// Name who goes on for this node's key, in a file to keep; nobody is told until you revoke the key with it
    HandOver {
        /// The home of the node that goes on; a key is made there when there is none
        #[arg(value_name = "HOME")]
        to: PathBuf,
        /// The file that is written [default: identity.succession in this home]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// End a key for good: nothing that is offered under it is taken any more, by anybody who hears of it
    Revoke {
        /// The revocation that was made with the key [default: identity.revocation in this home]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[derive(Serialize)]
struct IdentityView {
    peer_id: PeerId,
    identity_file: PathBuf,
    /// None when it lies elsewhere.
    revocation_file: Option<PathBuf>,
}

pub fn run(context: &Context, command: IdentityCommand) -> Outcome {
    match command {
        IdentityCommand::Show => show(context),
        IdentityCommand::HandOver { to, file } => hand_over(context, to, file),
        IdentityCommand::Revoke { file } => revoke(context, file),
    }
}

fn show(context: &Context) -> Outcome {
    let home = context.home()?;
    home.create()?;
    let view = IdentityView {
        peer_id: home.identity()?.peer_id(),
        identity_file: home.identity_file(),
        revocation_file: Some(home.revocation_file()).filter(|file| file.exists()),
    };
    let text = || {
        fields(&[
            ("peer id", Some(view.peer_id.to_string())),
            ("key", Some(view.identity_file.display().to_string())),
            ("revocation", view.revocation_file.as_ref().map(|file| file.display().to_string())),
        ])
    };
    context.show(&view, text)
}

#[derive(Serialize)]
struct HandedOverView {
    peer_id: PeerId,
    successor: Option<PeerId>,
    file: PathBuf,
}

fn hand_over(context: &Context, to: PathBuf, file: Option<PathBuf>) -> Outcome {
    let (home, heir) = (context.home()?, Home::find(Some(to))?);
    home.create()?;
    heir.create()?;
    let file = file.unwrap_or_else(|| home.succession_file());
    let said = home.hand_over(&heir, &file)?.verify()?;
    let view = HandedOverView { peer_id: said.revoked, successor: said.successor(), file };
    let text = || {
        let (file, heir) = (view.file.display(), view.successor.map(|heir| heir.to_string()).unwrap_or_default());
        format!(
            "{file} says that {heir} goes on for {}\nnobody knows yet; to end the old key and tell everybody:\n\n    \
             golemnode identity revoke --file {file}\n",
            view.peer_id
        )
    };
    context.show(&view, text)
}

fn revoke(context: &Context, file: Option<PathBuf>) -> Outcome {
    let document = context.home()?.revocation(file.as_deref())?;
    let said = document.verify()?;
    let heir = said.successor().map(|heir| format!(" in favour of {heir}")).unwrap_or_default();
    let question =
        format!("revoke the key of {}{heir}? It offers nothing any more, and this cannot be undone", said.revoked);
    if !context.confirm_for_good(&question)? {
        return left_alone(context);
    }
    let node = context.node()?;
    let view = context.block_on(async { say(&node, &document).await })?;
    context.show(&view, || text(&view))
}

/// Until somebody has heard it: a node that this command started may have met nobody yet.
async fn say(node: &Client, document: &RevocationDocument) -> Result<RevokedView, Fault> {
    let deadline = Instant::now() + MEET;
    loop {
        let view = node.revoke(document).await?;
        if view.told > 0 || Instant::now() > deadline {
            return Ok(view);
        }
        tokio::time::sleep(MEET_PAUSE).await;
    }
}

fn text(view: &RevokedView) -> String {
    let told = match view.told {
        0 => "no peer is connected: those that connect to this node within 10 min are told; keep it running".to_owned(),
        1 => "1 peer is told, and tells the others".to_owned(),
        many => format!("{many} peers are told, and tell the others"),
    };
    let own = if view.own { "\nit is this node's own: this node offers nothing any more" } else { "" };
    let heir = view.successor.map(|heir| format!(", and {heir} goes on for it")).unwrap_or_default();
    format!("the key of {} is revoked{heir}\n{told}{own}\n", view.peer_id)
}
