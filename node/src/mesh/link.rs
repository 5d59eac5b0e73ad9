//! A simulated link: what is written at one end arrives at the other after the link's delay, in order and whole. It
//! stands between the memory transport and the handshake, so that handshakes take their round trips too.
//!
//! ```text
//!  write ─▶ memory channel ─▶ taken in, stamped with now + delay ─▶ held ─▶ read, once its time has come
//! ```
//! Each end delays what it reads: the reader is woken by every arrival, while a writer that has written is not polled
//! again. Both ends say who they are before anything else, so that both know the same delay.
use futures::prelude::*;
use protocol::PeerId;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::io;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Bytes under way on one link, each way: 20 MB/s over 50 ms. Beyond it the link takes no more, and the writer waits.
pub const MAX_UNDER_WAY: usize = 1 << 20;
/// What is taken in at once: a frame of the handshake's cipher is rarely longer.
const CHUNK: usize = 4096;

/// How long the way from one node to another is. The same both ways.
#[derive(Clone)]
pub struct Links(Arc<dyn Fn(PeerId, PeerId) -> Duration + Send + Sync>);

impl Links {
    /// `delay` is asked with the smaller id first, so it cannot make the two ways differ.
    pub fn new(delay: impl Fn(PeerId, PeerId) -> Duration + Send + Sync + 'static) -> Self {
        Links(Arc::new(delay))
    }
    /// Evenly spread over `range`: each pair has one delay, for ever, that depends on the seed and both ids.
    pub fn uniform(range: RangeInclusive<Duration>, seed: u64) -> Self {
        let (least, most) = range.into_inner();
        let span = most.saturating_sub(least);
        Links::new(move |one, other| {
            let digest = Sha256::new_with_prefix(seed.to_be_bytes())
                .chain_update(one.public_key())
                .chain_update(other.public_key())
                .finalize();
            let draw = digest.iter().take(4).fold(0u32, |all, byte| all << 8 | u32::from(*byte));
            least + span.mul_f64(f64::from(draw) / f64::from(u32::MAX))
        })
    }
    pub fn delay(&self, one: PeerId, other: PeerId) -> Duration {
        (self.0)(one.min(other), one.max(other))
    }
}

/// Makes a link of a stream that has just been opened. Like TCP, who dials has waited for one round trip by then.
pub async fn meet<S>(mut stream: S, local: PeerId, dialled: bool, links: Links) -> io::Result<Linked<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(local.public_key()).await?;
    stream.flush().await?;
    let mut remote = [0; 32];
    stream.read_exact(&mut remote).await?;
    let delay = links.delay(local, PeerId::from_public_key(remote));
    if dialled {
        tokio::time::sleep(delay * 2).await;
    }
    Ok(Linked::new(stream, delay))
}

enum Arrival {
    Bytes(Vec<u8>),
    /// Nothing comes after it.
    End,
    Broken(io::Error),
}

pub struct Linked<S> {
    inner: S,
    delay: Duration,
    /// With the time at which each may be read.
    held: VecDeque<(Instant, Arrival)>,
    held_bytes: usize,
    /// How much of the first was read already.
    read: usize,
    ended: bool,
    /// Boxed: it is not `Unpin`, and made only when something is held.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Linked<S> {
    pub fn new(inner: S, delay: Duration) -> Self {
        Linked { inner, delay, held: VecDeque::new(), held_bytes: 0, read: 0, ended: false, timer: None }
    }
}

impl<S: AsyncRead + Unpin> Linked<S> {
    /// Everything that has come, as far as there is room; otherwise the reader is woken when more comes.
    fn take_in(&mut self, cx: &mut Context<'_>) {
        let mut chunk = [0; CHUNK];
        while !self.ended && self.held_bytes < MAX_UNDER_WAY {
            let arrival = match Pin::new(&mut self.inner).poll_read(cx, &mut chunk) {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => Arrival::End,
                Poll::Ready(Ok(length)) => Arrival::Bytes(chunk[..length].to_vec()),
                Poll::Ready(Err(error)) => Arrival::Broken(error),
            };
            match &arrival {
                Arrival::Bytes(bytes) => self.held_bytes += bytes.len(),
                Arrival::End | Arrival::Broken(_) => self.ended = true,
            }
            self.held.push_back((Instant::now() + self.delay, arrival));
        }
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        if due <= Instant::now() {
            return Poll::Ready(());
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx)
    }

    fn give(&mut self, buf: &mut [u8]) -> usize {
        let Some((_, Arrival::Bytes(bytes))) = self.held.front() else { return 0 };
        let rest = &bytes[self.read..];
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        self.held_bytes -= length;
        self.read += length;
        if self.read == bytes.len() {
            self.read = 0;
            self.held.pop_front();
        }
        length
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Linked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.take_in(cx);
        let Some((due, _)) = self.held.front() else {
            return if self.ended { Poll::Ready(Ok(0)) } else { Poll::Pending };
        };
        let due = *due;
        std::task::ready!(self.poll_until(cx, due));
        if matches!(self.held.front(), Some((_, Arrival::Bytes(_)))) {
            return Poll::Ready(Ok(self.give(buf)));
        }
        match self.held.pop_front() {
            Some((_, Arrival::Broken(error))) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(0)),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Linked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
