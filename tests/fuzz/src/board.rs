//! A board, and everybody who can sign: adverts, withdrawals, replays, forwarders that shorten a life, time. Beside it
//! stands a small model of what each provider said last.
use crate::{Bytes, world};
use protocol::PeerId;
use protocol::advert::{ADVERT_TTL, Advert, MAX_SKEW, TOMBSTONE_TTL, Withdrawal};
use protocol::board::{Board, MAX_ADVERTS, PAGE, Posting};
use protocol::codec::{self, MAX_ADVERT, MAX_MESSAGE};
use protocol::envelope::{Sealed, Signed};
use protocol::revocation::Revocation;
use protocol::units::{Millis, Timestamp};
use std::collections::BTreeMap;

/// An input is a handful of things that happen; each costs a signature.
const STEPS: usize = 64;

#[derive(Clone, Copy)]
struct Said {
    seq: u64,
    /// Until then an earlier word of the same provider must not be taken.
    until: Timestamp,
}

struct Bench {
    board: Board,
    now: Timestamp,
    /// Everything that was ever signed: it can all come again.
    signed: Vec<Posting>,
    last: BTreeMap<PeerId, Said>,
}

pub fn board(data: &[u8]) {
    let mut input = Bytes::new(data);
    let mut bench =
        Bench { board: Board::new(world::network()), now: world::START, signed: Vec::new(), last: BTreeMap::new() };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        bench.step(&mut input);
        bench.check();
    }
    bench.check_each();
}

impl Bench {
    fn step(&mut self, input: &mut Bytes) {
        match input.u8() % 8 {
            0 => {
                let advert = self.advert(input);
                self.post(advert, ADVERT_TTL);
            }
            1 => {
                let withdrawal = self.withdrawal(input);
                self.post(withdrawal, ADVERT_TTL);
            }
            2 => {
                let again = usize::from(input.u8());
                if let Some(posting) = self.signed.get(again % self.signed.len().max(1)).cloned() {
                    self.post(posting, Millis(u64::from(input.u16()) * 10));
                }
            }
            3 => self.now = self.now + Millis(u64::from(input.u16()) * 10),
            4 => self.board.expire(self.now),
            5 => {
                if let Ok(posting) = codec::decode::<Posting>(input.chunk(), MAX_ADVERT + 512) {
                    self.post(posting, ADVERT_TTL);
                }
            }
            // Said elsewhere first: it comes here by way of others, if at all.
            6 => drop(self.advert(input)),
            _ => {
                let (key, body) = (world::key(input.u8() % 8), input.chunk());
                self.post(Posting::Advert(world::sign::<Advert>(&key, body)), ADVERT_TTL);
            }
        }
    }

    fn issued(&self, input: &mut Bytes) -> Timestamp {
        (self.now + MAX_SKEW + Millis(100)).set_back(Millis(u64::from(input.u16()) * 10))
    }
    fn advert(&mut self, input: &mut Bytes) -> Posting {
        let key = world::key(input.u8() % 8);
        let (seq, issued) = (u64::from(input.u8()), self.issued(input));
        let content = Advert { seq, issued, ..world::advert(&key) };
        let posting = Posting::Advert(Sealed::seal(content, &key).signed().clone());
        self.signed.push(posting.clone());
        posting
    }
    fn withdrawal(&mut self, input: &mut Bytes) -> Posting {
        let key = world::key(input.u8() % 8);
        let (seq, issued) = (u64::from(input.u8()), self.issued(input));
        let content = Withdrawal { network: world::network(), provider: key.peer_id(), seq, issued };
        let posting = Posting::Withdrawal(Sealed::seal(content, &key).signed().clone());
        self.signed.push(posting.clone());
        posting
    }

    fn post(&mut self, posting: Posting, life: Millis) {
        let (before, revision) = (self.board.len(), self.board.revision());
        let taken = match &posting {
            Posting::Advert(signed) => self.board.advertise(self.now, signed.clone(), life),
            Posting::Withdrawal(_) | Posting::Revocation(_) => self.board.post(self.now, posting.clone()),
        };
        let Ok(peer) = taken else {
            assert_eq!(
                (self.board.len(), self.board.revision()),
                (before, revision),
                "what is refused leaves no trace"
            );
            return;
        };
        let (seq, issued, until) = match &posting {
            Posting::Advert(signed) => {
                let advert = open::<Advert>(signed);
                (advert.seq, advert.issued, advert.issued + ADVERT_TTL)
            }
            Posting::Withdrawal(signed) => {
                let withdrawal = open::<Withdrawal>(signed);
                (withdrawal.seq, withdrawal.issued, self.now + TOMBSTONE_TTL)
            }
            Posting::Revocation(signed) => {
                open::<Revocation>(signed);
                (u64::MAX, self.now, self.now + TOMBSTONE_TTL)
            }
        };
        assert!(issued <= self.now + MAX_SKEW && issued + ADVERT_TTL > self.now, "neither early nor late");
        let known = self.last.get(&peer).copied().unwrap_or(Said { seq: 0, until: Timestamp(0) });
        assert!(seq >= known.seq || known.until <= self.now, "{seq} after {}: an earlier word came back", known.seq);
        if seq > known.seq || known.until <= self.now {
            self.last.insert(peer, Said { seq, until });
        }
    }

    fn check(&self) {
        assert!(self.board.len() <= MAX_ADVERTS);
        assert!(self.board.is_empty() || self.board.next_expiry().is_some(), "nothing is kept for ever");
    }

    /// Whatever it would tell a neighbour is somebody's word, alive, and fits a message.
    fn check_each(&mut self) {
        let (mut after, mut seen) = (None, 0);
        loop {
            let page = self.board.page(self.now, after, PAGE);
            assert!(codec::encode(&page).len() < MAX_MESSAGE);
            for item in &page.items {
                let advert = open::<Advert>(&item.advert);
                assert!(item.life > Millis(0) && item.life <= ADVERT_TTL);
                assert!(advert.issued + ADVERT_TTL > self.now);
                assert!(after.is_none_or(|after| advert.provider > after));
                seen += 1;
            }
            let Some(next) = page.next else { break };
            after = Some(next);
        }
        assert!(seen <= self.board.len());
        let end = self.now + ADVERT_TTL + TOMBSTONE_TTL + MAX_SKEW;
        self.board.expire(end);
        assert!(self.board.is_empty() && self.board.next_expiry().is_none(), "all of it ends");
    }
}

fn open<T: protocol::envelope::Payload>(signed: &Signed) -> Sealed<T> {
    signed.clone().open(&world::network()).expect("only what is signed well is taken")
}
