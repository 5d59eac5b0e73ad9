//! What carries connections: real sockets (TCP, QUIC, names resolved by DNS), or channels in memory with the delays of
//! simulated links, for many nodes in one process.
//!
//! In memory a node has an address like any other, `/ip4/198.18.0.7/tcp/4001`, and every rule about addresses holds
//! for it; only below here it is the number of a channel. Such addresses are free of meaning outside this process: the
//! network 198.18.0.0/15 is reserved for benchmarks.
use super::behaviour::{MAX_STREAMS, yamux_config};
use super::limits;
use super::link::{self, Links};
use super::metered::Metered;
use super::metrics::Metrics;
use super::types::{Carriers, MeshConfig};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::memory::{Channel, DialFuture, MemoryTransport, MemoryTransportError};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Transport, dns, identity, noise, quic, tcp};
use protocol::{ErrorCode, Fault};
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Unread bytes that QUIC takes for one stream: 100 Mbit/s over 300 ms. The library's 10 MB would let a stalled tunnel
/// hold as much.
const QUIC_STREAM_WINDOW: u32 = 4 << 20;
const QUIC_CONNECTION_WINDOW: u32 = 8 << 20;

pub type Carried = Boxed<(PeerId, StreamMuxerBox)>;

pub fn carriers(config: &MeshConfig, key: &identity::Keypair, metrics: &Arc<Metrics>) -> Result<Carried, Fault> {
    let noise = noise::Config::new(key).map_err(|e| Fault::internal(format!("noise: {e}")))?;
    match &config.carriers {
        Carriers::Sockets => sockets(key, noise, metrics),
        Carriers::Memory(links) => Ok(memory(config.keypair.peer_id(), links.clone(), noise, metrics.clone())),
    }
}

fn sockets(key: &identity::Keypair, noise: noise::Config, metrics: &Arc<Metrics>) -> Result<Carried, Fault> {
    let (of_tcp, of_quic) = (metrics.clone(), metrics.clone());
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

fn memory(local: protocol::PeerId, links: Links, noise: noise::Config, metrics: Arc<Metrics>) -> Carried {
    InMemory::default()
        .and_then(move |channel, point| link::meet(channel, local, point.is_dialer(), links))
        .map(move |stream, _| Metered::new(stream, metrics))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux_config())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed()
}

/// The library's memory transport, under addresses of TCP.
#[derive(Default)]
struct InMemory {
    inner: MemoryTransport,
}

/// Channels of this process that are ours: the library numbers the dialling ends at random.
const OURS: u64 = 0x676f << 48;

/// The number of the channel that stands for an address of TCP over IPv4.
fn channel_of(addr: &Multiaddr) -> Option<Multiaddr> {
    let mut parts = addr.iter();
    let (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) = (parts.next(), parts.next()) else { return None };
    let number = OURS | u64::from(u32::from(ip)) << 16 | u64::from(port);
    matches!(parts.next(), None | Some(Protocol::P2p(_))).then(|| Protocol::Memory(number).into())
}

/// The other way. The end that dialled has no address that anybody could dial, and keeps the library's.
fn address_of(addr: Multiaddr) -> Multiaddr {
    match addr.iter().next() {
        Some(Protocol::Memory(number)) if number >> 48 == OURS >> 48 => Multiaddr::empty()
            .with(Protocol::Ip4(Ipv4Addr::from((number >> 16) as u32)))
            .with(Protocol::Tcp(number as u16)),
        _ => addr,
    }
}

impl Transport for InMemory {
    type Output = Channel<Vec<u8>>;
    type Error = MemoryTransportError;
    type ListenerUpgrade = <MemoryTransport as Transport>::ListenerUpgrade;
    type Dial = DialFuture;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        let channel = channel_of(&addr).ok_or(TransportError::MultiaddrNotSupported(addr))?;
        self.inner.listen_on(id, channel)
    }
    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }
    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<DialFuture, TransportError<Self::Error>> {
        let channel = channel_of(&addr).ok_or(TransportError::MultiaddrNotSupported(addr))?;
        self.inner.dial(channel, opts)
    }
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        use TransportEvent::*;
        Pin::new(&mut self.inner).poll(cx).map(|event| match event {
            NewAddress { listener_id, listen_addr } => NewAddress { listener_id, listen_addr: address_of(listen_addr) },
            AddressExpired { listener_id, listen_addr } => {
                AddressExpired { listener_id, listen_addr: address_of(listen_addr) }
            }
            Incoming { listener_id, upgrade, local_addr, send_back_addr } => {
                let (local_addr, send_back_addr) = (address_of(local_addr), address_of(send_back_addr));
                Incoming { listener_id, upgrade, local_addr, send_back_addr }
            }
            other => other,
        })
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
            let channel = channel_of(&addr).unwrap();
            assert_eq!(address_of(channel.clone()), addr);
            assert_eq!(channel_of(&addr.clone().with(Protocol::P2p(peer))), Some(channel));
        }
        for other in ["/ip6/::1/tcp/1", "/ip4/198.18.0.7/udp/1/quic-v1", "/memory/1", "/ip4/198.18.0.7/tcp/1/ws"] {
            assert_eq!(channel_of(&other.parse().unwrap()), None, "{other}");
        }
        let dialled: Multiaddr = "/memory/5".parse().unwrap();
        assert_eq!(address_of(dialled.clone()), dialled);
    }
}
