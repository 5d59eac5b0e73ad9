//! `golemnode key …`: named SSH key pairs, which `vm create --ssh-key NAME` takes.
use crate::context::{Context, left_alone};
use crate::failure::Outcome;
use crate::output::table;
use clap::Subcommand;
use node::config::{Home, io};
use protocol::{ErrorCode, Fault};
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

#[derive(Subcommand)]
pub enum KeyCommand {
    /// Make a key pair
    Generate { name: KeyName },
    /// List the key pairs of this home
    List,
    /// Remove a key pair; VMs that know it keep knowing it
    Remove { name: KeyName },
}

/// A name that is also a file's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct KeyName(pub String);

impl FromStr for KeyName {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        let fine = (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !text.ends_with(".pub");
        if fine {
            return Ok(KeyName(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(Fault::invalid(format!("'{shown}' is not a key name"))
            .hint("use up to 64 letters, digits, dots, dashes and underscores"))
    }
}

#[derive(Debug, Serialize)]
pub struct KeyView {
    pub name: KeyName,
    public_key: String,
    identity_file: PathBuf,
}

fn folder(home: &Home) -> PathBuf {
    home.ssh().join("keys")
}

/// The private file of a named pair, when there is one.
pub fn find(home: &Home, name: &str) -> Option<PathBuf> {
    let name: KeyName = name.parse().ok()?;
    Some(folder(home).join(name.0)).filter(|path| path.is_file())
}

pub fn run(context: &Context, command: KeyCommand) -> Outcome {
    let home = context.home()?;
    match command {
        KeyCommand::Generate { name } => {
            home.create()?;
            let key = generate(&home, name)?;
            context.show(&key, || format!("{}\n", key.public_key))
        }
        KeyCommand::List => {
            let keys = list(&home)?;
            context.show(&keys, || text(&keys))
        }
        KeyCommand::Remove { name } => {
            let private = find(&home, &name.0).ok_or_else(|| none(&name))?;
            if !context.confirm(&format!("remove the key '{}'?", name.0))? {
                return left_alone(context);
            }
            remove(&private)?;
            Ok(0)
        }
    }
}

fn none(name: &KeyName) -> Fault {
    Fault::new(ErrorCode::NoSuchResource, format!("no key is named '{}'", name.0))
        .hint("'golemnode key list' shows those there are")
}

fn generate(home: &Home, name: KeyName) -> Result<KeyView, Fault> {
    let dir = folder(home);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(|error| io("create", &dir, &error))?;
    let (private, public) = node::ssh::generate(&name.0)?;
    let path = dir.join(&name.0);
    // `create_new`: a key in use is never overwritten, whoever else makes one now.
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let mut file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Fault::invalid(format!("a key is named '{}' already", name.0))
            .hint("choose another name, or remove it with 'golemnode key remove'"),
        _ => io("write", &path, &error),
    })?;
    file.write_all(private.as_bytes()).map_err(|error| io("write", &path, &error))?;
    let public_path = public_path(&path);
    fs::write(&public_path, format!("{public}\n")).map_err(|error| io("write", &public_path, &error))?;
    Ok(KeyView { name, public_key: public, identity_file: path })
}

fn public_path(private: &Path) -> PathBuf {
    let mut name = private.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

pub fn list(home: &Home) -> Result<Vec<KeyView>, Fault> {
    let dir = folder(home);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io("read", &dir, &error)),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<KeyName>().ok());
    let mut keys = Vec::new();
    for name in names {
        let identity_file = dir.join(&name.0);
        let public = fs::read_to_string(public_path(&identity_file)).unwrap_or_default();
        keys.push(KeyView { name, public_key: public.trim().to_owned(), identity_file });
    }
    keys.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(keys)
}

fn remove(private: &Path) -> Result<(), Fault> {
    fs::remove_file(private).map_err(|error| io("remove", private, &error))?;
    let public = public_path(private);
    match fs::remove_file(&public) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &public, &error)),
        _ => Ok(()),
    }
}

fn text(keys: &[KeyView]) -> String {
    let row = |key: &KeyView| vec![key.name.0.clone(), key.identity_file.display().to_string(), key.public_key.clone()];
    table(&["NAME", "FILE", "PUBLIC KEY"], &keys.iter().map(row).collect::<Vec<_>>())
}
