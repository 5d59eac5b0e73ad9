//! A provider's core on a real store, without a mesh and without a hypervisor: what it decides is performed as a node
//! does, one effect after the other.
use crate::streams::Result;
use node::store::{Store, StoredEvent};
use protocol::core::provider::{Offer, OfferedImage, Offering};
use protocol::core::{Effect, Input, NodeCore, StoreOp};
use protocol::envelope::Sealed;
use protocol::job::JobReport;
use protocol::lease::{Grant, Quote};
use protocol::message::{Frame, Request, Response, VmPhase};
use protocol::names::{Arch, CreateId, Digest, Egress, Isolation, LeaseId, Network};
use protocol::shard::{Block, Site};
use protocol::units::{DiskGib, Millis, Resources, Timestamp};
use protocol::{Keypair, PeerId};
use std::path::Path;
use std::time::{Duration, Instant};
use tests::bargain::{self, IMAGE, SMALLEST, Taker};

pub fn simulated_image() -> Digest {
    backends::memory::MemoryOptions::digest_of(IMAGE)
}

pub struct Provider {
    pub core: NodeCore,
    store: Store,
    pub now: Timestamp,
    network: Network,
    seed: Vec<u8>,
    token: u64,
    /// What the last input had kept, transaction by transaction.
    pub kept: Vec<Vec<StoreOp>>,
}

/// An answer, and how long it took from the request to it.
pub struct Answered {
    pub response: Response,
    pub took: Duration,
}

impl Provider {
    pub fn open(dir: &Path, key: Keypair, network: Network, vms: u32, image: Digest) -> Result<Self> {
        let (store, now) = (Store::open(dir)?, node::clock::now());
        let core = NodeCore::new(now, key, network.clone(), node::config::random_32()?, store.state()?)?;
        let mut provider = Provider { core, store, now, network, seed: bargain::seed()?, token: 0, kept: Vec::new() };
        provider.input(Input::Offer(Offering::Vms(Box::new(offer(vms, image)?))))?;
        Ok(provider)
    }

    pub fn input(&mut self, input: Input) -> Result<Option<(Vec<u8>, Duration)>> {
        let began = Instant::now();
        self.kept.clear();
        let mut reply = None;
        self.core.handle(self.now, input);
        for effect in self.core.drain_effects() {
            match effect {
                Effect::Persist(ops) => {
                    self.store.commit(&ops)?;
                    self.kept.push(ops);
                }
                Effect::Reply { body, .. } => reply = Some((body, began.elapsed())),
                Effect::Event(event) => {
                    self.store.append_event(&StoredEvent {
                        time_ms: self.now.0,
                        kind: "market".to_owned(),
                        severity: "info".to_owned(),
                        message: event.message,
                        subject: event.subject,
                        code: event.code,
                    })?;
                }
                _ => {}
            }
        }
        Ok(reply)
    }
    pub fn ask_raw(&mut self, from: PeerId, block: Option<Block>, body: Vec<u8>) -> Result<Answered> {
        self.token += 1;
        let request = Input::Request { token: self.token, from, site: block.map(Site::At), body };
        let (body, took) = self.input(request)?.ok_or("a request without an answer")?;
        let response = Frame::<Response>::decode(&body).map_err(|error| format!("{error:?}"))?.body;
        Ok(Answered { response, took })
    }
    pub fn ask(&mut self, from: PeerId, request: Request) -> Result<Answered> {
        let body = Frame::encode(self.now, request);
        self.ask_raw(from, None, body)
    }

    fn taker<'a>(&'a self, key: &'a Keypair) -> Taker<'a> {
        Taker { key, network: &self.network, seed: &self.seed, now: self.now }
    }

    /// Quote and accept, with the time from request to answer of both.
    pub fn admit(&mut self, tenant: &Keypair, create_id: CreateId) -> Result<(Sealed<Grant>, Duration)> {
        let me = tenant.peer_id();
        let quoted = self.ask(me, bargain::quote(create_id, SMALLEST)?)?;
        let Response::Quote(quote) = quoted.response else {
            return Err(format!("a quote was answered with {:?}", quoted.response).into());
        };
        let quote: Sealed<Quote> = quote.open(&self.network).map_err(|error| error.to_string())?;
        let granted = self.ask(me, self.taker(tenant).accept(&quote, create_id))?;
        let Response::Granted(grant) = granted.response else {
            return Err(format!("an accept was answered with {:?}", granted.response).into());
        };
        let grant = grant.open(&self.network).map_err(|error| error.to_string())?;
        Ok((grant, quoted.took + granted.took))
    }

    /// A lease whose VM runs.
    pub fn lease(&mut self, tenant: &Keypair, create_id: CreateId) -> Result<LeaseId> {
        let (grant, _) = self.admit(tenant, create_id)?;
        let confirm = self.taker(tenant).confirm(&grant);
        self.ask(tenant.peer_id(), confirm)?;
        self.done(grant.lease_id, VmPhase::Running)?;
        Ok(grant.lease_id)
    }
    pub fn release(&mut self, tenant: PeerId, lease_id: LeaseId) -> Result<()> {
        self.ask(tenant, Request::Release(lease_id))?;
        if self.core.provider().jobs().running(lease_id).is_some() {
            self.done(lease_id, VmPhase::Gone)?;
        }
        Ok(())
    }
    fn done(&mut self, lease_id: LeaseId, phase: VmPhase) -> Result<()> {
        let job = self.core.provider().jobs().running(lease_id).ok_or("no job runs")?;
        self.input(Input::Job { job, report: JobReport::Done(phase) })?;
        Ok(())
    }
}

fn offer(vms: u32, digest: Digest) -> Result<Offer> {
    let image = OfferedImage { digest, user: "root".parse()?, least_disk: DiskGib(1) };
    Ok(Offer {
        name: None,
        country: None,
        arch: Arch::of_this_build().unwrap_or(Arch::X86_64),
        backend: "memory".parse()?,
        isolation: Isolation::Simulated,
        egress: Egress::None,
        total: Resources::new(vms, 1024 * u64::from(vms), 10 * u64::from(vms)),
        overcommit_cpu: Default::default(),
        max_vms: vms,
        minimum: SMALLEST,
        max_lease: Millis::secs(30 * 86_400),
        strangers: Default::default(),
        unused_stop: None,
        prepaid: false,
        policy: Default::default(),
        grace: Millis::secs(86_400),
        price: protocol::money::Price { per_hour: "0.02".parse()?, currency: "EUR".parse()? },
        images: [(IMAGE.parse()?, image)].into(),
        slots: Default::default(),
    })
}
