//! What a command works with: the home, the form of its answers, the node.
use crate::args::{Color, Format, Global};
use crate::failure::{Failure, Outcome};
use crate::start;
use node::api::client::Client;
use node::config::Home;
use protocol::Fault;
use std::future::Future;
use std::io::IsTerminal;
use tokio::signal::unix::{SignalKind, signal};

pub struct Context {
    pub global: Global,
}

/// `NO_COLOR` (no-color.org) means no when it is set and not empty; a flag goes before it.
pub fn colored(wanted: Color, terminal: bool) -> bool {
    match wanted {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

impl Context {
    pub fn new(global: Global) -> Self {
        Context { global }
    }
    pub fn format(&self) -> Format {
        if self.global.json { Format::Json } else { self.global.format }
    }
    pub fn is_json(&self) -> bool {
        self.format() == Format::Json
    }
    pub fn is_quiet(&self) -> bool {
        self.global.quiet
    }
    pub fn color_on_stderr(&self) -> bool {
        colored(self.global.color, std::io::stderr().is_terminal())
    }
    pub fn home(&self) -> Result<Home, Fault> {
        Home::find(self.global.home.clone())
    }

    /// The node of this home, started when none runs.
    pub fn node(&self) -> Result<Client, Failure> {
        let home = self.home()?;
        let started = start::ensure(&home, &self.global)?;
        let client = Client::new(&home);
        if !started {
            self.block_on(start::join(&client, &self.global))?;
        }
        Ok(client)
    }

    /// Runs to the end, or until Ctrl-C.
    pub fn block_on<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Failure> {
        self.runtime()?.block_on(async {
            let interrupted = interruption()?;
            tokio::select! {
                done = work => Ok(done?),
                () = interrupted => Err(Failure::Interrupted),
            }
        })
    }
    /// One thread: a command waits for the node, it does not work.
    pub fn runtime(&self) -> Result<tokio::runtime::Runtime, Fault> {
        let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
        built.map_err(|error| Fault::internal(format!("no runtime: {error}")))
    }

    /// As `confirm`, for what cannot be undone: a script has to say that it means it.
    pub fn confirm_for_good(&self, question: &str) -> Result<bool, Fault> {
        let asks = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if !self.global.yes && !asks {
            return Err(Fault::invalid("this cannot be undone, and nobody is there to be asked")
                .hint("--yes says that it is meant"));
        }
        self.confirm(question)
    }
    /// Asks on a terminal; a script that gets this far means it.
    pub fn confirm(&self, question: &str) -> Result<bool, Fault> {
        if self.global.yes || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Ok(true);
        }
        eprint!("{question} [y/N] ");
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        read.map_err(|error| Fault::internal(format!("cannot read the answer: {error}")))?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }
}

/// Ctrl-C, or somebody else's wish that this ends. Watched from the call on, before the future is first polled, so that
/// no request goes out which a signal could orphan.
pub fn interruption() -> Result<impl Future<Output = ()>, Fault> {
    let watch = |kind| signal(kind).map_err(|error| Fault::internal(format!("no signals: {error}")));
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut terminate = watch(SignalKind::terminate())?;
    let mut hangup = watch(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

/// The ending of a command that was told no.
pub fn left_alone(context: &Context) -> Outcome {
    context.say("left as it is");
    Ok(1)
}
