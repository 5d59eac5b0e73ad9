//! What the local API asks, and following a create to its end.
use super::{Actor, Internal, Waiting};
use crate::api::billing::CreditBody;
use crate::api::types::*;
use crate::config;
use crate::handle::{Answer, Command, names_vm};
use crate::tunnel;
use protocol::core::Input;
use protocol::core::requestor::{CreateRequest, Phase, Rental};
use protocol::message::VmPhase;
use protocol::names::{CreateId, Egress, Isolation, LeaseId, VmName};
use protocol::revocation::RevocationDocument;
use protocol::seed::Seed;
use protocol::spec::{Query, VmSpec};
use protocol::units::Millis;
use protocol::{ErrorCode, Fault, PeerId};
use std::time::Instant;
use tokio::sync::mpsc;

/// Watchers of creates and waits for a state, each a client's open connection.
pub(super) const MAX_WATCHERS: usize = 1024;
/// What to do when the core answers.
pub(super) enum Ticket {
    Create(Creating),
    /// Then wait until the VM is there.
    Act(VmStatus, Answer<VmView>),
    /// The VM as it is then.
    View(Answer<VmView>),
    /// Nobody waits.
    Quiet,
}

/// A client that follows a create.
pub(super) struct Creating {
    events: mpsc::Sender<CreateEvent>,
    wait: bool,
    began: Instant,
    stage: Option<CreateStage>,
    /// Whose estimate it was told.
    estimated: Option<PeerId>,
    warned: bool,
}

/// Where a create stands, for those who follow it.
struct Standing {
    view: VmView,
    stage: CreateStage,
    estimate: Option<EstimateView>,
}

/// Providers that a list looks for in a mesh too large to be seen whole; a page of a board.
const LISTED: usize = protocol::board::PAGE;

impl Actor {
    /// What is answered here has been performed, and so is on disk, before it is.
    pub(super) async fn command(&mut self, command: Command) -> Result<(), Fault> {
        match command {
            Command::Status(answer) => reply(answer, self.status().await),
            Command::Peers(answer) => reply(answer, self.peers().await),
            Command::Providers(query, answer) => {
                let wanted = query.limit.unwrap_or(usize::MAX).min(LISTED);
                self.input(Input::Search { query: super::views::board_query(&query), wanted });
                self.providers_asked.push(Waiting { answer, wants: query });
                self.providers_asked.retain(|waiting| !waiting.answer.is_closed());
            }
            Command::Provider(peer, answer) => reply(answer, self.provider_of(peer)),
            Command::Create(request, events) => self.create(*request, events),
            Command::Vms(answer) => {
                let ids: Vec<CreateId> = self.core.requestor().rentals().map(|rental| rental.create_id).collect();
                ids.into_iter().for_each(|id| self.input(Input::Refresh(id)));
                let views = self.core.requestor().rentals().map(|rental| self.vm_view(rental)).collect();
                reply(answer, Ok(views));
            }
            Command::Vm(vm, answer) => reply(answer, self.find(&vm).map(|rental| self.vm_view(rental))),
            Command::Act(vm, body, answer) => self.act(&vm, body, answer),
            Command::Wait { vm, status, answer } => self.wait(&vm, status, answer),
            Command::Leases(answer) => reply(answer, Ok(self.lease_views())),
            Command::Lease(lease, answer) => reply(answer, self.lease_document(&lease)),
            Command::Log(vm, most, answer) => self.log(&vm, most, answer),
            Command::Tunnel { vm, port, answer } => self.tunnel(&vm, port, answer),
            Command::Dial(addrs, answer) => self.dial(addrs, answer),
            Command::Events { after, limit, answer } => {
                let events = self.store.events(after, limit);
                reply(answer, events.map(|events| events.into_iter().map(super::views::event_view).collect()));
            }
            Command::Bans(answer) => reply(answer, Ok(self.ban_views())),
            Command::LiftBan(peer, answer) => {
                let lifted = self.lift_ban(peer).await;
                reply(answer, lifted);
            }
            Command::Receipts(answer) => reply(answer, Ok(self.receipt_views())),
            Command::Receipt(lease, answer) => reply(answer, self.receipt_document(&lease)),
            Command::Credits(peer, answer) => reply(answer, self.credit_views(peer)),
            Command::GrantCredit(peer, CreditBody { grant, currency }, answer) => {
                let views = self.grant_credit(peer, grant, currency);
                reply(answer, views);
            }
            Command::Rename(vm, name, answer) => self.rename(&vm, name, answer),
            Command::Renew(vm, body, answer) => self.renew(&vm, &body, answer),
            Command::Quotas(peer, answer) => reply(answer, self.quota_views(peer)),
            Command::SetQuota(peer, tier, answer) => {
                let view = self.set_quota(peer, tier);
                self.perform().await?;
                reply(answer, view);
            }
            Command::Jobs(answer) => reply(answer, self.job_views()),
            Command::Job(id, answer) => reply(answer, self.job_view(id)),
            Command::CancelJob(id, answer) => {
                let view = self.cancel_job(id);
                self.perform().await?;
                reply(answer, view);
            }
            Command::OwnProvider(answer) => reply(answer, self.provider_report()),
            Command::Drain(draining, answer) => {
                let report = self.set_draining(draining);
                reply(answer, report);
            }
            Command::RescanImages(answer) => {
                self.survey();
                reply(answer, Ok(()));
            }
            Command::CheckStore(answer) => self.check_store(answer),
            Command::BackUpStore { file, overwrite, answer } => self.back_up_store(file, overwrite, answer),
            Command::RestoreStore(file, answer) => self.restore_store(file, answer),
            Command::Revoke(document, answer) => {
                let view = self.revoke(&document);
                self.perform().await?;
                reply(answer, view);
            }
            Command::Unfinished(answer) => reply(answer, Ok(self.core.requestor().has_unfinished())),
            Command::Stop(answer) => self.stopping = Some(answer),
        }
        Ok(())
    }

    pub(super) fn find(&self, vm: &str) -> Result<&Rental, Fault> {
        let found =
            self.core.requestor().rentals().find(|rental| names_vm(vm, &rental.name, &rental.create_id.to_string()));
        found.ok_or_else(|| {
            Fault::new(ErrorCode::NoSuchVm, format!("no VM '{vm}'")).hint("'golemnode vm list' shows yours")
        })
    }

    pub(super) fn ticket(&mut self, ticket: Ticket) -> u64 {
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, ticket);
        self.next_ticket
    }

    fn create(&mut self, request: CreateVm, events: mpsc::Sender<CreateEvent>) {
        let (wait, began) = (request.wait, Instant::now());
        let creating = Creating { events, wait, began, stage: None, estimated: None, warned: false };
        match self.prepare(request) {
            Ok(request) => {
                let ticket = self.ticket(Ticket::Create(creating));
                self.input(Input::Create { ticket, request: Box::new(request) });
            }
            Err(error) => creating.tell(CreateEvent::Failed { error }),
        }
    }

    /// Makes the keys and the seed. A VM that is there already keeps its own.
    fn prepare(&mut self, request: CreateVm) -> Result<CreateRequest, Fault> {
        if self.creating.values().map(Vec::len).sum::<usize>() >= MAX_WATCHERS {
            return Err(Fault::new(ErrorCode::TooManyRequests, "too many creates are under way"));
        }
        let spec = VmSpec {
            resources: request.resources.check()?,
            image: request.image.clone(),
            isolation: request.isolation,
            arch: request.arch,
            backend: request.backend.clone(),
            ports: request.ports.clone(),
            duration: Millis::secs(request.duration_s),
            or_less: request.or_less,
        };
        spec.check()?;
        let there = self.core.requestor().by_name(&request.name).filter(|rental| rental.phase != Phase::Failed);
        let there = there.map(|rental| (rental.seed.clone(), rental.identity_file.clone()));
        if there.is_none() {
            self.must_have_room()?;
        }
        let (seed, identity_file) = match there {
            Some(kept) => kept,
            None => {
                let keys = self.ssh.prepare(&request.name, request.ssh_key.as_ref())?;
                let seed = Seed {
                    hostname: request.name.clone(),
                    authorized_keys: vec![keys.authorized_key],
                    host_key: keys.host_private,
                    user_data: request.user_data,
                };
                seed.check()?;
                (seed.encode(), keys.identity_file)
            }
        };
        let query = Query {
            want: spec.resources,
            image: Some(request.image),
            isolation: request.isolation,
            arch: request.arch,
            country: request.country,
            backend: request.backend,
            max_price: request.max_price,
        };
        Ok(CreateRequest {
            create_id: CreateId(config::random_16()?),
            name: request.name,
            spec,
            query,
            provider: request.provider,
            seed,
            timeout: Millis::secs(request.timeout_s),
            allow_smaller: request.allow_smaller,
            identity_file,
            project: request.project,
        })
    }

    pub(super) fn ticket_answered(&mut self, ticket: u64, result: Result<CreateId, Fault>) {
        match (self.tickets.remove(&ticket), result) {
            (Some(Ticket::Create(creating)), Ok(id)) => self.follow(id, creating),
            (Some(Ticket::Create(creating)), Err(error)) => creating.tell(CreateEvent::Failed { error }),
            (Some(Ticket::Act(status, answer)), Ok(id)) => self.wait_for(id, status, true, answer),
            (Some(Ticket::Act(_, answer)), Err(fault)) => reply(answer, Err(fault)),
            (Some(Ticket::View(answer)), Ok(id)) => {
                let view = self.core.requestor().rental(id).map(|rental| self.vm_view(rental));
                reply(answer, view.ok_or_else(|| Fault::new(ErrorCode::NoSuchVm, "the VM is gone")));
                self.sweep_keys();
            }
            (Some(Ticket::View(answer)), Err(fault)) => reply(answer, Err(fault)),
            (Some(Ticket::Quiet) | None, _) => {}
        }
    }

    fn follow(&mut self, id: CreateId, creating: Creating) {
        let (events, internal) = (creating.events.clone(), self.internal.clone());
        tokio::spawn(async move {
            events.closed().await;
            // A node that is stopping has nothing to take back any more.
            let _ = internal.send(Internal::ClientGone(id)).await;
        });
        self.creating.entry(id).or_default().push(creating);
        self.rental_changed(id);
    }

    /// Nobody waits for this create any more. Before the confirm it is taken back; after it the VM is theirs.
    pub(super) fn client_gone(&mut self, id: CreateId) {
        let Some(clients) = self.creating.get_mut(&id) else { return };
        clients.retain(|client| !client.events.is_closed());
        if !clients.is_empty() {
            return;
        }
        self.creating.remove(&id);
        let early = |rental: &Rental| matches!(rental.phase, Phase::Discovering | Phase::Quoting | Phase::Accepting);
        if self.core.requestor().rental(id).is_some_and(early) {
            let ticket = self.ticket(Ticket::Quiet);
            self.input(Input::Destroy { ticket, create_id: id });
        }
    }

    pub(super) fn notice(&mut self, id: CreateId, message: String) {
        tracing::info!(%id, "{message}");
        for client in self.creating.get(&id).into_iter().flatten() {
            client.tell(CreateEvent::Notice { message: message.clone() });
        }
    }

    /// Tells everybody who follows this VM.
    pub(super) fn rental_changed(&mut self, id: CreateId) {
        let standing = self.core.requestor().rental(id).map(|rental| self.standing(rental));
        let mut told_failure = false;
        if let Some(mut clients) = self.creating.remove(&id) {
            clients.retain_mut(|client| client.follow(standing.as_ref(), &mut told_failure));
            if !clients.is_empty() {
                self.creating.insert(id, clients);
            }
        }
        self.answer_waits(id, standing.as_ref().map(|standing| &standing.view));
        match standing {
            // Whoever asked for it has read why: a create that never became a VM leaves nothing.
            Some(Standing { view, .. }) if told_failure && view.status == VmStatus::Failed => {
                let ticket = self.ticket(Ticket::Quiet);
                self.input(Input::Destroy { ticket, create_id: id });
            }
            Some(_) => {}
            None => self.sweep_keys(),
        }
    }

    fn standing(&self, rental: &Rental) -> Standing {
        let estimate = self.core.requestor().estimate_for(rental, self.core.network(), self.core.revoked());
        Standing { view: self.vm_view(rental), stage: stage_of(rental), estimate: estimate.map(Into::into) }
    }

    /// Keys of VMs that are no more.
    pub(super) fn sweep_keys(&self) {
        let kept: Vec<_> = self.core.requestor().rentals().map(|rental| rental.name.clone()).collect();
        if let Err(fault) = self.ssh.keep_only(&kept) {
            tracing::warn!(%fault, "keys of a VM that is gone are left");
        }
    }

    /// Its keys stand under both names until the new one is on disk.
    fn rename(&mut self, vm: &str, name: VmName, answer: Answer<VmView>) {
        let prepared = self.find(vm).and_then(|rental| {
            self.core.requestor().may_rename(rental.create_id, &name)?;
            Ok((rental.create_id, self.ssh.copy(&rental.name, &name, rental.identity_file.as_deref())?))
        });
        match prepared {
            Ok((create_id, identity_file)) => {
                let ticket = self.ticket(Ticket::View(answer));
                self.input(Input::Rename { ticket, create_id, name, identity_file });
            }
            Err(fault) => reply(answer, Err(fault)),
        }
    }

    /// The first question of a node that has just started waits for a neighbour's board.
    pub(super) fn answer_provider_queries(&mut self) {
        let patient = self.expects_peers && !self.core.is_synced() && self.started.elapsed() < super::SYNC_PATIENCE;
        if patient || self.core.is_searching() {
            return;
        }
        for waiting in std::mem::take(&mut self.providers_asked) {
            let found = self.providers(&waiting.wants);
            reply(waiting.answer, Ok(found));
        }
    }

    fn revoke(&mut self, document: &RevocationDocument) -> Result<RevokedView, Fault> {
        let revocation = document.verify()?;
        self.input(Input::Revoke(Box::new(revocation.signed().clone())));
        let peer_id = revocation.revoked;
        let (own, told) = (peer_id == self.core.me(), self.core.neighbours());
        Ok(RevokedView { peer_id, successor: revocation.successor(), own, told })
    }

    fn lease_document(&self, key: &str) -> Result<protocol::lease::LeaseDocument, Fault> {
        let none = || {
            Fault::new(ErrorCode::NoSuchResource, format!("no lease '{key}'"))
                .hint("give a VM's name or a lease's id; 'golemnode lease list' shows them")
        };
        let rented = self.core.requestor().rentals().find(|rental| {
            let deals = rental.deal.as_ref().is_some_and(|deal| deal.lease_id.to_string() == key);
            deals || names_vm(key, &rental.name, &rental.create_id.to_string())
        });
        if let Some(rental) = rented {
            return rental.document(self.core.network()).ok_or_else(none);
        }
        let mut let_out = self.core.provider().ledger().leases();
        let row = let_out.find(|row| row.lease_id.to_string() == key).ok_or_else(none)?;
        Ok(row.document(self.core.network()))
    }

    /// Whose guest it is, and by which lease.
    fn leased(&self, vm: &str) -> Result<(PeerId, LeaseId), Fault> {
        self.find(vm).and_then(|rental| match (&rental.deal, rental.phase) {
            (Some(deal), Phase::Leased) => Ok((deal.provider, deal.lease_id)),
            _ => Err(Fault::new(ErrorCode::WrongState, format!("'{vm}' is not running"))
                .hint(format!("'golemnode vm info {vm}' shows its state"))),
        })
    }

    fn log(&mut self, vm: &str, most: u32, answer: Answer<Vec<u8>>) {
        match self.leased(vm) {
            Err(fault) => reply(answer, Err(fault)),
            Ok((provider, lease_id)) => {
                let mesh = self.mesh.clone();
                tokio::spawn(async move { reply(answer, tunnel::read_log(&mesh, provider, lease_id, most).await) });
            }
        }
    }

    fn tunnel(&mut self, vm: &str, port: u16, answer: Answer<crate::mesh::BoxedStream>) {
        match self.leased(vm) {
            Err(fault) => reply(answer, Err(fault)),
            Ok((provider, lease_id)) => {
                let mesh = self.mesh.clone();
                tokio::spawn(async move { reply(answer, tunnel::open(&mesh, provider, lease_id, port).await) });
            }
        }
    }

    /// The first of these that answers will do.
    fn dial(&self, addrs: Vec<String>, answer: Answer<()>) {
        let mesh = self.mesh.clone();
        tokio::spawn(async move {
            let mut result = Ok(());
            for addr in addrs {
                result = mesh.dial(&addr).await.map(drop).map_err(|error| Fault::from(error).details(addr));
                if result.is_ok() {
                    break;
                }
            }
            reply(answer, result);
        });
    }
}

impl Creating {
    /// A reader that is 64 events behind has gone away.
    fn tell(&self, event: CreateEvent) {
        let _ = self.events.try_send(event);
    }

    /// False when this client has read the end.
    fn follow(&mut self, standing: Option<&Standing>, told_failure: &mut bool) -> bool {
        let Some(Standing { view, stage, estimate }) = standing else {
            let error = Fault::new(ErrorCode::NoSuchVm, "the VM was destroyed meanwhile");
            self.tell(CreateEvent::Failed { error });
            return false;
        };
        let leased = view.lease.is_some() && !self.wait;
        if view.status == VmStatus::Running || leased {
            self.tell(CreateEvent::Done { vm: Box::new(view.clone()) });
            return false;
        }
        if matches!(view.status, VmStatus::Failed | VmStatus::Destroying) {
            let gone = || Fault::new(ErrorCode::CreateFailed, format!("'{}' is being destroyed", view.name));
            self.tell(CreateEvent::Failed { error: view.error.clone().unwrap_or_else(gone) });
            *told_failure = view.status == VmStatus::Failed;
            return false;
        }
        if self.stage != Some(*stage) {
            self.stage = Some(*stage);
            let elapsed_ms = self.began.elapsed().as_millis() as u64;
            let estimate = estimate.filter(|_| self.estimated != view.provider);
            self.estimated = view.provider.filter(|_| estimate.is_some()).or(self.estimated);
            self.tell(CreateEvent::Stage { stage: *stage, message: told(*stage, view), elapsed_ms, estimate });
        }
        if *stage >= CreateStage::Provision && !std::mem::replace(&mut self.warned, true) {
            warnings(view).into_iter().for_each(|message| self.tell(CreateEvent::Notice { message }));
        }
        true
    }
}

fn stage_of(rental: &Rental) -> CreateStage {
    match rental.phase {
        Phase::Discovering => CreateStage::Discover,
        Phase::Quoting => CreateStage::Quote,
        Phase::Accepting | Phase::Confirming => CreateStage::Lease,
        Phase::Leased | Phase::Releasing | Phase::Failed => match rental.status.as_ref().map(|status| status.vm) {
            Some(VmPhase::Waiting | VmPhase::Provisioning(_)) | None => CreateStage::Provision,
            Some(_) => CreateStage::Boot,
        },
    }
}

fn told(stage: CreateStage, view: &VmView) -> String {
    let provider = view.provider.map(|peer| peer.short()).unwrap_or_default();
    match stage {
        CreateStage::Discover => "looking for providers".into(),
        CreateStage::Quote => "asking for quotes".into(),
        CreateStage::Lease => format!("signing a lease with {provider}"),
        CreateStage::Provision => format!("{provider} makes the VM"),
        CreateStage::Boot => "the guest boots".into(),
    }
}

fn warnings(view: &VmView) -> Vec<String> {
    let mut warnings = Vec::new();
    if view.egress == Egress::None {
        warnings.push("this VM has no egress: it reaches nothing outside, you reach it".to_owned());
    }
    match view.isolation {
        Some(Isolation::Emulated) => {
            warnings.push("this VM is emulated: slow, and QEMU promises no isolation from its host".to_owned());
        }
        Some(Isolation::Simulated) => warnings.push("this VM is simulated: there is no guest".to_owned()),
        _ => {}
    }
    warnings
}

/// Whoever asked may have gone; then nobody needs the answer.
pub(super) fn reply<T>(answer: Answer<T>, result: Result<T, Fault>) {
    let _ = answer.send(result);
}
