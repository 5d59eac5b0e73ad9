//! Far more who want a VM than there are, each with a connection of its own, and most of them only ask. What was sold is
//! judged by what the tenants have in their hands: grants, and when.
use crate::bargain::{self, SMALLEST, Taker};
use crate::hand::{Hand, Names};
use futures::{AsyncReadExt, AsyncWriteExt};
use protocol::Keypair;
use protocol::envelope::Sealed;
use protocol::lease::{Grant, Quote};
use protocol::message::{Frame, Request, Response, VmPhase};
use protocol::names::Network;
use protocol::refusal::Refusal;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// From the quote to the accept: a requestor waits for other quotes.
const DECIDES: Duration = Duration::from_millis(300);
/// Who got no answer at all comes again after this, or half as much more.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a VM is kept, and how long nobody wants another.
const STAYS: (f64, f64) = (3.0, 9.0);
const PAUSES: (f64, f64) = (1.0, 3.0);
const ANSWER: Duration = Duration::from_secs(5);
/// Of a body, in a frame of the control protocol: see `node/src/mesh/codec.rs`.
const BODY: u8 = 0;

pub struct Plan {
    pub addr: String,
    pub network: Network,
    /// Who rent, and who only ask.
    pub tenants: u64,
    pub askers: u64,
    pub lasts: Duration,
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub had: u32,
    /// VMs that tenants had at once.
    pub most: usize,
    /// Until as many were sold as there are, in milliseconds.
    pub sold_out_ms: Option<u64>,
    /// The longest that one was free after that.
    pub idle_ms: u64,
    /// Codes, each with how often it was heard; and how many of them did not say when to ask again.
    pub refused: BTreeMap<String, u32>,
    pub without_retry: u32,
    /// From the question, with the connection where there was none, to the refusal; sorted, in milliseconds.
    pub refused_ms: Vec<f64>,
    pub unanswered: BTreeMap<String, u32>,
}

#[derive(Default)]
struct Seen {
    outcome: Outcome,
    /// When a VM was had, or given back.
    had: Vec<(Instant, bool)>,
}

struct Front {
    plan: Plan,
    names: Names,
    seed: Vec<u8>,
    seen: Mutex<Seen>,
    until: Instant,
}

pub async fn run(plan: Plan, slots: usize) -> Outcome {
    let (names, seed) = (Names::of(plan.network.as_str()), bargain::seed().expect("a seed"));
    let (began, until) = (Instant::now(), Instant::now() + plan.lasts);
    let front = Arc::new(Front { names, seed, seen: Mutex::default(), until, plan });
    let all = front.plan.tenants + front.plan.askers;
    let one = |n| tokio::spawn(Customer::new(front.clone(), n).want());
    let crowd: Vec<_> = (0..all).map(one).collect();
    for customer in crowd {
        customer.await.expect("a customer ends by itself");
    }
    let mut seen = std::mem::take(&mut *front.seen());
    seen.had.sort();
    seen.judge(began, until, slots)
}

impl Front {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
    /// Or until it is over.
    async fn wait(&self, so_long: Duration) {
        tokio::time::sleep_until((Instant::now() + so_long).min(self.until)).await;
    }
}

impl Seen {
    /// Each that is had takes the place that has been free for the longest.
    fn judge(mut self, began: Instant, until: Instant, slots: usize) -> Outcome {
        let mut free: VecDeque<(Instant, bool)> = vec![(began, true); slots].into();
        let (mut now, mut idle) = (0_usize, Duration::ZERO);
        for (at, taken) in &self.had {
            if !taken {
                now -= 1;
                free.push_back((*at, false));
                continue;
            }
            now += 1;
            self.outcome.had += 1;
            self.outcome.most = self.outcome.most.max(now);
            let place = free.pop_front();
            if let Some((since, false)) = place {
                idle = idle.max(*at - since);
            }
            if now == slots && self.outcome.sold_out_ms.is_none() {
                self.outcome.sold_out_ms = Some((*at - began).as_millis() as u64);
            }
        }
        // Who ends with the day leaves places that nobody wants any more.
        let given_back = free.iter().filter(|(since, first)| !first && *since < until);
        idle = given_back.map(|(since, _)| until - *since).fold(idle, Duration::max);
        self.outcome.idle_ms = idle.as_millis() as u64;
        self.outcome.refused_ms.sort_by(f64::total_cmp);
        self.outcome
    }
}

struct Customer {
    front: Arc<Front>,
    key: Keypair,
    dice: ChaCha8Rng,
    hand: Option<Hand>,
    creates: u64,
    rents: bool,
}

impl Customer {
    fn new(front: Arc<Front>, n: u64) -> Self {
        let rents = n < front.plan.tenants;
        let dice = ChaCha8Rng::seed_from_u64(front.plan.seed << 32 | n);
        Customer { key: bargain::key(n), dice, hand: None, creates: n << 32, rents, front }
    }

    async fn want(mut self) {
        while !self.front.is_over() {
            let pause = match self.once().await {
                Ok(pause) => pause,
                Err(error) => {
                    self.hand = None;
                    *self.front.seen().outcome.unanswered.entry(error.to_string()).or_default() += 1;
                    AGAIN.mul_f64(self.within((1.0, 1.5)))
                }
            };
            self.front.clone().wait(pause).await;
        }
    }

    /// One more VM, if it can be had. Returns when the next is wanted.
    async fn once(&mut self) -> io::Result<Duration> {
        self.creates += 1;
        let (create, began) = (bargain::create_id(self.creates), Instant::now());
        let quote = match self.ask(bargain::quote(create, SMALLEST).map_err(io::Error::other)?).await? {
            Response::Quote(quote) => quote,
            other => return self.refused(began, other),
        };
        if !self.rents {
            self.hand = None;
            return Ok(Duration::from_secs_f64(self.within(PAUSES)));
        }
        let front = self.front.clone();
        let quote: Sealed<Quote> = quote.open(&front.plan.network).map_err(io::Error::other)?;
        sleep(DECIDES).await;
        let (key, began) = (self.key.clone(), Instant::now());
        let taker = Taker::at_once(&key, &front.plan.network, &front.seed);
        let grant: Sealed<Grant> = match self.ask(taker.accept(&quote, create)).await? {
            Response::Granted(grant) => grant.open(&front.plan.network).map_err(io::Error::other)?,
            other => {
                self.ask(Request::Decline(quote.quote_id)).await?;
                return self.refused(began, other);
            }
        };
        front.seen().had.push((Instant::now(), true));
        let stays = Duration::from_secs_f64(self.within(STAYS));
        let kept = self.keep(taker.confirm(&grant), stays).await;
        let released = self.ask(Request::Release(grant.lease_id)).await;
        front.seen().had.push((Instant::now(), false));
        self.hand = None;
        released.and(kept)?;
        Ok(Duration::from_secs_f64(self.within(PAUSES)))
    }

    async fn keep(&mut self, confirm: Request, stays: Duration) -> io::Result<()> {
        let mut status = match self.ask(confirm).await? {
            Response::Active { status, .. } => status,
            other => return Err(io::Error::other(format!("what was granted is not given: {other:?}"))),
        };
        while status.vm != VmPhase::Running {
            if let VmPhase::Failed | VmPhase::Destroying | VmPhase::Gone = status.vm {
                return Err(io::Error::other(format!("what was granted has failed: {:?}", status.fault)));
            }
            status = match self.ask(Request::Watch { lease_id: status.lease_id, seen: status.revision }).await? {
                Response::Status(status) => status,
                other => return Err(io::Error::other(format!("nothing is said of it: {other:?}"))),
            };
        }
        self.front.clone().wait(stays).await;
        Ok(())
    }

    /// Who is refused comes again when it was told to, or a little earlier, as people do.
    fn refused(&mut self, began: Instant, answer: Response) -> io::Result<Duration> {
        let Response::Refused(refusal) = answer else {
            return Err(io::Error::other(format!("nobody asked for {answer:?}")));
        };
        if let Refusal::QuoteGone = refusal {
            // It waited too long, and knows: it may ask again at once.
            return Ok(Duration::ZERO);
        }
        self.hand = None;
        let mut seen = self.front.seen();
        *seen.outcome.refused.entry(refusal.code().to_string()).or_default() += 1;
        seen.outcome.refused_ms.push(began.elapsed().as_secs_f64() * 1000.0);
        seen.outcome.without_retry += u32::from(refusal.retry_after_s().is_none());
        drop(seen);
        let again = refusal.retry_after_s().unwrap_or(1);
        Ok(Duration::from_secs(again.into()).mul_f64(self.within((0.5, 1.0))))
    }

    async fn ask(&mut self, request: Request) -> io::Result<Response> {
        let front = self.front.clone();
        let asked = async {
            // Who was not asked for long may have been cut off: then it comes again.
            let known = self.hand.is_some();
            match self.try_ask(&front, &request).await {
                Err(_) if known => {
                    self.hand = None;
                    self.try_ask(&front, &request).await
                }
                answer => answer,
            }
        };
        timeout(ANSWER, asked).await.unwrap_or_else(|_| Err(io::Error::other("no answer")))
    }

    async fn try_ask(&mut self, front: &Front, request: &Request) -> io::Result<Response> {
        if self.hand.is_none() {
            let mut secret = self.key.secret();
            let key = libp2p::identity::Keypair::ed25519_from_bytes(&mut secret).map_err(io::Error::other)?;
            self.hand = Some(Hand::connect_as(key, &front.plan.addr, &front.names, true).await?);
        }
        let hand = self.hand.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let mut stream = hand.open(&front.names.control).await?;
        let body = Frame::encode(node::clock::now(), request.clone());
        stream.write_all(&(body.len() as u32).to_be_bytes()).await?;
        stream.write_all(&body).await?;
        stream.close().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        match answer.split_first() {
            Some((&BODY, framed)) if framed.len() >= 4 => {
                let frame = Frame::<Response>::decode(&framed[4..]);
                frame.map(|frame| frame.body).map_err(|error| io::Error::other(format!("{error:?}")))
            }
            Some((status, _)) => Err(io::Error::other(format!("status {status}"))),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn within(&mut self, (least, most): (f64, f64)) -> f64 {
        least + (most - least) * f64::from(self.dice.next_u32()) / f64::from(u32::MAX)
    }
}
