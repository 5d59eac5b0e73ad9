//! What nodes say about shards.
use super::{Block, Server, Shard};
use crate::board::{Board, PAGE, PageItem, Posting};
use crate::identity::PeerId;
use crate::spec::Query;
use crate::units::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

/// Postings that one holder passes to another in one message: two full leaves, under `MAX_MESSAGE` with adverts of the
/// usual size; the byte limit binds first for large ones.
pub const MAX_SHARED: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardRequest {
    /// A provider puts its own advert or withdrawal. `also` is the other holder that gets it: each of the two passes
    /// it to half of the others.
    Put { shard: Shard, posting: Posting, also: Option<PeerId> },
    /// A requestor's question, for those from behind `after` round to `until`.
    Ask { shard: Shard, query: Query, after: PeerId, until: PeerId, limit: u16 },
    /// From holder to holder.
    Share { items: Vec<Shared>, states: Vec<State> },
    /// A page of everything in a shard, for a new holder.
    Snapshot { shard: Shard, after: Option<PeerId> },
    /// Told to the holders of the parent.
    Count(Child),
    /// These have you among their closest now; whoever says so has their adverts.
    Invite(Vec<State>),
    /// This shard is asked for more often than its holder can bear: whoever is behind it answers in its place for a while.
    Relieve(State),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    pub shard: Shard,
    pub posting: Posting,
    /// What is left of it; a forwarder may shorten a life, never lengthen it.
    pub life: Millis,
    /// Where the provider was when it put it, as the forwarder saw.
    pub block: Option<Block>,
}

/// What one of its first holders knows of a shard, for the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub shard: Shard,
    /// It has split, and there are so many adverts below; 0 is said by one who was not told how many.
    pub below: Option<u32>,
    /// Its parent is a leaf again.
    pub folded: bool,
    /// Adverts in the whole mesh.
    pub total: Option<u32>,
}

/// What a holder of a shard knows of it, for its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    pub shard: Shard,
    /// Here and below.
    pub adverts: u32,
    pub leaf: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardResponse {
    Put(PutAnswer),
    /// Others lie closer to this shard.
    NotHolder {
        closer: Vec<Server>,
    },
    Shelf(Shelf),
    /// This one answers as well: it is asked for too often here.
    Elsewhere(Server),
    /// Shared, invited, relieved.
    Noted,
    Counted {
        merged: bool,
        total: Option<u32>,
        /// Those who should have been told instead.
        closer: Vec<Server>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutAnswer {
    /// It stands there now, wherever else it is to go.
    pub kept: bool,
    pub go: Go,
    /// Adverts in the shard.
    pub adverts: u32,
    /// Adverts in the whole mesh, as far as is known.
    pub total: Option<u32>,
    /// Servers that hold it too, from one that has fallen behind them.
    pub closer: Vec<Server>,
}

/// Where an advert belongs, seen from where it was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Go {
    Stay,
    /// The shard has split: so many adverts are below.
    Down {
        below: u32,
    },
    /// The shard was merged into its parent.
    Up,
}

/// What a holder has for a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelf {
    pub items: Vec<PageItem>,
    /// Where nothing fits, one that does not: that somebody stands here at all can be seen, and need not be believed.
    pub sample: Option<PageItem>,
    /// Ask again after this one.
    pub next: Option<PeerId>,
    /// Adverts in the shard here, whether or not they fit the question.
    pub adverts: u32,
    pub standing: Standing,
}

impl Shelf {
    /// What a board has for a question, for those from behind `after` round to `until`.
    pub fn of(
        board: &Board,
        standing: Standing,
        now: Timestamp,
        query: &Query,
        after: PeerId,
        until: PeerId,
        limit: u16,
    ) -> Shelf {
        let page = board.shelf(now, query, after, until, usize::from(limit).min(PAGE));
        let any = || board.page(now, None, 1).items.pop();
        let sample = if page.items.is_empty() { any() } else { None };
        Shelf { items: page.items, sample, next: page.next, adverts: board.len() as u32, standing }
    }
    /// Of a shard that is not there.
    pub fn absent() -> Shelf {
        Shelf { items: Vec::new(), sample: None, next: None, adverts: 0, standing: Standing::Absent }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    Leaf,
    /// New here: others may have more.
    Warming,
    /// It has split; what is left here is on its way down, where there are so many in all.
    Split {
        below: u32,
    },
    /// It holds no such shard: the leaf is further up, or there is nothing.
    Absent,
}
