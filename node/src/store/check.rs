//! Every row of the store held against what its table keeps, and counted.
use super::{DRAINING, KnownPeer, Part, RawRow, SCHEMA, SCHEMA_KEY, Store, StoredEvent};
use crate::bans::Ban;
use crate::mesh::Anchor;
use protocol::Fault;
use protocol::codec::{self, MAX_STORED};
use protocol::core::{StoreOp, Table, check_rows};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// Problems that are named; further ones are only counted.
pub const MAX_PROBLEMS: usize = 100;
/// Of a key, as hexadecimal digits.
const SHOWN_KEY: usize = 80;

/// What a check of the store has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReport {
    pub sound: bool,
    /// The version of the layout.
    pub schema: u32,
    pub size_on_disk: u64,
    pub tables: Vec<TableReport>,
    /// The first of them.
    pub problems: Vec<StoreProblem>,
    pub problems_in_all: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    pub table: String,
    pub rows: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreProblem {
    pub table: String,
    /// In hexadecimal digits.
    pub key: String,
    pub what: String,
}

/// `state` is one moment of what the core keeps (`Store::moment`): its rows name one another. The rest is read as it
/// comes.
pub fn check(store: &Store, state: &[RawRow]) -> Result<StoreReport, Fault> {
    let mut found = Found::default();
    // Also those of which there are none.
    found.tables.extend(Table::ALL.map(|table| (table.name(), (0, 0))));
    found.state(state);
    for part in Part::ALL.into_iter().filter(|part| *part != Part::State) {
        found.tables.entry(part.name()).or_default();
        for row in store.rows(part) {
            found.row(&row?);
        }
    }
    let table = |(table, (rows, bytes)): (&str, (u64, u64))| TableReport { table: table.to_owned(), rows, bytes };
    Ok(StoreReport {
        sound: found.in_all == 0,
        schema: SCHEMA,
        size_on_disk: store.size_on_disk()?,
        tables: found.tables.into_iter().map(table).collect(),
        problems: found.problems,
        problems_in_all: found.in_all,
    })
}

#[derive(Default)]
struct Found {
    /// Rows and bytes of each.
    tables: BTreeMap<&'static str, (u64, u64)>,
    problems: Vec<StoreProblem>,
    in_all: usize,
}

impl Found {
    fn state(&mut self, rows: &[RawRow]) {
        let ops: Vec<Option<StoreOp>> = rows.iter().map(RawRow::op).collect();
        for (row, op) in rows.iter().zip(&ops) {
            self.count(op.as_ref().map_or(Part::State.name(), |op| op.table.name()), row);
            if op.is_none() {
                self.problem(Part::State.name(), &row.key, "it is of no table that is known".into());
            }
        }
        let known: Vec<StoreOp> = ops.into_iter().flatten().collect();
        for problem in check_rows(&known) {
            self.problem(problem.table.name(), &problem.key, problem.what);
        }
    }

    fn row(&mut self, row: &RawRow) {
        self.count(row.part.name(), row);
        if let Err(what) = check_row(row) {
            self.problem(row.part.name(), &row.key, what);
        }
    }

    fn count(&mut self, table: &'static str, row: &RawRow) {
        let (rows, bytes) = self.tables.entry(table).or_default();
        (*rows, *bytes) = (*rows + 1, *bytes + (row.key.len() + row.value.len()) as u64);
    }

    fn problem(&mut self, table: &str, key: &[u8], what: String) {
        self.in_all += 1;
        if self.problems.len() < MAX_PROBLEMS {
            let key = hex::encode(&key[..key.len().min(SHOWN_KEY / 2)]);
            self.problems.push(StoreProblem { table: table.to_owned(), key, what });
        }
    }
}

/// A row of what the node itself keeps.
fn check_row(row: &RawRow) -> Result<(), String> {
    let own_key = match row.part {
        // The core's, and checked there.
        Part::State => return Ok(()),
        Part::Settings => {
            let known = match &row.key[..] {
                key if key == SCHEMA_KEY.as_bytes() => row.value == SCHEMA.to_be_bytes(),
                key if key == DRAINING.as_bytes() => row.value == [1],
                _ => return Err("it is no setting that is known".into()),
            };
            return if known { Ok(()) } else { Err("it has a value that is never written".into()) };
        }
        Part::Peers => decode::<KnownPeer>(row)?.peer.public_key().to_vec(),
        Part::Bans => decode::<Ban>(row)?.peer.public_key().to_vec(),
        Part::Anchors => {
            decode::<Anchor>(row)?;
            return if row.key.len() == 1 { Ok(()) } else { Err("its key is not a place in the order".into()) };
        }
        Part::Events => {
            decode::<StoredEvent>(row)?;
            return super::event_id(&row.key).map(drop).ok_or_else(|| "its key is not a number".into());
        }
    };
    if own_key == row.key { Ok(()) } else { Err("it stands under another row's key".into()) }
}

fn decode<T: DeserializeOwned>(row: &RawRow) -> Result<T, String> {
    codec::decode(&row.value, MAX_STORED).map_err(|error| format!("it is {error}"))
}
