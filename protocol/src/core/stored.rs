//! What is kept on disk, as rows of tables: the node and the simulation each have a store of their own.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Leases let, by lease id.
    Leases,
    /// VMs rented, by create id.
    Rentals,
    /// Releases not yet acknowledged, by lease id.
    Releases,
    /// How long creates took, by create id.
    History,
    /// Revocations of keys that meant something here, by key.
    Revoked,
    /// Tiers that the operator has given, by key.
    Quotas,
    /// What is to be done to VMs and what was, by job id.
    Jobs,
    /// How long VMs were charged for, by lease id.
    Meters,
    /// The latest receipt of each lease, let or rented, by lease id.
    Receipts,
    /// What requestors have paid in advance, by key and currency.
    Credits,
}

impl Table {
    pub const ALL: [Table; 10] = [
        Table::Leases,
        Table::Rentals,
        Table::Releases,
        Table::History,
        Table::Revoked,
        Table::Quotas,
        Table::Jobs,
        Table::Meters,
        Table::Receipts,
        Table::Credits,
    ];
    pub fn name(self) -> &'static str {
        match self {
            Table::Leases => "leases",
            Table::Rentals => "rentals",
            Table::Releases => "releases",
            Table::History => "history",
            Table::Revoked => "revoked",
            Table::Quotas => "quotas",
            Table::Jobs => "jobs",
            Table::Meters => "meters",
            Table::Receipts => "receipts",
            Table::Credits => "credits",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOp {
    pub table: Table,
    pub key: Vec<u8>,
    /// None deletes.
    pub value: Option<Vec<u8>>,
}

impl StoreOp {
    pub fn put<T: serde::Serialize>(table: Table, key: &[u8], value: &T) -> Self {
        StoreOp { table, key: key.to_vec(), value: Some(crate::codec::encode(value)) }
    }
    pub fn delete(table: Table, key: &[u8]) -> Self {
        StoreOp { table, key: key.to_vec(), value: None }
    }
}
