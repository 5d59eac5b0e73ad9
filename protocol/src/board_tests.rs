use super::*;
use crate::advert::Terms;
use crate::codec;
use crate::envelope::Payload;
use crate::identity::Keypair;
use crate::money::Price;
use crate::names::{Arch, Egress, ImageName, Isolation};
use crate::units::Resources;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn key(number: u32) -> Keypair {
    let mut secret = [7; 32];
    secret[..4].copy_from_slice(&number.to_be_bytes());
    Keypair::from_secret(&secret)
}
fn network() -> Network {
    "main".parse().unwrap()
}
fn board() -> Board {
    Board::new(network())
}
fn terms() -> Terms {
    Terms {
        name: None,
        country: None,
        arch: Arch::X86_64,
        backend: "libvirt".parse().unwrap(),
        isolation: Isolation::Emulated,
        egress: Egress::None,
        free: Resources::LARGE,
        largest: Resources::LARGE,
        overcommit_cpu: Default::default(),
        price: Price { per_hour: "0.02".parse().unwrap(), currency: "EUR".parse().unwrap() },
        images: vec!["tiny".parse().unwrap()],
    }
}
fn content(by: u32, seq: u64, issued: Timestamp) -> Advert {
    Advert { network: network(), provider: key(by).peer_id(), seq, issued, addrs: vec![], terms: terms() }
}
fn advert(by: u32, seq: u64, issued: Timestamp) -> Signed {
    Sealed::seal(content(by, seq, issued), &key(by)).signed().clone()
}
fn withdrawal(by: u32, seq: u64, issued: Timestamp) -> Posting {
    let withdrawal = Withdrawal { network: network(), provider: key(by).peer_id(), seq, issued };
    Posting::Withdrawal(Sealed::seal(withdrawal, &key(by)).signed().clone())
}
fn post(board: &mut Board, now: Timestamp, signed: Signed) -> Result<PeerId, BoardRefusal> {
    board.post(now, Posting::Advert(signed))
}
fn refused(now: Timestamp, signed: Signed) -> BoardRefusal {
    let mut board = board();
    let refusal = post(&mut board, now, signed).unwrap_err();
    assert!(board.is_empty(), "what is refused is not kept");
    refusal
}
fn after(time: Millis) -> Timestamp {
    NOW + time
}

#[test]
fn a_good_advert_is_taken_and_found() {
    let mut board = board();
    assert_eq!(post(&mut board, NOW, advert(1, 1, NOW)), Ok(key(1).peer_id()));
    let small = Query { want: Resources::SMALL, ..Query::default() };
    assert_eq!(board.query(NOW, &small).count(), 1);
    let huge = Query { want: Resources::new(64, 1 << 20, 1000), ..Query::default() };
    assert_eq!(board.query(NOW, &huge).count(), 0);
}

#[test]
fn a_forged_advert_is_refused() {
    let mut forged = advert(1, 1, NOW);
    *forged.body.last_mut().unwrap() ^= 1;
    assert_eq!(refused(NOW, forged).label(), "forged");
    let mut other = advert(1, 1, NOW);
    other.signature = advert(1, 2, NOW).signature;
    let refusal = refused(NOW, other);
    assert_eq!((refusal.label(), refusal.code(), refusal.is_hostile()), ("forged", ErrorCode::BadToken, true));
    let unsigned = Signed { signature: vec![], ..advert(1, 1, NOW) };
    let refusal = refused(NOW, unsigned);
    assert_eq!((refusal.label(), refusal.code()), ("unsigned", ErrorCode::Unsigned));
}

#[test]
fn a_key_substituted_advert_is_refused() {
    // Signed well, by another key than that of the provider it names.
    let body = codec::encode(&content(1, 1, NOW));
    let mut bytes = b"golemnode/advert/1\0".to_vec();
    bytes.extend_from_slice(&body);
    let signature = key(2).sign(&bytes).to_vec();
    let signed = Signed { domain: Advert::DOMAIN.into(), signer: key(2).peer_id(), body, signature };
    assert_eq!(refused(NOW, signed).label(), "key_substituted");
    // And the other way round: the right name over a signature of another.
    let claimed = Signed { signer: key(2).peer_id(), ..advert(1, 1, NOW) };
    assert_eq!(refused(NOW, claimed).label(), "forged");
}

#[test]
fn a_wrong_domain_is_refused() {
    let Posting::Withdrawal(withdrawal) = withdrawal(1, 1, NOW) else { unreachable!() };
    assert_eq!(refused(NOW, withdrawal.clone()).label(), "wrong_domain");
    // Relabelled, its signature no longer fits.
    let relabelled = Signed { domain: Advert::DOMAIN.into(), ..withdrawal };
    assert_eq!(refused(NOW, relabelled).label(), "forged");
}

#[test]
fn an_advert_of_another_network_is_refused() {
    let foreign = Advert { network: "other".parse().unwrap(), ..content(1, 1, NOW) };
    assert_eq!(refused(NOW, Sealed::seal(foreign, &key(1)).signed().clone()).label(), "wrong_network");
}

#[test]
fn an_oversized_advert_is_refused_before_it_is_verified() {
    let oversized = Signed { body: vec![0; MAX_ADVERT + 1], ..advert(1, 1, NOW) };
    assert_eq!(refused(NOW, oversized).label(), "oversized");
    let image: ImageName = "tiny".parse().unwrap();
    let mut crowded = content(1, 1, NOW);
    crowded.terms.images = vec![image; MAX_IMAGES + 1];
    assert_eq!(refused(NOW, Sealed::seal(crowded, &key(1)).signed().clone()).label(), "too_many_images");
    let addrs = vec!["/ip4/192.0.2.1/tcp/1".parse().unwrap(); MAX_ADDRS + 1];
    let scattered = Sealed::seal(Advert { addrs, ..content(1, 1, NOW) }, &key(1));
    assert_eq!(refused(NOW, scattered.signed().clone()).label(), "too_many_addrs");
}

#[test]
fn an_old_and_a_future_advert_are_refused() {
    let old = refused(after(Millis::secs(301)), advert(1, 1, NOW));
    assert_eq!((old.label(), old.code()), ("expired", ErrorCode::Expired));
    assert_eq!(refused(after(Millis::secs(300)), advert(1, 1, NOW)).label(), "expired");
    assert!(post(&mut board(), after(Millis::secs(299)), advert(1, 1, NOW)).is_ok());
    let future = refused(NOW, advert(1, 1, after(Millis(60_001))));
    assert_eq!((future.label(), future.code(), future.is_hostile()), ("future", ErrorCode::Expired, true));
    assert!(post(&mut board(), NOW, advert(1, 1, after(Millis::secs(60)))).is_ok());
}

#[test]
fn a_replayed_advert_is_refused() {
    let mut board = board();
    post(&mut board, NOW, advert(1, 5, NOW)).unwrap();
    for seq in [5, 4] {
        let replayed = post(&mut board, NOW, advert(1, seq, NOW)).unwrap_err();
        assert_eq!((replayed.label(), replayed.code()), ("stale", ErrorCode::Expired));
        assert!(!replayed.is_hostile(), "gossip travels several ways");
    }
    // The same number in other words is as stale.
    let mut other = content(1, 5, NOW);
    other.terms.free = Resources::SMALL;
    assert_eq!(post(&mut board, NOW, Sealed::seal(other, &key(1)).signed().clone()).unwrap_err().label(), "stale");
    assert!(post(&mut board, NOW, advert(1, 6, NOW)).is_ok());
}

#[test]
fn a_withdrawal_leaves_a_tombstone() {
    let mut board = board();
    post(&mut board, NOW, advert(1, 5, NOW)).unwrap();
    assert_eq!(board.post(NOW, withdrawal(1, 4, NOW)).unwrap_err().label(), "stale", "an earlier one");
    board.post(NOW, withdrawal(1, 6, NOW)).unwrap();
    assert!(board.is_empty());
    assert_eq!(post(&mut board, NOW, advert(1, 5, NOW)).unwrap_err().label(), "stale", "what was withdrawn stays off");
    assert!(post(&mut board, NOW, advert(1, 7, NOW)).is_ok(), "until it is offered again");
    // At the latest moment at which the advert could still be fresh, the tombstone stands; then it goes.
    let ahead = after(Millis::secs(60));
    let mut board = self::board();
    board.post(NOW, withdrawal(2, 9, NOW)).unwrap();
    board.expire(after(Millis::secs(359)));
    assert_eq!(post(&mut board, after(Millis::secs(359)), advert(2, 8, ahead)).unwrap_err().label(), "stale");
    board.expire(after(Millis::secs(360)));
    assert_eq!(board.next_expiry(), None, "nothing is kept for ever");
}

#[test]
fn a_forwarder_shortens_a_life_and_never_lengthens_it() {
    let mut board = board();
    board.advertise(NOW, advert(1, 1, NOW), Millis::secs(10)).unwrap();
    assert!(board.get(after(Millis(9_999)), key(1).peer_id()).is_some());
    assert!(board.get(after(Millis::secs(10)), key(1).peer_id()).is_none());
    // The same one with a longer life changes nothing.
    let longer = board.advertise(NOW, advert(1, 1, NOW), Millis::secs(200));
    assert_eq!(longer.unwrap_err().label(), "stale");
    assert!(board.get(after(Millis::secs(10)), key(1).peer_id()).is_none());
    // A forwarder that claims a longer life than any is not believed.
    board.advertise(NOW, advert(2, 1, NOW), Millis::secs(9_999)).unwrap();
    assert!(board.get(after(Millis::secs(299)), key(2).peer_id()).is_some());
    assert!(board.get(after(Millis::secs(300)), key(2).peer_id()).is_none());
}

/// Whoever forwards may cut a life short, and then play what the provider said before.
#[test]
fn an_earlier_advert_does_not_come_back_when_a_later_one_was_cut_short() {
    let mut board = board();
    post(&mut board, NOW, advert(1, 5, NOW)).unwrap();
    board.post(NOW, withdrawal(1, 6, NOW)).unwrap();
    board.advertise(NOW, advert(1, 7, NOW), Millis(1)).unwrap();
    let later = after(Millis(1));
    board.expire(later);
    assert!(board.is_empty());
    assert_eq!(post(&mut board, later, advert(1, 5, NOW)).unwrap_err().label(), "stale", "it was withdrawn");
    assert!(post(&mut board, later, advert(1, 7, NOW)).is_ok(), "the one that was cut short still stands");
    board.expire(after(TOMBSTONE_TTL));
    assert_eq!(board.next_expiry(), None, "nothing is kept for ever");
}

/// Nobody shows it longer than 300 s after its last word, however it travels and whatever its clock said.
#[test]
fn a_silent_provider_is_off_every_board_within_300_s() {
    for ahead in [0, 30, 60] {
        let (mut first, mut second) = (board(), board());
        let signed = advert(1, 1, after(Millis::secs(ahead)));
        post(&mut first, NOW, signed.clone()).unwrap();
        // 200 s later a second node reads the first one's board.
        let later = after(Millis::secs(200));
        for item in first.page(later, None, PAGE).items {
            second.advertise(later, item.advert, item.life).unwrap();
        }
        let end = after(Millis::secs(300));
        for board in [&mut first, &mut second] {
            assert!(board.get(after(Millis(299_999)), key(1).peer_id()).is_some());
            assert!(board.get(end, key(1).peer_id()).is_none());
            board.expire(end);
            assert!(board.is_empty());
        }
        // Gossip that comes round once more does not bring it back, although its clock says that it is fresh.
        assert!(post(&mut first, end, signed).is_err(), "{ahead} s ahead");
    }
}

#[test]
fn pages_are_complete_and_bounded() {
    let mut board = board();
    let mut fat = terms();
    fat.images = (0..MAX_IMAGES).map(|n| format!("{n:0>60}").parse().unwrap()).collect();
    for by in 0..300 {
        // A third of them as large as adverts get: for these the bytes bind before the number.
        let terms = if by % 3 == 0 { fat.clone() } else { terms() };
        let advert = Advert { terms, ..content(by, 1, NOW) };
        post(&mut board, NOW, Sealed::seal(advert, &key(by)).signed().clone()).unwrap();
    }
    for limit in [0, 1, 7, PAGE, usize::MAX] {
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = board.page(NOW, after, limit);
            assert!(page.items.len() <= PAGE.min(limit.max(1)));
            assert!(codec::encode(&page).len() <= codec::MAX_MESSAGE - 1024, "it fits a message");
            seen.extend(page.items.iter().map(|item| item.advert.signer));
            pages += 1;
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert!(pages <= 301);
        assert!(seen.is_sorted());
        seen.dedup();
        assert_eq!(seen.len(), 300, "every one once, with pages of {limit}");
    }
    assert!(board.page(after(Millis::secs(300)), None, PAGE).items.is_empty(), "what is over is not passed on");
}

#[test]
fn the_board_is_bounded_and_takes_news_of_whom_it_knows() {
    let mut board = board();
    for by in 0..MAX_ADVERTS as u32 {
        let advert = content(by, 1, NOW);
        // Signatures are another test's business; 4096 of them take seconds.
        let advert = Arc::new(Sealed::seal(advert, &key(by)));
        let entry = Entry { expires: after(ADVERT_TTL), advert, first_seen: NOW };
        board.entries.insert(entry.advert.provider, entry);
    }
    board.ends(after(ADVERT_TTL));
    let stranger = MAX_ADVERTS as u32;
    assert_eq!(post(&mut board, NOW, advert(stranger, 1, NOW)).unwrap_err(), BoardRefusal::Full);
    assert!(post(&mut board, NOW, advert(0, 2, NOW)).is_ok(), "a known one's news");
    let later = after(ADVERT_TTL);
    assert!(post(&mut board, later, advert(stranger, 2, later)).is_ok(), "what is over makes room");
    for by in 0..MAX_TOMBSTONES as u32 + 10 {
        board.bury(key(by).peer_id(), Tombstone { seq: 1, until: after(TOMBSTONE_TTL) + Millis(by.into()) });
    }
    assert_eq!(board.tombstones.len(), MAX_TOMBSTONES);
}

#[test]
fn a_clock_set_back_does_not_prolong_a_life() {
    let mut board = board();
    post(&mut board, NOW, advert(1, 1, NOW)).unwrap();
    board.clock_set_back(Millis::secs(3600));
    let back = NOW.set_back(Millis::secs(3600));
    assert!(board.get(back + Millis::secs(299), key(1).peer_id()).is_some());
    assert!(board.get(back + Millis::secs(300), key(1).peer_id()).is_none());
    board.expire(back + Millis::secs(300));
    assert!(board.is_empty());
}

#[test]
fn a_shelf_goes_round_once_from_wherever_it_begins() {
    let mut board = board();
    for by in 0..40 {
        board.advertise(NOW, advert(by, 1, NOW), ADVERT_TTL).unwrap();
    }
    let query = Query::default();
    for start in 0..40 {
        let start = key(start).peer_id();
        let (mut after, mut seen) = (start, Vec::new());
        loop {
            let page = board.shelf(NOW, &query, after, start, 7);
            assert!(page.items.len() <= 7);
            seen.extend(page.items.iter().map(|item| item.advert.signer));
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(seen.last(), Some(&start));
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 40);
    }
}
