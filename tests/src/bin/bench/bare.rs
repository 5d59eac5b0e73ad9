//! Noise and yamux over TCP, from the same library and with the same settings as the mesh, and nothing else: what a
//! tunnel could be at best. No swarm, no protocol negotiation beyond that of the upgrade itself.
use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use futures::future::poll_fn;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::core::{Endpoint, Transport};
use libp2p::{Multiaddr, PeerId, identity, noise, tcp, yamux};
use std::collections::VecDeque;
use std::task::Poll;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

pub type Stream = Compat<SubstreamBox>;
pub type Opener = mpsc::Sender<oneshot::Sender<Stream>>;

/// Streams that wait for their turn; a benchmark has one at a time.
const WAITING: usize = 16;

fn transport() -> Result<Boxed<(PeerId, StreamMuxerBox)>, Box<dyn std::error::Error>> {
    let key = identity::Keypair::generate_ed25519();
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    Ok(tcp
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&key)?)
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed())
}

/// Listens on loopback; says where, and gives each stream that comes in.
pub async fn listen() -> Result<(Multiaddr, mpsc::Receiver<Stream>), Box<dyn std::error::Error>> {
    let mut transport = transport()?;
    transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse()?)?;
    let (streams, inbound) = mpsc::channel(WAITING);
    let addr = loop {
        if let Some(TransportEvent::NewAddress { listen_addr, .. }) = transport.next().await {
            break listen_addr;
        }
    };
    tokio::spawn(async move {
        while let Some(event) = transport.next().await {
            if let TransportEvent::Incoming { upgrade, .. } = event {
                let streams = streams.clone();
                tokio::spawn(async move {
                    if let Ok((_, muxer)) = upgrade.await {
                        drive(muxer, None, streams).await;
                    }
                });
            }
        }
    });
    Ok((addr, inbound))
}

pub async fn connect(addr: Multiaddr) -> Result<Opener, Box<dyn std::error::Error>> {
    let mut transport = transport()?;
    let (_, muxer) = transport.dial(addr, DialOpts { role: Endpoint::Dialer, port_use: PortUse::New })?.await?;
    let (wanted, asked) = mpsc::channel(WAITING);
    let (streams, _) = mpsc::channel(WAITING);
    tokio::spawn(drive(muxer, Some(asked), streams));
    Ok(wanted)
}

/// A muxer moves nothing unless somebody polls it.
async fn drive(
    mut muxer: StreamMuxerBox,
    mut asked: Option<mpsc::Receiver<oneshot::Sender<Stream>>>,
    mut inbound: mpsc::Sender<Stream>,
) {
    let mut waiting = VecDeque::new();
    poll_fn(|cx| {
        while let Some(Poll::Ready(Some(answer))) = asked.as_mut().map(|asked| asked.poll_next_unpin(cx)) {
            waiting.push_back(answer);
        }
        while !waiting.is_empty() {
            let Poll::Ready(opened) = muxer.poll_outbound_unpin(cx) else { break };
            let (Ok(stream), Some(answer)) = (opened, waiting.pop_front()) else { return Poll::Ready(()) };
            let _ = answer.send(stream.compat());
        }
        while let Poll::Ready(came) = muxer.poll_inbound_unpin(cx) {
            let Ok(stream) = came else { return Poll::Ready(()) };
            let _ = inbound.try_send(stream.compat());
        }
        match muxer.poll_unpin(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
}
