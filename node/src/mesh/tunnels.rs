//! Byte streams between two nodes: one libp2p stream each, nothing around it. Like `libp2p_stream`, with what that
//! lacks: it says who opened what (so that it can be bounded for each peer), drops nothing when the node is busy for a
//! moment, and keeps nothing of a connection that is gone.
use super::limits;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr, transport::PortUse};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, Stream, StreamProtocol};
use std::collections::VecDeque;
use std::task::{Context, Poll};

/// Names one attempt to open a tunnel.
pub type OpeningId = u64;

#[derive(Debug)]
pub enum TunnelEvent {
    Inbound { peer: PeerId, connection: ConnectionId, stream: Stream },
    Opened { opening: OpeningId, connection: ConnectionId, stream: Stream },
    Failed { opening: OpeningId, error: OpenError },
}

#[derive(Debug)]
pub enum OpenError {
    Unsupported,
    Timeout,
    Io(std::io::Error),
}

pub struct Tunnels {
    protocol: StreamProtocol,
    /// Bounded by `limits::MAX_OPENING` on one side; on the other the swarm drains it whenever it is polled.
    queue: VecDeque<ToSwarm<TunnelEvent, OpeningId>>,
}

impl Tunnels {
    pub fn new(protocol: StreamProtocol) -> Self {
        Tunnels { protocol, queue: VecDeque::new() }
    }
    /// When this connection closes first, no event follows.
    pub fn open(&mut self, peer: PeerId, connection: ConnectionId, opening: OpeningId) {
        let handler = NotifyHandler::One(connection);
        self.queue.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: opening });
    }
    fn handler(&self) -> Handler {
        Handler { protocol: self.protocol.clone(), requested: VecDeque::new(), done: VecDeque::new() }
    }
}

impl NetworkBehaviour for Tunnels {
    type ConnectionHandler = Handler;
    type ToSwarm = TunnelEvent;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.queue.push_back(ToSwarm::GenerateEvent(match event {
            Done::Inbound(stream) => TunnelEvent::Inbound { peer, connection, stream },
            Done::Opened(opening, stream) => TunnelEvent::Opened { opening, connection, stream },
            Done::Failed(opening, error) => TunnelEvent::Failed { opening, error },
        }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.queue.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }
}

#[derive(Debug)]
pub enum Done {
    Inbound(Stream),
    Opened(OpeningId, Stream),
    Failed(OpeningId, OpenError),
}

pub struct Handler {
    protocol: StreamProtocol,
    requested: VecDeque<OpeningId>,
    /// Drained at every poll; inbound streams beyond the bound of one peer are dropped here already.
    done: VecDeque<Done>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpeningId;
    type ToBehaviour = Done;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpeningId;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn on_behaviour_event(&mut self, opening: OpeningId) {
        self.requested.push_back(opening);
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, OpeningId, Self::ToBehaviour>> {
        if let Some(done) = self.done.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(done));
        }
        let Some(opening) = self.requested.pop_front() else { return Poll::Pending };
        let upgrade = ReadyUpgrade::new(self.protocol.clone());
        let protocol = SubstreamProtocol::new(upgrade, opening).with_timeout(limits::OPEN_DEADLINE);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), OpeningId>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. })
                if self.done.len() < limits::MAX_TUNNELS_PER_PEER =>
            {
                self.done.push_back(Done::Inbound(stream));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                self.done.push_back(Done::Opened(info, stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => OpenError::Timeout,
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Io(error) => OpenError::Io(error),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                self.done.push_back(Done::Failed(info, error));
            }
            _ => {}
        }
    }
}
