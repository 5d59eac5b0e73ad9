//! From inside: what a guest reaches, with a way out and without, and that its host is never among it.
use super::world::{self, DOOR, GREETING, INTERNET, NEAR, OWN, ROUTER, SINK, SOURCE, SOURCE_BYTES};
use crate::conformance::id;
use crate::libvirt_host::LibvirtHost;
use backends::libvirt::Limits;
use backends::{Backend, InstanceOrder};
use protocol::names::{Egress, LeaseId};
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const TENANT: u8 = 0xa;
const OTHER: u8 = 0xb;
/// Small enough to be seen.
const MBIT_PER_S: u32 = 16;
const DISK_MIB_PER_S: u32 = 4;

#[test]
fn a_guest_reaches_the_internet_and_nothing_of_its_host() {
    world::within("guest::egress::a_guest_reaches_the_internet_and_nothing_of_its_host", internet());
}

async fn internet() {
    let Some(mut host) = LibvirtHost::real("tiny") else { return };
    host.egress = None;
    host.limits = Limits { egress_mbit_per_s: MBIT_PER_S, disk_mib_per_s: DISK_MIB_PER_S, ..Limits::default() };
    let services = Services::new();
    let backend = host.new_backend();
    assert_eq!(backend.capabilities().await.egress, Egress::Internet, "{:?}", backend.check().await);
    let table = table().expect("the rules are there before any guest is");

    // Two neighbours: one has a way out, the other's lease says none.
    let order = |number: u8, egress| InstanceOrder { egress, ..crate::conformance::Subject::order(&host, id(number)) };
    backend.create(&order(TENANT, Egress::Internet), &()).await.unwrap();
    backend.create(&order(OTHER, Egress::None), &()).await.unwrap();
    host.wait(&backend, id(TENANT)).await;
    host.wait(&backend, id(OTHER)).await;
    let others_door = backend.endpoint(id(OTHER), 22).await.unwrap().port();

    let mut closed = services.doors();
    closed.extend(NEAR.iter().map(|address| (address.to_string(), DOOR)));
    closed.push(("10.0.2.2".to_owned(), others_door));
    let mut all = closed.clone();
    all.extend([(INTERNET.to_owned(), DOOR), ("www.example".to_owned(), DOOR)]);
    let reached = reach(&host, &backend, id(TENANT), &all).await;
    assert_eq!(reached, [format!("{INTERNET}/{DOOR}"), format!("www.example/{DOOR}")], "of {all:?}");
    assert_eq!(reach(&host, &backend, id(OTHER), &all).await, Vec::<String>::new());
    services.were_left_alone();

    paced(&host, &backend, id(TENANT)).await;
    rules_that_are_thrown_away_come_back(&host, &backend, &table, &closed).await;
    without_rules_there_is_no_link(&host, &backend).await;

    // The node ends, and starts again; guests and rules are as they were. The owner has changed their mind meanwhile.
    backend.close().await;
    drop(backend);
    assert_eq!(self::table(), Some(table.clone()), "they hold the guest while no node is there");
    host.egress = Some(Egress::None);
    let backend = host.new_backend();
    assert_eq!(backend.capabilities().await.egress, Egress::None);
    assert_eq!(self::table(), Some(table), "its lease says so until it is started anew");
    let far = [(INTERNET.to_owned(), DOOR)];
    assert_eq!(reach(&host, &backend, id(TENANT), &far).await.len(), 1);
    backend.restart(id(TENANT)).await.unwrap();
    host.wait(&backend, id(TENANT)).await;
    assert_eq!(reach(&host, &backend, id(TENANT), &far).await, Vec::<String>::new());

    backend.destroy(id(TENANT)).await.unwrap();
    backend.destroy(id(OTHER)).await.unwrap();
    services.were_left_alone();
    backend.close().await;
    assert_eq!(self::table(), None, "no guest needs them any more");
}

#[test]
fn an_open_lease_reaches_the_lan_and_nothing_of_its_host() {
    world::within("guest::egress::an_open_lease_reaches_the_lan_and_nothing_of_its_host", open());
}

async fn open() {
    let Some(mut host) = LibvirtHost::real("tiny") else { return };
    host.egress = Some(Egress::Open);
    let (services, backend, began) = (Services::new(), host.new_backend(), Instant::now());
    assert_eq!(backend.capabilities().await.egress, Egress::Open);
    let tried = began.elapsed();
    let order = crate::conformance::Subject::order(&host, id(TENANT));
    backend.create(&order, &()).await.unwrap();
    let created = began.elapsed();
    host.wait(&backend, id(TENANT)).await;
    eprintln!("rules tried after {tried:?}, created {created:?}, ready {:?}", began.elapsed());
    let mut all = services.doors();
    all.extend([ROUTER, "10.99.0.1", INTERNET].map(|address| (address.to_owned(), DOOR)));
    let reached = reach(&host, &backend, id(TENANT), &all).await;
    assert_eq!(reached, [ROUTER, "10.99.0.1", INTERNET].map(|address| format!("{address}/{DOOR}")));
    services.were_left_alone();
    backend.destroy(id(TENANT)).await.unwrap();
    backend.close().await;
    assert_eq!(table(), None);
}

/// What the host has: a server for each of its addresses, as its API or another tenant's forward would be.
struct Services {
    ports: Vec<(String, u16)>,
    datagrams: UdpSocket,
    visits: Arc<AtomicUsize>,
}

impl Services {
    fn new() -> Self {
        let visits = Arc::new(AtomicUsize::new(0));
        let mut ports = Vec::new();
        // As the guest calls them: its gateway is the host's loopback, of either family.
        let seen = [("127.0.0.1", "10.0.2.2"), ("127.0.0.1", "127.0.0.1"), ("::1", "fec0::2"), ("0.0.0.0", "0.0.0.0")];
        for (address, from_inside) in seen.into_iter().chain(OWN.map(|own| (own, own))) {
            let listener = TcpListener::bind((address, 0)).unwrap();
            ports.push((from_inside.to_owned(), listener.local_addr().unwrap().port()));
            let visits = visits.clone();
            std::thread::spawn(move || {
                for mut guest in listener.incoming().flatten() {
                    visits.fetch_add(1, Ordering::AcqRel);
                    let _ = guest.write_all(GREETING.as_bytes());
                }
            });
        }
        let datagrams = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        datagrams.set_nonblocking(true).unwrap();
        Services { ports, datagrams, visits }
    }

    fn doors(&self) -> Vec<(String, u16)> {
        let mut doors = self.ports.clone();
        doors.push(("10.0.2.2".to_owned(), self.datagrams.local_addr().unwrap().port()));
        doors
    }

    fn were_left_alone(&self) {
        assert_eq!(self.visits.load(Ordering::Acquire), 0);
        let mut packet = [0; 16];
        assert_eq!(self.datagrams.recv_from(&mut packet).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

/// Which of them the guest gets an answer from. Each is sent a datagram, too.
async fn reach(host: &LibvirtHost, backend: &dyn Backend, id: LeaseId, doors: &[(String, u16)]) -> Vec<String> {
    let doors: Vec<String> = doors.iter().map(|(address, port)| format!("{address}/{port}")).collect();
    let script = format!(
        "for to in {}; do at=${{to%/*}}; port=${{to#*/}}; \
         echo hello | timeout 3 nc -u -w 1 $at $port >/dev/null 2>&1; \
         timeout 8 nc -w 4 $at $port </dev/null 2>/dev/null | grep -q -e {GREETING} -e SSH- && echo $to; done; true",
        doors.join(" ")
    );
    host.ssh(backend, id, &script).await.lines().map(str::to_owned).collect()
}

/// What goes out, what comes in and what is written takes its time.
async fn paced(host: &LibvirtHost, backend: &dyn Backend, id: LeaseId) {
    let bytes_per_s = f64::from(MBIT_PER_S) * 125_000.0;
    // What comes within a second and a quarter is free.
    let least = Duration::from_secs_f64(SOURCE_BYTES as f64 / bytes_per_s - 1.25);
    let send =
        format!("dd if=/dev/zero bs=65536 count={} 2>/dev/null | nc {INTERNET} {SINK} | wc -c", SOURCE_BYTES >> 16);
    let take = format!("nc {INTERNET} {SOURCE} </dev/null | wc -c");
    for (way, command, answer) in [("out", send, GREETING.len()), ("in", take, SOURCE_BYTES)] {
        let began = Instant::now();
        assert_eq!(host.ssh(backend, id, &command).await, answer.to_string(), "{way}");
        let took = began.elapsed();
        eprintln!("{} MiB {way} at {MBIT_PER_S} Mbit/s: {took:?}", SOURCE_BYTES >> 20);
        assert!(took > least, "{way}: {took:?}, not {least:?}");
    }
    let began = Instant::now();
    host.ssh(backend, id, "dd if=/dev/zero of=/root/fill bs=65536 count=1280 conv=fsync 2>&1; rm /root/fill; sync")
        .await;
    let (took, least) = (began.elapsed(), Duration::from_secs(3));
    eprintln!("80 MiB to the disk, at {DISK_MIB_PER_S} MiB/s and four times that at first: {took:?}");
    assert!(took > least, "{took:?}");
}

/// As when somebody reloads the host's firewall.
async fn rules_that_are_thrown_away_come_back(
    host: &LibvirtHost,
    backend: &dyn Backend,
    rules: &str,
    closed: &[(String, u16)],
) {
    let flush = Command::new("nft").args(["flush", "ruleset"]).status().unwrap();
    assert!(flush.success() && table().is_none());
    let deadline = Instant::now() + Duration::from_secs(30);
    while table().is_none() {
        assert!(Instant::now() < deadline);
        assert_eq!(backend.capabilities().await.egress, Egress::Internet);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(table().as_deref(), Some(rules));
    assert_eq!(reach(host, backend, id(TENANT), closed).await, Vec::<String>::new());
}

/// The rules are gone, and cannot be had again: whoever lives by them is cut off until they can.
async fn without_rules_there_is_no_link(host: &LibvirtHost, backend: &dyn Backend) {
    let greets = async || {
        let door = backend.endpoint(id(TENANT), 22).await.unwrap();
        backends::ssh_probe::banner(door, Duration::from_secs(4)).await.is_ok()
    };
    assert!(greets().await);
    world::break_the_firewall(true);
    assert!(Command::new("/usr/sbin/nft").args(["flush", "ruleset"]).status().unwrap().success());
    says(backend, Egress::None).await;
    assert!(!greets().await, "nothing goes in or out");
    assert_eq!(host.ssh(backend, id(OTHER), "echo there").await, "there", "who needs no rules stays");
    world::break_the_firewall(false);
    says(backend, Egress::Internet).await;
    assert_eq!(host.ssh(backend, id(TENANT), "echo back").await, "back");
}

async fn says(backend: &dyn Backend, egress: Egress) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while backend.capabilities().await.egress != egress {
        assert!(Instant::now() < deadline, "not {egress}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// This home's rules, as the firewall tells them.
fn table() -> Option<String> {
    let output = Command::new("nft").args(["-s", "-t", "list", "ruleset"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.contains("table inet golemnode_").then_some(text)
}
