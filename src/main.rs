//! The `cloister` command: reads what is asked and of which configuration, and hands over.
//!
//! It knows no sandbox and no wire; each subcommand is a module of its own.

mod accept;
mod api;
mod attach;
mod auth;
mod cell;
mod cli;
mod command;
mod config;
mod doctor;
mod host;
mod image;
mod manual;
mod project;
mod record;
mod routes;
mod run;
mod screen;
mod serve;
mod session;
mod token;
mod tty;
mod wire;
mod ws;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use config::Config;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let failed = cli.command.failure_status();
    match dispatch(cli) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("cloister: {}", in_one_line(&error));
            ExitCode::from(failed)
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    log_to_stderr(cli.command.log_level());
    let flags = cli.flags();
    let config = || Config::load(cli.options.config.as_deref(), &flags);
    match cli.command {
        Command::Serve(_) => serve::run(host::Host::start(config()?)?),
        Command::Image(command) => image::run(config()?, &command),
        Command::Project(command) => command::run(config()?, &command),
        Command::Run(options) => run::run(config()?, &options),
        Command::Attach(options) => attach::run(&config()?, options),
        Command::Completions { shell } => manual::completions(shell).map(|()| ExitCode::SUCCESS),
        Command::Man { folder } => manual::man(&folder).map(|()| ExitCode::SUCCESS),
        Command::Doctor { json } => doctor::run(&config()?, json),
    }
}

/// An error with its causes, without those that it names itself.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if !line.ends_with(&cause) {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(&cause);
        }
    }
    line
}

/// Logs to standard error from `level` on, or as `CLOISTER_LOG` says (the syntax of tracing-subscriber's `EnvFilter`).
fn log_to_stderr(level: &str) {
    let filter = std::env::var("CLOISTER_LOG").unwrap_or_else(|_| level.to_owned());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).with_env_filter(filter).init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_is_told_once() {
        let error = Err::<(), _>(anyhow::anyhow!("c")).context("b: c").context("a").unwrap_err();
        assert_eq!(in_one_line(&error), "a: b: c");
    }
}
