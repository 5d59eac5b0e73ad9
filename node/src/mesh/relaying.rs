//! Carries other nodes' connections: the library's relay, with what it lacks. The library bounds what one caller opens;
//! here, in addition, what leads to one holder of a reservation is bounded, how many reservations go to one address,
//! and how many bytes are carried for a holder in a day.
use super::book::ip_of;
use super::conduit::{Account, Asked, Conduit, Order, Terms, Told};
use super::limits;
use super::reachability::Scope;
use super::types::RelayLimits;
use either::Either;
use libp2p::PeerId;
use libp2p::core::{Endpoint, Multiaddr, transport::PortUse};
use libp2p::relay::{self, RateLimiter};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use protocol::shard::Site;
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

struct Holder {
    peer: PeerId,
    ip: IpAddr,
    /// It was told so.
    stands: bool,
}

/// Who has reserved what, and what was carried for whom. Pure, but for the counters.
struct Books {
    limits: RelayLimits,
    /// Reservations, by the connection over which they were made: from the request on, so that many at once are not
    /// more than are allowed.
    holders: HashMap<ConnectionId, Holder>,
    accounts: HashMap<PeerId, (Arc<Account>, Instant)>,
}

impl Books {
    fn new(limits: RelayLimits) -> Self {
        Books { limits, holders: HashMap::new(), accounts: HashMap::new() }
    }

    fn reserve(&mut self, now: Instant, peer: PeerId, connection: ConnectionId, ip: Option<IpAddr>) -> bool {
        let Some(ip) = ip else { return false };
        let renewed = self.holders.contains_key(&connection);
        // Machines of one laboratory share what a router's customers would not.
        let public = Scope::of(ip) == Scope::World;
        let behind_it = self.holders.values().filter(|holder| holder.ip == ip).count();
        let site = Site::of_ip(ip);
        let beside_it = self.holders.values().filter(|holder| site.is_some() && Site::of_ip(holder.ip) == site).count();
        let full = self.holders.len() >= self.limits.reservations
            || (public && behind_it >= self.limits.reservations_per_ip)
            || beside_it >= limits::RELAY_RESERVATIONS_PER_SITE;
        if full && !renewed {
            return false;
        }
        if self.account(now, peer).is_none_or(|account| account.is_exhausted()) {
            return false;
        }
        self.holders.entry(connection).or_insert(Holder { peer, ip, stands: false });
        true
    }

    fn granted(&mut self, connection: &ConnectionId) {
        if let Some(holder) = self.holders.get_mut(connection) {
            holder.stands = true;
        }
    }

    /// The answer could not be given, or the library thought otherwise. One that stands does so until its time is up.
    fn not_granted(&mut self, connection: &ConnectionId) {
        if self.holders.get(connection).is_some_and(|holder| !holder.stands) {
            self.holders.remove(connection);
        }
    }

    fn may_call(&mut self, now: Instant, holder: PeerId) -> bool {
        let most = self.limits.circuits_per_holder;
        // Of one without a reservation the library says so.
        let Some((account, _)) = self.accounts.get(&holder) else { return true };
        let account = account.clone();
        self.turn(now);
        !account.is_exhausted() && account.circuits() < most
    }

    /// None while too many are remembered.
    fn account(&mut self, now: Instant, holder: PeerId) -> Option<Arc<Account>> {
        self.turn(now);
        if self.accounts.len() >= limits::RELAY_ACCOUNTS && !self.accounts.contains_key(&holder) {
            return None;
        }
        let budget = self.limits.budget;
        let (account, _) = self.accounts.entry(holder).or_insert_with(|| (Arc::new(Account::new(budget)), now));
        Some(account.clone())
    }

    /// Windows that are over begin anew; those of who has left are forgotten.
    fn turn(&mut self, now: Instant) {
        let (window, holders) = (self.limits.window, &self.holders);
        self.accounts.retain(|peer, (account, since)| {
            if now.saturating_duration_since(*since) < window {
                return true;
            }
            account.clear();
            *since = now;
            account.circuits() > 0 || holders.values().any(|holder| holder.peer == *peer)
        });
    }
}

pub struct Relaying {
    inner: relay::Behaviour,
    books: Books,
    terms: Terms,
    /// What the library is about to be asked, it is to refuse.
    refuse: Arc<AtomicBool>,
    /// Where each connected peer is seen at.
    seen_at: HashMap<ConnectionId, IpAddr>,
}

impl Relaying {
    pub fn new(local: PeerId, limits: RelayLimits) -> Self {
        let refuse = Arc::new(AtomicBool::new(false));
        let terms = Terms {
            circuits_per_holder: limits.circuits_per_holder,
            life: limits.circuit_life,
            bytes: limits.circuit_bytes,
        };
        let mut inner = relay::Behaviour::new(local, config(&limits, &refuse));
        // Until it is known that others can reach us: `offer`.
        inner.set_status(Some(relay::Status::Disable));
        Relaying { inner, books: Books::new(limits), terms, refuse, seen_at: HashMap::new() }
    }

    /// Whether peers are told that we relay.
    pub fn offer(&mut self, willing: bool) {
        let status = if willing { relay::Status::Enable } else { relay::Status::Disable };
        self.inner.set_status(Some(status));
    }

    /// It is called by us, and keeps its place.
    pub fn holds(&self, peer: &PeerId) -> bool {
        self.books.holders.values().any(|holder| holder.peer == *peer)
    }
    pub fn reservations(&self) -> usize {
        self.books.holders.len()
    }
    pub fn circuits(&self) -> usize {
        self.books.accounts.values().map(|(account, _)| account.circuits()).sum()
    }
    /// In the windows that run.
    pub fn carried(&self) -> u64 {
        self.books.accounts.values().map(|(account, _)| account.spent()).sum()
    }

    fn watch(&mut self, connection: ConnectionId, addr: &Multiaddr) {
        if let Some(ip) = ip_of(addr) {
            self.seen_at.insert(connection, ip);
        }
    }
}

fn config(bounds: &RelayLimits, refuse: &Arc<AtomicBool>) -> relay::Config {
    let ours = || -> Box<dyn RateLimiter> {
        let refuse = refuse.clone();
        // A closure is one; the library asks it before its own, which then count nothing.
        Box::new(move |_: PeerId, _: &Multiaddr, _| !refuse.load(Ordering::Relaxed))
    };
    let rate = |limit: u32| NonZeroU32::new(limit).unwrap_or(NonZeroU32::MIN);
    let config = relay::Config {
        // Counted in `Books`: the library, when it is full, would refuse renewals, too.
        max_reservations: usize::MAX,
        // The library takes one more than it says: a peer may hold two, one for each transport.
        max_reservations_per_peer: 1,
        reservation_duration: limits::RELAY_RESERVATION_LIFE,
        reservation_rate_limiters: vec![ours()],
        max_circuits: bounds.circuits,
        max_circuits_per_peer: bounds.circuits_per_peer.saturating_sub(1),
        max_circuit_duration: bounds.circuit_life,
        max_circuit_bytes: bounds.circuit_bytes,
        circuit_src_rate_limiters: vec![ours()],
    };
    config
        .reservation_rate_per_peer(rate(limits::RELAY_ASKS), limits::RELAY_ASKS_EVERY)
        .reservation_rate_per_ip(rate(limits::RELAY_ASKS_PER_IP), limits::RELAY_ASKS_PER_IP_EVERY)
        .circuit_src_per_peer(rate(limits::RELAY_CALLS), limits::RELAY_CALLS_EVERY)
        .circuit_src_per_ip(rate(limits::RELAY_CALLS_PER_IP), limits::RELAY_CALLS_PER_IP_EVERY)
}

impl NetworkBehaviour for Relaying {
    type ConnectionHandler = Conduit;
    type ToSwarm = relay::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(Conduit::new(inner, self.terms))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_outbound_connection(connection, peer, addr, role, port)?;
        Ok(Conduit::new(inner, self.terms))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            FromSwarm::ConnectionEstablished(new) if !new.endpoint.is_relayed() => {
                self.watch(new.connection_id, new.endpoint.get_remote_address());
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.seen_at.remove(&closed.connection_id);
                self.books.holders.remove(&closed.connection_id);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        let (now, ip) = (Instant::now(), self.seen_at.get(&connection).copied());
        let admitted = match &event {
            Either::Left(Told::ReservationReqReceived { .. }) => self.books.reserve(now, peer, connection, ip),
            Either::Left(Told::CircuitReqReceived { inbound_circuit_req: request, .. }) => {
                self.books.may_call(now, request.dst())
            }
            Either::Left(Told::ReservationReqAccepted { .. }) => {
                self.books.granted(&connection);
                true
            }
            Either::Left(Told::ReservationReqDenied { .. } | Told::ReservationReqAcceptFailed { .. }) => {
                self.books.not_granted(&connection);
                true
            }
            Either::Left(Told::ReservationTimedOut {}) => {
                self.books.holders.remove(&connection);
                true
            }
            _ => true,
        };
        // It decides while it is called, and only here is it called with requests.
        self.refuse.store(!admitted, Ordering::Relaxed);
        self.inner.on_connection_handler_event(peer, connection, event);
        self.refuse.store(false, Ordering::Relaxed);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let Poll::Ready(next) = self.inner.poll(cx) else { return Poll::Pending };
        let books = &mut self.books;
        Poll::Ready(next.map_in(|inner| {
            let account = match &inner {
                Either::Left(Asked::AcceptAndDriveCircuit { dst_peer_id: holder, .. }) => {
                    books.account(Instant::now(), *holder)
                }
                _ => None,
            };
            Order { inner, account }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn books() -> Books {
        Books::new(RelayLimits {
            reservations: 4,
            reservations_per_ip: 2,
            circuits_per_holder: 2,
            budget: 1000,
            window: Duration::from_secs(60),
            ..RelayLimits::default()
        })
    }
    fn reserve(books: &mut Books, now: Instant, connection: usize, peer: PeerId, ip: &str) -> bool {
        books.reserve(now, peer, ConnectionId::new_unchecked(connection), Some(ip.parse().unwrap()))
    }

    #[test]
    fn one_block_of_addresses_does_not_take_all_reservations() {
        let (now, mut books) = (Instant::now(), Books::new(RelayLimits::default()));
        let mut ask = |n: usize, ip: String| reserve(&mut books, now, n, PeerId::random(), &ip);
        let granted = (0..64).filter(|n| ask(*n, format!("192.0.2.{n}"))).count();
        assert_eq!(granted, limits::RELAY_RESERVATIONS_PER_SITE);
        assert!(ask(64, "192.0.3.1".into()));
        let near = (65..96).filter(|n| ask(*n, format!("192.168.0.{n}"))).count();
        assert_eq!(
            near,
            limits::RELAY_RESERVATIONS - granted - 1,
            "a laboratory's machines share nothing but the whole"
        );
    }

    #[test]
    fn reservations_are_bounded_in_all_and_behind_one_address() {
        let (now, mut books) = (Instant::now(), books());
        let mut ask = |n: usize, ip: &str| reserve(&mut books, now, n, PeerId::random(), ip);
        assert!(ask(1, "192.0.2.1") && ask(2, "192.0.2.1") && !ask(3, "192.0.2.1"));
        assert!(ask(4, "127.0.0.1") && ask(5, "198.51.100.1") && !ask(6, "203.0.113.1"));
        assert_eq!(books.holders.len(), 4);
        let (first, second) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        let peer = books.holders[&first].peer;
        assert!(reserve(&mut books, now, 1, peer, "192.0.2.1"), "a renewal is no further one");
        books.granted(&first);
        books.not_granted(&first);
        books.not_granted(&second);
        assert_eq!(books.holders.len(), 3, "what was not granted is given back, what stands is not");
    }

    #[test]
    fn what_is_carried_is_charged_to_the_holder_and_a_new_window_pays_it_off() {
        let (start, mut books, holder) = (Instant::now(), books(), PeerId::random());
        assert!(reserve(&mut books, start, 1, holder, "192.0.2.1"));
        let account = books.account(start, holder).unwrap();
        account.spent_for_test(999);
        assert!(books.may_call(start, holder) && reserve(&mut books, start, 1, holder, "192.0.2.1"));
        account.spent_for_test(1);
        assert!(!books.may_call(start, holder));
        assert!(!reserve(&mut books, start, 1, holder, "192.0.2.1"), "nor is it renewed");
        assert!(books.may_call(start, PeerId::random()), "the library knows who has no reservation");
        let later = start + Duration::from_secs(60);
        assert!(books.may_call(later, holder));
        books.holders.clear();
        books.turn(later + Duration::from_secs(60));
        assert!(books.accounts.is_empty(), "who has left is forgotten when its window is over");
    }

    #[test]
    fn accounts_are_bounded() {
        let (now, mut books) = (Instant::now(), books());
        for _ in 0..limits::RELAY_ACCOUNTS {
            assert!(books.account(now, PeerId::random()).is_some());
        }
        assert!(books.account(now, PeerId::random()).is_none());
        assert!(!reserve(&mut books, now, 1, PeerId::random(), "192.0.2.1"));
        let later = now + Duration::from_secs(60);
        assert!(reserve(&mut books, later, 1, PeerId::random(), "192.0.2.1"));
    }
}
