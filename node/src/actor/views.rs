//! What the API shows, from what the core knows.
use super::Actor;
use crate::api::types::*;
use crate::clock;
use crate::store::StoredEvent;
use protocol::board::Entry;
use protocol::core::requestor::{Phase, Rental};
use protocol::lease::Active;
use protocol::ledger::LeaseRow;
use protocol::message::{LeaseStage, VmPhase};
use protocol::money::Amount;
use protocol::names::{Egress, ImageName};
use protocol::ranking;
use protocol::spec::Query;
use protocol::units::{Millis, Resources, Timestamp};
use protocol::{ErrorCode, Fault, PeerId};

/// A provider that has not answered for this long is called unreachable; one missed answer is not enough.
const UNREACHABLE: Millis = Millis::secs(10);

/// What a list of providers asks of the board.
pub(super) fn board_query(asked: &ProviderQuery) -> Query {
    let want = Resources {
        cpus: asked.cpus.unwrap_or(0),
        memory_mib: asked.memory_mib.unwrap_or_default(),
        disk_gib: asked.disk_gib.unwrap_or_default(),
    };
    Query {
        want,
        image: asked.image.clone(),
        isolation: asked.isolation.unwrap_or_default(),
        arch: asked.arch,
        country: asked.country.clone(),
        backend: None,
        max_price: asked.max_price,
    }
}

impl Actor {
    pub(super) async fn status(&self) -> Result<NodeStatus, Fault> {
        let mut roles = vec!["requestor".to_owned()];
        if self.provider.is_some() {
            roles.push("provider".to_owned());
        }
        let mesh = self.mesh.metrics();
        let relay = (mesh.relaying > 0).then_some(RelayStatus {
            reservations: mesh.relay_reservations,
            circuits: mesh.relay_circuits,
            bytes: mesh.relay_bytes,
        });
        if relay.is_some() {
            roles.push("relay".to_owned());
        }
        Ok(NodeStatus {
            peer_id: self.core.me(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            network: self.core.network().to_string(),
            roles,
            listen_addrs: self.mesh.listen_addrs().await?,
            external_addrs: self.mesh.external_addrs().await?,
            reachability: self.reachability.0.as_str().to_owned(),
            reachability_why: self.reachability.1.clone(),
            relay,
            peers: self.mesh.peers().await?.len(),
            board: self.board_status(),
            provider: self.provider_status(),
            uptime_s: self.started.elapsed().as_secs(),
        })
    }

    fn board_status(&self) -> BoardStatus {
        let (board, shards) = (self.core.board(), self.core.shards());
        BoardStatus { adverts: board.len(), shards: shards.held(), tree: shards.stats.clone() }
    }

    pub(super) fn provider_status(&self) -> Option<ProviderStatus> {
        let parts = self.provider.as_ref()?;
        let (provider, settings) = (self.core.provider(), &parts.settings);
        let offer = provider.offer();
        let revoked = self.core.revoked().contains(self.core.me());
        Some(ProviderStatus {
            advertised: provider.advertisable().is_some() && !revoked,
            reason: if revoked { Some("its key has been revoked".to_owned()) } else { provider.silent_because() },
            backend: parts.backend.kind(),
            isolation: offer.map_or(protocol::names::Isolation::Simulated, |offer| offer.isolation),
            egress: offer.map_or(Egress::None, |offer| offer.egress),
            offer: offer.map(|offer| offer.total).unwrap_or_default(),
            free: offer.map(|_| provider.ledger().free()).unwrap_or_default(),
            leases: provider.ledger().vms(),
            max_vms: settings.max_vms,
            images: offer.map(|offer| offer.images.keys().cloned().collect()).unwrap_or_default(),
            price_per_hour: settings.price_per_hour,
            currency: settings.currency.clone(),
        })
    }

    pub(super) async fn peers(&self) -> Result<Vec<PeerView>, Fault> {
        let view = |peer: crate::mesh::PeerInfo| PeerView {
            peer_id: peer.peer,
            addrs: peer.addrs,
            agent: peer.agent,
            latency_ms: peer.rtt_ms,
            direction: peer.direction.as_str().to_owned(),
            path: PathView::of(peer.path),
            anchor: peer.anchor,
            connected_s: peer.connected_since.elapsed().unwrap_or_default().as_secs(),
        };
        Ok(self.mesh.peers().await?.into_iter().map(view).collect())
    }

    pub(super) fn providers(&self, asked: &ProviderQuery) -> Vec<ProviderView> {
        let query = board_query(asked);
        let want = query.want;
        let found: Vec<&Entry> = self.core.board().query(clock::now(), &query).collect();
        let dearest = found.iter().map(|entry| entry.advert.terms.price.per_hour).max().unwrap_or_default();
        let mut views: Vec<ProviderView> = found.iter().map(|entry| self.provider_view(entry, want, dearest)).collect();
        match asked.sort.unwrap_or(ProviderSort::Score) {
            ProviderSort::Price => views.sort_by_key(|view| view.price_per_hour),
            ProviderSort::Latency => views.sort_by_key(|view| view.latency_ms.unwrap_or(u64::MAX)),
            ProviderSort::Score => views.sort_by(|a, b| b.score.total_cmp(&a.score)),
        }
        views.truncate(asked.limit.unwrap_or(usize::MAX));
        for view in &mut views {
            view.estimate_ms = self.estimate_ms(view.peer_id, asked.image.as_ref());
        }
        views
    }

    pub(super) fn provider_of(&self, peer: PeerId) -> Result<ProviderView, Fault> {
        let entry = self.core.board().get(clock::now(), peer).ok_or_else(|| {
            Fault::new(ErrorCode::NoSuchResource, format!("no provider {peer} is on the board"))
                .hint("'golemnode provider list --isolation any' shows all")
        })?;
        let view = self.provider_view(entry, Resources::default(), entry.advert.terms.price.per_hour);
        Ok(ProviderView { estimate_ms: self.estimate_ms(peer, None), ..view })
    }

    fn estimate_ms(&self, peer: PeerId, image: Option<&ImageName>) -> Option<u64> {
        let entry = self.core.board().get(clock::now(), peer)?;
        self.core.requestor().estimate_of(entry, image, self.core.revoked()).map(|estimate| estimate.median.0)
    }

    fn provider_view(&self, entry: &Entry, want: Resources, dearest: Amount) -> ProviderView {
        let (terms, peer) = (&entry.advert.terms, entry.advert.provider);
        let mut experience = self.core.requestor().experience(peer, &self.core.revoked().predecessors(peer));
        experience.latency_ms = self.latencies.get(&peer).copied().or(experience.latency_ms);
        ProviderView {
            peer_id: peer,
            name: terms.name.clone(),
            country: terms.country.clone(),
            arch: terms.arch,
            backend: terms.backend.clone(),
            isolation: terms.isolation,
            egress: terms.egress,
            free: terms.free,
            largest: terms.largest,
            overcommit_cpu: terms.overcommit_cpu.factor(),
            price_per_hour: terms.price.per_hour,
            currency: terms.price.currency.clone(),
            images: terms.images.clone(),
            expires_at: clock::rfc3339(entry.expires),
            latency_ms: experience.latency_ms,
            score: (ranking::score(terms, want, dearest, experience) * 1000.0).round() / 1000.0,
            estimate_ms: None,
        }
    }

    pub(super) fn vm_view(&self, rental: &Rental) -> VmView {
        let terms = rental.terms(self.core.network());
        let now = clock::now();
        let status = status_of(rental, now);
        let release = rental.deal.as_ref().and_then(|deal| self.core.requestor().release_of(deal.lease_id));
        let detail = match (status, rental.unreachable_since) {
            (VmStatus::Unknown, _) => {
                let stopped = rental.fault.as_ref().filter(|fault| fault.code == ErrorCode::Unavailable);
                let why = stopped.map_or("provider unreachable", |fault| fault.message.as_str());
                Some(format!("{why}; last seen {}", clock::rfc3339(rental.seen)))
            }
            (VmStatus::Destroying, _) => release.and_then(|release| {
                let why = release.unreachable.as_ref()?;
                Some(format!("the release has not got through yet ({}); it is tried on", why.message))
            }),
            _ => None,
        };
        let resources = rental.resources();
        let user = rental.status.as_ref().map(|status| status.guest_user.clone());
        let user = user.or_else(|| terms.as_ref().map(|terms| terms.guest_user.clone()));
        let provider = rental.deal.as_ref().map(|deal| deal.provider);
        VmView {
            id: rental.create_id.to_string(),
            name: rental.name.clone(),
            status,
            status_detail: detail,
            error: rental.fault.clone().filter(|_| status == VmStatus::Failed || rental.phase == Phase::Leased),
            provider,
            path: provider.and_then(|peer| self.paths.get(&peer)).map(|path| PathView::of(*path)),
            project: rental.project.clone(),
            image: rental.spec.image.clone(),
            cpus: resources.cpus,
            memory_mib: resources.memory_mib,
            disk_gib: resources.disk_gib,
            lease: rental.deal.as_ref().zip(terms.as_ref()).filter(|(deal, _)| deal.active.is_some()).map(
                |(deal, terms)| VmLease {
                    id: deal.lease_id,
                    price_per_hour: rental.costs(self.core.network()).unwrap_or(terms.price.per_hour),
                    currency: terms.price.currency.clone(),
                    expires_at: clock::rfc3339(deal.ends_at),
                    credit_ends_at: rental.status.as_ref().and_then(|said| said.credit_ends).map(clock::rfc3339),
                },
            ),
            ssh: user.map(|user| self.ssh.view(&rental.name, &user, rental.identity_file.as_deref())),
            isolation: terms.as_ref().map(|terms| terms.isolation),
            egress: terms.as_ref().map(|terms| terms.egress).unwrap_or_default(),
            created_at: clock::rfc3339(rental.created),
            timings_ms: timings(rental),
        }
    }

    pub(super) fn lease_views(&self) -> Vec<LeaseView> {
        let rented = self.core.requestor().rentals().filter_map(|rental| self.rented_view(rental));
        let let_out = self.core.provider().ledger().leases().filter_map(|row| self.let_view(row));
        rented.chain(let_out).collect()
    }

    fn rented_view(&self, rental: &Rental) -> Option<LeaseView> {
        let (deal, terms) = (rental.deal.as_ref()?, rental.terms(self.core.network())?);
        let state = match (rental.phase, deal.active.is_some()) {
            (Phase::Releasing | Phase::Failed, _) => "ended",
            (_, true) => "active",
            (_, false) => "provisional",
        };
        let active = deal.active.clone().and_then(|active| active.open::<Active>(self.core.network()).ok());
        Some(LeaseView {
            id: deal.lease_id,
            role: "requestor".into(),
            state: state.into(),
            vm: Some(rental.name.clone()),
            provider: deal.provider,
            requestor: self.core.me(),
            resources: rental.resources(),
            image: rental.spec.image.clone(),
            seed_hash: rental.seed_hash,
            price_per_hour: rental.costs(self.core.network()).unwrap_or(terms.price.per_hour),
            currency: terms.price.currency.clone(),
            started_at: active.map(|active| clock::rfc3339(active.started_at)),
            expires_at: clock::rfc3339(if deal.ends_at.0 > 0 { deal.ends_at } else { deal.provisional_until }),
        })
    }

    fn let_view(&self, row: &LeaseRow) -> Option<LeaseView> {
        let document = row.document(self.core.network()).verify().ok()?;
        let state = match row.stage {
            LeaseStage::Provisional => "provisional",
            LeaseStage::Active => "active",
            LeaseStage::Expired | LeaseStage::Ended => "ended",
        };
        Some(LeaseView {
            id: row.lease_id,
            role: "provider".into(),
            state: state.into(),
            vm: None,
            provider: self.core.me(),
            requestor: row.requestor,
            resources: row.spec.resources,
            image: row.spec.image.clone(),
            seed_hash: row.seed_hash,
            price_per_hour: row.price.as_ref().unwrap_or(&document.quote.price).per_hour,
            currency: document.quote.price.currency.clone(),
            started_at: document.active.as_ref().map(|active| clock::rfc3339(active.started_at)),
            expires_at: clock::rfc3339(if row.ends_at.0 > 0 { row.ends_at } else { row.provisional_until }),
        })
    }
}

pub(super) fn status_of(rental: &Rental, now: Timestamp) -> VmStatus {
    match rental.phase {
        Phase::Discovering | Phase::Quoting | Phase::Accepting => return VmStatus::Pending,
        Phase::Confirming => return VmStatus::Pending,
        Phase::Releasing => return VmStatus::Destroying,
        Phase::Failed => return VmStatus::Failed,
        Phase::Leased => {}
    }
    let Some(status) = &rental.status else { return VmStatus::Pending };
    if rental.unreachable_since.is_some_and(|since| since + UNREACHABLE <= now) {
        return VmStatus::Unknown;
    }
    if status.stage == LeaseStage::Expired {
        return VmStatus::Expired;
    }
    match status.vm {
        VmPhase::Waiting | VmPhase::Provisioning(_) | VmPhase::Booting => VmStatus::Provisioning,
        VmPhase::Running => VmStatus::Running,
        VmPhase::Stopping => VmStatus::Stopping,
        VmPhase::Stopped => VmStatus::Stopped,
        VmPhase::Suspended => VmStatus::Suspended,
        VmPhase::Failed => VmStatus::Failed,
        VmPhase::Destroying => VmStatus::Destroying,
        VmPhase::Gone => VmStatus::Destroyed,
    }
}

fn timings(rental: &Rental) -> Timings {
    let marks = &rental.marks;
    // A stage that has not ended has taken no time yet.
    let span = |from: Timestamp, to: Timestamp| if from.0 > 0 { (to - from).0 } else { 0 };
    Timings {
        discover: span(rental.created, marks.discovered),
        quote: span(marks.discovered, marks.quoted),
        lease: span(marks.quoted, marks.leased),
        provision: span(marks.leased, marks.provisioned),
        boot: span(marks.provisioned, marks.running),
        total: span(rental.created, marks.running),
    }
}

pub(super) fn event_view((id, event): (u64, StoredEvent)) -> EventView {
    EventView {
        id,
        time: clock::rfc3339(Timestamp(event.time_ms)),
        kind: event.kind,
        severity: event.severity,
        message: event.message,
        subject: event.subject,
        details: event.code.map_or(serde_json::json!({}), |code| serde_json::json!({ "code": code })),
    }
}
