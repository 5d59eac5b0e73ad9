//! What is done although nothing happened: deadlines, company, visits that are over, the hourly refresh.
use super::actor::Actor;
use super::anchors::{Anchors, Candidate, Held};
use super::limits;
use super::metrics::count;
use super::names::{from_libp2p, to_libp2p};
use super::neighbours::{Closing, Use};
use super::peer::{DialFor, Peer};
use super::reach::Lookup;
use super::types::*;
use libp2p::kad::QueryInfo;
use libp2p::{Multiaddr, PeerId};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// When to do what next.
pub(super) struct Upkeep {
    search_at: Instant,
    search_delay: Duration,
    refresh_at: Instant,
    /// Pinned peers that were lost.
    redial: HashMap<PeerId, (Instant, Duration)>,
}

impl Upkeep {
    pub fn new(now: Instant) -> Self {
        let refresh_at = now + limits::REFRESH_FIRST.mul_f64(1.0 + jitter());
        Upkeep { search_at: now, search_delay: limits::SEARCH_FIRST, refresh_at, redial: HashMap::new() }
    }
    /// A lookup for company has ended with so many peers that we did not know.
    pub fn searched(&mut self, now: Instant, news: usize) {
        self.search_delay = match news {
            0 => (self.search_delay * 2).min(limits::SEARCH_LAST),
            _ => limits::SEARCH_FIRST,
        };
        self.search_at = now + self.search_delay.mul_f64(0.75 + jitter() / 2.0);
    }
    pub fn lost_pinned(&mut self, now: Instant, peer: PeerId) {
        self.redial.entry(peer).or_insert((now, limits::BOOTSTRAP_FIRST));
    }
    pub fn found_pinned(&mut self, peer: &PeerId) {
        self.redial.remove(peer);
    }
}

/// Chance for choices that nobody must predict or repeat: whom to dial, when to retry. In 0..1.
pub(super) fn jitter() -> f64 {
    (RandomState::new().hash_one(0u8) >> 11) as f64 / (1u64 << 53) as f64
}

/// Those of an earlier run.
pub(super) fn anchors(config: &MeshConfig) -> Anchors<PeerId> {
    let failures = |peer: &PeerId| config.anchors.iter().find(|anchor| to_libp2p(anchor.peer) == *peer);
    let mut held: Vec<Held<PeerId>> = Vec::new();
    for (addr, peer) in super::anchored(config) {
        match held.iter_mut().find(|held| held.peer == peer) {
            Some(known) => known.addrs.push(addr),
            None => {
                let failures = failures(&peer).map_or(0, |anchor| anchor.failures);
                held.push(Held { peer, addrs: vec![addr], failures });
            }
        }
    }
    Anchors::new(Instant::now(), held)
}

impl Actor {
    pub(super) fn on_tick(&mut self, now: Instant) {
        self.expire(now);
        self.look_for_other_ways(now);
        self.forget(now);
        self.take_waiting(now);
        self.dial_anchors(now);
        self.join_again(now);
        self.redial_pinned(now);
        self.seek_company(now);
        self.refresh(now);
        self.end_stray_bootstraps();
        self.tell_vicinity(now);
        self.review(now);
        self.look_around(now);
        self.close_spare(now);
        self.tend_anchors(now);
        self.metrics.connected.store(self.peers.len() as u64, Ordering::Relaxed);
        self.metrics.neighbours.store(self.hood.kept() as u64, Ordering::Relaxed);
    }

    pub(super) fn forget(&mut self, now: Instant) {
        self.reported.retain(|_, at| now.saturating_duration_since(*at) < limits::REPORT_EVERY);
        self.heard.retain(|_, at| now.saturating_duration_since(*at) < limits::ANNOUNCE_EVERY);
        self.limiter.forget_full(now);
        self.site_limiter.forget_full(now);
        self.swarm.behaviour_mut().guard.forget_full(now);
        self.site_tunnels.retain(|_, tunnels| tunnels.get() > 0);
        self.requests.retain(|_, (_, channel)| channel.is_open());
        let late = |since: Instant| now.saturating_duration_since(since) >= limits::JUDGE_WITHIN;
        let before = self.unjudged.len();
        self.unjudged.retain(|_, message| !late(message.since));
        self.metrics.gossip_unjudged.fetch_add((before - self.unjudged.len()) as u64, Ordering::Relaxed);
    }

    /// Also with some company, while more is wanted: whoever joined through another address may have met another part
    /// of the network, and lookups alone never bring the two together.
    pub(super) fn join_again(&mut self, now: Instant) {
        if self.hood.missing() == 0 {
            return;
        }
        let (alone, peers, hood) = (self.hood.kept() == 0, &self.peers, &self.hood);
        let wanted = |peer: Option<&PeerId>| {
            alone || peer.is_none_or(|peer| !peers.contains_key(peer) && !hood.is_avoided(now, peer))
        };
        for index in self.join.due(now, wanted) {
            let target = self.join.target(index);
            let (addr, peer) = (target.addr.clone(), target.peer);
            if let Err((_, why)) = self.dial_addr(addr, peer, DialFor::Join(index)) {
                self.join_failed(now, index, &why);
            }
        }
    }

    pub(super) fn join_failed(&mut self, now: Instant, index: usize, why: &str) {
        if !self.join.failed(now, index, why, jitter()) {
            return;
        }
        let addr = self.join.target(index).addr.to_string();
        tracing::warn!("cannot join through {addr}: {why}; trying again");
        self.emit(MeshEvent::BootstrapFailed { addr, why: why.to_owned() });
    }

    fn redial_pinned(&mut self, now: Instant) {
        let due: Vec<PeerId> =
            self.upkeep.redial.iter().filter(|(_, (at, _))| *at <= now).map(|(peer, _)| *peer).collect();
        for peer in due.into_iter().take(limits::COMPANY_DIALS) {
            if let Some((at, delay)) = self.upkeep.redial.get_mut(&peer) {
                *at = now + *delay;
                *delay = (*delay * 2).min(limits::BOOTSTRAP_LAST);
            }
            if self.dial_known(peer).is_err() {
                // No address, or none that works: the DHT may know one. If not, it is tried again later.
                self.look_up(Lookup::Find(peer));
            }
        }
    }

    pub(super) fn seek_company(&mut self, now: Instant) {
        let dialling: HashSet<PeerId> = self
            .dials
            .values()
            .filter_map(|purpose| match purpose {
                DialFor::Company(peer) => Some(*peer),
                _ => None,
            })
            .collect();
        let missing = self.hood.missing().saturating_sub(dialling.len()).min(limits::COMPANY_DIALS);
        if missing == 0 {
            return;
        }
        let guard = &self.swarm.behaviour().guard;
        let fit = |peer: &&PeerId| {
            // By a relay nobody is visited for company.
            self.book.has_direct(peer)
                && !self.peers.contains_key(*peer)
                && !dialling.contains(*peer)
                && !self.hood.is_avoided(now, peer)
                && !guard.is_banned(peer)
        };
        let mut candidates: Vec<PeerId> = self.book.peers().filter(fit).copied().collect();
        if candidates.is_empty() {
            return self.search(now);
        }
        for _ in 0..missing.min(candidates.len()) {
            let chosen = candidates.swap_remove((jitter() * candidates.len() as f64) as usize);
            self.dial_for_company(now, chosen);
        }
    }

    fn dial_for_company(&mut self, now: Instant, peer: PeerId) {
        use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(self.book.of(&peer).into_iter().filter(super::book::is_direct).collect())
            .build();
        let connection = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                count(&self.metrics.dials);
                self.dials.insert(connection, DialFor::Company(peer));
            }
            Err(_) => self.hood.avoid(now, peer),
        }
    }

    /// A one-shot command waits first: it is done before a lookup would help it.
    fn search(&mut self, now: Instant) {
        let old_enough = |since: Instant| self.server || now.saturating_duration_since(since) >= limits::SEARCH_FIRST;
        let somebody = self.peers.values().any(|peer| peer.serves_dht && old_enough(peer.connected_at));
        let searching = self.reach.lookups.values().any(|lookup| *lookup == Lookup::Search);
        if somebody && !searching && self.upkeep.search_at <= now && !self.look_up(Lookup::Search) {
            self.upkeep.searched(now, 0);
        }
    }

    fn refresh(&mut self, now: Instant) {
        if self.server && self.upkeep.refresh_at <= now && self.look_up(Lookup::Refresh) {
            self.upkeep.refresh_at = now + limits::REFRESH.mul_f64(0.75 + jitter() / 2.0);
        }
    }

    /// The library starts a bootstrap whenever a small table grows, and has no switch for it.
    fn end_stray_bootstraps(&mut self) {
        for mut query in self.swarm.behaviour_mut().kad.iter_queries_mut() {
            if matches!(query.info(), QueryInfo::Bootstrap { .. }) {
                query.finish();
            }
        }
    }

    fn review(&mut self, now: Instant) {
        let behaviour = self.swarm.behaviour();
        let meshed: HashSet<PeerId> = behaviour.gossip.all_mesh_peers().copied().collect();
        let (peers, partners, relaying) = (&self.peers, &self.partners, behaviour.relaying.as_ref());
        let called = |peer: &PeerId| partners.contains(peer) || relaying.is_some_and(|relaying| relaying.holds(peer));
        let closing = self.hood.review(now, |peer| Use {
            busy: called(peer) || peers.get(peer).is_some_and(|known| known.rpcs > 0 || known.tunnels.get() > 0),
            in_gossip_mesh: meshed.contains(peer),
        });
        for (peer, why) in closing {
            count(match why {
                Closing::Surplus => &self.metrics.pruned,
                Closing::Evicted => &self.metrics.evicted,
            });
            self.close(&peer);
        }
        // Visitors for whom there was room in the end.
        let untold = self.peers.iter().filter(|(_, known)| known.identified && !known.told);
        let untold: Vec<PeerId> = untold.map(|(peer, _)| *peer).collect();
        untold.into_iter().for_each(|peer| self.tell_of(peer));
        let silent =
            |known: &Peer| !known.identified && now.saturating_duration_since(known.connected_at) >= limits::VISIT;
        let silent: Vec<PeerId> = self.peers.iter().filter(|(_, p)| silent(p)).map(|(peer, _)| *peer).collect();
        for peer in silent {
            self.refuse(peer, Refused::OtherNetwork);
            self.close(&peer);
        }
    }

    pub(super) fn pin(&mut self, peer: PeerId) {
        if self.pinned.len() >= limits::MAX_PINNED || !self.pinned.insert(peer) {
            return;
        }
        let now = Instant::now();
        self.swarm.behaviour_mut().guard.exempt(peer);
        self.swarm.behaviour_mut().guard.spare(peer);
        self.hood.set_exempt(now, &peer, true);
        self.tell_of(peer);
        if !self.peers.contains_key(&peer) {
            self.upkeep.lost_pinned(now, peer);
        }
    }

    pub(super) fn unpin(&mut self, peer: PeerId) {
        self.upkeep.found_pinned(&peer);
        if !self.pinned.remove(&peer) {
            return;
        }
        let guard = &mut self.swarm.behaviour_mut().guard;
        guard.spare_no_longer(&peer);
        if guard.is_banned(&peer) {
            self.close(&peer);
        }
        self.exempt_no_longer(&peer);
    }

    fn exempt_no_longer(&mut self, peer: &PeerId) {
        if !self.is_exempt(peer) {
            self.swarm.behaviour_mut().guard.unexempt(peer);
            self.hood.set_exempt(Instant::now(), peer, false);
        }
    }

    /// Before those that we were told to join through: what they lead to is what others say.
    pub(super) fn dial_anchors(&mut self, now: Instant) {
        use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
        let (alone, peers) = (self.hood.kept() == 0, &self.peers);
        for (peer, addrs) in self.anchors.due(now, alone, |peer| peers.contains_key(peer)) {
            let condition = PeerCondition::DisconnectedAndNotDialing;
            let opts = DialOpts::peer_id(peer).condition(condition).addresses(addrs).build();
            let connection = opts.connection_id();
            // Err: it is being dialled already, or there are too many dials; it is tried again.
            if self.swarm.dial(opts).is_ok() {
                count(&self.metrics.dials);
                self.dials.insert(connection, DialFor::Anchor(peer));
            }
        }
    }

    pub(super) fn anchor_failed(&mut self, peer: &PeerId) {
        let alone = self.hood.kept() == 0;
        if self.anchors.failed(peer, alone) {
            self.exempt_no_longer(peer);
        }
    }

    fn tend_anchors(&mut self, now: Instant) {
        if self.anchors.lacks(now) {
            for peer in self.anchors.choose(now, self.anchor_candidates()) {
                self.swarm.behaviour_mut().guard.exempt(peer);
                self.hood.set_exempt(now, &peer, true);
            }
        }
        let Some(held) = self.anchors.news() else { return };
        let told = held.into_iter().filter_map(|held| {
            let addrs = held.addrs.iter().map(Multiaddr::to_string).collect();
            Some(Anchor { peer: from_libp2p(&held.peer)?, addrs, failures: held.failures })
        });
        let told = told.collect();
        self.emit(MeshEvent::Anchors(told));
    }

    /// Neighbours that serve, at addresses in the network that they were met in. Who we are told to join through is dialled
    /// anyway, and who came through a hole cannot be dialled.
    fn anchor_candidates(&self) -> Vec<Candidate<PeerId>> {
        let fit = |peer: &PeerId, known: &Peer| {
            known.identified && known.serves_dht && self.hood.keeps(peer) && !self.join.is_bootstrap(peer)
        };
        let candidate = |(peer, known): (&PeerId, &Peer)| {
            let link = known.best().filter(|link| !link.spare && !link.punched && fit(peer, known))?;
            let ip = link.direct_ip()?;
            let dialled = (!link.inbound).then_some(&link.addr);
            let there = dialled.into_iter().chain(&known.listen).filter(|addr| super::book::ip_of(addr) == Some(ip));
            let mut addrs: Vec<Multiaddr> = there.filter_map(|addr| addr.clone().with_p2p(*peer).ok()).collect();
            addrs.dedup();
            addrs.truncate(limits::MAX_ADDRS_PER_PEER);
            Some(Candidate { peer: *peer, ip, outbound: !link.inbound, since: known.connected_at, addrs })
        };
        self.peers.iter().filter_map(candidate).collect()
    }

    pub(super) fn ban(&mut self, peer: PeerId) {
        self.swarm.behaviour_mut().guard.ban(peer);
        // The tunnels of a lease that runs go over this connection: whoever rents from us has paid for them, and where
        // we rent it is our own guest that we would cut off, and leave running. What it sends is refused as before;
        // `unpin` closes it.
        if self.pinned.contains(&peer) {
            return;
        }
        self.book.forget(&peer);
        if self.anchors.give_up(&peer) {
            self.exempt_no_longer(&peer);
        }
        self.close(&peer);
    }
}
