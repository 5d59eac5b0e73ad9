//! Roles played by processes of their own, so that each has its own runtime, heap and scheduler, as nodes have.
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

pub struct Child {
    process: std::process::Child,
    /// What it said first: where it is.
    pub said: String,
}

impl Child {
    /// This program again, in a role.
    pub fn role(name: &str, args: &[&str]) -> std::io::Result<Self> {
        let mut process =
            Command::new(std::env::current_exe()?).arg("role").arg(name).args(args).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut said)?;
        }
        if said.is_empty() {
            return Err(std::io::Error::other(format!("the role {name} ended: {}", process.wait()?)));
        }
        Ok(Child { process, said: said.trim().to_owned() })
    }
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // One that has ended by itself is no trouble.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn say(what: impl Display) {
    println!("{what}");
    let _ = std::io::stdout().flush();
}
