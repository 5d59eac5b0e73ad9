//! What is on the disk may be damaged, or of another version: it is read, or refused by name, and never half believed.
use crate::{Bytes, must_be_plain, world};
use node::store::{KnownPeer, StoredEvent};
use protocol::codec::{self, MAX_QUOTED, MAX_STORED};
use protocol::core::requestor::Rental;
use protocol::core::{Input, NodeCore, StoreOp, Table};
use protocol::credit::CreditRow;
use protocol::history::Sample;
use protocol::ledger::LeaseRow;
use protocol::meter::Meter;
use protocol::quota::QuotaRow;
use protocol::receipt::ReceiptRow;
use serde::{Serialize, de::DeserializeOwned};

/// Rows of an input.
const ROWS: usize = 8;

pub fn stored(data: &[u8]) {
    let mut input = Bytes::new(data);
    let mut rows = Vec::new();
    for _ in 0..ROWS {
        if input.is_empty() {
            break;
        }
        let (table, value) = (Table::ALL[usize::from(input.u8()) % Table::ALL.len()], input.chunk());
        again::<LeaseRow>(value);
        again::<Rental>(value);
        again::<Sample>(value);
        again::<QuotaRow>(value);
        again::<CreditRow>(value);
        again::<ReceiptRow>(value);
        again::<Meter>(value);
        again::<KnownPeer>(value);
        again::<StoredEvent>(value);
        rows.push(StoreOp { table, key: vec![rows.len() as u8], value: Some(value.to_vec()) });
    }
    match NodeCore::new(world::START, world::key(1), world::network(), [1; 32], rows) {
        Err(fault) => must_be_plain(&fault.message, MAX_QUOTED + 80),
        Ok(mut core) => lives(&mut core),
    }
}

/// It wakes when it said it would, and comes to rest or goes on, but not for ever at one moment.
fn lives(core: &mut NodeCore) {
    let mut now = world::START;
    for _ in 0..64 {
        core.handle(now, Input::Tick);
        core.drain_effects().for_each(drop);
        let Some(due) = core.next_deadline() else { return };
        assert!(due > now, "due at once, again");
        now = due;
    }
}

fn again<T: Serialize + DeserializeOwned>(value: &[u8]) {
    match codec::decode::<T>(value, MAX_STORED) {
        Ok(row) => {
            let written = codec::encode(&row);
            let row: T = codec::decode(&written, MAX_STORED).expect("what was read is written as it can be read");
            assert_eq!(codec::encode(&row), written);
        }
        Err(error) => must_be_plain(&error.to_string(), MAX_QUOTED + 80),
    }
}
