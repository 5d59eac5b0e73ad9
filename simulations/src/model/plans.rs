//! What happens to a node from outside, at a time: its users' wishes, and its end.
use super::member::Create;
use super::{Event, Id, Model};
use crate::scenario::wish;
use protocol::core::Input;
use protocol::names::CreateId;
use protocol::units::Millis;
use std::fmt;

/// After a create has failed its user looks at why, and forgets it.
const FORGET_AFTER: u64 = 1_000;

pub(super) enum Plan {
    Stop {
        goodbye: bool,
    },
    Create {
        /// None when nobody gives it back.
        lifetime: Option<u64>,
        lease: Millis,
    },
    Destroy(CreateId),
    /// A provider that is not there puts its advert.
    Sybil,
    /// A liar says what nobody signed.
    Forge,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Plan::Stop { goodbye: true } => f.write_str("ends with a goodbye"),
            Plan::Stop { goodbye: false } => f.write_str("ends without a word"),
            Plan::Create { .. } => f.write_str("its user wants a VM"),
            Plan::Destroy(id) => write!(f, "its user gives back what came of create {id}"),
            Plan::Sybil => f.write_str("puts an advert of nothing"),
            Plan::Forge => f.write_str("says what nobody signed"),
        }
    }
}

impl Model {
    pub(super) fn plan(&mut self, node: Id, at: u64, plan: Plan) {
        self.queue.push(at, Event::Plan { node, plan });
    }
    pub fn stop_at(&mut self, node: Id, at: u64, goodbye: bool) {
        self.plan(node, at, Plan::Stop { goodbye });
    }
    /// Its user asks for a small VM for `lease` milliseconds and gives it back `lifetime` after it runs, if at all.
    pub fn create_at(&mut self, node: Id, at: u64, lifetime: Option<u64>, lease: u64) {
        self.plan(node, at, Plan::Create { lifetime, lease: Millis(lease) });
    }

    pub(super) fn carry_out(&mut self, node: Id, plan: Plan) {
        match plan {
            Plan::Stop { goodbye } => self.stop(node, goodbye),
            Plan::Create { lifetime, lease } => self.create(node, lifetime, lease),
            Plan::Destroy(create_id) => self.input(node, Input::Destroy { ticket: 0, create_id }),
            Plan::Sybil => self.put_sybil(node),
            Plan::Forge => self.forge(node),
        }
    }

    fn create(&mut self, node: Id, lifetime: Option<u64>, lease: Millis) {
        if self.nodes[node as usize].core.is_none() {
            return;
        }
        let create_id = CreateId(self.dice.bytes());
        let mut request = wish(create_id, &format!("vm-{}", self.creates.len()));
        request.spec.duration = lease;
        self.create_of.insert(create_id, self.creates.len());
        self.creates.push(Create::new(node, self.now, lifetime));
        self.input(node, Input::Create { ticket: 0, request: Box::new(request) });
    }

    pub(super) fn note_rental(&mut self, node: Id, create_id: CreateId) {
        let Some(create) = self.create_of.get(&create_id).and_then(|n| self.creates.get_mut(*n)) else { return };
        let core = self.nodes[node as usize].core.as_ref();
        let Some(rental) = core.and_then(|core| core.requestor().rental(create_id)) else { return };
        if !create.note(self.now, rental) {
            return;
        }
        let after = if create.failed.is_some() { Some(FORGET_AFTER) } else { create.lifetime };
        if let Some(after) = after {
            self.plan(node, self.now + after, Plan::Destroy(create_id));
        }
    }
}
