//! The suite with the tiny guest: over the embedded driver, and over any other that is asked for.
use super::alone;
use crate::conformance::{self, Subject, id};
use crate::libvirt_host::LibvirtHost;

#[test]
fn the_embedded_driver_does_what_every_backend_does() {
    alone("guest::conformance::the_embedded_driver_does_what_every_backend_does", embedded());
}

async fn embedded() {
    // Such a name has to survive a URI, XML, JSON and QEMU's own options.
    let Some(host) = LibvirtHost::real_in("gn &%2F'#", "tiny") else { return };
    let began = std::time::Instant::now();
    conformance::check(&host).await;
    eprintln!("the whole suite: {:?}", began.elapsed());
}

/// By hand: a daemon is the system's, and no test starts one. docs/backends/libvirt.md says what each needs.
const URI: &str = "GOLEMNODE_TEST_LIBVIRT_URI";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_driver_does_what_every_backend_does() {
    let Ok(uri) = std::env::var(URI) else {
        eprintln!("SKIPPED: libvirt's daemons are not tried: set {URI} to qemu:///system or qemu:///session");
        return;
    };
    let Some(mut host) = LibvirtHost::real("tiny") else { return };
    host.uri = Some(uri);
    conformance::check(&host).await;
    two_homes_share_it(&host).await;
}

/// Each node calls every VM a stray that its ledger does not name: it must not see another home's.
async fn two_homes_share_it(host: &LibvirtHost) {
    let mut other = LibvirtHost::real("tiny").unwrap();
    other.uri.clone_from(&host.uri);
    let (mine, theirs) = (host.open().await, other.open().await);
    mine.create(&host.order(id(1)), &()).await.unwrap();
    assert!(theirs.list().await.unwrap().is_empty());
    theirs.create(&other.order(id(2)), &()).await.unwrap();
    assert_eq!(mine.list().await.unwrap().len(), 1);
    mine.destroy(id(1)).await.unwrap();
    theirs.destroy(id(2)).await.unwrap();
    assert!(host.left().is_empty() && other.left().is_empty());
}
