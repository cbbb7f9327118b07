//! The `cloister` command: reads what is asked and of which configuration, and hands over.
//!
//! It knows no sandbox and no wire; each subcommand is a module of its own.

mod accept;
#[cfg(feature = "acme")]
mod acme;
mod api;
mod attach;
mod auth;
mod cell;
mod cli;
mod client;
mod command;
mod config;
mod doctor;
mod host;
mod image;
mod launcher;
mod log;
mod manual;
mod metrics;
mod policy;
mod project;
mod proxy;
mod record;
mod routes;
mod run;
mod screen;
mod serve;
mod service;
mod session;
mod stream;
mod tls;
mod token;
mod top;
mod traces;
mod tty;
mod watch;
mod why;
mod wire;
mod ws;

use std::process::ExitCode;

use anyhow::ensure;
use clap::Parser;

use cli::{Cli, Command, ProjectCommand};
use config::{Config, LogFormat};

/// Whether this program fetches certificates.
const ACME: bool = cfg!(feature = "acme");

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
    let (flags, level) = (cli.flags(), cli.command.log_level());
    let config = || Config::load(cli.options.config.as_deref(), &flags).and_then(|config| known(config, ACME));
    if !cli.command.logs_as_told() {
        log::start(level, LogFormat::Text, None)?;
    }
    match cli.command {
        Command::Serve(_) => {
            let config = config()?;
            let (traces, trouble) = match traces::prepare() {
                Ok(traces) => (traces, None),
                Err(error) => (None, Some(in_one_line(&error))),
            };
            log::start(level, config.log_format, traces.as_ref())?;
            if let Some(error) = trouble {
                tracing::warn!(error, "no traces are exported");
            }
            serve::run(config, traces)
        }
        Command::Launcher => match launcher::run(&config()?)? {},
        Command::Image(command) => image::run(config()?, &command),
        Command::Project(ProjectCommand::Why(options)) => why::run(&config()?, options),
        Command::Project(command) => command::run(config()?, &command),
        Command::Policy(command) => policy::run(&config()?, &command),
        Command::Run(options) => run::run(config()?, &options),
        Command::Attach(options) => attach::run(&config()?, options),
        Command::Top(options) => top::run(&config()?, options),
        Command::Config => {
            print!("{}", config()?.to_file());
            Ok(ExitCode::SUCCESS)
        }
        #[cfg(feature = "acme")]
        Command::Acme => acme::run(),
        Command::Completions { shell } => manual::completions(shell).map(|()| ExitCode::SUCCESS),
        Command::Man { folder } => manual::man(&folder).map(|()| ExitCode::SUCCESS),
        Command::Doctor { url: Some(url), access, json, .. } => doctor::look_through(&config()?, &url, access, json),
        Command::Doctor { cell: None, json, .. } => doctor::run(&config()?, json),
        Command::Doctor { cell: Some(project), json, .. } => doctor::look_at(&config()?, &project, json),
    }
}

/// A configuration, unless it asks for what this program was built without.
fn known(config: Config, acme: bool) -> anyhow::Result<Config> {
    ensure!(
        acme || !config.tls.is_fetched(),
        "tls.acme_domains is set and this program was built without ACME: take a package, or build it with the feature `acme`, or set \
         tls.certificate and tls.key"
    );
    Ok(config)
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

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn what_was_not_built_is_named() {
        let mut config = Config::default();
        assert!(known(config.clone(), false).is_ok());
        config.tls.acme_domains.push("ide.example.org".to_owned());
        assert!(known(config.clone(), true).is_ok());
        let error = known(config, false).unwrap_err().to_string();
        assert!(error.starts_with("tls.acme_domains is set and this program was built without ACME"), "{error}");
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = Err::<(), _>(anyhow::anyhow!("c")).context("b: c").context("a").unwrap_err();
        assert_eq!(in_one_line(&error), "a: b: c");
    }
}
