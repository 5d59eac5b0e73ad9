//! What a project file means: each VM that is to be there, with everything that can be wrong found before anybody is asked.
use super::file::{self, Instance, Machine, ProjectFile, Scalar};
use node::api::types::CreateVm;
use protocol::money::Amount;
use protocol::names::{Arch, BackendKind, Country, ImageName, IsolationWanted, ProjectName, VmName};
use protocol::units::{DiskGib, MemoryMib, Millis, Resources};
use protocol::{Fault, PeerId};
use serde_saphyr::{Location, Spanned};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Of one project: as many as a node rents.
pub const MAX_INSTANCES: u32 = 1024;
const DAY: Millis = Millis::secs(86_400);
/// What may stand for `provider` beside peers and conditions.
const BACKENDS: [&str; 6] = ["libvirt", "docker", "multipass", "virtfusion", "ovh", "memory"];

#[derive(Debug)]
pub struct Project {
    pub name: ProjectName,
    pub wanted: Vec<Wanted>,
}

/// One VM.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Without a key: that is looked up when it is made.
    pub create: CreateVm,
    pub ssh_key: Option<String>,
    pub spread: bool,
    /// To be run in it once it is there.
    pub script: Option<PathBuf>,
    /// What the file asks for and nobody on the mesh can give yet: each a line that says where.
    pub cannot: Vec<String>,
    /// Which entry of the file it is of.
    pub entry: usize,
}

/// Where what is read stands.
struct Reader<'a> {
    file: &'a str,
    /// Of the entry, such as `instances[0]`.
    of: String,
}

impl Reader<'_> {
    fn wrong(&self, at: &Location, field: &str, why: impl std::fmt::Display) -> Fault {
        let field = if self.of.is_empty() { field.to_owned() } else { format!("{}.{field}", self.of) };
        Fault::invalid(format!("{}: {field}: {why}", file::at(self.file, Some(at))))
    }
    fn get<T: FromStr<Err = Fault>>(&self, field: &str, scalar: &Spanned<Scalar>) -> Result<T, Fault> {
        scalar.value.text.parse().map_err(|fault: Fault| Fault {
            hint: fault.hint.clone(),
            ..self.wrong(&scalar.referenced, field, fault.message)
        })
    }
    fn maybe<T: FromStr<Err = Fault>>(
        &self,
        field: &str,
        scalar: Option<&Spanned<Scalar>>,
    ) -> Result<Option<T>, Fault> {
        scalar.map(|scalar| self.get(field, scalar)).transpose()
    }
    fn count(&self, field: &str, scalar: &Spanned<Scalar>, most: u64) -> Result<u64, Fault> {
        let number = scalar.value.text.parse().ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| {
            let why = format!("'{}' is not a whole number from 1 to {most}", scalar.value.text);
            self.wrong(&scalar.referenced, field, why)
        })
    }
    /// A bare number is of the unit that such files have always had.
    fn size<T: FromStr<Err = Fault>>(
        &self,
        field: &str,
        scalar: Option<&Spanned<Scalar>>,
        unit: &str,
    ) -> Result<Option<T>, Fault> {
        let with_unit = scalar.map(|scalar| {
            let mut scalar = scalar.clone();
            if scalar.value.text.chars().all(|c| c.is_ascii_digit()) {
                scalar.value.text.push_str(unit);
            }
            scalar
        });
        self.maybe(field, with_unit.as_ref())
    }
}

/// Of a file. What stands in it and is not given takes what `vm create` takes.
pub fn load(path: &Path, default_image: &ImageName) -> Result<Project, Fault> {
    let text = file::read(path)?;
    let shown = path.display().to_string();
    let parsed = file::parse(&shown, &text)?;
    resolve(&shown, path.parent().unwrap_or(Path::new(".")), &parsed, default_image)
}

pub fn resolve(shown: &str, beside: &Path, parsed: &ProjectFile, default_image: &ImageName) -> Result<Project, Fault> {
    let reader = Reader { file: shown, of: String::new() };
    let name: ProjectName = reader.get("project_name", &parsed.project_name)?;
    if parsed.instances.value.is_empty() {
        let why = "there has to be one at least";
        return Err(reader
            .wrong(&parsed.instances.referenced, "instances", why)
            .hint("'golemnode delete' takes a project down"));
    }
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut taken: BTreeMap<VmName, usize> = BTreeMap::new();
    for (entry, instance) in parsed.instances.value.iter().enumerate() {
        let reader = Reader { file: shown, of: format!("instances[{entry}]") };
        let (base, count, one) = reader.instance(entry, instance, &name, beside, default_image)?;
        if wanted.len() + count as usize > MAX_INSTANCES as usize {
            let at =
                instance.number_of_instances.as_ref().map_or(&instance.name.referenced, |number| &number.referenced);
            return Err(reader.wrong(at, "number_of_instances", format!("a project has at most {MAX_INSTANCES} VMs")));
        }
        for n in 1..=count {
            let vm = nth(&base, n).map_err(|fault| reader.wrong(&instance.name.referenced, "name", fault.message))?;
            if let Some(other) = taken.insert(vm.clone(), entry) {
                let why = format!("'{vm}' is of instances[{other}] already");
                return Err(reader
                    .wrong(&instance.name.referenced, "name", why)
                    .hint("each VM needs a name of its own"));
            }
            wanted.push(Wanted { create: CreateVm { name: vm, ..one.create.clone() }, ..one.clone() });
        }
    }
    Ok(Project { name, wanted })
}

/// The first has the name itself, so that one can become several and several one.
fn nth(base: &VmName, n: u32) -> Result<VmName, Fault> {
    if n == 1 { Ok(base.clone()) } else { format!("{base}-{n}").parse() }
}

impl Reader<'_> {
    fn instance(
        &self,
        entry: usize,
        instance: &Instance,
        project: &ProjectName,
        beside: &Path,
        default_image: &ImageName,
    ) -> Result<(VmName, u32, Wanted), Fault> {
        let name: VmName = self.get("name", &instance.name)?;
        let count = instance.number_of_instances.as_ref();
        let count = count.map(|number| self.count("number_of_instances", number, MAX_INSTANCES.into())).transpose()?;
        let count = count.unwrap_or(1) as u32;
        let duration: Millis = self.maybe("duration", instance.duration.as_ref())?.unwrap_or(DAY);
        let budget: Option<Amount> = self.maybe("budget", instance.budget.as_ref())?;
        // What an hour of each may cost for all of them to stay within it.
        let max_price = budget.map(|budget| budget.an_hour_of(Millis(duration.0.saturating_mul(count.into()))));
        let ssh_key = instance.ssh_key_name.as_ref().map(|key| key.value.text.clone());
        let create = CreateVm {
            name: name.clone(),
            resources: self.machine(instance)?,
            image: self.image(instance)?.unwrap_or_else(|| default_image.clone()),
            provider: None,
            country: None,
            arch: None,
            max_price,
            backend: self.maybe("backend", instance.backend.as_ref())?,
            isolation: IsolationWanted::Vm,
            duration_s: duration.as_secs(),
            or_less: instance.duration.is_none(),
            allow_smaller: false,
            ssh_key: None,
            user_data: instance.user_data.as_ref().map(|text| text.value.text.clone()),
            ports: Vec::new(),
            timeout_s: 0,
            wait: true,
            project: Some(project.clone()),
        };
        let create = self.provider(instance, create)?;
        let (spread, script) =
            (instance.spread.as_ref().is_some_and(|spread| spread.value), self.script(instance, beside)?);
        let cannot = self.cannot(instance)?;
        Ok((name, count, Wanted { create, ssh_key, spread, script, cannot, entry }))
    }

    fn machine(&self, instance: &Instance) -> Result<Resources, Fault> {
        let small = Resources::SMALL;
        let Some(Machine { cpu, memory, disk }) = &instance.resources else { return Ok(small) };
        let cpus = cpu.as_ref().map(|cpu| self.count("resources.cpu", cpu, Resources::MOST_CPUS.into())).transpose()?;
        let memory_mib: Option<MemoryMib> = self.size("resources.memory", memory.as_ref(), "M")?;
        let disk_gib: Option<DiskGib> = self.size("resources.disk", disk.as_ref(), "G")?;
        let asked = Resources {
            cpus: cpus.map_or(small.cpus, |cpus| cpus as u32),
            memory_mib: memory_mib.unwrap_or(small.memory_mib),
            disk_gib: disk_gib.unwrap_or(small.disk_gib),
        };
        let place = memory.as_ref().or(disk.as_ref()).or(cpu.as_ref()).unwrap_or(&instance.name);
        asked.check().map_err(|fault| Fault {
            hint: fault.hint.clone(),
            ..self.wrong(&place.referenced, "resources", fault.message)
        })
    }

    fn image(&self, instance: &Instance) -> Result<Option<ImageName>, Fault> {
        match (&instance.image, &instance.template) {
            (Some(_), Some(template)) => {
                let why = "image is given already, and means the same";
                Err(self.wrong(&template.referenced, "template", why).hint("leave one of them out"))
            }
            (Some(image), None) => self.get("image", image).map(Some),
            (None, Some(template)) => {
                let mut renamed = template.clone();
                renamed.value.text = of_template(&template.value.text);
                self.get("template", &renamed).map(Some)
            }
            (None, None) => Ok(None),
        }
    }

    /// auto, a peer, a backend, or conditions.
    fn provider(&self, instance: &Instance, create: CreateVm) -> Result<CreateVm, Fault> {
        let Some(provider) = &instance.provider else { return Ok(create) };
        let text = provider.value.text.trim();
        let wrong = |why: String| self.wrong(&provider.referenced, "provider", why);
        if text == "auto" {
            return Ok(create);
        }
        if BACKENDS.contains(&text) {
            let backend: BackendKind = text.parse()?;
            if let Some(other) = create.backend.as_ref().filter(|other| **other != backend) {
                return Err(wrong(format!("{text}, but backend is {other}")));
            }
            return Ok(CreateVm { backend: Some(backend), ..create });
        }
        if let Ok(peer) = text.parse::<PeerId>() {
            return Ok(CreateVm { provider: Some(peer), ..create });
        }
        let hint = format!(
            "give auto, a peer id, one of {}, or conditions such as country=DE,arch=x86_64,isolation=any,max_price=0.02",
            BACKENDS.join(", ")
        );
        let mut create = create;
        for condition in text.split(',') {
            let (key, value) = condition.split_once('=').ok_or_else(|| {
                wrong(format!("'{condition}' is neither auto, a peer, a backend nor a condition")).hint(&hint)
            })?;
            let bad = |fault: Fault| Fault { hint: fault.hint.clone(), ..wrong(fault.message) };
            match key.trim() {
                "country" => create.country = Some(Country::from_str(value.trim()).map_err(bad)?),
                "arch" => create.arch = Some(Arch::from_str(value.trim()).map_err(bad)?),
                "isolation" => create.isolation = IsolationWanted::from_str(value.trim()).map_err(bad)?,
                "max_price" => {
                    let most = Amount::from_str(value.trim()).map_err(bad)?;
                    create.max_price = create.max_price.into_iter().chain([most]).min();
                }
                other => return Err(wrong(format!("'{other}' is no condition")).hint(&hint)),
            }
        }
        Ok(create)
    }

    fn script(&self, instance: &Instance, beside: &Path) -> Result<Option<PathBuf>, Fault> {
        let Some(provision) = instance.provision.as_ref().filter(|provision| provision.value) else { return Ok(None) };
        let Some(script) = &instance.script else {
            return Err(self
                .wrong(&provision.referenced, "provision", "there is no script to run")
                .hint("name one with 'script: setup.sh'"));
        };
        let path = beside.join(&script.value.text);
        match path.is_file() {
            true => Ok(Some(path)),
            false => Err(self
                .wrong(&script.referenced, "script", format!("there is no file {}", path.display()))
                .hint("the path is taken from where the project file is")),
        }
    }

    /// What is right, and cannot be had: that stops an apply, but not a plan.
    fn cannot(&self, instance: &Instance) -> Result<Vec<String>, Fault> {
        let mut cannot = Vec::new();
        let mut say = |at: &Location, field: &str, why: &str| cannot.push(self.wrong(at, field, why).message);
        let of_backend = "no provider on the mesh lets it be chosen yet";
        if let Some(id) = &instance.hypervisor_id {
            self.count("hypervisor_id", id, u64::MAX)?;
            say(&id.referenced, "hypervisor_id", of_backend);
        }
        if let Some(group) = &instance.hypervisor_group {
            say(&group.referenced, "hypervisor_group", of_backend);
        }
        for network in instance.network.iter() {
            if let Some(id) = &network.profile_id {
                self.count("network.profile_id", id, u64::MAX)?;
                say(&id.referenced, "network.profile_id", of_backend);
            }
            if let Some(rate) = &network.bandwidth {
                self.count("network.bandwidth", rate, 1_000_000)?;
                say(&rate.referenced, "network.bandwidth", of_backend);
            }
            for rules in network.firewall_rulesets.iter() {
                for (n, rule) in rules.value.iter().enumerate() {
                    self.count(&format!("network.firewall_rulesets[{n}]"), rule, u64::MAX)?;
                }
                say(&rules.referenced, "network.firewall_rulesets", of_backend);
            }
            if let Some(wanted) = network.public_ip.as_ref().filter(|wanted| wanted.value) {
                say(&wanted.referenced, "network.public_ip", "no provider on the mesh lends one yet");
            }
        }
        for (n, volume) in instance.volumes.iter().flat_map(|volumes| volumes.value.iter().enumerate()) {
            let field = format!("volumes[{n}]");
            let _: VmName = self.get(&format!("{field}.name"), &volume.name)?;
            self.count(&format!("{field}.size_gb"), &volume.size_gb, 1 << 20)?;
            if let Some(mount) = volume.mount_point.as_ref().filter(|mount| !mount.value.text.starts_with('/')) {
                let why = format!("'{}' does not begin at /", mount.value.text);
                return Err(self.wrong(&mount.referenced, &format!("{field}.mount_point"), why));
            }
            say(&volume.name.referenced, &field, "data volumes cannot be rented yet");
        }
        Ok(cannot)
    }
}

/// What others call it: `ubuntu-22.04` is `ubuntu:22.04`, and `debian-12` is `debian:12`.
fn of_template(template: &str) -> String {
    match template.split_once('-') {
        Some((system, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => format!("{system}:{version}"),
        _ => template.to_owned(),
    }
}
