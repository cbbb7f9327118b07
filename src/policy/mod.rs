//! The `cloister policy` commands: what programs in a cell may ask of the kernel, and what one of them ran into. They start
//! nothing and change nothing.

mod check;
mod show;
mod trace;

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use sandbox::policy::{Catalogue, Choice};
use sandbox::spec::ProjectId;

use crate::cli::{PolicyCommand, WhosePolicy};
use crate::config::Config;
use crate::project;

/// Does what is asked with the policy.
pub(crate) fn run(config: &Config, command: &PolicyCommand) -> anyhow::Result<ExitCode> {
    let catalogue = Catalogue::get();
    let (whose, trace) = match command {
        PolicyCommand::Show { whose } => (whose, None),
        PolicyCommand::Check { whose, trace } => (whose, Some(trace)),
    };
    let choice = choice(config, whose)?;
    let policy = catalogue.policy(&choice).map_err(anyhow::Error::msg)?;
    let (text, status) = match trace {
        None => (show::text(catalogue, &policy, &choice), ExitCode::SUCCESS),
        Some(path) => {
            let report = read(path, |input| check::read(input, &policy))?;
            let status = if report.refuses() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            (report.text(catalogue, &choice), status)
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever looks at the first lines alone has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(status),
        other => other.context("write the answer").map(|()| status),
    }
}

fn choice(config: &Config, whose: &WhosePolicy) -> anyhow::Result<Choice> {
    if let Some(id) = &whose.project {
        let id = ProjectId::parse(id).with_context(|| format!("project `{}`", id.escape_debug()))?;
        return Ok(project::policy(config, &id)?);
    }
    let profile = match &whose.profile {
        Some(name) => name.parse().map_err(anyhow::Error::msg).context("--profile")?,
        None => config.policy.profile,
    };
    Ok(Choice { profile, ..Choice::default() })
}

/// Hands a file, or standard input as `-`, to who reads it.
fn read<T>(path: &Path, act: impl FnOnce(&mut dyn io::BufRead) -> anyhow::Result<T>) -> anyhow::Result<T> {
    if path == Path::new("-") {
        return act(&mut io::stdin().lock()).context("standard input");
    }
    let open = || act(&mut BufReader::new(File::open(path)?));
    open().with_context(|| path.display().to_string())
}
