//! The way into a running node: what the local API calls. Each call is a message to the node's actor and its answer.
use crate::api::types::*;
use crate::mesh::BoxedStream;
use protocol::names::VmName;
use protocol::quota::Tier;
use protocol::revocation::RevocationDocument;
use protocol::{ErrorCode, Fault, PeerId};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

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
    Quotas(Option<PeerId>, Answer<Vec<QuotaView>>),
    SetQuota(PeerId, Option<Tier>, Answer<QuotaView>),
    /// What this node offers, and how busy its host is.
    OwnProvider(Answer<ProviderReport>),
    /// Nothing new is let from now on, or again.
    Drain(bool, Answer<ProviderReport>),
    RescanImages(Answer<()>),
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
}

impl NodeHandle {
    pub fn new(commands: mpsc::Sender<Command>) -> Self {
        NodeHandle { commands }
    }

    async fn ask<T>(&self, make: impl FnOnce(Answer<T>) -> Command) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        let stopped = || Fault::new(ErrorCode::Unavailable, "the node is stopping").hint("run the command again");
        self.commands.send(make(answer)).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
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
    pub async fn quotas(&self, peer: Option<PeerId>) -> Result<Vec<QuotaView>, Fault> {
        self.ask(|answer| Command::Quotas(peer, answer)).await
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
