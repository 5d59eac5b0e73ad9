//! Stores that are opened again and again, and rows to know them by.
use node::store::Store;
use protocol::Fault;
use protocol::core::{StoreOp, Table};
use std::path::Path;
use std::time::{Duration, Instant};

/// sled's threads let go of a closed store within milliseconds.
const DEADLINE: Duration = Duration::from_secs(20);

/// Opens a store that was closed just now; the fault of one that cannot be opened.
pub fn open(dir: &Path) -> Result<Store, Fault> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match Store::open(dir) {
            Err(fault) if fault.message.contains("acquire lock") && Instant::now() < deadline => {}
            opened => return opened,
        }
    }
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

fn key(n: u64) -> Vec<u8> {
    n.to_be_bytes().repeat(2)
}

/// The nth commit: a row of its own, and one that every commit writes.
pub fn commit(n: u64, size: usize) -> [StoreOp; 2] {
    let mut value = n.to_be_bytes().repeat(size / 8);
    // Not all the same: nothing may be saved by packing it.
    value.iter_mut().zip(0u64..).for_each(|(byte, at)| *byte ^= (at * 31 + n * 7) as u8);
    [
        StoreOp { table: Table::Rentals, key: key(n), value: Some(value) },
        StoreOp { table: Table::Jobs, key: vec![0; 8], value: Some(n.to_be_bytes().to_vec()) },
    ]
}

/// How many commits a store holds: all of the first ones, whole, and nothing of any other.
pub fn held(store: &Store, size: usize) -> u64 {
    let rows = store.state().unwrap();
    let last = rows.iter().find(|row| row.table == Table::Jobs);
    let held = last.map_or(0, |row| u64::from_be_bytes(row.value.as_deref().unwrap().try_into().unwrap()) + 1);
    let expected: Vec<StoreOp> = (0..held).map(|n| commit(n, size)[0].clone()).collect();
    let rentals: Vec<StoreOp> = rows.into_iter().filter(|row| row.table == Table::Rentals).collect();
    assert_eq!(rentals.len() as u64, held, "all commits up to the last one that is there, and no further");
    assert!(rentals == expected, "each as it was written");
    held
}
