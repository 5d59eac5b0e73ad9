//! A tunnel as the node sees it: libp2p's stream behind the adapter to tokio's traits, and nothing in between. It
//! counts itself for as long as it lives, so that a peer in use is neither pruned nor allowed more than its share.
use super::limits;
use libp2p::Stream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// Tunnels over one connection, of one peer, or of all.
#[derive(Clone, Default)]
pub struct Count(Arc<AtomicUsize>);

impl Count {
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

pub struct Counted {
    inner: Compat<Stream>,
    counts: Counts,
}

/// Where a tunnel is counted.
#[derive(Clone)]
pub struct Counts {
    pub of_link: Count,
    pub of_peer: Count,
    pub of_all: Count,
}

impl Counts {
    fn each(&self) -> [&Count; 3] {
        [&self.of_link, &self.of_peer, &self.of_all]
    }
}

impl Counted {
    pub fn new(stream: Stream, counts: Counts) -> Self {
        for count in counts.each() {
            count.0.fetch_add(1, Ordering::Relaxed);
        }
        Counted { inner: stream.compat(), counts }
    }
    /// An inbound stream, unless there are too many.
    pub fn within_bounds(stream: Stream, counts: Counts) -> Option<Self> {
        let (of_peer, of_all) = (counts.of_peer.get(), counts.of_all.get());
        let room = of_peer < limits::MAX_TUNNELS_PER_PEER && of_all < limits::MAX_TUNNELS;
        room.then(|| Counted::new(stream, counts))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for count in self.counts.each() {
            count.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
