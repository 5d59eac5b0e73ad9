//! The task that owns the swarm.
//!
//! It never waits for one thing while it should do another: commands are taken whatever else happens; events wait in
//! a bounded outbox for a place in the node's channel; while the outbox is full the swarm is not polled, and that
//! holds the peers back. A tick runs the loop although nothing happened, because gossipsub 0.50 resets its heartbeat
//! timer without polling it, so that in an idle swarm heartbeats and score decay stop for good.
use super::anchors::Anchors;
use super::behaviour::{Behaviour, BehaviourEvent};
use super::book::Book;
use super::boxed::Boxed;
use super::handle::Command;
use super::join::Join;
use super::limiter::{Allowance, Limiter};
use super::limits;
use super::metrics::{Metrics, count};
use super::names::{Names, from_libp2p, to_libp2p};
use super::nat::Nat;
use super::neighbours::Neighbourhood;
use super::peer::{DialFor, Link, Peer};
use super::reach::Reach;
use super::streams::Count;
use super::types::*;
use super::upkeep::Upkeep;
use super::vicinity::Vicinity;
use futures::{FutureExt, StreamExt};
use libp2p::gossipsub::{MessageAcceptance, MessageId, PublishError};
use libp2p::request_response::ResponseChannel;
use libp2p::swarm::{ConnectionId, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId};
use protocol::shard::Site;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

/// After as many commands in a row the swarm gets its turn.
const COMMANDS_IN_A_ROW: usize = 16;
/// Enough for a message on its way out; peers on slow paths learn from the advert's end.
const LINGER: Duration = Duration::from_millis(250);
/// How long a shutdown waits for connections to close.
const GOODBYE: Duration = Duration::from_secs(1);

pub(super) struct Unjudged {
    pub message: MessageId,
    pub source: PeerId,
    pub since: Instant,
}

pub(super) struct Actor {
    pub swarm: Swarm<Boxed<Behaviour>>,
    pub local: protocol::PeerId,
    pub names: Names,
    pub server: bool,
    pub metrics: Arc<Metrics>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<MeshEvent>,
    tick: Option<Duration>,
    /// An answer carries its slot until it is delivered, so the queue is bounded: `OUTBOX` + `MAX_RPCS`.
    outbox: VecDeque<(MeshEvent, Option<OwnedSemaphorePermit>)>,

    pub peers: HashMap<PeerId, Peer>,
    pub pinned: HashSet<PeerId>,
    /// They are turned to again soon.
    pub partners: HashSet<PeerId>,
    pub vicinity: Vicinity,
    pub hood: Neighbourhood<PeerId>,
    pub book: Book,
    pub join: Join,
    pub anchors: Anchors<PeerId>,
    pub dials: HashMap<ConnectionId, DialFor>,
    pub nat: Nat,
    pub reach: Reach,
    pub upkeep: Upkeep,

    /// By whom, and how it is answered.
    pub requests: HashMap<RequestToken, (PeerId, ResponseChannel<super::codec::Response>)>,
    pub limiter: Limiter<PeerId>,
    pub site_limiter: Limiter<Site>,
    pub reported: HashMap<(PeerId, Refused), Instant>,
    /// Whose addresses were taken lately, and when.
    pub heard: HashMap<PeerId, Instant>,
    pub unjudged: HashMap<GossipId, Unjudged>,
    pub tunnels: Count,
    /// Of each site that has some.
    pub site_tunnels: HashMap<Site, Count>,
    next_id: u64,
}

/// What the loop woke up for.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it never leaves the stack")]
enum Turn {
    Command(Command),
    /// An event found its place in the node's channel.
    Delivered,
    Tick,
    Swarm(SwarmEvent<BehaviourEvent>),
    /// Nobody holds a handle, or nobody takes events, any more.
    NodeGone,
}

impl Actor {
    pub fn new(
        swarm: Swarm<Boxed<Behaviour>>,
        config: &MeshConfig,
        join: Join,
        metrics: Arc<Metrics>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<MeshEvent>,
    ) -> Self {
        let wanted = match config.server {
            true => (config.max_neighbours / limits::WANTED_SHARE).max(1),
            false => limits::WANTED_BY_CLIENT,
        };
        Actor {
            swarm,
            local: config.keypair.peer_id(),
            names: Names::of(&config.network),
            server: config.server,
            metrics,
            commands,
            events,
            tick: config.tick,
            outbox: VecDeque::new(),
            peers: HashMap::new(),
            pinned: HashSet::new(),
            partners: HashSet::new(),
            vicinity: Vicinity::default(),
            hood: Neighbourhood::new(config.max_neighbours, wanted),
            book: Book::default(),
            join,
            anchors: super::upkeep::anchors(config),
            dials: HashMap::new(),
            nat: Nat::new(config.assume),
            reach: Reach::default(),
            upkeep: Upkeep::new(Instant::now()),
            requests: HashMap::new(),
            limiter: Limiter::new(Allowance::REQUESTS),
            site_limiter: Limiter::new(Allowance::REQUESTS_OF_SITE),
            reported: HashMap::new(),
            heard: HashMap::new(),
            unjudged: HashMap::new(),
            tunnels: Count::default(),
            site_tunnels: HashMap::new(),
            next_id: 1,
        }
    }

    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(self.tick.unwrap_or(limits::TICK));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut in_a_row = 0;
        loop {
            let turn = self.select(&mut tick).await;
            in_a_row = if matches!(turn, Turn::Command(_)) { in_a_row + 1 } else { 0 };
            match turn {
                Turn::Command(Command::Shutdown(done)) => break self.goodbye(Some(done)).await,
                Turn::Command(command) => self.on_command(command),
                Turn::Delivered => {}
                Turn::Tick => self.on_tick(Instant::now()),
                Turn::Swarm(event) => self.on_swarm_event(event),
                Turn::NodeGone => break self.goodbye(None).await,
            }
            if in_a_row >= COMMANDS_IN_A_ROW {
                in_a_row = 0;
                self.poll_swarm_once();
            }
        }
    }

    async fn select(&mut self, tick: &mut tokio::time::Interval) -> Turn {
        let room = self.outbox.len() < limits::OUTBOX;
        tokio::select! {
            biased;
            command = self.commands.recv() => command.map_or(Turn::NodeGone, Turn::Command),
            permit = self.events.reserve(), if !self.outbox.is_empty() => {
                let Ok(permit) = permit else { return Turn::NodeGone };
                if let Some((event, _slot)) = self.outbox.pop_front() {
                    permit.send(event);
                }
                Turn::Delivered
            }
            _ = tick.tick(), if self.tick.is_some() => Turn::Tick,
            event = self.swarm.select_next_some(), if room => Turn::Swarm(event),
        }
    }

    fn poll_swarm_once(&mut self) {
        if self.outbox.len() < limits::OUTBOX
            && let Some(Some(event)) = self.swarm.next().now_or_never()
        {
            self.on_swarm_event(event);
        }
    }

    /// Until each listener has said where it listens; done before `spawn` returns.
    pub async fn settle(&mut self, listeners: usize) {
        let mut heard = HashSet::new();
        let listening = async {
            while heard.len() < listeners {
                let event = self.swarm.select_next_some().await;
                if let SwarmEvent::NewListenAddr { listener_id, .. } = &event {
                    heard.insert(*listener_id);
                }
                self.on_swarm_event(event);
            }
        };
        // An interface that is down has no address to tell; it comes as an event when it is up.
        let _ = tokio::time::timeout(limits::SETTLE, listening).await;
    }

    async fn goodbye(&mut self, done: Option<oneshot::Sender<()>>) {
        // What was just said (a withdrawal, an answer) is still in the queues of its connections, and closing them
        // would drop it: nothing tells when they are empty.
        let alone = self.swarm.connected_peers().next().is_none();
        let linger = tokio::time::sleep(if alone { Duration::ZERO } else { LINGER });
        tokio::pin!(linger);
        loop {
            tokio::select! {
                () = &mut linger => break,
                _ = self.swarm.select_next_some() => {}
            }
        }
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // Err: it has gone in the meantime.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closing = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE, closing).await;
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    pub fn emit(&mut self, event: MeshEvent) {
        self.outbox.push_back((event, None));
    }
    pub fn answer(&mut self, rpc: RpcId, result: Result<Vec<u8>, RpcError>, slot: OwnedSemaphorePermit) {
        if result.is_err() {
            count(&self.metrics.requests_failed);
        }
        self.outbox.push_back((MeshEvent::Response { rpc, result }, Some(slot)));
    }
    pub fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Counted always, told once in a while.
    pub fn refuse(&mut self, peer: PeerId, why: Refused) {
        self.metrics.refuse(why);
        let (now, Some(id)) = (Instant::now(), from_libp2p(&peer)) else { return };
        let known = self.reported.len();
        if known < limits::MAX_REPORTED && !self.reported.contains_key(&(peer, why)) {
            self.reported.insert((peer, why), now);
            self.emit(MeshEvent::Refused { peer: id, why });
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Send { rpc, to, body, slot } => self.send_request(rpc, to, body, slot),
            Command::Reply { token, body } => self.reply(token, body),
            Command::Publish { body, done } => {
                let _ = done.send(self.publish(body));
            }
            Command::Judge { id, verdict } => self.judge(id, verdict),
            Command::Dial { addr, done } => self.dial_for(&addr, done),
            Command::AddAddress { peer, addr } => match super::book::parse(&addr) {
                Ok((addr, said)) if said.is_none_or(|said| said == to_libp2p(peer)) => {
                    self.book.add(to_libp2p(peer), addr)
                }
                Ok(_) => tracing::debug!(%peer, addr, "an address of another peer is not remembered"),
                Err(e) => tracing::debug!(%peer, "{e}"),
            },
            Command::OpenStream { to, done } => self.open_tunnel(to, done),
            Command::Peers(done) => {
                let _ = done.send(self.describe_peers());
            }
            Command::ListenAddrs(done) => {
                let own = self.swarm.listeners().filter(|addr| super::book::is_direct(addr));
                let _ = done.send(own.map(|addr| self.with_id(addr)).collect());
            }
            Command::ExternalAddrs(done) => {
                let _ = done.send(self.external_addrs());
            }
            Command::FindHolders { ticket, key } => self.find_holders(ticket, key),
            Command::Keep(peers) => self.partners = peers.into_iter().map(to_libp2p).collect(),
            Command::Pin(peer) => self.pin(to_libp2p(peer)),
            Command::Unpin(peer) => self.unpin(to_libp2p(peer)),
            Command::Ban(peer) => self.ban(to_libp2p(peer)),
            Command::Unban(peer) => self.swarm.behaviour_mut().guard.unban(&to_libp2p(peer)),
            Command::Disconnect(peer) => self.close(&to_libp2p(peer)),
            // Taken in `run`, which ends with it.
            Command::Shutdown(_) => {}
        }
        self.metrics.connected.store(self.peers.len() as u64, Ordering::Relaxed);
        self.metrics.neighbours.store(self.hood.kept() as u64, Ordering::Relaxed);
    }

    pub fn close(&mut self, peer: &PeerId) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.closing = true;
        }
        // Err: it is not connected, which is what is wanted.
        let _ = self.swarm.disconnect_peer_id(*peer);
    }

    fn reply(&mut self, token: RequestToken, body: Option<Vec<u8>>) {
        let Some((_, channel)) = self.requests.remove(&token) else { return };
        if let Some(body) = body {
            // Err: the asker has its time-out already.
            let _ = self.swarm.behaviour_mut().control.send_response(channel, super::codec::Response::Body(body));
        }
    }

    fn publish(&mut self, body: Vec<u8>) -> Result<(), MeshError> {
        let topic = self.names.board_topic(0);
        match self.swarm.behaviour_mut().gossip.publish(topic, body) {
            Ok(_) => {
                count(&self.metrics.gossip_published);
                Ok(())
            }
            Err(PublishError::Duplicate) => Ok(()),
            Err(PublishError::NoPeersSubscribedToTopic) => Err(MeshError::NoNeighbours),
            Err(PublishError::AllQueuesFull(peers)) => Err(MeshError::Busy(peers)),
            Err(other) => Err(MeshError::Unreachable(other.to_string())),
        }
    }

    pub fn judge(&mut self, id: GossipId, verdict: Verdict) {
        let Some(Unjudged { message, source, .. }) = self.unjudged.remove(&id) else { return };
        let (acceptance, counter) = match verdict {
            Verdict::Accept => (MessageAcceptance::Accept, &self.metrics.gossip_accepted),
            Verdict::Reject => (MessageAcceptance::Reject, &self.metrics.gossip_rejected),
            Verdict::Ignore => (MessageAcceptance::Ignore, &self.metrics.gossip_ignored),
        };
        count(counter);
        if verdict == Verdict::Accept {
            self.hood.useful(Instant::now(), &source);
        }
        self.swarm.behaviour_mut().gossip.report_message_validation_result(&message, &source, acceptance);
    }

    pub fn with_id(&self, addr: &Multiaddr) -> String {
        let local = to_libp2p(self.local);
        addr.clone().with_p2p(local).unwrap_or_else(|addr| addr).to_string()
    }

    fn describe_peers(&self) -> Vec<PeerInfo> {
        let gossip = &self.swarm.behaviour().gossip;
        let describe = |(key, peer): (&PeerId, &Peer)| {
            let mut addrs: Vec<String> = peer.links.iter().map(|link| link.addr.to_string()).collect();
            addrs.extend(peer.listen.iter().map(Multiaddr::to_string));
            addrs.dedup();
            PeerInfo {
                peer: peer.id,
                addrs,
                connections: peer.links.len(),
                path: peer.best().map_or(Path::Direct, Link::path),
                rtt_ms: peer.rtt.map(|rtt| rtt.as_millis() as u64),
                direction: peer.direction,
                agent: peer.agent.clone(),
                connected_since: peer.since,
                pinned: self.pinned.contains(key),
                anchor: self.anchors.is_one(key),
                in_gossip_mesh: gossip.all_mesh_peers().any(|meshed| meshed == key),
                gossip_score: gossip.peer_score(key),
            }
        };
        self.peers.iter().filter(|(_, peer)| peer.identified).map(describe).collect()
    }
}
