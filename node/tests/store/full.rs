//! A home on a disk that fills up, to its last byte, and has room again: on a file system of its own.
use super::nodes::{DEADLINE, provider, rent, requestor, status_of, until};
use super::support::{commit, held, open};
use node::api::types::{VmActionBody, VmActionName, VmStatus};
use node::handle::NodeHandle;
use protocol::core::{StoreOp, Table};
use protocol::quota::Tier;
use protocol::{ErrorCode, PeerId};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory, which goes with this.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(mib: u32) -> Option<Disk> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Disk(dir)),
            Ok(output) => skipped(String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => skipped(&error.to_string()),
        }
    }
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn filler(&self) -> PathBuf {
        self.path().join("somebody-elses")
    }
    /// Takes all but so much, or the last byte.
    fn leave(&self, bytes: u64) {
        let mut file = File::options().append(true).create(true).open(self.filler()).unwrap();
        let found = rustix::fs::statvfs(self.path()).unwrap();
        let take = (found.f_bavail * found.f_frsize).saturating_sub(bytes);
        let (mut left, block) = (take, vec![7; 1 << 16]);
        while left > 0 && file.write_all(&block[..left.min(1 << 16) as usize]).is_ok() {
            left = left.saturating_sub(1 << 16);
        }
        while bytes == 0 && file.write_all(&[7; 512]).is_ok() {}
    }
    fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

fn skipped(why: &str) -> Option<Disk> {
    println!("SKIPPED: no file system can be mounted here: {why}");
    None
}

/// The store alone: a commit that finds no room writes nothing, whatever the place at which the room ended.
#[test]
fn a_store_on_a_full_disk_keeps_every_commit_and_takes_more_once_there_is_room() {
    let Some(disk) = Disk::of(24) else { return };
    let (mut n, mut times, size) = (0, 0, 3000);
    let store = open(&disk.path().join("db")).unwrap();
    for room in [0, 1, 70_000, 2_000_000, 2_097_152, 2_200_000, 2_500_000, 3_000_000] {
        disk.leave(room);
        let fault = loop {
            match store.commit(&commit(n, size)) {
                Ok(()) => n += 1,
                Err(fault) => break fault,
            }
        };
        assert_eq!(fault.code, ErrorCode::Exhausted, "with {room} bytes: {fault}");
        assert_eq!(store.commit(&commit(n, size)).unwrap_err().code, ErrorCode::Exhausted);
        assert_eq!(held(&store, size), n, "with {room} bytes");
        disk.empty();
        // As the node does it: the same again.
        store.commit(&commit(n, size)).unwrap();
        n += 1;
        assert_eq!(held(&store, size), n);
        times += 1;
    }
    drop(store);
    assert_eq!(held(&open(&disk.path().join("db")).unwrap(), size), n);
    println!("a full disk {times} times, {n} commits, none lost");
}

/// Gives tiers until that is answered no more; how many were.
async fn until_refused(node: &NodeHandle, first: u16) -> (u16, ErrorCode) {
    for n in first..4000 {
        match node.set_quota(numbered(n), Some(Tier::Pro)).await {
            Ok(_) => {}
            Err(fault) => return (n, fault.code),
        }
    }
    panic!("the disk has room for 4000 rows");
}

fn numbered(n: u16) -> PeerId {
    let mut key = [0x55; 32];
    key[..2].copy_from_slice(&n.to_be_bytes());
    PeerId::from_public_key(key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_on_a_full_disk_loses_nothing_lets_nothing_and_goes_on_when_there_is_room() {
    let Some(disk) = Disk::of(160) else { return };
    let (home, elsewhere) = (disk.path().join("home"), tempfile::tempdir().unwrap());
    let letting = provider(&home).await;
    let renting = requestor(elsewhere.path(), &letting).await;
    for name in ["keeps", "goes", "waits"] {
        until("a VM is rented", async || rent(&renting.handle, name).await.ok()).await;
    }

    // Little room: nothing new, and everybody is told why.
    disk.leave(20 << 20);
    let reason = until("the offer is withdrawn", async || {
        let status = letting.handle.own_provider().await.unwrap().status;
        status.reason.filter(|_| !status.advertised)
    })
    .await;
    assert!(reason.contains("has less than 64 MiB left"), "{reason}");
    let fault = rent(&letting.handle, "own").await.unwrap_err();
    assert_eq!(fault.code, ErrorCode::Exhausted, "{fault}");
    assert!(fault.message.contains("64 MiB") && fault.hint.is_some(), "{fault}");
    let fault = rent(&renting.handle, "new").await.unwrap_err();
    assert!(matches!(fault.code, ErrorCode::Unavailable | ErrorCode::Exhausted), "{fault}");
    println!("with little room: {fault}");

    // Almost none: what ends still ends.
    disk.leave(6 << 20);
    let destroy = VmActionBody::from(VmActionName::Destroy);
    tokio::time::timeout(DEADLINE, renting.handle.act("goes", destroy.clone())).await.unwrap().unwrap();
    // None at all, in the middle of work: a commit waits. Nothing that is not kept is acknowledged.
    for n in 0..20 {
        letting.handle.set_quota(numbered(n), Some(Tier::Pro)).await.unwrap();
    }
    disk.leave(0);
    let asking = tokio::time::timeout(DEADLINE, until_refused(&letting.handle, 20));
    let (acknowledged, code) = asking.await.expect("each is answered");
    let refused = letting.handle.status().await.unwrap_err();
    assert_eq!((code, refused.code), (ErrorCode::Exhausted, ErrorCode::Exhausted), "{refused}");
    assert!(refused.message.contains("waits for room"), "{refused}");
    println!("{acknowledged} tiers were acknowledged before the last byte was gone");
    // A release that cannot be kept is not acknowledged, either.
    let releasing = renting.handle.clone();
    let release = tokio::spawn(async move { releasing.act("waits", destroy).await });
    until("it is being destroyed", async || {
        (status_of(&renting.handle, "waits").await == Some(VmStatus::Destroying)).then_some(())
    })
    .await;
    assert!(letting.handle.status().await.is_err(), "still waiting");

    // Room again, in the same process.
    disk.empty();
    until("it answers", async || letting.handle.status().await.ok()).await;
    until("it offers", async || letting.handle.own_provider().await.ok().filter(|report| report.status.advertised))
        .await;
    until("the release is through", async || status_of(&renting.handle, "waits").await.is_none().then_some(())).await;
    // It was told that it is not through yet, or that it is.
    let _ = release.await.unwrap();
    until("a VM is rented again", async || rent(&renting.handle, "again").await.ok()).await;
    assert_eq!(status_of(&renting.handle, "keeps").await, Some(VmStatus::Running));
    let events = letting.handle.events(0, 1000).await.unwrap();
    let told = |what: &str| events.iter().filter(|event| event.message.contains(what)).count();
    assert_eq!((told("nothing new is let or rented"), told("has room again")), (1, 1), "both changes, once");

    renting.stop().await.unwrap();
    letting.stop().await.unwrap();
    let rows = open(&home.join("db")).unwrap().state().unwrap();
    let kept: Vec<&StoreOp> = rows.iter().filter(|row| row.table == Table::Quotas).collect();
    for n in 0..acknowledged {
        assert!(kept.iter().any(|row| row.key == numbered(n).public_key()), "tier {n} was acknowledged");
    }
    assert!(kept.len() as u16 <= acknowledged + 1, "the one that waited was done in the end");
    let leases = rows.iter().filter(|row| row.table == Table::Leases).count();
    assert_eq!(leases, 4, "the three and the new one: of what has ended is known that it has");
}
