//! A create that may end with less than was asked for, because its user said so: nobody gives that much, so half of it is
//! asked for, twice at most.
use super::{Phase, Rental, Requestor, Work, put};
use crate::core::{Ctx, Effect};
use crate::error::ErrorCode;
use crate::names::CreateId;
use crate::spec::VmSpec;
use crate::units::Resources;

/// To a quarter.
pub(super) const HALVINGS: u8 = 2;

impl Rental {
    /// Whether who asks for this means this VM.
    pub(super) fn is_meant(&self, asked: &VmSpec, allow_smaller: bool) -> bool {
        let there = self.spec.resources;
        let less = allow_smaller && there.fits_in(asked.resources);
        let resources = if less { there } else { asked.resources };
        VmSpec { resources, ..asked.clone() }.means(&self.spec)
    }
}

impl Requestor {
    /// True if it goes on, with less.
    pub(super) fn ask_for_less(&mut self, ctx: &mut Ctx, id: CreateId) -> bool {
        let Some(rental) = self.rentals.get_mut(&id).filter(|rental| rental.halvings > 0) else { return false };
        let (asked, less) = (rental.spec.resources, rental.spec.resources.halved());
        rental.halvings -= 1;
        if less == asked {
            return false;
        }
        (rental.spec.resources, rental.query.want) = (less, less);
        rental.phase = Phase::Discovering;
        // Who had no room for that much may have room for this.
        rental.tried.retain(|(_, fault)| fault.code != ErrorCode::Exhausted);
        ctx.persist(vec![put(rental)]);
        self.drop_work(ctx, id);
        self.work.insert(id, Work { wake: Some(ctx.now), ..Work::default() });
        let message = format!("nobody gives {asked}: asking for {less}");
        ctx.effect(Effect::Notice { create_id: id, message });
        true
    }
}

impl Resources {
    /// Half as much, though no less disk than a small VM has: images are not smaller for a smaller VM.
    fn halved(self) -> Resources {
        let Resources { cpus, memory_mib, disk_gib } = self;
        let memory = (memory_mib.0 / 2).max(crate::units::MemoryMib::LEAST.0);
        let disk = (disk_gib.0 / 2).max(Resources::SMALL.disk_gib.0).min(disk_gib.0);
        Resources::new((cpus / 2).max(1), memory, disk)
    }
}
