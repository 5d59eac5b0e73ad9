//! Making it so: what is too much goes, what is missing is made, a few at once, each elsewhere if it is refused.
use super::place::Offers;
use super::plan::{Action, Change, Plan};
use super::wanted::{Project, Wanted};
use crate::commands::vm::keys;
use crate::context::Context;
use futures::{StreamExt, stream};
use node::api::client::Client;
use node::api::types::{CreateEvent, CreateVm, VmStatus, VmView};
use node::config::Home;
use protocol::names::{ProjectName, VmName};
use protocol::{ErrorCode, Fault};
use serde::Serialize;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// One provider gets no more than half of the time that is left, so that another can be asked; but so much.
const LEAST_TRY: Duration = Duration::from_secs(30);
/// Until one that is destroyed is gone. Where its provider is out of reach its release is tried on, and the name is free.
const GONE: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Applied {
    pub project: ProjectName,
    pub created: Vec<VmView>,
    pub removed: Vec<VmName>,
    pub kept: usize,
    pub failed: Vec<Failed>,
}

#[derive(Debug, Serialize)]
pub struct Failed {
    pub name: VmName,
    pub error: Fault,
}

pub struct Work<'a> {
    pub context: &'a Context,
    pub node: &'a Client,
    pub home: &'a Home,
    pub parallel: usize,
    pub timeout: Duration,
}

impl Work<'_> {
    pub async fn apply(&self, project: &Project, plan: &Plan, offers: Offers) -> Result<Applied, Fault> {
        for wanted in &project.wanted {
            self.key_of(wanted)?;
        }
        let mut applied = self.remove(plan).await;
        applied.kept = plan.count(Action::Keep);
        let offers = RefCell::new(offers);
        let stuck: Vec<&VmName> = applied.failed.iter().map(|failed| &failed.name).collect();
        let missing = plan.changes.iter().filter(|change| matches!(change.action, Action::Create | Action::Replace));
        let missing: Vec<&Change> = missing.filter(|change| !stuck.contains(&&change.name)).collect();
        let make = |change: &'_ Change| {
            let (change, offers) = (change.clone(), &offers);
            async move {
                let wanted = &project.wanted[change.wanted.unwrap_or_default()];
                let made = self.make(wanted, &change, offers).await;
                (change.name, made)
            }
        };
        let made: Vec<_> = stream::iter(missing).map(make).buffer_unordered(self.parallel).collect().await;
        for (name, made) in made {
            match made {
                Ok(vm) => applied.created.push(vm),
                Err(error) => applied.failed.push(Failed { name, error }),
            }
        }
        self.provision(project, &mut applied).await?;
        applied.created.sort_by(|a, b| a.name.cmp(&b.name));
        applied.failed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(applied)
    }

    /// What a plan has for removal, or to make way.
    pub async fn remove(&self, plan: &Plan) -> Applied {
        let going = plan.changes.iter().filter(|change| matches!(change.action, Action::Remove | Action::Replace));
        let going = going.filter_map(|change| Some((change.clone(), change.id.clone()?)));
        let destroy = |(change, id): (Change, String)| async move {
            let destroyed = self.destroy(&id).await;
            if destroyed.is_ok() {
                self.context.say(format!("{} is destroyed", change.name));
            }
            (change, destroyed)
        };
        let gone: Vec<_> = stream::iter(going).map(destroy).buffer_unordered(self.parallel).collect().await;
        let (created, project) = (Vec::new(), plan.project.clone());
        let mut applied = Applied { project, created, removed: Vec::new(), kept: 0, failed: Vec::new() };
        for (change, destroyed) in gone {
            match destroyed {
                Ok(()) if change.action == Action::Remove => applied.removed.push(change.name),
                Ok(()) => {}
                Err(error) => applied.failed.push(Failed { name: change.name, error }),
            }
        }
        applied.removed.sort();
        applied
    }

    async fn destroy(&self, id: &str) -> Result<(), Fault> {
        let gone = |fault: &Fault| fault.code == ErrorCode::NoSuchVm;
        match self.node.destroy(id).await {
            Ok(vm) if vm.status == VmStatus::Destroyed => return Ok(()),
            Err(fault) if gone(&fault) => return Ok(()),
            Err(fault) => return Err(fault),
            Ok(_) => {}
        }
        match self.node.wait(id, VmStatus::Destroyed, GONE).await {
            Err(fault) if !gone(&fault) => Err(fault),
            _ => Ok(()),
        }
    }

    fn key_of(&self, wanted: &Wanted) -> Result<Option<node::api::types::TenantKey>, Fault> {
        wanted.ssh_key.as_ref().map(|key| keys::tenant_key(self.home, key)).transpose()
    }

    /// One VM, at whoever gives it.
    async fn make(&self, wanted: &Wanted, change: &Change, offers: &RefCell<Offers>) -> Result<VmView, Fault> {
        let (name, until) = (&change.name, Instant::now() + self.timeout);
        let mut last = Fault::new(ErrorCode::Unavailable, format!("nobody offers what '{name}' takes"))
            .hint("'golemnode plan' shows what it takes, 'golemnode provider list' what there is");
        let mut planned = change.provider;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Somebody else of this entry may have been refused there since.
            let next = match planned.take().filter(|peer| !offers.borrow().has_refused(wanted, *peer)) {
                Some(peer) => Some(peer),
                None => offers.borrow_mut().place(wanted).map(|view| view.peer_id),
            };
            let Some(peer) = next.filter(|_| !left.is_zero()) else { return Err(last) };
            let timeout_s = (left / 2).max(LEAST_TRY).min(left).as_secs().max(1);
            let ssh_key = self.key_of(wanted)?;
            let request = CreateVm { provider: Some(peer), ssh_key, timeout_s, ..wanted.create.clone() };
            self.context.say(format!("{name}: asking {}", peer.short()));
            last = match self.create(&request).await {
                Ok(vm) => {
                    let seconds = crate::output::seconds(vm.timings_ms.total);
                    self.context.say(format!(
                        "{name} is {} at {} after {seconds}",
                        crate::commands::vm::word(vm.status),
                        peer.short()
                    ));
                    return Ok(vm);
                }
                // The file's fault, or somebody has taken the name since: nobody else would do better.
                Err(fault) if matches!(fault.code, ErrorCode::InvalidRequest | ErrorCode::VmExists) => {
                    return Err(fault);
                }
                Err(fault) => fault,
            };
            self.context.say(format!("{name}: not at {}: {}", peer.short(), last.message));
            offers.borrow_mut().refuse(wanted, peer);
            self.make_way(&request).await?;
        }
    }

    /// Removes what is left of a try. What has its name by now and is not of the project is not ours to remove.
    async fn make_way(&self, request: &CreateVm) -> Result<(), Fault> {
        match self.node.vm(request.name.as_str()).await {
            Ok(vm) if vm.project == request.project => self.destroy(&vm.id).await,
            Ok(_) => Ok(()),
            Err(fault) if fault.code == ErrorCode::NoSuchVm => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    async fn create(&self, request: &CreateVm) -> Result<VmView, Fault> {
        let mut events = self.node.create(request).await?;
        while let Some(event) = events.next().await? {
            match event {
                CreateEvent::Done { vm } => return Ok(*vm),
                CreateEvent::Failed { error } => return Err(error),
                CreateEvent::Notice { message } => self.context.say(format!("{}: {message}", request.name)),
                CreateEvent::Stage { .. } => {}
            }
        }
        Err(Fault::new(ErrorCode::Unavailable, "the node ended before the VM was there")
            .hint("the same apply again goes on where this one ended"))
    }

    /// Runs scripts where they have not been run to their end. Their output is kept beside the node's state.
    async fn provision(&self, project: &Project, applied: &mut Applied) -> Result<(), Fault> {
        if project.wanted.iter().all(|wanted| wanted.script.is_none()) {
            return Ok(());
        }
        let folder = self.home.root().join("projects").join(project.name.as_str());
        std::fs::create_dir_all(&folder)
            .map_err(|error| Fault::internal(format!("cannot make {}: {error}", folder.display())))?;
        let vms = self.node.vms().await?;
        let of_this =
            |name: &VmName| vms.iter().find(|vm| vm.name == *name && vm.project.as_ref() == Some(&project.name));
        let due = project.wanted.iter().filter_map(|wanted| {
            let (script, vm) = (wanted.script.as_deref()?, of_this(&wanted.create.name)?);
            let done = folder.join(format!("{}-{}.log", vm.name, &vm.id));
            (vm.status == VmStatus::Running && !done.exists()).then_some((vm, script, done))
        });
        let run = |(vm, script, done): (&VmView, &Path, PathBuf)| {
            let name = vm.name.clone();
            let script = script.to_owned();
            async move { (name.clone(), self.run_script(&name, &script, &done).await) }
        };
        let ran: Vec<_> = stream::iter(due).map(run).buffer_unordered(self.parallel).collect().await;
        let failed = ran.into_iter().filter_map(|(name, ran)| Some(Failed { name, error: ran.err()? }));
        applied.failed.extend(failed);
        Ok(())
    }

    async fn run_script(&self, name: &VmName, script: &Path, done: &Path) -> Result<(), Fault> {
        let part = done.with_extension("part");
        let io = |what: &Path, error: std::io::Error| Fault::internal(format!("{}: {error}", what.display()));
        let input = std::fs::File::open(script).map_err(|error| io(script, error))?;
        let output = std::fs::File::create(&part).map_err(|error| io(&part, error))?;
        let errors = output.try_clone().map_err(|error| io(&part, error))?;
        let exe =
            std::env::current_exe().map_err(|error| Fault::internal(format!("no way to this program: {error}")))?;
        self.context.say(format!("{name}: running {}", script.display()));
        let mut command = Command::new(exe);
        command.arg("--home").arg(self.home.root()).args(["--quiet", "vm", "exec", name.as_str(), "--", "sh", "-s"]);
        command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(errors)).kill_on_drop(true);
        let status =
            command.status().await.map_err(|error| Fault::internal(format!("cannot run the script: {error}")))?;
        if !status.success() {
            let message = format!("the script {} ended with {status} on '{name}'", script.display());
            return Err(Fault::new(ErrorCode::CreateFailed, message)
                .hint(format!("its output is in {}; the same apply runs it again", part.display())));
        }
        std::fs::rename(&part, done).map_err(|error| io(done, error))
    }
}
