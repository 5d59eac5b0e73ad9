//! What the swarm reports, and what follows from it.
use super::actor::{Actor, Unjudged};
use super::behaviour::BehaviourEvent;
use super::codec::{Request, Response};
use super::guard::Denied;
use super::limits;
use super::metrics::count;
use super::names::{from_libp2p, to_libp2p};
use super::peer::{DialFor, Peer};
use super::reach::describe;
use super::streams::{Count, Counted};
use super::tunnels::TunnelEvent;
use super::types::*;
use libp2p::core::ConnectedPoint;
use libp2p::kad::{self, GetClosestPeersError, QueryResult};
use libp2p::request_response::{self, Message, ResponseChannel};
use libp2p::swarm::{ConnectionId, DialError, ListenError, Stream, SwarmEvent};
use libp2p::{Multiaddr, PeerId, gossipsub, identify, mdns, ping, relay};
use std::time::{Instant, SystemTime};

impl Actor {
    pub(super) fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, endpoint)
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed(peer_id, connection_id, num_established)
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, error)
            }
            SwarmEvent::IncomingConnectionError { peer_id, error, .. } => self.on_accept_failed(peer_id, error),
            SwarmEvent::NewListenAddr { listener_id, address } if !self.on_called_at(listener_id, &address) => {
                let addr = self.with_id(&address);
                self.emit(MeshEvent::Listening(addr));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_listen_closed(&address),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                if self.on_relay_lost(listener_id, reason.as_ref().err()) {
                    return;
                }
                if let Err(why) = reason {
                    tracing::warn!("a listener ended: {why}");
                }
                addresses.iter().for_each(|address| self.on_listen_closed(address));
            }
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, connection_id, info }) => {
                self.on_identified(peer_id, connection_id, info)
            }
            BehaviourEvent::Ping(event) => self.on_ping(event),
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, step, .. }) => {
                self.on_query(id, result, step.last)
            }
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Control(event) => self.on_control(event),
            BehaviourEvent::Tunnels(TunnelEvent::Inbound { peer, connection, stream }) => {
                self.on_tunnel(peer, connection, stream)
            }
            BehaviourEvent::Tunnels(TunnelEvent::Opened { opening, connection, stream }) => {
                self.on_tunnel_opened(opening, connection, stream)
            }
            BehaviourEvent::Tunnels(TunnelEvent::Failed { opening, error }) => self.on_tunnel_failed(opening, error),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                let local = to_libp2p(self.local);
                found.into_iter().filter(|(peer, _)| *peer != local).for_each(|(peer, addr)| self.book.add(peer, addr));
                self.seek_company(Instant::now());
            }
            BehaviourEvent::Prober(event) => self.on_tested(event),
            BehaviourEvent::Upnp(event) => self.on_gateway(event),
            BehaviourEvent::Called(event) => self.on_reserved(event),
            BehaviourEvent::Relaying(event) => self.on_relaying(event),
            BehaviourEvent::Punch(event) => self.on_punched(event),
            _ => {}
        }
    }

    fn on_listen_closed(&mut self, address: &Multiaddr) {
        if super::book::is_relayed(address) {
            return;
        }
        let addr = self.with_id(address);
        self.emit(MeshEvent::ListenClosed(addr));
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: ConnectedPoint) {
        count(&self.metrics.connections_opened);
        let now = Instant::now();
        // The guard lets no other key in.
        let Some(id) = from_libp2p(&peer) else { return };
        let mut wanted = false;
        match self.dials.remove(&connection) {
            Some(DialFor::Join(index)) => {
                self.join.connected(now, index, peer);
                wanted = true;
            }
            Some(DialFor::Company(_) | DialFor::Anchor(_)) => wanted = true,
            Some(DialFor::Command(done)) => {
                wanted = true;
                let _ = done.send(Ok(id));
            }
            None => {}
        }
        let exempt = self.is_exempt(&peer);
        if exempt {
            self.swarm.behaviour_mut().guard.exempt(peer);
        }
        self.upkeep.found_pinned(&peer);
        let direction = if endpoint.is_dialer() { Direction::Outbound } else { Direction::Inbound };
        self.peers.entry(peer).or_insert_with(|| Peer {
            id,
            links: Vec::new(),
            direction,
            since: SystemTime::now(),
            connected_at: now,
            listen: Vec::new(),
            observed: Vec::new(),
            relays: false,
            announced: None,
            agent: None,
            rtt: None,
            identified: false,
            told: false,
            serves_dht: false,
            subscribed: false,
            tunnels: Count::default(),
            rpcs: 0,
            closing: false,
        });
        self.hood.connected(now, peer, direction == Direction::Inbound, wanted, exempt);
        self.linked(now, peer, connection, &endpoint);
        self.flush(peer);
        self.reopen_suspect(peer);
    }

    fn on_closed(&mut self, peer: PeerId, connection: ConnectionId, remaining: u32) {
        count(&self.metrics.connections_closed);
        if remaining > 0 {
            return self.unlinked(Instant::now(), peer, connection);
        }
        let (now, known) = (Instant::now(), self.peers.remove(&peer));
        let by_us = known.as_ref().is_some_and(|known| known.closing);
        self.hood.disconnected(now, &peer, by_us);
        self.lost(peer);
        if self.pinned.contains(&peer) && !by_us {
            self.upkeep.lost_pinned(now, peer);
        }
        if let Some(known) = known.filter(|known| known.told) {
            self.emit(MeshEvent::PeerDisconnected(known.id));
        }
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, peer: Option<PeerId>, error: DialError) {
        count(&self.metrics.dials_failed);
        let (now, why) = (Instant::now(), describe(&error));
        match self.dials.remove(&connection) {
            Some(DialFor::Join(index)) => self.join_failed(now, index, &why),
            Some(DialFor::Company(peer)) => self.hood.avoid(now, peer),
            Some(DialFor::Anchor(peer)) => self.anchor_failed(&peer),
            Some(DialFor::Command(done)) => {
                let _ = done.send(Err(MeshError::Unreachable(why.clone())));
            }
            None => {}
        }
        if let DialError::Denied { cause } = &error
            && let (Some(peer), Some(Denied(why))) = (peer, cause.downcast_ref::<Denied>())
        {
            self.refuse(peer, *why);
        }
        // A second dial that was not needed says nothing about the first.
        if let Some(peer) = peer
            && !matches!(error, DialError::DialPeerConditionFalse(_))
        {
            self.not_reached(peer, &why);
        }
    }

    fn on_accept_failed(&mut self, peer: Option<PeerId>, error: ListenError) {
        let ListenError::Denied { cause } = &error else { return };
        let Some(Denied(why)) = cause.downcast_ref::<Denied>() else { return };
        match peer {
            Some(peer) => self.refuse(peer, *why),
            None => self.metrics.refuse(*why),
        }
    }

    fn on_identified(&mut self, peer: PeerId, connection: ConnectionId, info: identify::Info) {
        let now = Instant::now();
        if !info.protocols.contains(&self.names.control) {
            let version = protocol::text::plain(&info.protocol_version, limits::MAX_AGENT);
            tracing::debug!(%peer, version, "not of this network");
            self.refuse(peer, Refused::OtherNetwork);
            self.hood.avoid(now, peer);
            self.book.forget(&peer);
            self.anchors.give_up(&peer);
            if let Some(index) = self.join.index_of(&peer) {
                self.join_failed(now, index, "the node there belongs to another network");
            }
            return self.close(&peer);
        }
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let Some(link) = known.link(connection) else { return };
        let listen = super::book::reachable(info.listen_addrs, &link.addr);
        let agent: String = protocol::text::plain(&info.agent_version, limits::MAX_AGENT);
        known.agent = Some(agent);
        let serves = info.protocols.contains(&self.names.kad);
        known.relays = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        if known.serves_dht && !serves {
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
        }
        let first = !std::mem::replace(&mut known.identified, true);
        let news = first || known.listen != listen || known.serves_dht != serves;
        known.serves_dht = serves;
        known.announced = news.then_some(listen);
        if first {
            self.join.confirmed(&peer);
            self.anchors.reached(&peer);
        }
        self.tell_of(peer);
        self.take_announced(now, peer);
        self.seen_at(now, peer, connection, info.observed_addr);
        if first {
            self.seek_company(now);
            self.offer_candidates();
        }
    }

    /// The node hears of a peer once it has identified itself and is no visitor: with visitors, of which every lookup
    /// makes a dozen, it has nothing to do unless they ask.
    pub(super) fn tell_of(&mut self, peer: PeerId) {
        let kept = self.hood.keeps(&peer);
        let Some(known) = self.peers.get_mut(&peer).filter(|known| kept && known.identified && !known.told) else {
            return;
        };
        known.told = true;
        let (id, subscribed) = (known.id, known.subscribed);
        self.emit(MeshEvent::PeerConnected(id));
        if subscribed {
            self.emit(MeshEvent::PeerSubscribed(id));
        }
        self.tell_where(peer);
    }

    fn on_ping(&mut self, event: ping::Event) {
        match event.result {
            Ok(rtt) => {
                self.trust(Instant::now(), &event.peer, event.connection);
                if let Some(known) = self.peers.get_mut(&event.peer) {
                    known.rtt = Some(rtt);
                }
            }
            // TCP alone would notice a silent peer after a quarter of an hour.
            Err(ping::Failure::Timeout) => {
                self.swarm.close_connection(event.connection);
            }
            Err(_) => {}
        }
    }

    fn on_query(&mut self, id: kad::QueryId, result: QueryResult, last: bool) {
        match result {
            QueryResult::GetClosestPeers(Ok(found)) if last => self.looked_up(id, found.peers),
            QueryResult::GetClosestPeers(Err(GetClosestPeersError::Timeout { peers, .. })) if last => {
                self.looked_up(id, peers)
            }
            _ => {}
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source: source, message_id, message } => {
                count(&self.metrics.gossip_in);
                let id = GossipId(self.next_id());
                let room = self.unjudged.len() < limits::MAX_UNJUDGED;
                self.unjudged.insert(id, Unjudged { message: message_id, source, since: Instant::now() });
                match from_libp2p(&source).filter(|_| room) {
                    Some(from) => self.emit(MeshEvent::Gossip { id, from, body: message.data }),
                    None => {
                        count(&self.metrics.gossip_unjudged);
                        self.judge(id, Verdict::Ignore);
                    }
                }
            }
            gossipsub::Event::Subscribed { peer_id, topic, .. } => {
                let ours = topic == self.names.board_topic(0).hash();
                let Some(known) = self.peers.get_mut(&peer_id).filter(|known| ours && !known.subscribed) else {
                    return;
                };
                known.subscribed = true;
                let (id, told) = (known.id, known.told);
                if told {
                    self.emit(MeshEvent::PeerSubscribed(id));
                }
            }
            gossipsub::Event::Unsubscribed { peer_id, .. } => {
                if let Some(known) = self.peers.get_mut(&peer_id) {
                    known.subscribed = false;
                }
            }
            _ => {}
        }
    }

    fn on_control(&mut self, event: request_response::Event<Request, Response>) {
        match event {
            request_response::Event::Message {
                peer,
                connection_id,
                message: Message::Request { request, channel, .. },
            } => self.on_request(peer, connection_id, request, channel),
            request_response::Event::Message { message: Message::Response { request_id, response }, .. } => {
                self.on_response(request_id, response)
            }
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                self.on_request_failed(request_id, error)
            }
            _ => {}
        }
    }

    fn on_request(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        request: Request,
        channel: ResponseChannel<Response>,
    ) {
        count(&self.metrics.requests_in);
        let now = Instant::now();
        let refusal = if let Err(why) = self.admits_request(now, peer, connection) {
            self.refuse(peer, why);
            Some(Response::Refused(why))
        } else if request.is_err() {
            self.refuse(peer, Refused::Oversized);
            Some(Response::Oversized)
        } else if self.requests.len() >= limits::MAX_UNANSWERED {
            Some(Response::Busy)
        } else {
            None
        };
        match (refusal, request, from_libp2p(&peer)) {
            (None, Ok(body), Some(from)) => {
                self.hood.useful(now, &peer);
                let token = RequestToken(self.next_id());
                self.requests.insert(token, (peer, channel));
                let site = self.peers.get(&peer).and_then(|known| known.site());
                self.emit(MeshEvent::Request { token, from, site, body });
            }
            (refusal, ..) => {
                let refusal = refusal.unwrap_or(Response::Busy);
                // Err: the asker is gone already.
                let _ = self.swarm.behaviour_mut().control.send_response(channel, refusal);
            }
        }
    }

    /// The peer's own share first: who has used that up takes nothing of its site's.
    fn admits_request(&mut self, now: Instant, peer: PeerId, connection: ConnectionId) -> Result<(), Refused> {
        if !self.limiter.admits(now, peer) {
            return Err(Refused::RequestRate);
        }
        let site = self.peers.get(&peer).and_then(|known| known.link(connection)?.site());
        match site {
            Some(site) if !self.site_limiter.admits(now, site) => Err(Refused::Site),
            _ => Ok(()),
        }
    }

    fn on_tunnel(&mut self, peer: PeerId, connection: ConnectionId, stream: Stream) {
        let (Some(counts), Some(from)) = (self.counts(&peer, connection), from_libp2p(&peer)) else { return };
        match Counted::within_bounds(stream, counts) {
            Ok(stream) => {
                count(&self.metrics.tunnels_in);
                self.emit(MeshEvent::Stream { from, stream: Box::new(stream) });
            }
            Err(why) => self.refuse(peer, why),
        }
    }
}
