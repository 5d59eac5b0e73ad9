//! Stored rows held against their tables: what a restart would stumble over, named before it does.
use super::{StoreOp, Table};
use crate::codec::{self, MAX_STORED};
use crate::core::requestor::{Release, Rental};
use crate::credit::CreditRow;
use crate::envelope::Signed;
use crate::history::Sample;
use crate::job::{JobKind, JobRow};
use crate::ledger::LeaseRow;
use crate::meter::MeterRow;
use crate::names::LeaseId;
use crate::quota::QuotaRow;
use crate::receipt::ReceiptRow;
use crate::revocation::Revocation;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;

/// What is wrong with one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowProblem {
    pub table: Table,
    pub key: Vec<u8>,
    pub what: String,
}

/// Every row that is not of its table's type, does not stand under its own key, or names a row that is not there.
pub fn check_rows(rows: &[StoreOp]) -> Vec<RowProblem> {
    let mut problems = Vec::new();
    let mut leases = BTreeSet::new();
    let mut waiting_for: Vec<(&StoreOp, LeaseId)> = Vec::new();
    for row in rows {
        match check_row(row) {
            Err(what) => problems.push(RowProblem { table: row.table, key: row.key.clone(), what }),
            Ok(Means::Lease(lease)) => drop(leases.insert(lease)),
            Ok(Means::WorkOn(lease)) => waiting_for.push((row, lease)),
            Ok(Means::Itself) => {}
        }
    }
    let lost = waiting_for.into_iter().filter(|(_, lease)| !leases.contains(lease));
    problems.extend(lost.map(|(row, lease)| RowProblem {
        table: row.table,
        key: row.key.clone(),
        what: format!("it belongs to lease {lease}, which is not there"),
    }));
    problems
}

/// What a row says about others.
enum Means {
    Itself,
    Lease(LeaseId),
    WorkOn(LeaseId),
}

fn check_row(row: &StoreOp) -> Result<Means, String> {
    let value = row.value.as_deref().unwrap_or_default();
    let (own, means) = match row.table {
        Table::Leases => {
            let lease: LeaseRow = decode(value)?;
            (lease.lease_id.0.to_vec(), Means::Lease(lease.lease_id))
        }
        Table::Rentals => (decode::<Rental>(value)?.create_id.0.to_vec(), Means::Itself),
        Table::Releases => (decode::<Release>(value)?.lease_id.0.to_vec(), Means::Itself),
        Table::History => (decode::<Sample>(value)?.create_id.0.to_vec(), Means::Itself),
        Table::Quotas => (decode::<QuotaRow>(value)?.peer.public_key().to_vec(), Means::Itself),
        Table::Revoked => {
            let opened = decode::<Signed>(value)?.open_anywhere::<Revocation>().map_err(|error| error.to_string())?;
            // A key that two successors claim has a row for each: those after the first are numbered behind it.
            let nth = row.key.get(opened.revoked.public_key().len()).copied();
            (opened.revoked.public_key().iter().copied().chain(nth).collect(), Means::Itself)
        }
        Table::Meters => {
            let meter: MeterRow = decode(value)?;
            (meter.lease_id.0.to_vec(), Means::WorkOn(meter.lease_id))
        }
        Table::Receipts => (decode::<ReceiptRow>(value)?.lease_id.0.to_vec(), Means::Itself),
        Table::Credits => (decode::<CreditRow>(value)?.key(), Means::Itself),
        Table::Jobs => {
            let job: JobRow = decode(value)?;
            // A removal needs no lease: what is taken down may be a guest that nobody knows.
            let needs = !job.state.is_over() && job.kind != JobKind::Remove;
            (job.id.key().to_vec(), if needs { Means::WorkOn(job.lease_id) } else { Means::Itself })
        }
    };
    if own == row.key { Ok(means) } else { Err("it stands under another row's key".into()) }
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    codec::decode(value, MAX_STORED).map_err(|error| format!("it is {error}"))
}
