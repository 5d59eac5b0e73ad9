//! Joining: bootstrap addresses are dialled at the start, and again for as long as company is wanted, each with its own
//! growing delay. Pure.
use super::limits;
use super::names::from_libp2p;
use libp2p::{Multiaddr, PeerId};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub struct Target {
    pub addr: Multiaddr,
    pub peer: Option<PeerId>,
    /// A remembered peer: its failure is no news.
    pub quiet: bool,
    dialling: bool,
    next: Instant,
    delay: Duration,
    /// What was reported last, so that a dead address is one line in the log and not one every 30 s.
    reported: Option<String>,
}

/// Who is at the addresses that we were told to join through, as far as it is known. Whoever has a clone can look.
#[derive(Clone, Default)]
pub struct Bootstrap(Arc<Mutex<HashSet<protocol::PeerId>>>);

impl Bootstrap {
    pub fn contains(&self, peer: &protocol::PeerId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }
    fn insert(&self, peer: &PeerId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(from_libp2p(peer));
    }
}

pub struct Join {
    targets: Vec<Target>,
    bootstrap: Bootstrap,
}

impl Join {
    pub fn new(now: Instant, addrs: impl IntoIterator<Item = (Multiaddr, Option<PeerId>, bool)>) -> Self {
        let target = |(addr, peer, quiet)| Target {
            addr,
            peer,
            quiet,
            dialling: false,
            next: now,
            delay: limits::BOOTSTRAP_FIRST,
            reported: None,
        };
        let targets: Vec<Target> = addrs.into_iter().take(limits::MAX_BOOTSTRAP).map(target).collect();
        let bootstrap = Bootstrap::default();
        let told = targets.iter().filter(|target| !target.quiet);
        told.filter_map(|target| target.peer.as_ref()).for_each(|peer| bootstrap.insert(peer));
        Join { targets, bootstrap }
    }

    pub fn bootstrap(&self) -> Bootstrap {
        self.bootstrap.clone()
    }

    /// Those of the wanted ones to dial now; each is then under way until it has connected or failed.
    pub fn due(&mut self, now: Instant, wanted: impl Fn(Option<&PeerId>) -> bool) -> Vec<usize> {
        let due = |target: &Target| !target.dialling && target.next <= now && wanted(target.peer.as_ref());
        let indices: Vec<usize> = (0..self.targets.len()).filter(|i| due(&self.targets[*i])).collect();
        indices.iter().for_each(|i| self.targets[*i].dialling = true);
        indices
    }

    pub fn target(&self, index: usize) -> &Target {
        &self.targets[index]
    }

    /// Somebody is there; whether it is one of ours shows when it identifies itself.
    pub fn connected(&mut self, now: Instant, index: usize, peer: PeerId) {
        let target = &mut self.targets[index];
        target.dialling = false;
        target.next = now + target.delay;
        let peer = target.peer.get_or_insert(peer);
        if !target.quiet {
            self.bootstrap.insert(peer);
        }
    }

    pub fn confirmed(&mut self, peer: &PeerId) {
        for target in self.targets.iter_mut().filter(|target| target.peer == Some(*peer)) {
            (target.delay, target.reported) = (limits::BOOTSTRAP_FIRST, None);
        }
    }

    pub fn index_of(&self, peer: &PeerId) -> Option<usize> {
        self.targets.iter().position(|target| target.peer == Some(*peer))
    }

    /// `jitter` is in 0..1. True if this reason is news for this address.
    pub fn failed(&mut self, now: Instant, index: usize, why: &str, jitter: f64) -> bool {
        let target = &mut self.targets[index];
        target.dialling = false;
        target.next = now + target.delay.mul_f64(0.75 + jitter / 2.0);
        target.delay = (target.delay * 2).min(limits::BOOTSTRAP_LAST);
        let news = !target.quiet && target.reported.as_deref() != Some(why);
        target.reported = Some(why.to_owned());
        news
    }

    pub fn is_bootstrap(&self, peer: &PeerId) -> bool {
        from_libp2p(peer).is_some_and(|peer| self.bootstrap.contains(&peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_back_off_and_say_the_same_thing_once() {
        let start = Instant::now();
        let mut join = Join::new(start, [("/ip4/127.0.0.1/tcp/1".parse().unwrap(), None, false)]);
        let (mut now, mut waits) = (start, Vec::new());
        for round in 0..8 {
            assert_eq!(join.due(now, |_| true), [0]);
            assert!(join.due(now, |_| true).is_empty(), "one dial at a time");
            assert_eq!(join.failed(now, 0, "refused", 0.5), round == 0);
            let before = now;
            while join.targets[0].next > now {
                now += Duration::from_millis(100);
            }
            waits.push((now - before).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert!(join.failed(now, 0, "timed out", 0.0), "another reason is news");
        let peer = crate::mesh::names::to_libp2p(protocol::Keypair::from_secret(&[7; 32]).peer_id());
        join.connected(now, 0, peer);
        assert!(join.is_bootstrap(&peer));
        assert_eq!(join.targets[0].delay, limits::BOOTSTRAP_LAST, "it may be a stranger");
        join.confirmed(&peer);
        assert_eq!(join.targets[0].delay, limits::BOOTSTRAP_FIRST);
    }
}
