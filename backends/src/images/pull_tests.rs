//! Pulls from a real server that misbehaves.
use super::super::catalogue;
use super::super::http_server::{Act, Server};
use super::*;
use protocol::names::Arch;
use sha2::{Sha256, Sha512};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Short where something must pass, long where something must not.
fn settings() -> PullSettings {
    PullSettings {
        connect_timeout: Duration::from_secs(10),
        stall_timeout: Duration::from_secs(20),
        first_backoff: Duration::from_millis(1),
        longest_backoff: Duration::from_millis(2),
        ..PullSettings::default()
    }
}

struct Bench {
    home: TempDir,
    disk: Vec<u8>,
    server: Server,
    settings: PullSettings,
    events: Vec<PullEvent>,
}

impl Bench {
    fn new(acts: &[Act]) -> Bench {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("made.qcow2");
        let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("64M").status();
        assert!(made.unwrap().success());
        let disk = std::fs::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let server = Server::start(&disk, acts);
        Bench { home, disk, server, settings: settings(), events: Vec::new() }
    }
    fn store(&self) -> ImageStore {
        ImageStore::new(self.home.path().join("images"))
    }
    fn entry(&self, sha256: [u8; 32]) -> Entry {
        Entry {
            name: "far:1".parse().unwrap(),
            arch: Arch::X86_64,
            url: catalogue::url(&self.server.url("/disk.qcow2")).unwrap(),
            trust: Trust::Pinned(Checksum::Sha256(sha256)),
            default_user: "me".parse().unwrap(),
            format: Some(super::super::DiskFormat::Qcow2),
        }
    }
    fn right(&self) -> Entry {
        self.entry(Sha256::digest(&self.disk).into())
    }
    async fn pull(&mut self, entry: &Entry) -> Result<Pulled, Fault> {
        let events = &mut self.events;
        events.clear();
        ImageStore::new(self.home.path().join("images"))
            .pull(entry, &entry.name, &self.settings, &mut |event| events.push(event))
            .await
    }
    async fn pull_right(&mut self) -> Pulled {
        let entry = self.right();
        let pulled = self.pull(&entry).await.unwrap();
        assert_eq!(self.left(), ["far+1"], "no part is left");
        let there = self.store().path(&entry.name, &pulled.manifest.disk.file);
        assert!(std::fs::read(there).unwrap() == self.disk, "every byte");
        self.store().verify(&entry.name).unwrap();
        pulled
    }
    /// Until so many bytes are here, and then dropped.
    async fn pull_until(&mut self, bytes: u64) {
        let (reached, stop) = tokio::sync::oneshot::channel();
        let mut reached = Some(reached);
        let mut events = |event| {
            if matches!(event, PullEvent::Progress { done, .. } if done == bytes) {
                reached.take().map(|reached| reached.send(()));
            }
        };
        let (store, entry) = (self.store(), self.right());
        tokio::select! {
            done = store.pull(&entry, &entry.name, &self.settings, &mut events) => panic!("{done:?}"),
            _ = stop => {}
        }
        assert_eq!(self.part_len(), bytes);
    }
    fn part_len(&self) -> u64 {
        std::fs::metadata(self.home.path().join("images/.pull-far+1.part")).unwrap().len()
    }
    fn left(&self) -> Vec<String> {
        names(&self.home.path().join("images"))
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
fn retries(events: &[PullEvent]) -> usize {
    events.iter().filter(|event| matches!(event, PullEvent::Retrying { .. })).count()
}

#[tokio::test]
async fn a_pull_brings_an_image_and_the_next_one_finds_it_here() {
    let mut bench = Bench::new(&[]);
    let pulled = bench.pull_right().await;
    assert_eq!((pulled.downloaded, pulled.already), (bench.disk.len() as u64, false));
    assert_eq!((pulled.manifest.default_user.as_str(), pulled.manifest.arch), ("me", Arch::X86_64));
    assert_eq!(bench.events.last(), Some(&PullEvent::Checking));
    let total = bench.disk.len() as u64;
    assert!(bench.events.contains(&PullEvent::Progress { done: total, total: Some(total) }), "{:?}", bench.events);
    let again = bench.pull_right().await;
    assert_eq!((again.downloaded, again.already, &again.manifest), (0, true, &pulled.manifest));
    assert_eq!(bench.server.ranges(), [0], "asked once");
    // By the other digest it is the same, and what is another one is not put in its place.
    let sha512 = Trust::Pinned(Checksum::Sha512(Sha512::digest(&bench.disk).into()));
    assert!(bench.pull(&Entry { trust: sha512, ..bench.right() }).await.unwrap().already);
    let newer = bench.pull(&bench.entry([7; 32])).await.unwrap_err();
    assert!(newer.code == ErrorCode::VmExists && newer.hint.as_ref().unwrap().contains("image remove"), "{newer}");
}

#[tokio::test]
async fn after_a_cut_only_the_rest_is_asked_for() {
    let mut bench = Bench::new(&[Act::Cut(1000), Act::Cut(5000)]);
    let pulled = bench.pull_right().await;
    assert_eq!(bench.server.ranges(), [0, 1000, 6000]);
    assert_eq!(pulled.downloaded, bench.disk.len() as u64, "no byte twice");
    let asked = bench.server.state.lock().unwrap().asked.clone();
    assert_eq!(asked[1].if_range.as_deref(), Some("\"v1\""));
    assert_eq!(retries(&bench.events), 2);
}

#[tokio::test]
async fn a_pull_that_is_dropped_is_gone_on_with_by_the_next() {
    let mut bench = Bench::new(&[Act::Stall(4000)]);
    bench.pull_until(4000).await;
    let pulled = bench.pull_right().await;
    assert_eq!(bench.server.ranges(), [0, 4000]);
    assert_eq!(pulled.downloaded, bench.disk.len() as u64 - 4000);
    assert_eq!(bench.events[0], PullEvent::Resuming { from: 4000 });
}

#[tokio::test]
async fn two_pulls_at_once_do_not_write_one_part() {
    let mut bench = Bench::new(&[Act::Stall(4000)]);
    let (store, entry, patient) = (bench.store(), bench.right(), bench.settings.clone());
    let (begun, is_begun) = tokio::sync::oneshot::channel();
    let first = tokio::spawn(async move {
        let mut begun = Some(begun);
        let mut events = |event| {
            if matches!(event, PullEvent::Progress { done: 4000, .. }) {
                begun.take().map(|begun| begun.send(()));
            }
        };
        store.pull(&entry, &entry.name, &patient, &mut events).await.map(drop)
    });
    is_begun.await.unwrap();
    let entry = bench.right();
    let second = bench.pull(&entry).await.unwrap_err();
    assert_eq!(
        (second.code, second.message.as_str()),
        (ErrorCode::Unavailable, "'far:1' is being pulled already, by another command")
    );
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(bench.pull_right().await.downloaded, bench.disk.len() as u64 - 4000);
}

#[tokio::test]
async fn a_server_without_ranges_or_with_a_wrong_one_sends_all_again() {
    let mut bench = Bench::new(&[Act::Cut(3000), Act::WithoutRanges]);
    bench.pull_right().await;
    assert_eq!(bench.server.ranges(), [0, 3000]);
    assert!(bench.events.contains(&PullEvent::Restarting), "{:?}", bench.events);

    let mut bench = Bench::new(&[Act::Cut(3000), Act::OtherRange]);
    bench.pull_right().await;
    assert_eq!(bench.server.ranges(), [0, 3000, 0]);

    let mut bench = Bench::new(&[Act::Cut(3000)]);
    bench.server.state.lock().unwrap().etag = None;
    bench.pull_right().await;
    assert_eq!(bench.server.ranges(), [0, 0], "nothing says that it is still the same file");
}

#[tokio::test]
async fn a_file_that_changed_in_between_is_fetched_from_its_beginning() {
    let mut bench = Bench::new(&[Act::Stall(4000)]);
    bench.pull_until(4000).await;
    // The same digest is expected, and the server has another file by now: the tag says so.
    bench.server.state.lock().unwrap().etag = Some("\"v2\"");
    assert_eq!(bench.pull_right().await.downloaded, bench.disk.len() as u64);
    assert_eq!(bench.server.ranges(), [0, 4000]);

    // Another digest is expected: what is here is not even offered.
    let mut bench = Bench::new(&[Act::Stall(4000)]);
    bench.pull_until(4000).await;
    let file = [&bench.disk[..], &[0; 512]].concat();
    bench.server.state.lock().unwrap().file.clone_from(&file);
    bench.disk = file;
    bench.pull_right().await;
    assert_eq!(bench.server.ranges(), [0, 0]);
}

#[tokio::test]
async fn a_part_that_was_tampered_with_or_grew_too_long_is_not_believed() {
    let mut bench = Bench::new(&[Act::Stall(4000)]);
    bench.pull_until(4000).await;
    let part = bench.home.path().join("images/.pull-far+1.part");
    std::fs::write(&part, vec![1; 4000]).unwrap();
    let entry = bench.right();
    assert_eq!(bench.pull(&entry).await.unwrap_err().code, ErrorCode::ChecksumMismatch);
    assert!(bench.left().is_empty(), "{:?}", bench.left());

    bench.server.then(&[Act::Stall(4000)]);
    bench.pull_until(4000).await;
    std::fs::write(&part, vec![1; bench.disk.len() + 1]).unwrap();
    bench.pull_right().await;
}

#[tokio::test]
async fn wrong_bytes_leave_nothing() {
    let mut bench = Bench::new(&[]);
    let wrong = bench.pull(&bench.entry([0; 32])).await.unwrap_err();
    assert_eq!(wrong.code, ErrorCode::ChecksumMismatch);
    assert!(bench.left().is_empty(), "{:?}", bench.left());
    // The right bytes of something that is no disk.
    bench.server.state.lock().unwrap().file = b"<html>".to_vec();
    bench.disk = b"<html>".to_vec();
    let entry = bench.right();
    let page = bench.pull(&entry).await.unwrap_err();
    assert!(page.code == ErrorCode::InvalidRequest && page.message.contains("no disk image"), "{page}");
    assert!(bench.left().is_empty(), "{:?}", bench.left());
    let mut bench = Bench::new(&[]);
    let raw = Entry { format: Some(super::super::DiskFormat::Raw), ..bench.right() };
    let other = bench.pull(&raw).await.unwrap_err();
    assert_eq!(other.message, "'far:1' is qcow2, and the catalogue says raw");
    assert!(bench.left().is_empty(), "{:?}", bench.left());
}

#[tokio::test]
async fn what_is_too_large_is_not_fetched() {
    let mut bench = Bench::new(&[]);
    bench.settings.max_bytes = 1000;
    let entry = bench.right();
    assert_eq!(bench.pull(&entry).await.unwrap_err().code, ErrorCode::InvalidRequest);
    assert!(bench.left().is_empty(), "{:?}", bench.left());
    bench.settings.max_bytes = u64::MAX;
    bench.server.then(&[Act::Claim(1 << 60)]);
    let full = bench.pull(&entry).await.unwrap_err();
    assert!(full.code == ErrorCode::Exhausted && full.message.contains("MiB"), "{full}");
    assert!(bench.left().is_empty(), "{:?}", bench.left());
}

#[tokio::test]
async fn a_server_that_promises_more_than_it_has_is_given_up_on() {
    let claims = 1 + Bench::new(&[]).disk.len() as u64;
    let mut bench = Bench::new(&vec![Act::Claim(claims); 4]);
    let entry = bench.right();
    let fault = bench.pull(&entry).await.unwrap_err();
    assert!(fault.code == ErrorCode::Unreachable && fault.message.contains("less of the file"), "{fault}");
    assert!(bench.left().is_empty(), "{:?}", bench.left());
    bench.pull_right().await;
}

#[tokio::test]
async fn only_what_may_pass_is_tried_again() {
    for (code, expected) in [(404, ErrorCode::NoSuchImage), (403, ErrorCode::Unreachable)] {
        let mut bench = Bench::new(&[Act::Status(code, "")]);
        let entry = bench.right();
        assert_eq!(bench.pull(&entry).await.unwrap_err().code, expected);
        assert_eq!(bench.server.ranges().len(), 1, "{code} is an answer");
        assert!(bench.left().is_empty(), "{:?}", bench.left());
    }
    let mut bench = Bench::new(&[Act::Status(503, ""), Act::Status(429, "Retry-After: 0\r\n")]);
    bench.pull_right().await;
    assert_eq!(retries(&bench.events), 2);
    assert!(
        bench
            .events
            .iter()
            .any(|event| matches!(event, PullEvent::Retrying { why, after } if why.contains("429") && after.is_zero()))
    );

    let mut bench = Bench::new(&vec![Act::Status(503, ""); 9]);
    let entry = bench.right();
    assert_eq!(bench.pull(&entry).await.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(bench.server.ranges().len(), 4, "once, and three times again");

    let mut bench = Bench::new(&[Act::Status(429, "Retry-After: 3600\r\n")]);
    let entry = bench.right();
    let busy = bench.pull(&entry).await.unwrap_err();
    assert_eq!((busy.code, busy.retry_after_s), (ErrorCode::TooManyRequests, Some(3600)));
}

#[tokio::test]
async fn tries_are_counted_anew_when_it_gets_further() {
    let mut bench = Bench::new(&vec![Act::Cut(2000); 9]);
    bench.settings.progress = 1000;
    bench.pull_right().await;
    assert_eq!(bench.server.ranges().len(), 10);
    // Bytes that were here before are no progress: a server without ranges does not keep us for ever.
    let mut bench = Bench::new(&vec![Act::Cut(2000); 9]);
    bench.server.state.lock().unwrap().etag = None;
    bench.settings.progress = 1000;
    let entry = bench.right();
    assert_eq!(bench.pull(&entry).await.unwrap_err().code, ErrorCode::Unreachable);
    assert_eq!(bench.server.ranges().len(), 4, "once, and three times again");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_asked_again() {
    let mut bench = Bench::new(&[Act::Stall(4000)]);
    bench.settings.stall_timeout = Duration::from_millis(200);
    bench.pull_right().await;
    assert_eq!(bench.server.ranges(), [0, 4000]);
    let said = |event: &PullEvent| matches!(event, PullEvent::Retrying { why, .. } if why.contains("nothing came"));
    assert!(bench.events.iter().any(said), "{:?}", bench.events);
    // And in vain, when it goes on like that.
    let mut bench = Bench::new(&vec![Act::Stall(0); 9]);
    bench.settings.stall_timeout = Duration::from_millis(50);
    let entry = bench.right();
    assert_eq!(bench.pull(&entry).await.unwrap_err().code, ErrorCode::Timeout);
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let mut bench = Bench::new(&[Act::Redirect("/elsewhere".into()), Act::Cut(3000), Act::Redirect("/third".into())]);
    bench.pull_right().await;
    assert_eq!(bench.server.ranges(), [0, 0, 3000, 3000]);
    let mut bench = Bench::new(&vec![Act::Redirect("/again".into()); 20]);
    let entry = bench.right();
    let astray = bench.pull(&entry).await.unwrap_err();
    assert!(astray.message.contains("more than 5 redirects"), "{astray}");
}

#[tokio::test]
async fn a_list_of_checksums_vouches_for_the_file_that_it_names() {
    let mut bench = Bench::new(&[Act::Cut(3000)]);
    let list = catalogue::url(&bench.server.url("/SHA512SUMS")).unwrap();
    let listed = Entry { trust: Trust::Listed(list), ..bench.right() };
    let serve = |bench: &Bench, text: String| {
        bench.server.state.lock().unwrap().texts.insert("/SHA512SUMS".into(), text);
    };
    serve(&bench, format!("{}  other.qcow2\n", "ab".repeat(64)));
    let unlisted = bench.pull(&listed).await.unwrap_err();
    assert!(unlisted.code == ErrorCode::ChecksumMismatch && unlisted.message.contains("disk.qcow2"), "{unlisted}");
    serve(&bench, "x".repeat(2 << 20));
    assert_eq!(bench.pull(&listed).await.unwrap_err().code, ErrorCode::InvalidRequest);
    assert!(bench.server.ranges().is_empty(), "no image without its checksum");
    serve(&bench, format!("{}  disk.qcow2\n", hex::encode(Sha512::digest(&bench.disk))));
    let pulled = bench.pull(&listed).await.unwrap();
    assert_eq!(pulled.checksum, Checksum::Sha512(Sha512::digest(&bench.disk).into()));
    assert_eq!(pulled.manifest.disk.sha256.0, <[u8; 32]>::from(Sha256::digest(&bench.disk)));
    assert_eq!(bench.server.ranges(), [0, 3000]);
}

#[tokio::test]
async fn nobody_there_is_said_after_the_tries() {
    let mut bench = Bench::new(&[]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let entry = Entry { url: catalogue::url(&format!("http://{closed}/disk")).unwrap(), ..bench.right() };
    let fault = bench.pull(&entry).await.unwrap_err();
    assert!(fault.code == ErrorCode::Unreachable && fault.message.contains("refused"), "{fault}");
    assert_eq!(retries(&bench.events), 3);
}

/// A server that anybody could set up: the right file, under a certificate that nobody vouches for.
#[tokio::test]
async fn a_server_with_a_certificate_of_its_own_making_is_not_asked() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.key_pair.serialize_der()).unwrap();
    let ring = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(std::sync::Arc::new(config)).unwrap();
        // The client breaks off; where it does not, its request would be read.
        let ended = tls.complete_io(&mut stream);
        (ended.is_err(), tls.is_handshaking())
    });
    let mut bench = Bench::new(&[]);
    let url = catalogue::url(&format!("https://localhost:{port}/disk.qcow2")).unwrap();
    let entry = Entry { url, ..bench.right() };
    let fault = bench.pull(&entry).await.unwrap_err();
    assert!(fault.code == ErrorCode::Unreachable && fault.message.contains("is not who it should be"), "{fault}");
    assert_eq!(retries(&bench.events), 0, "trying again does not make it another");
    assert_eq!(server.join().unwrap(), (true, true));
    assert!(bench.left().is_empty(), "{:?}", bench.left());
}
