//! The way into a running node: what the local API calls. Each call is a message to the node's actor and its answer.
use crate::api::billing::{CreditBody, CreditView, ReceiptView, RenewBody};
use crate::api::types::*;
use crate::mesh::BoxedStream;
use crate::store::backup::BackupView;
use crate::store::check::StoreReport;
use crate::store::restore::RestoreView;
use protocol::job::JobId;
use protocol::names::VmName;
use protocol::quota::Tier;
use protocol::revocation::RevocationDocument;
use protocol::{ErrorCode, Fault, PeerId};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Enough for every command a person or a script runs at once; beyond it callers wait their turn.
pub const COMMANDS: usize = 256;
/// Create events are few (stages and notices); a reader this far behind has gone away.
pub const CREATE_EVENTS: usize = 64;

pub type Answer<T> = oneshot::Sender<Result<T, Fault>>;

/// What the API asks of the actor.
pub enum Command {
    Status(Answer<NodeStatus>),
    Peers(Answer<Vec<PeerView>>),
    Providers(ProviderQuery, Answer<Vec<ProviderView>>),
    Provider(PeerId, Answer<ProviderView>),
    Create(Box<CreateVm>, mpsc::Sender<CreateEvent>),
    Vms(Answer<Vec<VmView>>),
    Vm(String, Answer<VmView>),
    Act(String, VmActionBody, Answer<VmView>),
    Wait {
        vm: String,
        status: VmStatus,
        answer: Answer<VmView>,
    },
    Leases(Answer<Vec<LeaseView>>),
    Lease(String, Answer<protocol::lease::LeaseDocument>),
    /// What the guest has written to its console, so many bytes of it at most.
    Log(String, u32, Answer<Vec<u8>>),
    Tunnel {
        vm: String,
        port: u16,
        answer: Answer<BoxedStream>,
    },
    Dial(Vec<String>, Answer<()>),
    Events {
        after: u64,
        limit: usize,
        answer: Answer<Vec<EventView>>,
    },
    Bans(Answer<Vec<BanView>>),
    LiftBan(PeerId, Answer<BanView>),
    /// Of one peer, or of all that have a tier or VMs.
    Receipts(Answer<Vec<ReceiptView>>),
    Receipt(String, Answer<protocol::receipt::ReceiptDocument>),
    Credits(Option<PeerId>, Answer<Vec<CreditView>>),
    GrantCredit(PeerId, CreditBody, Answer<Vec<CreditView>>),
    Renew(String, RenewBody, Answer<VmView>),
    Rename(String, VmName, Answer<VmView>),
    Quotas(Option<PeerId>, Answer<Vec<QuotaView>>),
    SetQuota(PeerId, Option<Tier>, Answer<QuotaView>),
    Jobs(Answer<Vec<JobView>>),
    Job(JobId, Answer<JobView>),
    CancelJob(JobId, Answer<JobView>),
    /// What this node offers, and how busy its host is.
    OwnProvider(Answer<ProviderReport>),
    /// Nothing new is let from now on, or again.
    Drain(bool, Answer<ProviderReport>),
    RescanImages(Answer<()>),
    CheckStore(Answer<StoreReport>),
    BackUpStore {
        file: PathBuf,
        overwrite: bool,
        answer: Answer<BackupView>,
    },
    /// The node stops afterwards: its next start takes up what was restored.
    RestoreStore(PathBuf, Answer<RestoreView>),
    /// Ends a key for good; it need not be this node's.
    Revoke(Box<RevocationDocument>, Answer<RevokedView>),
    /// Whether a create is under way or a release still has to get through.
    Unfinished(Answer<bool>),
    /// Withdraws the advert, journals what is under way, and stops.
    Stop(Answer<()>),
}

#[derive(Clone)]
pub struct NodeHandle {
    commands: mpsc::Sender<Command>,
    /// Why nothing is answered for now.
    waits: watch::Receiver<Option<Fault>>,
}

impl NodeHandle {
    pub fn new(commands: mpsc::Sender<Command>) -> Self {
        Self::of_one_that_waits(commands, watch::channel(None).1)
    }
    /// The same, of a node that says when it waits for something and answers nobody.
    pub fn of_one_that_waits(commands: mpsc::Sender<Command>, waits: watch::Receiver<Option<Fault>>) -> Self {
        NodeHandle { commands, waits }
    }

    async fn ask<T>(&self, make: impl FnOnce(Answer<T>) -> Command) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        let stopped = || Fault::new(ErrorCode::Unavailable, "the node is stopping").hint("run the command again");
        let asking = async {
            self.commands.send(make(answer)).await.map_err(|_| stopped())?;
            answered.await.map_err(|_| stopped())?
        };
        let mut waits = self.waits.clone();
        tokio::select! {
            biased;
            answer = asking => answer,
            Ok(fault) = waits.wait_for(Option::is_some) => Err(fault.clone().unwrap_or_else(stopped)),
        }
    }

    pub async fn status(&self) -> Result<NodeStatus, Fault> {
        self.ask(Command::Status).await
    }
    pub async fn peers(&self) -> Result<Vec<PeerView>, Fault> {
        self.ask(Command::Peers).await
    }
    pub async fn providers(&self, query: ProviderQuery) -> Result<Vec<ProviderView>, Fault> {
        self.ask(|answer| Command::Providers(query, answer)).await
    }
    pub async fn provider(&self, peer: PeerId) -> Result<ProviderView, Fault> {
        self.ask(|answer| Command::Provider(peer, answer)).await
    }
    /// The events end with `Done` or `Failed`. Dropping the receiver before the lease is confirmed takes the request
    /// back; afterwards the VM is there to stay.
    pub async fn create(&self, request: CreateVm) -> Result<mpsc::Receiver<CreateEvent>, Fault> {
        let (events, received) = mpsc::channel(CREATE_EVENTS);
        let sent = self.commands.send(Command::Create(Box::new(request), events)).await;
        sent.map_err(|_| Fault::new(ErrorCode::Unavailable, "the node is stopping").hint("run the command again"))?;
        Ok(received)
    }
    pub async fn vms(&self) -> Result<Vec<VmView>, Fault> {
        self.ask(Command::Vms).await
    }
    /// By name or by id.
    pub async fn vm(&self, vm: &str) -> Result<VmView, Fault> {
        self.ask(|answer| Command::Vm(vm.to_owned(), answer)).await
    }
    pub async fn act(&self, vm: &str, action: VmActionBody) -> Result<VmView, Fault> {
        self.ask(|answer| Command::Act(vm.to_owned(), action, answer)).await
    }
    /// Answers when the VM has that status, or with NET_001.
    pub async fn wait(&self, vm: &str, status: VmStatus, timeout: Duration) -> Result<VmView, Fault> {
        let waiting = self.ask(|answer| Command::Wait { vm: vm.to_owned(), status, answer });
        let late = |_| {
            Fault::new(
                ErrorCode::Timeout,
                format!("'{vm}' did not become {status:?} within {timeout:?}").to_lowercase(),
            )
            .hint(format!("'golemnode vm info {vm}' shows what it does"))
        };
        tokio::time::timeout(timeout, waiting).await.map_err(late)?
    }
    pub async fn leases(&self) -> Result<Vec<LeaseView>, Fault> {
        self.ask(Command::Leases).await
    }
    /// By lease id, VM name or VM id.
    pub async fn lease(&self, lease: &str) -> Result<protocol::lease::LeaseDocument, Fault> {
        self.ask(|answer| Command::Lease(lease.to_owned(), answer)).await
    }
    /// A byte stream to a TCP port of the guest, over the mesh.
    pub async fn tunnel(&self, vm: &str, port: u16) -> Result<BoxedStream, Fault> {
        self.ask(|answer| Command::Tunnel { vm: vm.to_owned(), port, answer }).await
    }
    /// The last of what the guest has written to its console.
    pub async fn log(&self, vm: &str, most: u32) -> Result<Vec<u8>, Fault> {
        self.ask(|answer| Command::Log(vm.to_owned(), most, answer)).await
    }
    /// Joins through these addresses too (a one-shot command's `--bootstrap` when a node runs already).
    pub async fn dial(&self, addrs: Vec<String>) -> Result<(), Fault> {
        self.ask(|answer| Command::Dial(addrs, answer)).await
    }
    pub async fn events(&self, after: u64, limit: usize) -> Result<Vec<EventView>, Fault> {
        self.ask(|answer| Command::Events { after, limit, answer }).await
    }
    /// The bans in force, the latest first.
    pub async fn bans(&self) -> Result<Vec<BanView>, Fault> {
        self.ask(Command::Bans).await
    }
    pub async fn lift_ban(&self, peer: PeerId) -> Result<BanView, Fault> {
        self.ask(|answer| Command::LiftBan(peer, answer)).await
    }
    /// The latest of each lease.
    pub async fn receipts(&self) -> Result<Vec<ReceiptView>, Fault> {
        self.ask(Command::Receipts).await
    }
    /// By lease id, VM name or VM id.
    pub async fn receipt(&self, lease: &str) -> Result<protocol::receipt::ReceiptDocument, Fault> {
        self.ask(|answer| Command::Receipt(lease.to_owned(), answer)).await
    }
    pub async fn credits(&self, peer: Option<PeerId>) -> Result<Vec<CreditView>, Fault> {
        self.ask(|answer| Command::Credits(peer, answer)).await
    }
    pub async fn grant_credit(&self, peer: PeerId, body: CreditBody) -> Result<Vec<CreditView>, Fault> {
        self.ask(|answer| Command::GrantCredit(peer, body, answer)).await
    }
    pub async fn rename(&self, vm: &str, name: VmName) -> Result<VmView, Fault> {
        self.ask(|answer| Command::Rename(vm.to_owned(), name, answer)).await
    }
    pub async fn renew(&self, vm: &str, body: RenewBody) -> Result<VmView, Fault> {
        self.ask(|answer| Command::Renew(vm.to_owned(), body, answer)).await
    }
    pub async fn quotas(&self, peer: Option<PeerId>) -> Result<Vec<QuotaView>, Fault> {
        self.ask(|answer| Command::Quotas(peer, answer)).await
    }
    pub async fn jobs(&self) -> Result<Vec<JobView>, Fault> {
        self.ask(Command::Jobs).await
    }
    pub async fn job(&self, id: JobId) -> Result<JobView, Fault> {
        self.ask(|answer| Command::Job(id, answer)).await
    }
    pub async fn cancel_job(&self, id: JobId) -> Result<JobView, Fault> {
        self.ask(|answer| Command::CancelJob(id, answer)).await
    }
    pub async fn set_quota(&self, peer: PeerId, tier: Option<Tier>) -> Result<QuotaView, Fault> {
        self.ask(|answer| Command::SetQuota(peer, tier, answer)).await
    }
    pub async fn own_provider(&self) -> Result<ProviderReport, Fault> {
        self.ask(Command::OwnProvider).await
    }
    pub async fn drain(&self, draining: bool) -> Result<ProviderReport, Fault> {
        self.ask(|answer| Command::Drain(draining, answer)).await
    }
    pub async fn rescan_images(&self) -> Result<(), Fault> {
        self.ask(Command::RescanImages).await
    }
    pub async fn check_store(&self) -> Result<StoreReport, Fault> {
        self.ask(Command::CheckStore).await
    }
    pub async fn back_up_store(&self, file: PathBuf, overwrite: bool) -> Result<BackupView, Fault> {
        self.ask(|answer| Command::BackUpStore { file, overwrite, answer }).await
    }
    pub async fn restore_store(&self, file: PathBuf) -> Result<RestoreView, Fault> {
        self.ask(|answer| Command::RestoreStore(file, answer)).await
    }
    pub async fn revoke(&self, document: RevocationDocument) -> Result<RevokedView, Fault> {
        self.ask(|answer| Command::Revoke(Box::new(document), answer)).await
    }
    pub async fn has_unfinished(&self) -> Result<bool, Fault> {
        self.ask(Command::Unfinished).await
    }
    pub async fn stop(&self) -> Result<(), Fault> {
        self.ask(Command::Stop).await
    }
}

/// Names are for people, ids for scripts: both find a VM.
pub fn names_vm(key: &str, name: &VmName, id: &str) -> bool {
    key == name.as_str() || key == id
}
