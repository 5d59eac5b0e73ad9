//! Carries bytes between two streams for the relay: the library's handler, whose copying is replaced by one that keeps
//! the books. The library counts the bytes of each relayed connection for itself and tells nobody.
use super::limits;
use super::prober::Halves;
use either::Either;
use futures::future::{BoxFuture, FutureExt, try_join};
use futures::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use futures::stream::{FuturesUnordered, StreamExt};
use libp2p::relay::{self, CircuitId};
use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, NetworkBehaviour, Stream, SubstreamProtocol, THandlerInEvent,
};
use libp2p::{PeerId, relay::inbound::hop::Error as HopError};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

pub type Inner = <relay::Behaviour as NetworkBehaviour>::ConnectionHandler;
pub type Asked = <<Inner as ConnectionHandler>::FromBehaviour as Halves>::Left;
pub type Told = <<Inner as ConnectionHandler>::ToBehaviour as Halves>::Left;

/// What was carried for one holder of a reservation. Written by the connections that carry, read by the behaviour.
#[derive(Debug)]
pub struct Account {
    budget: u64,
    spent: AtomicU64,
    circuits: AtomicUsize,
}

impl Account {
    pub fn new(budget: u64) -> Self {
        Account { budget, spent: AtomicU64::new(0), circuits: AtomicUsize::new(0) }
    }
    pub fn spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }
    pub fn is_exhausted(&self) -> bool {
        self.spent() >= self.budget
    }
    pub fn circuits(&self) -> usize {
        self.circuits.load(Ordering::Relaxed)
    }
    /// A new window.
    pub fn clear(&self) {
        self.spent.store(0, Ordering::Relaxed);
    }
    #[cfg(test)]
    pub fn spent_for_test(&self, bytes: u64) {
        let _ = self.charge(bytes);
    }
    fn charge(&self, bytes: u64) -> io::Result<()> {
        match self.spent.fetch_add(bytes, Ordering::Relaxed) + bytes > self.budget {
            true => Err(io::Error::other("the relay carries no more for this peer now")),
            false => Ok(()),
        }
    }
}

/// A circuit's place among those of its holder.
struct Seat(Arc<Account>);

impl Seat {
    fn take(account: &Arc<Account>, most: usize) -> Option<Seat> {
        // Before the check: two connections may ask at the same moment.
        let seat = Seat(account.clone());
        let taken = account.circuits.fetch_add(1, Ordering::Relaxed) < most;
        taken.then_some(seat)
    }
}
impl Drop for Seat {
    fn drop(&mut self) {
        self.0.circuits.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub circuits_per_holder: usize,
    pub life: Duration,
    pub bytes: u64,
}

/// What the library's behaviour asks of its handler; with the account, where something is to be carried.
#[derive(Debug)]
pub struct Order {
    pub inner: THandlerInEvent<relay::Behaviour>,
    pub account: Option<Arc<Account>>,
}

enum Step {
    Accepted { circuit: CircuitId, holder: PeerId, ends: Result<(Box<Ends>, Seat), HopError> },
    Ended { circuit: CircuitId, holder: PeerId, result: io::Result<()> },
}

struct Ends {
    source: Stream,
    holder: Stream,
}

pub struct Conduit {
    inner: Inner,
    terms: Terms,
    /// Bounded by the relay's circuits.
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
}

impl Conduit {
    pub fn new(inner: Inner, terms: Terms) -> Self {
        Conduit { inner, terms, steps: FuturesUnordered::new() }
    }

    fn on_step(&mut self, step: Step) -> Told {
        match step {
            Step::Accepted { circuit, holder, ends: Ok((ends, seat)) } => {
                let carried = carry(*ends, seat, self.terms);
                self.steps.push(carried.map(move |result| Step::Ended { circuit, holder, result }).boxed());
                Told::CircuitReqAccepted { circuit_id: circuit, dst_peer_id: holder }
            }
            Step::Accepted { circuit, holder, ends: Err(error) } => {
                Told::CircuitReqAcceptFailed { circuit_id: circuit, dst_peer_id: holder, error }
            }
            Step::Ended { circuit, holder, result } => {
                Told::CircuitClosed { circuit_id: circuit, dst_peer_id: holder, error: result.err() }
            }
        }
    }
}

impl ConnectionHandler for Conduit {
    type FromBehaviour = Order;
    type ToBehaviour = <Inner as ConnectionHandler>::ToBehaviour;
    type InboundProtocol = <Inner as ConnectionHandler>::InboundProtocol;
    type OutboundProtocol = <Inner as ConnectionHandler>::OutboundProtocol;
    type InboundOpenInfo = <Inner as ConnectionHandler>::InboundOpenInfo;
    type OutboundOpenInfo = <Inner as ConnectionHandler>::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn on_behaviour_event(&mut self, order: Order) {
        let (inner, account) = (order.inner, order.account);
        let Either::Left(Asked::AcceptAndDriveCircuit {
            circuit_id: circuit,
            dst_peer_id: holder,
            inbound_circuit_req: request,
            dst_stream: mut stream,
            dst_pending_data: from_holder,
        }) = inner
        else {
            return self.inner.on_behaviour_event(inner);
        };
        let seat = account.and_then(|account| Seat::take(&account, self.terms.circuits_per_holder));
        let accepted = async move {
            // Without an answer, the caller's stream ends.
            let seat = seat.ok_or(HopError::StreamClosed)?;
            let (mut source, from_source) = request.accept().await?;
            let sent = try_join(source.write_all(&from_holder), stream.write_all(&from_source)).await;
            sent.map_err(|_| HopError::StreamClosed)?;
            Ok((Box::new(Ends { source, holder: stream }), seat))
        };
        self.steps.push(accepted.map(move |ends| Step::Accepted { circuit, holder, ends }).boxed());
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if let Poll::Ready(Some(step)) = self.steps.poll_next_unpin(cx) {
            let told = self.on_step(step);
            // What was pushed just now wants to be polled, too.
            cx.waker().wake_by_ref();
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Either::Left(told)));
        }
        self.inner.poll(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        self.inner.on_connection_event(event);
    }
}

async fn carry(ends: Ends, seat: Seat, terms: Terms) -> io::Result<()> {
    let left = AtomicU64::new(terms.bytes);
    let (from_source, to_source) = ends.source.split();
    let (from_holder, to_holder) = ends.holder.split();
    let both =
        try_join(one_way(from_source, to_holder, &seat.0, &left), one_way(from_holder, to_source, &seat.0, &left));
    match tokio::time::timeout(terms.life, both).await {
        Ok(result) => result.map(|_| ()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn one_way(
    mut from: ReadHalf<Stream>,
    mut to: WriteHalf<Stream>,
    account: &Account,
    left: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; limits::RELAY_BUFFER];
    loop {
        let got = from.read(&mut buffer).await?;
        if got == 0 {
            // One side may be done long before the other.
            return to.close().await;
        }
        let bytes = got as u64;
        account.charge(bytes)?;
        let enough = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        enough.map_err(|_| io::Error::other("this relayed connection has carried all that it may"))?;
        to.write_all(&buffer[..got]).await?;
        to.flush().await?;
    }
}
