//! Reachability, as the swarm sees it: what is told to `reachability` and `relays`, and what follows from what they
//! answer.
//!
//! Who serves the DHT: a full node that others can reach, and one that cannot know it yet. A node that is known to be
//! unreachable only asks: lookups that end at it would wait for nothing. One that cannot know serves, because in a
//! mesh of two, or in a laboratory, there would be nobody else; it is some seconds until the first test of whoever
//! dials somebody, and those whom nobody has ever reached are in nobody's table but their neighbours'.
use super::actor::Actor;
use super::book;
use super::limits;
use super::metrics::count;
use super::reachability::{Due, Evidence, Gateway, Place, Report, Scope, Visit, subnet};
use super::relays::{Offer, Relays};
use super::types::*;
use super::upkeep::jitter;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::{Multiaddr, Protocol};
use libp2p::swarm::ConnectionId;
use libp2p::{PeerId, autonat, dcutr, kad, relay, upnp};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What was announced: state, reason, addresses.
type Announced = (Reachability, String, Vec<String>);

#[derive(Default)]
pub(super) struct Nat {
    evidence: Evidence<PeerId>,
    relays: Relays<PeerId, ListenerId>,
    state: Reachability,
    assume: Option<Reachability>,
    /// Those that the swarm was told, and tells others.
    confirmed: Vec<Multiaddr>,
    mapped: Vec<Multiaddr>,
    announced: Option<Announced>,
}

impl Nat {
    pub fn new(assume: Option<Reachability>) -> Self {
        Nat { assume, ..Nat::default() }
    }
    pub fn calls_by(&self, relay: &PeerId) -> bool {
        self.relays.uses(relay)
    }
}

fn place(addr: &Multiaddr) -> Option<Place> {
    let ip = book::ip_of(addr).filter(|ip| !ip.is_unspecified() && book::is_direct(addr))?;
    Some(Place { ip, addr: without_id(addr).to_string() })
}

fn without_id(addr: &Multiaddr) -> Multiaddr {
    addr.iter().take_while(|part| !matches!(part, Protocol::P2p(_))).collect()
}

impl Actor {
    pub(super) fn on_tested(&mut self, event: autonat::v2::client::Event) {
        let ok = event.result.is_ok();
        tracing::debug!(addr = %event.tested_addr, by = %event.server, ok, "tested from outside");
        let from = self.peers.get(&event.server).and_then(|peer| peer.links.iter().find_map(|link| link.direct_ip()));
        if let (Some(place), Some(from)) = (place(&event.tested_addr), from) {
            self.nat.evidence.tested(Instant::now(), place, event.server, from, ok);
            self.judge_reachability();
        }
    }

    pub(super) fn on_gateway(&mut self, event: upnp::Event) {
        match event {
            upnp::Event::NewExternalAddr { external_addr: addr, .. } => {
                tracing::info!(%addr, "the router forwards a port");
                if self.nat.mapped.len() < limits::MAX_EXTERNAL && !self.nat.mapped.contains(&addr) {
                    self.nat.mapped.push(addr.clone());
                    // The library has told the swarm already; it is taken back with the others if it proves wrong.
                    self.nat.confirmed.push(addr.clone());
                }
                if let Some(place) = place(&addr) {
                    self.nat.evidence.mapped(place);
                }
            }
            upnp::Event::ExpiredExternalAddr { external_addr: addr, .. } => {
                self.nat.mapped.retain(|known| *known != addr);
                self.nat.evidence.unmapped(&without_id(&addr).to_string());
            }
            upnp::Event::GatewayNotFound => self.nat.evidence.gateway(Gateway::Absent),
            upnp::Event::NonRoutableGateway => self.nat.evidence.gateway(Gateway::Unroutable),
        }
        self.judge_reachability();
    }

    /// A peer has said where it sees us: over a connection of its own making that is where it has reached us.
    pub(super) fn seen_at(&mut self, now: Instant, peer: PeerId, connection: ConnectionId, addr: Multiaddr) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let Some(link) = known.links.iter().find(|link| link.id == connection && link.relay.is_none()) else { return };
        let Some(from) = link.direct_ip() else { return };
        let fresh = now.saturating_duration_since(link.since) < limits::RETEST_SOON;
        let own = link.local.as_ref().and_then(place).filter(|own| Scope::of(own.ip) >= Scope::of(from));
        let (inbound, addr) = (link.inbound, without_id(&addr));
        if book::is_direct(&addr) && addr.len() <= limits::MAX_ADDR_BYTES {
            known.sees_us_at(addr.clone(), inbound);
        }
        let sought = self.swarm.behaviour().prober.has_sought(now, from);
        if let Some(place) = own.or_else(|| place(&addr)).filter(|_| inbound) {
            self.nat.evidence.came_in(now, place, Visit { by: peer, from, sought, fresh });
        }
        self.nat.evidence.met(now, from);
        self.judge_reachability();
    }

    pub(super) fn on_reserved(&mut self, event: relay::client::Event) {
        if let relay::client::Event::ReservationReqAccepted { relay_peer_id: relay, renewal, .. } = event {
            tracing::debug!(%relay, renewal, "called by a relay");
            self.nat.relays.granted(&relay);
            self.judge_reachability();
        }
    }

    /// True if it was a relay's: nothing listens there on this machine.
    pub(super) fn on_called_at(&mut self, listener: ListenerId, addr: &Multiaddr) -> bool {
        if !book::is_relayed(addr) {
            return false;
        }
        // The relay chose what to say; only what leads to it, and as far as we are met from, is of use.
        let scope = book::ip_of(addr).map(Scope::of);
        if addr.len() <= limits::MAX_ADDR_BYTES && scope >= Some(self.nat.evidence.horizon()) {
            self.nat.relays.called_at(listener, addr.to_string());
            self.judge_reachability();
        }
        true
    }

    /// True if it was a relay's.
    pub(super) fn on_relay_lost(&mut self, listener: ListenerId, why: Option<&std::io::Error>) -> bool {
        let now = Instant::now();
        let Some(relay) = self.nat.relays.ended(now, listener) else { return false };
        tracing::debug!(%relay, ?why, "a relay no longer calls us");
        self.release_relay(now, relay);
        self.seek_relays(now);
        self.judge_reachability();
        true
    }

    pub(super) fn on_relaying(&mut self, event: relay::Event) {
        use relay::StatusCode::ResourceLimitExceeded as Full;
        match event {
            relay::Event::ReservationReqDenied { src_peer_id: peer, status: Full, .. }
            | relay::Event::CircuitReqDenied { src_peer_id: peer, status: Full, .. } => {
                self.refuse(peer, Refused::Relay);
            }
            _ => {}
        }
    }

    pub(super) fn on_punched(&mut self, event: dcutr::Event) {
        let peer = event.remote_peer_id;
        match event.result {
            Ok(connection) => {
                count(&self.metrics.punched);
                tracing::debug!(%peer, "a hole is punched");
                let links = self.peers.get_mut(&peer).map(|known| &mut known.links);
                if let Some(link) = links.into_iter().flatten().find(|link| link.id == connection) {
                    link.punched = true;
                }
            }
            Err(error) => {
                count(&self.metrics.punches_failed);
                tracing::debug!(%peer, %error, "no hole could be punched");
            }
        }
    }

    pub(super) fn look_around(&mut self, now: Instant) {
        let links = self.peers.values().filter(|peer| peer.identified).flat_map(|peer| &peer.links);
        links.filter_map(|link| link.direct_ip()).for_each(|ip| self.nat.evidence.met(now, ip));
        self.nat.evidence.forget(now);
        self.offer_candidates();
        if let Some(due) = self.nat.evidence.test_due(now, jitter()) {
            let evidence = &self.nat.evidence;
            let wanted = |addr: &Multiaddr| due == Due::All || !evidence.is_settled(&addr.to_string());
            self.swarm.behaviour_mut().prober.retest(wanted);
        }
        if let Some(dialback) = self.swarm.behaviour_mut().dialback.as_mut() {
            dialback.give_up(now);
        }
        self.swarm.behaviour_mut().punch.try_again(now);
        for (relay, listener) in self.nat.relays.silent(now) {
            self.swarm.remove_listener(listener);
            self.release_relay(now, relay);
        }
        self.judge_reachability();
        self.seek_relays(now);
        if let Some(relaying) = self.swarm.behaviour().relaying.as_ref() {
            let counters = [
                (&self.metrics.relaying, u64::from(self.nat.state == Reachability::Public)),
                (&self.metrics.relay_reservations, relaying.reservations() as u64),
                (&self.metrics.relay_circuits, relaying.circuits() as u64),
                (&self.metrics.relay_bytes, relaying.carried()),
            ];
            counters.into_iter().for_each(|(counter, value)| counter.store(value, Ordering::Relaxed));
        }
    }

    /// What is to be tested, and what is told to those who punch a hole towards us.
    pub(super) fn offer_candidates(&mut self) {
        let horizon = self.nat.evidence.horizon();
        let listening: Vec<Multiaddr> = self.swarm.listeners().filter(|addr| book::is_direct(addr)).cloned().collect();
        let mut places: Vec<Place> = listening.iter().filter_map(place).collect();
        places.sort();
        self.nat.evidence.listens(places);

        // One network is one voice.
        let mut voices: HashMap<Multiaddr, HashSet<IpAddr>> = HashMap::new();
        let (mut holes, mut guesses) = (Vec::new(), Vec::new());
        for peer in self.peers.values().filter(|peer| peer.identified) {
            let Some(from) = peer.links.iter().find_map(|link| link.direct_ip()) else { continue };
            for (seen, dialled) in peer.observed.iter().filter(|(seen, _)| reaches(seen, horizon)) {
                holes.push(seen.clone());
                guesses.extend(by_the_other_transport(seen, &listening));
                let ours = if *dialled { vec![seen.clone()] } else { as_listened(seen, &listening) };
                ours.into_iter().for_each(|addr| {
                    voices.entry(addr).or_default().insert(subnet(from));
                });
            }
        }
        let mut voices: Vec<(usize, Multiaddr)> = voices.into_iter().map(|(addr, by)| (by.len(), addr)).collect();
        voices.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        // Of our own interfaces only those of the world: another site has the same private ones.
        let own = listening.iter().filter(|addr| reaches(addr, Scope::World) && horizon == Scope::World).cloned();
        let mut candidates: Vec<Multiaddr> = Vec::new();
        let seen = voices.into_iter().map(|(_, addr)| addr);
        for addr in seen.chain(self.nat.mapped.iter().cloned()).chain(own).chain(guesses) {
            if !candidates.contains(&addr) && candidates.len() < limits::MAX_CANDIDATES {
                candidates.push(addr);
            }
        }
        holes.extend(candidates.iter().cloned());
        holes.sort();
        holes.dedup();
        holes.truncate(limits::PUNCH_ADDRS);
        self.swarm.behaviour_mut().prober.consider(candidates, horizon);
        self.swarm.behaviour_mut().punch.candidates(holes);
    }

    fn judge_reachability(&mut self) {
        let mut report = self.nat.evidence.report();
        report.state = self.nat.assume.unwrap_or(report.state);
        if report.state != self.nat.state {
            tracing::debug!(state = report.state.as_str(), why = report.why, "reachability");
        }
        self.nat.state = report.state;
        self.tell_swarm(&report);
        let announced = (report.state, report.why.clone(), self.announced_addrs(&report));
        if self.nat.announced.as_ref() != Some(&announced) {
            self.nat.announced = Some(announced.clone());
            let (state, why, addrs) = announced;
            self.emit(MeshEvent::Reachability { state, why, addrs });
        }
    }

    fn tell_swarm(&mut self, report: &Report) {
        let direct: Vec<Multiaddr> = report.direct.iter().filter_map(|addr| addr.parse().ok()).collect();
        for addr in direct.iter().filter(|addr| !self.nat.confirmed.contains(addr)) {
            self.swarm.add_external_address(addr.clone());
        }
        for addr in self.nat.confirmed.iter().filter(|addr| !direct.contains(addr)) {
            self.swarm.remove_external_address(addr);
        }
        self.nat.confirmed = direct;
        let public = report.state == Reachability::Public;
        let mode =
            if self.server && report.state != Reachability::Private { kad::Mode::Server } else { kad::Mode::Client };
        let behaviour = self.swarm.behaviour_mut();
        if behaviour.kad.mode() != mode {
            behaviour.kad.set_mode(Some(mode));
        }
        if let Some(relaying) = behaviour.relaying.as_mut() {
            relaying.offer(public);
        }
    }

    /// Confirmed ones, then those of relays.
    fn announced_addrs(&self, report: &Report) -> Vec<String> {
        let direct = report.direct.iter().filter_map(|addr| addr.parse().ok()).map(|addr| self.with_id(&addr));
        let short = |addr: &String| addr.len() <= limits::ANNOUNCED_BYTES;
        direct.chain(self.nat.relays.addrs()).filter(short).take(limits::ANNOUNCED).collect()
    }

    /// Where others reach us; while nobody knows, where they say that they see us.
    pub(super) fn external_addrs(&self) -> Vec<String> {
        let known = self.nat.announced.as_ref().map(|(_, _, addrs)| addrs.clone()).unwrap_or_default();
        if !known.is_empty() || self.nat.state != Reachability::Unknown {
            return known;
        }
        let seen = self.peers.values().flat_map(|peer| &peer.observed);
        let mut seen: Vec<String> = seen.map(|(addr, _)| self.with_id(addr)).collect();
        seen.sort();
        seen.dedup();
        seen.truncate(limits::MAX_EXTERNAL);
        seen
    }

    fn seek_relays(&mut self, now: Instant) {
        match self.nat.state {
            Reachability::Public => {
                for (relay, listener) in self.nat.relays.drop_all() {
                    self.swarm.remove_listener(listener);
                    self.release_relay(now, relay);
                }
            }
            Reachability::Private if self.server => {
                let offers = self.relay_offers();
                while let Some(relay) = self.nat.relays.choose(now, &offers) {
                    if !self.reserve_at(now, relay, &offers) {
                        break;
                    }
                }
            }
            _ => {}
        }
    }

    /// Neighbours that relay, those who have been with us longest first.
    fn relay_offers(&self) -> Vec<Offer<PeerId>> {
        let mut offers: Vec<(Instant, Offer<PeerId>)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.relays && peer.identified && !peer.closing)
            .filter_map(|(id, peer)| {
                let ip = peer.links.iter().filter(|link| !link.spare).find_map(|link| link.direct_ip())?;
                Some((peer.connected_at, Offer { relay: *id, ip }))
            })
            .collect();
        offers.sort_by_key(|(since, offer)| (*since, offer.relay));
        offers.into_iter().map(|(_, offer)| offer).collect()
    }

    fn reserve_at(&mut self, now: Instant, relay: PeerId, offers: &[Offer<PeerId>]) -> bool {
        let (Some(offer), Some(known)) = (offers.iter().find(|offer| offer.relay == relay), self.peers.get(&relay))
        else {
            return false;
        };
        let dialled = known.links.iter().filter(|link| !link.inbound).map(|link| &link.addr);
        let Some(addr) = known.listen.iter().chain(dialled).find(|addr| book::is_direct(addr)) else { return false };
        let by = without_id(addr).with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        let Ok(listener) = self.swarm.listen_on(by) else { return false };
        self.nat.relays.asked(now, *offer, listener);
        self.swarm.behaviour_mut().guard.exempt(relay);
        self.hood.set_exempt(now, &relay, true);
        true
    }

    fn release_relay(&mut self, now: Instant, relay: PeerId) {
        if !self.is_exempt(&relay) {
            self.swarm.behaviour_mut().guard.unexempt(&relay);
            self.hood.set_exempt(now, &relay, false);
        }
    }

    /// Kept beyond the bound: leased peers, those we join through, those who call us, and the few we go back to.
    pub(super) fn is_exempt(&self, peer: &PeerId) -> bool {
        let told = self.pinned.contains(peer) || self.join.is_bootstrap(peer);
        told || self.nat.calls_by(peer) || self.anchors.is_one(peer)
    }
}

fn reaches(addr: &Multiaddr, scope: Scope) -> bool {
    book::ip_of(addr).is_some_and(|ip| Scope::of(ip) >= scope)
}

/// Who is met over TCP alone does not see where QUIC comes out; most routers keep the port while they can.
fn by_the_other_transport(seen: &Multiaddr, listening: &[Multiaddr]) -> Vec<Multiaddr> {
    let is_tcp = |addr: &Multiaddr| matches!(addr.iter().nth(1), Some(Protocol::Tcp(_)));
    let others: Vec<Multiaddr> = listening.iter().filter(|addr| is_tcp(addr) != is_tcp(seen)).cloned().collect();
    moved(seen, &others)
}

/// An address that is seen has our listener's port when it was dialled from there and the router kept it; any other
/// port is the router's, and only the address is ours.
fn as_listened(seen: &Multiaddr, listening: &[Multiaddr]) -> Vec<Multiaddr> {
    let kind = |addr: &Multiaddr| addr.iter().nth(1).map(|part| part.tag());
    let alike: Vec<Multiaddr> = listening.iter().filter(|addr| kind(addr) == kind(seen)).cloned().collect();
    let found = moved(seen, &alike);
    if found.contains(seen) { vec![seen.clone()] } else { found }
}

/// Our listeners of the same version of IP, at the address that is seen.
fn moved(seen: &Multiaddr, listening: &[Multiaddr]) -> Vec<Multiaddr> {
    let Some(ip) = seen.iter().next() else { return Vec::new() };
    let is_v4 = |addr: &Multiaddr| book::ip_of(addr).map(|ip| ip.is_ipv4());
    let alike = listening.iter().filter(|addr| is_v4(addr) == is_v4(seen));
    let mut found: Vec<Multiaddr> =
        alike.map(|addr| std::iter::once(ip.clone()).chain(addr.iter().skip(1)).collect()).collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs<const N: usize>(text: [&str; N]) -> Vec<Multiaddr> {
        text.map(|addr| addr.parse().unwrap()).to_vec()
    }

    #[test]
    fn what_is_seen_leads_to_our_listeners() {
        let listening = addrs([
            "/ip4/127.0.0.1/tcp/4001",
            "/ip4/192.168.1.2/tcp/4001",
            "/ip4/192.168.1.2/udp/4002/quic-v1",
            "/ip6/fd00::2/tcp/4001",
        ]);
        let seen = |text: &str| text.parse::<Multiaddr>().unwrap();
        let kept = seen("/ip4/192.0.2.7/tcp/4001");
        for text in ["/ip4/192.0.2.7/tcp/4001", "/ip4/192.0.2.7/tcp/60001"] {
            let found = as_listened(&seen(text), &listening);
            assert_eq!(found, addrs(["/ip4/192.0.2.7/tcp/4001"]), "another port is the router's");
        }
        assert!(
            as_listened(&seen("/ip6/2001:db8::7/udp/1/quic-v1"), &listening).is_empty(),
            "nothing listens like that"
        );
        assert_eq!(by_the_other_transport(&kept, &listening), addrs(["/ip4/192.0.2.7/udp/4002/quic-v1"]));
    }
}
