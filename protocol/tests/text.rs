//! What is parsed once at the edge: units, amounts, names.
use proptest::prelude::*;
use protocol::PeerId;
use protocol::money::Amount;
use protocol::names::{Country, Digest, ImageName, LeaseId, VmName};
use protocol::units::{DiskGib, MemoryMib, Millis, Resources, Timestamp};

proptest! {
    #[test]
    fn sizes_print_as_they_are_read(mib in 0u64..1 << 40, gib in 0u64..1 << 30) {
        prop_assert_eq!(MemoryMib(mib).to_string().parse::<MemoryMib>().unwrap(), MemoryMib(mib));
        prop_assert_eq!(DiskGib(gib).to_string().parse::<DiskGib>().unwrap(), DiskGib(gib));
    }

    #[test]
    fn units_agree(number in 0u64..1 << 20) {
        let size = |unit: &str| format!("{number}{unit}").parse::<MemoryMib>().unwrap().0;
        for unit in ["G", "g", "GiB", "GB", " G"] {
            prop_assert_eq!(size(unit), number * 1024);
        }
        prop_assert_eq!(size("M"), number);
    }

    #[test]
    fn any_text_is_a_size_or_refused_with_a_hint(text in "\\PC{0,24}") {
        for fault in [text.parse::<MemoryMib>().err(), text.parse::<DiskGib>().err(), text.parse::<Millis>().err()] {
            prop_assert!(fault.is_none_or(|fault| fault.hint.is_some()));
        }
        if text.parse::<MemoryMib>().is_ok() {
            prop_assert!(text.trim().starts_with(|c: char| c.is_ascii_digit()));
            prop_assert!(text.trim().ends_with(|c: char| c.is_ascii_alphabetic()));
        }
    }

    #[test]
    fn durations_add_up(d in 0u64..1000, h in 0u64..100, m in 0u64..100, s in 0u64..100) {
        let text = format!("{d}d{h}h{m}m{s}s");
        prop_assert_eq!(text.parse::<Millis>().unwrap(), Millis::secs(((d * 24 + h) * 60 + m) * 60 + s));
    }

    #[test]
    fn a_printed_duration_is_never_longer_than_it_was(ms in 0u64..1 << 45) {
        let printed: Millis = Millis(ms).to_string().parse().unwrap();
        prop_assert!(printed <= Millis(ms));
        prop_assert!(ms - printed.0 <= (ms / 24).max(1000), "what is left out is small beside it");
    }

    #[test]
    fn time_does_not_wrap(at in any::<u64>(), by in any::<u64>()) {
        let (at, by) = (Timestamp(at), Millis(by));
        prop_assert!(at + by >= at);
        prop_assert!(at.set_back(by) <= at);
        prop_assert_eq!((at - (at + by)).0, 0);
        prop_assert!(((at + by) - at) <= by);
    }

    #[test]
    fn resources_come_and_go(a in resources(), b in resources()) {
        prop_assert_eq!(a.plus(b).minus(b), a);
        prop_assert!(a.fits_in(a.plus(b)));
        prop_assert_eq!(a.fits_in(b), a.plus(b.minus(a)) == b);
    }

    #[test]
    fn amounts_print_as_they_are_read(units in 0u64..1_000_000_000_000, parts in 0u32..1_000_000_000, ms in any::<u64>()) {
        let amount: Amount = format!("{units}.{parts:09}").parse().unwrap();
        prop_assert_eq!(amount.to_string().parse::<Amount>().unwrap(), amount);
        prop_assert!(!amount.over(Millis(ms)).is_sign_negative());
    }

    #[test]
    fn any_text_is_an_amount_or_refused(text in "\\PC{0,24}") {
        if let Ok(amount) = text.parse::<Amount>() {
            prop_assert!(!amount.decimal().is_sign_negative() || amount.is_zero());
        }
    }

    #[test]
    fn what_is_taken_for_a_name_is_one(text in "\\PC{0,70}") {
        if let Ok(name) = text.parse::<VmName>() {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            prop_assert!(name.as_str().len() <= 63 && name.as_str().chars().all(plain));
            prop_assert!(!name.as_str().starts_with('-') && !name.as_str().ends_with('-'));
        }
        if let Ok(image) = text.parse::<ImageName>() {
            prop_assert!(!image.as_str().contains(['/', '\\', '\0']) && !image.as_str().contains(".."));
        }
    }

    #[test]
    fn names_of_the_right_form_are_taken(
        name in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", image in "[a-z0-9][a-z0-9_-]{0,30}(:[a-z0-9]{1,20})?", country in "[A-Z]{2}"
    ) {
        prop_assert_eq!(name.parse::<VmName>().unwrap().to_string(), name);
        prop_assert_eq!(image.parse::<ImageName>().unwrap().to_string(), image);
        prop_assert!(country.parse::<Country>().is_ok());
    }

    #[test]
    fn ids_print_as_they_are_read(lease in any::<[u8; 16]>(), digest in any::<[u8; 32]>()) {
        prop_assert_eq!(LeaseId(lease).to_string().parse::<LeaseId>().unwrap(), LeaseId(lease));
        prop_assert_eq!(Digest(digest).to_string().parse::<Digest>().unwrap(), Digest(digest));
        let peer = PeerId::from_public_key(digest);
        prop_assert_eq!(peer.to_string().parse::<PeerId>().unwrap(), peer);
        prop_assert_eq!(PeerId::from_multihash(&peer.to_multihash()).unwrap(), peer);
    }
}

pub fn resources() -> impl Strategy<Value = Resources> {
    (0u32..1 << 20, 0u64..1 << 40, 0u64..1 << 40).prop_map(|(cpus, memory, disk)| Resources::new(cpus, memory, disk))
}
