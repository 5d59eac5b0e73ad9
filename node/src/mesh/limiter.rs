//! Token buckets, one for each peer, or each site, that asks often. A full bucket is the same as none, so only busy ones
//! are kept.
use super::limits;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

struct Bucket {
    tokens: f64,
    at: Instant,
}

/// How many at once, and how many a second after that.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    pub burst: f64,
    pub per_second: f64,
}

impl Allowance {
    pub const REQUESTS: Allowance = Allowance { burst: limits::REQUEST_BURST, per_second: limits::REQUEST_RATE };
    /// Of a site, which has several peers.
    pub const REQUESTS_OF_SITE: Allowance = Allowance {
        burst: limits::REQUEST_BURST * limits::SITE_SHARES,
        per_second: limits::REQUEST_RATE * limits::SITE_SHARES,
    };
    pub const HANDSHAKES_OF_SITE: Allowance =
        Allowance { burst: limits::HANDSHAKE_BURST_PER_SITE, per_second: limits::HANDSHAKE_RATE_PER_SITE };
}

pub struct Limiter<P> {
    allowance: Allowance,
    buckets: HashMap<P, Bucket>,
}

impl<P: Copy + Eq + Hash> Limiter<P> {
    pub fn new(allowance: Allowance) -> Self {
        Limiter { allowance, buckets: HashMap::new() }
    }

    /// Takes a token, or says that this peer, or this site, has used up its share.
    pub fn admits(&mut self, now: Instant, peer: P) -> bool {
        if !self.buckets.contains_key(&peer) && self.buckets.len() >= limits::MAX_BUCKETS {
            self.forget_full(now);
            if self.buckets.len() >= limits::MAX_BUCKETS {
                // A thousand peers all asking at once: whoever is not among them waits.
                return false;
            }
        }
        let allowance = self.allowance;
        let bucket = self.buckets.entry(peer).or_insert(Bucket { tokens: allowance.burst, at: now });
        bucket.tokens = refilled(bucket, allowance, now);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    pub fn forget_full(&mut self, now: Instant) {
        let allowance = self.allowance;
        self.buckets.retain(|_, bucket| refilled(bucket, allowance, now) < allowance.burst);
    }
}

fn refilled(bucket: &Bucket, allowance: Allowance, now: Instant) -> f64 {
    let since = now.saturating_duration_since(bucket.at).as_secs_f64();
    (bucket.tokens + since * allowance.per_second).min(allowance.burst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_the_rate_and_each_peer_for_itself() {
        let start = Instant::now();
        let mut limiter = Limiter::new(Allowance::REQUESTS);
        assert_eq!((0..200).filter(|_| limiter.admits(start, 1)).count(), 100);
        assert!(limiter.admits(start, 2), "another peer has its own bucket");
        let later = start + Duration::from_secs(1);
        assert_eq!((0..200).filter(|_| limiter.admits(later, 1)).count(), 50);
    }

    #[test]
    fn a_site_has_the_shares_of_four_peers_however_many_ids_it_makes() {
        let (start, mut peers) = (Instant::now(), Limiter::new(Allowance::REQUESTS));
        let mut sites = Limiter::new(Allowance::REQUESTS_OF_SITE);
        let mut ask = |now, site: u8, peer: u32| peers.admits(now, peer) && sites.admits(now, site);
        assert_eq!((0..1000).filter(|peer| ask(start, 1, *peer)).count(), 400, "each asks once");
        assert!(ask(start, 2, 1000), "another site is another matter");
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|peer| ask(later, 1, *peer)).count(), 200);
    }

    #[test]
    fn the_map_is_bounded_and_idle_peers_make_room() {
        let start = Instant::now();
        let mut limiter = Limiter::new(Allowance::REQUESTS);
        for peer in 0..limits::MAX_BUCKETS {
            assert!(limiter.admits(start, peer));
        }
        assert!(!limiter.admits(start, usize::MAX));
        assert!(limiter.admits(start + Duration::from_secs(1), usize::MAX));
        assert_eq!(limiter.buckets.len(), 1);
    }
}
