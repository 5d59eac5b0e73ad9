//! Performing what the core has decided.
use super::Actor;
use crate::clock;
use crate::mesh::{GossipId, RequestToken, Verdict};
use crate::store::StoredEvent;
use protocol::Fault;
use protocol::core::{Effect, Event, EventKind, Input, RpcFailure, Severity, Verdict as Judged};

impl Actor {
    /// Until nothing is left to do: an effect that fails may bring about another.
    pub(super) async fn perform(&mut self) -> Result<(), Fault> {
        loop {
            if let Some(observer) = &mut self.observer {
                observer(&self.core);
            }
            let effects: Vec<Effect> = self.core.drain_effects().collect();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.perform_one(effect).await?;
            }
        }
        self.answer_provider_queries();
        self.ban_the_charged().await;
        Ok(())
    }

    async fn perform_one(&mut self, effect: Effect) -> Result<(), Fault> {
        match effect {
            // What depends on this comes after it: when it fails, nothing more is said to anybody.
            Effect::Persist(ops) => self.commit(&ops).await?,
            Effect::Publish(body) => {
                if let Err(error) = self.mesh.publish(body).await {
                    tracing::debug!(%error, "published to nobody; neighbours read it when they come");
                }
            }
            Effect::Judge { id, verdict } => {
                let verdict = match verdict {
                    Judged::Accept => Verdict::Accept,
                    Judged::Ignore => Verdict::Ignore,
                    Judged::Reject => Verdict::Reject,
                };
                self.stopped(self.mesh.judge(GossipId(id), verdict).await);
            }
            Effect::FindHolders { ticket, key } => self.stopped(self.mesh.find_holders(ticket, key).await),
            Effect::Learn { peer, addrs } => {
                for addr in addrs {
                    self.stopped(self.mesh.add_address(peer, addr.as_str()).await);
                }
            }
            Effect::Send { rpc, to, body } => match self.mesh.send(to, body).await {
                Ok(id) => {
                    self.rpcs.insert(id, rpc);
                }
                Err(error) => {
                    let result = Err(RpcFailure::Unreachable(error.to_string()));
                    self.input(Input::Response { rpc, result });
                }
            },
            Effect::Reply { token, body } => self.stopped(self.mesh.reply(RequestToken(token), body).await),
            Effect::RunJob(order) => {
                if let Some(workers) = &mut self.workers {
                    workers.run(*order);
                }
            }
            Effect::AbortJob(job) => {
                if let Some(workers) = &mut self.workers {
                    workers.abort(job);
                }
            }
            Effect::Answer { ticket, result } => self.ticket_answered(ticket, result),
            Effect::Rental(id) => {
                self.rental_changed(id);
                self.pin_leased().await;
            }
            Effect::Notice { create_id, message } => self.notice(create_id, message),
            Effect::Event(event) => self.record(event),
            Effect::Offence { by, what, code } => self.offended(by, what, code),
        }
        Ok(())
    }

    /// A mesh that has stopped takes nothing; the node is stopping too.
    pub(super) fn stopped(&self, result: Result<(), crate::mesh::MeshError>) {
        if let Err(error) = result {
            tracing::debug!(%error, "the mesh takes nothing more");
        }
    }

    /// Leased peers keep their connection, whatever the number of neighbours.
    pub(super) async fn pin_leased(&mut self) {
        let tenants = self.core.provider().ledger().leases().filter(|row| row.counts()).map(|row| row.requestor);
        let wanted: std::collections::BTreeSet<_> = self.core.requestor().leased_peers().chain(tenants).collect();
        for peer in wanted.difference(&self.pinned) {
            self.stopped(self.mesh.pin(*peer).await);
        }
        for peer in self.pinned.difference(&wanted) {
            self.stopped(self.mesh.unpin(*peer).await);
        }
        self.pinned = wanted;
    }

    pub(super) fn record(&self, event: Event) {
        let kind = match event.kind {
            EventKind::Vm => "vm",
            EventKind::Auth => "auth",
            EventKind::System => "system",
            EventKind::Security => "security",
            EventKind::Market => "market",
        };
        let severity = match event.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        };
        match event.severity {
            Severity::Info => tracing::info!(kind, subject = ?event.subject, "{}", event.message),
            _ => tracing::warn!(kind, subject = ?event.subject, "{}", event.message),
        }
        let stored = StoredEvent {
            time_ms: clock::now().0,
            kind: kind.to_owned(),
            severity: severity.to_owned(),
            message: event.message,
            subject: event.subject,
            code: event.code,
        };
        if let Err(fault) = self.store.append_event(&stored) {
            tracing::warn!(%fault, "an event is not kept");
        }
    }
}
