//! `golemnode plan|apply|delete -f FILE` and `schema`: what a file says is to be there, made so.
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::project::apply::{Applied, Work};
use crate::project::file::ProjectFile;
use crate::project::place::Offers;
use crate::project::plan::{self, Action, Plan};
use crate::project::wanted::{self, Project};
use clap::Args;
use node::api::client::Client;
use node::api::types::ProviderQuery;
use node::config::Settings;
use protocol::Fault;
use protocol::names::IsolationWanted;
use protocol::units::Millis;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Args)]
pub struct FileArgs {
    /// The project file: YAML or JSON ('golemnode schema' describes it)
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    file: FileArgs,
    /// So many at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    parallel: u8,
    /// Give a VM up that is not there after so long
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    timeout: Millis,
}

pub fn plan(context: &Context, args: &FileArgs) -> Outcome {
    let project = load(context, args)?;
    let node = context.node()?;
    let (plan, _) = context.block_on(look(&node, &project))?;
    context.show(&plan, || plan.text())
}

pub fn apply(context: &Context, args: &ApplyArgs) -> Outcome {
    let project = load(context, &args.file)?;
    let node = context.node()?;
    let (plan, offers) = context.block_on(look(&node, &project))?;
    plan.check()?;
    if !context.is_json() {
        context.say(plan.text().trim_end());
    }
    let removed = plan.count(Action::Remove);
    if removed > 0 && !context.confirm_for_good(&format!("destroy {removed} of them with their disks?"))? {
        return crate::context::left_alone(context);
    }
    let home = context.home()?;
    let work =
        Work { context, node: &node, home: &home, parallel: args.parallel.into(), timeout: args.timeout.as_std() };
    let applied = context.block_on(work.apply(&project, &plan, offers));
    if let Err(Failure::Interrupted) = applied {
        context.say("interrupted: what runs stays; the same apply again goes on from here");
    }
    report(context, &applied?)
}

pub fn delete(context: &Context, args: &FileArgs) -> Outcome {
    let project = load(context, args)?;
    let node = context.node()?;
    let vms = context.block_on(async { node.vms().await })?;
    let changes: Vec<_> =
        plan::of(&project.name, &vms).map(|vm| plan::removal(vm, "its project is taken down")).collect();
    let plan = Plan { project: project.name.clone(), changes, cost: BTreeMap::new(), problems: Vec::new() };
    if !plan.changes.is_empty() {
        if !context.is_json() {
            context.say(plan.text().trim_end());
        }
        let question = format!("destroy {} VMs with their disks?", plan.changes.len());
        if !context.confirm_for_good(&question)? {
            return crate::context::left_alone(context);
        }
    }
    let home = context.home()?;
    let work = Work { context, node: &node, home: &home, parallel: 8, timeout: Default::default() };
    let removed = context.block_on(async { Ok(work.remove(&plan).await) })?;
    report(context, &removed)
}

/// What editors check such files with. It is JSON, whatever form is asked for.
pub fn schema() -> Outcome {
    let schema = schemars::schema_for!(ProjectFile);
    let text = serde_json::to_string_pretty(&schema);
    let text = text.map_err(|error| Fault::internal(format!("the schema cannot be printed: {error}")))?;
    crate::output::print(&(text + "\n"))?;
    Ok(0)
}

fn load(context: &Context, args: &FileArgs) -> Result<Project, Fault> {
    wanted::load(&args.file, &Settings::load(&context.home()?)?.default_image)
}

async fn look(node: &Client, project: &Project) -> Result<(Plan, Offers), Fault> {
    let query = ProviderQuery { isolation: Some(IsolationWanted::Any), ..ProviderQuery::default() };
    let (vms, board) = (node.vms().await?, node.providers(&query).await?);
    let mut offers = Offers::new(board);
    let plan = plan::plan(project, &vms, &mut offers)?;
    Ok((plan, offers))
}

fn report(context: &Context, applied: &Applied) -> Outcome {
    let code = context.show(applied, || {
        let mut parts = Vec::new();
        let mut say = |count: usize, word: &str| (count > 0).then(|| parts.push(format!("{count} {word}")));
        say(applied.created.len(), "created");
        say(applied.removed.len(), "destroyed");
        say(applied.kept, "as they were");
        say(applied.failed.len(), "failed");
        let said = if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") };
        format!("{}: {said}\n", applied.project)
    })?;
    let Some(first) = applied.failed.first() else { return Ok(code) };
    let others = applied.failed.iter().skip(1).map(|failed| format!("{}: {}", failed.name, failed.error.message));
    let others: Vec<String> = others.collect();
    let fault = Fault { message: format!("{}: {}", first.name, first.error.message), ..first.error.clone() };
    Err(Failure::Fault(if others.is_empty() { fault } else { fault.details(others.join("\n")) }))
}
