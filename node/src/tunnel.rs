//! Byte streams to guests: the requestor's end opens one, the provider's end checks the lease and joins it to the
//! guest's port. The address dialled is the backend's for that lease, never one that a peer names.
use crate::mesh::{BoxedStream, MeshHandle};
use protocol::codec;
use protocol::message::VERSION;
use protocol::names::LeaseId;
use protocol::refusal::Refusal;
use protocol::tunnel::{MAX_HEADER, TunnelOpen, TunnelReply};
use protocol::{ErrorCode, Fault, PeerId};
use serde::{Serialize, de::DeserializeOwned};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A peer that opens a stream and says nothing holds a slot for this long at most.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// The guest's port is on this host: it answers at once or not at all.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The way there, the lease's check and the way back.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// One copy buffer each way: large enough that a bulk copy is not bound by system calls.
const BUFFER: usize = 128 * 1024;

pub(crate) async fn write_header<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    header: &T,
) -> std::io::Result<()> {
    let body = codec::encode(header);
    let length = u16::try_from(body.len()).map_err(std::io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(body);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

pub(crate) async fn read_header<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<T> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_HEADER {
        return Err(std::io::Error::other(format!("a header of {length} bytes")));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    codec::decode(&body, MAX_HEADER).map_err(std::io::Error::other)
}

/// The requestor's end.
pub async fn open(mesh: &MeshHandle, provider: PeerId, lease_id: LeaseId, port: u16) -> Result<BoxedStream, Fault> {
    let opening = async {
        let mut stream = mesh.open_stream(provider).await?;
        let broken = |error: std::io::Error| {
            Fault::new(ErrorCode::Unreachable, format!("the provider closed the tunnel: {error}"))
        };
        write_header(&mut stream, &TunnelOpen { v: VERSION, lease_id, port }).await.map_err(broken)?;
        match read_header::<TunnelReply>(&mut stream).await.map_err(broken)? {
            TunnelReply::Open => Ok(stream),
            TunnelReply::Refused(refusal) => Err(Fault::from(refusal).from_peer()),
        }
    };
    let late = |_| Fault::new(ErrorCode::Timeout, "the provider did not open the tunnel in time");
    timeout(OPEN_DEADLINE, opening).await.map_err(late)?
}

/// What the provider's end asks of the node: may this peer, and where is the guest.
pub trait Gate: Send + Sync + 'static {
    fn endpoint(
        &self,
        from: PeerId,
        open: TunnelOpen,
    ) -> impl std::future::Future<Output = Result<SocketAddr, Refusal>> + Send;
}

/// The provider's end: lives as long as the tunnel.
pub async fn serve(from: PeerId, mut stream: BoxedStream, gate: &impl Gate) {
    let open = match timeout(HEADER_DEADLINE, read_header::<TunnelOpen>(&mut stream)).await {
        Ok(Ok(open)) => open,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "a tunnel's header is refused"),
        Err(_) => return tracing::debug!(%from, "a tunnel without a header"),
    };
    let joined = match join(from, open, gate).await {
        Ok(guest) => write_header(&mut stream, &TunnelReply::Open).await.map(|()| Some(guest)),
        Err(refusal) => write_header(&mut stream, &TunnelReply::Refused(refusal)).await.map(|()| None),
    };
    match joined {
        Ok(Some(mut guest)) => {
            // A tunnel that breaks is the ordinary end of an ssh connection that was interrupted.
            let done = tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut guest, BUFFER, BUFFER).await;
            tracing::debug!(%from, ?done, "a tunnel has ended");
        }
        Ok(None) => {
            // The peer must have read why before the stream is reset.
            let _ = timeout(HEADER_DEADLINE, stream.shutdown()).await;
        }
        Err(error) => tracing::debug!(%from, %error, "a tunnel's peer has gone"),
    }
}

async fn join(from: PeerId, open: TunnelOpen, gate: &impl Gate) -> Result<TcpStream, Refusal> {
    if open.v != VERSION {
        return Err(Refusal::UnknownVersion { supported: VERSION });
    }
    let address = gate.endpoint(from, open).await?;
    let guest = timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await;
    let guest = guest.map_err(|_| Refusal::NoSuchPort(open.port))?.map_err(|_| Refusal::NoSuchPort(open.port))?;
    // Keystrokes are small; waiting to fill a segment is what one feels in a shell.
    guest.set_nodelay(true).map_err(|_| Refusal::NoSuchPort(open.port))?;
    Ok(guest)
}
