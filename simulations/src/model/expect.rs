//! What a scenario promises, held against what was seen.
use super::observe::Summary;
use super::scenario::Expect;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The key in `[expect]`.
    pub what: &'static str,
    pub seen: Option<f64>,
    pub wanted: f64,
    pub at_least: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = if self.at_least { "at least" } else { "at most" };
        match self.seen {
            Some(seen) => write!(f, "{} is {seen:.5}, and should be {side} {}", self.what, self.wanted),
            None => write!(f, "{} was never seen, and should be {side} {}", self.what, self.wanted),
        }
    }
}

impl Expect {
    pub fn failures(&self, seen: &Summary) -> Vec<Failure> {
        let at_least = [
            ("recall", self.recall, Some(seen.recall)),
            ("recall_mean", self.recall_mean, Some(seen.recall_mean)),
            ("target_recall", self.target_recall, seen.target_recall),
            ("first_accept", self.first_accept, seen.first_accept),
            ("created", self.created, seen.created),
            ("lookups", self.lookups, seen.lookups),
            ("deepest", self.deepest.map(f64::from), Some(f64::from(seen.deepest))),
        ];
        let at_most = [
            ("mean", self.mean, Some(seen.mean)),
            ("p99", self.p99, Some(seen.p99)),
            ("busiest", self.busiest, Some(seen.busiest)),
            ("cost_ratio", self.cost_ratio, seen.cost_ratio),
            ("dead_share", self.dead_share, Some(seen.dead_share)),
            ("discover_p99_ms", self.discover_p99_ms.map(|ms| ms as f64), Some(seen.discover_p99_ms as f64)),
            ("rounds_p99", self.rounds_p99.map(f64::from), Some(f64::from(seen.rounds_p99))),
        ];
        let all = at_least.map(|one| (one, true)).into_iter().chain(at_most.map(|one| (one, false)));
        let kept = |seen: Option<f64>, wanted: f64, at_least: bool| match seen {
            Some(seen) if at_least => seen >= wanted,
            Some(seen) => seen <= wanted,
            None => false,
        };
        all.filter_map(|((what, wanted, seen), at_least)| {
            let wanted = wanted.filter(|wanted| !kept(seen, *wanted, at_least))?;
            Some(Failure { what, seen, wanted, at_least })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_held_against_what_was_seen() {
        let seen = Summary { recall: 0.95, mean: 700.0, ..Summary::default() };
        assert!(Expect::default().failures(&seen).is_empty());
        let kept = Expect { recall: Some(0.95), mean: Some(700.0), ..Expect::default() };
        assert!(kept.failures(&seen).is_empty());
        let broken = Expect { recall: Some(0.96), mean: Some(699.0), target_recall: Some(0.1), ..Expect::default() };
        let failures = broken.failures(&seen);
        let names: Vec<&str> = failures.iter().map(|failure| failure.what).collect();
        assert_eq!(names, ["recall", "target_recall", "mean"]);
        assert_eq!(failures[0].to_string(), "recall is 0.95000, and should be at least 0.96");
        assert!(failures[1].to_string().contains("never seen"));
    }
}
