//! Receipts held against the books, for as long as is wanted: MONTH_VMS and MONTH_DAYS.
use simulations::month::run;
use simulations::scenario::explore;

#[test]
#[allow(clippy::print_stdout, reason = "what came out is what is looked for")]
fn receipts_add_up_to_the_ledger() {
    let number = |name, otherwise| {
        let set = std::env::var(name).ok().map(|text| text.parse().expect("a number"));
        set.unwrap_or(otherwise)
    };
    let (vms, days) = (number("MONTH_VMS", 24), number("MONTH_DAYS", 3));
    explore("receipts_add_up_to_the_ledger", 3, |seed| {
        // As many as people have: a tenant with hundreds looks through all of them for each answer.
        let tenants = (vms as usize / 25).max(4);
        let books = run(seed, vms, tenants, u64::from(days));
        println!("{vms} VMs, {days} days: {books:?}");
        assert!(books.leases > 20 && books.renewals > 5 && books.countersigned > books.leases);
    });
}
