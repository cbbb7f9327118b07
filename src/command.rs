//! The `cloister project` commands: one verb on the projects, then over. No server is needed, and one that runs is no harm.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use sandbox::spec::ProjectId;
use sandbox::usage::{Stall, Usage};

use crate::cli::ProjectCommand;
use crate::config::Config;
use crate::host::Host;
use crate::project::{Changes, Error, Projects, Summary};

/// Does what is asked with projects.
pub(crate) fn run(config: Config, command: &ProjectCommand) -> anyhow::Result<ExitCode> {
    let id = match command {
        ProjectCommand::Create { id, .. }
        | ProjectCommand::Rm { id }
        | ProjectCommand::Set { id, .. }
        | ProjectCommand::Usage { id, .. }
        | ProjectCommand::Stop { id: Some(id), .. } => {
            Some(ProjectId::parse(id).with_context(|| format!("project `{}`", id.escape_debug()))?)
        }
        // `why` asks a server, and comes here never.
        ProjectCommand::Ls | ProjectCommand::Why(_) | ProjectCommand::Stop { id: None, .. } => None,
    };
    let changes = match command {
        ProjectCommand::Set { settings, .. } => changes(settings)?,
        _ => Changes::new(),
    };
    let host = Host::start(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let projects = Projects::new(host, false)?;
        match (command, id) {
            (ProjectCommand::Create { image, .. }, Some(id)) => projects.create(&id, image.as_deref())?,
            (ProjectCommand::Rm { .. }, Some(id)) => projects.remove(&id).await?,
            (ProjectCommand::Set { .. }, Some(id)) => set(&projects, &id, changes).await?,
            (ProjectCommand::Usage { json, .. }, Some(id)) => usage(&projects, &id, *json).await?,
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
    let failed = projects.stop_all().await?;
    for (id, error) in &failed {
        eprintln!("cloister: project {id}: {error}");
    }
    if !failed.is_empty() {
        bail!("{} cells were not stopped", failed.len());
    }
    Ok(())
}

/// Words as in `limits.pids_max=2000`.
fn changes(words: &[String]) -> anyhow::Result<Changes> {
    let change = |word: &String| {
        let change = word.strip_prefix("limits.").and_then(|rest| rest.split_once('='));
        let (key, value) =
            change.with_context(|| format!("`{}`: expected limits.<key>=<number>", word.escape_debug()))?;
        let number = || value.replace('_', "").parse().with_context(|| format!("limits.{key}: `{value}` is no number"));
        anyhow::Ok((key.to_owned(), if value.is_empty() { None } else { Some(number()?) }))
    };
    words.iter().map(change).collect()
}

async fn set(projects: &Projects, id: &ProjectId, changes: Changes) -> anyhow::Result<()> {
    let changed = projects.set_limits(id, changes).await?;
    let when = if changed.applied { "hold in the running cell" } else { "hold from the next start of its cell on" };
    println!("limits of {id} {when}");
    for key in changed.next_start {
        println!("limits.{key} is each process's own: the cell has it from its next start on");
    }
    Ok(())
}

async fn usage(projects: &Projects, id: &ProjectId, json: bool) -> anyhow::Result<()> {
    let usage = projects.usage(id).await?.with_context(|| format!("project {id} has no cell"))?;
    let text = if json { serde_json::to_string_pretty(&usage)? + "\n" } else { table(&usage) };
    io::stdout().write_all(text.as_bytes()).context("write what it uses")
}

/// What a cell uses, for people.
fn table(usage: &Usage) -> String {
    let Usage { memory, cpu, pids, pressure } = usage;
    let mib = |bytes: Option<u64>| bytes.map_or("?".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    let count = |count: Option<u64>| count.map_or("?".to_owned(), |count| count.to_string());
    let seconds = |us: Option<u64>| us.map_or("?".to_owned(), |us| format!("{:.1} s", us as f64 / 1e6));
    let mut text = format!(
        "memory     {} of {}, at most {}; {} killed{}\n\
         processor  {} of its time, {} held back; {} thousandths of one\n\
         processes  {} of {}, at most {}; {} refused\n",
        mib(memory.bytes),
        mib(memory.bytes_max),
        mib(memory.bytes_peak),
        memory.kills,
        memory.victim.as_ref().map(|victim| format!(", {} last", victim.escape_debug())).unwrap_or_default(),
        seconds(cpu.used_us),
        seconds(cpu.throttled_us),
        count(cpu.millis_max),
        count(pids.count),
        count(pids.max),
        count(pids.peak),
        pids.refusals,
    );
    for (name, stall) in [("processor", pressure.cpu), ("memory", pressure.memory), ("disk", pressure.io)] {
        if let Some(Stall { some_percent, full_percent, .. }) = stall {
            text += &format!("waiting    for {name}: some {some_percent} %, all {full_percent} % of the last 10 s\n");
        }
    }
    text
}
