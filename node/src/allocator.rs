//! What every binary with a node in it allocates with.
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static JEMALLOC: Jemalloc = Jemalloc;

/// Two arenas and no caches of threads: few threads of a node work, and sled has others that hardly do. What is free
/// goes back to the system within a second: joining takes several times what a node at rest needs.
#[allow(unsafe_code, reason = "jemalloc looks for its options under this name, which nothing else has")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static OPTIONS: &[u8; 60] = b"narenas:2,tcache:false,dirty_decay_ms:1000,muzzy_decay_ms:0\0";
