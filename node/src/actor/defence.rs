//! Who sends what no honest node sends is kept out for a while. `crate::bans` counts and judges; here the mesh, the disk
//! and the events are told.
use super::Actor;
use crate::api::types::BanView;
use crate::bans::{Ban, Changes, Charge};
use crate::clock;
use protocol::core::{Event, EventKind, Severity};
use protocol::units::Millis;
use protocol::{ErrorCode, Fault, PeerId};

impl Actor {
    pub(super) fn offended(&mut self, by: PeerId, what: &str, code: ErrorCode) {
        self.charges.extend(self.bans.offence(clock::now(), by, what, code));
    }

    pub(super) async fn ban_the_charged(&mut self) {
        for charge in std::mem::take(&mut self.charges) {
            // The user has said who is trusted: whom we join through, and whom we let to.
            if self.named.contains(&charge.peer) || self.mesh.is_bootstrap(&charge.peer) {
                tracing::debug!(peer = %charge.peer, reason = charge.reason, "not banned: the settings name it");
                continue;
            }
            // A lease that has just begun spares its connection, too.
            self.pin_leased().await;
            self.ban(&charge).await;
        }
    }

    async fn ban(&mut self, charge: &Charge) {
        let now = clock::now();
        let (ban, changes) = self.bans.ban(now, charge);
        if let Err(fault) = self.store.keep_ban(&ban) {
            tracing::warn!(%fault, "a ban is not kept: it ends when this node does");
        }
        self.stopped(self.mesh.ban(ban.peer).await);
        self.apply(changes).await;
        let Some(untold) = self.bans.tell(now) else { return };
        let (until, length) = (clock::rfc3339(ban.until), Millis(ban.until.0 - ban.since.0));
        let mut message = format!("banned for {length}, until {until}: {}", ban.reason);
        if self.pinned.contains(&ban.peer) {
            message += "; it stays connected for as long as its lease runs";
        }
        if untold > 0 {
            message += &format!("; {untold} bans before it are not listed");
        }
        self.security(Severity::Warning, ban.peer, message, Some(charge.code));
    }

    async fn apply(&mut self, changes: Changes) {
        for peer in changes.freed {
            tracing::info!(%peer, "its ban has ended");
            self.stopped(self.mesh.unban(peer).await);
        }
        for peer in changes.forgotten {
            self.forget_ban(peer);
        }
    }

    fn forget_ban(&self, peer: PeerId) {
        if let Err(fault) = self.store.forget_ban(peer) {
            tracing::warn!(%fault, %peer, "its ban is not removed: it is in force again after a restart");
        }
    }

    /// That a ban ends was said when it began: no event.
    pub(super) async fn end_bans(&mut self) {
        let changes = self.bans.advance(clock::now());
        self.apply(changes).await;
    }

    pub(super) fn ban_views(&self) -> Vec<BanView> {
        self.bans.list().into_iter().map(view).collect()
    }

    pub(super) async fn lift_ban(&mut self, peer: PeerId) -> Result<BanView, Fault> {
        let lifted = self.bans.lift(peer).ok_or_else(|| {
            Fault::new(ErrorCode::NoSuchResource, format!("no ban of {peer}"))
                .hint("'golemnode ban list' shows those in force")
        })?;
        self.forget_ban(peer);
        self.stopped(self.mesh.unban(peer).await);
        let message =
            format!("its ban is lifted before its end at {}: {}", clock::rfc3339(lifted.until), lifted.reason);
        self.security(Severity::Info, peer, message, None);
        Ok(view(&lifted))
    }

    fn security(&self, severity: Severity, peer: PeerId, message: String, code: Option<ErrorCode>) {
        self.record(Event { kind: EventKind::Security, severity, message, subject: Some(peer.to_string()), code });
    }
}

fn view(ban: &Ban) -> BanView {
    BanView {
        peer_id: ban.peer,
        reason: ban.reason.clone(),
        since: clock::rfc3339(ban.since),
        until: clock::rfc3339(ban.until),
        offences: ban.offences,
    }
}
