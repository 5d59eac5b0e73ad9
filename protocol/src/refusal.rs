//! Why a provider says no: named variants with what was asked and what there is, the same on the wire and in core.
use crate::board::BoardRefusal;
use crate::envelope::EnvelopeError;
use crate::error::{ErrorCode, Fault};
use crate::money::Sum;
use crate::names::{BackendKind, Currency, ImageName, LeaseId};
use crate::quota::{Tier, Usage};
use crate::units::{Millis, Resources};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    UnknownVersion {
        supported: u8,
    },
    Malformed(String),
    NotProviding,
    NoSuchImage(ImageName),
    NoSuchBackend(BackendKind),
    /// The guest would be less isolated than asked, or of another architecture.
    Unsuitable(String),
    Exhausted {
        asked: Resources,
        free: Resources,
        /// Not there when it will never fit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
    },
    TooManyVms {
        most: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
    },
    /// The requestor would have more than its tier allows.
    Quota {
        tier: Tier,
        used: Usage,
        asked: Resources,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
    },
    LeaseTooLong {
        longest: Millis,
    },
    /// Strangers of one site have as many free VMs as they may.
    StrangersFull {
        most: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
    },
    /// The requestor's credit does not cover it.
    NoCredit {
        needed: Sum,
        left: Sum,
        currency: Currency,
    },
    TooManyRequests {
        retry_after_s: u32,
    },
    Denied,
    /// The subnet has its share of the shard already.
    TooManyFromHere,
    Unsigned(String),
    BadSignature(String),
    Expired(String),
    /// The quote is of an earlier run, was taken back, or its hold has ended.
    QuoteGone,
    /// The same create was accepted before in other words.
    Conflict,
    NoSuchLease(LeaseId),
    NotYours(LeaseId),
    /// The lease was released: nothing starts it again.
    Released(LeaseId),
    WrongState {
        is: String,
        wanted: String,
    },
    BadSeed(String),
    NoSuchPort(u16),
    /// What the hypervisor said.
    Backend(Fault),
}

impl Refusal {
    pub fn code(&self) -> ErrorCode {
        match self {
            Refusal::UnknownVersion { .. } => ErrorCode::UnknownVersion,
            Refusal::Malformed(_) | Refusal::LeaseTooLong { .. } | Refusal::BadSeed(_) => ErrorCode::InvalidRequest,
            Refusal::NotProviding | Refusal::QuoteGone => ErrorCode::Unavailable,
            Refusal::NoSuchImage(_) => ErrorCode::NoSuchImage,
            Refusal::NoSuchBackend(_) => ErrorCode::NoSuchResource,
            Refusal::Unsuitable(_) => ErrorCode::BackendCannot,
            Refusal::Exhausted { .. } => ErrorCode::Exhausted,
            Refusal::TooManyVms { .. } => ErrorCode::Exhausted,
            Refusal::Quota { .. } | Refusal::NoCredit { .. } | Refusal::StrangersFull { .. } => ErrorCode::Quota,
            Refusal::TooManyRequests { .. } => ErrorCode::TooManyRequests,
            Refusal::Denied => ErrorCode::Denied,
            Refusal::TooManyFromHere => ErrorCode::Quota,
            Refusal::Unsigned(_) => ErrorCode::Unsigned,
            Refusal::BadSignature(_) => ErrorCode::BadToken,
            Refusal::Expired(_) => ErrorCode::Expired,
            Refusal::Conflict => ErrorCode::VmExists,
            Refusal::NoSuchLease(_) | Refusal::Released(_) => ErrorCode::NoSuchVm,
            Refusal::NotYours(_) => ErrorCode::NotYours,
            Refusal::WrongState { .. } => ErrorCode::WrongState,
            Refusal::NoSuchPort(_) => ErrorCode::PortBlocked,
            Refusal::Backend(fault) => fault.code,
        }
    }

    /// Whether there is no room for it any more.
    pub fn is_full(&self) -> bool {
        matches!(self, Refusal::Exhausted { .. } | Refusal::TooManyVms { .. } | Refusal::QuoteGone)
    }
    /// When to ask the same provider again, as it says.
    pub fn retry_after_s(&self) -> Option<u32> {
        match self {
            Refusal::TooManyRequests { retry_after_s } => Some(*retry_after_s),
            Refusal::Exhausted { retry_after_s, .. }
            | Refusal::TooManyVms { retry_after_s, .. }
            | Refusal::Quota { retry_after_s, .. }
            | Refusal::StrangersFull { retry_after_s, .. } => *retry_after_s,
            _ => None,
        }
    }
    /// Whether another try at the same provider, a moment later, may go through.
    pub fn is_transient(&self) -> bool {
        matches!(self, Refusal::TooManyRequests { .. })
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::UnknownVersion { supported } => {
                write!(f, "the peer speaks version {supported} of the protocol only")
            }
            Refusal::Malformed(why) => write!(f, "the message is malformed: {why}"),
            Refusal::NotProviding => f.write_str("this node offers no VMs now"),
            Refusal::NoSuchImage(image) => write!(f, "the provider has no image '{image}'"),
            Refusal::NoSuchBackend(backend) => write!(f, "the provider has no backend '{backend}'"),
            Refusal::Unsuitable(why) => write!(f, "the provider cannot give that: {why}"),
            Refusal::Exhausted { asked, free, .. } => write!(f, "asked for {asked}; free are {free}"),
            Refusal::TooManyVms { most, .. } => write!(f, "the provider runs at most {most} VMs"),
            Refusal::Quota { tier, used, asked, .. } => {
                let Usage { vms, resources } = used;
                let quota = tier.quota();
                write!(f, "tier '{tier}' allows {quota}; in use are {vms} VMs with {resources}; asked for {asked}")
            }
            Refusal::NoCredit { needed, left, currency } => {
                write!(f, "this needs a credit of {needed} {currency}; left are {left} {currency}")
            }
            Refusal::LeaseTooLong { longest } => write!(f, "the provider leases for at most {longest}"),
            Refusal::StrangersFull { most, .. } => {
                write!(f, "strangers from where you are have {most} free VMs there already, as many as they may")
            }
            Refusal::TooManyRequests { retry_after_s } => {
                write!(f, "too many requests; again in {retry_after_s} s")
            }
            Refusal::Denied => f.write_str("the provider's policy denies this"),
            Refusal::TooManyFromHere => f.write_str("its subnet has its share of adverts there already"),
            Refusal::Unsigned(what) => write!(f, "{what} is unsigned"),
            Refusal::BadSignature(why) => write!(f, "the signature is refused: {why}"),
            Refusal::Expired(what) => write!(f, "{what} has expired"),
            Refusal::QuoteGone => f.write_str("the quote no longer stands"),
            Refusal::Conflict => f.write_str("this create was accepted before in other words"),
            Refusal::NoSuchLease(lease) => write!(f, "the provider knows no lease {lease}"),
            Refusal::NotYours(lease) => write!(f, "lease {lease} is not yours"),
            Refusal::Released(lease) => write!(f, "lease {lease} has been released"),
            Refusal::WrongState { is, wanted } => write!(f, "the VM is {is}; this needs it {wanted}"),
            Refusal::BadSeed(why) => write!(f, "the seed is refused: {why}"),
            Refusal::NoSuchPort(port) => write!(f, "port {port} of the guest cannot be reached"),
            Refusal::Backend(fault) => f.write_str(&fault.message),
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        let retry_after_s = refusal.retry_after_s();
        let fault = Fault { retry_after_s, ..Fault::new(refusal.code(), refusal.to_string()) };
        match refusal {
            Refusal::Backend(fault) => fault,
            Refusal::NoSuchImage(_) => fault.hint("'golemnode provider list' shows who has which images"),
            Refusal::Quota { .. } => {
                fault.hint("destroy a VM there, ask for less, or ask its operator for another tier")
            }
            Refusal::NoCredit { .. } => fault.hint(
                "pay its operator, who then grants you credit ('golemnode credit grant'), or choose a cheaper one",
            ),
            Refusal::LeaseTooLong { longest } => {
                fault.hint(format!("'--for {longest}', and 'golemnode vm renew' later"))
            }
            Refusal::StrangersFull { .. } => {
                fault.hint("wait, choose another provider, or ask its operator for a tier")
            }
            Refusal::Exhausted { .. } => fault.hint("ask for less, or see 'golemnode provider list' for others"),
            Refusal::Expired(_) => fault.hint("clocks may differ by 60 s: 'golemnode doctor' checks this one"),
            Refusal::UnknownVersion { .. } => fault.hint("update the older of the two nodes"),
            _ => fault,
        }
    }
}

impl From<EnvelopeError> for Refusal {
    fn from(error: EnvelopeError) -> Refusal {
        match error {
            EnvelopeError::Unsigned => Refusal::Unsigned("the message".into()),
            EnvelopeError::Undecodable(error) => Refusal::Malformed(error.to_string()),
            EnvelopeError::Unsound(why) => Refusal::Malformed(why.to_owned()),
            other => Refusal::BadSignature(other.to_string()),
        }
    }
}

/// A refused posting, as it is told to whoever sent it.
impl From<BoardRefusal> for Refusal {
    fn from(refusal: BoardRefusal) -> Refusal {
        match refusal {
            BoardRefusal::Expired | BoardRefusal::Future | BoardRefusal::Stale { .. } => {
                Refusal::Expired(format!("the advert ({refusal})"))
            }
            BoardRefusal::Full => Refusal::TooManyRequests { retry_after_s: 60 },
            BoardRefusal::CrowdedBlock => Refusal::TooManyFromHere,
            BoardRefusal::Revoked => Refusal::BadSignature(refusal.to_string()),
            BoardRefusal::Misplaced | BoardRefusal::TooManyImages | BoardRefusal::TooManyAddrs => {
                Refusal::Malformed(refusal.to_string())
            }
            BoardRefusal::Envelope(error) => error.into(),
        }
    }
}
