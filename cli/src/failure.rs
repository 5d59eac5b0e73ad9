//! How a command ends: its exit code, and the one line that says why.
use crate::context::Context;
use crate::output::escaped;
use node::api::server::error_body;
use protocol::Fault;

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
    eprint!("{}", text(fault, json, color));
}

fn text(fault: &Fault, json: bool, color: bool) -> String {
    if json {
        let body = serde_json::to_string(&error_body(fault.clone()));
        let body = body.unwrap_or_else(|error| format!("{{\"error\":{{\"message\":\"{error}\"}}}}"));
        return escaped(&body) + "\n";
    }
    // What a peer, a guest or a file says may stand in any of them.
    let plain = |text: &str| protocol::text::plain(text, usize::MAX);
    let (red, cyan, off) = if color { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
    // A message of several lines would break "one line"; what is long belongs into the details.
    let message = fault.message.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = format!("{red}error[{}]{off}: {}\n", fault.code, plain(&message));
    for line in fault.details.iter().flat_map(|details| details.lines()).filter(|line| !line.trim().is_empty()) {
        text += &format!("  {}\n", plain(line));
    }
    if let Some(hint) = &fault.hint {
        text += &format!("{cyan}hint{off}: {}\n", plain(hint));
    }
    if let Some(after) = fault.retry_after_s {
        text += &format!("{cyan}hint{off}: try again in {after} s\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_a_hint_and_details_and_drives_no_terminal() {
        let evil = "gone\u{1b}[2J\u{9b}m\nerror[AUTH_001]: forged";
        let fault = Fault::internal(evil).details(evil).hint(evil);
        let shown = text(&fault, false, false);
        assert!(!shown.contains(['\u{1b}', '\u{9b}']), "{shown:?}");
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 4, "{shown}");
        assert!(lines[0].starts_with("error[INT_001]: gone") && lines[3].starts_with("hint: gone"), "{shown}");
        assert!(lines[1..3].iter().all(|line| line.starts_with("  ")), "{shown}");
        let json: serde_json::Value = serde_json::from_str(&text(&fault, true, false)).unwrap();
        assert_eq!(json["error"]["message"], evil);
        assert!(!text(&fault, true, true).contains(['\u{1b}', '\u{9b}']));
    }
}
