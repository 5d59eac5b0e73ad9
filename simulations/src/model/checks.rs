//! What must hold, whatever the scenario: after each event for the node it happened to, and once a minute for all.
use super::meter::Kind;
use super::{Id, Model};
use protocol::advert::{ADVERT_TTL, Withdrawal};
use protocol::board::{MAX_ADVERTS, PageItem, Posting};
use protocol::codec::{self, MAX_ADVERT};
use protocol::core::NodeCore;
use protocol::core::shards::{MAX_HELD, MAX_SHARD_ADVERTS};
use protocol::envelope::Signed;
use protocol::message::{Frame, LeaseStage, Request, Response, VmPhase};
use protocol::revocation::Revocation;
use protocol::shard::{ShardRequest, ShardResponse};
use protocol::units::{Millis, Resources, Timestamp};

pub const NOTHING_OVERSOLD: &str = "nothing-oversold";
pub const NO_EXPIRED_ADVERT_RETURNED: &str = "no-expired-advert-returned";
pub const NO_UNVERIFIED_ADVERT_FORWARDED: &str = "no-unverified-advert-forwarded";
pub const EVERY_LEASE_ENDS: &str = "every-lease-ends";
pub const BOARDS_BOUNDED: &str = "boards-bounded";
pub const RESTS: &str = "rests";
pub const INVARIANTS: [&str; 6] = [
    NOTHING_OVERSOLD,
    NO_EXPIRED_ADVERT_RETURNED,
    NO_UNVERIFIED_ADVERT_FORWARDED,
    EVERY_LEASE_ENDS,
    BOARDS_BOUNDED,
    RESTS,
];

/// With more nodes than this, one message of so many is looked into: decoding each costs as much as the run itself.
const ALL_LOOKED_INTO: usize = 2_000;
const LOOKED_INTO: u64 = 16;
/// A lease ends when its provider's next tick comes, and its VM is taken down in seconds.
const SLACK: Millis = Millis::secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub why: String,
    pub at: u64,
}

type Verdict = Result<(), String>;

impl Model {
    pub(super) fn violated(&mut self, invariant: &'static str, why: String) {
        let at = self.now;
        self.violation.get_or_insert(Violation { invariant, why, at });
    }
    fn judge(&mut self, invariant: &'static str, verdict: Verdict) {
        if let Err(why) = verdict {
            self.violated(invariant, why);
        }
    }

    pub(super) fn check_node(&mut self, id: Id) {
        let verdict = self.not_oversold(id);
        self.judge(NOTHING_OVERSOLD, verdict);
    }

    /// What a ledger has promised, and what stands on its host, fits what was offered.
    fn not_oversold(&self, id: Id) -> Verdict {
        let node = self.node(id);
        let (Some(offer), Some(core)) = (&node.offer, &node.core) else { return Ok(()) };
        let ledger = core.provider().ledger();
        let slots = ledger.vms();
        if slots == 0 && node.vms.is_empty() {
            return Ok(());
        }
        let (taken, made) = (ledger.taken(), node.vms.values().fold(Resources::default(), |sum, vm| sum.plus(*vm)));
        let most = offer.max_vms as usize;
        if !taken.fits_in(offer.total) || slots > most {
            return Err(format!("node {id} promised {taken} in {slots} VMs, and offered {} in {most}", offer.total));
        }
        if !made.fits_in(offer.total) || node.vms.len() > most {
            return Err(format!("node {id} has {} VMs of {made}, and offered {}", node.vms.len(), offer.total));
        }
        Ok(())
    }

    fn looks(&mut self) -> bool {
        self.looked += 1;
        self.nodes.len() <= ALL_LOOKED_INTO || self.looked.is_multiple_of(LOOKED_INTO)
    }

    /// What a holder passes on to another, or an honest provider puts.
    pub(super) fn check_request(&mut self, id: Id, kind: Kind, body: &[u8]) {
        let honest = self.nodes[id as usize].core.is_some();
        if kind != Kind::Hold || !honest || !self.looks() {
            return;
        }
        let Ok(frame) = Frame::<Request>::decode(body) else { return };
        if let Request::Shard(ShardRequest::Share { items, .. }) = frame.body {
            for item in items {
                let verdict = self.was_verified(id, &item.posting);
                self.judge(NO_UNVERIFIED_ADVERT_FORWARDED, verdict);
            }
        }
    }

    /// What is shown to who asks: a page of a board, a shelf, a snapshot.
    pub(super) fn check_answer(&mut self, id: Id, kind: Kind, body: &[u8]) {
        if !matches!(kind, Kind::Ask | Kind::Hold | Kind::Gossip) || !self.looks() {
            return;
        }
        let items = match Frame::<Response>::decode(body).map(|frame| frame.body) {
            Ok(Response::Shard(ShardResponse::Shelf(shelf))) => shelf.items,
            Ok(Response::Board(page)) => page.items,
            _ => return,
        };
        for item in items {
            let verdict = self.was_verified(id, &Posting::Advert(item.advert.clone()));
            self.judge(NO_UNVERIFIED_ADVERT_FORWARDED, verdict);
            let verdict = self.is_alive(id, &item);
            self.judge(NO_EXPIRED_ADVERT_RETURNED, verdict);
        }
    }

    pub(super) fn check_gossip(&mut self, id: Id, body: &[u8]) {
        if !self.looks() {
            return;
        }
        let verdict = match codec::decode::<Posting>(body, MAX_ADVERT + 512) {
            Ok(posting) => self.was_verified(id, &posting),
            Err(error) => Err(format!("node {id} gossips on what is {error}")),
        };
        self.judge(NO_UNVERIFIED_ADVERT_FORWARDED, verdict);
    }

    /// Its own words aside, a node passes on only what somebody has found to be signed; a withdrawal is checked anew.
    fn was_verified(&self, id: Id, posting: &Posting) -> Verdict {
        let own = |signed: &Signed| signed.signer == self.node(id).peer;
        let right = match posting {
            Posting::Advert(signed) => own(signed) || self.memo.verified(signed).is_some(),
            Posting::Withdrawal(signed) => own(signed) || signed.clone().open::<Withdrawal>(self.network()).is_ok(),
            Posting::Revocation(signed) => signed.clone().open::<Revocation>(self.network()).is_ok(),
        };
        if right { Ok(()) } else { Err(format!("node {id} passes on what it has not verified: {posting:?}")) }
    }

    fn is_alive(&self, id: Id, item: &PageItem) -> Verdict {
        let now = self.clock(id);
        if item.life == Millis(0) || item.life > ADVERT_TTL {
            return Err(format!("node {id} shows an advert of {:?} with {:?} to live", item.advert.signer, item.life));
        }
        let Some(advert) = self.memo.verified(&item.advert) else { return Ok(()) };
        if advert.issued <= now && now + item.life > advert.issued + ADVERT_TTL {
            return Err(format!(
                "node {id} shows an advert of {:?} that was issued {:?} ago with {:?} to live",
                advert.provider,
                now - advert.issued,
                item.life
            ));
        }
        Ok(())
    }

    /// What is too much for each event, of all nodes.
    pub fn check_all(&mut self) {
        for id in 0..self.nodes.len() as Id {
            let Some(core) = self.nodes[id as usize].core.as_ref() else { continue };
            let bounded = bounded(core);
            let ended = self.leases_end(id, core);
            self.judge(BOARDS_BOUNDED, bounded.map_err(|why| format!("node {id} {why}")));
            self.judge(EVERY_LEASE_ENDS, ended);
        }
    }

    fn leases_end(&self, id: Id, core: &NodeCore) -> Verdict {
        let (now, ledger) = (self.clock(id), core.provider().ledger());
        for row in ledger.leases() {
            let until = match row.stage {
                LeaseStage::Provisional => row.provisional_until,
                LeaseStage::Active => row.ends_at,
                LeaseStage::Expired => row.keep_until,
                LeaseStage::Ended if row.vm == VmPhase::Gone => continue,
                LeaseStage::Ended => row.ended_at,
            };
            if until != Timestamp(0) && until + SLACK < now {
                return Err(format!(
                    "node {id}: lease {} is {:?} and its VM {:?}, {:?} after its end",
                    row.lease_id,
                    row.stage,
                    row.vm,
                    now - until
                ));
            }
        }
        let stray = self.node(id).vms.keys().find(|lease| ledger.lease(**lease).is_none_or(|row| !row.counts()));
        stray.map_or(Ok(()), |lease| Err(format!("node {id} has a VM of lease {lease}, which is over")))
    }
}

fn bounded(core: &NodeCore) -> Verdict {
    let within = |what: &str, count: usize, most: usize| match count <= most {
        true => Ok(()),
        false => Err(format!("has {count} {what}, and {most} are the most")),
    };
    within("adverts on its board", core.board().len(), MAX_ADVERTS)?;
    within("shards", core.shards().held(), MAX_HELD)?;
    for (shard, board) in core.shards().shelves() {
        within(&format!("adverts in {shard:?}"), board.len(), MAX_SHARD_ADVERTS)?;
    }
    Ok(())
}
