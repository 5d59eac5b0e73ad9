//! Messages: what was written is read, and anything else is read or refused without harm.
use proptest::prelude::*;
use protocol::PeerId;
use protocol::board::{Page, PageItem, Posting};
use protocol::codec::{self, MAX_MESSAGE};
use protocol::envelope::Signed;
use protocol::message::{
    ConfirmReq, Frame, FrameError, LeaseStage, LeaseStatus, PowerAction, ProvisionStep, QuoteReq, Request, Response,
    VERSION, VmPhase,
};
use protocol::money::Sum;
use protocol::names::{ActId, Arch, CreateId, IsolationWanted, LeaseId, QuoteId};
use protocol::quota::{Tier, Usage};
use protocol::refusal::Refusal;
use protocol::spec::VmSpec;
use protocol::units::{Millis, Timestamp};
use protocol::{ErrorCode, Fault};

fn signed() -> impl Strategy<Value = Signed> {
    let bytes = |most: usize| prop::collection::vec(any::<u8>(), 0..most);
    ("[a-z/0-9]{0,24}", any::<[u8; 32]>(), bytes(512), bytes(80)).prop_map(|(domain, signer, body, signature)| Signed {
        domain,
        signer: PeerId::from_public_key(signer),
        body,
        signature,
    })
}
fn spec() -> impl Strategy<Value = VmSpec> {
    let arch = prop::option::of(prop_oneof![Just(Arch::X86_64), Just(Arch::Aarch64)]);
    let isolation = prop_oneof![Just(IsolationWanted::Vm), Just(IsolationWanted::Any)];
    (super::text::resources(), isolation, arch, prop::collection::vec(any::<u16>(), 0..17), any::<u64>()).prop_map(
        |(resources, isolation, arch, ports, duration)| VmSpec {
            resources,
            image: "debian:12".parse().unwrap(),
            isolation,
            arch,
            backend: Some("libvirt".parse().unwrap()),
            ports,
            duration: Millis(duration),
            or_less: false,
        },
    )
}
fn power() -> impl Strategy<Value = PowerAction> {
    prop_oneof![
        Just(PowerAction::Start),
        Just(PowerAction::Restart),
        Just(PowerAction::Suspend),
        Just(PowerAction::Resume),
        any::<bool>().prop_map(|force| PowerAction::Stop { force })
    ]
}
fn request() -> impl Strategy<Value = Request> {
    let id = any::<[u8; 16]>;
    prop_oneof![
        (prop::option::of(any::<[u8; 32]>()), any::<u16>(), any::<bool>())
            .prop_map(|(after, limit, own)| Request::Board { after: after.map(PeerId::from_public_key), limit, own }),
        signed().prop_map(|signed| Request::Post(Posting::Advert(signed))),
        signed().prop_map(|signed| Request::Post(Posting::Withdrawal(signed))),
        signed().prop_map(|signed| Request::Post(Posting::Revocation(signed))),
        (id(), spec()).prop_map(|(id, spec)| Request::Quote(QuoteReq { create_id: CreateId(id), spec })),
        id().prop_map(|id| Request::Decline(QuoteId(id))),
        signed().prop_map(Request::Accept),
        (signed(), prop::collection::vec(any::<u8>(), 0..2048))
            .prop_map(|(confirm, seed)| Request::Confirm(ConfirmReq { confirm, seed })),
        id().prop_map(|id| Request::Release(LeaseId(id))),
        id().prop_map(|id| Request::Status(LeaseId(id))),
        (id(), any::<u64>()).prop_map(|(id, seen)| Request::Watch { lease_id: LeaseId(id), seen }),
        (id(), id(), power()).prop_map(|(id, act, action)| Request::Power {
            lease_id: LeaseId(id),
            act: ActId(act),
            action
        }),
        (id(), any::<u64>())
            .prop_map(|(id, time)| Request::RenewQuote { lease_id: LeaseId(id), duration: Millis(time) }),
        (signed(), signed()).prop_map(|(quote, renew)| Request::Renew { quote, renew }),
        signed().prop_map(Request::Countersign),
        Just(Request::Away),
    ]
}
fn phase() -> impl Strategy<Value = VmPhase> {
    prop::sample::select(vec![
        VmPhase::Waiting,
        VmPhase::Provisioning(ProvisionStep::Image),
        VmPhase::Provisioning(ProvisionStep::Define),
        VmPhase::Booting,
        VmPhase::Running,
        VmPhase::Stopped,
        VmPhase::Failed,
        VmPhase::Gone,
    ])
}
fn fault() -> impl Strategy<Value = Fault> {
    (prop::sample::select(ErrorCode::ALL), "\\PC{0,80}", prop::option::of("\\PC{0,80}"), prop::option::of(any::<u32>()))
        .prop_map(|(code, message, hint, retry_after_s)| Fault { code, message, details: None, hint, retry_after_s })
}
fn status() -> impl Strategy<Value = LeaseStatus> {
    let signatures = (prop::option::of(signed()), prop::option::of(signed()));
    (any::<[u8; 16]>(), any::<u64>(), phase(), prop::option::of(fault()), signatures).prop_map(
        |(id, revision, vm, fault, (active, receipt))| LeaseStatus {
            lease_id: LeaseId(id),
            stage: LeaseStage::Active,
            revision,
            vm,
            fault,
            guest_user: "root".parse().unwrap(),
            active,
            credit_ends: receipt.as_ref().map(|_| Timestamp(revision)),
            receipt,
            resources: (revision % 2 == 0).then_some(protocol::units::Resources::SMALL),
        },
    )
}
fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        any::<u8>().prop_map(|supported| Refusal::UnknownVersion { supported }),
        "\\PC{0,80}".prop_map(Refusal::Malformed),
        (super::text::resources(), super::text::resources()).prop_map(|(asked, free)| Refusal::Exhausted {
            asked,
            free,
            retry_after_s: Some(7)
        }),
        (super::text::resources(), super::text::resources(), any::<u32>()).prop_map(|(resources, asked, vms)| {
            Refusal::Quota { tier: Tier::Pro, used: Usage { vms, resources }, asked, retry_after_s: None }
        }),
        any::<[u8; 16]>().prop_map(|id| Refusal::NotYours(LeaseId(id))),
        Just(Refusal::QuoteGone),
        any::<u32>().prop_map(|cents| Refusal::NoCredit {
            needed: format!("{cents}.01").parse().unwrap(),
            left: Sum::ZERO,
            currency: "EUR".parse().unwrap(),
        }),
        any::<u32>().prop_map(|retry_after_s| Refusal::TooManyRequests { retry_after_s }),
        fault().prop_map(Refusal::Backend),
    ]
}
fn response() -> impl Strategy<Value = Response> {
    let item = (signed(), any::<u64>()).prop_map(|(advert, life)| PageItem { advert, life: Millis(life) });
    prop_oneof![
        (prop::collection::vec(item, 0..8), prop::option::of(any::<[u8; 32]>()), prop::collection::vec(signed(), 0..3))
            .prop_map(|(items, next, revoked)| {
                Response::Board(Page { items, next: next.map(PeerId::from_public_key), revoked, ..Page::default() })
            }),
        Just(Response::Posted),
        Just(Response::Declined),
        signed().prop_map(Response::Quote),
        signed().prop_map(Response::Granted),
        (signed(), status()).prop_map(|(active, status)| Response::Active { active, status }),
        status().prop_map(Response::Status),
        signed().prop_map(Response::RenewQuote),
        (signed(), status()).prop_map(|(renewed, status)| Response::Renewed { renewed, status }),
        Just(Response::Countersigned),
        refusal().prop_map(Response::Refused),
    ]
}

proptest! {
    #[test]
    fn requests_are_read_as_they_were_written(sent in any::<u64>(), request in request()) {
        let bytes = Frame::encode(Timestamp(sent), request.clone());
        let frame = Frame::<Request>::decode(&bytes).unwrap();
        prop_assert_eq!((frame.v, frame.sent, frame.body), (VERSION, Timestamp(sent), request));
    }

    #[test]
    fn responses_are_read_as_they_were_written(sent in any::<u64>(), response in response()) {
        let bytes = Frame::encode(Timestamp(sent), response.clone());
        prop_assert_eq!(Frame::<Response>::decode(&bytes).unwrap().body, response);
    }

    #[test]
    fn a_damaged_message_does_no_harm(
        request in request(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<prop::sample::Index>()
    ) {
        let mut bytes = Frame::encode(Timestamp(1), request);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // Read or refused; what it then means is judged elsewhere.
        let _ = Frame::<Request>::decode(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Frame::<Request>::decode(&bytes).is_err(), "a message that was cut short is never whole");
    }

    #[test]
    fn any_bytes_are_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Frame::<Request>::decode(&bytes);
        let _ = Frame::<Response>::decode(&bytes);
    }

    #[test]
    fn another_version_is_called_by_its_number(v in any::<u8>(), extra in "\\PC{0,20}") {
        #[derive(serde::Serialize)]
        struct Later { v: u8, novelty: String }
        let bytes = codec::encode(&Later { v, novelty: extra });
        match Frame::<Request>::decode(&bytes) {
            Err(FrameError::UnknownVersion(got)) => prop_assert!(got == v && v != VERSION),
            Err(FrameError::Undecodable(_)) => prop_assert_eq!(v, VERSION),
            Ok(_) => prop_assert!(false, "it has no body"),
        }
    }
}

#[test]
fn a_later_version_is_named_even_where_it_looks_like_ours() {
    #[derive(serde::Serialize)]
    struct Later {
        v: u64,
        sent: Timestamp,
        body: Request,
    }
    for (v, named) in [(2, 2), (255, 255), (256, 255), (u64::MAX, 255)] {
        let later = Later { v, sent: Timestamp(1), body: Request::Away };
        assert_eq!(Frame::<Request>::decode(&codec::encode(&later)), Err(FrameError::UnknownVersion(named)), "{v}");
    }
}

#[test]
fn an_oversized_message_is_refused_unread() {
    let bytes = vec![0xa3; MAX_MESSAGE + 1];
    let refused = Frame::<Request>::decode(&bytes);
    assert!(matches!(refused, Err(FrameError::Undecodable(codec::DecodeError::Oversized { .. }))));
}
