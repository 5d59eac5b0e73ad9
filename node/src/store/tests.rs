//! What survives: reopening, bounds, migrations, a torn end of the log.
use super::migrations::Change;
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

fn quota_row(n: u8) -> Change {
    Change { part: Part::State, key: state_key(Table::Quotas, &[n]), value: Some(vec![n]) }
}
/// Of a layout in which quotas were kept as events.
const MOVED: Migration = Migration {
    from: SCHEMA,
    run: |rows| {
        let events: Vec<&RawRow> = rows.iter().filter(|row| row.part == Part::Events).collect();
        let gone = events.iter().map(|row| Change { part: Part::Events, key: row.key.clone(), value: None });
        Ok(gone.chain(events.iter().map(|row| quota_row(row.value[0]))).collect())
    },
};
const COUNTED: Migration = Migration {
    from: SCHEMA + 1,
    run: |rows| {
        let quotas = rows.iter().filter(|row| row.part == Part::State).count() as u8;
        Ok(vec![quota_row(quotas + 100)])
    },
};
const FAILING: Migration = Migration { from: SCHEMA + 1, run: |_| Err(Fault::internal("a row is not as expected")) };

fn migrated(dir: &Path, schema: u32, migrations: &[Migration]) -> Result<Store, Fault> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        match Store::open_with(dir, schema, migrations) {
            Err(fault) if fault.message.contains("acquire lock") && std::time::Instant::now() < deadline => {}
            opened => return opened,
        }
    }
}

#[test]
fn an_older_layout_is_brought_up_step_by_step_and_a_newer_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = Store::open(dir.path()).unwrap();
        let open = &store.0;
        (1..=3u8).for_each(|n| drop(open.events.insert(u64::from(n).to_be_bytes(), &[n]).unwrap()));
        open.flush().unwrap();
    }
    // A step that fails leaves the layout of the last one that did not.
    let fault = migrated(dir.path(), SCHEMA + 2, &[MOVED, FAILING]).err().unwrap();
    assert!(fault.message.contains("not as expected"), "{fault}");
    let fault = migrated(dir.path(), SCHEMA + 2, &[MOVED]).err().unwrap();
    assert!(fault.message.contains("layout 2, not 3") && fault.hint.is_some(), "{fault}");

    for _ in 0..2 {
        let store = migrated(dir.path(), SCHEMA + 2, &[MOVED, COUNTED]).unwrap();
        let quotas: Vec<u8> = store.state().unwrap().iter().map(|op| op.key[0]).collect();
        assert_eq!(quotas, [1, 2, 3, 103], "each step once");
        assert_eq!(store.rows(Part::Events).count(), 0);
    }
    let fault = migrated(dir.path(), SCHEMA, migrations::ALL).err().unwrap();
    assert!(fault.message.contains("a newer version of golemnode (layout 3, not 1)"), "{fault}");
}
