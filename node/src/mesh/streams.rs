//! A tunnel as the node sees it: libp2p's stream behind the adapter to tokio's traits, and nothing in between. It
//! counts itself for as long as it lives, so that a peer in use is neither pruned nor allowed more than its share.
use super::limits;
use super::types::Refused;
use libp2p::Stream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// Tunnels over one connection, of one peer, of one site, or of all.
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
    pub of_site: Option<Count>,
    pub of_all: Count,
}

impl Counts {
    fn each(&self) -> impl Iterator<Item = &Count> {
        [&self.of_link, &self.of_peer, &self.of_all].into_iter().chain(&self.of_site)
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
    pub fn within_bounds(stream: Stream, counts: Counts) -> Result<Self, Refused> {
        if counts.of_peer.get() >= limits::MAX_TUNNELS_PER_PEER || counts.of_all.get() >= limits::MAX_TUNNELS {
            return Err(Refused::Tunnels);
        }
        if counts.of_site.as_ref().is_some_and(|of_site| of_site.get() >= limits::MAX_TUNNELS_PER_SITE) {
            return Err(Refused::Site);
        }
        Ok(Counted::new(stream, counts))
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
