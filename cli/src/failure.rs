//! How a command ends: its exit code, and the one line that says why.
use crate::context::Context;
use node::api::server::error_body;
use protocol::{ErrorCode, Fault};

/// 128 + SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;
/// What OpenSSH itself exits with when it is not the remote command that failed.
pub const OURS: u8 = 255;

#[derive(Debug)]
pub enum Failure {
    Fault(Fault),
    /// Of `vm ssh`, `vm exec` and `vm proxy`, whose other codes are the guest's.
    Ours(Fault),
    Interrupted,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure::Fault(fault)
    }
}

/// Of a command: the exit code, most often 0.
pub type Outcome = Result<u8, Failure>;

/// Says what went wrong and returns the exit code.
pub fn exit(context: &Context, ended: Outcome) -> u8 {
    match ended {
        Ok(code) => code,
        Err(Failure::Interrupted) => INTERRUPTED,
        Err(Failure::Fault(fault)) => {
            print(&fault, context.is_json(), context.color_on_stderr());
            fault.code.exit_code()
        }
        Err(Failure::Ours(fault)) => {
            print(&fault, context.is_json(), context.color_on_stderr());
            OURS
        }
    }
}

/// One line, and a hint where there is one; with `--json` one JSON object, on stderr either way.
pub fn print(fault: &Fault, json: bool, color: bool) {
    if json {
        let body = serde_json::to_string(&error_body(fault.clone()));
        return eprintln!("{}", body.unwrap_or_else(|error| format!("{{\"error\":{{\"message\":\"{error}\"}}}}")));
    }
    let (red, cyan, plain) = if color { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
    // A message of several lines would break "one line"; what is long belongs into the details.
    let message = fault.message.split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("{red}error[{}]{plain}: {message}", fault.code);
    for line in fault.details.iter().flat_map(|details| details.lines()).filter(|line| !line.trim().is_empty()) {
        eprintln!("  {line}");
    }
    if let Some(hint) = &fault.hint {
        eprintln!("{cyan}hint{plain}: {hint}");
    }
    if let Some(after) = fault.retry_after_s.filter(|_| fault.code == ErrorCode::TooManyRequests) {
        eprintln!("{cyan}hint{plain}: try again in {after} s");
    }
}
