//! When the disk is full: nothing new is begun, and a commit waits for room.
use super::Actor;
use protocol::core::provider::Offering;
use protocol::core::{Event, EventKind, Input, Severity, StoreOp};
use protocol::{ErrorCode, Fault};
use std::time::Duration;

/// How often a commit that found no room is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);

impl Actor {
    /// At intervals, and before anything new is begun.
    pub(super) fn look_for_room(&mut self) {
        if !self.room.look() {
            return;
        }
        let little = self.room.is_little();
        self.say_room(little);
    }

    fn say_room(&mut self, little: Option<String>) {
        let (severity, message, code) = match &little {
            Some(why) => {
                let message = format!("nothing new is let or rented: {why}");
                (Severity::Critical, message, Some(ErrorCode::Exhausted))
            }
            None => (Severity::Info, "the disk of the node's home has room again".to_owned(), None),
        };
        self.record(Event { kind: EventKind::System, severity, message, subject: None, code });
        match little {
            Some(reason) if self.provider.is_some() => self.input(Input::Offer(Offering::NoRoom { reason })),
            Some(_) => {}
            None => self.survey(),
        }
    }

    /// Before work that would have to be kept.
    pub(super) fn must_have_room(&mut self) -> Result<(), Fault> {
        self.look_for_room();
        match self.room.is_little() {
            None => Ok(()),
            Some(why) => Err(Fault::new(ErrorCode::Exhausted, format!("nothing new is rented: {why}"))
                .hint("free some space there; it goes on by itself")),
        }
    }

    /// On disk when this returns; until then nothing that comes after it is performed.
    ///
    /// A disk without room does not end the node. The store says so before it writes anything, so nothing is half done:
    /// the core is ahead of the disk by this one transaction, and nobody has been told. That is so between any decision
    /// and its commit, and only takes longer here. To the mesh the node is slow meanwhile, as one that is stopped and
    /// continued; whoever asks on the socket is told why. Starting again from the disk instead would forget decisions
    /// that nobody doubts, and need room for opening the store.
    pub(super) async fn commit(&mut self, ops: &[StoreOp]) -> Result<(), Fault> {
        let Err(fault) = self.store.commit(ops) else { return Ok(()) };
        if !is_out_of_room(&fault) {
            return Err(fault);
        }
        tracing::error!(%fault, "the node waits for room to write");
        let told = self.room.is_little().is_some();
        self.room.is_out();
        self.waits_for_room.send_replace(Some(waiting()));
        let committed = loop {
            tokio::time::sleep(TRY_AGAIN).await;
            match self.store.commit(ops) {
                Err(fault) if is_out_of_room(&fault) => {}
                committed => break committed,
            }
        };
        self.waits_for_room.send_replace(None);
        committed?;
        tracing::warn!("the disk had room: the node goes on");
        if !told {
            self.say_room(self.room.is_little());
        }
        Ok(())
    }
}

fn is_out_of_room(fault: &Fault) -> bool {
    fault.code == ErrorCode::Exhausted
}

fn waiting() -> Fault {
    Fault::new(ErrorCode::Exhausted, "the disk of the node's home is full: the node waits for room")
        .hint("free some space there; it goes on by itself, and does what it was asked")
}
