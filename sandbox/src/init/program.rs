//! What runs in a session: the image's shell, or a command, as the image's user in the image's environment.
//!
//! Everything is looked up here, inside the cell, because portable-pty reports a program that can't be executed as
//! started.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use portable_pty::CommandBuilder;

use crate::spec::CellSpec;
use crate::users::{self, CellUser};

/// Programs that are a shell to live in, when an image's command names one.
const SHELLS: [&str; 7] = ["bash", "zsh", "fish", "sh", "dash", "ash", "ksh"];

/// Where programs are looked for if the image doesn't say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a session starts.
const WORKSPACE: &str = "/workspace";

/// A program with its user.
pub(super) struct Program {
    pub(super) user: CellUser,
    pub(super) command: CommandBuilder,
}

impl Program {
    /// The image's shell as a login shell in the workspace, or, if `command` isn't empty, the command behind the image's
    /// entry point in the image's working folder.
    pub(super) fn new(spec: &CellSpec, command: &[String]) -> Result<Self, String> {
        let root = crate::mount::folder("/".as_ref()).map_err(|error| error.to_string())?;
        let user = users::find(&root, &spec.image.user)?;
        let shell = shell(spec, &user)?;
        let environment = environment(spec, &user, &shell);
        let mut builder = if command.is_empty() {
            let mut builder = CommandBuilder::new_default_prog();
            builder.cwd(WORKSPACE);
            builder
        } else {
            let folder = working_folder(&root, spec)?;
            let mut words = spec.image.entrypoint.iter().chain(command);
            let name = words.next().ok_or("the command is empty")?;
            let program = find(name, &folder, &environment["PATH"])?;
            let mut builder = CommandBuilder::new(program);
            builder.args(words);
            builder.cwd(folder);
            builder
        };
        builder.env_clear();
        environment.iter().for_each(|(name, value)| builder.env(name, value));
        Ok(Self { user, command: builder })
    }
}

/// The image's shell: its command if that is one, its user's, or a usual one.
fn shell(spec: &CellSpec, user: &CellUser) -> Result<PathBuf, String> {
    let configured = spec.image.entrypoint.iter().chain(&spec.image.cmd).next();
    let configured = configured
        .filter(|program| program.starts_with('/') && SHELLS.contains(&program.rsplit('/').next().unwrap_or_default()));
    let candidates =
        configured.map(String::as_str).into_iter().chain(user.shell.as_deref()).chain(["/bin/bash", "/bin/sh"]);
    let mut candidates = candidates.map(PathBuf::from);
    candidates
        .find(|path| is_program(path) && !path.ends_with("nologin") && !path.ends_with("false"))
        .ok_or_else(|| "the image has no shell: install bash or sh in it".to_owned())
}

/// The image's environment, what a terminal adds to it, and over both the project's own.
fn environment(spec: &CellSpec, user: &CellUser, shell: &Path) -> BTreeMap<String, String> {
    let defaults = [
        ("PATH", PATH),
        ("LANG", "C.UTF-8"),
        ("TERM", "xterm-256color"),
        ("COLORTERM", "truecolor"),
        ("HOME", &user.home),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
    ];
    let defaults = defaults.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let image = spec.image.env.iter().filter_map(|entry| entry.split_once('='));
    let image = image.filter(|(name, value)| !name.is_empty() && !value.contains('\0') && !name.contains('\0'));
    let image = image.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let project = spec.env.iter().map(|(name, value)| (name.clone(), value.clone()));
    let mut environment: BTreeMap<String, String> = defaults.chain(image).chain(project).collect();
    environment.insert("SHELL".to_owned(), shell.to_string_lossy().into_owned());
    environment
}

/// The image's working folder. Links of the image's are followed; those of `/proc` to an open descriptor or to somebody's
/// folder are not: they would be init's own.
fn working_folder(root: &OwnedFd, spec: &CellSpec) -> Result<PathBuf, String> {
    let folder = if spec.image.working_dir.is_empty() { WORKSPACE } else { &spec.image.working_dir };
    let path = PathBuf::from(folder);
    if path.is_absolute() && crate::mount::is_folder_within(root, &path) {
        Ok(path)
    } else {
        Err(format!("the image's working folder {folder:?} is no folder in it"))
    }
}

/// Finds a program as a shell would.
fn find(name: &str, folder: &Path, path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        let program = folder.join(name);
        return is_program(&program).then_some(program).ok_or_else(|| format!("{name} is no program in the cell"));
    }
    let candidates = path.split(':').filter(|place| place.starts_with('/')).map(|place| Path::new(place).join(name));
    candidates
        .into_iter()
        .find(|program| is_program(program))
        .ok_or_else(|| format!("{name} is not in the cell's PATH"))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
