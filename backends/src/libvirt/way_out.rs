//! Guests' way out of the host: what the owner allows, as far as the firewall holds it. Where it does not, a guest that is
//! started has QEMU's own wall around it, and one that runs without that wall loses its link until the rules are back.
use super::egress::Firewall;
use super::limits::Limits;
use super::xml::{self, NETDEV};
use super::{Host, unavailable};
use crate::Check;
use protocol::Fault;
use protocol::names::{Digest, Egress, LeaseId};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use virt::domain::Domain;
use virt::sys;

pub struct WayOut {
    /// None: the Internet, where that can be held.
    wanted: Option<Egress>,
    firewall: Firewall,
    /// Guests whose link was taken, as many as run. None: an earlier node may have taken any.
    cut_off: Mutex<Option<HashSet<LeaseId>>>,
}

impl WayOut {
    pub fn new(wanted: Option<Egress>, node: Digest, limits: Limits) -> Self {
        WayOut { wanted, firewall: Firewall::new(node, limits.egress_mbit_per_s), cut_off: Mutex::default() }
    }

    /// The group that such a guest's QEMU runs in.
    pub fn group(&self, egress: Egress, id: LeaseId) -> Option<u32> {
        self.firewall.group(egress, id)
    }
}

impl Host {
    /// What the next guest can have. Guests that run are held to their rules on the way.
    pub(super) fn egress(&self) -> Egress {
        self.egress_or_why().unwrap_or_else(|why| {
            tracing::debug!(why, "guests have no egress");
            Egress::None
        })
    }

    fn egress_or_why(&self) -> Result<Egress, String> {
        if self.connection.is_simulated() {
            return Err("there are no guests".to_owned());
        }
        let wanted = self.way_out.wanted.unwrap_or(Egress::Internet);
        if wanted == Egress::None {
            // Guests of before the owner's change of mind keep what their leases say until they are started anew.
            let held = if self.with_egress().unwrap_or_default().is_empty() { Ok(()) } else { self.hold_guests() };
            return held.map(|()| Egress::None);
        }
        self.hold_guests().map(|()| wanted)
    }

    /// The lesser of what a lease says and what the owner allows now.
    pub(super) fn way_out_of(&self, leased: Egress) -> Egress {
        if leased == Egress::None {
            return Egress::None;
        }
        // Not from memory: a guest is about to depend on it.
        self.way_out.firewall.doubt();
        match (leased, self.egress()) {
            (_, Egress::None) | (Egress::None, _) => Egress::None,
            (Egress::Open, Egress::Open) => Egress::Open,
            _ => Egress::Internet,
        }
    }

    fn hold_guests(&self) -> Result<(), String> {
        let held = self.way_out.firewall.enforce(self.connection.qemu_user());
        let mut cut_off = self.way_out.cut_off.lock().unwrap_or_else(PoisonError::into_inner);
        match &held {
            Ok(()) if cut_off.as_ref().is_some_and(HashSet::is_empty) => {}
            Ok(()) => *cut_off = Some(self.join_again(cut_off.take())),
            Err(why) => *cut_off = Some(self.cut_off(cut_off.take().unwrap_or_default(), why)),
        }
        held
    }

    /// Which guests are still cut off: those that do not answer.
    fn join_again(&self, cut_off: Option<HashSet<LeaseId>>) -> HashSet<LeaseId> {
        let guests = self.with_egress().unwrap_or_default().into_iter();
        let was_cut = |id: &LeaseId| cut_off.as_ref().is_none_or(|cut_off| cut_off.contains(id));
        let still = guests.filter(|(id, domain)| was_cut(id) && !self.set_link(*id, domain, "on"));
        still.map(|(id, _)| id).collect()
    }

    fn cut_off(&self, before: HashSet<LeaseId>, why: &str) -> HashSet<LeaseId> {
        let cut = |(id, domain): (LeaseId, Domain)| {
            let done = before.contains(&id) || self.set_link(id, &domain, "off");
            if done && !before.contains(&id) {
                tracing::error!(%id, why, "nothing holds a guest to its egress any more: it is cut off");
            }
            done.then_some(id)
        };
        self.with_egress().unwrap_or_default().into_iter().filter_map(cut).collect()
    }

    fn set_link(&self, id: LeaseId, domain: &Domain, to: &str) -> bool {
        let done = self.monitor(id, domain, &format!("set_link {NETDEV} {to}"));
        done.inspect_err(|fault| tracing::error!(%id, %fault, to, "a guest's link is as it was")).is_ok()
    }

    /// Guests that run without QEMU's own wall.
    fn with_egress(&self) -> Result<Vec<(LeaseId, Domain)>, Fault> {
        let active = sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE;
        let domains = self.connection.get()?.list_all_domains(active).map_err(|error| unavailable(&error))?;
        let ours = domains.into_iter().filter(|domain| self.is_ours(domain));
        let open = ours.filter(|domain| domain.xml_desc(0).is_ok_and(|text| xml::has_egress(&text)));
        Ok(open.filter_map(|domain| Some((domain.name().ok().as_deref().and_then(xml::id_of)?, domain))).collect())
    }

    /// Rules that no guest needs any more go with the node.
    pub(super) fn leave_the_way_out(&self) {
        if self.way_out.firewall.was_used()
            && self.connection.is_open()
            && self.with_egress().is_ok_and(|guests| guests.is_empty())
        {
            self.way_out.firewall.remove();
        }
    }

    pub(super) fn check_egress(&self) -> Check {
        match self.egress_or_why() {
            Ok(Egress::None) => Check::ok("egress", "none, as the settings say: guests reach nothing outside"),
            Ok(egress) => Check::ok("egress", format!("{egress}: held by the host's firewall, and tried")),
            Err(why) => Check {
                hint: Some(
                    "run the node as root, with nftables; egress = \"none\" says that none is wanted".to_owned(),
                ),
                ..Check::ok("egress", format!("none: {why}"))
            },
        }
    }
}
