//! The latest receipt of each lease, on either side. It says all that those before it said.
use super::{StoreOp, Table};
use crate::codec::{self, MAX_STORED};
use crate::error::Fault;
use crate::names::LeaseId;
use crate::receipt::ReceiptRow;
use std::collections::BTreeMap;

/// A row has some 1.5 KiB. The oldest goes.
pub const MAX_RECEIPTS: usize = 4096;

#[derive(Default)]
pub struct Receipts(BTreeMap<LeaseId, ReceiptRow>);

impl Receipts {
    pub fn restore(&mut self, row: ReceiptRow) {
        self.0.insert(row.lease_id, row);
    }
    pub fn of(&self, lease_id: LeaseId) -> Option<&ReceiptRow> {
        self.0.get(&lease_id)
    }
    pub fn iter(&self) -> impl Iterator<Item = &ReceiptRow> {
        self.0.values()
    }
    /// In place of the one before.
    pub fn put(&mut self, row: ReceiptRow) -> Vec<StoreOp> {
        let mut ops = vec![StoreOp::put(Table::Receipts, &row.lease_id.0, &row)];
        self.0.insert(row.lease_id, row);
        if self.0.len() > MAX_RECEIPTS {
            let oldest = self.0.values().min_by_key(|row| row.issued).map(|row| row.lease_id);
            if let Some(id) = oldest {
                self.0.remove(&id);
                ops.push(StoreOp::delete(Table::Receipts, &id.0));
            }
        }
        ops
    }
}

pub fn decode(value: &[u8]) -> Result<ReceiptRow, Fault> {
    codec::decode(value, MAX_STORED)
        .map_err(|error| Fault::internal(format!("a stored receipt is {error}")).hint("restore the home from a backup"))
}
