//! What it takes to admit a tenant, and what a million requests leave in memory: the provider's core on a real store.
use crate::provider::{Provider, simulated_image};
use crate::stats::{millis, percentile};
use crate::streams::Result;
use node::store::Store;
use protocol::message::{Frame, PowerAction, QuoteReq, Request, Response};
use protocol::names::{ActId, LeaseId};
use protocol::shard::Block;
use protocol::units::{Millis, Resources};
use protocol::{Keypair, PeerId};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::Home;
use tests::bargain::{SMALLEST, create_id, key as tenant, spec};

/// Of each pair of a benchmark; ten pairs make 5,000.
const ADMISSIONS: usize = 500;
const TENANTS: u64 = 50;
const STANDING: u64 = 100;
/// Where the memory is looked at.
const FIRST: u64 = 100_000;
const LAST: u64 = 1_000_000;
/// One in so many is a VM that is rented and given back: the tables of those that ended (`MAX_ENDED`) and of events
/// (10,000, two for each) are full before the first look. Memory still grows by some 2 MiB after it, and then no more.
const LEASE_EVERY: u64 = 10;

pub fn run(pairs: usize) -> Result<()> {
    for standing in [0, STANDING] {
        admissions(pairs * ADMISSIONS, standing)?;
    }
    Ok(())
}

fn admissions(count: usize, standing: u64) -> Result<()> {
    let (home, bare) = (Home::new(), Home::new());
    let mut provider = Provider::open(
        &home.path().join("db"),
        tenant(u64::MAX),
        "test".parse()?,
        STANDING as u32 + 10,
        simulated_image(),
    )?;
    let plain = Store::open(&bare.path().join("db"))?;
    for n in 0..standing {
        provider.lease(&tenant(1_000 + n), create_id(n))?;
    }
    let tenants: Vec<Keypair> = (0..TENANTS).map(tenant).collect();
    let (mut admitted, mut alone) = (Vec::new(), Vec::new());
    for n in 0..count {
        provider.now = provider.now + Millis(50);
        let tenant = &tenants[n % tenants.len()];
        let (grant, took) = provider.admit(tenant, create_id(1_000_000 + n as u64))?;
        admitted.push(took);
        // The very same rows, with nothing before and nothing after.
        let began = Instant::now();
        for ops in &provider.kept {
            plain.commit(ops)?;
        }
        alone.push(began.elapsed());
        provider.release(tenant.peer_id(), grant.lease_id)?;
        for ops in &provider.kept {
            plain.commit(ops)?;
        }
    }
    println!("\n## Admission (quote and accept, on disk), {count} with {standing} leases standing");
    print_times("sled's write and flush alone", &alone);
    print_times("quote and accept", &admitted);
    crate::at_most("p50", percentile(&millis(&admitted), 50.0), 1.0, "ms");
    crate::at_most("p99", percentile(&millis(&admitted), 99.0), 5.0, "ms");
    Ok(())
}

fn print_times(what: &str, took: &[Duration]) {
    let took = millis(took);
    let [p50, p99, most] = [50.0, 99.0, 100.0].map(|percent| percentile(&took, percent));
    println!("  {what}: p50 {p50:.3} ms, p99 {p99:.3} ms, longest {most:.1} ms");
}

/// In a process of its own, so that nothing else is in its heap.
pub fn growth() -> Result<()> {
    println!("\n## A provider's memory after so many requests");
    let status = Command::new(std::env::current_exe()?).args(["role", "requests"]).status()?;
    if status.success() { Ok(()) } else { Err(format!("the role requests ended: {status}").into()) }
}

/// A role: a million requests, of many peers, most of whom want nothing but trouble.
pub fn requests() -> Result<()> {
    let home = Home::new();
    let mut provider =
        Provider::open(&home.path().join("db"), tenant(u64::MAX), "test".parse()?, 20, simulated_image())?;
    let mut crowd = Crowd { tenants: (0..TENANTS).map(tenant).collect(), standing: Vec::new(), said: BTreeMap::new() };
    for n in 0..10 {
        crowd.standing.push(provider.lease(&tenant(1_000 + n), create_id(n))?);
    }
    let (mut at_first, began) = (0.0, Instant::now());
    for n in 1..=LAST {
        provider.now = provider.now + Millis(10);
        crowd.one(&mut provider, n)?;
        if n.is_multiple_of(FIRST) && n < LAST {
            println!("  after {n}: {:.2} MiB", resident()?);
        }
        if n == FIRST {
            at_first = resident()?;
        }
    }
    let at_last = resident()?;
    println!("  after {LAST}: {at_last:.2} MiB, {:.0} requests a second", LAST as f64 / began.elapsed().as_secs_f64());
    for (answer, times) in &crowd.said {
        println!("    {times:>8} {answer}");
    }
    let holds = provider.core.provider().ledger().holds().count();
    println!("    {holds} holds and {} rows are kept", provider.core.provider().ledger().leases().count());
    crate::at_most("growth from 10^5 to 10^6", at_last - at_first, 1.0, "MiB");
    Ok(())
}

struct Crowd {
    tenants: Vec<Keypair>,
    standing: Vec<LeaseId>,
    said: BTreeMap<String, u64>,
}

impl Crowd {
    fn one(&mut self, provider: &mut Provider, n: u64) -> Result<()> {
        if n.is_multiple_of(LEASE_EVERY) {
            let tenant = &self.tenants[(n / LEASE_EVERY % TENANTS) as usize];
            let lease = provider.lease(tenant, create_id(n))?;
            return provider.release(tenant.peer_id(), lease);
        }
        // Of a fresh peer each time, from anywhere.
        let (peer, block) = (stranger(n), Block::of_ip(std::net::Ipv4Addr::from(0x2d00_0000 + (n as u32 * 97)).into()));
        let quote = |resources| spec(resources).map(|spec| QuoteReq { create_id: create_id(n), spec });
        let lease = self.standing[n as usize % self.standing.len()];
        let small = SMALLEST;
        let request = match n % 20 {
            0..=9 => Request::Quote(quote(small)?),
            10 | 11 => {
                let answer = provider.ask(peer, Request::Quote(quote(small)?))?.response;
                self.count(&answer);
                let Response::Quote(signed) = answer else { return Ok(()) };
                let network = provider.core.network().clone();
                let quote = signed.open::<protocol::lease::Quote>(&network).map_err(|error| error.to_string())?;
                Request::Decline(quote.quote_id)
            }
            12 | 13 => Request::Status(lease),
            14 => Request::Status(LeaseId(u128::from(n).to_be_bytes())),
            15 => {
                let answer = provider.ask_raw(peer, block, vec![0xff; 64])?.response;
                self.count(&answer);
                return Ok(());
            }
            16 => {
                let mut request = quote(small)?;
                request.spec.image = "nowhere".parse()?;
                Request::Quote(request)
            }
            17 => Request::Quote(quote(Resources::new(64, 1 << 20, 1 << 10))?),
            18 => Request::Release(LeaseId(u128::from(n).to_be_bytes())),
            _ => {
                let act = ActId(u128::from(n).to_be_bytes());
                Request::Power { lease_id: lease, act, action: PowerAction::Restart }
            }
        };
        let body = Frame::encode(provider.now, request);
        let answer = provider.ask_raw(peer, block, body)?.response;
        self.count(&answer);
        Ok(())
    }

    fn count(&mut self, answer: &Response) {
        let word = match answer {
            Response::Refused(refusal) => format!("refused: {}", refusal.code()),
            Response::Quote(_) => "quoted".to_owned(),
            Response::Declined => "declined".to_owned(),
            _ => "answered".to_owned(),
        };
        *self.said.entry(word).or_default() += 1;
    }
}

fn stranger(n: u64) -> PeerId {
    let mut key = [9; 32];
    key[..8].copy_from_slice(&n.to_le_bytes());
    PeerId::from_public_key(key)
}

/// Of this process, in MiB.
fn resident() -> Result<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm.split_whitespace().nth(1).ok_or("no resident pages")?.parse()?;
    Ok(pages * 4096.0 / f64::from(1 << 20))
}
