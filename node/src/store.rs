//! What outlives the process, on sled: the core's tables, the peers worth redialling, the anchors, the bans, the events. sled takes
//! one process, so only a running node opens it; it is no longer developed, so it ends in this file.
use crate::bans::Ban;
use crate::mesh::Anchor;
use protocol::codec::{self, MAX_STORED};
use protocol::core::{StoreOp, Table};
use protocol::{ErrorCode, Fault, PeerId};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a change of the layout counts up, so that an older binary refuses instead of misreading.
const SCHEMA: u32 = 1;
const DRAINING: &str = "draining";
/// sled's page cache. The whole state of a busy node is a few MB; the default of 1 GiB is for databases.
const CACHE_BYTES: u64 = 4 << 20;
/// Of sled's log, and so of the buffer in front of it. Its default is 512 KiB.
const SEGMENT_BYTES: usize = 128 << 10;
/// Peers of earlier runs: enough that some still run, few enough to try at every start.
pub const MAX_PEERS: usize = 64;
/// Events kept; the oldest goes.
pub const MAX_EVENTS: u64 = 10_000;

pub struct Store {
    db: sled::Db,
    state: sled::Tree,
    peers: sled::Tree,
    anchors: sled::Tree,
    bans: sled::Tree,
    events: sled::Tree,
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
        let store = Store { state, peers, anchors, bans, events, db };
        store.check_schema()?;
        Ok(store)
    }

    fn check_schema(&self) -> Result<(), Fault> {
        match self.db.get("schema").map_err(|error| broken("read", &error))? {
            None => {
                self.db.insert("schema", &SCHEMA.to_be_bytes()).map_err(|error| broken("write", &error))?;
                self.flush()
            }
            Some(found) if found.as_ref() == SCHEMA.to_be_bytes() => Ok(()),
            Some(_) => Err(Fault::internal("the store was written by another version of golemnode")
                .hint("run the version that wrote it, or use another --home")),
        }
    }

    fn flush(&self) -> Result<(), Fault> {
        self.db.flush().map(drop).map_err(|error| broken("write", &error))
    }

    /// One transaction, on disk when this returns.
    pub fn commit(&self, ops: &[StoreOp]) -> Result<(), Fault> {
        let mut batch = sled::Batch::default();
        for op in ops {
            match &op.value {
                Some(value) => batch.insert(state_key(op.table, &op.key), value.as_slice()),
                None => batch.remove(state_key(op.table, &op.key)),
            }
        }
        self.state.apply_batch(batch).map_err(|error| broken("write", &error))?;
        self.flush()
    }

    /// Everything that the last run left, for the core.
    pub fn state(&self) -> Result<Vec<StoreOp>, Fault> {
        let mut ops = Vec::new();
        for table in Table::ALL {
            for row in self.state.scan_prefix([table_byte(table)]) {
                let (key, value) = row.map_err(|error| broken("read", &error))?;
                ops.push(StoreOp { table, key: key[1..].to_vec(), value: Some(value.to_vec()) });
            }
        }
        Ok(ops)
    }

    /// Not flushed: a lost address costs a dial.
    pub fn remember_peer(&self, known: &KnownPeer) -> Result<(), Fault> {
        let write = |error| broken("write", &error);
        self.peers.insert(known.peer.public_key(), codec::encode(known)).map_err(write)?;
        if self.peers.len() > MAX_PEERS {
            let oldest = self.known_peers()?.into_iter().min_by_key(|known| known.seen_ms);
            oldest.map(|known| self.peers.remove(known.peer.public_key())).transpose().map_err(write)?;
        }
        Ok(())
    }
    pub fn known_peers(&self) -> Result<Vec<KnownPeer>, Fault> {
        let mut known = Vec::new();
        for row in self.peers.iter() {
            let (_, value) = row.map_err(|error| broken("read", &error))?;
            known.extend(codec::decode::<KnownPeer>(&value, MAX_STORED).ok());
        }
        Ok(known)
    }

    /// In place of those before, which are four at most. Not flushed: they change rarely, and the last ones do as well.
    pub fn keep_anchors(&self, anchors: &[Anchor]) -> Result<(), Fault> {
        let mut batch = sled::Batch::default();
        for row in self.anchors.iter() {
            batch.remove(row.map_err(|error| broken("read", &error))?.0);
        }
        for (place, anchor) in (0u8..).zip(anchors) {
            batch.insert(&[place], codec::encode(anchor));
        }
        self.anchors.apply_batch(batch).map_err(|error| broken("write", &error))
    }
    pub fn anchors(&self) -> Result<Vec<Anchor>, Fault> {
        let mut anchors = Vec::new();
        for row in self.anchors.iter() {
            let (_, value) = row.map_err(|error| broken("read", &error))?;
            anchors.extend(codec::decode::<Anchor>(&value, MAX_STORED).ok());
        }
        Ok(anchors)
    }

    /// Not flushed: who is let in for a lost ban has five messages until the next.
    pub fn keep_ban(&self, ban: &Ban) -> Result<(), Fault> {
        let kept = self.bans.insert(ban.peer.public_key(), codec::encode(ban));
        kept.map(drop).map_err(|error| broken("write", &error))
    }
    pub fn forget_ban(&self, peer: PeerId) -> Result<(), Fault> {
        self.bans.remove(peer.public_key()).map(drop).map_err(|error| broken("write", &error))
    }
    /// Those in force and those that count for the next one: `crate::bans` bounds them.
    pub fn bans(&self) -> Result<Vec<Ban>, Fault> {
        let mut bans = Vec::new();
        for row in self.bans.iter() {
            let (_, value) = row.map_err(|error| broken("read", &error))?;
            bans.extend(codec::decode::<Ban>(&value, MAX_STORED).ok());
        }
        Ok(bans)
    }

    /// Whether the operator wants no new work; on disk when this returns.
    pub fn keep_draining(&self, draining: bool) -> Result<(), Fault> {
        let kept = if draining { self.db.insert(DRAINING, &[1]) } else { self.db.remove(DRAINING) };
        kept.map_err(|error| broken("write", &error))?;
        self.flush()
    }
    pub fn draining(&self) -> Result<bool, Fault> {
        self.db.contains_key(DRAINING).map_err(|error| broken("read", &error))
    }

    /// Numbers and keeps an event.
    pub fn append_event(&self, event: &StoredEvent) -> Result<u64, Fault> {
        let last = self.events.last().map_err(|error| broken("read", &error))?;
        let id = last.and_then(|(key, _)| event_id(&key)).map_or(1, |id| id + 1);
        let write = |error| broken("write", &error);
        self.events.insert(id.to_be_bytes(), codec::encode(event)).map_err(write)?;
        if let Some(oldest) = id.checked_sub(MAX_EVENTS) {
            self.events.remove(oldest.to_be_bytes()).map_err(write)?;
        }
        Ok(id)
    }
    pub fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, StoredEvent)>, Fault> {
        let mut events = Vec::new();
        for row in self.events.range((after + 1).to_be_bytes()..).take(limit) {
            let (key, value) = row.map_err(|error| broken("read", &error))?;
            let event = codec::decode::<StoredEvent>(&value, MAX_STORED).ok();
            events.extend(event_id(&key).zip(event));
        }
        Ok(events)
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
    }
}

fn state_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = vec![table_byte(table)];
    full.extend_from_slice(key);
    full
}

fn broken(what: &str, error: &sled::Error) -> Fault {
    let fault = Fault::internal(format!("cannot {what} the store: {error}"));
    match error {
        sled::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => {
            Fault::new(ErrorCode::Exhausted, "the disk of the node's home is full").hint("free some space there")
        }
        _ => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sled's own flusher may hold the lock for a moment after the store is dropped.
    fn reopened(dir: &Path) -> Store {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            match Store::open(dir) {
                Ok(store) => return store,
                Err(fault) => assert!(std::time::Instant::now() < deadline, "{fault}"),
            }
        }
    }

    #[test]
    fn what_was_committed_is_there_after_reopening_and_a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let op = |n: u8, value: Option<Vec<u8>>| StoreOp { table: Table::Rentals, key: vec![n; 16], value };
        {
            let store = Store::open(dir.path()).unwrap();
            store.commit(&[op(1, Some(vec![1])), op(2, Some(vec![2]))]).unwrap();
            store.commit(&[op(1, None)]).unwrap();
            let second = Store::open(dir.path()).err().unwrap();
            assert!(second.message.contains("cannot open the store"), "{second}");
        }
        let store = reopened(dir.path());
        assert_eq!(store.state().unwrap(), vec![op(2, Some(vec![2]))]);
    }

    #[test]
    fn a_store_with_segments_of_another_size_is_opened_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        {
            let db = sled::Config::new().path(dir.path()).open().unwrap();
            db.insert("schema", &SCHEMA.to_be_bytes()).unwrap();
            db.open_tree("state").unwrap().insert(state_key(Table::Rentals, &[1; 16]), &[7]).unwrap();
            db.flush().unwrap();
        }
        let store = reopened(dir.path());
        assert_eq!(store.state().unwrap(), [StoreOp { table: Table::Rentals, key: vec![1; 16], value: Some(vec![7]) }]);
    }

    #[test]
    fn anchors_are_kept_in_place_of_those_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let anchor = |n: u8| Anchor {
            peer: PeerId::from_public_key([n; 32]),
            addrs: vec![format!("/ip4/192.{n}.2.1/tcp/1")],
            failures: n.into(),
        };
        assert_eq!(store.anchors().unwrap(), []);
        store.keep_anchors(&[9, 2, 3].map(anchor)).unwrap();
        assert_eq!(store.anchors().unwrap(), [9, 2, 3].map(anchor), "in their order");
        store.keep_anchors(&[anchor(3)]).unwrap();
        assert_eq!(store.anchors().unwrap(), [anchor(3)]);
    }

    #[test]
    fn peers_and_events_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for n in 0..(MAX_PEERS + 8) {
            let peer = PeerId::from_public_key([n as u8; 32]);
            store.remember_peer(&KnownPeer { peer, addrs: vec![], seen_ms: n as u64 }).unwrap();
        }
        let known = store.known_peers().unwrap();
        assert_eq!((known.len(), known.iter().map(|known| known.seen_ms).min()), (MAX_PEERS, Some(8)));
        let event = StoredEvent {
            time_ms: 1,
            kind: "vm".into(),
            severity: "info".into(),
            message: "m".into(),
            subject: None,
            code: None,
        };
        for n in 1..=3 {
            assert_eq!(store.append_event(&event).unwrap(), n);
        }
        assert_eq!(store.events(1, 10).unwrap().len(), 2);
    }
}
