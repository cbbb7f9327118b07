//! The command line: what can be asked of `cloister`, with every help text. It decides nothing.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::{Flag, help};

/// The release, and exactly which commit was built (`build.rs`).
pub(crate) const VERSION: &str = env!("CLOISTER_BUILD");

/// Exit status when `run` or `attach` fails itself, as docker, env and timeout have it: a program's own statuses stay
/// recognizable.
const RELAY_FAILED: u8 = 125;

/// Exit status when `policy check` fails itself: 1 is its answer.
const CHECK_FAILED: u8 = 2;

/// Every project a real terminal in a sandbox of its own, no container engine.
#[derive(Parser)]
#[command(
    name = "cloister",
    version = VERSION,
    max_term_width = 100,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// What holds for all subcommands.
    #[command(flatten)]
    pub(crate) options: Options,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every subcommand: where things lie.
#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct Options {
    /// Configuration file [default: /etc/cloister/config.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE", env = "CLOISTER_CONFIG", hide_env = true)]
    pub(crate) config: Option<PathBuf>,
    #[arg(long, global = true, value_name = "DIR", help = help("state"))]
    state: Option<String>,
    #[arg(long, global = true, value_name = "DIR", help = help("projects"))]
    projects: Option<String>,
    #[arg(long, global = true, value_name = "DIR", help = help("run_dir"))]
    run_dir: Option<String>,
    #[arg(long, global = true, value_name = "NAME", help = help("user"))]
    user: Option<String>,
    #[arg(long, global = true, value_name = "NAME", help = help("cgroup"))]
    cgroup: Option<String>,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve terminals over HTTP and WebSocket
    Serve(ServeOptions),
    /// Make cells for a server that isn't root, as a service of root's
    ///
    /// Listens at launcher.sock in the run directory, or at the socket that the service manager opened, for the service user.
    Launcher,
    /// Manage runner images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Manage projects
    #[command(subcommand)]
    Project(ProjectCommand),
    /// Say which system calls cells may make, and which ones a program ran into
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Run a shell or a command in a project's cell on this terminal, without a server
    ///
    /// Exits with the program's status, 128 + n if signal n killed it, or 125 if cloister itself failed.
    Run(RunOptions),
    /// Attach this terminal to a session of a running server
    ///
    /// The session outlives this terminal, and both outlive the connection: when it breaks or the server restarts, the
    /// window's title says so, what is typed meanwhile arrives later, and the output goes on where it was.
    ///
    /// Exits with the program's status, 128 + n if signal n killed it, 0 after detaching, or 125 if cloister itself failed.
    Attach(AttachOptions),
    /// Show the cells of a running server and what they use, live
    ///
    /// CPU is in percent of one processor; the columns behind PIDS say how much of the last 10 s some of a cell's tasks had to wait
    /// for a processor, for memory and for disks (PSI). Keys: c, m, p, w, l, u, i sort by processor, memory, processes, waiting,
    /// clients, uptime and id; q quits.
    Top(TopOptions),
    /// Say what this machine offers and lacks for cells, each with its remedy
    ///
    /// With --url: what a proxy between clients and the server swallows, changes, holds back or cuts, each with its remedy for
    /// nginx, Caddy and HAProxy; this takes half a minute.
    ///
    /// With --cell: which of its measures the kernel really enforces on a running cell, fully, partly or not; the exit status
    /// is 1 if one is not enforced.
    Doctor {
        /// Look at this project's running cell instead
        #[arg(long, value_name = "PROJECT")]
        cell: Option<String>,
        /// Look at a running server through this address instead, https:// or http://, and at what lies between
        #[arg(long, conflicts_with = "cell")]
        url: Option<String>,
        /// What it takes to ask there.
        #[command(flatten)]
        access: Access,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the configuration in force, as the file that says it, with every key explained
    Config,
    /// Fetch the server's certificate and renew it: `serve` starts this
    #[cfg(feature = "acme")]
    #[command(hide = true)]
    Acme,
    /// Print a shell's completion script
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the man pages
    #[command(hide = true)]
    Man {
        /// Folder to write into; made if missing
        folder: PathBuf,
    },
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeOptions {
    #[arg(long, value_name = "ADDRESS", help = help("listen"))]
    listen: Option<String>,
    #[arg(long, help = help("create_projects"))]
    create_projects: bool,
    #[arg(long, value_name = "FORMAT", help = help("log_format"))]
    log_format: Option<String>,
}

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Import an OCI layout folder, an OCI archive or a `docker save` archive
    Import {
        /// Folder or archive
        path: PathBuf,
        /// Name to keep it under [default: the name in the image, else the file's]
        #[arg(long)]
        name: Option<String>,
        /// Which image, if there are several: the name or tag it has there
        #[arg(long, value_name = "NAME")]
        reference: Option<String>,
    },
    /// Pull an image from a registry
    Pull {
        /// Reference, such as `debian:12` or `localhost:5000/tools@sha256:…`
        reference: String,
        /// Name to keep it under [default: the reference]
        #[arg(long)]
        name: Option<String>,
        /// Speak HTTP without TLS to the registry
        #[arg(long)]
        plain_http: bool,
        /// User name; the password is read from standard input
        #[arg(long)]
        username: Option<String>,
    },
    /// List images
    Ls,
    /// Remove an image's name, and what only it used
    Rm {
        /// Its name
        name: String,
    },
    /// Remove layers and blobs that no image uses
    Prune {
        /// Only say what would be removed, and how much room that is
        #[arg(long)]
        dry_run: bool,
        /// Remove images too that neither a project nor the configuration names
        #[arg(long)]
        unused: bool,
    },
}

/// What can be done with projects; not printable, since it may hold a token.
#[derive(Subcommand)]
pub(crate) enum ProjectCommand {
    /// Create a project
    Create {
        /// Its id: 1 to 40 of a-z, 0-9 and '-'
        id: String,
        /// Its runner image [default: the configured one]
        #[arg(long)]
        image: Option<String>,
    },
    /// List projects
    Ls,
    /// Change a project's limits, in its project.toml and in its running cell
    Set {
        /// Its id
        id: String,
        /// Such as limits.pids_max=2000; with nothing behind the '=' the configured limit holds again
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Say what a project's cell uses, how often it met a limit, and how much it has to wait
    Usage {
        /// Its id
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say why a project's cell runs, is frozen or has ended, and what comes next; the running server is asked
    Why(WhyOptions),
    /// Stop a project's cell and remove the project with all its files
    Rm {
        /// Its id
        id: String,
    },
    /// Stop a project's cell; its files stay
    Stop {
        /// Its id
        #[arg(required_unless_present = "all")]
        id: Option<String>,
        /// Stop every cell
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
}

/// What can be asked of the policy.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Print what is allowed and why, what is refused and why, and what a project may ask for
    Show {
        /// Whose.
        #[command(flatten)]
        whose: WhosePolicy,
    },
    /// Tell which rule each refused call of a trace runs into
    ///
    /// Make the trace in the cell, or anywhere else, with `strace -f -o FILE PROGRAM`.
    /// Exits with 1 if a call is refused, with 2 if the trace can't be read.
    Check {
        /// Whose.
        #[command(flatten)]
        whose: WhosePolicy,
        /// What strace wrote; `-` is standard input
        trace: PathBuf,
    },
}

/// Which policy is meant.
#[derive(Debug, Args)]
pub(crate) struct WhosePolicy {
    /// The profile [default: the configured one]
    #[arg(long, value_parser = ["default", "strict"], conflicts_with = "project")]
    pub(crate) profile: Option<String>,
    /// As a project's cell has it, with what it was granted
    #[arg(long, value_name = "ID")]
    pub(crate) project: Option<String>,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Project id
    pub(crate) project: String,
    /// Command with its arguments [default: the image's shell]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// How a server is asked by `doctor`; not printable, since it may hold a token.
#[derive(Args)]
pub(crate) struct Access {
    /// Token, with --url; better given by the environment [default: the owner's, from the state folder]
    #[arg(long, env = "CLOISTER_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Certificates in PEM to trust besides the system's authorities, with --url
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) cacert: Option<PathBuf>,
}

/// Which server is asked, and with what token; not printable, since it may hold one.
#[derive(Args)]
pub(crate) struct ServerOptions {
    /// The server, as https:// or http:// and an address [default: the configured `listen` address]
    #[arg(long, env = "CLOISTER_URL")]
    pub(crate) url: Option<String>,
    /// Certificates in PEM to trust besides the system's authorities: an authority's, or the server's own
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// Token; better given by the environment, where other users can't see it [default: the owner's, from the state folder]
    #[arg(long, env = "CLOISTER_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

/// Options of `project why`.
#[derive(Args)]
pub(crate) struct WhyOptions {
    /// Its id
    pub(crate) id: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Who is asked.
    #[command(flatten)]
    pub(crate) server: ServerOptions,
}

/// Options of `attach`.
#[derive(Args)]
pub(crate) struct AttachOptions {
    /// Project id
    pub(crate) project: String,
    /// Session within the project
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub(crate) session: String,
    /// See the session without typing into it or changing its size; one that doesn't run isn't started
    #[arg(long)]
    pub(crate) view: bool,
    /// List the project's sessions and who is attached instead
    #[arg(long, conflicts_with_all = ["session", "view"])]
    pub(crate) ls: bool,
    /// Who is asked.
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// Keys that detach, as in `ctrl-p,ctrl-q` or `ctrl-],d`; an empty text for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub(crate) detach_keys: String,
}

/// Options of `top`.
#[derive(Args)]
pub(crate) struct TopOptions {
    /// Sort by this
    #[arg(long, value_enum, default_value_t = SortBy::Cpu)]
    pub(crate) sort: SortBy,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) every: u64,
    /// Print the table once, after a second in which processors are watched
    #[arg(long)]
    pub(crate) once: bool,
    /// Print JSON, once
    #[arg(long)]
    pub(crate) json: bool,
    /// Who is asked.
    #[command(flatten)]
    pub(crate) server: ServerOptions,
}

/// What the table of `top` is sorted by, largest first but for ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortBy {
    /// Use of processors
    Cpu,
    /// Memory
    Memory,
    /// Processes and threads
    Pids,
    /// Time that was waited, for whatever it was most
    Waiting,
    /// Clients
    Clients,
    /// Time since the cell's start
    Uptime,
    /// The project's id
    Id,
}

impl Cli {
    /// The configuration that came by flags.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let Options { config: _, state, projects, run_dir, user, cgroup } = &self.options;
        let mut flags = vec![
            ("state", state.clone()),
            ("projects", projects.clone()),
            ("run_dir", run_dir.clone()),
            ("user", user.clone()),
            ("cgroup", cgroup.clone()),
        ];
        if let Command::Serve(ServeOptions { listen, create_projects, log_format }) = &self.command {
            flags.push(("listen", listen.clone()));
            flags.push(("create_projects", create_projects.then(|| "true".to_owned())));
            flags.push(("log_format", log_format.clone()));
        }
        flags.into_iter().filter_map(|(key, text)| Some(Flag { key, text: text? })).collect()
    }
}

impl Command {
    /// Exit status when it fails before there is any other.
    pub(crate) fn failure_status(&self) -> u8 {
        match self {
            Self::Run(_) | Self::Attach(_) => RELAY_FAILED,
            Self::Policy(PolicyCommand::Check { .. }) => CHECK_FAILED,
            _ => 1,
        }
    }

    /// Whether it begins to log by itself, once it knows as what.
    pub(crate) fn logs_as_told(&self) -> bool {
        match self {
            Self::Serve(_) => true,
            #[cfg(feature = "acme")]
            Self::Acme => true,
            _ => false,
        }
    }

    /// From which level on it logs; one that answers on the terminal says only what went wrong.
    pub(crate) fn log_level(&self) -> &'static str {
        match self {
            Self::Serve(_) => "info",
            _ => "warn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn folders_may_stand_on_either_side_of_the_subcommand() {
        for line in [["cloister", "--state", "/s", "image", "ls"], ["cloister", "image", "ls", "--state", "/s"]] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.flags(), [Flag { key: "state", text: "/s".to_owned() }]);
        }
    }

    #[test]
    fn run_leaves_the_commands_own_options_alone() {
        let cli = Cli::try_parse_from(["cloister", "run", "demo", "--", "ls", "--state", "-l"]).unwrap();
        let Command::Run(options) = cli.command else { panic!("not run") };
        assert_eq!(options.command, ["ls", "--state", "-l"]);
    }
}
