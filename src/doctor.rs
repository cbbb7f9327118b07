//! `cloister doctor`: what this machine offers and lacks for cells, each with its remedy.
//!
//! Every probe asks the kernel or reads what it says; none makes, mounts or changes anything that outlives it. It starts no
//! cell, so what it calls ok may still fail for a reason it doesn't know.

mod cell;
mod certificate;
mod cgroups;
mod host;
mod kernel;
mod leftovers;
mod machine;
mod state;
mod url;

use std::fmt;
use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Context;
use sandbox::spec::ProjectId;
use serde::Serialize;

use crate::cli::Access;
use crate::client::{Address, bearer};
use crate::config::Config;
use crate::token;
use url::Look;

/// How well a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// Cells run, with less than they could have.
    Lacks,
    /// Cells can't run.
    Fails,
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    state: State,
    thing: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(thing: &'static str, detail: impl Into<String>) -> Self {
        Self { state: State::Ok, thing, detail: detail.into(), remedy: None }
    }

    fn lacks(thing: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Lacks, thing, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    fn fails(thing: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Fails, thing, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

/// Prints the findings; the exit status says whether cells can run.
pub(crate) fn run(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let state = [state::findings(config), host::findings(config), leftovers::findings(config)].concat();
    let state = [state, certificate::findings(config)].concat();
    let rest = [cgroups::findings(config), machine::findings(config), state].concat();
    // Last: to see what it may do, who isn't root goes where it is.
    let findings = [kernel::findings(), rest].concat();
    let cells = findings.iter().all(|finding| finding.state != State::Fails);
    print(&serde_json::json!({ "cells": cells, "findings": findings }), &findings, json)?;
    Ok(if cells { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what lies between a running server and its clients; the exit status says whether terminals work all the way.
pub(crate) fn look_through(config: &Config, url: &str, access: Access, json: bool) -> anyhow::Result<ExitCode> {
    let token = access.token.map_or_else(|| token::of_this_machine(config), Ok)?;
    let look = Look { address: Address::parse(url, access.cacert.as_deref())?, bearer: bearer(&token)? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let findings = runtime.block_on(look.findings());
    let terminals = findings.iter().all(|finding| finding.state != State::Fails);
    print(&serde_json::json!({ "terminals": terminals, "findings": findings }), &findings, json)?;
    Ok(if terminals { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints findings as lines, or the report that they are in.
fn print(report: &serde_json::Value, findings: &[Finding], json: bool) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    if json {
        writeln!(out, "{report:#}")?;
        return Ok(());
    }
    for finding in findings {
        writeln!(out, "{finding}")?;
    }
    Ok(())
}

/// Prints how far each measure is enforced on a project's running cell; the exit status says whether all are, at least partly.
pub(crate) fn look_at(config: &Config, project: &str, json: bool) -> anyhow::Result<ExitCode> {
    let id = ProjectId::parse(project).with_context(|| format!("project `{}`", project.escape_debug()))?;
    let measures = cell::findings(config, &id)?;
    let enforced = measures.iter().all(|measure| measure.state != State::Fails);
    let word = |state| match state {
        State::Ok => "fully",
        State::Lacks => "partly",
        State::Fails => "not",
    };
    let mut out = stdout().lock();
    if json {
        let measures: Vec<_> = measures
            .iter()
            .map(|Finding { state, thing, detail, remedy }| {
                serde_json::json!({ "enforced": word(*state), "measure": thing, "detail": detail, "remedy": remedy })
            })
            .collect();
        let report = serde_json::json!({ "project": id, "enforced": enforced, "measures": measures });
        writeln!(out, "{report:#}")?;
    } else {
        for measure in &measures {
            write_line(&mut out, word(measure.state), measure)?;
        }
    }
    Ok(if enforced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_line(
    out: &mut impl Write,
    word: &str,
    Finding { thing, detail, remedy, .. }: &Finding,
) -> std::io::Result<()> {
    let remedy = remedy.as_ref().map(|remedy| format!(": {remedy}")).unwrap_or_default();
    writeln!(out, "{word:<7}{thing:<20}{detail}{remedy}")
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Lacks => "lacks",
            State::Fails => "fails",
        };
        write!(f, "{state:<7}{:<17}{}", self.thing, self.detail)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, ": {remedy}"))
    }
}

/// A file of /proc or /sys as text; empty if it isn't there, which is how a kernel says that it has no such thing.
fn kernel_text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_in_columns_with_their_remedy() {
        let lines =
            [Finding::ok("kernel", "6.1.0"), Finding::fails("overlay", "no such file system", "modprobe overlay")];
        assert_eq!(
            lines.map(|line| line.to_string()),
            ["ok     kernel           6.1.0", "fails  overlay          no such file system: modprobe overlay"]
        );
    }

    #[test]
    fn a_finding_without_remedy_has_none_in_json() {
        let json = serde_json::to_value(Finding::ok("kernel", "6.1.0")).unwrap();
        assert_eq!(json, serde_json::json!({ "state": "ok", "thing": "kernel", "detail": "6.1.0" }));
    }
}
