//! `cloister serve`: from a configuration to an exit status. It starts everything and ends everything, in this order.

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::Context as _;
use runner::store::Store;
use rustix::process::{Resource, getrlimit, setrlimit};
use sandbox::confine::{Enforced, Reach, confine};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::{Door, accept};
use crate::api::{Context, Inner};
use crate::auth::Auth;
use crate::config::{CellsAtStop, Config};
use crate::host::Host;
use crate::metrics::metrics;
use crate::project::Projects;
use crate::proxy::Proxies;
use crate::routes::routes;
use crate::service;
use crate::tls::{Tls, hangup};
use crate::token;
use crate::traces::Export;

/// How long clients and requests have to end when the server stops: less than the two seconds that are promised.
const STOP_WAIT: Duration = Duration::from_millis(1500);

/// How long all cells may take to end, if they are to: each gets some seconds before it is ended by force.
const CELLS_STOP_WAIT: Duration = Duration::from_secs(25);

/// Serves until SIGTERM or SIGINT. Cells go on unless they are to end: the next server finds them.
pub(crate) fn run(mut config: Config, mut traces: Option<Export>) -> anyhow::Result<ExitCode> {
    let given = service::client_socket()?;
    if let Some(given) = &given {
        config.listen = given.local_addr().context("the socket that the service manager opened has no address")?;
    }
    // Before root is given up: a key may be root's alone.
    let tls = config.tls.files().map(|files| Tls::open(&files)).transpose()?;
    // Root's to read, perhaps; and a mistake in it is better told before anything is started.
    let metrics_token = token::read_metrics(config.metrics_token_file.as_deref())?;
    let host = Host::start(config)?;
    let tls = match &host.acme {
        Some(folder) => Some(Tls::fetched(&host.config, folder.as_fd())?),
        None => tls,
    };
    raise_descriptor_limit();
    // Read from files that are out of reach below.
    let workers = available_parallelism().map_or(1, usize::from);
    metrics();
    wall_in(&host, tls.as_ref(), traces.as_ref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = runtime.context("start the runtime")?;
    if let Some(traces) = &mut traces {
        traces.start(runtime.handle().clone());
    }
    let served = runtime.block_on(serve(host, given, tls, metrics_token));
    if let Some(traces) = &traces {
        traces.finish();
    }
    // What still runs by now has had its time.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve(
    host: Host,
    given: Option<std::net::TcpListener>,
    tls: Option<Tls>,
    metrics_token: Option<String>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listen = host.config.listen;
    let listener = match given {
        Some(listener) => TcpListener::from_std(listener),
        None => TcpListener::bind(listen).await,
    };
    let listener = listener.with_context(|| format!("listen on {listen}: choose another with --listen"))?;
    let address = listener.local_addr()?;
    let (stop, clients, connections) = (CancellationToken::new(), TaskTracker::new(), TaskTracker::new());
    let auth = Auth::new(host.token.clone(), &host.config).with_metrics_token(metrics_token);
    let tls = tls.map(Arc::new);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let door = Door { tls: tls.clone(), proxies: Proxies::new(&host.config) };
    let (create_projects, at_stop) = (host.config.create_projects, host.config.cells_at_stop);
    let projects = Projects::new(host, true)?;
    let inner =
        Inner { auth, projects: projects.clone(), create_projects, stop: stop.clone(), clients: clients.clone() };
    let routes = routes(&Context::new(inner));
    let accepting = tokio::spawn(accept(listener, door, routes, stop.clone(), connections.clone()));
    if let Some(tls) = tls {
        tokio::spawn(tls.follow(hangup()?, stop.clone()));
    }
    tracing::info!("serving on {scheme}://{address}/");
    let starting = projects.clone();
    tokio::spawn(async move {
        starting.adopt().await;
        starting.autostart().await;
        // Last: how much lies in a trash takes the launcher its time.
        starting.report_orphans().await;
    });
    tokio::spawn(service::stay_alive());
    service::ready();
    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    match at_stop {
        CellsAtStop::Keep => tracing::info!(signal, clients = clients.len(), "stopping; cells go on"),
        CellsAtStop::End => {
            tracing::info!(signal, clients = clients.len(), "stopping; cells end, as cells_at_stop says")
        }
    }
    service::stopping();
    stop.cancel();
    let _aborted = accepting.await;
    clients.close();
    connections.close();
    let ended = timeout(STOP_WAIT, async {
        tokio::join!(connections.wait(), clients.wait(), projects.finish_recordings(), projects.let_go());
    });
    if ended.await.is_err() {
        tracing::info!(clients = clients.len(), requests = connections.len(), "not waiting any longer");
    }
    if at_stop == CellsAtStop::End {
        end_cells(&projects).await;
    }
    Ok(())
}

/// Ends all cells; those that don't end in time go on, and are found by the next server.
async fn end_cells(projects: &Projects) {
    match timeout(CELLS_STOP_WAIT, projects.stop_all()).await {
        Ok(Ok(failed)) => {
            for (project, error) in failed {
                tracing::warn!(%project, %error, "a cell goes on");
            }
        }
        Ok(Err(error)) => tracing::warn!(%error, "cells go on"),
        Err(_) => tracing::warn!("not waiting any longer: some cells go on"),
    }
}

/// Leaves this process what serving takes, before the runtime starts the threads that inherit it.
fn wall_in(host: &Host, tls: Option<&Tls>, traces: Option<&Export>) -> anyhow::Result<()> {
    // It becomes a store while that can still be written: the server itself brings no image in.
    Store::open(host.images.try_clone().context("copy a descriptor")?)?;
    let mut read = vec![host.images.as_fd(), host.run.as_fd()];
    if let Some(tls) = tls {
        tls.warn_if_unreadable();
        read.extend(tls.folders());
    }
    let connects: Vec<u16> = traces.map(Export::port).into_iter().collect();
    let (written, listens) = ([host.projects.as_fd()], Some(host.config.listen.port()));
    let reach = Reach { written: &written, read: &read, listens, connects: &connects, finds_names: false };
    match confine(&reach).context("confine the server (does the kernel have seccomp?)")? {
        Enforced::Fully => tracing::info!("confined by seccomp and Landlock"),
        Enforced::Partly => tracing::warn!("confined by seccomp, and by Landlock partly: `cloister doctor` says more"),
        Enforced::Not => tracing::warn!("confined by seccomp, not by Landlock: `cloister doctor` says more"),
    }
    Ok(())
}

/// As many descriptors as the operator allows: the usual soft limit of 1024 is for programs that use select(2).
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
}
