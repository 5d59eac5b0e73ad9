//! A provider with a hundred leases that is killed and started again: until every difference between its ledger and
//! its hypervisor has been looked at, and until all are mended.
use crate::child::{Child, say};
use crate::provider::{Provider, simulated_image};
use crate::stats::{median, percentile};
use crate::streams::Result;
use backends::images::{ImageStore, ImportSource};
use backends::memory::{MemoryBackend, MemoryOptions};
use backends::{Backend, InstanceOrder};
use node::config::{Home as NodeHome, NodeConfig, Settings};
use protocol::codec::{self, MAX_STORED};
use protocol::core::provider::OfferedImage;
use protocol::core::{NodeCore, StoreOp, Table};
use protocol::ledger::LeaseRow;
use protocol::message::VmPhase;
use protocol::names::{Arch, Egress, LeaseId};
use protocol::seed::Seed;
use protocol::units::{DiskGib, Resources};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tests::bargain::{IMAGE, create_id, key as tenant};
use tests::crash::processes;
use tests::{Home, PATIENCE, eventually};

const LEASES: u64 = 100;
/// Of them so many have vanished, and as many others are off, though they should run; as many are there without a lease.
const CHANGED: usize = 5;
const RUNS: usize = 5;
/// Real ones, and how many of them die with their node.
const GUESTS: usize = 20;
const DIE: usize = 3;
const ROOMY: &str = "min_memory = \"128M\"\nmin_disk = \"1G\"\noffer_cpus = 20\noffer_memory = \"4G\"\n\
                     max_vms = 20\ncpu_threshold = 100\nmemory_threshold = 100\ndisk_threshold = 100\naccel = \"tcg\"\n";
const SETTINGS: &str = "network = \"test\"\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\nmdns = false\nbackend = \"memory\"\n\
                        min_disk = \"1G\"\nmin_memory = \"128M\"\nmax_vms = 200\ncpu_threshold = 100\n\
                        memory_threshold = 100\ndisk_threshold = 100\nprepaid = false\n";

pub fn run() -> Result<()> {
    println!("\n## A provider with {LEASES} leases, killed and started again, {RUNS} runs");
    for (host, what) in [
        ("forgot", "all are made anew by a simulated host that forgot them"),
        ("memory", "a simulated host has them, but for 15 differences"),
        ("libvirt", "libvirt's test driver has them, but for 15 differences"),
    ] {
        let (mut looked, mut mended) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let home = Home::new();
            home.config(SETTINGS);
            let path = home.path().display().to_string();
            // Killed when it is dropped.
            drop(Child::role("let", &[&path, host])?);
            let said = Child::role("reconcile", &[&path, host])?.said.clone();
            let (first, last) = said.split_once(' ').ok_or(format!("the node said '{said}'"))?;
            looked.push(first.parse::<f64>()?);
            mended.push(last.parse::<f64>()?);
        }
        println!("  {what}: mended after {:.2} s in the median", median(&mended));
        crate::at_most("every difference looked at, the slowest run", percentile(&looked, 100.0) * 1e3, 2_000.0, "ms");
    }
    Ok(())
}

/// Guests that boot, and live on when their node dies, but for a few.
pub fn guests(bundle: &std::path::Path) -> Result<()> {
    println!("\n## A provider with {GUESTS} guests under QEMU, killed with {DIE} of them and started again");
    let (provider, tenant) = (Home::new(), Home::new());
    provider.config(ROOMY);
    provider.import(bundle);
    let mut node = provider.node(&["--provide", "--network", "test"]);
    let _tenant = tenant.node(&["--network", "test", "--bootstrap", &node.addr()]);
    for n in 0..GUESTS {
        let name = format!("vm-{n}");
        let size = ["--image", "tiny", "--cpus", "1", "--memory", "128M", "--disk", "1G", "--timeout", "5m"];
        tenant.json(&[&["vm", "create", &name], &size[..]].concat());
    }
    let (mut looked, mut mended) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let seen = noticed(&provider);
        node.kill();
        for (pid, _) in processes(&provider).iter().take(DIE) {
            let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status()?;
            assert!(killed.success());
        }
        let began = Instant::now();
        node = provider.node(&["--provide", "--network", "test"]);
        eventually("the node has noticed", PATIENCE, || (noticed(&provider) >= seen + DIE).then_some(()));
        looked.push(began.elapsed().as_secs_f64());
        eventually("all run again", PATIENCE, || (processes(&provider).len() == GUESTS).then_some(()));
        mended.push(began.elapsed().as_secs_f64());
        for n in 0..GUESTS {
            tenant.run(&["vm", "wait", &format!("vm-{n}"), "running", "--timeout", "5m"]).ok();
        }
    }
    println!("  all {GUESTS} processes there after {:.2} s in the median", median(&mended));
    println!(
        "  every difference looked at: {:.2} s in the median, {:.2} s at most",
        median(&looked),
        percentile(&looked, 100.0)
    );
    Ok(())
}

/// How often this provider has found that a VM is off that should run.
fn noticed(provider: &Home) -> usize {
    let events = provider.run(&["--json", "events", "--limit", "1000"]).ok().stdout();
    events.lines().filter(|line| line.contains("is off and should run")).count()
}

fn config(home: String) -> Result<NodeConfig> {
    let home = NodeHome::find(Some(home.into()))?;
    home.create()?;
    Ok(NodeConfig::new(home.clone(), Settings::load(&home)?, true)?)
}

/// A role: a provider that has let a hundred VMs, each of which runs.
pub fn let_all(home: String, host: String) -> Result<()> {
    let config = config(home)?;
    let image = if host == "libvirt" { hollow(&ImageStore::new(config.home.images()))? } else { simulated_image() };
    let mut provider = Provider::open(&config.home.db(), config.identity, config.network, LEASES as u32, image)?;
    for n in 0..LEASES {
        provider.lease(&tenant(n), create_id(n))?;
    }
    say("ready");
    loop {
        std::thread::park();
    }
}

/// A role: the next run of it. Says after how many seconds it had looked at everything, and had mended it.
pub async fn reconcile(home: String, host: String) -> Result<()> {
    let config = config(home)?;
    let rows = rows(&config)?;
    let digest = rows[0].image_digest;
    let images = BTreeMap::from([(IMAGE.parse()?, digest)]);
    let options = MemoryOptions { host: Resources::new(256, 1 << 20, 10_000), images, ..MemoryOptions::default() };
    let simulated = MemoryBackend::new(options);
    let backend: Arc<dyn Backend> = match host.as_str() {
        "libvirt" => {
            let limits = backends::libvirt::Limits::default();
            let (uri, accel) = (Some("test:///default".to_owned()), backends::libvirt::Accel::Tcg);
            let (home, images) = (config.home.root().to_owned(), ImageStore::new(config.home.images()));
            let egress = Some(Egress::None);
            let config = backends::libvirt::LibvirtConfig { home, uri, accel, egress, limits, images };
            // The driver's guests are entries in a table of this process: one connection stays open all the time.
            let keeps = backends::libvirt::Libvirt::new(config.clone());
            populate(&keeps, &rows, digest).await?;
            std::mem::forget(keeps);
            Arc::new(backends::libvirt::Libvirt::new(config))
        }
        "memory" => {
            populate(&simulated, &rows, digest).await?;
            Arc::new(simulated)
        }
        _ => Arc::new(simulated),
    };
    let offered = OfferedImage { digest, user: "root".parse()?, least_disk: DiskGib(1) };
    let parts = node::ProviderParts {
        backend,
        images: ImageStore::new(config.home.images()),
        simulated: BTreeMap::from([(IMAGE.parse()?, offered)]),
        settings: config.provider.clone(),
    };
    let differ = if host == "forgot" { rows.len() } else { 3 * CHANGED };
    let (told, events) = mpsc::sync_channel(2);
    let began = Instant::now();
    let tuning = node::Tuning { observer: Some(observer(began, differ, told)), ..Default::default() };
    let node = node::start(&config, Some(parts), tuning).await?;
    let read = move || (events.recv_timeout(PATIENCE), events.recv_timeout(PATIENCE));
    let (looked, mended) = tokio::task::spawn_blocking(read).await?;
    say(format!("{:.3} {:.3}", looked?.as_secs_f64(), mended?.as_secs_f64()));
    node.stop().await?;
    Ok(())
}

/// Tells when each difference has become a job, and when none is left to be done.
fn observer(began: Instant, differ: usize, told: mpsc::SyncSender<Duration>) -> node::Observer {
    let (mut seen, mut said) = (BTreeSet::new(), 0);
    Box::new(move |core: &NodeCore| {
        let jobs = core.provider().jobs();
        if said == 0 {
            seen.extend(jobs.active().map(|job| job.lease_id));
        }
        let all_run = || core.provider().ledger().leases().all(|row| row.vm == VmPhase::Running);
        let reached = match said {
            0 => seen.len() >= differ,
            1 => jobs.active().next().is_none() && all_run(),
            _ => false,
        };
        if reached && told.try_send(began.elapsed()).is_ok() {
            said += 1;
        }
    })
}

fn rows(config: &NodeConfig) -> Result<Vec<LeaseRow>> {
    let deadline = Instant::now() + PATIENCE;
    let store = loop {
        match node::store::Store::open(&config.home.db()) {
            Ok(store) => break store,
            Err(fault) if Instant::now() > deadline => return Err(fault.into()),
            Err(_) => std::thread::yield_now(),
        }
    };
    let leases = store.state()?.into_iter().filter(|op| op.table == Table::Leases);
    let row = |op: StoreOp| codec::decode::<LeaseRow>(&op.value.unwrap_or_default(), MAX_STORED);
    Ok(leases.map(row).collect::<std::result::Result<_, _>>().map_err(|error| error.to_string())?)
}

async fn populate(backend: &dyn Backend, rows: &[LeaseRow], image_digest: protocol::names::Digest) -> Result<()> {
    let orphans = (0..CHANGED as u8).map(|n| LeaseId([n; 16]));
    let seed = Seed::decode(&rows[0].seed, rows[0].seed_hash)?;
    for id in rows.iter().map(|row| row.lease_id).skip(CHANGED).chain(orphans) {
        let order = InstanceOrder {
            id,
            resources: rows[0].spec.resources,
            image: IMAGE.parse()?,
            image_digest,
            seed: seed.clone(),
            ports: vec![],
            egress: Egress::None,
        };
        backend.create(&order, &|_| {}).await?;
    }
    for row in rows.iter().skip(CHANGED).take(CHANGED) {
        backend.stop(row.lease_id, true).await?;
    }
    Ok(())
}

/// A disk of nothing, for a driver that boots nothing.
fn hollow(images: &ImageStore) -> Result<protocol::names::Digest> {
    let dir = tempfile::tempdir()?;
    let disk = dir.path().join("hollow");
    let mut sectors = vec![0u8; 1 << 20];
    sectors[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(&disk, sectors)?;
    let source = ImportSource::Disk {
        disk,
        name: IMAGE.parse()?,
        arch: Arch::of_this_build().unwrap_or(Arch::X86_64),
        default_user: "root".parse()?,
        kernel: None,
        initrd: None,
        cmdline: None,
        sha256: None,
    };
    Ok(images.import(&source, &mut |_, _| {})?.digest())
}
