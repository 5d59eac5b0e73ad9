//! What outlives the process, on sled: the core's tables, the peers worth redialling, the anchors, the bans, the events. sled takes
//! one process, so a running node alone opens it; it is no longer developed, so it ends in this file.
//!
//! sled must never meet a full disk: of an error while it writes its log it does not tell who waits for that, and a flush
//! then waits for ever; of a transaction that fails it may show one half. So it is not let near one: `make_room`.
pub mod backup;
pub mod check;
mod migrations;
pub mod restore;
#[cfg(test)]
mod tests;

use crate::bans::Ban;
use crate::config::io;
use crate::mesh::Anchor;
use migrations::Migration;
use protocol::codec::{self, MAX_STORED};
use protocol::core::{StoreOp, Table};
use protocol::{ErrorCode, Fault, PeerId};
use serde::{Deserialize, Serialize};
use sled::Transactional;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a change of the layout counts up, so that an older binary refuses instead of misreading.
pub const SCHEMA: u32 = 1;
const DRAINING: &str = "draining";
/// sled's page cache. The whole state of a busy node is a few MB; the default of 1 GiB is for databases.
const CACHE_BYTES: u64 = 4 << 20;
/// Of sled's log, and so of the buffer in front of it. Its default is 512 KiB.
const SEGMENT_BYTES: usize = 128 << 10;
/// Peers of earlier runs: enough that some still run, few enough to try at every start.
pub const MAX_PEERS: usize = 64;
/// Events kept; the oldest goes.
pub const MAX_EVENTS: u64 = 10_000;

/// What stands in the part of settings, beside the schema.
const SCHEMA_KEY: &str = "schema";
/// The longest key: a table's byte and two ids.
pub const MAX_KEY: usize = 128;

/// Taken behind the log's end before anything is written: a transaction, and the pages that are moved because of it.
pub const AHEAD: u64 = 4 << 20;
/// With less free space nothing is written at all: the largest value there is, and some pages beside it.
pub const LEAST_FREE: u64 = 2 << 20;

pub struct Store(Open);

struct Open {
    /// sled's own file.
    log: File,
    db: sled::Db,
    state: sled::Tree,
    peers: sled::Tree,
    anchors: sled::Tree,
    bans: sled::Tree,
    events: sled::Tree,
}

/// The parts that the store keeps rows in, as they are checked, saved and restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Settings,
    State,
    Peers,
    Anchors,
    Bans,
    Events,
}

impl Part {
    pub const ALL: [Part; 6] = [Part::Settings, Part::State, Part::Peers, Part::Anchors, Part::Bans, Part::Events];
    pub fn name(self) -> &'static str {
        match self {
            Part::Settings => "settings",
            Part::State => "state",
            Part::Peers => "peers",
            Part::Anchors => "anchors",
            Part::Bans => "bans",
            Part::Events => "events",
        }
    }
}

/// A row as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRow {
    pub part: Part,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl RawRow {
    /// Of the core's state: the row as the core knows it, unless its table is unknown.
    pub fn op(&self) -> Option<StoreOp> {
        let (first, key) = self.key.split_first()?;
        let table = Table::ALL.into_iter().find(|table| table_byte(*table) == *first)?;
        Some(StoreOp { table, key: key.to_vec(), value: Some(self.value.clone()) })
    }
}

/// A peer that was connected once, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    pub peer: PeerId,
    pub addrs: Vec<String>,
    pub seen_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    pub time_ms: u64,
    pub kind: String,
    pub severity: String,
    pub message: String,
    pub subject: Option<String>,
    pub code: Option<ErrorCode>,
}

impl Store {
    pub fn open(dir: &Path) -> Result<Self, Fault> {
        Self::open_with(dir, SCHEMA, migrations::ALL)
    }

    fn open_with(dir: &Path, schema: u32, migrations: &[Migration]) -> Result<Self, Fault> {
        let open = Open::new(dir)?;
        open.migrate(schema, migrations)?;
        Ok(Store(open))
    }

    /// Before anything is written.
    fn to_write(&self) -> Result<&Open, Fault> {
        self.0.make_room()?;
        Ok(&self.0)
    }

    /// One transaction, on disk when this returns.
    pub fn commit(&self, ops: &[StoreOp]) -> Result<(), Fault> {
        let open = self.to_write()?;
        let mut batch = sled::Batch::default();
        for op in ops {
            match &op.value {
                Some(value) => batch.insert(state_key(op.table, &op.key), value.as_slice()),
                None => batch.remove(state_key(op.table, &op.key)),
            }
        }
        open.state.apply_batch(batch).map_err(|error| broken("write", &error))?;
        open.flush()
    }

    /// Everything that the last run left, for the core.
    pub fn state(&self) -> Result<Vec<StoreOp>, Fault> {
        let mut ops = Vec::new();
        for table in Table::ALL {
            for row in self.0.state.scan_prefix([table_byte(table)]) {
                let (key, value) = row.map_err(|error| broken("read", &error))?;
                ops.push(StoreOp { table, key: key[1..].to_vec(), value: Some(value.to_vec()) });
            }
        }
        Ok(ops)
    }

    /// Every row of a part, as it stands there.
    pub fn rows(&self, part: Part) -> impl Iterator<Item = Result<RawRow, Fault>> + use<> {
        self.0.rows(part)
    }
    /// All that the core keeps. Whoever alone commits and asks in between gets one moment of it.
    pub fn moment(&self) -> Result<Vec<RawRow>, Fault> {
        self.rows(Part::State).collect()
    }
    /// Rows of a backup, into a store that nobody uses yet.
    fn fill(&self, part: Part, rows: &[RawRow]) -> Result<(), Fault> {
        let mut batch = sled::Batch::default();
        rows.iter().for_each(|row| batch.insert(row.key.as_slice(), row.value.as_slice()));
        self.to_write()?.tree(part).apply_batch(batch).map_err(|error| broken("write", &error))
    }
    /// After `fill`: the layout of what was filled in becomes ours.
    fn settle(&self) -> Result<(), Fault> {
        let open = self.to_write()?;
        open.migrate(SCHEMA, migrations::ALL)?;
        open.flush()
    }
    pub fn size_on_disk(&self) -> Result<u64, Fault> {
        self.0.db.size_on_disk().map_err(|error| broken("read", &error))
    }

    /// Not flushed: a lost address costs a dial.
    pub fn remember_peer(&self, known: &KnownPeer) -> Result<(), Fault> {
        let write = |error| broken("write", &error);
        let peers = &self.to_write()?.peers;
        peers.insert(known.peer.public_key(), codec::encode(known)).map_err(write)?;
        if peers.len() > MAX_PEERS {
            let oldest = self.known_peers()?.into_iter().min_by_key(|known| known.seen_ms);
            oldest.map(|known| peers.remove(known.peer.public_key())).transpose().map_err(write)?;
        }
        Ok(())
    }
    pub fn known_peers(&self) -> Result<Vec<KnownPeer>, Fault> {
        let mut known = Vec::new();
        for row in self.0.peers.iter() {
            let (_, value) = row.map_err(|error| broken("read", &error))?;
            known.extend(codec::decode::<KnownPeer>(&value, MAX_STORED).ok());
        }
        Ok(known)
    }

    /// In place of those before, which are four at most. Not flushed: they change rarely, and the last ones do as well.
    pub fn keep_anchors(&self, anchors: &[Anchor]) -> Result<(), Fault> {
        let (mut batch, open) = (sled::Batch::default(), self.to_write()?);
        for row in open.anchors.iter() {
            batch.remove(row.map_err(|error| broken("read", &error))?.0);
        }
        for (place, anchor) in (0u8..).zip(anchors) {
            batch.insert(&[place], codec::encode(anchor));
        }
        open.anchors.apply_batch(batch).map_err(|error| broken("write", &error))
    }
    pub fn anchors(&self) -> Result<Vec<Anchor>, Fault> {
        let mut anchors = Vec::new();
        for row in self.0.anchors.iter() {
            let (_, value) = row.map_err(|error| broken("read", &error))?;
            anchors.extend(codec::decode::<Anchor>(&value, MAX_STORED).ok());
        }
        Ok(anchors)
    }

    /// Not flushed: who is let in for a lost ban has five messages until the next.
    pub fn keep_ban(&self, ban: &Ban) -> Result<(), Fault> {
        let kept = self.to_write()?.bans.insert(ban.peer.public_key(), codec::encode(ban));
        kept.map(drop).map_err(|error| broken("write", &error))
    }
    pub fn forget_ban(&self, peer: PeerId) -> Result<(), Fault> {
        self.to_write()?.bans.remove(peer.public_key()).map(drop).map_err(|error| broken("write", &error))
    }
    /// Those in force and those that count for the next one: `crate::bans` bounds them.
    pub fn bans(&self) -> Result<Vec<Ban>, Fault> {
        let mut bans = Vec::new();
        for row in self.0.bans.iter() {
            let (_, value) = row.map_err(|error| broken("read", &error))?;
            bans.extend(codec::decode::<Ban>(&value, MAX_STORED).ok());
        }
        Ok(bans)
    }

    /// Whether the operator wants no new work; on disk when this returns.
    pub fn keep_draining(&self, draining: bool) -> Result<(), Fault> {
        let open = self.to_write()?;
        let kept = if draining { open.db.insert(DRAINING, &[1]) } else { open.db.remove(DRAINING) };
        kept.map_err(|error| broken("write", &error))?;
        open.flush()
    }
    pub fn draining(&self) -> Result<bool, Fault> {
        self.0.db.contains_key(DRAINING).map_err(|error| broken("read", &error))
    }

    /// Numbers and keeps an event.
    pub fn append_event(&self, event: &StoredEvent) -> Result<u64, Fault> {
        let events = &self.to_write()?.events;
        let last = events.last().map_err(|error| broken("read", &error))?;
        let id = last.and_then(|(key, _)| event_id(&key)).map_or(1, |id| id + 1);
        let write = |error| broken("write", &error);
        events.insert(id.to_be_bytes(), codec::encode(event)).map_err(write)?;
        if let Some(oldest) = id.checked_sub(MAX_EVENTS) {
            events.remove(oldest.to_be_bytes()).map_err(write)?;
        }
        Ok(id)
    }
    pub fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, StoredEvent)>, Fault> {
        let mut events = Vec::new();
        for row in self.0.events.range((after + 1).to_be_bytes()..).take(limit) {
            let (key, value) = row.map_err(|error| broken("read", &error))?;
            let event = codec::decode::<StoredEvent>(&value, MAX_STORED).ok();
            events.extend(event_id(&key).zip(event));
        }
        Ok(events)
    }
}

impl Open {
    fn new(dir: &Path) -> Result<Self, Fault> {
        let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).mode(sled::Mode::LowSpace);
        let opened = match config.clone().segment_size(SEGMENT_BYTES).open() {
            // It stands in the files themselves, and stays as it is.
            Err(sled::Error::Unsupported(_)) => config.open(),
            opened => opened,
        };
        let db = opened.map_err(|error| broken("open", &error).hint("another node may use this home"))?;
        let tree = |name: &str| db.open_tree(name).map_err(|error| broken("open", &error));
        let (state, events) = (tree("state")?, tree("events")?);
        let (peers, anchors, bans) = (tree("peers")?, tree("anchors")?, tree("bans")?);
        let path = dir.join("db");
        let log = File::options().read(true).write(true).open(&path).map_err(|error| io("open", &path, &error))?;
        Ok(Open { log, state, peers, anchors, bans, events, db })
    }

    fn tree(&self, part: Part) -> &sled::Tree {
        match part {
            Part::Settings => &self.db,
            Part::State => &self.state,
            Part::Peers => &self.peers,
            Part::Anchors => &self.anchors,
            Part::Bans => &self.bans,
            Part::Events => &self.events,
        }
    }

    fn rows(&self, part: Part) -> impl Iterator<Item = Result<RawRow, Fault>> + use<> {
        self.tree(part).iter().map(move |row| {
            let (key, value) = row.map_err(|error| broken("read", &error))?;
            Ok(RawRow { part, key: key.to_vec(), value: value.to_vec() })
        })
    }

    /// sled itself waits for the bytes, not for the length of the file and the place of its blocks.
    fn flush(&self) -> Result<(), Fault> {
        self.db.flush().map_err(|error| broken("write", &error))?;
        self.log.sync_data().map_err(|error| broken("write", &sled::Error::Io(error)))
    }

    /// That what is written next does not meet a full disk. Blocks of the log are taken ahead, where the file system does
    /// that; large pages get files of their own, for which space has to be free.
    fn make_room(&self) -> Result<(), Fault> {
        let failed = |error: std::io::Error| broken("write", &sled::Error::Io(error));
        let found = rustix::fs::fstatvfs(&self.log).map_err(|error| failed(error.into()))?;
        if found.f_bavail.saturating_mul(found.f_frsize) < LEAST_FREE {
            return Err(full());
        }
        let log = self.log.metadata().map_err(failed)?;
        let ahead = rustix::fs::fallocate(&self.log, rustix::fs::FallocateFlags::KEEP_SIZE, 0, log.len() + AHEAD);
        let refused = ahead.err().is_some_and(|error| is_full(std::io::Error::from(error).kind()));
        if refused && log.blocks() * 512 < log.len() + LEAST_FREE {
            return Err(full());
        }
        Ok(())
    }

    /// A new store gets the newest schema, an older one is brought there step by step, one of a newer binary is refused.
    fn migrate(&self, newest: u32, migrations: &[Migration]) -> Result<(), Fault> {
        let found = self.db.get(SCHEMA_KEY).map_err(|error| broken("read", &error))?;
        let Some(found) = found else {
            self.db.insert(SCHEMA_KEY, &newest.to_be_bytes()).map_err(|error| broken("write", &error))?;
            return self.flush();
        };
        let mut at = <[u8; 4]>::try_from(found.as_ref()).map(u32::from_be_bytes).unwrap_or(u32::MAX);
        while at != newest {
            let step = migrations.iter().find(|step| step.from == at).ok_or_else(|| migrations::no_way(at, newest))?;
            self.step(step)?;
            tracing::info!(from = at, to = at + 1, "the store has a new layout");
            at += 1;
        }
        Ok(())
    }

    /// One transaction over all parts, the new number in it: a crash leaves the old layout or the new one.
    fn step(&self, migration: &Migration) -> Result<(), Fault> {
        let rows = Part::ALL.into_iter().flat_map(|part| self.rows(part)).collect::<Result<Vec<_>, Fault>>()?;
        let changes = (migration.run)(&rows)?;
        let trees = Part::ALL.map(|part| self.tree(part));
        let done = trees[..].transaction(|trees| {
            for change in &changes {
                let tree = &trees[change.part as usize];
                match &change.value {
                    Some(value) => tree.insert(change.key.as_slice(), value.as_slice())?,
                    None => tree.remove(change.key.as_slice())?,
                };
            }
            trees[Part::Settings as usize].insert(SCHEMA_KEY, &(migration.from + 1).to_be_bytes())?;
            Ok::<(), sled::transaction::ConflictableTransactionError<()>>(())
        });
        done.map_err(|error| match error {
            sled::transaction::TransactionError::Storage(error) => broken("write", &error),
            sled::transaction::TransactionError::Abort(()) => Fault::internal("a migration was given up"),
        })?;
        self.flush()
    }
}

fn event_id(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

fn table_byte(table: Table) -> u8 {
    match table {
        Table::Leases => 1,
        Table::Rentals => 2,
        Table::Releases => 3,
        Table::History => 4,
        Table::Revoked => 5,
        Table::Quotas => 6,
        Table::Jobs => 7,
        Table::Meters => 8,
        Table::Receipts => 9,
        Table::Credits => 10,
    }
}

fn state_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = vec![table_byte(table)];
    full.extend_from_slice(key);
    full
}

fn full() -> Fault {
    Fault::new(ErrorCode::Exhausted, "the disk of the node's home is full").hint("free some space there")
}

/// A quota that is used up is as a disk that is: it passes when something is removed.
fn is_full(kind: std::io::ErrorKind) -> bool {
    matches!(kind, std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

fn broken(what: &str, error: &sled::Error) -> Fault {
    let fault = Fault::internal(format!("cannot {what} the store: {error}"));
    match error {
        sled::Error::Io(io) if is_full(io.kind()) => full(),
        _ => fault,
    }
}
