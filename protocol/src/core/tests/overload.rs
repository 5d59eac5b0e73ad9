//! Far more want a VM than there are, and most of them only ask.
use super::*;
use std::collections::BTreeMap;

const SLOTS: u32 = 10;
const ASKERS: u8 = 150;
const TENANTS: u8 = 50;
const STEP: Millis = Millis(50);
/// From the quote to the accept: a requestor waits for other quotes.
const DECIDES: Millis = Millis(300);
/// Refused, it asks again after this.
const AGAIN: Millis = Millis(500);

#[derive(Default)]
struct Tenant {
    creates: u8,
    acts_at: Timestamp,
    quote: Option<Sealed<Quote>>,
    lease: Option<LeaseId>,
}

struct Crowd {
    node: Node,
    tenants: BTreeMap<u8, Tenant>,
    /// How often each code was heard, and how often a VM was had.
    refused: BTreeMap<ErrorCode, u32>,
    had: u32,
}

impl Crowd {
    fn new() -> Self {
        let mut node = Node::provider(SLOTS);
        for n in 0..TENANTS {
            let tier = [None, Some(Tier::Free), Some(Tier::Pro)][usize::from(n) % 3];
            node.input(Input::SetQuota { peer: key(n).peer_id(), tier });
        }
        let tenants = (0..TENANTS).map(|n| (n, Tenant::default())).collect();
        Crowd { node, tenants, refused: BTreeMap::new(), had: 0 }
    }

    /// What one tenant does now, if it is time.
    fn act(&mut self, n: u8, stays: Millis) {
        let Crowd { node, tenants, refused, had } = self;
        let tenant = tenants.get_mut(&n).unwrap();
        if tenant.acts_at > node.now {
            return;
        }
        if let Some(lease) = tenant.lease.take() {
            node.ask(n, Request::Release(lease));
            node.done(lease, VmPhase::Gone);
            return;
        }
        let outcome = match tenant.quote.take() {
            None => {
                tenant.creates = tenant.creates.wrapping_add(1);
                node.quote(n, tenant.creates).map(|quote| {
                    tenant.quote = Some(quote);
                    DECIDES
                })
            }
            Some(quote) => match node.accept(n, tenant.creates, &quote) {
                Ok(grant) => {
                    assert!(matches!(node.confirm(n, &grant), Response::Active { .. }));
                    tenant.lease = Some(grant.lease_id);
                    *had += 1;
                    Ok(stays)
                }
                Err(refusal) => {
                    node.ask(n, Request::Decline(quote.quote_id));
                    Err(refusal)
                }
            },
        };
        let pause = outcome.unwrap_or_else(|refusal| {
            *refused.entry(refusal.code()).or_default() += 1;
            AGAIN
        });
        tenant.acts_at = node.now + pause;
    }
}

#[test]
fn who_only_asks_keeps_nobody_from_renting() {
    let mut crowd = Crowd::new();
    let (mut full_since_start, mut idle, mut longest) = (None, Millis(0), Millis(0));
    for step in 0..1200u32 {
        // Each asks once a second, for another VM each time.
        for asker in (0..ASKERS).filter(|asker| u32::from(*asker) % 20 == step % 20) {
            let _ = crowd.node.quote(TENANTS + asker, (step / 20) as u8);
        }
        for n in 0..TENANTS {
            crowd.act(n, Millis(4000 + u64::from(n) * 150));
        }
        let free = SLOTS as usize - crowd.node.core.provider().ledger().vms();
        full_since_start = full_since_start.or((free == 0).then_some(crowd.node.now));
        idle = if free > 0 { Millis(idle.0 + STEP.0) } else { Millis(0) };
        longest = longest.max(idle);
        crowd.node.now = crowd.node.now + STEP;
        crowd.node.input(Input::Tick);
    }
    let sold = full_since_start.expect("all were sold") - START;
    assert!(sold <= Millis::secs(1), "all were sold after {sold}");
    assert!(longest <= Millis::secs(1), "one was idle for {longest}, though wanted");
    assert!(crowd.had > 60, "{} VMs were had in a minute", crowd.had);
    let codes: Vec<ErrorCode> = crowd.refused.keys().copied().collect();
    assert!(codes.iter().all(|code| matches!(code, ErrorCode::Exhausted | ErrorCode::TooManyRequests)), "{codes:?}");
}
