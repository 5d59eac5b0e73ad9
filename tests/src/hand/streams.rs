//! Raw streams of any protocol, both ways.
use futures::future::{Ready, ready};
use libp2p::core::upgrade::{InboundUpgrade, ReadyUpgrade, UpgradeInfo};
use libp2p::core::{Endpoint, Multiaddr, transport::PortUse};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, Stream, StreamProtocol};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// A stream that somebody waits for.
#[derive(Debug)]
pub struct Opened {
    pub protocol: StreamProtocol,
    pub done: oneshot::Sender<io::Result<Stream>>,
}

/// A stream that the other side has opened.
#[derive(Debug)]
pub struct Asked {
    pub protocol: StreamProtocol,
    pub stream: Stream,
}

#[derive(Debug)]
pub struct StreamsEvent(pub Asked);

/// Takes whichever of these the other side asks for.
#[derive(Clone, Debug)]
pub struct AnyOf(Vec<StreamProtocol>);

impl UpgradeInfo for AnyOf {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;
    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}
impl InboundUpgrade<Stream> for AnyOf {
    type Output = Asked;
    type Error = Infallible;
    type Future = Ready<Result<Asked, Infallible>>;
    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok(Asked { protocol, stream }))
    }
}

pub struct Streams {
    spoken: AnyOf,
    queue: VecDeque<ToSwarm<StreamsEvent, Opened>>,
}

impl Streams {
    pub fn new(spoken: Vec<StreamProtocol>) -> Self {
        Streams { spoken: AnyOf(spoken), queue: VecDeque::new() }
    }
    pub fn open(&mut self, peer: PeerId, wanted: Opened) {
        self.queue.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler: NotifyHandler::Any, event: wanted });
    }
    fn handler(&self) -> Handler {
        Handler { spoken: self.spoken.clone(), wanted: VecDeque::new(), asked: VecDeque::new() }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = StreamsEvent;

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
    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, asked: THandlerOutEvent<Self>) {
        self.queue.push_back(ToSwarm::GenerateEvent(StreamsEvent(asked)));
    }
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

pub struct Handler {
    spoken: AnyOf,
    wanted: VecDeque<Opened>,
    asked: VecDeque<Asked>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Opened;
    type ToBehaviour = Asked;
    type InboundProtocol = AnyOf;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = oneshot::Sender<io::Result<Stream>>;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(self.spoken.clone(), ())
    }
    fn connection_keep_alive(&self) -> bool {
        true
    }
    fn on_behaviour_event(&mut self, wanted: Opened) {
        self.wanted.push_back(wanted);
    }
    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if let Some(asked) = self.asked.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(asked));
        }
        let Some(Opened { protocol, done }) = self.wanted.pop_front() else { return Poll::Pending };
        let protocol = SubstreamProtocol::new(ReadyUpgrade::new(protocol), done);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }
    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), Self::OutboundOpenInfo>,
    ) {
        // Err, in both: whoever waited has gone.
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: asked, .. }) => {
                self.asked.push_back(asked);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                let _ = info.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let _ = info.send(Err(io::Error::other(error.to_string())));
            }
            _ => {}
        }
    }
}
