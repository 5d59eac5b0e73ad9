//! Whom to ask first. Price decides most, then how well the provider answered before, isolation and fit; among equals
//! chance, so that not everybody lands on one provider.
use crate::advert::Terms;
use crate::money::Amount;
use crate::names::Isolation;
use crate::units::Resources;
use rand_core::Rng;
use rust_decimal::prelude::ToPrimitive;

/// What this node knows of a provider by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Experience {
    pub latency_ms: Option<u64>,
    pub succeeded: u32,
    pub failed: u32,
    /// It had no room, lately.
    pub full: Option<Full>,
}

/// What a provider had left, while this was its advert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Full {
    pub seq: u64,
    pub free: Resources,
}

/// The weights sum to 1. Price leads since it is what a tenant compares; the rest breaks its ties.
const PRICE: f64 = 0.4;
const SUCCESS: f64 = 0.25;
const ISOLATION: f64 = 0.15;
const LATENCY: f64 = 0.1;
const FIT: f64 = 0.1;
/// Scores this close count as equal.
const CHANCE: f64 = 0.02;
/// At this round trip the latency term is half.
const HALF_LATENCY_MS: f64 = 100.0;

/// 0 to 1, higher is better. `dearest` is the highest price among those compared.
pub fn score(terms: &Terms, want: Resources, dearest: Amount, experience: Experience) -> f64 {
    let ratio = |part: Amount| match (part.decimal().to_f64(), dearest.decimal().to_f64()) {
        (Some(part), Some(whole)) if whole > 0.0 => part / whole,
        _ => 0.0,
    };
    let price = 1.0 - 0.5 * ratio(terms.price.per_hour);
    // Laplace's rule of succession: a stranger counts as one success and one failure.
    let tries = f64::from(experience.succeeded) + f64::from(experience.failed);
    let success = (f64::from(experience.succeeded) + 1.0) / (tries + 2.0);
    let isolation = match terms.isolation {
        Isolation::Hardware => 1.0,
        Isolation::Emulated => 0.6,
        Isolation::Container => 0.3,
        Isolation::Simulated => 0.0,
    };
    let latency = experience.latency_ms.map_or(0.5, |ms| HALF_LATENCY_MS / (HALF_LATENCY_MS + ms as f64));
    let fit = share(want.cpus.into(), terms.free.cpus.into())
        .max(share(want.memory_mib.0, terms.free.memory_mib.0))
        .clamp(0.0, 1.0);
    PRICE * price + SUCCESS * success + ISOLATION * isolation + LATENCY * latency + FIT * fit
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Best first; the order of near-equals is drawn.
pub fn order<T>(mut scored: Vec<(f64, T)>, rng: &mut impl Rng) -> Vec<T> {
    for (score, _) in &mut scored {
        *score += CHANCE * (f64::from(rng.next_u32()) / f64::from(u32::MAX));
    }
    scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    scored.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Price;
    use crate::names::{Arch, Egress};
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    fn terms(price: &str, isolation: Isolation) -> Terms {
        Terms {
            name: None,
            country: None,
            arch: Arch::X86_64,
            backend: "libvirt".parse().unwrap(),
            isolation,
            egress: Egress::None,
            free: Resources::LARGE,
            largest: Resources::LARGE,
            overcommit_cpu: Default::default(),
            price: Price { per_hour: price.parse().unwrap(), currency: "EUR".parse().unwrap() },
            images: vec![],
        }
    }

    #[test]
    fn cheaper_safer_and_proven_come_first() {
        let dearest = "0.10".parse().unwrap();
        let rate =
            |price, isolation, experience| score(&terms(price, isolation), Resources::SMALL, dearest, experience);
        let stranger = Experience::default();
        let base = rate("0.05", Isolation::Emulated, stranger);
        assert!(rate("0.01", Isolation::Emulated, stranger) > base);
        assert!(rate("0.05", Isolation::Hardware, stranger) > base);
        assert!(rate("0.05", Isolation::Emulated, Experience { succeeded: 9, ..stranger }) > base);
        assert!(rate("0.05", Isolation::Emulated, Experience { failed: 9, ..stranger }) < base);
        assert!((0.0..=1.0).contains(&base));
    }

    #[test]
    fn equals_are_drawn_and_the_better_wins() {
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let firsts: std::collections::BTreeSet<u32> =
            (0..100).map(|_| order(vec![(0.5, 1), (0.5, 2), (0.3, 3)], &mut rng)[0]).collect();
        assert_eq!(firsts, [1, 2].into());
    }
}
