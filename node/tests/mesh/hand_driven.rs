//! A peer driven by hand: real connections, real protocols, and messages that ours would never send.
use super::support::*;
use futures::prelude::*;
use libp2p::request_response::{self, Message, OutboundRequestId, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, StreamProtocol, Swarm, SwarmBuilder, identify, noise, tcp, yamux};
use node::mesh::{MeshEvent, Refused, RpcError};
use protocol::PeerId;
use protocol::codec::MAX_MESSAGE;
use std::io;

/// Sends bytes as they are, and takes what comes.
#[derive(Clone, Default)]
struct Raw;

impl request_response::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        let mut got = vec![0; 5];
        io.read_exact(&mut got).await?;
        Ok(got)
    }
    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        let mut got = Vec::new();
        io.read_to_end(&mut got).await?;
        Ok(got)
    }
    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&bytes).await
    }
    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&bytes).await
    }
}

#[derive(NetworkBehaviour)]
struct Hand {
    identify: identify::Behaviour,
    control: request_response::Behaviour<Raw>,
}

fn hand(seed: u8) -> Swarm<Hand> {
    let mut secret = [seed; 32];
    let key = libp2p::identity::Keypair::ed25519_from_bytes(&mut secret).unwrap();
    driven_by(key)
}

fn driven_by(key: libp2p::identity::Keypair) -> Swarm<Hand> {
    let control = [(StreamProtocol::new("/golemnode/test/control/1"), ProtocolSupport::Full)];
    let behaviour = Hand {
        identify: identify::Behaviour::new(identify::Config::new("/golemnode/test/1".into(), key.public())),
        control: request_response::Behaviour::new(control, request_response::Config::default()),
    };
    SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| behaviour)
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(DEADLINE))
        .build()
}

fn id_of(swarm: &Swarm<Hand>) -> PeerId {
    PeerId::from_multihash(&swarm.local_peer_id().to_bytes()).unwrap()
}

async fn raw_answer(swarm: &mut Swarm<Hand>, sent: OutboundRequestId) -> Vec<u8> {
    let answer = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(HandEvent::Control(request_response::Event::Message {
                    message: Message::Response { request_id, response },
                    ..
                })) if request_id == sent => return response,
                SwarmEvent::Behaviour(HandEvent::Control(request_response::Event::OutboundFailure {
                    error, ..
                })) => {
                    panic!("{error}")
                }
                _ => {}
            }
        }
    };
    soon("a raw answer", answer).await
}

async fn connect(swarm: &mut Swarm<Hand>, addr: &str) -> libp2p::PeerId {
    swarm.dial(addr.parse::<Multiaddr>().unwrap()).unwrap();
    let connected = async {
        loop {
            if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
                return peer_id;
            }
        }
    };
    soon("a connection", connected).await
}

#[tokio::test]
async fn an_oversized_request_is_refused_with_its_reason_and_nothing_of_it_is_taken() {
    let mut node = Node::start(config(90)).await;
    let mut hand = hand(91);
    let peer = connect(&mut hand, &node.addr().await).await;
    let mut bytes = (MAX_MESSAGE as u32 + 1).to_be_bytes().to_vec();
    bytes.extend([7; 100]);
    let sent = hand.behaviour_mut().control.send_request(&peer, bytes);
    assert_eq!(raw_answer(&mut hand, sent).await, [1], "the status that means: too long");
    let expected = (id_of(&hand), Refused::Oversized);
    let refused = node.until("a refusal", |event| match event {
        MeshEvent::Refused { peer, why } => Some((peer, why)),
        MeshEvent::Request { .. } => panic!("it was taken"),
        _ => None,
    });
    assert_eq!(refused.await, expected);
}

#[tokio::test]
async fn an_oversized_or_garbled_answer_is_an_error_that_names_itself() {
    let mut node = Node::start(config(92)).await;
    let mut hand = hand(93);
    connect(&mut hand, &node.addr().await).await;
    let id = id_of(&hand);
    let size = MAX_MESSAGE as u32 + 1;
    let mut answers = vec![vec![9], vec![0, 0, 0, 0, 9, 1], [&[0][..], &size.to_be_bytes()].concat()];
    tokio::spawn(async move {
        loop {
            if let SwarmEvent::Behaviour(HandEvent::Control(request_response::Event::Message {
                message: Message::Request { channel, .. },
                ..
            })) = hand.select_next_some().await
            {
                let answer = answers.pop().unwrap_or_default();
                hand.behaviour_mut().control.send_response(channel, answer).unwrap();
            }
        }
    });
    node.connected_to(id).await;
    let ask = node.mesh.send(id, vec![1]).await.unwrap();
    assert_eq!(node.answer_to(ask).await, Err(RpcError::Oversized { size: size as usize, limit: MAX_MESSAGE }));
    for expected in ["1 of 9 bytes came", "unknown status 9"] {
        let ask = node.mesh.send(id, vec![1]).await.unwrap();
        assert_eq!(node.answer_to(ask).await, Err(RpcError::Dropped(expected.into())));
    }
}
