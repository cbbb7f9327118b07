//! `cloister serve`: from a host in hand to an exit status. It starts everything and ends everything, in this order.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::accept;
use crate::api::{Context, Inner};
use crate::auth::Auth;
use crate::host::Host;
use crate::project::Projects;
use crate::routes::routes;

/// How long clients and requests have to end when the server stops: less than the two seconds that are promised.
const STOP_WAIT: Duration = Duration::from_millis(1500);

/// Serves until SIGTERM or SIGINT. Cells go on: the next server finds them.
pub(crate) fn run(host: Host) -> anyhow::Result<ExitCode> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let served = runtime.block_on(serve(host));
    // What still runs by now has had its time.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve(host: Host) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listen = host.config.listen;
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("listen on {listen}: choose another with --listen"))?;
    let address = listener.local_addr()?;
    let (stop, clients, connections) = (CancellationToken::new(), TaskTracker::new(), TaskTracker::new());
    let auth = Auth::new(host.token.clone(), &host.config);
    let create_projects = host.config.create_projects;
    let projects = Projects::new(host, true)?;
    let inner =
        Inner { auth, projects: projects.clone(), create_projects, stop: stop.clone(), clients: clients.clone() };
    let accepting = tokio::spawn(accept(listener, routes(&Context::new(inner)), stop.clone(), connections.clone()));
    tracing::info!("serving on http://{address}/");
    let adopting = projects.clone();
    tokio::spawn(async move { adopting.adopt().await });
    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal, clients = clients.len(), "stopping; cells go on");
    stop.cancel();
    let _aborted = accepting.await;
    clients.close();
    connections.close();
    let ended = timeout(STOP_WAIT, async {
        tokio::join!(connections.wait(), clients.wait(), projects.finish_recordings());
    });
    if ended.await.is_err() {
        tracing::info!(clients = clients.len(), requests = connections.len(), "not waiting any longer");
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
