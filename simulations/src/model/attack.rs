//! What liars do: adverts of nobody, ids ground to lie where they want to be, words that nobody signed.
use super::links::Links;
use super::member::Nature;
use super::plans::Plan;
use super::recall::class_of;
use super::run::{MINUTE, Run};
use super::wires::mark_of;
use super::{Birth, Event, Id, Model};
use protocol::advert::Advert;
use protocol::board::Posting;
use protocol::core::provider::Offer;
use protocol::envelope::Sealed;
use protocol::message::{Frame, Request};
use protocol::shard::{Index, Position, Shard, ShardRequest, indexes_of};
use protocol::{Keypair, codec};
use std::net::{IpAddr, Ipv4Addr};

/// As often as an honest provider.
const REFRESH: u64 = 120_000;
/// Keys that are tried for one ground id, for each server there is: closer than all of them is one in so many.
const GRINDS: usize = 64;

fn terms(offer: &Offer) -> protocol::advert::Terms {
    protocol::advert::Terms {
        name: offer.name.clone(),
        country: offer.country.clone(),
        arch: offer.arch,
        backend: offer.backend.clone(),
        isolation: offer.isolation,
        egress: offer.egress,
        free: offer.total,
        largest: offer.total,
        overcommit_cpu: Default::default(),
        price: offer.price.clone(),
        images: offer.images.keys().cloned().collect(),
    }
}

impl Model {
    fn false_advert(&self, id: Id) -> Option<Sealed<Advert>> {
        let node = self.node(id);
        let (now, network, provider) = (self.clock(id), self.network().clone(), node.peer);
        let terms = terms(node.offer.as_deref()?);
        Some(Sealed::seal(Advert { network, provider, seq: now.0, issued: now, addrs: Vec::new(), terms }, &node.key))
    }

    /// To two holders in each index, as an honest provider does; and again when it is time to refresh.
    pub(super) fn put_sybil(&mut self, id: Id) {
        let Some(advert) = self.false_advert(id) else { return };
        self.put_anywhere(id, &advert, &Posting::Advert(advert.signed().clone()));
        let again = self.now + REFRESH + self.dice.within(0..REFRESH / 10);
        self.plan(id, again, Plan::Sybil);
    }

    fn put_anywhere(&mut self, id: Id, advert: &Advert, posting: &Posting) {
        for index in indexes_of(advert) {
            let shard = self.leaf_of(&index, advert.provider);
            let mut holders = self.holders(&shard);
            if holders.is_empty() {
                continue;
            }
            let first = holders.swap_remove(self.dice.index(holders.len()));
            let second = if holders.is_empty() { None } else { Some(holders[self.dice.index(holders.len())]) };
            for (to, also) in [(Some(first), second), (second, Some(first))] {
                let (Some(to), also) = (to, also.map(|also| self.node(also).peer)) else { continue };
                let put = ShardRequest::Put { shard: shard.clone(), posting: posting.clone(), also };
                let body = Frame::encode(self.clock(id), Request::Shard(put));
                self.send(id, 0, self.node(to).peer, body);
            }
        }
    }

    /// An advert of its own whose signature does not fit, put where it would belong; and somebody else's, gossiped.
    pub(super) fn forge(&mut self, id: Id) {
        let Some(advert) = self.false_advert(id) else { return };
        let mut forged = advert.signed().clone();
        let last = forged.signature.len() - 1;
        forged.signature[last] ^= 1;
        self.put_anywhere(id, &advert, &Posting::Advert(forged));
        let victim = self.dice.index(self.nodes.len()) as Id;
        let mut stolen = advert.signed().clone();
        stolen.signer = self.node(victim).peer;
        let body = codec::encode(&Posting::Advert(stolen));
        let to = self.dice.index(self.nodes.len()) as Id;
        let (mark, after) = (mark_of(&body), self.delay(id, to));
        self.queue.push(self.now + after, Event::Gossip { to, from: id, mark, body: body.into() });
    }
}

impl Run {
    /// Liars who are there and serve no routing.
    fn liar(&mut self, ip: IpAddr) -> Id {
        let honest = self.birth(false, true, Nature::Silent);
        self.model.add(Birth { ip: Some(ip), ..honest }, self.model.now)
    }

    /// So many for each honest provider, out of so many /24; they come within a minute.
    pub(super) fn sybil_adverts(&mut self, ratio: u32, blocks: u32) {
        let from: Vec<u32> = (0..blocks).map(|_| u32::from(self.anywhere()) & !0xff).collect();
        for n in 0..self.scenario.nodes.providers as usize * ratio as usize {
            let last = self.model.dice.within(1..255) as u32;
            let id = self.liar(IpAddr::V4(Ipv4Addr::from(from[n % from.len()] | last)));
            let at = self.model.now + 1 + self.model.dice.within(0..MINUTE);
            self.model.plan(id, at, Plan::Sybil);
        }
    }

    pub(super) fn forgers(&mut self, per_minute: u32) {
        for _ in 0..per_minute {
            let ip = IpAddr::V4(self.anywhere());
            let id = self.liar(ip);
            let at = self.model.now + 1 + self.model.dice.within(0..MINUTE - 1);
            self.model.plan(id, at, Plan::Forge);
        }
    }

    /// Ids that lie closer to the key of one leaf than any server there is.
    pub(super) fn eclipse(&mut self, ids: u32, nets: u32) {
        let Some(leaf) = self.some_leaf() else { return };
        let place = leaf.position(self.model.network());
        self.target = Some(leaf);
        let closest = self.model.routing.closest(place, 1);
        let within = closest.first().map_or(u128::MAX, |(at, _)| at.distance(place));
        let from: Vec<u32> = (0..nets).map(|_| u32::from(self.anywhere()) & !0xffff).collect();
        for n in 0..ids as usize {
            let key = self.grind(place, within);
            let ip = Ipv4Addr::from(from[n % from.len()] | self.model.dice.within(1..0xffff) as u32);
            let city = self.model.dice.index(Links::cities()) as u16;
            let ip = Some(IpAddr::V4(ip));
            let birth = Birth { public: true, nature: Nature::Silent, city, ip, offer: None, clock: 0 };
            let at = self.model.now + self.model.dice.within(0..5_000);
            self.model.add_with(key, birth, at);
        }
    }

    /// The leaf in which the first honest provider stands that offers something.
    fn some_leaf(&self) -> Option<Shard> {
        let model = &self.model;
        let honest = self.honest.iter().map(|id| model.node(*id));
        let node = honest.filter(|node| node.core.is_some() && node.started + 2 * MINUTE < model.now);
        let node = node.filter(|node| node.offer.is_some()).min_by_key(|node| node.at)?;
        Some(model.leaf_of(&Index::All(class_of(node)?), node.peer))
    }

    /// The closest of so many keys, or the first that is close enough.
    fn grind(&mut self, place: Position, within: u128) -> Keypair {
        let tries = GRINDS * self.model.routing.len().max(1);
        let mut best: Option<(u128, Keypair)> = None;
        for _ in 0..tries {
            let key = Keypair::from_secret(&self.model.dice.bytes());
            let distance = Position::of_peer(key.peer_id()).distance(place);
            if best.as_ref().is_none_or(|(closest, _)| distance < *closest) {
                best = Some((distance, key));
            }
            if best.as_ref().is_some_and(|(closest, _)| *closest < within) {
                break;
            }
        }
        best.map_or_else(|| Keypair::from_secret(&[0; 32]), |(_, key)| key)
    }
}
