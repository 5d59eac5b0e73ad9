//! One simulated node: a core, the disk under it, its hypervisor, and what its user was told.
use crate::crashes::Aim;
use crate::host::Host;
use crate::room::Waiting;
use protocol::codec::{self, MAX_STORED};
use protocol::core::provider::Offer;
use protocol::core::requestor::{Phase, Rental};
use protocol::core::{Event, NodeCore, StoreOp, Table};
use protocol::lease::Accept;
use protocol::ledger::LeaseRow;
use protocol::message::LeaseStage;
use protocol::names::{CreateId, LeaseId};
use protocol::units::{Resources, Timestamp};
use protocol::{Fault, Keypair, PeerId};
use std::collections::{BTreeMap, BTreeSet};

/// What a restart finds, and nothing else does.
#[derive(Default)]
pub struct Disk {
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    /// The same, as the invariants read it.
    pub leases: BTreeMap<LeaseId, StoredLease>,
    pub rentals: BTreeMap<CreateId, (Phase, Option<LeaseId>)>,
    pub releases: BTreeSet<LeaseId>,
}

pub struct StoredLease {
    pub requestor: PeerId,
    pub create_id: CreateId,
    pub stage: LeaseStage,
    pub gone: bool,
    pub resources: Resources,
    pub ends_at: Timestamp,
}

impl Disk {
    pub fn commit(&mut self, ops: &[StoreOp]) {
        for op in ops {
            match &op.value {
                Some(value) => self.rows.insert((op.table, op.key.clone()), value.clone()),
                None => self.rows.remove(&(op.table, op.key.clone())),
            };
            self.note(op);
        }
    }
    pub fn read(&self) -> Vec<StoreOp> {
        let op = |((table, key), value): (&(Table, Vec<u8>), &Vec<u8>)| StoreOp {
            table: *table,
            key: key.clone(),
            value: Some(value.clone()),
        };
        self.rows.iter().map(op).collect()
    }

    fn note(&mut self, op: &StoreOp) {
        if !matches!(op.table, Table::Leases | Table::Rentals | Table::Releases) {
            return;
        }
        let key = <[u8; 16]>::try_from(op.key.as_slice()).expect("an id has 16 bytes");
        let value = op.value.as_deref();
        match op.table {
            Table::Leases => {
                self.leases.remove(&LeaseId(key));
                if let Some(value) = value {
                    let row: LeaseRow =
                        codec::decode(value, MAX_STORED).expect("a lease that was stored is read again");
                    let accept: Accept = codec::decode(&row.accept.body, MAX_STORED).expect("an accept that was taken");
                    let stored = StoredLease {
                        requestor: row.requestor,
                        create_id: accept.create_id,
                        stage: row.stage,
                        gone: !row.counts(),
                        resources: row.takes(),
                        ends_at: row.ends_at,
                    };
                    self.leases.insert(LeaseId(key), stored);
                }
            }
            Table::Rentals => {
                self.rentals.remove(&CreateId(key));
                if let Some(value) = value {
                    let rental: Rental =
                        codec::decode(value, MAX_STORED).expect("a rental that was stored is read again");
                    let lease = rental.deal.map(|deal| deal.lease_id);
                    self.rentals.insert(CreateId(key), (rental.phase, lease));
                }
            }
            Table::Releases => {
                self.releases.remove(&LeaseId(key));
                if value.is_some() {
                    self.releases.insert(LeaseId(key));
                }
            }
            _ => {}
        }
    }
}

pub struct SimNode {
    pub key: Keypair,
    pub peer: PeerId,
    /// None while the process is down.
    pub core: Option<NodeCore>,
    pub disk: Disk,
    pub host: Host,
    pub offer: Option<Offer>,
    /// How far its clock is off, in milliseconds.
    pub clock: i64,
    /// Grows with each start; whatever was meant for an earlier run is dropped.
    pub epoch: u64,
    /// The process dies after so many more effects.
    pub crash_after: Option<u32>,
    /// It dies there.
    pub aim: Option<Aim>,
    /// A commit waits for room on the disk.
    pub waiting: Option<Waiting>,
    pub tick_at: Option<u64>,
    pub next_ticket: u64,
    pub answers: BTreeMap<u64, Result<CreateId, Fault>>,
    pub notices: Vec<(CreateId, String)>,
    pub events: Vec<Event>,
    /// Requests taken and not answered: who asked, and under which number of its run.
    pub tokens: BTreeMap<u64, (usize, u64, u64)>,
    pub next_token: u64,
    /// Gossip that was seen, and what waits for its verdict.
    pub heard: BTreeSet<u64>,
    pub judging: BTreeMap<u64, (usize, Vec<u8>)>,
}

impl SimNode {
    pub fn new(key: Keypair, host: Host, offer: Option<Offer>, clock: i64) -> Self {
        SimNode {
            peer: key.peer_id(),
            key,
            core: None,
            disk: Disk::default(),
            host,
            offer,
            clock,
            epoch: 0,
            crash_after: None,
            aim: None,
            waiting: None,
            tick_at: None,
            next_ticket: 0,
            answers: BTreeMap::new(),
            notices: Vec::new(),
            events: Vec::new(),
            tokens: BTreeMap::new(),
            next_token: 0,
            heard: BTreeSet::new(),
            judging: BTreeMap::new(),
        }
    }
    pub fn rentals(&self) -> impl Iterator<Item = &Rental> {
        self.core.iter().flat_map(|core| core.requestor().rentals())
    }
}
