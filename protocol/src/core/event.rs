//! What the core wants to be remembered.

/// Something worth remembering: the node numbers, times and keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub severity: Severity,
    pub message: String,
    pub subject: Option<String>,
    pub code: Option<crate::ErrorCode>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    Vm,
    Auth,
    System,
    Security,
    Market,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Info,
    Warning,
    Critical,
}
