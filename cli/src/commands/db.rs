//! `golemnode db …`: the store checked, saved and restored. The running node does it. Where none runs, this process does
//! it in its place, as the holder of the home's lock: what is damaged may be why no node starts.
use crate::context::{Context, left_alone};
use crate::failure::Outcome;
use crate::output::{fields, table};
use clap::Subcommand;
use node::api::client::{self, Client};
use node::clock;
use node::config::{Home, NodeLock};
use node::store::backup::{self, BackupView, Header};
use node::store::check::{self, StoreReport};
use node::store::restore::{self, RestoreView};
use node::store::{SCHEMA, Store};
use protocol::{ErrorCode, Fault};
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Subcommand)]
pub enum DbCommand {
    /// Read every row, hold it against its table, and count
    Check,
    /// Save all of it into a file that only you can read; it holds secrets of your VMs
    Backup { file: PathBuf },
    /// Put a backup of this home in the store's place; a running node is stopped for it
    Restore { file: PathBuf },
}

pub fn run(context: &Context, command: DbCommand) -> Outcome {
    let home = context.home()?;
    match command {
        DbCommand::Check => check(context, &home),
        DbCommand::Backup { file } => back_up(context, &home, &whole(&file)?),
        DbCommand::Restore { file } => restore(context, &home, &whole(&file)?),
    }
}

/// The node's own folder is another one.
fn whole(file: &Path) -> Result<PathBuf, Fault> {
    std::path::absolute(file).map_err(|error| node::config::io("use", file, &error))
}

/// The store of a home on which no node runs, and the lock that keeps one away meanwhile.
fn opened(home: &Home) -> Result<(NodeLock, Store), Fault> {
    if !home.db().join("db").exists() {
        return Err(Fault::new(ErrorCode::NoSuchResource, format!("there is no store in {}", home.root().display()))
            .hint("--home names another home; the first command that needs a node makes one"));
    }
    let lock = NodeLock::take(home)?;
    restore::take_up(&lock, home)?;
    let store = Store::open(&home.db())?;
    Ok((lock, store))
}

fn check(context: &Context, home: &Home) -> Outcome {
    let report = if client::is_alive(home) {
        let node = Client::new(home);
        context.block_on(async { node.check_store().await })?
    } else {
        let (_lock, store) = opened(home)?;
        check::check(&store, &store.moment()?)?
    };
    let shown = context.show(&report, || text(&report))?;
    if report.sound {
        return Ok(shown);
    }
    let problems = if report.problems_in_all == 1 { "problem" } else { "problems" };
    Err(Fault::internal(format!("the store of {} has {} {problems}", home.root().display(), report.problems_in_all))
        .hint("'golemnode db restore FILE' puts a backup in its place")
        .into())
}

fn text(report: &StoreReport) -> String {
    let row = |part: &check::TableReport| vec![part.table.clone(), part.rows.to_string(), part.bytes.to_string()];
    let mut text = table(&["TABLE", "ROWS", "BYTES"], &report.tables.iter().map(row).collect::<Vec<_>>());
    text += &format!("layout {}, {} bytes on disk\n", report.schema, report.size_on_disk);
    for problem in &report.problems {
        text += &format!("{} {}: {}\n", problem.table, problem.key, problem.what);
    }
    let unnamed = report.problems_in_all - report.problems.len();
    if unnamed > 0 {
        text += &format!("and {unnamed} more\n");
    }
    text
}

fn back_up(context: &Context, home: &Home, file: &Path) -> Outcome {
    let overwrite = context.global.yes;
    let view = if client::is_alive(home) {
        let node = Client::new(home);
        context.block_on(async { node.back_up_store(file, overwrite).await })?
    } else {
        let (_lock, store) = opened(home)?;
        let header = Header { schema: SCHEMA, peer: home.identity()?.peer_id(), time_ms: clock::now().0 };
        backup::write(&store, &store.moment()?, &header, file, overwrite)?
    };
    let text = |view: &BackupView| {
        format!(
            "{}: {} rows, {} bytes\nit holds secrets of your VMs; the identity is not in it: keep a copy of that too\n",
            view.file.display(),
            view.rows,
            view.bytes
        )
    };
    context.show(&view, || text(&view))
}

#[derive(Serialize)]
struct RestoredView {
    #[serde(flatten)]
    restored: RestoreView,
    /// A node ran, and was stopped.
    stopped: bool,
}

fn restore(context: &Context, home: &Home, file: &Path) -> Outcome {
    if !home.identity_file().exists() {
        return Err(Fault::new(ErrorCode::NoSuchResource, format!("{} has no identity", home.root().display()))
            .hint("put the identity there first: a store is of one key")
            .into());
    }
    let question = format!(
        "put {} in the place of the store in {}? VMs let or rented since that backup are forgotten",
        file.display(),
        home.root().display()
    );
    if !context.confirm_for_good(&question)? {
        return left_alone(context);
    }
    let stopped = client::is_alive(home);
    let restored = if stopped {
        let node = Client::new(home);
        let restored = context.block_on(async { node.restore_store(file).await })?;
        super::node::wait_for_end(home)?;
        restored
    } else {
        home.create()?;
        let lock = NodeLock::take(home)?;
        let restored = restore::stage(home, home.identity()?.peer_id(), file)?;
        restore::take_up(&lock, home)?;
        restored
    };
    let view = RestoredView { restored, stopped };
    context.show(&view, || restored_text(&view))
}

fn restored_text(view: &RestoredView) -> String {
    let RestoredView { restored, stopped } = view;
    let rows = fields(&[
        ("restored", Some(format!("{} rows of {}", restored.rows, restored.made_at))),
        ("before", Some(restored.before.display().to_string())),
    ]);
    let next = if *stopped { "the node has stopped; its next start begins with what was restored\n" } else { "" };
    format!("{rows}{next}")
}
