//! `golemnode vm scale`: another size for a VM.
use super::{find, size};
use crate::context::{Context, left_alone};
use crate::failure::Outcome;
use clap::Args;
use node::api::types::{VmActionBody, VmActionName, VmStatus, VmView};
use protocol::Fault;
use protocol::units::{DiskGib, MemoryMib, Resources};

#[derive(Args)]
pub struct ScaleArgs {
    /// Its name or id
    name: String,
    /// small: 1 CPU, 1G memory, 10G disk; medium: 2, 4G, 20G; large: 4, 8G, 40G
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["cpus", "memory", "disk"], value_parser = Resources::named)]
    size: Option<Resources>,
    /// CPUs; as many as it has unless given
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory, such as 512M or 4G; as it is unless given
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemoryMib>,
    /// Disk, such as 20G; never less than it has
    #[arg(long, value_name = "SIZE")]
    disk: Option<DiskGib>,
}

impl ScaleArgs {
    fn body(&self) -> VmActionBody {
        let size = self.size;
        VmActionBody {
            cpus: self.cpus.or(size.map(|size| size.cpus)),
            memory_mib: self.memory.or(size.map(|size| size.memory_mib)),
            disk_gib: self.disk.or(size.map(|size| size.disk_gib)),
            ..VmActionName::Scale.into()
        }
    }
}

pub fn run(context: &Context, args: &ScaleArgs) -> Outcome {
    let body = args.body();
    if (body.cpus, body.memory_mib, body.disk_gib) == (None, None, None) {
        let fault = Fault::invalid("nothing is said of the size that it is to have");
        return Err(fault.hint("say --size, or --cpus, --memory and --disk as far as they change").into());
    }
    let vm = find(context, &args.name)?;
    if vm.status == VmStatus::Running && changes(&body, &vm) {
        let what = format!("'{}' is shut down and booted again", vm.name);
        if !context.confirm(&format!("{what}: go on?"))? {
            return left_alone(context);
        }
        context.say(format!("{what}, if it can have that size"));
    }
    let node = context.node()?;
    let vm = context.block_on(async { node.act(&vm.id, &body).await })?;
    context.show(&vm, || format!("{} has {} now, and is {}\n", vm.name, size(&vm), super::word(vm.status)))
}

fn changes(body: &VmActionBody, vm: &VmView) -> bool {
    let now = size(vm);
    body.cpus.is_some_and(|cpus| cpus != now.cpus)
        || body.memory_mib.is_some_and(|memory| memory != now.memory_mib)
        || body.disk_gib.is_some_and(|disk| disk != now.disk_gib)
}
