//! `docs/protocol.md` against the code: every name that goes over the wire stands there, domains and limits are those of
//! the code, and the test vectors are what the code makes. `GOLEMNODE_UPDATE_VECTORS=1` writes the vectors anew.
#![expect(clippy::disallowed_methods, reason = "it reads a document, and may write it")]
mod samples;

use protocol::ErrorCode;
use protocol::advert::{ADVERT_TTL, Advert, MAX_ADDRS, MAX_IMAGES, MAX_SKEW, TOMBSTONE_TTL, Withdrawal};
use protocol::board::{PAGE, Posting};
use protocol::codec::{DecodeError, MAX_ADVERT, MAX_MESSAGE, encode};
use protocol::core::posting::REFRESH;
use protocol::core::provider::WATCH;
use protocol::envelope::{EnvelopeError, Payload, Sealed, Signed};
use protocol::lease::{ACCEPT_LIFE, Accept, Active, Confirm, FIRST_CONFIRM, Grant, PROVISIONAL, QUOTE_HOLD, Quote};
use protocol::message::{Frame, LeaseStage, PowerAction, ProvisionStep, Request, Response, VERSION, VmPhase};
use protocol::meter::MAX_PRICES;
use protocol::names::{Arch, Egress, Isolation, IsolationWanted};
use protocol::receipt::{Countersign, EVERY, Receipt};
use protocol::refusal::Refusal;
use protocol::renewal::{Renew, RenewQuote, Renewed};
use protocol::revocation::Revocation;
use protocol::seed::MAX_SEED;
use protocol::shard::{
    ALTERNATES, Block, Go, HOLDERS, HOLDERS_PER_NET, Index, LEAF, MAX_DEPTH, MAX_SHARED, MERGE, Position, Shard,
    ShardRequest, ShardResponse, Standing, Tier,
};
use protocol::spec::{MAX_DURATION, MAX_PORTS, MIN_DURATION};
use protocol::tunnel::{MAX_HEADER, MAX_LOG, TunnelOpen, TunnelReply};
use samples::{CREATE, NOW, advert, deep, key, lease_id, network, provider, requestor};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
/// What stands between this and the end of its block are the vectors.
const VECTORS: &str = "## Test vectors";
const UPDATE: &str = "GOLEMNODE_UPDATE_VECTORS";
const WIDTH: usize = 116;

fn document() -> String {
    std::fs::read_to_string(DOCUMENT).unwrap()
}
/// From a heading to the next.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let from = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no '{heading}'")) + heading.len() + 2;
    let length = text[from..].find("\n## ").unwrap_or(text.len() - from);
    &text[from..from + length]
}
/// What stands in backticks, outside of blocks, word by word.
fn said(text: &str) -> BTreeSet<&str> {
    let prose = text.split("```").step_by(2);
    let spans = prose.flat_map(|prose| prose.split('`').skip(1).step_by(2));
    spans.flat_map(|span| span.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')).collect()
}
/// The cells of each row of each table.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let inner = text.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    inner.map(|row| row.split('|').map(str::trim).collect())
}

/// Reads one value of CBOR as it is written here, and notes the names of fields, and all texts; what is left is returned.
fn walk<'a>(bytes: &'a [u8], fields: &mut BTreeSet<String>, texts: &mut BTreeSet<String>) -> &'a [u8] {
    let (first, mut rest) = bytes.split_first().unwrap();
    let count = match first & 31 {
        small @ 0..24 => u64::from(small),
        length @ 24..28 => {
            let (argument, after) = rest.split_at(1 << (length - 24));
            rest = after;
            argument.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
        }
        other => panic!("an indefinite length, or a reserved one: {other}"),
    };
    match first >> 5 {
        0 => rest,
        2 => &rest[count as usize..],
        3 => {
            let (text, rest) = rest.split_at(count as usize);
            texts.insert(String::from_utf8(text.to_vec()).unwrap());
            rest
        }
        4 => (0..count).fold(rest, |rest, _| walk(rest, fields, texts)),
        5 => (0..count).fold(rest, |rest, _| {
            let mut name = BTreeSet::new();
            let rest = walk(rest, &mut BTreeSet::new(), &mut name);
            fields.extend(name);
            walk(rest, fields, texts)
        }),
        7 if (20..23).contains(&count) => rest,
        major => panic!("major type {major}: no floats, no tags, no negative numbers, no undefined"),
    }
}

/// The variants of an enum, as serde names them to who sends another.
fn variants<T: DeserializeOwned>() -> Vec<String> {
    let error = serde_json::from_str::<T>("\"?\"").err().unwrap().to_string();
    let expected = error.split_once("expected").unwrap().1;
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
fn all_variants() -> BTreeSet<String> {
    let messages = [variants::<Request>(), variants::<Response>(), variants::<Posting>(), variants::<Refusal>()];
    let shards = [variants::<ShardRequest>(), variants::<ShardResponse>(), variants::<Index>(), variants::<Block>()];
    let small = [variants::<Go>(), variants::<Standing>(), variants::<Tier>(), variants::<TunnelReply>()];
    let lease =
        [variants::<LeaseStage>(), variants::<VmPhase>(), variants::<ProvisionStep>(), variants::<PowerAction>()];
    let words = [variants::<Arch>(), variants::<Isolation>(), variants::<IsolationWanted>(), variants::<Egress>()];
    let codes = [variants::<ErrorCode>(), variants::<protocol::quota::Tier>()];
    [messages, shards, small, lease, words].concat().into_iter().chain(codes).flatten().collect()
}

#[test]
fn every_name_on_the_wire_is_in_the_document() {
    let (mut fields, mut texts) = (BTreeSet::new(), BTreeSet::new());
    for bytes in samples::samples() {
        assert!(walk(&bytes, &mut fields, &mut texts).is_empty(), "one value, and nothing after it");
    }
    let variants = all_variants();
    assert!(variants.len() > 120 && fields.len() > 130, "{} variants, {} fields", variants.len(), fields.len());
    let unmade: Vec<&String> =
        variants.iter().filter(|name| !fields.contains(*name) && !texts.contains(*name)).collect();
    assert!(unmade.is_empty(), "no sample has {unmade:?}");
    let text = document();
    let said = said(&text);
    let missing: Vec<&String> = fields.union(&variants).filter(|name| !said.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "docs/protocol.md does not name {missing:?}");
}

/// An accession is its module's own: what it is called, and at which size another is refused.
fn of_accessions() -> (String, usize) {
    let good = Revocation::in_favour_of(&key(2), &key(1)).accession.clone().unwrap();
    let domain = good.domain.clone();
    let large = Revocation { revoked: provider(), accession: Some(Signed { body: vec![0; 400], ..good }) };
    match Sealed::seal(large, &key(1)).signed().clone().open_anywhere::<Revocation>() {
        Err(EnvelopeError::Undecodable(DecodeError::Oversized { limit, .. })) => (domain, limit),
        other => panic!("{other:?}"),
    }
}

#[test]
fn domains_and_their_limits_are_those_of_the_code() {
    fn of<T: Payload>() -> (String, usize) {
        (format!("`{}`", T::DOMAIN), T::LIMIT)
    }
    let renewing = [of::<RenewQuote>(), of::<Renew>(), of::<Renewed>(), of::<Receipt>(), of::<Countersign>()];
    let leasing = [of::<Quote>(), of::<Accept>(), of::<Grant>(), of::<Confirm>(), of::<Active>()];
    let mut known: BTreeMap<String, usize> =
        [of::<Advert>(), of::<Withdrawal>(), of::<Revocation>()].into_iter().chain(leasing).chain(renewing).collect();
    let (domain, limit) = of_accessions();
    known.insert(format!("`{domain}`"), limit);
    let text = document();
    let table = rows(section(&text, "## Signed messages")).flat_map(|row| {
        let cells = row.chunks(3).map(|cells| (cells[0].to_owned(), cells.get(2).map(|n| n.replace(' ', ""))));
        cells.collect::<Vec<_>>()
    });
    let table: BTreeMap<String, Option<String>> = table.filter(|(name, _)| name.contains("golemnode/")).collect();
    let known: BTreeMap<String, Option<String>> =
        known.into_iter().map(|(name, n)| (name, Some(n.to_string()))).collect();
    assert_eq!(table, known);
}

#[test]
fn limits_are_those_of_the_code() {
    macro_rules! counts {
        ($($name:ident)*) => { [$((stringify!($name), $name as u64)),*] };
    }
    macro_rules! spans {
        ($($name:ident)*) => { [$((stringify!($name), $name.0)),*] };
    }
    let counts = counts![
        VERSION MAX_MESSAGE MAX_ADVERT MAX_IMAGES MAX_ADDRS MAX_SEED MAX_HEADER MAX_LOG MAX_PORTS MAX_PRICES PAGE
        MAX_SHARED HOLDERS HOLDERS_PER_NET LEAF MERGE MAX_DEPTH ALTERNATES
    ];
    let spans = spans![
        MIN_DURATION MAX_DURATION ADVERT_TTL REFRESH TOMBSTONE_TTL MAX_SKEW QUOTE_HOLD ACCEPT_LIFE PROVISIONAL
        FIRST_CONFIRM WATCH EVERY
    ];
    let known: BTreeMap<String, String> =
        counts.into_iter().chain(spans).map(|(name, value)| (format!("`{name}`"), value.to_string())).collect();
    let text = document();
    let pairs = rows(section(&text, "## Limits"))
        .flat_map(|row| row.chunks(2).map(|cells| (cells[0].to_owned(), cells[1].to_owned())).collect::<Vec<_>>());
    let table: BTreeMap<String, String> = pairs.filter(|(name, _)| name.starts_with('`')).collect();
    assert_eq!(table, known);
}

/// What a second implementation has to come to, too.
fn vectors() -> String {
    let hex = |bytes: &[u8]| hex::encode(bytes);
    let shard = Shard::of(Index::All(protocol::shard::Class::of(&advert())), 9, provider());
    let place = |at: Position| format!("{:032x}", at.0);
    let open = TunnelOpen { v: VERSION, lease_id: lease_id(), port: 22, log: None };
    let header = encode(&open);
    let posting = Posting::Advert(Sealed::seal(advert(), &key(1)).signed().clone());
    let refused =
        Refusal::Exhausted { asked: samples::spec().resources, free: advert().terms.free, retry_after_s: None };
    let all: Vec<(&str, String)> = vec![
        ("provider key", hex(provider().public_key())),
        ("provider id", provider().to_string()),
        ("provider position", place(Position::of_peer(provider()))),
        ("requestor key", hex(requestor().public_key())),
        ("create id", CREATE.to_string()),
        ("lease id", lease_id().to_string()),
        ("shard key", hex(&shard.key(&network()))),
        ("shard position", place(shard.position(&network()))),
        ("alternate's key", hex(&deep().key(&network()))),
        ("root's key", hex(&Shard::WHOLE.key(&network()))),
        ("advert, gossiped", hex(&encode(&posting))),
        ("accept", hex(&encode(samples::accept().signed()))),
        ("accept's digest", samples::accept().digest().to_string()),
        ("receipt's total", samples::receipt().total.to_string()),
        ("request", hex(&Frame::encode(NOW, Request::Watch { lease_id: lease_id(), seen: 3 }))),
        ("response", hex(&Frame::encode(NOW, Response::Refused(refused)))),
        ("tunnel header", hex(&[&(header.len() as u16).to_be_bytes(), &header[..]].concat())),
    ];
    let wrapped = |(name, value): (&str, String)| {
        let lines: Vec<&str> = value.as_bytes().chunks(WIDTH).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let gap = if name.len() + value.len() > WIDTH { "\n  " } else { " " };
        format!("{name}:{gap}{}\n", lines.join("\n  "))
    };
    all.into_iter().map(wrapped).collect()
}

#[test]
fn vectors_are_what_the_code_makes() {
    let text = document();
    let block = section(&text, VECTORS).split("```\n").nth(1).expect("a block of vectors");
    let made = vectors();
    if std::env::var_os(UPDATE).is_some() {
        let from = block.as_ptr() as usize - text.as_ptr() as usize;
        let anew = [&text[..from], &made, &text[from + block.len()..]].concat();
        std::fs::write(DOCUMENT, anew).unwrap();
        return;
    }
    for (line, (said, made)) in block.lines().zip(made.lines()).enumerate() {
        assert_eq!(said, made, "line {} of the vectors; {UPDATE}=1 writes them anew", line + 1);
    }
    assert_eq!(block.lines().count(), made.lines().count(), "{UPDATE}=1 writes the vectors anew");
}
