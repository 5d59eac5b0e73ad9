//! The last events before a run ended, for who replays it.
use super::{Event, Id, Model};
use std::collections::VecDeque;

/// Lines that are kept: what led to a failure is most often among the last few.
const LINES: usize = 40;

#[derive(Default)]
pub struct Story {
    lines: VecDeque<String>,
}

impl Story {
    fn add(&mut self, line: String) {
        if self.lines.len() >= LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}

fn line(event: &Event) -> Option<String> {
    let who = |id: &Id| format!("node {id}");
    Some(match event {
        // These are half of all, and say nothing.
        Event::Tick { .. } => return None,
        Event::Request { to, from, kind, body, .. } => {
            format!("{} asks {}: {kind:?}, {} bytes", who(from), who(to), body.len())
        }
        Event::Response { node, kind, result: Ok(body), .. } => {
            format!("{} is answered: {kind:?}, {} bytes", who(node), body.len())
        }
        Event::Response { node, kind, result: Err(why), .. } => {
            format!("{} is not answered: {kind:?}, {why:?}", who(node))
        }
        Event::Gossip { to, from, body, .. } => format!("{} tells {}: {} bytes", who(from), who(to), body.len()),
        Event::Holders { node, found, .. } => format!("{} has found {} servers", who(node), found.len()),
        Event::Vicinity { node } => format!("{} looks around", who(node)),
        Event::Gone { at } => format!("the server at {:032x} is missed", at.0),
        Event::Survey { node, .. } => format!("{} looks at its host", who(node)),
        Event::Vm { node, lease_id, phase, .. } => format!("{}: the VM of lease {lease_id} is {phase:?}", who(node)),
        Event::Start { node } => format!("{} starts", who(node)),
        Event::Refresh { node, .. } => format!("{} refreshes its routing", who(node)),
        Event::Plan { node, plan } => format!("{}: {plan}", who(node)),
    })
}

impl Model {
    pub(super) fn tell(&mut self, event: &Event) {
        let now = self.now;
        if let (Some(story), Some(line)) = (self.story.as_mut(), line(event)) {
            story.add(format!("{now:>9} ms  {line}"));
        }
    }
}
