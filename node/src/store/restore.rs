//! A backup takes the store's place:
//!
//! ```text
//!           read whole, checked          renamed           the next start: db ─▶ db.before-restore
//! (backup) ────────────────────▶ db.restoring ─▶ db.restored ────────────────────────────────────▶ db
//! ```
//! The store in use is never written to: a crash at any point leaves it where it is, or the restored one complete and
//! about to be taken up. What was replaced is kept until the next restore.
use super::backup::{Reader, sync_dir};
use super::check::check;
use super::{RawRow, Store};
use crate::clock;
use crate::config::{Home, NodeLock, io};
use protocol::units::Timestamp;
use protocol::{ErrorCode, Fault, PeerId};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of rows in memory, and in one batch, on their way into the new store.
const BATCH: usize = 1 << 20;
/// sled's threads let go of a store that was closed within milliseconds.
const LET_GO: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);

/// The answer to a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreView {
    pub file: PathBuf,
    pub rows: u64,
    /// When the backup was made.
    pub made_at: String,
    /// Where what was replaced is kept from the next start on.
    pub before: PathBuf,
}

/// Makes the store that a backup holds, whole and checked, ready for `take_up`. Nothing is staged when this fails.
pub fn stage(home: &Home, owner: PeerId, file: &Path) -> Result<RestoreView, Fault> {
    let fresh = home.restoring();
    remove(&fresh)?;
    let staged = build(&fresh, owner, file);
    if staged.is_err() {
        // The fault says more than a failing removal; the next restore begins with one.
        let _ = remove(&fresh);
    }
    let (rows, made) = staged?;
    let ready = home.restored();
    remove(&ready)?;
    rename(&fresh, &ready)?;
    sync_dir(home.root())?;
    Ok(RestoreView {
        file: file.to_owned(),
        rows,
        made_at: clock::rfc3339(Timestamp(made)),
        before: home.before_restore(),
    })
}

fn build(dir: &Path, owner: PeerId, file: &Path) -> Result<(u64, u64), Fault> {
    let mut reader = Reader::open(file)?;
    if reader.header.peer != owner {
        return Err(Fault::new(
            ErrorCode::NotYours,
            format!("{} is of {}, and this home's node is {owner}", file.display(), reader.header.peer),
        )
        .hint("--home names another home; a restored identity goes first"));
    }
    DirBuilder::new().mode(0o700).create(dir).map_err(|error| io("create", dir, &error))?;
    let made = reader.header.time_ms;
    let rows = {
        let store = Store::open(dir)?;
        let rows = fill(&store, &mut reader)?;
        store.settle()?;
        let report = check(&store, &store.moment()?)?;
        if let Some(problem) = report.problems.first() {
            return Err(Fault::invalid(format!(
                "{} has {} rows that no node reads; the first is of {}, key {}: {}",
                file.display(),
                report.problems_in_all,
                problem.table,
                problem.key,
                problem.what
            ))
            .hint("take another backup"));
        }
        rows
    };
    let_go(dir)?;
    sync_all(dir)?;
    Ok((rows, made))
}

fn fill(store: &Store, reader: &mut Reader) -> Result<u64, Fault> {
    let (mut batch, mut size, mut rows) = (Vec::<RawRow>::new(), 0, 0);
    while let Some(row) = reader.next_row()? {
        size += row.key.len() + row.value.len();
        rows += 1;
        let other = batch.first().is_some_and(|first| first.part != row.part);
        if other || size > BATCH {
            pour(store, &mut batch)?;
            size = 0;
        }
        batch.push(row);
    }
    pour(store, &mut batch)?;
    Ok(rows)
}

fn pour(store: &Store, batch: &mut Vec<RawRow>) -> Result<(), Fault> {
    let Some(part) = batch.first().map(|row| row.part) else { return Ok(()) };
    store.fill(part, batch)?;
    batch.clear();
    Ok(())
}

/// Puts a restored store in place, if one is there. Before the store is opened, by who holds the home.
pub fn take_up(_lock: &NodeLock, home: &Home) -> Result<bool, Fault> {
    let (db, ready, before) = (home.db(), home.restored(), home.before_restore());
    if !ready.exists() {
        return Ok(false);
    }
    // Empty where a crash came between the two renames below and the folder was made anew: then nothing is replaced.
    let replaced = db.exists() && fs::remove_dir(&db).is_err();
    if replaced {
        remove(&before)?;
        rename(&db, &before)?;
        sync_dir(home.root())?;
    }
    rename(&ready, &db)?;
    sync_dir(home.root())?;
    Ok(true)
}

fn remove(dir: &Path) -> Result<(), Fault> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", dir, &error)),
        _ => Ok(()),
    }
}
fn rename(from: &Path, to: &Path) -> Result<(), Fault> {
    fs::rename(from, to).map_err(|error| io("rename", from, &error))
}

/// Until nobody writes there any more: sled's threads outlive the store for a moment.
fn let_go(dir: &Path) -> Result<(), Fault> {
    let path = dir.join("db");
    let file = File::open(&path).map_err(|error| io("read", &path, &error))?;
    let deadline = Instant::now() + LET_GO;
    while file.try_lock().is_err() {
        if Instant::now() > deadline {
            return Err(Fault::internal("the restored store is still being written").hint("try again"));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn sync_all(dir: &Path) -> Result<(), Fault> {
    for entry in fs::read_dir(dir).map_err(|error| io("read", dir, &error))? {
        let path = entry.map_err(|error| io("read", dir, &error))?.path();
        if path.is_dir() {
            sync_all(&path)?;
        } else {
            sync_dir(&path)?;
        }
    }
    sync_dir(dir)
}
