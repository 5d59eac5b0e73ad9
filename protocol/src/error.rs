//! One list of error codes for the wire, the API, the CLI and events.
use crate::text::{plain, plain_lines};
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! codes {
    ($($variant:ident = $text:literal, $http:literal, $exit:literal, $meaning:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum ErrorCode { $(#[doc = $meaning] #[serde(rename = $text)] $variant,)* }
        impl ErrorCode {
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];
            pub fn as_str(self) -> &'static str { match self { $(ErrorCode::$variant => $text,)* } }
            pub fn http_status(self) -> u16 { match self { $(ErrorCode::$variant => $http,)* } }
            pub fn exit_code(self) -> u8 { match self { $(ErrorCode::$variant => $exit,)* } }
            pub fn meaning(self) -> &'static str { match self { $(ErrorCode::$variant => $meaning,)* } }
        }
    };
}

codes! {
    BadToken = "AUTH_001", 401, 4, "bad token or signature";
    Expired = "AUTH_002", 401, 4, "expired or replayed";
    Unsigned = "AUTH_003", 401, 4, "unsigned";
    NotYours = "AUTH_004", 403, 4, "not yours";
    Denied = "AUTH_005", 403, 4, "denied by policy";
    NoSuchResource = "RES_001", 404, 3, "no such resource";
    Exhausted = "RES_002", 507, 1, "exhausted";
    Unavailable = "RES_003", 503, 3, "unavailable now";
    Quota = "RES_004", 429, 4, "over quota";
    TooManyRequests = "RES_005", 429, 4, "too many requests";
    CreateFailed = "VM_001", 502, 1, "create failed";
    NoSuchVm = "VM_002", 404, 3, "no such VM";
    VmExists = "VM_003", 409, 1, "VM exists";
    WrongState = "VM_004", 409, 1, "wrong state for this";
    BackendCannot = "VM_005", 501, 1, "backend cannot";
    Timeout = "NET_001", 504, 5, "timeout";
    Unreachable = "NET_002", 502, 1, "unreachable";
    PortBlocked = "NET_003", 502, 1, "port blocked";
    NoSuchImage = "IMG_001", 404, 3, "no such image";
    ChecksumMismatch = "IMG_002", 502, 1, "checksum mismatch";
    InvalidRequest = "REQ_001", 400, 2, "invalid request";
    UnknownVersion = "PRO_001", 400, 1, "protocol version unknown";
    Internal = "INT_001", 500, 1, "internal";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure as it is shown and sent: a code, one sentence, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("error[{code}]: {message}")]
pub struct Fault {
    pub code: ErrorCode,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
}

/// What a peer may make us keep and show: a sentence or two, and some lines of a log.
const MAX_PEER_MESSAGE: usize = 512;
const MAX_PEER_DETAILS: usize = 2048;

impl Fault {
    /// A fault in a peer's words: bounded, and without what could drive a terminal or forge a line.
    pub fn from_peer(self) -> Self {
        Fault {
            message: plain(&self.message, MAX_PEER_MESSAGE),
            details: self.details.map(|text| plain_lines(&text, MAX_PEER_DETAILS)),
            hint: self.hint.map(|text| plain(&text, MAX_PEER_MESSAGE)),
            ..self
        }
    }
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Fault { code, message: message.into(), details: None, hint: None, retry_after_s: None }
    }
    pub fn invalid(message: impl Into<String>) -> Self {
        Fault::new(ErrorCode::InvalidRequest, message)
    }
    pub fn internal(message: impl Into<String>) -> Self {
        Fault::new(ErrorCode::Internal, message)
    }
    /// Whether the same may work a little later.
    pub fn is_transient(&self) -> bool {
        matches!(self.code, ErrorCode::Unavailable | ErrorCode::Unreachable | ErrorCode::TooManyRequests)
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = Some(details.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_words_are_bounded_and_drive_no_terminal() {
        let loud = Fault::invalid("\u{1b}[2J".to_owned() + &"x".repeat(100_000)).details("\u{7}".repeat(100_000));
        let fault = loud.from_peer();
        assert_eq!(fault.message.chars().count(), MAX_PEER_MESSAGE);
        assert_eq!(fault.details.as_ref().unwrap().chars().count(), MAX_PEER_DETAILS);
        assert!(!fault.message.contains('\u{1b}') && !fault.details.unwrap().contains('\u{7}'));
        let forged = Fault::invalid("a\nb \u{202e}c").details("a\nb").hint("\u{9b}2J").from_peer();
        assert_eq!(forged.message, "a b \u{fffd}c");
        assert_eq!((forged.details.as_deref(), forged.hint.as_deref()), (Some("a\nb"), Some("\u{fffd}2J")));
    }

    #[test]
    fn codes_serialise_as_their_text_and_are_distinct() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
            assert!(seen.insert(code.as_str()));
        }
        assert_eq!(seen.len(), 23);
    }
}
