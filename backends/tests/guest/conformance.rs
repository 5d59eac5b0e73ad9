//! The suite over the embedded driver with the tiny guest.
use crate::conformance;
use crate::libvirt_host::LibvirtHost;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_driver_does_what_every_backend_does() {
    let Some(host) = LibvirtHost::real("tiny") else { return };
    let began = std::time::Instant::now();
    conformance::check(&host).await;
    eprintln!("the whole suite: {:?}", began.elapsed());
}
