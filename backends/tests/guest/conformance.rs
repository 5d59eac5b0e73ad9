//! The suite over the embedded driver with the tiny guest.
use super::alone;
use crate::conformance;
use crate::libvirt_host::LibvirtHost;

#[test]
fn the_embedded_driver_does_what_every_backend_does() {
    alone("guest::conformance::the_embedded_driver_does_what_every_backend_does", embedded());
}

async fn embedded() {
    let Some(host) = LibvirtHost::real("tiny") else { return };
    let began = std::time::Instant::now();
    conformance::check(&host).await;
    eprintln!("the whole suite: {:?}", began.elapsed());
}
