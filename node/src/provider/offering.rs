//! What this host has to let: asked of the backend, bounded by the settings, and looked at again every few seconds.
use crate::config::ProviderSettings;
use backends::Backend;
use backends::images::{ImageStore, Manifest};
use protocol::core::provider::jobs::Slots;
use protocol::core::provider::{Offer, OfferedImage, Offering, Policy, Strangers};
use protocol::money::Price;
use protocol::names::{Arch, ImageName};
use protocol::units::{DiskGib, MemoryMib, Millis, Overcommit, Resources};
use std::collections::BTreeMap;

/// What is kept back for the host itself, unless the settings say what to sell.
const RESERVE: Resources = Resources::new(1, 1024, 10);

/// Faults of the hypervisor become the reason why nothing is offered.
pub async fn survey(
    backend: &dyn Backend,
    images: &ImageStore,
    simulated: &BTreeMap<ImageName, OfferedImage>,
    settings: &ProviderSettings,
    let_out: Resources,
) -> Offering {
    let host = match backend.host().await {
        Ok(host) => host,
        Err(fault) => return Offering::Nothing { reason: fault.message },
    };
    let offered = match offered_images(images, host.arch) {
        // A simulated host has simulated images, and no others.
        Ok(_) if !simulated.is_empty() => simulated.clone(),
        Ok(offered) => offered,
        Err(fault) => return Offering::Nothing { reason: fault.message },
    };
    let capabilities = backend.capabilities().await;
    let cpus = settings.offer_cpus.unwrap_or_else(|| host.cpus.saturating_sub(RESERVE.cpus).max(1));
    // Disks are sparse: what a guest has not written yet still shows as free, though it is let.
    let disk = host.disk_gib_free.0.saturating_sub(RESERVE.disk_gib.0).max(let_out.disk_gib.0);
    let memory = host.memory_mib.0.saturating_sub(RESERVE.memory_mib.0);
    let total = Resources {
        cpus: (f64::from(cpus) * settings.overcommit_cpu) as u32,
        memory_mib: settings.offer_memory.unwrap_or(MemoryMib(memory)),
        disk_gib: settings.offer_disk.unwrap_or(DiskGib(disk)).min(DiskGib(disk)),
    };
    Offering::Vms(Box::new(Offer {
        name: settings.name.clone(),
        country: settings.country.clone(),
        arch: host.arch,
        backend: backend.kind(),
        isolation: capabilities.isolation,
        egress: capabilities.egress,
        total,
        overcommit_cpu: Overcommit::of(settings.overcommit_cpu),
        max_vms: settings.max_vms,
        minimum: Resources { cpus: settings.min_cpus, memory_mib: settings.min_memory, disk_gib: settings.min_disk },
        max_lease: Millis(settings.max_lease.as_millis() as u64),
        strangers: Strangers {
            longest: Millis(settings.stranger_lease.as_millis() as u64),
            per_site: settings.stranger_vms,
        },
        unused_stop: Some(Millis(settings.unused_stop.as_millis() as u64)).filter(|time| *time > Millis(0)),
        prepaid: settings.prepaid,
        grace: Millis(settings.grace.as_millis() as u64),
        price: Price { per_hour: settings.price_per_hour, currency: settings.currency.clone() },
        images: offered,
        slots: Slots { provision: settings.provision_jobs as usize, control: settings.control_jobs as usize },
        policy: Policy {
            allow: settings.allow.iter().copied().collect(),
            deny: settings.deny.iter().copied().collect(),
        },
    }))
}

/// Those that this host can boot: a home may also hold images for others.
fn offered_images(images: &ImageStore, arch: Arch) -> Result<BTreeMap<ImageName, OfferedImage>, protocol::Fault> {
    let offered = |image: Manifest| {
        let least_disk = DiskGib(image.least_disk_gib());
        (image.name.clone(), OfferedImage { digest: image.digest(), user: image.default_user, least_disk })
    };
    Ok(images.list()?.into_iter().filter(|image| image.arch == arch).map(offered).collect())
}
