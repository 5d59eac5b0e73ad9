//! Stores as the first layout has them, kept as files: a stored type that changes so that they are not read any more
//! fails here, and wants a migration. `GOLEMNODE_UPDATE_LAYOUT=1` writes them anew, for a new layout.
use super::nodes::{PROVIDER, REQUESTOR, peer, provider, rent, requestor, status_of, until};
use super::support::open;
use node::api::types::{VmActionBody, VmActionName, VmStatus};
use node::bans::Ban;
use node::clock;
use node::config::{Home, NodeLock};
use node::mesh::Anchor;
use node::store::backup::{self, Header, Reader};
use node::store::restore::{stage, take_up};
use node::store::{SCHEMA, check};
use protocol::core::NodeCore;
use protocol::quota::Tier;
use protocol::revocation::RevocationDocument;
use protocol::units::Timestamp;
use protocol::{Keypair, PeerId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/store/layout-{SCHEMA}-{name}.backup"))
}

/// What the tables of a kept store hold, and the core that has read them.
fn restored(name: &str, secret: [u8; 32]) -> (BTreeMap<String, u64>, NodeCore) {
    let (dir, file) = (tempfile::tempdir().unwrap(), fixture(name));
    let home = Home::find(Some(dir.path().to_owned())).unwrap();
    assert_eq!(Reader::open(&file).unwrap().header.peer, peer(secret));
    stage(&home, peer(secret), &file).unwrap();
    take_up(&NodeLock::take(&home).unwrap(), &home).unwrap();
    let store = open(&home.db()).unwrap();
    let report = check::check(&store, &store.moment().unwrap()).unwrap();
    assert!(report.sound, "{report:?}");
    let key = Keypair::from_secret(&secret);
    let core = NodeCore::new(clock::now(), key, "store".parse().unwrap(), [0; 32], store.state().unwrap()).unwrap();
    (report.tables.into_iter().map(|table| (table.table, table.rows)).collect(), core)
}

#[test]
fn a_store_of_the_first_layout_is_read_whole_and_restored_into_the_core() {
    let (tables, core) = restored("provider", PROVIDER);
    let least = [("leases", 2), ("jobs", 3), ("quotas", 1), ("revoked", 1), ("peers", 1), ("bans", 1), ("events", 3)];
    for (table, rows) in least {
        assert!(tables[table] >= rows, "{table}: {tables:?}");
    }
    let leases: Vec<_> = core.provider().ledger().leases().collect();
    assert!(leases.iter().all(|lease| lease.document(core.network()).verify().is_ok()), "signatures and all");
    assert!(leases.iter().any(|lease| !lease.seed.is_empty()), "one that runs has what it is made from");
    assert_eq!(core.provider().quotas().of(PeerId::from_public_key([9; 32]), &[]), Some(Tier::Pro));
    assert!(core.revoked().contains(peer([8; 32])));

    let (tables, core) = restored("requestor", REQUESTOR);
    for (table, rows) in [("rentals", 2), ("releases", 1), ("history", 2), ("anchors", 1), ("peers", 1)] {
        assert!(tables[table] >= rows, "{table}: {tables:?}");
    }
    let kept = core.requestor().by_name(&"kept".parse().unwrap()).unwrap();
    assert_eq!(kept.deal.as_ref().unwrap().provider, peer(PROVIDER));
    assert!(kept.document(core.network()).unwrap().verify().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_of_this_layout_are_written_anew() {
    if std::env::var_os("GOLEMNODE_UPDATE_LAYOUT").is_none() {
        return;
    }
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let letting = provider(here.path()).await;
    let renting = requestor(there.path(), &letting).await;
    for name in ["kept", "released", "ended"] {
        until("a VM is rented", async || rent(&renting.handle, name).await.ok()).await;
    }
    letting.handle.set_quota(PeerId::from_public_key([9; 32]), Some(Tier::Pro)).await.unwrap();
    letting.handle.revoke(RevocationDocument::of(&Keypair::from_secret(&[8; 32]))).await.unwrap();
    let destroy = VmActionBody::from(VmActionName::Destroy);
    renting.handle.act("ended", destroy.clone()).await.unwrap();
    letting.stop().await.unwrap();
    // Its provider is gone, so this one stays a release that has not got through.
    let releasing = renting.handle.clone();
    tokio::spawn(async move { releasing.act("released", destroy).await });
    until("it is being destroyed", async || {
        (status_of(&renting.handle, "released").await == Some(VmStatus::Destroying)).then_some(())
    })
    .await;
    renting.stop().await.unwrap();
    for (dir, name, secret) in [(&here, "provider", PROVIDER), (&there, "requestor", REQUESTOR)] {
        let store = open(&dir.path().join("db")).unwrap();
        let (banned, until) = (PeerId::from_public_key([3; 32]), Timestamp(clock::now().0 + 3_600_000));
        let reason = "5 forged messages".to_owned();
        store.keep_ban(&Ban { peer: banned, reason, since: clock::now(), until, offences: 5, times: 1 }).unwrap();
        let addrs = vec!["/ip4/192.0.2.1/tcp/4001".to_owned()];
        store.keep_anchors(&[Anchor { peer: PeerId::from_public_key([4; 32]), addrs, failures: 2 }]).unwrap();
        let header = Header { schema: SCHEMA, peer: peer(secret), time_ms: clock::now().0 };
        backup::write(&store, &store.moment().unwrap(), &header, &fixture(name), true).unwrap();
    }
}
