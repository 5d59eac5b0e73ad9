//! Has us called by relays: the library's client, without a fault by which a relay can end the node.
//!
//! The library forgets a reservation as soon as its listener is closed, and still takes the relay's answer to it for
//! one of those that it knows: a relay that answers a request, or a renewal, after we have given it up makes it panic.
//! So it is not told of answers here. All that it would do with them is to confirm the address at which the relay calls
//! us, and that one is among the listeners' addresses already.
use super::prober::Halves;
use either::Either;
use libp2p::PeerId;
use libp2p::core::{Endpoint, Multiaddr, transport::PortUse};
use libp2p::relay::client;
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use std::collections::VecDeque;
use std::task::{Context, Poll};

type Handled = <client::Behaviour as NetworkBehaviour>::ConnectionHandler;
type Said = <<Handled as ConnectionHandler>::ToBehaviour as Halves>::Left;

pub struct Called {
    inner: client::Behaviour,
    /// Taken out before more is read from a connection.
    granted: VecDeque<client::Event>,
}

impl Called {
    pub fn new(inner: client::Behaviour) -> Self {
        Called { inner, granted: VecDeque::new() }
    }
}

impl NetworkBehaviour for Called {
    type ConnectionHandler = Handled;
    type ToSwarm = client::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(connection, peer, addr, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, relay: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            Either::Left(Said::ReservationReqAccepted { renewal, limit }) => {
                let event = client::Event::ReservationReqAccepted { relay_peer_id: relay, renewal, limit };
                self.granted.push_back(event);
            }
            other => self.inner.on_connection_handler_event(relay, connection, other),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.granted.pop_front() {
            Some(event) => Poll::Ready(ToSwarm::GenerateEvent(event)),
            None => self.inner.poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tunnels::{TunnelEvent, Tunnels};
    use super::*;
    use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
    use libp2p::core::{transport::MemoryTransport, transport::Transport, upgrade::Version};
    use libp2p::multiaddr::Protocol;
    use libp2p::swarm::{self, SwarmEvent};
    use libp2p::{Swarm, identity, noise, relay, yamux};
    use std::time::Duration;
    use tokio::sync::oneshot;

    /// In the protocol's words: "OK", and a reservation until the year 2100 at /memory/1.
    fn granted() -> Vec<u8> {
        let addr = "/memory/1".parse::<Multiaddr>().unwrap().to_vec();
        let field = |tag: u8, bytes: &[u8]| [&[tag, u8::try_from(bytes.len()).unwrap()], bytes].concat();
        let reservation = [&[0x08, 0x80, 0xae, 0x99, 0xa4, 0x0f], &field(0x12, &addr)[..]].concat();
        let message = [&[0x08, 2], &field(0x1a, &reservation)[..], &[0x28, 100]].concat();
        [&[u8::try_from(message.len()).unwrap()], &message[..]].concat()
    }

    fn config() -> swarm::Config {
        swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(60))
    }

    fn late_relay() -> Swarm<Tunnels> {
        let key = identity::Keypair::generate_ed25519();
        let transport = MemoryTransport::default()
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&key).unwrap())
            .multiplex(yamux::Config::default())
            .boxed();
        Swarm::new(transport, Tunnels::new(relay::HOP_PROTOCOL_NAME), key.public().to_peer_id(), config())
    }

    fn node() -> Swarm<Called> {
        let key = identity::Keypair::generate_ed25519();
        let local = key.public().to_peer_id();
        let (by_relay, behaviour) = client::new(local);
        let transport = by_relay
            .or_transport(MemoryTransport::default())
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&key).unwrap())
            .multiplex(yamux::Config::default())
            .boxed();
        Swarm::new(transport, Called::new(behaviour), local, config())
    }

    /// Takes a request for a reservation, says so, and grants it when it is told to.
    async fn serve(mut relay: Swarm<Tunnels>, asked: oneshot::Sender<()>, given_up: oneshot::Receiver<()>) {
        let mut stream = loop {
            if let SwarmEvent::Behaviour(TunnelEvent::Inbound { stream, .. }) = relay.select_next_some().await {
                break stream;
            }
        };
        let answer = async move {
            let mut length = [0];
            stream.read_exact(&mut length).await.unwrap();
            stream.read_exact(&mut vec![0; usize::from(length[0])]).await.unwrap();
            asked.send(()).unwrap();
            given_up.await.unwrap();
            stream.write_all(&granted()).await.unwrap();
            stream.close().await.unwrap();
        };
        let swarm = async {
            loop {
                relay.select_next_some().await;
            }
        };
        tokio::join!(answer, swarm);
    }

    #[tokio::test]
    async fn a_relay_that_answers_after_it_was_given_up_ends_nobody() {
        let mut relay = late_relay();
        relay.listen_on("/memory/0".parse().unwrap()).unwrap();
        let at = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = relay.select_next_some().await {
                break address.with(Protocol::P2p(*relay.local_peer_id()));
            }
        };
        let (asked, mut was_asked) = oneshot::channel();
        let (give_up, given_up) = oneshot::channel();
        tokio::spawn(serve(relay, asked, given_up));

        let (mut node, mut give_up) = (node(), Some(give_up));
        let listener = node.listen_on(at.with(Protocol::P2pCircuit)).unwrap();
        let mut removed = false;
        let heard = async {
            loop {
                tokio::select! {
                    _ = &mut was_asked, if !removed => removed = node.remove_listener(listener),
                    event = node.select_next_some() => match event {
                        SwarmEvent::ListenerClosed { .. } => give_up.take().unwrap().send(()).unwrap(),
                        SwarmEvent::Behaviour(client::Event::ReservationReqAccepted { renewal, .. }) => return renewal,
                        _ => {}
                    },
                }
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(30), heard).await;
        assert_eq!(heard, Ok(false), "it is told as what it is, and nothing more happens");
    }
}
