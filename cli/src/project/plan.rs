//! What an apply would do: the file held against what is rented and against the board.
use super::place::Offers;
use super::wanted::{Project, Wanted};
use crate::output::table;
use node::api::types::{ProviderView, VmStatus, VmView};
use protocol::money::{Amount, Price, Sum};
use protocol::names::{Currency, ProjectName, VmName};
use protocol::units::Millis;
use protocol::{ErrorCode, Fault, PeerId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Create,
    /// What is left of one that failed or has run out goes first.
    Replace,
    Keep,
    /// Something is there that is not as the file has it.
    Differ,
    Remove,
}

/// What becomes of one VM.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    pub action: Action,
    pub name: VmName,
    /// Of what is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it is, or will be.
    pub provider: Option<PeerId>,
    pub price_per_hour: Option<Amount>,
    pub currency: Option<Currency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Which of those that are wanted.
    #[serde(skip)]
    pub wanted: Option<usize>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub project: ProjectName,
    pub changes: Vec<Change>,
    /// What is new, for the time it is rented, by currency.
    pub cost: BTreeMap<Currency, Sum>,
    /// Why an apply would be refused.
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    pub code: ErrorCode,
    pub message: String,
}

/// A failure is kept for its user to read, and gives its name up.
fn is_in_the_way(vm: &VmView) -> bool {
    vm.status != VmStatus::Destroyed && (vm.status != VmStatus::Failed || vm.lease.is_some())
}

/// Gone, or on its way.
fn is_gone(status: VmStatus) -> bool {
    matches!(status, VmStatus::Destroyed | VmStatus::Destroying)
}

pub fn plan(project: &Project, vms: &[VmView], offers: &mut Offers) -> Result<Plan, Fault> {
    let there: BTreeMap<&VmName, &VmView> = vms.iter().map(|vm| (&vm.name, vm)).collect();
    let mut changes = Vec::new();
    for (at, wanted) in project.wanted.iter().enumerate() {
        let change = match there.get(&wanted.create.name) {
            Some(vm) if vm.project.as_ref() != Some(&project.name) && is_in_the_way(vm) => {
                return Err(foreign(&project.name, vm));
            }
            vm => standing(at, wanted, vm.copied()),
        };
        if let (Action::Keep | Action::Differ, Some(peer)) = (change.action, change.provider) {
            offers.count(wanted.entry, peer);
        }
        changes.push(change);
    }
    let mut plan = Plan { project: project.name.clone(), changes, cost: BTreeMap::new(), problems: Vec::new() };
    for change in &mut plan.changes {
        let Some(wanted) = change.wanted.map(|at| &project.wanted[at]) else { continue };
        if !matches!(change.action, Action::Create | Action::Replace) {
            continue;
        }
        match offers.place(wanted) {
            Some(view) => {
                charge(&mut plan.cost, wanted, &view);
                change.provider = Some(view.peer_id);
                change.price_per_hour = Some(view.price_per_hour);
                change.currency = Some(view.currency);
            }
            None => change.why = Some("nobody offers that now".to_owned()),
        }
    }
    let names: BTreeSet<&VmName> = project.wanted.iter().map(|wanted| &wanted.create.name).collect();
    let surplus = of(&project.name, vms).filter(|vm| !names.contains(&vm.name));
    plan.changes.extend(surplus.map(|vm| removal(vm, "it is not in the file any more")));
    let cannot: BTreeSet<&String> = project.wanted.iter().flat_map(|wanted| &wanted.cannot).collect();
    let cannot = cannot.into_iter().map(|why| Problem { code: ErrorCode::BackendCannot, message: why.clone() });
    plan.problems.extend(cannot);
    let differ = plan.changes.iter().filter(|change| change.action == Action::Differ);
    let differ = differ.filter_map(|change| {
        let message = format!("'{}' is there with {}", change.name, change.why.as_ref()?);
        Some(Problem { code: ErrorCode::WrongState, message })
    });
    plan.problems.extend(differ);
    Ok(plan)
}

/// Those of a project that are there.
pub fn of<'a>(project: &'a ProjectName, vms: &'a [VmView]) -> impl Iterator<Item = &'a VmView> {
    vms.iter().filter(move |vm| vm.project.as_ref() == Some(project) && !is_gone(vm.status))
}

pub fn removal(vm: &VmView, why: &str) -> Change {
    Change { action: Action::Remove, why: Some(why.to_owned()), wanted: None, ..there_is(vm) }
}

fn foreign(project: &ProjectName, vm: &VmView) -> Fault {
    let of = vm.project.as_ref().map_or("no project".to_owned(), |project| format!("project {project}"));
    Fault::new(ErrorCode::VmExists, format!("there is a VM '{}' already, of {of}, not of {project}", vm.name))
        .hint(format!("give another name in the file, or make way: golemnode vm rename {} NEW", vm.name))
}

fn there_is(vm: &VmView) -> Change {
    Change {
        action: Action::Keep,
        name: vm.name.clone(),
        id: Some(vm.id.clone()),
        provider: vm.provider,
        price_per_hour: vm.lease.as_ref().map(|lease| lease.price_per_hour),
        currency: vm.lease.as_ref().map(|lease| lease.currency.clone()),
        why: None,
        wanted: None,
    }
}

fn standing(at: usize, wanted: &Wanted, vm: Option<&VmView>) -> Change {
    let wanted_at = Some(at);
    let Some(vm) = vm.filter(|vm| vm.status != VmStatus::Destroyed) else {
        let name = wanted.create.name.clone();
        let (id, why) = (None, None);
        return Change {
            action: Action::Create,
            name,
            id,
            why,
            provider: None,
            price_per_hour: None,
            currency: None,
            wanted: wanted_at,
        };
    };
    let replace = match vm.status {
        VmStatus::Failed => Some("it has failed"),
        VmStatus::Expired => Some("its lease has run out"),
        VmStatus::Destroying => Some("it is being destroyed"),
        _ => None,
    };
    if let Some(why) = replace {
        return Change { action: Action::Replace, why: Some(why.to_owned()), wanted: wanted_at, ..there_is(vm) };
    }
    let differs = differences(wanted, vm);
    match differs.is_empty() {
        true => Change { wanted: wanted_at, ..there_is(vm) },
        false => Change { action: Action::Differ, why: Some(differs.join(", ")), wanted: wanted_at, ..there_is(vm) },
    }
}

fn differences(wanted: &Wanted, vm: &VmView) -> Vec<String> {
    let asked = wanted.create.resources;
    let pairs = [
        ("CPUs", vm.cpus.to_string(), asked.cpus.to_string()),
        ("memory", vm.memory_mib.to_string(), asked.memory_mib.to_string()),
        ("disk", vm.disk_gib.to_string(), asked.disk_gib.to_string()),
        ("image", vm.image.to_string(), wanted.create.image.to_string()),
    ];
    let differs = pairs.into_iter().filter(|(_, is, asked)| is != asked);
    differs.map(|(what, is, asked)| format!("{what} {is}, not {asked}")).collect()
}

fn charge(cost: &mut BTreeMap<Currency, Sum>, wanted: &Wanted, view: &ProviderView) {
    let price = Price { per_hour: view.price_per_hour, currency: view.currency.clone() };
    let whole = Sum::of(&price, Millis::secs(wanted.create.duration_s).as_secs());
    let all = cost.entry(view.currency.clone()).or_insert(Sum::ZERO);
    *all = all.plus(whole);
}

impl Plan {
    pub fn count(&self, action: Action) -> usize {
        self.changes.iter().filter(|change| change.action == action).count()
    }
    /// What stands in the way of an apply, if anything does.
    pub fn check(&self) -> Result<(), Fault> {
        let Some(first) = self.problems.first() else { return Ok(()) };
        let all: Vec<&str> = self.problems.iter().skip(1).map(|problem| problem.message.as_str()).collect();
        let fault = Fault::new(first.code, first.message.clone()).hint(match first.code {
            ErrorCode::WrongState => "destroy it first, or let the file say what is there",
            _ => "leave it out of the file; 'golemnode plan' shows everything else",
        });
        Err(if all.is_empty() { fault } else { fault.details(all.join("\n")) })
    }

    pub fn text(&self) -> String {
        let row = |change: &Change| {
            let sign = match change.action {
                Action::Create => "+ create",
                Action::Replace => "± replace",
                Action::Keep => "= keep",
                Action::Differ => "! differs",
                Action::Remove => "- remove",
            };
            let price = change.price_per_hour.zip(change.currency.as_ref());
            vec![
                sign.to_owned(),
                change.name.to_string(),
                change.provider.map_or("-".to_owned(), |peer| peer.short()),
                price.map_or("-".to_owned(), |(price, currency)| format!("{price} {currency}/h")),
                change.why.clone().unwrap_or_default(),
            ]
        };
        let rows: Vec<Vec<String>> = self.changes.iter().map(row).collect();
        let mut text =
            if rows.is_empty() { String::new() } else { table(&["", "NAME", "PROVIDER", "PRICE", ""], &rows) };
        let counts = [
            (Action::Create, "to create"),
            (Action::Replace, "to replace"),
            (Action::Remove, "to remove"),
            (Action::Keep, "to keep"),
            (Action::Differ, "that differ"),
        ];
        let counts =
            counts.into_iter().map(|(action, word)| (self.count(action), word)).filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts.map(|(count, word)| format!("{count} {word}")).collect();
        text.push_str(&format!("{}: {}\n", self.project, counts.join(", ")));
        for (currency, sum) in &self.cost {
            text.push_str(&format!("what is new costs {sum} {currency} for the whole time\n"));
        }
        for problem in &self.problems {
            text.push_str(&format!("cannot be applied: {}\n", problem.message));
        }
        text
    }
}
