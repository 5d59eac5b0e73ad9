//! `golemnode image …`: the disk images that this home offers, straight in its folder.
mod pull;

use crate::context::{Context, interruption, left_alone};
use crate::failure::{Failure, Outcome};
use crate::output::{bytes, fields, table};
use backends::images::{ImageStore, ImportSource, Manifest};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use node::api::client::{self, Client};
use protocol::names::{Arch, Digest, GuestUser, ImageName};
use protocol::{ErrorCode, Fault};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;

#[derive(Subcommand)]
pub enum ImageCommand {
    /// List the images of this home, or those that can be pulled
    List {
        /// Those that 'image pull' knows by name
        #[arg(long)]
        catalogue: bool,
    },
    /// Download an image, verify it and take it in; one that broke off is gone on with
    Pull(pull::PullArgs),
    /// Take in a disk, or a bundle (a folder with a manifest.json)
    Import(ImportArgs),
    /// Show one image, and check its files against their checksums
    Info { name: ImageName },
    /// Remove an image that no VM stands on
    Remove { name: ImageName },
}

#[derive(Args)]
pub struct ImportArgs {
    /// A raw or qcow2 disk, or a bundle's folder
    path: PathBuf,
    /// What to call it [default: the bundle's own name, or the disk's file name]
    #[arg(long, value_name = "I")]
    name: Option<ImageName>,
    /// The disk's architecture [default: this machine's]
    #[arg(long, value_name = "A")]
    arch: Option<Arch>,
    /// Who logs in [default: root]
    #[arg(long, value_name = "NAME")]
    user: Option<GuestUser>,
    /// A kernel to boot the disk with, which saves firmware and boot loader
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// An initrd for that kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    cmdline: Option<String>,
    /// What the disk's file must hash to
    #[arg(long, value_name = "HEX")]
    sha256: Option<Digest>,
}

/// An image, as scripts see it.
#[derive(Serialize)]
struct ImageView {
    name: ImageName,
    digest: Digest,
    arch: Arch,
    format: &'static str,
    size: u64,
    virtual_size: u64,
    least_disk_gib: u64,
    default_user: GuestUser,
    direct_boot: bool,
    cmdline: Option<String>,
    features: Vec<String>,
    path: PathBuf,
}

impl ImageView {
    fn of(store: &ImageStore, manifest: &Manifest) -> Self {
        ImageView {
            name: manifest.name.clone(),
            digest: manifest.digest(),
            arch: manifest.arch,
            format: manifest.disk.format.as_str(),
            size: manifest.disk.size,
            virtual_size: manifest.disk.virtual_size_bytes,
            least_disk_gib: manifest.least_disk_gib(),
            default_user: manifest.default_user.clone(),
            direct_boot: manifest.kernel.is_some(),
            cmdline: manifest.cmdline.clone(),
            features: manifest.features.clone(),
            path: store.path(&manifest.name, &manifest.disk.file),
        }
    }
    fn text(&self) -> String {
        let boot = if self.direct_boot { "its own kernel" } else { "firmware and boot loader" };
        fields(&[
            ("name", Some(self.name.to_string())),
            ("digest", Some(self.digest.to_string())),
            ("architecture", Some(self.arch.to_string())),
            ("disk", Some(format!("{}, {}, seen as {}", self.format, bytes(self.size), bytes(self.virtual_size)))),
            ("least disk", Some(format!("{}G", self.least_disk_gib))),
            ("user", Some(self.default_user.to_string())),
            ("boots by", Some(boot.to_owned())),
            ("command line", self.cmdline.clone()),
            ("features", Some(self.features.join(", ")).filter(|text| !text.is_empty())),
            ("file", Some(self.path.display().to_string())),
        ])
    }
}

pub fn run(context: &Context, command: ImageCommand) -> Outcome {
    let home = context.home()?;
    let store = ImageStore::new(home.images());
    match command {
        ImageCommand::List { catalogue: true } => pull::list(context, &store),
        ImageCommand::Pull(args) => pull::pull(context, &store, args),
        ImageCommand::List { catalogue: false } => {
            let images: Vec<_> = store.list()?.iter().map(|manifest| ImageView::of(&store, manifest)).collect();
            context.show(&images, || list_text(&images))
        }
        ImageCommand::Import(args) => {
            let source = source(args)?;
            home.create()?;
            let view = ImageView::of(&store, &import(context, &store, &source)?);
            rescan(context)?;
            context.show(&view, || format!("{} is here: {}\n", view.name, view.digest))
        }
        ImageCommand::Info { name } => {
            let view = ImageView::of(&store, &store.verify(&name)?);
            context.show(&view, || view.text())
        }
        ImageCommand::Remove { name } => {
            store.get(&name)?;
            if !context.confirm(&format!("remove the image '{name}'?"))? {
                return left_alone(context);
            }
            store.remove(&name, &used(context)?)?;
            rescan(context)?;
            Ok(0)
        }
    }
}

/// On a thread of its own, so that an interrupt is noticed: at the next chunk it unwinds through the import, whose
/// half-filled folder goes with it. One that comes after the last chunk is too late, and the image is there.
fn import(context: &Context, store: &ImageStore, source: &ImportSource) -> Result<Manifest, Failure> {
    struct Interrupted;
    let interrupted = AtomicBool::new(false);
    let bar = bar(context);
    let copied = |done, total| {
        if interrupted.load(Ordering::Relaxed) {
            // Unlike a panic it prints nothing.
            std::panic::resume_unwind(Box::new(Interrupted));
        }
        bar.set_length(total);
        bar.set_position(done);
    };
    let runtime = context.runtime()?;
    let signal = {
        let _runtime = runtime.enter();
        interruption()?
    };
    let imported = std::thread::scope(|scope| {
        let (done, ended) = oneshot::channel::<()>();
        let importing = scope.spawn(move || {
            // Dropped at the end, whichever end it is.
            let _done = done;
            let mut copied = copied;
            store.import(source, &mut copied)
        });
        runtime.block_on(async {
            tokio::select! {
                _ = ended => {}
                () = signal => interrupted.store(true, Ordering::Relaxed),
            }
        });
        importing.join()
    });
    bar.finish_and_clear();
    match imported {
        Ok(imported) => Ok(imported?),
        Err(reason) if reason.is::<Interrupted>() => Err(Failure::Interrupted),
        Err(_) => Err(Fault::internal("the import broke off").into()),
    }
}

fn source(args: ImportArgs) -> Result<ImportSource, Fault> {
    if args.path.is_dir() {
        let of_disks = [
            ("--arch", args.arch.is_some()),
            ("--user", args.user.is_some()),
            ("--kernel", args.kernel.is_some()),
            ("--sha256", args.sha256.is_some()),
        ];
        if let Some((flag, _)) = of_disks.iter().find(|(_, given)| *given) {
            return Err(Fault::invalid(format!("{flag} is for a disk; {} is a folder", args.path.display()))
                .hint("a bundle says so in its manifest.json"));
        }
        return Ok(ImportSource::Bundle { dir: args.path, name: args.name });
    }
    if !args.path.exists() {
        return Err(Fault::invalid(format!("{} does not exist", args.path.display()))
            .hint("give a raw or qcow2 disk, or a bundle's folder"));
    }
    let name = match args.name {
        Some(name) => name,
        None => named_after(&args.path)?,
    };
    let arch = args.arch.or_else(Arch::of_this_build);
    Ok(ImportSource::Disk {
        name,
        arch: arch
            .ok_or_else(|| Fault::invalid("this machine's architecture is unknown").hint("name it with --arch"))?,
        default_user: args.user.map_or_else(|| "root".parse(), Ok)?,
        disk: args.path,
        kernel: args.kernel,
        initrd: args.initrd,
        cmdline: args.cmdline,
        sha256: args.sha256,
    })
}

fn named_after(path: &std::path::Path) -> Result<ImageName, Fault> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    stem.parse().map_err(|fault: Fault| fault.hint("call it something with --name"))
}

/// What VMs stand on, by the ledger of this home: guests go on while no node runs, so one is started to ask.
fn used(context: &Context) -> Result<BTreeSet<ImageName>, Failure> {
    let node = context.node()?;
    let leases = context.block_on(async { node.leases().await })?;
    let held = leases.into_iter().filter(|lease| lease.role == "provider" && lease.state != "ended");
    Ok(held.map(|lease| lease.image).collect())
}

/// A node that runs offers what there is now.
fn rescan(context: &Context) -> Result<(), Failure> {
    let home = context.home()?;
    if !client::is_alive(&home) {
        return Ok(());
    }
    let node = Client::new(&home);
    match context.block_on(async { node.rescan_images().await }) {
        // It left between the question and now; the next one reads the folder when it starts.
        Err(Failure::Fault(fault)) if fault.code == ErrorCode::Unavailable => Ok(()),
        done => done,
    }
}

fn bar(context: &Context) -> ProgressBar {
    if context.is_quiet() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} [{elapsed}]") {
        bar.set_style(style);
    }
    bar
}

fn list_text(images: &[ImageView]) -> String {
    let row = |image: &ImageView| {
        vec![
            image.name.to_string(),
            image.arch.to_string(),
            image.format.to_owned(),
            bytes(image.size),
            format!("{}G", image.least_disk_gib),
            image.default_user.to_string(),
            image.digest.to_string().chars().take(12).collect(),
        ]
    };
    let head = ["NAME", "ARCH", "FORMAT", "SIZE", "LEAST DISK", "USER", "DIGEST"];
    table(&head, &images.iter().map(row).collect::<Vec<_>>())
}
