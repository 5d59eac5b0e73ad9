//! Every operation, by everybody, in every state of a VM. What is expected is written here by hand, from the contract.
use super::*;
use crate::core::provider::Policy;

const OWNER: u8 = 2;
/// Has a VM of its own here.
const TENANT: u8 = 3;
const STRANGER: u8 = 4;
const DENIED: u8 = 5;
const CREATE: u8 = 1;

/// An enum, and all that it can be.
macro_rules! all {
    ($name:ident: $($variant:ident),+ $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum $name {
            $($variant),+
        }
        impl $name {
            const ALL: &[$name] = &[$($name::$variant),+];
        }
    };
}
all!(State: NotThere, Granted, Provisioning, Booting, Running, Stopping, Stopped, Suspended, Failed, ExpiredRunning,
    Expired, Destroying, Gone);
use State::*;
all!(Operation: Quote, AcceptAgain, AcceptOtherwise, Confirm, Status, Watch, Start, Stop, ForcedStop, Restart, Suspend,
    ResumeVm, Scale, Tunnel, Log, Release);
use Operation::*;
// What the operator can do to tenants: the local API has nothing else that changes a lease.
all!(Deed: CancelJob, SetTier, Drain, Resume, Halt);
use Deed::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Quoted,
    Granted,
    Active,
    Status,
    Open,
    Code(ErrorCode),
}

/// A provider with the owner's VM in that state, and what was agreed on the way.
struct Stage {
    node: Node,
    id: LeaseId,
    quote: Option<Sealed<super::Quote>>,
    accept: Option<Signed>,
    grant: Option<Sealed<Grant>>,
}

fn stage(state: State) -> Stage {
    let mut node = Node::new(1);
    let policy = Policy { deny: [key(DENIED).peer_id()].into(), ..Policy::default() };
    node.input(Input::Offer(Offering::Vms(Box::new(Offer { policy, ..offer(9) }))));
    let other = node.lease(TENANT, 9);
    node.done(other, VmPhase::Running);
    let id = LeaseId::derive(key(1).peer_id(), key(OWNER).peer_id(), CreateId([CREATE; 16]));
    if state == NotThere {
        return Stage { node, id, quote: None, accept: None, grant: None };
    }
    let quote = node.quote(OWNER, CREATE).unwrap();
    let accept = accept_of(OWNER, CREATE, &quote, node.now);
    let Response::Granted(grant) = node.ask(OWNER, Request::Accept(accept.clone())) else { panic!("a grant") };
    let grant: Sealed<Grant> = grant.open(node.core.network()).unwrap();
    if state != State::Granted {
        assert!(matches!(node.confirm(OWNER, &grant), Response::Active { .. }));
        bring(&mut node, id, state);
    }
    Stage { node, id, quote: Some(quote), accept: Some(accept), grant: Some(grant) }
}

fn bring(node: &mut Node, id: LeaseId, state: State) {
    let switch = |node: &mut Node, action| {
        node.ask(OWNER, Request::Power { lease_id: id, act: ActId([200; 16]), action });
    };
    if state == Provisioning {
        return;
    }
    if state == Booting {
        node.report(id, JobReport::Phase(VmPhase::Booting));
        return;
    }
    node.done(id, VmPhase::Running);
    match state {
        Stopping => switch(node, PowerAction::Stop { force: false }),
        Stopped => {
            switch(node, PowerAction::Stop { force: true });
            node.done(id, VmPhase::Stopped);
        }
        Suspended => drop(node.found(&[(id, FoundState::Suspended)])),
        Failed => drop(node.found(&[(id, FoundState::Broken)])),
        ExpiredRunning => drop(node.wait(Millis::secs(3600))),
        Expired => {
            node.wait(Millis::secs(3600));
            node.done(id, VmPhase::Stopped);
        }
        Destroying | Gone => {
            node.ask(OWNER, Request::Release(id));
            if state == Gone {
                node.done(id, VmPhase::Gone);
            }
        }
        _ => {}
    }
}

fn expected(operation: Operation, who: u8, state: State) -> Outcome {
    let wrong = Outcome::Code(ErrorCode::WrongState);
    let released = Outcome::Code(ErrorCode::NoSuchVm);
    let ended = matches!(state, Destroying | Gone);
    if operation == Quote {
        return if who == DENIED { Outcome::Code(ErrorCode::Denied) } else { Outcome::Quoted };
    }
    // Nobody else's words are about this lease; with the owner's words in another's mouth the signature does not fit.
    if who != OWNER {
        return match (operation, state) {
            (AcceptAgain, _) => Outcome::Code(ErrorCode::BadToken),
            // Of a quote that was never given to this peer.
            (AcceptOtherwise, _) => Outcome::Code(ErrorCode::Unavailable),
            (_, NotThere) => Outcome::Code(ErrorCode::NoSuchVm),
            _ => Outcome::Code(ErrorCode::NotYours),
        };
    }
    if state == NotThere {
        return Outcome::Code(ErrorCode::NoSuchVm);
    }
    match operation {
        Quote => Outcome::Quoted,
        AcceptAgain if ended => released,
        AcceptAgain => Outcome::Granted,
        AcceptOtherwise => Outcome::Code(ErrorCode::VmExists),
        Confirm if ended => released,
        Confirm => Outcome::Active,
        Operation::Status | Watch | Release => Outcome::Status,
        Start if matches!(state, Booting | Running | Stopped | Failed) => Outcome::Status,
        Stop | ForcedStop if matches!(state, Booting | Running | Stopping | Stopped) => Outcome::Status,
        Restart if matches!(state, Booting | Running) => Outcome::Status,
        ForcedStop if state == Suspended => Outcome::Status,
        Suspend if matches!(state, Running | Suspended) => Outcome::Status,
        ResumeVm if matches!(state, Booting | Running | Suspended) => Outcome::Status,
        Scale if matches!(state, Running | Stopped) => Outcome::Status,
        Start | Stop | ForcedStop | Restart | Suspend | ResumeVm | Scale => wrong,
        Tunnel if matches!(state, Booting | Running | Stopping) => Outcome::Open,
        Tunnel => wrong,
        Log if matches!(state, Granted | Destroying | Gone) => wrong,
        Log => Outcome::Open,
    }
}

/// What came of it; none where there are no words to say it in.
fn perform(stage: &mut Stage, operation: Operation, who: u8) -> Option<Outcome> {
    let (node, id) = (&mut stage.node, stage.id);
    let power = |action| Request::Power { lease_id: id, act: ActId([7; 16]), action };
    let request = match operation {
        Quote => Request::Quote(QuoteReq { create_id: CreateId([33; 16]), spec: spec() }),
        AcceptAgain => Request::Accept(stage.accept.clone()?),
        AcceptOtherwise => Request::Accept(accept_of(who, CREATE, stage.quote.as_ref()?, node.now + Millis(1))),
        Confirm => Request::Confirm(confirm_of(who, stage.grant.as_ref()?, node.now)),
        Operation::Status => Request::Status(id),
        Watch => Request::Watch { lease_id: id, seen: 0 },
        Start => power(PowerAction::Start),
        Stop => power(PowerAction::Stop { force: false }),
        ForcedStop => power(PowerAction::Stop { force: true }),
        Restart => power(PowerAction::Restart),
        Suspend => power(PowerAction::Suspend),
        ResumeVm => power(PowerAction::Resume),
        Scale => power(PowerAction::Scale(Resources::new(2, 2048, 20))),
        Release => Request::Release(id),
        Tunnel | Log => {
            let (now, peer) = (node.now, key(who).peer_id());
            let verdict = match operation {
                Tunnel => node.core.authorise_tunnel(now, peer, id),
                _ => node.core.authorise_log(now, peer, id),
            };
            return Some(verdict.map_or_else(|refusal| Outcome::Code(refusal.code()), |()| Outcome::Open));
        }
    };
    Some(match node.ask(who, request) {
        Response::Quote(_) => Outcome::Quoted,
        Response::Granted(_) => Outcome::Granted,
        Response::Active { .. } => Outcome::Active,
        Response::Status(_) => Outcome::Status,
        Response::Refused(refusal) => Outcome::Code(refusal.code()),
        other => panic!("{other:?}"),
    })
}

#[test]
fn every_operation_by_everybody_in_every_state_has_its_answer() {
    let mut asked = 0;
    for &state in State::ALL {
        for &operation in Operation::ALL {
            for who in [OWNER, TENANT, STRANGER, DENIED] {
                let mut stage = stage(state);
                let rows = |node: &Node| node.core.provider().ledger().leases().cloned().collect::<Vec<_>>();
                let jobs = |node: &Node| node.core.provider().jobs().rows().count();
                let before = (rows(&stage.node), jobs(&stage.node));
                let Some(outcome) = perform(&mut stage, operation, who) else { continue };
                assert_eq!(outcome, expected(operation, who, state), "{operation:?} by {who} while {state:?}");
                let after = (rows(&stage.node), jobs(&stage.node));
                let refused = matches!(outcome, Outcome::Code(_));
                assert!(
                    !refused || before == after,
                    "{operation:?} by {who} while {state:?} was refused, and did something"
                );
                asked += 1;
            }
        }
    }
    assert_eq!(asked, (State::ALL.len() * Operation::ALL.len() - 3) * 4);
}

/// Where the owner's VM stands after it, or why it was not done; none where there is nothing to do it to.
fn perform_deed(stage: &mut Stage, deed: Deed) -> Option<Result<Option<(LeaseStage, VmPhase)>, ErrorCode>> {
    let (node, id) = (&mut stage.node, stage.id);
    let input = match deed {
        CancelJob => {
            let job = node.core.provider().jobs().rows().filter(|job| job.lease_id == id).last()?;
            // The operator is told so before the core is asked, which must hold to it all the same.
            if let Err(fault) = super::provider::may_cancel(job) {
                let (job, before) = (job.id, node.row(id).clone());
                node.input(Input::CancelJob(job));
                assert_eq!(*node.row(id), before);
                return Some(Err(fault.code));
            }
            Input::CancelJob(job.id)
        }
        SetTier => Input::SetQuota { peer: key(OWNER).peer_id(), tier: Some(Tier::Free) },
        Drain => Input::Drain,
        Resume => Input::Undrain,
        Halt => Input::Stop,
    };
    node.input(input);
    Some(Ok(node.core.provider().ledger().lease(id).map(|row| (row.stage, row.vm))))
}

fn stands(state: State) -> Option<(LeaseStage, VmPhase)> {
    use LeaseStage::{Active, Ended};
    Some(match state {
        NotThere => return None,
        State::Granted => (LeaseStage::Provisional, VmPhase::Waiting),
        Provisioning => (Active, VmPhase::Provisioning(ProvisionStep::Image)),
        Booting => (Active, VmPhase::Booting),
        Running => (Active, VmPhase::Running),
        Stopping => (Active, VmPhase::Stopping),
        Stopped => (Active, VmPhase::Stopped),
        Suspended => (Active, VmPhase::Suspended),
        Failed => (Active, VmPhase::Failed),
        ExpiredRunning => (LeaseStage::Expired, VmPhase::Stopping),
        Expired => (LeaseStage::Expired, VmPhase::Stopped),
        Destroying => (Ended, VmPhase::Destroying),
        Gone => (Ended, VmPhase::Gone),
    })
}

fn expected_of_deed(deed: Deed, state: State) -> Result<Option<(LeaseStage, VmPhase)>, ErrorCode> {
    match (deed, state) {
        // A VM that never ran is not made, and its lease ends; another stands where it stood before.
        (CancelJob, Provisioning | Booting) => Ok(stands(Destroying)),
        (CancelJob, Stopping) => Ok(stands(Running)),
        // Until the hypervisor is looked at: what runs though it has expired is stopped again.
        (CancelJob, ExpiredRunning) => Ok(Some((LeaseStage::Expired, VmPhase::Running))),
        // A removal is a promise, and what is over is over.
        (CancelJob, _) => Err(ErrorCode::WrongState),
        // Whatever the operator wants from now on, what is let stays let.
        (SetTier | Drain | Resume | Halt, _) => Ok(stands(state)),
    }
}

/// What the owner hears after the deed.
fn expected_after(deed: Deed, operation: Operation, state: State) -> Outcome {
    let counts = !matches!(state, NotThere | Gone);
    match deed {
        SetTier if operation == Quote && counts => Outcome::Code(ErrorCode::Quota),
        Drain | Halt if operation == Quote => Outcome::Code(ErrorCode::Unavailable),
        // More was not granted.
        Drain | Halt if operation == Scale && matches!(state, Running | Stopped) => {
            Outcome::Code(ErrorCode::Unavailable)
        }
        _ => expected(operation, OWNER, state),
    }
}

#[test]
fn every_deed_of_the_operator_in_every_state_has_its_outcome() {
    let mut done = 0;
    for &state in State::ALL {
        for &deed in Deed::ALL {
            let mut stage = stage(state);
            let other = LeaseId::derive(key(1).peer_id(), key(TENANT).peer_id(), CreateId([9; 16]));
            let before = stage.node.row(other).clone();
            let Some(outcome) = perform_deed(&mut stage, deed) else { continue };
            assert_eq!(outcome, expected_of_deed(deed, state), "{deed:?} while {state:?}");
            assert_eq!(*stage.node.row(other), before, "{deed:?} while {state:?} is about one VM");
            done += 1;
        }
    }
    assert_eq!(done, State::ALL.len() * Deed::ALL.len() - 2, "before a lease is active there is no job");
}

#[test]
fn whatever_the_operator_wants_a_tenant_has_what_it_was_granted() {
    for &state in State::ALL {
        for &operation in Operation::ALL {
            for deed in [SetTier, Drain, Resume, Halt] {
                let mut stage = stage(state);
                perform_deed(&mut stage, deed);
                let Some(outcome) = perform(&mut stage, operation, OWNER) else { continue };
                let expected = expected_after(deed, operation, state);
                assert_eq!(outcome, expected, "{operation:?} after {deed:?} while {state:?}");
            }
        }
    }
}
