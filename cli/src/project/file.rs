//! A project file as it is written: what stands where, before anybody asks what it means. JSON is YAML, too.
use protocol::Fault;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, Visitor};
use serde_saphyr::{Location, Spanned};
use std::fmt;
use std::path::Path;

/// Of a file; a thousand instances take less than half of it.
const MAX_FILE: u64 = 1 << 20;

/// What belongs together and is rented together
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "golemnode project")]
pub struct ProjectFile {
    /// What the project is called: lower-case letters, digits and dashes
    #[schemars(with = "String")]
    pub project_name: Spanned<Scalar>,
    #[schemars(with = "Vec<Instance>")]
    pub instances: Spanned<Vec<Instance>>,
}

/// One VM, or several that are alike
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// The VM's name; of several, the second is name-2
    #[schemars(with = "String")]
    pub name: Spanned<Scalar>,
    /// How many of them; 1 unless given
    #[schemars(with = "Option<u32>")]
    pub number_of_instances: Option<Spanned<Scalar>>,
    /// auto, a peer id, a backend, or what it has to be: country=DE,arch=x86_64,isolation=any
    #[schemars(with = "Option<String>")]
    pub provider: Option<Spanned<Scalar>>,
    /// Made by this backend only
    #[schemars(with = "Option<String>")]
    pub backend: Option<Spanned<Scalar>>,
    /// As much as 'vm create' takes unless given
    pub resources: Option<Machine>,
    /// What to boot, such as debian:12
    #[schemars(with = "Option<String>")]
    pub image: Option<Spanned<Scalar>>,
    /// The same in the words of other providers: ubuntu-22.04 is ubuntu:22.04
    #[schemars(with = "Option<String>")]
    pub template: Option<Spanned<Scalar>>,
    /// A name from 'key list', or a key file; a pair of its own for each VM unless given
    #[schemars(with = "Option<String>")]
    pub ssh_key_name: Option<Spanned<Scalar>>,
    pub network: Option<Network>,
    #[schemars(with = "Option<Vec<Volume>>")]
    pub volumes: Option<Spanned<Vec<Volume>>>,
    /// Whether the script is run on those that are new
    #[schemars(with = "Option<bool>")]
    pub provision: Option<Spanned<bool>>,
    /// A script for sh, run by the guest's user; a path beside this file
    #[schemars(with = "Option<String>")]
    pub script: Option<Spanned<Scalar>>,
    /// cloud-init user-data
    #[schemars(with = "Option<String>")]
    pub user_data: Option<Spanned<Scalar>>,
    /// How long they are rented, such as 2h; 24h unless given
    #[schemars(with = "Option<String>")]
    pub duration: Option<Spanned<Scalar>>,
    /// What all of them may cost together, for that time
    #[schemars(with = "Option<Number>")]
    pub budget: Option<Spanned<Scalar>>,
    /// Each at another provider, as far as there are that many
    #[schemars(with = "Option<bool>")]
    pub spread: Option<Spanned<bool>>,
    /// Of VirtFusion
    #[schemars(with = "Option<u64>")]
    pub hypervisor_id: Option<Spanned<Scalar>>,
    /// Of VirtFusion
    #[schemars(with = "Option<String>")]
    pub hypervisor_group: Option<Spanned<Scalar>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    #[schemars(with = "Option<u32>")]
    pub cpu: Option<Spanned<Scalar>>,
    /// A number of MB, or a size such as 2G
    #[schemars(with = "Option<Number>")]
    pub memory: Option<Spanned<Scalar>>,
    /// A number of GB, or a size such as 20G
    #[schemars(with = "Option<Number>")]
    pub disk: Option<Spanned<Scalar>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    #[schemars(with = "Option<bool>")]
    pub public_ip: Option<Spanned<bool>>,
    /// Mbit/s
    #[schemars(with = "Option<u64>")]
    pub bandwidth: Option<Spanned<Scalar>>,
    /// Of VirtFusion
    #[schemars(with = "Option<u64>")]
    pub profile_id: Option<Spanned<Scalar>>,
    /// Of VirtFusion
    #[schemars(with = "Option<Vec<u64>>")]
    pub firewall_rulesets: Option<Spanned<Vec<Spanned<Scalar>>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    #[schemars(with = "String")]
    pub name: Spanned<Scalar>,
    #[schemars(with = "u64")]
    pub size_gb: Spanned<Scalar>,
    #[schemars(with = "Option<String>")]
    pub mount_point: Option<Spanned<Scalar>>,
}

/// For the schema: people write either.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its form counts")]
enum Number {
    Plain(f64),
    Text(String),
}

/// A number or a text, as it stands there: what it has to be is asked where it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    pub text: String,
    /// Without a unit and without quotes.
    pub is_number: bool,
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text or a number")
            }
            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar { text: text.to_owned(), is_number: false })
            }
            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar { text: number.to_string(), is_number: true })
            }
            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar { text: number.to_string(), is_number: true })
            }
            fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar { text: number.to_string(), is_number: true })
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A place in a file, as editors and compilers write it.
pub fn at(file: &str, location: Option<&Location>) -> String {
    match location.filter(|at| at.line() > 0) {
        Some(at) => format!("{file}:{}:{}", at.line(), at.column()),
        None => file.to_owned(),
    }
}

pub fn read(path: &Path) -> Result<String, Fault> {
    let unreadable = |error: std::io::Error| Fault::invalid(format!("cannot read {}: {error}", path.display()));
    let size = path.metadata().map_err(unreadable)?.len();
    if size > MAX_FILE {
        return Err(Fault::invalid(format!(
            "{} has {size} bytes; a project file has at most {MAX_FILE}",
            path.display()
        )));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

pub fn parse(file: &str, text: &str) -> Result<ProjectFile, Fault> {
    if text.trim().is_empty() {
        return Err(Fault::invalid(format!("{file}: there is nothing in it"))
            .hint("a project has project_name and instances; 'golemnode schema' describes it"));
    }
    let mut field = String::new();
    let parsed = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        let mut track = serde_path_to_error::Track::new();
        let parsed = ProjectFile::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track));
        // A value with its place has a step of its own in the path.
        field = track.path().to_string().replace(".value", "");
        parsed
    });
    parsed.map_err(|error| {
        let place = at(file, error.location().as_ref());
        let message = plainly(&error.without_snippet().to_string());
        let named = !matches!(field.as_str(), "" | "." | "?");
        let message = if named { format!("{place}: {field}: {message}") } else { format!("{place}: {message}") };
        Fault::invalid(message).hint("'golemnode schema' describes every field")
    })
}

/// In the words of somebody who writes such a file.
fn plainly(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(message);
    let message = message.split("; use from_str_multiple").next().unwrap_or(message);
    message
        .replace("expected sequence start", "a list is wanted here")
        .replace("expected mapping start", "fields with values are wanted here")
        .replace("duplicate mapping key: ", "given twice: ")
        .replace("multiple YAML documents detected", "there is more than one document in the file")
}
