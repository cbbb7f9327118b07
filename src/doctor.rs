//! `cloister doctor`: what this machine offers and lacks for cells, each with its remedy.
//!
//! Every probe asks the kernel or reads what it says; none makes, mounts or changes anything that outlives it. It starts no
//! cell, so what it calls ok may still fail for a reason it doesn't know.

mod cgroups;
mod kernel;
mod machine;
mod state;

use std::fmt;
use std::io::{Write, stdout};
use std::process::ExitCode;

use serde::Serialize;

use crate::config::Config;

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
    let findings = [kernel::findings(), cgroups::findings(config), machine::findings(config), state::findings(config)];
    let findings = findings.concat();
    let cells = findings.iter().all(|finding| finding.state != State::Fails);
    let mut out = stdout().lock();
    if json {
        let report = serde_json::json!({ "cells": cells, "findings": findings });
        writeln!(out, "{report:#}")?;
    } else {
        for finding in &findings {
            writeln!(out, "{finding}")?;
        }
    }
    Ok(if cells { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
