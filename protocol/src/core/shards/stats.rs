//! What happened on the sharded board, counted since the start.
use crate::board::BoardRefusal;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardStats {
    /// As a holder.
    pub puts: u64,
    pub asks: u64,
    pub shares: u64,
    pub counts: u64,
    pub snapshot_pages: u64,
    /// Questions that went to a helper, and those answered as one.
    pub sent_on: u64,
    pub helped: u64,
    pub splits: u64,
    pub merges: u64,
    pub invited: u64,
    /// Others lay closer to what was asked for.
    pub not_holder: u64,
    /// Adverts that changed more often than a provider's do.
    pub too_often: u64,
    /// By `BoardRefusal::label`: as many as there are labels.
    pub refused: BTreeMap<Cow<'static, str>, u64>,
    /// As a provider.
    pub put: u64,
    pub acknowledged: u64,
    pub redirected: u64,
    pub put_failed: u64,
    /// Holders that did not show what others of them had taken.
    pub put_missing: u64,
    /// As a requestor.
    pub searches: u64,
    pub asked: u64,
    pub ask_failed: u64,
    /// Two holders of one shard said different things.
    pub mismatches: u64,
    pub lookups: u64,
}

impl ShardStats {
    pub fn refuse(&mut self, refusal: &BoardRefusal) {
        *self.refused.entry(refusal.label().into()).or_default() += 1;
    }
}
