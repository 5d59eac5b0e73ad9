//! How long past creates took, and so how long the next one will probably take: the median, and what nine of ten stayed
//! within, since one guest that took minutes says little about the rest.
use crate::identity::PeerId;
use crate::names::{BackendKind, CreateId, ImageName, Isolation};
use crate::units::{Millis, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Creates remembered, of all providers; about 200 bytes each. The oldest goes.
pub const MAX_SAMPLES: usize = 512;
/// Of those that say something about the next one, the latest: a provider that became faster is soon known as such.
pub const RECENT: usize = 32;

/// One create that ended with a running VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub create_id: CreateId,
    pub made: Timestamp,
    pub provider: PeerId,
    pub image: ImageName,
    pub backend: BackendKind,
    pub isolation: Isolation,
    pub took: Millis,
}

/// What would be made next, and by whom. Without an image: any.
#[derive(Clone, Copy, Debug)]
pub struct Prospect<'a> {
    pub provider: PeerId,
    /// The keys that it goes on for.
    pub formerly: &'a [PeerId],
    pub image: Option<&'a ImageName>,
    pub backend: &'a BackendKind,
    pub isolation: Isolation,
}

/// What an estimate was taken from: the first of these of which there is any past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// This provider's creates, of this image if it has made any.
    Provider,
    /// Creates of this image by providers of this backend and isolation.
    Kind,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub median: Millis,
    /// Nine of ten took no longer.
    pub ninth_decile: Millis,
    pub samples: u32,
    pub scope: Scope,
}

#[derive(Debug, Default)]
pub struct History {
    /// Oldest first.
    samples: VecDeque<Sample>,
}

impl History {
    /// Keeps one more; returns the one that is forgotten for it.
    pub fn note(&mut self, sample: Sample) -> Option<Sample> {
        let forgotten = if self.samples.len() >= MAX_SAMPLES { self.samples.pop_front() } else { None };
        self.samples.push_back(sample);
        forgotten
    }

    /// As `note`, for one of an earlier run; they come in any order.
    pub fn restore(&mut self, sample: Sample) {
        let place = self.samples.partition_point(|known| known.made <= sample.made);
        self.samples.insert(place, sample);
        if self.samples.len() > MAX_SAMPLES {
            self.samples.pop_front();
        }
    }

    pub fn estimate(&self, next: Prospect) -> Option<Estimate> {
        let image = |sample: &Sample| next.image.is_none_or(|image| sample.image == *image);
        let here = |sample: &Sample| sample.provider == next.provider || next.formerly.contains(&sample.provider);
        let kind = |sample: &Sample| sample.backend == *next.backend && sample.isolation == next.isolation;
        self.summary(Scope::Provider, |sample| here(sample) && image(sample))
            .or_else(|| self.summary(Scope::Provider, here))
            .or_else(|| self.summary(Scope::Kind, |sample| kind(sample) && image(sample)))
            .or_else(|| self.summary(Scope::All, |_| true))
    }

    fn summary(&self, scope: Scope, says: impl Fn(&Sample) -> bool) -> Option<Estimate> {
        let telling = self.samples.iter().rev().filter(|sample| says(sample)).take(RECENT);
        let mut took: Vec<Millis> = telling.map(|sample| sample.took).collect();
        took.sort_unstable();
        let samples = u32::try_from(took.len()).unwrap_or(u32::MAX);
        Some(Estimate { median: share(&took, 50)?, ninth_decile: share(&took, 90)?, samples, scope })
    }
}

/// The least of these that so many per cent of them do not exceed.
fn share(sorted: &[Millis], percent: usize) -> Option<Millis> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer(n: u8) -> PeerId {
        PeerId::from_public_key([n; 32])
    }
    fn sample(n: u64, provider: u8, image: &str, isolation: Isolation, secs: u64) -> Sample {
        Sample {
            create_id: CreateId(u128::from(n).to_be_bytes()),
            made: Timestamp(n),
            provider: peer(provider),
            image: image.parse().unwrap(),
            backend: "libvirt".parse().unwrap(),
            isolation,
            took: Millis::secs(secs),
        }
    }
    fn ask(
        history: &History,
        provider: u8,
        image: Option<&str>,
        isolation: Isolation,
    ) -> Option<(u64, u64, u32, Scope)> {
        let image = image.map(|image| image.parse().unwrap());
        let (backend, image) = ("libvirt".parse().unwrap(), image.as_ref());
        let estimate = history.estimate(Prospect {
            provider: peer(provider),
            formerly: &[],
            image,
            backend: &backend,
            isolation,
        })?;
        Some((estimate.median.as_secs(), estimate.ninth_decile.as_secs(), estimate.samples, estimate.scope))
    }

    #[test]
    fn the_closest_past_counts() {
        use Isolation::{Emulated, Hardware};
        let mut history = History::default();
        assert_eq!(ask(&history, 1, Some("tiny"), Emulated), None, "nothing is said without a past");
        let past =
            [(1, "tiny", Emulated, 20), (1, "tiny", Emulated, 24), (1, "big", Emulated, 90), (2, "tiny", Hardware, 3)];
        for (n, (provider, image, isolation, secs)) in (1..).zip(past) {
            history.note(sample(n, provider, image, isolation, secs));
        }
        for (provider, image, isolation, expected) in [
            (1, Some("tiny"), Emulated, (20, 24, 2, Scope::Provider)),
            (1, Some("big"), Emulated, (90, 90, 1, Scope::Provider)),
            (1, Some("other"), Emulated, (24, 90, 3, Scope::Provider)),
            (1, None, Emulated, (24, 90, 3, Scope::Provider)),
            (3, Some("tiny"), Hardware, (3, 3, 1, Scope::Kind)),
            (3, Some("big"), Emulated, (90, 90, 1, Scope::Kind)),
            (3, None, Emulated, (24, 90, 3, Scope::Kind)),
            (3, Some("other"), Hardware, (20, 90, 4, Scope::All)),
            (3, Some("tiny"), Isolation::Container, (20, 90, 4, Scope::All)),
        ] {
            assert_eq!(ask(&history, provider, image, isolation), Some(expected), "{provider} {image:?} {isolation:?}");
        }
    }

    #[test]
    fn one_slow_guest_in_ten_changes_neither_figure_and_two_change_the_second() {
        let told = |slow: u64| {
            let mut history = History::default();
            for n in 0..10 {
                history.note(sample(n, 1, "tiny", Isolation::Emulated, if n < slow { 280 } else { 20 + n }));
            }
            ask(&history, 1, None, Isolation::Emulated).map(|(median, most, ..)| (median, most))
        };
        assert_eq!((told(0), told(1), told(2)), (Some((24, 28)), Some((25, 29)), Some((26, 280))));
    }

    #[test]
    fn it_is_bounded_and_the_oldest_goes_whatever_the_order_it_is_read_in() {
        let (mut noted, mut read) = (History::default(), History::default());
        let all = MAX_SAMPLES as u64 + 20;
        let made = |n| sample(n, 1, "tiny", Isolation::Emulated, n);
        let forgotten: Vec<_> = (0..all).filter_map(|n| noted.note(made(n))).map(|sample| sample.made.0).collect();
        assert_eq!(forgotten, (0..20).collect::<Vec<_>>());
        (0..all).map(|n| n * 7919 % all).for_each(|n| read.restore(made(n)));
        assert_eq!(noted.samples, read.samples);
        assert_eq!(noted.samples.len(), MAX_SAMPLES);
    }

    proptest! {
        #[test]
        fn both_figures_are_of_the_recent_past_and_split_it(secs in proptest::collection::vec(0u64..1000, 1..100)) {
            let mut history = History::default();
            for (n, secs) in (0..).zip(&secs) {
                history.note(sample(n, 1, "tiny", Isolation::Emulated, *secs));
            }
            let recent = &secs[secs.len().saturating_sub(RECENT)..];
            let (median, most, samples, _) = ask(&history, 1, None, Isolation::Emulated).unwrap();
            prop_assert_eq!(samples as usize, recent.len());
            prop_assert!(recent.contains(&median) && recent.contains(&most) && median <= most);
            let within = |bound: u64| recent.iter().filter(|secs| **secs <= bound).count();
            let below = |bound: u64| recent.iter().filter(|secs| **secs < bound).count();
            prop_assert!(within(median) * 2 >= recent.len() && below(median) * 2 < recent.len());
            prop_assert!(within(most) * 10 >= recent.len() * 9 && below(most) * 10 < recent.len() * 9);
        }
    }
}
