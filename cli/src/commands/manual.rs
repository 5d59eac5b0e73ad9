//! Completions, manual pages and the version: what packagers ask for.
use crate::context::Context;
use crate::failure::Outcome;
use crate::output;
use node::config::io;
use serde::Serialize;
use std::path::Path;

pub fn completions(shell: clap_complete::Shell) -> Outcome {
    output::print(&crate::completing::script(shell)?)?;
    Ok(0)
}

/// `golemnode.1` and a page for every command below it.
pub fn pages(dir: &Path) -> Outcome {
    std::fs::create_dir_all(dir).map_err(|error| io("create", dir, &error))?;
    clap_mangen::generate_to(crate::command(), dir).map_err(|error| io("write to", dir, &error))?;
    Ok(0)
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    arch: &'static str,
    os: &'static str,
    backends: Vec<&'static str>,
}

pub fn version(context: &Context) -> Outcome {
    let backends = if cfg!(feature = "libvirt") { vec!["libvirt", "memory"] } else { vec!["memory"] };
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        arch: std::env::consts::ARCH,
        os: std::env::consts::OS,
        backends,
    };
    context.show(&version, || format!("golemnode {}\n", version.version))
}
