//! For the targets that do several things in a row: what an honest run looks like, and the known attacks.
use super::{Seeds, deal};
use fuzz::Record;
use fuzz::world::ops::*;
use fuzz::world::{self, key, network};
use node::store::{KnownPeer, StoredEvent};
use protocol::codec::encode;
use protocol::core::requestor::{Deal, Marks, Phase, Rental};
use protocol::credit::{Account, CreditRow};
use protocol::envelope::Sealed;
use protocol::ledger::LeaseRow;
use protocol::message::{Frame, LeaseStage, Request, VmPhase};
use protocol::meter::{Meter, MeterRow};
use protocol::names::{ActId, CreateId, Currency, Digest};
use protocol::quota::{QuotaRow, Tier};
use protocol::receipt::{Line, Receipt, ReceiptRow};
use protocol::spec::Query;
use protocol::units::{Millis, Timestamp};

/// Small, with the image that is there.
const SPEC: u8 = 0b00_00_01_01;

fn op(record: Record, op: u8, args: &[u8]) -> Record {
    record.u8(op).bytes(args)
}
fn play(steps: &[(u8, &[u8])]) -> Vec<u8> {
    steps.iter().fold(Record::default(), |record, (code, args)| op(record, *code, args)).0
}

/// Node 1 offers from the beginning; node 0 meets it, reads its board, and rents.
const MEETING: &[(u8, &[u8])] = &[(MEET, &[0, 1]), (DELIVER, &[0]), (DELIVER, &[0]), (DELIVER, &[0])];
const RENTING: &[(u8, &[u8])] = &[
    (CREATE, &[0, 1, SPEC]),
    (DELIVER, &[0]), // the quote is asked for
    (DELIVER, &[0]), // and given
    (DELIVER, &[0]), // accept
    (DELIVER, &[0]), // grant
    (DELIVER, &[0]), // confirm
    (DELIVER, &[0]), // active
    (REPORT, &[1, 0, 3]),
    (REPORT, &[1, 0, 4]),
    (WAIT, &[0, 250]),
    (DELIVER, &[0]),
    (DELIVER, &[0]),
];

pub fn core() -> Seeds {
    let run = |more: &[(u8, &[u8])]| play(&[MEETING, RENTING, more].concat());
    let early = |at: usize, instead: (u8, &[u8])| {
        let mut steps = [MEETING, RENTING].concat();
        steps[MEETING.len() + at] = instead;
        play(&steps)
    };
    let garbage = Record::default().u8(0).u8(1).chunk(&[0xa3, 0x61, 0x76]).0;
    let board = Frame::encode(world::START, Request::Board { after: None, limit: 9, own: false });
    let asked = Record::default().u8(1).u8(2).chunk(&board).0;
    let advert = Record::default().u8(1).u8(0).u8(1).chunk(&encode(&world::advert(&key(4)))).0;
    let posted = Record::default().u8(1).u8(0).u8(1).u64(7).u16(6100).0;
    let withdrawn = Record::default().u8(1).u8(3).u8(1).u64(8).u16(6100).0;
    let addrs = Record::default().u8(1).chunk(b"/ip4/192.0.2.1/tcp/4001 /ip6/::1/udp/9/quic-v1").0;
    let page = Record::default().u8(0).u8(0).u8(0b0101_0111).u8(1).u64(1).u16(9000).0;
    vec![
        run(&[
            (POWER, &[0, 1, 3]),
            (DELIVER, &[0]),
            (DELIVER, &[0]),
            (DESTROY, &[0, 1]),
            (DELIVER, &[0]),
            (DELIVER, &[0]),
        ]),
        run(&[(RESTART, &[0]), (RESTART, &[1]), (WAIT, &[3, 0]), (DELIVER, &[0]), (DELIVER, &[0])]),
        run(&[(REPORT, &[1, 0, 12]), (WAIT, &[1, 0]), (DELIVER, &[0]), (DELIVER, &[0])]),
        run(&[(WAIT, &[0xff, 0xff]), (WAIT, &[0xff, 0xff]), (WAIT, &[0xff, 0xff])]),
        run(&[(SET_BACK, &[0xff, 0xff]), (WAIT, &[9, 0]), (DELIVER, &[0])]),
        run(&[(TUNNEL, &[1, 0, 0]), (TUNNEL, &[1, 5, 0]), (ASK_WELL, &[1, 2, 5, 0]), (ASK_WELL, &[1, 5, 5, 0, 0])]),
        run(&[(OFFER, &[1, 0]), (WAIT, &[0, 9]), (OFFER, &[1, 4]), (DRAIN, &[1]), (PART, &[0, 1]), (MEET, &[0, 1])]),
        early(2, (RESIGN, &[0, 0, 90, 1])),
        early(2, (RESIGN, &[0, 0, 200, 4])),
        early(3, (FLIP, &[0, 0, 99, 1])),
        early(4, (RESIGN, &[0, 0, 120, 1])),
        early(5, (LOSE, &[0, 0])),
        early(6, (RESIGN, &[0, 0, 150, 8])),
        early(6, (CUT, &[0, 0, 60])),
        early(6, (LOSE, &[0, 1])),
        early(1, (TWICE, &[0])),
        play(&[(ADDRESSES, &addrs), (WAIT, &[2, 0]), (DELIVER, &[0])]),
        play(&[(GOSSIP, &garbage), (ASK, &garbage), (ASK, &asked), (SIGNED, &advert), (SIGNED, &advert)]),
        play(&[(POST, &posted), (POST, &withdrawn), (POST, &posted), (WAIT, &[0x40, 0]), (POST, &posted)]),
        play(&[(MEET, &[0, 4]), (ANSWER, &page), (ANSWER, &page), (ANSWER, &page), (CREATE, &[0, 2, SPEC])]),
        sharded(&[0, 0, 1, 3]),
        sharded(&[0, 2, 4, 5]),
        play(&[
            (ROUTING, &SERVES),
            (SEARCH, &[1, 0, 9, 0]),
            (ROUTING, &[1, 3, 5, 6, 7, 1, 1]),
            (SHARD_ANSWER, &[1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 2, 0, 0]),
            (WAIT, &[3, 0]),
        ]),
    ]
}

/// Node 1 serves the routing, with two others.
const SERVES: [u8; 7] = [1, 2, 5, 6, 1, 0, 1];

/// A holder is asked these things, time passes, and again.
fn sharded(kinds: &[u8]) -> Vec<u8> {
    let asked: Vec<Vec<u8>> = kinds.iter().map(|kind| super::shards::steps(*kind)).collect();
    let mut steps: Vec<(u8, &[u8])> = vec![(ROUTING, &SERVES)];
    steps.extend(asked.iter().map(|args| (SHARD, args.as_slice())));
    steps.push((WAIT, &[8, 0]));
    steps.extend(asked.iter().map(|args| (SHARD, args.as_slice())));
    play(&steps)
}

pub fn board() -> Seeds {
    let advert = |by: u8, seq: u8, late: u16| Record::default().u8(0).u8(by).u8(seq).u16(late).0;
    let withdrawal = |by: u8, seq: u8, late: u16| Record::default().u8(1).u8(by).u8(seq).u16(late).0;
    let elsewhere = |by: u8, seq: u8, late: u16| Record::default().u8(6).u8(by).u8(seq).u16(late).0;
    let again = |which: u8, life: u16| Record::default().u8(2).u8(which).u16(life).0;
    let wait = |time: u16| Record::default().u8(3).u16(time).0;
    let raw = |by: u8, body: &[u8]| Record::default().u8(7).u8(by).chunk(body).0;
    let whole = encode(&world::advert(&key(2)));
    // Issued now is 6010: the latest that may be is 60 s ahead, and the input counts back from a little later.
    vec![
        [advert(1, 1, 6010), advert(2, 1, 6010), wait(1000), advert(1, 2, 6010)].concat(),
        [advert(1, 5, 6010), advert(1, 4, 6010), again(0, 30_000), again(1, 30_000)].concat(),
        [advert(1, 5, 6010), withdrawal(1, 6, 6010), again(0, 30_000), wait(35_000), again(0, 30_000)].concat(),
        [advert(1, 5, 6010), wait(0), again(0, 1), wait(1), vec![4], again(0, 30_000)].concat(),
        [advert(1, 1, 10), advert(1, 1, 9), advert(1, 1, 36_010), advert(1, 1, 36_009)].concat(),
        [advert(1, 1, 0), wait(30_000), vec![4], again(0, 30_000), wait(6000), again(0, 30_000)].concat(),
        [advert(1, 5, 6010), elsewhere(1, 6, 6010), again(1, 1), wait(1), vec![4], again(0, 30_000)].concat(),
        [raw(2, &whole), raw(3, &whole), raw(2, &whole[..40])].concat(),
    ]
}

pub fn stored() -> Seeds {
    let row = |table: u8, value: &[u8]| Record::default().u8(table).chunk(value).0;
    let (lease, rental) = (lease(), rental());
    let provisional =
        LeaseRow { stage: LeaseStage::Provisional, confirm: None, active: None, seed: vec![], ..lease.clone() };
    let creating = Rental { phase: Phase::Accepting, ..rental.clone() };
    let leased = Rental { phase: Phase::Leased, ran: true, ..rental.clone() };
    let peer = KnownPeer { peer: key(1).peer_id(), addrs: vec!["/ip4/192.0.2.1/tcp/4001".into()], seen_ms: 1 };
    let event = StoredEvent {
        time_ms: 1,
        kind: "security".into(),
        severity: "warning".into(),
        message: "refused an advert".into(),
        subject: Some(key(1).peer_id().to_string()),
        code: Some(protocol::ErrorCode::BadToken),
    };
    vec![
        row(0, &encode(&lease)),
        row(0, &encode(&provisional)),
        row(1, &encode(&rental)),
        row(1, &encode(&creating)),
        row(1, &encode(&leased)),
        row(2, &encode(&peer)),
        row(2, &encode(&event)),
        row(5, &encode(&QuotaRow { peer: key(1).peer_id(), tier: Tier::Pro })),
        row(7, &encode(&MeterRow { lease_id: lease.lease_id, meter: Meter::new(deal().quote.price.clone()) })),
        row(8, &encode(&receipt(&lease))),
        row(9, &encode(&CreditRow { peer: key(2).peer_id(), currency: euro(), account: Account::default() })),
    ]
}

fn euro() -> Currency {
    "EUR".parse().expect("a currency")
}

fn receipt(lease: &LeaseRow) -> ReceiptRow {
    let price = deal().quote.price.clone();
    let line = Line { price, seconds: 3600 };
    let receipt = Receipt {
        network: network(),
        provider: key(1).peer_id(),
        requestor: lease.requestor,
        lease_id: lease.lease_id,
        grant_hash: lease.grant.digest(),
        number: 1,
        issued: super::at(3600),
        total: line.cost(),
        lines: vec![line],
        last: true,
    };
    let receipt = Sealed::seal(receipt, &key(1)).signed().clone();
    ReceiptRow { lease_id: lease.lease_id, issued: super::at(3600), receipt, countersign: None }
}

fn lease() -> LeaseRow {
    let deal = deal();
    LeaseRow {
        lease_id: deal.grant.lease_id,
        requestor: key(2).peer_id(),
        spec: deal.quote.spec.clone(),
        image_digest: Digest([6; 32]),
        guest_user: "debian".parse().expect("a user"),
        seed_hash: Digest::of(&world::tenants_seed()),
        quote: deal.quote.signed().clone(),
        accept: deal.accept.signed().clone(),
        grant: deal.grant.signed().clone(),
        confirm: Some(deal.confirm.signed().clone()),
        active: Some(deal.active.signed().clone()),
        seed: world::tenants_seed(),
        stage: LeaseStage::Active,
        provisional_until: super::at(30),
        ends_at: super::at(3600),
        ended_at: Timestamp(0),
        keep_until: Timestamp(0),
        wants_power: true,
        ran: true,
        vm: VmPhase::Running,
        revision: 5,
        acts: vec![ActId([5; 16])],
        fault: None,
        price: Some(deal.quote.price.clone()),
        prepaid: false,
        unpaid: false,
        renewal: None,
        stranger_from: None,
        unused_until: None,
        scaling: None,
    }
}

fn rental() -> Rental {
    let deal = deal();
    let agreed = Deal {
        provider: key(1).peer_id(),
        lease_id: deal.grant.lease_id,
        quote: deal.quote.signed().clone(),
        accept: deal.accept.signed().clone(),
        accept_expires: super::at(30),
        grant: Some(deal.grant.signed().clone()),
        granted: super::at(1),
        provisional_until: super::at(31),
        confirm: Some(deal.confirm.signed().clone()),
        active: None,
        ends_at: Timestamp(0),
        lasts: None,
        renewal: None,
        agreed: None,
    };
    Rental {
        create_id: CreateId([3; 16]),
        name: "web".parse().expect("a name"),
        spec: deal.quote.spec.clone(),
        query: Query::default(),
        provider: None,
        seed: world::tenants_seed(),
        seed_hash: Digest::of(&world::tenants_seed()),
        identity_file: Some("/home/me/.ssh/id_ed25519".into()),
        created: world::START,
        deadline: world::START + Millis::secs(120),
        phase: Phase::Confirming,
        deal: Some(agreed),
        tried: vec![],
        status: None,
        seen: world::START,
        unreachable_since: None,
        ran: false,
        fault: None,
        marks: Marks::default(),
        halvings: 0,
        project: None,
    }
}
