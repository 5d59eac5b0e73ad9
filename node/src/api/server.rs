//! The routes. Each is a call of the node's handle, and an answer in JSON.
use super::billing::{CreditBody, CreditView, ReceiptView, RenewBody};
pub use super::extract::error_body;
use super::extract::{Asked, Body, Failure, Named};
use super::idle::{Busy, IdleWatch};
use super::types::*;
use crate::config::{Home, NodeLock, io};
use crate::handle::NodeHandle;
use crate::store::backup::BackupView;
use crate::store::check::StoreReport;
use crate::store::restore::RestoreView;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures::stream;
use hyper_util::rt::TokioIo;
use protocol::job::JobId;
use protocol::lease::LeaseDocument;
use protocol::receipt::ReceiptDocument;
use protocol::revocation::RevocationDocument;
use protocol::seed::MAX_SEED;
use protocol::text::plain;
use protocol::tunnel::MAX_LOG;
use protocol::{ErrorCode, Fault};
use serde::Deserialize;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What an upgraded connection speaks: the guest's bytes.
pub const TUNNEL_PROTOCOL: &str = "golemnode-tunnel";
/// A create with its seed and the JSON around it.
const MAX_BODY: usize = 4 * MAX_SEED;
/// An action ends in seconds; a stop waits for a guest that shuts down in its own time.
const ACTION_DEADLINE: Duration = Duration::from_secs(180);
/// What a wait waits for when it does not say, and at most.
const WAIT: u64 = 300;
const LONGEST_WAIT: u64 = 24 * 3600;
/// A page of events.
const EVENTS: usize = 1000;
/// One copy buffer each way of a tunnel.
const BUFFER: usize = 128 * 1024;

/// The socket, readable by its owner only. One that is there is of a node that has died: we hold the lock.
pub fn bind(_lock: &NodeLock, home: &Home) -> Result<UnixListener, Fault> {
    let path = home.socket();
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io("replace", &path, &error)),
    }
    // Made under another name and moved into place when it is private, so that nobody connects before it is.
    let fresh = path.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(|error| io("listen on", &path, &error))?;
    let private = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600));
    private.and_then(|()| std::fs::rename(&fresh, &path)).map_err(|error| io("listen on", &path, &error))?;
    Ok(listener)
}

#[derive(Clone)]
struct Api {
    node: NodeHandle,
    idle: IdleWatch,
}

/// Serves until it is told to stop.
pub async fn serve(listener: UnixListener, node: NodeHandle, idle: IdleWatch, stop: CancellationToken) {
    let router = router(node, idle);
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the local API has ended");
    }
}

pub(crate) fn router(node: NodeHandle, idle: IdleWatch) -> Router {
    let api = Api { node, idle };
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/api/v1/node", get(status))
        .route("/api/v1/node/peers", get(peers))
        .route("/api/v1/node/stop", post(stop))
        .route("/api/v1/node/dial", post(dial))
        .route("/api/v1/providers", get(providers))
        .route("/api/v1/providers/{peer}", get(provider))
        .route("/api/v1/vms/{vm}/renew", post(renew))
        .route("/api/v1/vms/{vm}/rename", post(rename))
        .route("/api/v1/vms/{vm}/log", get(log))
        .route("/api/v1/receipts", get(receipts))
        .route("/api/v1/receipts/{lease}", get(receipt))
        .route("/api/v1/credits", get(credits))
        .route("/api/v1/credits/{peer}", get(credit).post(grant_credit))
        .route("/api/v1/quotas", get(quotas))
        .route("/api/v1/quotas/{peer}", get(quota).post(set_quota))
        .route("/api/v1/jobs", get(jobs))
        .route("/api/v1/jobs/{id}", get(job).delete(cancel_job))
        .route("/api/v1/provider", get(own_provider))
        .route("/api/v1/provider/action", post(drain))
        .route("/api/v1/vms", get(vms).post(create))
        .route("/api/v1/vms/{vm}", get(vm).delete(destroy))
        .route("/api/v1/vms/{vm}/action", post(act))
        .route("/api/v1/leases", get(leases))
        .route("/api/v1/leases/{lease}", get(lease))
        .route("/api/v1/events", get(events))
        .route("/api/v1/bans", get(bans))
        .route("/api/v1/bans/{peer}", delete(lift_ban))
        .route("/api/v1/images/rescan", post(rescan))
        .route("/api/v1/store/check", get(check_store))
        .route("/api/v1/store/backup", post(back_up_store))
        .route("/api/v1/store/restore", post(restore_store))
        .route("/api/v1/identity/revoke", post(revoke))
        .route("/api/v1/tunnels", post(tunnel))
        .fallback(|| async { Failure::from(Fault::new(ErrorCode::NoSuchResource, "no such route")) })
        .method_not_allowed_fallback(|method: Method| async move {
            let fault = Fault::invalid(format!("this route takes no {method}"));
            Failure::with_status(StatusCode::METHOD_NOT_ALLOWED, fault)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(api.clone(), note_activity))
        .with_state(api)
}

async fn note_activity(State(api): State<Api>, request: Request, next: Next) -> Response {
    let _busy = api.idle.busy();
    next.run(request).await
}

type Answer<T> = Result<Json<T>, Failure>;

async fn status(State(api): State<Api>) -> Answer<NodeStatus> {
    Ok(Json(api.node.status().await?))
}
async fn peers(State(api): State<Api>) -> Answer<Vec<PeerView>> {
    Ok(Json(api.node.peers().await?))
}
async fn stop(State(api): State<Api>) -> Answer<serde_json::Value> {
    api.node.stop().await?;
    Ok(Json(serde_json::json!({})))
}

async fn revoke(State(api): State<Api>, Body(document): Body<RevocationDocument>) -> Answer<RevokedView> {
    Ok(Json(api.node.revoke(document).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dial {
    addrs: Vec<String>,
}
async fn dial(State(api): State<Api>, Body(Dial { addrs }): Body<Dial>) -> Answer<serde_json::Value> {
    api.node.dial(addrs).await?;
    Ok(Json(serde_json::json!({})))
}
async fn providers(State(api): State<Api>, Asked(query): Asked<ProviderQuery>) -> Answer<Vec<ProviderView>> {
    Ok(Json(api.node.providers(query).await?))
}
async fn provider(State(api): State<Api>, Named(peer): Named) -> Answer<ProviderView> {
    Ok(Json(api.node.provider(peer.parse()?).await?))
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogAsked {
    bytes: Option<u32>,
}

async fn log(State(api): State<Api>, Named(vm): Named, Asked(asked): Asked<LogAsked>) -> Answer<LogView> {
    let said = api.node.log(&vm, asked.bytes.unwrap_or(MAX_LOG)).await?;
    Ok(Json(LogView { text: String::from_utf8_lossy(&said).into_owned() }))
}

async fn rename(State(api): State<Api>, Named(vm): Named, Body(body): Body<RenameBody>) -> Answer<VmView> {
    Ok(Json(api.node.rename(&vm, body.name).await?))
}

async fn renew(State(api): State<Api>, Named(vm): Named, Body(body): Body<RenewBody>) -> Answer<VmView> {
    Ok(Json(api.node.renew(&vm, body).await?))
}
async fn receipts(State(api): State<Api>) -> Answer<Vec<ReceiptView>> {
    Ok(Json(api.node.receipts().await?))
}
async fn receipt(State(api): State<Api>, Named(lease): Named) -> Answer<ReceiptDocument> {
    Ok(Json(api.node.receipt(&lease).await?))
}
async fn credits(State(api): State<Api>) -> Answer<Vec<CreditView>> {
    Ok(Json(api.node.credits(None).await?))
}
async fn credit(State(api): State<Api>, Named(peer): Named) -> Answer<Vec<CreditView>> {
    Ok(Json(api.node.credits(Some(peer.parse()?)).await?))
}
async fn grant_credit(
    State(api): State<Api>,
    Named(peer): Named,
    Body(body): Body<CreditBody>,
) -> Answer<Vec<CreditView>> {
    Ok(Json(api.node.grant_credit(peer.parse()?, body).await?))
}
async fn quotas(State(api): State<Api>) -> Answer<Vec<QuotaView>> {
    Ok(Json(api.node.quotas(None).await?))
}
async fn quota(State(api): State<Api>, Named(peer): Named) -> Answer<QuotaView> {
    Ok(Json(api.node.quotas(Some(peer.parse()?)).await?.remove(0)))
}
async fn set_quota(State(api): State<Api>, Named(peer): Named, Body(body): Body<QuotaBody>) -> Answer<QuotaView> {
    Ok(Json(api.node.set_quota(peer.parse()?, body.tier).await?))
}
async fn jobs(State(api): State<Api>) -> Answer<Vec<JobView>> {
    Ok(Json(api.node.jobs().await?))
}
async fn job(State(api): State<Api>, Named(id): Named) -> Answer<JobView> {
    Ok(Json(api.node.job(job_id(&id)?).await?))
}
async fn cancel_job(State(api): State<Api>, Named(id): Named) -> Answer<JobView> {
    Ok(Json(api.node.cancel_job(job_id(&id)?).await?))
}
fn job_id(text: &str) -> Result<JobId, Fault> {
    text.parse().map(JobId).map_err(|_| Fault::invalid(format!("'{}' is not a job's number", plain(text, 40))))
}
async fn own_provider(State(api): State<Api>) -> Answer<ProviderReport> {
    Ok(Json(api.node.own_provider().await?))
}
async fn drain(State(api): State<Api>, Body(body): Body<ProviderActionBody>) -> Answer<ProviderReport> {
    Ok(Json(api.node.drain(body.action == ProviderAction::Drain).await?))
}
async fn vms(State(api): State<Api>) -> Answer<Vec<VmView>> {
    Ok(Json(api.node.vms().await?))
}

/// A line of JSON for each event; a client that hangs up drops the stream, and with it the receiver.
async fn create(State(api): State<Api>, Body(request): Body<CreateVm>) -> Result<Response, Failure> {
    let events = api.node.create(request).await?;
    let lines = stream::unfold((events, api.idle.busy()), next_line);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], axum::body::Body::from_stream(lines)).into_response())
}

type Line = Result<String, serde_json::Error>;

async fn next_line(
    (mut events, busy): (mpsc::Receiver<CreateEvent>, Busy),
) -> Option<(Line, (mpsc::Receiver<CreateEvent>, Busy))> {
    let event = events.recv().await?;
    let line = serde_json::to_string(&event).map(|line| line + "\n");
    Some((line, (events, busy)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    wait_for: Option<VmStatus>,
    timeout_s: Option<u64>,
}
async fn vm(State(api): State<Api>, Named(vm): Named, Asked(wait): Asked<Wait>) -> Answer<VmView> {
    let view = match wait.wait_for {
        None => api.node.vm(&vm).await?,
        Some(status) => {
            let timeout = Duration::from_secs(wait.timeout_s.unwrap_or(WAIT).min(LONGEST_WAIT));
            api.node.wait(&vm, status, timeout).await?
        }
    };
    Ok(Json(view))
}
async fn destroy(State(api): State<Api>, Named(vm): Named) -> Answer<VmView> {
    perform(&api, &vm, VmActionName::Destroy.into()).await
}
async fn act(State(api): State<Api>, Named(vm): Named, Body(action): Body<VmActionBody>) -> Answer<VmView> {
    perform(&api, &vm, action).await
}
async fn perform(api: &Api, vm: &str, action: VmActionBody) -> Answer<VmView> {
    let late = |_| {
        Fault::new(ErrorCode::Timeout, format!("'{vm}' did not get there within {ACTION_DEADLINE:?}"))
            .hint(format!("it may still: 'golemnode vm info {vm}' shows it; 'vm stop --force' cuts the power"))
    };
    let view = tokio::time::timeout(ACTION_DEADLINE, api.node.act(vm, action)).await.map_err(late)??;
    Ok(Json(view))
}
async fn leases(State(api): State<Api>) -> Answer<Vec<LeaseView>> {
    Ok(Json(api.node.leases().await?))
}
async fn lease(State(api): State<Api>, Named(lease): Named) -> Answer<LeaseDocument> {
    Ok(Json(api.node.lease(&lease).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsAsked {
    after: Option<u64>,
    limit: Option<usize>,
}
async fn events(State(api): State<Api>, Asked(asked): Asked<EventsAsked>) -> Answer<Vec<EventView>> {
    Ok(Json(api.node.events(asked.after.unwrap_or(0), asked.limit.unwrap_or(EVENTS).min(EVENTS)).await?))
}
async fn bans(State(api): State<Api>) -> Answer<Vec<BanView>> {
    Ok(Json(api.node.bans().await?))
}
async fn lift_ban(State(api): State<Api>, Named(peer): Named) -> Answer<BanView> {
    Ok(Json(api.node.lift_ban(peer.parse()?).await?))
}
async fn rescan(State(api): State<Api>) -> Answer<serde_json::Value> {
    api.node.rescan_images().await?;
    Ok(Json(serde_json::json!({})))
}
async fn check_store(State(api): State<Api>) -> Answer<StoreReport> {
    Ok(Json(api.node.check_store().await?))
}
async fn back_up_store(State(api): State<Api>, Body(body): Body<StoreBackup>) -> Answer<BackupView> {
    Ok(Json(api.node.back_up_store(whole(body.file)?, body.overwrite).await?))
}
async fn restore_store(State(api): State<Api>, Body(body): Body<StoreRestore>) -> Answer<RestoreView> {
    Ok(Json(api.node.restore_store(whole(body.file)?).await?))
}
/// The node's own folder is not the one that its caller is in.
fn whole(file: PathBuf) -> Result<PathBuf, Fault> {
    if file.is_absolute() { Ok(file) } else { Err(Fault::invalid("the file is named by its whole path, from /")) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TunnelAsked {
    vm: String,
    port: u16,
}

/// Upgrades the connection once the guest's end is there, so that a refusal is still an ordinary answer.
async fn tunnel(
    State(api): State<Api>,
    Asked(asked): Asked<TunnelAsked>,
    request: Request,
) -> Result<Response, Failure> {
    let TunnelAsked { vm, port } = asked;
    let wanted = request.headers().get(header::UPGRADE).is_some_and(|to| to.as_bytes() == TUNNEL_PROTOCOL.as_bytes());
    if !wanted {
        return Err(Fault::invalid(format!("a tunnel needs 'Upgrade: {TUNNEL_PROTOCOL}'")).into());
    }
    let mut guest = api.node.tunnel(&vm, port).await?;
    let busy = api.idle.busy();
    tokio::spawn(async move {
        let Ok(client) = hyper::upgrade::on(request).await else { return };
        let mut client = TokioIo::new(client);
        // Either end may break off: that is how a session ends.
        let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut guest, BUFFER, BUFFER).await;
        drop(busy);
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, TUNNEL_PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}
