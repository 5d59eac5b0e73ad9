//! Byte streams to guests: the requestor's end opens one, the provider's end checks the lease and joins it to the
//! guest's port. The address dialled is the backend's for that lease, never one that a peer names.
use crate::mesh::{BoxedStream, MeshHandle};
use protocol::codec;
use protocol::message::VERSION;
use protocol::names::LeaseId;
use protocol::refusal::Refusal;
use protocol::tunnel::{MAX_HEADER, MAX_LOG, TunnelOpen, TunnelReply};
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
/// A quarter of a megabyte, over the slowest of links.
const LOG_DEADLINE: Duration = Duration::from_secs(30);
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
    open_with(mesh, provider, TunnelOpen { v: VERSION, lease_id, port, log: None }).await
}

/// What the guest has written to its console, the last of it.
pub async fn read_log(mesh: &MeshHandle, provider: PeerId, lease_id: LeaseId, most: u32) -> Result<Vec<u8>, Fault> {
    let most = most.min(MAX_LOG);
    let stream = open_with(mesh, provider, TunnelOpen { v: VERSION, lease_id, port: 0, log: Some(most) }).await?;
    let mut said = Vec::new();
    let read = timeout(LOG_DEADLINE, stream.take(u64::from(most)).read_to_end(&mut said)).await;
    match read {
        Ok(Ok(_)) => Ok(said),
        Ok(Err(error)) => Err(Fault::new(ErrorCode::Unreachable, format!("the provider broke off: {error}"))),
        Err(_) => Err(Fault::new(ErrorCode::Timeout, "the provider did not send the log in time")),
    }
}

async fn open_with(mesh: &MeshHandle, provider: PeerId, open: TunnelOpen) -> Result<BoxedStream, Fault> {
    let opening = async {
        let mut stream = mesh.open_stream(provider).await?;
        let broken = |error: std::io::Error| {
            Fault::new(ErrorCode::Unreachable, format!("the provider closed the tunnel: {error}"))
        };
        write_header(&mut stream, &open).await.map_err(broken)?;
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
    fn log(
        &self,
        from: PeerId,
        open: TunnelOpen,
        most: u32,
    ) -> impl std::future::Future<Output = Result<Vec<u8>, Refusal>> + Send;
}

/// Whoever reads it takes `MAX_HEADER` bytes; what a hypervisor said may be longer.
fn refused(refusal: Refusal) -> TunnelReply {
    let reply = TunnelReply::Refused(refusal.clone());
    if codec::encode(&reply).len() <= MAX_HEADER {
        return reply;
    }
    let fault = Fault::from(refusal);
    let said = protocol::text::plain(&fault.message, MAX_HEADER / 8);
    TunnelReply::Refused(Refusal::Backend(Fault::new(fault.code, said)))
}

/// The provider's end: lives as long as the tunnel.
pub async fn serve(from: PeerId, mut stream: BoxedStream, gate: &impl Gate) {
    let open = match timeout(HEADER_DEADLINE, read_header::<TunnelOpen>(&mut stream)).await {
        Ok(Ok(open)) => open,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "a tunnel's header is refused"),
        Err(_) => return tracing::debug!(%from, "a tunnel without a header"),
    };
    if let Some(most) = open.log {
        return serve_log(from, open, most.min(MAX_LOG), stream, gate).await;
    }
    let joined = match join(from, open, gate).await {
        Ok(guest) => write_header(&mut stream, &TunnelReply::Open).await.map(|()| Some(guest)),
        Err(refusal) => write_header(&mut stream, &refused(refusal)).await.map(|()| None),
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

async fn serve_log(from: PeerId, open: TunnelOpen, most: u32, mut stream: BoxedStream, gate: &impl Gate) {
    let (reply, said) = match may_speak(&open) {
        Ok(()) => match gate.log(from, open, most).await {
            Ok(said) => (TunnelReply::Open, said),
            Err(refusal) => (refused(refusal), Vec::new()),
        },
        Err(refusal) => (refused(refusal), Vec::new()),
    };
    let sending = async {
        write_header(&mut stream, &reply).await?;
        stream.write_all(&said).await?;
        stream.shutdown().await
    };
    if !matches!(timeout(LOG_DEADLINE, sending).await, Ok(Ok(()))) {
        tracing::debug!(%from, "who asked for a log has gone");
    }
}

fn may_speak(open: &TunnelOpen) -> Result<(), Refusal> {
    if open.v == VERSION { Ok(()) } else { Err(Refusal::UnknownVersion { supported: VERSION }) }
}

async fn join(from: PeerId, open: TunnelOpen, gate: &impl Gate) -> Result<TcpStream, Refusal> {
    may_speak(&open)?;
    let address = gate.endpoint(from, open).await?;
    let guest = timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await;
    let guest = guest.map_err(|_| Refusal::NoSuchPort(open.port))?.map_err(|_| Refusal::NoSuchPort(open.port))?;
    // Keystrokes are small; waiting to fill a segment is what one feels in a shell.
    guest.set_nodelay(true).map_err(|_| Refusal::NoSuchPort(open.port))?;
    Ok(guest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_hypervisor_said_fits_into_a_header() {
        let short = Refusal::NoSuchPort(80);
        assert_eq!(refused(short.clone()), TunnelReply::Refused(short));
        let long = Fault::new(ErrorCode::Unavailable, "\u{10ffff}x".repeat(4000)).details("y".repeat(9000));
        let reply = refused(Refusal::Backend(long));
        assert!(codec::encode(&reply).len() <= MAX_HEADER);
        assert!(matches!(reply, TunnelReply::Refused(refusal) if refusal.code() == ErrorCode::Unavailable));
    }
}
