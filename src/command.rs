//! The `cloister project` commands: one verb on the projects, then over. No server is needed, and one that runs is no harm.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use sandbox::spec::ProjectId;

use crate::cli::ProjectCommand;
use crate::config::Config;
use crate::host::Host;
use crate::project::{Error, Projects, Summary};

/// Does what is asked with projects.
pub(crate) fn run(config: Config, command: &ProjectCommand) -> anyhow::Result<ExitCode> {
    let id = match command {
        ProjectCommand::Create { id, .. } | ProjectCommand::Rm { id } | ProjectCommand::Stop { id: Some(id), .. } => {
            Some(ProjectId::parse(id).with_context(|| format!("project `{}`", id.escape_debug()))?)
        }
        ProjectCommand::Ls | ProjectCommand::Stop { id: None, .. } => None,
    };
    let host = Host::start(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let projects = Projects::new(host, false)?;
        match (command, id) {
            (ProjectCommand::Create { image, .. }, Some(id)) => projects.create(&id, image.as_deref())?,
            (ProjectCommand::Rm { .. }, Some(id)) => projects.remove(&id).await?,
            (ProjectCommand::Stop { .. }, Some(id)) => stop(&projects, &id).await?,
            (ProjectCommand::Stop { .. }, None) => stop_all(&projects).await?,
            _ => list(&projects).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Prints all projects, with the sessions of those that have a cell.
async fn list(projects: &Projects) -> anyhow::Result<()> {
    // Only a cell knows its sessions.
    projects.adopt().await;
    let summaries = projects.list()?;
    let width = summaries.iter().map(|summary| summary.id.as_str().len()).max().unwrap_or(0).max("PROJECT".len());
    let mut table = format!("{:width$}  {:7}  SESSIONS\n", "PROJECT", "CELL");
    for Summary { id, running, sessions } in summaries {
        let sessions: Vec<_> = sessions.iter().map(|session| session.as_str()).collect();
        let cell = if running { "running" } else { "-" };
        let line = format!("{:width$}  {cell:7}  {}", id.as_str(), sessions.join(" "));
        table.push_str(line.trim_end());
        table.push('\n');
    }
    io::stdout().write_all(table.as_bytes()).context("write the list")
}

async fn stop(projects: &Projects, id: &ProjectId) -> Result<(), Error> {
    if !projects.exists(id)? && !projects.running()?.contains(id) {
        return Err(Error::NotFound(id.clone()));
    }
    projects.stop(id).await
}

/// Stops every cell in the run directory, also after one of them doesn't let itself be stopped.
async fn stop_all(projects: &Projects) -> anyhow::Result<()> {
    let mut failed = 0;
    for id in projects.running()? {
        if let Err(error) = projects.stop(&id).await {
            eprintln!("cloister: project {id}: {error}");
            failed += 1;
        }
    }
    if failed > 0 {
        bail!("{failed} cells were not stopped");
    }
    Ok(())
}
