//! `cloister launcher`: the launcher as a service of its own, for a server that never was root.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, bail};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use sandbox::launcher::{Launcher, SOCKET};
use sandbox::privilege::ServiceUser;

use crate::config::Config;
use crate::tls::fetched;
use crate::{host, service, token};

/// Connections that may wait to be let in.
const QUEUE_MAX: i32 = 64;

/// Becomes the launcher; returns only if it can't.
pub(crate) fn run(config: &Config) -> anyhow::Result<std::convert::Infallible> {
    if !rustix::process::geteuid().is_root() {
        bail!("start it as root: cells of who isn't are made by a launcher that each command starts");
    }
    let user = host::service_user(config)?;
    let (program, settings) = host::prepare_launcher(config, user)?;
    let listener = match service::launcher_socket()? {
        Some(listener) => listener,
        None => {
            let path = config.run_dir.join(SOCKET);
            open_socket(&path, user).with_context(|| format!("listen at {}", path.display()))?
        }
    };
    // The server can't make it: the folder is root's.
    std::fs::create_dir_all(&config.state).with_context(|| format!("make folder {}", config.state.display()))?;
    let state = host::open_folder(&config.state)?;
    token::ensure_owner(state.as_fd(), user)?;
    if config.tls.is_fetched() {
        fetched::ensure(state.as_fd(), user, &config.tls)?;
    }
    Err(Launcher::become_service(&program, &settings, &listener).into())
}

/// A listening socket at `path` for the service user; it takes the place of one that is there.
fn open_socket(path: &Path, user: ServiceUser) -> anyhow::Result<OwnedFd> {
    std::fs::create_dir_all(path.parent().context("it has no folder")?)?;
    // Whoever finds it under its name can connect.
    let temporary = path.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(&temporary)?)?;
    chown(&temporary, Some(0), Some(user.gid))?;
    std::fs::set_permissions(&temporary, Permissions::from_mode(0o660))?;
    listen(&socket, QUEUE_MAX)?;
    std::fs::rename(&temporary, path)?;
    Ok(socket)
}
