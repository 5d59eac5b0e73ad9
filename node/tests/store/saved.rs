//! Saved, checked and restored: whole or not at all.
use super::support::{commit, held, open};
use node::config::{Home, NodeLock};
use node::store::backup::{self, Header, Reader};
use node::store::restore::{stage, take_up};
use node::store::{KnownPeer, Part, RawRow, SCHEMA, Store, StoredEvent, check};
use protocol::core::{StoreOp, Table};
use protocol::quota::{QuotaRow, Tier};
use protocol::{ErrorCode, PeerId};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn peer(n: u8) -> PeerId {
    PeerId::from_public_key([n; 32])
}

fn quota(n: u8) -> StoreOp {
    let row = QuotaRow { peer: peer(n), tier: Tier::Pro };
    StoreOp::put(Table::Quotas, row.peer.public_key(), &row)
}

/// A home whose store has rows in five tables.
fn home(quotas: u8) -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::find(Some(dir.path().to_owned())).unwrap();
    home.create().unwrap();
    let store = open(&home.db()).unwrap();
    store.commit(&(0..quotas).map(quota).collect::<Vec<_>>()).unwrap();
    store.remember_peer(&KnownPeer { peer: peer(7), addrs: vec!["/ip4/192.0.2.7/tcp/1".into()], seen_ms: 5 }).unwrap();
    for n in 0..20 {
        store.append_event(&event(n)).unwrap();
    }
    store.keep_draining(true).unwrap();
    (dir, home)
}

fn event(n: u64) -> StoredEvent {
    let message = format!("the {n}th thing has happened");
    StoredEvent { time_ms: n, kind: "vm".into(), severity: "info".into(), message, subject: None, code: None }
}

fn rows(store: &Store) -> Vec<RawRow> {
    Part::ALL.into_iter().flat_map(|part| store.rows(part)).collect::<Result<_, _>>().unwrap()
}

fn back_up(home: &Home, owner: PeerId) -> PathBuf {
    let (store, file) = (open(&home.db()).unwrap(), home.root().join("saved"));
    let header = Header { schema: SCHEMA, peer: owner, time_ms: 1_700_000_000_000 };
    let view = backup::write(&store, &store.moment().unwrap(), &header, &file, true).unwrap();
    assert_eq!((view.rows, view.bytes), (rows(&store).len() as u64, file.metadata().unwrap().len()));
    file
}

#[test]
fn what_was_saved_is_restored_row_for_row_and_what_it_replaces_is_kept() {
    let (_dir, home) = home(40);
    let file = back_up(&home, peer(1));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let saved = rows(&open(&home.db()).unwrap());
    open(&home.db()).unwrap().commit(&[quota(200)]).unwrap();
    let later = rows(&open(&home.db()).unwrap());

    let view = stage(&home, peer(1), &file).unwrap();
    assert_eq!((view.rows, view.made_at.as_str()), (saved.len() as u64, "2023-11-14T22:13:20.000Z"));
    assert_eq!(rows(&open(&home.db()).unwrap()), later, "the store in use is not touched");
    let lock = NodeLock::take(&home).unwrap();
    assert!(take_up(&lock, &home).unwrap());
    assert!(!take_up(&lock, &home).unwrap(), "once");
    assert_eq!(rows(&open(&home.db()).unwrap()), saved);
    assert_eq!(rows(&open(&home.before_restore()).unwrap()), later);
    assert!(!home.restoring().exists() && !home.restored().exists());
    let store = open(&home.db()).unwrap();
    assert!(store.draining().unwrap());
    assert_eq!(store.append_event(&event(1)).unwrap(), 21, "its numbers go on");
    assert!(check::check(&store, &store.moment().unwrap()).unwrap().sound);
}

/// The three moments of a crash while a restored store is taken up: nothing is lost at any, and the next start ends it.
#[test]
fn a_crash_while_a_restored_store_is_taken_up_loses_neither() {
    for crashed_after in 0..3 {
        let (_dir, home) = home(3);
        let file = back_up(&home, peer(1));
        open(&home.db()).unwrap().commit(&[quota(200)]).unwrap();
        let later = rows(&open(&home.db()).unwrap());
        stage(&home, peer(1), &file).unwrap();
        if crashed_after >= 1 {
            std::fs::rename(home.db(), home.before_restore()).unwrap();
        }
        if crashed_after >= 2 {
            // Whatever is run next makes what a home has to have.
            home.create().unwrap();
        }
        let lock = NodeLock::take(&home).unwrap();
        assert!(take_up(&lock, &home).unwrap());
        assert_eq!(open(&home.db()).unwrap().state().unwrap().len(), 3, "after {crashed_after}");
        assert_eq!(rows(&open(&home.before_restore()).unwrap()), later, "after {crashed_after}");
    }
}

#[test]
fn a_backup_that_is_damaged_anywhere_is_refused_and_leaves_nothing() {
    let (_dir, home) = home(3);
    let file = back_up(&home, peer(1));
    let good = std::fs::read(&file).unwrap();
    let before = rows(&open(&home.db()).unwrap());
    let refused = |bytes: &[u8], how: &str| {
        std::fs::write(&file, bytes).unwrap();
        let read = Reader::open(&file).and_then(|mut reader| {
            while reader.next_row()?.is_some() {}
            Ok(())
        });
        assert!(read.is_err(), "{how}");
    };
    for at in (0..good.len()).step_by(5) {
        // The peer id and the time are in the sum as well; who owns it is asked separately.
        let mut flipped = good.clone();
        flipped[at] ^= 0x40;
        refused(&flipped, &format!("the byte at {at} is another"));
        refused(&good[..at], &format!("cut at {at}"));
    }
    refused(&[&good[..], b"x"].concat(), "something behind the end");
    // The same through a restore, where it is to leave nothing behind.
    for at in [20, 70, good.len() / 2, good.len() - 1] {
        std::fs::write(&file, &good[..at]).unwrap();
        let fault = stage(&home, peer(1), &file).unwrap_err();
        assert_eq!(fault.code, ErrorCode::InvalidRequest, "{fault}");
        assert!(fault.hint.is_some() && !home.restoring().exists() && !home.restored().exists(), "{fault}");
    }
    std::fs::write(&file, &good).unwrap();
    let fault = stage(&home, peer(2), &file).unwrap_err();
    assert_eq!(fault.code, ErrorCode::NotYours, "{fault}");
    let fault = stage(&home, peer(1), Path::new("/absent")).unwrap_err();
    assert_eq!(fault.code, ErrorCode::NoSuchResource, "{fault}");
    assert_eq!(rows(&open(&home.db()).unwrap()), before);
    stage(&home, peer(1), &file).unwrap();
}

#[test]
fn a_row_that_no_node_reads_is_named_and_not_restored() {
    let (_dir, home) = home(3);
    let misplaced = StoreOp { key: peer(9).public_key().to_vec(), ..quota(8) };
    let garbage = StoreOp { table: Table::Leases, key: vec![0xab; 16], value: Some(vec![1, 2, 3]) };
    let store = open(&home.db()).unwrap();
    store.commit(&[misplaced, garbage]).unwrap();
    let report = check::check(&store, &store.moment().unwrap()).unwrap();
    assert!(!report.sound);
    let count = |table: &str| report.tables.iter().find(|one| one.table == table).unwrap().rows;
    assert_eq!(
        ["quotas", "leases", "jobs", "peers", "events", "settings", "bans"].map(count),
        [4, 1, 0, 1, 20, 2, 0],
        "{report:?}"
    );
    let named: Vec<_> = report.problems.iter().map(|one| (one.table.as_str(), &one.key[..4], &*one.what)).collect();
    assert_eq!(report.problems_in_all, 2);
    assert!(matches!(named[0], ("leases", "abab", what) if what.contains("malformed")), "{named:?}");
    assert_eq!(named[1], ("quotas", "0909", "it stands under another row's key"));
    drop(store);

    let file = back_up(&home, peer(1));
    let fault = stage(&home, peer(1), &file).unwrap_err();
    assert!(fault.message.contains("2 rows that no node reads"), "{fault}");
    assert!(!home.restoring().exists() && !home.restored().exists());
}

#[test]
fn a_file_that_is_there_is_replaced_only_when_that_is_meant() {
    let (_dir, home) = home(1);
    let file = back_up(&home, peer(1));
    let store = open(&home.db()).unwrap();
    let header = Header { schema: SCHEMA, peer: peer(1), time_ms: 1 };
    let fault = backup::write(&store, &store.moment().unwrap(), &header, &file, false).unwrap_err();
    assert_eq!(fault.code, ErrorCode::InvalidRequest, "{fault}");
    let nowhere = home.root().join("absent/saved");
    assert!(backup::write(&store, &store.moment().unwrap(), &header, &nowhere, false).is_err());
    let left: Vec<_> = std::fs::read_dir(home.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".part-")), "{left:?}");
}

/// While commits go on in between, each backup holds a beginning of them, whole.
#[test]
fn backups_between_commits_are_each_of_one_moment() {
    let (_dir, home) = home(0);
    let store = open(&home.db()).unwrap();
    for n in 0..30 {
        store.commit(&commit(n, 800)).unwrap();
        if n % 7 == 0 {
            let file = home.root().join(n.to_string());
            let moment = store.moment().unwrap();
            // What is committed after the moment is not in it.
            store.commit(&[quota(n as u8)]).unwrap();
            let header = Header { schema: SCHEMA, peer: peer(1), time_ms: n };
            backup::write(&store, &moment, &header, &file, false).unwrap();
            let mut reader = Reader::open(&file).unwrap();
            let ops: Vec<StoreOp> =
                std::iter::from_fn(|| reader.next_row().unwrap()).filter_map(|row| row.op()).collect();
            let rentals = ops.iter().filter(|op| op.table == Table::Rentals).count() as u64;
            let quotas = ops.iter().filter(|op| op.table == Table::Quotas).count() as u64;
            assert_eq!((rentals, quotas), (n + 1, n / 7));
        }
    }
    assert_eq!(held(&store, 800), 30);
}
