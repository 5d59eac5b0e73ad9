//! `golemnode image pull` and `image list --catalogue`.
use super::{ImageView, rescan};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{bytes, table};
use backends::images::{Catalogue, Checksum, Entry, ImageStore, PullEvent, PullSettings, Trust, parse_url, trust_in};
use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressStyle};
use protocol::Fault;
use protocol::names::{Arch, GuestUser, ImageName};
use serde::Serialize;
use std::io::IsTerminal;

const CATALOGUE: &str = "catalogue.toml";
/// Without a terminal a line is written for each so many percent, or so many bytes where nobody knows the whole.
const LINE_EACH_PERCENT: u64 = 10;
const LINE_EACH_BYTES: u64 = 256 << 20;

#[derive(Args)]
#[command(group(ArgGroup::new("trust").args(["sha256", "sha512", "checksums"])))]
pub struct PullArgs {
    /// An image of the catalogue, such as debian:12; with --url, what to call it
    image: ImageName,
    /// The architecture wanted [default: this machine's]
    #[arg(long, value_name = "A")]
    arch: Option<Arch>,
    /// What to call it here [default: its name in the catalogue]
    #[arg(long, value_name = "I", conflicts_with = "url")]
    name: Option<ImageName>,
    /// A disk that is not in the catalogue
    #[arg(long, value_name = "URL", requires = "trust")]
    url: Option<String>,
    /// What the file must hash to
    #[arg(long, value_name = "HEX", requires = "url")]
    sha256: Option<String>,
    /// What the file must hash to, by SHA-512
    #[arg(long, value_name = "HEX", requires = "url")]
    sha512: Option<String>,
    /// A list of checksums that names the file, such as the vendor's SHA256SUMS
    #[arg(long, value_name = "URL", requires = "url")]
    checksums: Option<String>,
    /// Who logs in [default: root]
    #[arg(long, value_name = "NAME", requires = "url")]
    user: Option<GuestUser>,
}

/// A pull's result, as scripts see it.
#[derive(Serialize)]
struct PulledView {
    #[serde(flatten)]
    image: ImageView,
    url: String,
    checksum: String,
    downloaded: u64,
    already_here: bool,
}

/// An entry of the catalogue, as scripts see it.
#[derive(Serialize)]
struct EntryView<'a> {
    name: &'a ImageName,
    arch: Arch,
    default_user: &'a GuestUser,
    format: Option<&'static str>,
    url: &'a str,
    /// The list's address, or the digest.
    checksums: Option<&'a str>,
    checksum: Option<String>,
    here: bool,
}

impl<'a> EntryView<'a> {
    fn of(entry: &'a Entry, here: bool) -> Self {
        let (checksums, checksum) = match &entry.trust {
            Trust::Listed(list) => (Some(list.as_str()), None),
            Trust::Pinned(checksum) => (None, Some(written(checksum))),
        };
        EntryView {
            name: &entry.name,
            arch: entry.arch,
            default_user: &entry.default_user,
            format: entry.format.map(|format| format.as_str()),
            url: entry.url.as_str(),
            checksums,
            checksum,
            here,
        }
    }
}

/// `sha256:HEX`, as other tools write digests.
fn written(checksum: &Checksum) -> String {
    format!("{}:{}", checksum.algorithm(), checksum.hex())
}

pub fn pull(context: &Context, store: &ImageStore, args: PullArgs) -> Outcome {
    let home = context.home()?;
    let arch = args.arch.or_else(Arch::of_this_build);
    let arch =
        arch.ok_or_else(|| Fault::invalid("this machine's architecture is unknown").hint("name it with --arch"))?;
    let name = args.name.clone().unwrap_or_else(|| args.image.clone());
    let entry = match &args.url {
        Some(url) => by_url(url, &args, arch)?,
        None => Catalogue::with_file(&home.root().join(CATALOGUE))?.find(&args.image, arch)?.clone(),
    };
    if Arch::of_this_build().is_some_and(|own| own != arch) {
        context.say(format!("{name}: this is for {arch}; such guests do not boot on this machine"));
    }
    home.create()?;
    let mut shown = Shown::new(context, &name);
    let settings = PullSettings::default();
    let pulled = context.block_on(store.pull(&entry, &name, &settings, &mut |event| shown.tell(event)));
    shown.end();
    if matches!(pulled, Err(Failure::Interrupted)) {
        shown.interrupted();
    }
    let pulled = pulled?;
    rescan(context)?;
    let view = PulledView {
        image: ImageView::of(store, &pulled.manifest),
        url: entry.url.to_string(),
        checksum: written(&pulled.checksum),
        downloaded: pulled.downloaded,
        already_here: pulled.already,
    };
    context.show(&view, || {
        let already = if view.already_here { " already, and up to date" } else { "" };
        format!("{} is here{already}: {}\n", view.image.name, view.image.digest)
    })
}

fn by_url(url: &str, args: &PullArgs, arch: Arch) -> Result<Entry, Fault> {
    let entry = Entry {
        name: args.image.clone(),
        arch,
        url: parse_url(url)?,
        trust: trust_in(args.checksums.as_deref(), args.sha256.as_deref(), args.sha512.as_deref())?,
        default_user: args.user.clone().map_or_else(|| "root".parse(), Ok)?,
        format: None,
    };
    entry.check()?;
    Ok(entry)
}

pub fn list(context: &Context, store: &ImageStore) -> Outcome {
    let catalogue = Catalogue::with_file(&context.home()?.root().join(CATALOGUE))?;
    let here = store.list()?;
    let is_here = |entry: &Entry| here.iter().any(|image| image.name == entry.name && image.arch == entry.arch);
    let views: Vec<_> = catalogue.entries().iter().map(|entry| EntryView::of(entry, is_here(entry))).collect();
    context.show(&views, || {
        let row = |view: &EntryView| {
            let here = if view.here { "yes" } else { "-" };
            let words = [view.name.as_str(), view.arch.as_str(), view.default_user.as_str(), here, view.url];
            words.map(str::to_owned).to_vec()
        };
        table(&["NAME", "ARCH", "USER", "HERE", "URL"], &views.iter().map(row).collect::<Vec<_>>())
    })
}

/// How far it is, for people: a bar on a terminal, a line now and then elsewhere.
struct Shown<'a> {
    context: &'a Context,
    name: ImageName,
    terminal: bool,
    /// From the first byte on.
    bar: Option<ProgressBar>,
    done: u64,
    total: Option<u64>,
    /// The step of the last line.
    step: Option<u64>,
}

impl<'a> Shown<'a> {
    fn new(context: &'a Context, name: &ImageName) -> Self {
        let terminal = !context.is_quiet() && std::io::stderr().is_terminal();
        Shown { context, name: name.clone(), terminal, bar: None, done: 0, total: None, step: None }
    }

    fn tell(&mut self, event: PullEvent) {
        match event {
            PullEvent::Progress { done, total } => self.progress(done, total),
            PullEvent::Resuming { from } => self.line(format!("going on behind the {} that are here", bytes(from))),
            PullEvent::Restarting => self.line("the server begins anew: what was here is of no use".to_owned()),
            PullEvent::Retrying { why, after } => {
                self.line(format!("{why}; trying again in {:.0} s", after.as_secs_f64().ceil()))
            }
            PullEvent::Checking => self.line("all is here: checking it".to_owned()),
        }
    }

    fn progress(&mut self, done: u64, total: Option<u64>) {
        let anew = self.total != total || done < self.done;
        (self.done, self.total) = (done, total);
        if self.terminal {
            let fresh = self.bar.is_none();
            let bar = self.bar.get_or_insert_with(|| ProgressBar::no_length().with_position(done));
            if fresh || anew {
                bar.set_style(style(total.is_some()));
                total.map_or_else(|| bar.unset_length(), |total| bar.set_length(total));
            }
            bar.set_position(done);
            if fresh || anew {
                // What was here before did not come just now: the rate is the network's.
                bar.reset_eta();
            }
            return;
        }
        let step = match total {
            Some(total) if total > 0 => done * 100 / total / LINE_EACH_PERCENT,
            _ => done / LINE_EACH_BYTES,
        };
        if self.step != Some(step) {
            self.step = Some(step);
            let of = total.map_or_else(String::new, |total| format!(" of {}", bytes(total)));
            self.line(format!("{}{of}", bytes(done)));
        }
    }

    fn line(&self, text: String) {
        let text = format!("{}: {text}", self.name);
        match &self.bar {
            Some(bar) => bar.println(text),
            None => self.context.say(text),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn interrupted(&self) {
        if self.done == 0 {
            return;
        }
        let of = self.total.map_or_else(String::new, |total| format!(" of {}", bytes(total)));
        let kept = bytes(self.done);
        self.context.say(format!("interrupted: {kept}{of} are kept, and the same command goes on from there"));
    }
}

fn style(known: bool) -> ProgressStyle {
    let template = match known {
        true => "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
        false => "{spinner} {bytes} {bytes_per_sec} [{elapsed}]",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
