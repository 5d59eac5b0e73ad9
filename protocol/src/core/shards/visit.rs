//! One place of the tree, looked at: two of its holders are asked, who may send down, or up; when they differ, others are
//! asked, too.
use super::places::{Found, Places};
use super::search::LocalAsk;
use super::stats::ShardStats;
use crate::core::Ctx;
use crate::identity::PeerId;
use crate::message::Request;
use crate::shard::{MAX_DEPTH, Shard, ShardRequest, Shelf, Standing, likely_depth};
use rand_core::Rng;
use std::collections::BTreeMap;

/// Holders of one shard that are asked at first …
const ASK: usize = 2;
/// … and at most, while they differ, or show nothing.
const ASK_MOST: usize = 8;
/// Holders that must not know of a shard before it is not there: those that have just come may not know yet.
const ABSENT: usize = 3;
/// Steps up and down to one leaf.
const MAX_STEPS: u32 = MAX_DEPTH as u32;
/// Stands for a request to oneself; real ones begin at 1.
pub const LOCAL: u64 = 0;

pub struct Visit {
    pub shard: Shard,
    /// Steps up and down stay on the way to this one: what was said of a depth holds on that way alone.
    towards: Shard,
    /// Depths between which the leaf lies.
    between: (u8, u8),
    steps: u32,
    /// Steps down into the unknown: each is twice as long as the last.
    downs: u32,
    /// And up.
    ups: u32,
    /// Depths that were looked at.
    seen: Vec<u8>,
    /// Nobody else does: what saves time is worth some more messages.
    pub hurries: bool,
    pub asked: BTreeMap<u64, PeerId>,
    pub turned_to: Vec<PeerId>,
    /// Helpers that busy holders sent us to: each answers in the place of one of them.
    named: Vec<PeerId>,
    pub answers: Vec<Answer>,
    /// Of crowded places on the way.
    pub alternates: Vec<Shard>,
    pub done: bool,
}

pub struct Answer {
    standing: Standing,
    pub adverts: u32,
    found: usize,
    /// Something, whether it fits or not.
    shows: bool,
}

impl Visit {
    pub fn new(shard: Shard, rng: &mut impl Rng) -> Self {
        Visit {
            towards: shard.down_to(MAX_DEPTH, rng.next_u32()),
            shard,
            between: (0, MAX_DEPTH),
            steps: 0,
            downs: 0,
            ups: 0,
            seen: Vec::new(),
            hurries: false,
            asked: BTreeMap::new(),
            turned_to: Vec::new(),
            named: Vec::new(),
            answers: Vec::new(),
            alternates: Vec::new(),
            done: false,
        }
    }

    /// Not of those that were asked before.
    pub fn again(shard: Shard, asked: Vec<PeerId>, rng: &mut impl Rng) -> Self {
        Visit { turned_to: asked, ..Visit::new(shard, rng) }
    }

    /// A holder has too much to do, and says who answers in its place.
    pub fn sent_on(&mut self, helper: PeerId) {
        if !self.turned_to.contains(&helper) && !self.named.contains(&helper) {
            self.named.push(helper);
        }
    }

    pub fn take_in(&mut self, shelf: &Shelf) -> Vec<PeerId> {
        let items = shelf.items.iter().take(crate::board::PAGE);
        let found: Vec<PeerId> = items.map(|item| item.advert.signer).collect();
        let (standing, adverts) = (shelf.standing, shelf.adverts);
        let shows = !found.is_empty() || shelf.sample.is_some();
        self.answers.push(Answer { standing, adverts, found: found.len(), shows });
        // Those on their way down are better than nobody. But everybody comes by them: who took only these would find them
        // full.
        if matches!(standing, Standing::Split { .. }) { Vec::new() } else { found }
    }

    pub fn go_on(
        &mut self,
        ctx: &mut Ctx,
        places: &mut Places,
        stats: &mut ShardStats,
        ask: impl Fn(&Shard) -> ShardRequest,
        here: impl Fn(&Shard) -> LocalAsk,
        local: &mut Vec<LocalAsk>,
    ) {
        while !self.done && self.asked.is_empty() {
            let wanted = self.wanted(stats);
            if wanted > 0 {
                let holders = match places.holders(ctx, &self.shard) {
                    Found::Holders(holders) => holders,
                    Found::Wait => return self.look_ahead(ctx, places),
                    Found::Nobody => Vec::new(),
                };
                if self.turned_to.is_empty() && places.is_crowded(&self.shard) {
                    self.look_beside();
                }
                let mut fresh: Vec<PeerId> =
                    holders.iter().map(|server| server.peer).filter(|peer| !self.turned_to.contains(peer)).collect();
                let mut sent = 0;
                while sent < wanted && self.turned_to.len() < ASK_MOST {
                    let mut any =
                        || (!fresh.is_empty()).then(|| fresh.swap_remove(ctx.rng.next_u32() as usize % fresh.len()));
                    let Some(to) = self.named.pop().or_else(&mut any) else { break };
                    if self.turned_to.contains(&to) {
                        continue;
                    }
                    self.turned_to.push(to);
                    sent += 1;
                    stats.asked += 1;
                    if to == ctx.me() {
                        local.push(here(&self.shard));
                        // Its answer comes before the others'; it stands for one that is asked.
                        self.asked.insert(LOCAL, to);
                    } else {
                        let rpc = ctx.send(to, Request::Shard(ask(&self.shard)));
                        self.asked.insert(rpc, to);
                    }
                }
                if sent > 0 {
                    return;
                }
            }
            let crowded = places.is_crowded(&self.shard);
            self.conclude(ctx, crowded);
        }
    }

    /// What counts of the answers. Who has nothing of a shard says so, and who calls it a leaf shows at least one advert of
    /// it: who does neither keeps everything to himself.
    fn heard(&self) -> impl Iterator<Item = &Answer> {
        let leaf = |answer: &Answer| matches!(answer.standing, Standing::Leaf | Standing::Warming);
        self.answers.iter().filter(move |answer| answer.shows || !leaf(answer))
    }

    /// How many more holders should be asked: those that were asked differ, or are new themselves, or said nothing.
    fn wanted(&self, stats: &mut ShardStats) -> usize {
        let heard: Vec<&Answer> = self.heard().filter(|answer| answer.standing != Standing::Warming).collect();
        if heard.len() < ASK {
            return ASK - heard.len();
        }
        let say = |is: fn(&Standing) -> bool| heard.iter().filter(|answer| is(&answer.standing)).count();
        let said = [
            say(|standing| matches!(standing, Standing::Leaf)) >= ASK,
            say(|standing| matches!(standing, Standing::Split { .. })) >= ASK,
            say(|standing| matches!(standing, Standing::Absent)) >= ABSENT,
        ];
        let most = heard.iter().map(|answer| answer.found).max().unwrap_or(0);
        let near = heard.iter().filter(|answer| answer.found * 4 >= most * 3).count();
        if said.contains(&true) && near >= ASK {
            return 0;
        }
        stats.mismatches += 1;
        1
    }

    /// Has the holders looked up before it begins.
    pub fn prepare(&self, ctx: &mut Ctx, places: &mut Places) {
        if matches!(places.holders(ctx, &self.shard), Found::Wait) {
            self.look_ahead(ctx, places);
        }
    }

    /// Its leaf lies here or, as often as not, a step above or below: who holds those is asked meanwhile, for a lookup takes
    /// much longer than a question, and a user waits.
    fn look_ahead(&self, ctx: &mut Ctx, places: &mut Places) {
        let (least, most) = self.between;
        let depth = self.shard.depth;
        if self.hurries && depth > 0 && self.shard.alternate == 0 {
            let _ = (depth < most).then(|| places.holders(ctx, &self.towards.up_to(depth + 1)));
            let _ = (depth > least).then(|| places.holders(ctx, &self.towards.up_to(depth - 1)));
        }
    }

    fn look_beside(&mut self) {
        self.alternates.extend(self.shard.next_alternate());
    }

    /// By the majority of those that answered. Who is new here does not know yet whether the shard was split.
    fn conclude(&mut self, ctx: &mut Ctx, crowded: bool) {
        if self.heard().next().is_none() && !self.answers.is_empty() && !crowded {
            // Nobody here says anything that counts.
            self.look_beside();
        }
        let count = |is: fn(&Standing) -> bool| self.heard().filter(|answer| is(&answer.standing)).count();
        let leaf = count(|standing| matches!(standing, Standing::Leaf));
        let split = count(|standing| matches!(standing, Standing::Split { .. }));
        let absent = count(|standing| matches!(standing, Standing::Absent));
        // 1 is said by who was not told; of the others the lower estimate: liars inflate.
        let below = self.heard().filter_map(|answer| match answer.standing {
            Standing::Split { below } if below > 1 => Some(below),
            _ => None,
        });
        let below = below.min().unwrap_or(1);
        let (least, most) = &mut self.between;
        let depth = self.shard.depth;
        let next = if split >= ASK.min(leaf + split + absent).max(1) && split > leaf {
            *least = depth + 1;
            let likely = usual_depth(depth, below.into(), ctx.leaf);
            let stride = 1 << self.downs.saturating_sub(1).min(3);
            self.downs += 1;
            if likely > *most && !self.seen.contains(&likely) {
                // There is more below than would lie where nobody knew of anything: those were new.
                *most = MAX_DEPTH;
            }
            Some(likely.max(depth + stride).clamp(*least, (*most).max(*least)))
        } else if absent > leaf && depth > *least {
            *most = depth - 1;
            // Most guesses are off by one.
            let stride = 1 << self.ups.min(3);
            self.ups += 1;
            Some((*least + (depth - *least) / 2).max(depth.saturating_sub(stride)))
        } else {
            None
        };
        self.steps += 1;
        self.seen.push(depth);
        let stays = self.shard.alternate > 0;
        match next.filter(|next| !stays && *next <= *most && self.steps < MAX_STEPS) {
            Some(next) => self.shard = self.towards.up_to(next),
            None => {
                self.done = true;
                return;
            }
        }
        self.turned_to.clear();
        self.named.clear();
        self.answers.clear();
    }
}

/// Where a leaf is most likely met below a node with so many adverts: a step too deep costs as much as one too few, and who
/// only looks makes no leaf there.
fn usual_depth(depth: u8, below: u64, leaf: usize) -> u8 {
    let least = likely_depth(depth, below, leaf);
    let there = below >> (least - depth);
    // Of nodes with as many as a leaf takes half have split; with a few more, nearly all (Poisson).
    if there > (leaf + leaf / 16) as u64 { (least + 1).min(MAX_DEPTH) } else { least }
}

#[cfg(test)]
mod tests {
    use super::usual_depth;

    #[test]
    fn leaves_are_looked_for_where_most_of_them_are() {
        // Where every node has as many as a leaf takes, half have split; with 1599 below, those at 4 have 100 each.
        for (below, depth) in [(1, 0), (64, 0), (68, 0), (69, 1), (128, 1), (1024, 4), (1599, 5), (1_000_000, 14)] {
            assert_eq!(usual_depth(0, below, 64), depth, "{below}");
        }
        assert_eq!(usual_depth(3, 1599, 64), 8);
        assert_eq!(usual_depth(0, u64::MAX, 1), crate::shard::MAX_DEPTH);
    }
}
