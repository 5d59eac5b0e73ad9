//! What carries connections: real sockets (TCP, QUIC, names resolved by DNS), or channels in memory with the delays of
//! simulated links, for many nodes in one process.
//!
//! In memory a node has an address like any other, `/ip4/198.18.0.7/tcp/4001`, and every rule about addresses holds
//! for it; only below here it is the number of a channel. Such addresses are free of meaning outside this process: the
//! network 198.18.0.0/15 is reserved for benchmarks.
use super::behaviour::{MAX_STREAMS, yamux_config};
use super::limits;
use super::link::{self, Linked, Links};
use super::metered::{Metered, Traffic};
use super::types::{Carriers, MeshConfig};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::memory::{Channel, MemoryTransport};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Transport, dns, identity, noise, quic, tcp};
use protocol::{ErrorCode, Fault};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Unread bytes that QUIC takes for one stream: 100 Mbit/s over 300 ms. The library's 10 MB would let a stalled tunnel
/// hold as much.
const QUIC_STREAM_WINDOW: u32 = 4 << 20;
const QUIC_CONNECTION_WINDOW: u32 = 8 << 20;

pub type Carried = Boxed<(PeerId, StreamMuxerBox)>;

pub fn carriers(config: &MeshConfig, key: &identity::Keypair, traffic: &Arc<Traffic>) -> Result<Carried, Fault> {
    let noise = noise::Config::new(key).map_err(|e| Fault::internal(format!("noise: {e}")))?;
    match &config.carriers {
        Carriers::Sockets => sockets(key, noise, traffic),
        Carriers::Memory(links) => Ok(memory(config.keypair.peer_id(), links.clone(), noise, traffic.clone())),
    }
}

fn sockets(key: &identity::Keypair, noise: noise::Config, traffic: &Arc<Traffic>) -> Result<Carried, Fault> {
    let (of_tcp, of_quic) = (traffic.clone(), traffic.clone());
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(move |stream, _| Metered::new(stream, of_tcp))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux_config())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let mut config = quic::Config::new(key);
    config.keep_alive_interval = limits::QUIC_KEEP_ALIVE;
    config.max_idle_timeout = limits::QUIC_IDLE.as_millis() as u32;
    config.max_concurrent_stream_limit = MAX_STREAMS;
    config.max_stream_data = QUIC_STREAM_WINDOW;
    config.max_connection_data = QUIC_CONNECTION_WINDOW;
    let quic = quic::tokio::Transport::new(config)
        .map(move |(peer, muxer), _| (peer, StreamMuxerBox::new(Metered::new(muxer, of_quic))));
    let either = tcp.or_transport(quic).map(|either, _| either.into_inner());
    let named = dns::tokio::Transport::system(either).map_err(|e| {
        Fault::new(ErrorCode::Unavailable, format!("the resolver's configuration cannot be used: {e}"))
            .hint("check that /etc/resolv.conf exists and can be read")
    })?;
    Ok(named.boxed())
}

fn memory(local: protocol::PeerId, links: Links, noise: noise::Config, traffic: Arc<Traffic>) -> Carried {
    InMemory::new(local, links)
        .map(move |stream, _| Metered::new(stream, traffic))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux_config())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed()
}

/// Who calls says where it listens, so that it is seen there, as with TCP, which dials from the port it listens on.
type Caller = [u8; 6];

type Called = (ListenerId, Multiaddr, io::Result<(Channel<Vec<u8>>, Multiaddr)>);

/// The library's memory transport, under addresses of TCP, over simulated links.
struct InMemory {
    inner: MemoryTransport,
    local: protocol::PeerId,
    links: Links,
    /// Where we listen, the first first.
    listening: Vec<(ListenerId, SocketAddrV4)>,
    /// Who has called, and has not yet said from where.
    callers: FuturesUnordered<BoxFuture<'static, Called>>,
}

/// Callers that are asked at once; further ones wait in the library's queue. The answer is there as soon as the caller
/// runs again: nothing delays it.
const CALLERS: usize = 64;

impl InMemory {
    fn new(local: protocol::PeerId, links: Links) -> Self {
        let (inner, callers) = (MemoryTransport::default(), FuturesUnordered::new());
        InMemory { inner, local, links, listening: Vec::new(), callers }
    }
    fn meet(
        &self,
        channel: Channel<Vec<u8>>,
        dialled: bool,
    ) -> BoxFuture<'static, io::Result<Linked<Channel<Vec<u8>>>>> {
        link::meet(channel, self.local, dialled, self.links.clone()).boxed()
    }
}

async fn caller(listener: ListenerId, local: Multiaddr, mut channel: Channel<Vec<u8>>, unnamed: Multiaddr) -> Called {
    let mut said: Caller = [0; 6];
    let read = channel.read_exact(&mut said).await;
    let [a, b, c, d, high, low] = said;
    let from = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]));
    let from = if from.port() == 0 { unnamed } else { address(from) };
    (listener, local, read.map(|()| (channel, from)))
}

/// Channels of this process that are ours: the library numbers the dialling ends at random.
const OURS: u64 = 0x676f << 48;

fn socket_of(addr: &Multiaddr) -> Option<SocketAddrV4> {
    let mut parts = addr.iter();
    let (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) = (parts.next(), parts.next()) else { return None };
    matches!(parts.next(), None | Some(Protocol::P2p(_))).then(|| SocketAddrV4::new(ip, port))
}

fn address(socket: SocketAddrV4) -> Multiaddr {
    Multiaddr::empty().with(Protocol::Ip4(*socket.ip())).with(Protocol::Tcp(socket.port()))
}

/// The number of the channel that stands for an address of TCP over IPv4.
fn channel_of(socket: SocketAddrV4) -> Multiaddr {
    Protocol::Memory(OURS | u64::from(u32::from(*socket.ip())) << 16 | u64::from(socket.port())).into()
}

/// The other way. The end that dialled has none.
fn address_of(channel: Multiaddr) -> Multiaddr {
    match channel.iter().next() {
        Some(Protocol::Memory(number)) if number >> 48 == OURS >> 48 => {
            address(SocketAddrV4::new(Ipv4Addr::from((number >> 16) as u32), number as u16))
        }
        _ => channel,
    }
}

impl Transport for InMemory {
    type Output = Linked<Channel<Vec<u8>>>;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<Self::Output>>;
    type Dial = BoxFuture<'static, io::Result<Self::Output>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        let Some(socket) = socket_of(&addr) else { return Err(TransportError::MultiaddrNotSupported(addr)) };
        let taken = |_| TransportError::Other(io::ErrorKind::AddrInUse.into());
        self.inner.listen_on(id, channel_of(socket)).map_err(taken)?;
        self.listening.push((id, socket));
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.listening.retain(|(listener, _)| *listener != id);
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<Self::Error>> {
        let Some(socket) = socket_of(&addr) else { return Err(TransportError::MultiaddrNotSupported(addr)) };
        let refused = |_| TransportError::Other(io::ErrorKind::ConnectionRefused.into());
        let dialling = self.inner.dial(channel_of(socket), opts).map_err(refused)?;
        let own = self.listening.first().map(|(_, own)| *own);
        let (local, links) = (self.local, self.links.clone());
        let mut said: Caller = [0; 6];
        if let Some(own) = own {
            said[..4].copy_from_slice(&own.ip().octets());
            said[4..].copy_from_slice(&own.port().to_be_bytes());
        }
        let dial = async move {
            let mut channel = dialling.await.map_err(io::Error::other)?;
            channel.write_all(&said).await?;
            link::meet(channel, local, true, links).await
        };
        Ok(dial.boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        use TransportEvent::*;
        loop {
            if let Poll::Ready(Some((listener_id, local_addr, called))) = self.callers.poll_next_unpin(cx) {
                // Who has hung up without a word has not called.
                let Ok((channel, send_back_addr)) = called else { continue };
                let upgrade = self.meet(channel, false);
                return Poll::Ready(Incoming { listener_id, upgrade, local_addr, send_back_addr });
            }
            if self.callers.len() >= CALLERS {
                return Poll::Pending;
            }
            let event = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
            return Poll::Ready(match event {
                NewAddress { listener_id, listen_addr } => {
                    NewAddress { listener_id, listen_addr: address_of(listen_addr) }
                }
                AddressExpired { listener_id, listen_addr } => {
                    AddressExpired { listener_id, listen_addr: address_of(listen_addr) }
                }
                Incoming { listener_id, upgrade, local_addr, send_back_addr } => {
                    // The library's own upgrade is ready at once.
                    if let Some(Ok(channel)) = upgrade.now_or_never() {
                        let local = address_of(local_addr);
                        self.callers.push(caller(listener_id, local, channel, send_back_addr).boxed());
                    }
                    continue;
                }
                ListenerClosed { listener_id, reason } => {
                    ListenerClosed { listener_id, reason: reason.map_err(io::Error::other) }
                }
                ListenerError { listener_id, error } => ListenerError { listener_id, error: io::Error::other(error) },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_its_channel_stand_for_each_other() {
        let peer = PeerId::random();
        for text in ["/ip4/198.18.0.7/tcp/4001", "/ip4/255.255.255.255/tcp/65535", "/ip4/0.0.0.1/tcp/1"] {
            let addr: Multiaddr = text.parse().unwrap();
            let socket = socket_of(&addr).unwrap();
            assert_eq!(address_of(channel_of(socket)), addr);
            assert_eq!(socket_of(&addr.clone().with(Protocol::P2p(peer))), Some(socket));
        }
        for other in ["/ip6/::1/tcp/1", "/ip4/198.18.0.7/udp/1/quic-v1", "/memory/1", "/ip4/198.18.0.7/tcp/1/ws"] {
            assert_eq!(socket_of(&other.parse().unwrap()), None, "{other}");
        }
        let dialled: Multiaddr = "/memory/5".parse().unwrap();
        assert_eq!(address_of(dialled.clone()), dialled);
    }
}
