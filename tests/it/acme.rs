//! A certificate that is fetched by ACME from a real authority, pebble, which looks at the server through a port that leads to it, as an
//! authority in the world does.

use std::fs::{File, read_to_string};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::certificate::{self, Certificate, open_over};
use crate::harness::{DEADLINE, Response, Server, Settings, Terminal, block_on, tool};

/// A certificate of three months, in seconds.
const MONTHS_S: u64 = 90 * 24 * 60 * 60;

/// Where the server is, for the authority; nobody at first.
type Target = Arc<Mutex<Option<SocketAddr>>>;

/// Pebble, with the DNS server that it asks: all names lead to this machine.
struct Authority {
    program: PathBuf,
    /// Everybody can read it, as the service user reads the authority's own certificate in it.
    folder: TempDir,
    certificate: Certificate,
    names: Child,
    process: Option<Child>,
    address: SocketAddr,
    management: SocketAddr,
    resolver: SocketAddr,
    /// The port at which it looks at servers.
    looks_at: std::net::TcpListener,
    target: Target,
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.stop();
        let _ = self.names.kill();
        let _ = self.names.wait();
        if std::thread::panicking() {
            eprintln!("--- the authority's log:\n{}", self.log());
        }
    }
}

fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Authority {
    /// Prepares one that doesn't run yet, and whose certificates hold for so many seconds.
    fn prepare(holds_s: u64) -> Option<Self> {
        let (program, names) = (tool("pebble")?, tool("pebble-challtestsrv")?);
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let certificate = Certificate::make();
        std::fs::copy(certificate.certificate(), folder.path().join("ca.pem")).unwrap();
        let (address, management, resolver) = (free(), free(), free());
        let looks_at = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        looks_at.set_nonblocking(true).unwrap();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": address, "managementListenAddress": management,
            "certificate": certificate.certificate(), "privateKey": certificate.key(),
            "certificateValidityPeriod": holds_s, "httpPort": 1, "tlsPort": looks_at.local_addr().unwrap().port(),
        }});
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let names = Command::new(names)
            .args(["-dns01", &resolver.to_string(), "-management", &free().to_string(), "-defaultIPv6", ""])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let target = Target::default();
        Some(Self {
            program,
            folder,
            certificate,
            names,
            process: None,
            address,
            management,
            resolver,
            looks_at,
            target,
        })
    }

    /// The configuration of a server that has its certificate from here.
    fn config(&self) -> String {
        format!(
            "tls.acme_domains = ['localhost']\ntls.acme_contact = 'admin@example.org'\n\
             tls.acme_directory = '{}'\ntls.acme_ca = '{}'\n",
            self.directory(),
            self.folder.path().join("ca.pem").display()
        )
    }

    fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.address.port())
    }

    /// Where a server keeps what it has from here.
    fn folder_in(&self, state: &Path) -> PathBuf {
        state.join(format!("acme/localhost-{}-dir", self.address.port()))
    }

    async fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let process = Command::new(&self.program)
            .arg("-config")
            .arg(self.folder.path().join("config.json"))
            .args(["-strict", "-dnsserver", &self.resolver.to_string()])
            .envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_AUTHZREUSE", "0")])
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn();
        self.process = Some(process.unwrap());
        let by = Instant::now() + DEADLINE;
        for address in [self.address, self.management, self.resolver] {
            while TcpStream::connect(address).await.is_err() {
                assert!(Instant::now() < by, "it does not listen:\n{}", self.log());
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Leads who connects to the port that it looks at to `target`, while the runtime runs.
    fn lead(&self) {
        let listener = TcpListener::from_std(self.looks_at.try_clone().unwrap()).unwrap();
        let target = self.target.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let target = *target.lock().unwrap();
                let Some(target) = target else { continue };
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(target).await?;
                    copy_bidirectional(&mut from, &mut to).await
                });
            }
        });
    }

    fn leads_to(&self, server: Option<SocketAddr>) {
        *self.target.lock().unwrap() = server;
    }

    /// What its management has at a path, as PEM.
    async fn ask(&self, path: &str) -> String {
        let trusted = certificate::read(&self.certificate.certificate());
        let mut stream = certificate::connect(self.management, trusted).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        Response::parse(&answer).body
    }

    async fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.ask("/roots/0").await.as_bytes()).unwrap()
    }

    fn log(&self) -> String {
        read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// How many certificates it gave.
    fn issued(&self) -> usize {
        self.log().matches("Issued certificate serial").count()
    }
}

/// The certificate that a server shows who trusts `root`.
async fn shown(server: &Server, root: CertificateDer<'static>) -> std::io::Result<CertificateDer<'static>> {
    let stream = certificate::connect(server.address, root).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}

async fn open(server: &Server, root: CertificateDer<'static>, project: &str) -> Terminal {
    let stream = certificate::connect(server.address, root).await.unwrap();
    open_over(server, stream, project).await
}

/// What `cloister doctor` says of the certificate.
fn doctor(server: &Server) -> (String, String) {
    let output = server.command(&["doctor", "--json"]).stdin(Stdio::null()).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut findings = report["findings"].as_array().unwrap().iter();
    let finding = findings.find(|finding| finding["thing"] == "certificate").unwrap();
    let text = |field: &str| finding[field].as_str().unwrap().to_owned();
    (text("state"), text("detail"))
}

/// The process that fetches for a server.
fn fetcher(server: &Server) -> Pid {
    let children = read_to_string(format!("/proc/{0}/task/{0}/children", server.id())).unwrap();
    let is_it = |pid: &&str| read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "cloister-acme\n");
    let found = children.split_whitespace().find(is_it).and_then(|pid| Pid::from_raw(pid.parse().ok()?));
    found.expect("the server has a process that fetches")
}

fn status_of(pid: Pid) -> String {
    read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default()
}

/// Whether a process hasn't ended, waited for or not.
fn runs(pid: Pid) -> bool {
    let status = status_of(pid);
    !status.is_empty() && !status.contains("State:\tZ")
}

async fn metric(server: &Server, root: CertificateDer<'static>) -> u64 {
    let mut stream = certificate::connect(server.address, root).await.unwrap();
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        server.token
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let body = Response::parse(&answer).body;
    let line = body.lines().find(|line| line.starts_with("cloister_certificate_end_timestamp_seconds "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("it is told")
}

#[test]
fn a_certificate_is_fetched_and_kept() {
    let Some(mut authority) = Authority::prepare(MONTHS_S) else { return };
    let Some(mut server) = Server::start_with(Settings { config: authority.config(), ..Settings::default() }) else {
        return;
    };
    let folder = authority.folder_in(server.state());
    block_on(async {
        authority.lead();
        authority.leads_to(Some(server.address));
        // The authority isn't there: the server serves, and says what is missing.
        server.logged("there is no certificate yet").await;
        server.logged("no certificate for localhost could be fetched, the next try is in 1 min").await;
        let (state, detail) = doctor(&server);
        assert!(state == "lacks" && detail.contains("tries: 1,") && detail.contains("refused"), "{state}: {detail}");
        let trusted = certificate::read(&authority.certificate.certificate());
        certificate::connect(server.address, trusted).await.expect_err("nothing to show");
        server.logged("a handshake failed, for there is no certificate yet").await;

        authority.start().await;
        server.signal(Signal::HUP);
        server.logged("a certificate for localhost was fetched from").await;
        server.logged("the certificate was read anew").await;
        let root = authority.root().await;
        let first = shown(&server, root.clone()).await.unwrap();
        assert!(metric(&server, root.clone()).await > 1_700_000_000);
        assert_eq!(doctor(&server).0, "ok");
        let user = std::fs::metadata(server.state().join("owner.token")).unwrap();
        for name in ["account.json", "served/certificate.pem"] {
            let file = std::fs::metadata(folder.join(name)).unwrap();
            assert_eq!((file.mode() & 0o7777, file.uid()), (0o600, user.uid()), "{name}");
        }
        let left = folder.join("served").read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["certificate.pem"]);
        let status = status_of(fetcher(&server));
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000"] {
            assert!(status.contains(line), "{line}: {status}");
        }
        let local = format!("https://localhost:{}", server.address.port());
        let attach = server.command(&["attach", &server.project(), "--ls"]).env("CLOISTER_URL", &local).output();
        let said = String::from_utf8(attach.unwrap().stderr).unwrap();
        assert!(said.contains("of no authority that this machine knows"), "{said}");

        // Another start finds it, and asks nobody.
        let process = fetcher(&server);
        server.signal(Signal::TERM);
        server.ended();
        let by = Instant::now() + DEADLINE;
        while runs(process) {
            assert!(Instant::now() < by, "it ends with its server");
            sleep(Duration::from_millis(20)).await;
        }
        server.restart();
        authority.leads_to(Some(server.address));
        assert_eq!(shown(&server, root.clone()).await.unwrap(), first);
        server.signal(Signal::HUP);
        server.logged("the certificate was read anew").await;
        assert_eq!(authority.issued(), 1);
    });
}

#[test]
fn a_certificate_is_renewed_while_terminals_go_on() {
    // It is renewed when eight seconds are over.
    let Some(mut authority) = Authority::prepare(12) else { return };
    let Some(server) = Server::start_with(Settings { config: authority.config(), ..Settings::default() }) else {
        return;
    };
    block_on(async {
        authority.lead();
        authority.leads_to(Some(server.address));
        authority.start().await;
        server.logged("no certificate for localhost could be fetched").await;
        server.signal(Signal::HUP);
        server.logged("the certificate was read anew").await;
        let root = authority.root().await;
        let first = shown(&server, root.clone()).await.unwrap();
        let end_s = metric(&server, root.clone()).await;
        let mut terminal = open(&server, root.clone(), &server.project()).await;
        let by = Instant::now() + DEADLINE;
        // There is no moment without one that holds.
        while shown(&server, root.clone()).await.unwrap() == first {
            assert!(Instant::now() < by, "it is renewed; the log:\n{}", server.log());
            sleep(Duration::from_millis(100)).await;
        }
        assert!(metric(&server, root).await > end_s);
        assert_eq!(terminal.run("echo still-h''ere").await, "still-here\r\n");
    });
}

#[test]
fn what_an_authority_refuses_is_told_and_tried_again() {
    let Some(mut authority) = Authority::prepare(MONTHS_S) else { return };
    let Some(server) = Server::start_as_service(Settings { config: authority.config(), ..Settings::default() }) else {
        return;
    };
    let folder = authority.folder_in(server.state());
    block_on(async {
        authority.start().await;
        authority.lead();
        server.logged("no certificate for localhost could be fetched").await;
        server.signal(Signal::HUP);
        // It can't reach the server.
        server.logged("the authority refuses: localhost: ").await;
        let (state, detail) = doctor(&server);
        assert!(state == "lacks" && detail.contains("the authority refuses: localhost: "), "{state}: {detail}");
        authority.leads_to(Some(server.address));
        server.signal(Signal::HUP);
        server.logged("the certificate was read anew").await;
        shown(&server, authority.root().await).await.unwrap();
        assert_eq!(doctor(&server).0, "ok");

        // Another authority in its place doesn't know the account.
        authority.stop();
        authority.start().await;
        std::fs::remove_file(folder.join("served/certificate.pem")).unwrap();
        server.signal(Signal::HUP);
        server.logged("doesn't know the account any more").await;
        let root = authority.root().await;
        let by = Instant::now() + DEADLINE;
        while shown(&server, root.clone()).await.is_err() {
            assert!(Instant::now() < by, "the new one is shown; the log:\n{}", server.log());
            sleep(Duration::from_millis(100)).await;
        }
        // Who fetches is gone: said, and the rest goes on.
        kill_process(fetcher(&server), Signal::KILL).unwrap();
        server.logged("the process that fetches certificates has ended").await;
        let mut terminal = open(&server, root, &server.project()).await;
        assert_eq!(terminal.run("echo h''i").await, "hi\r\n");
    });
}

#[test]
fn who_speaks_as_an_authority_and_is_none_gets_nothing() {
    let Some(authority) = Authority::prepare(MONTHS_S) else { return };
    let Some(server) = Server::start_with(Settings { config: authority.config(), ..Settings::default() }) else {
        return;
    };
    block_on(async {
        let trusted = certificate::read(&authority.certificate.certificate());
        for _ in 0..100 {
            let stream = TcpStream::connect(server.address).await.unwrap();
            let refused = certificate::secure(stream, trusted.clone(), rustls::ALL_VERSIONS, &["acme-tls/1"]).await;
            assert!(refused.is_err(), "no challenge is open");
        }
        let response = server.ask_with("GET", "/healthz", "", "").await;
        assert_eq!(response.code(), "tls_needed");
    });
}

#[test]
fn what_is_wrong_with_the_settings_is_named() {
    let Some(server) = Server::start() else { return };
    let start = |variables: &[(&str, &str)]| {
        let mut command = server.command(&["serve", "--listen", "127.0.0.1:0"]);
        command.env("CLOISTER_TLS_ACME_DOMAINS", "ide.example.org").envs(variables.iter().copied());
        let output = command.stdin(Stdio::null()).output().expect("cloister runs");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let message = start(&[("CLOISTER_TLS_ACME_CA", "/nowhere/ca.pem")]);
    assert!(message.contains("tls.acme_ca: certificates in /nowhere/ca.pem: No such file"), "{message}");
    let message = start(&[("CLOISTER_TLS_CERTIFICATE", "/c.pem"), ("CLOISTER_TLS_KEY", "/k.pem")]);
    assert!(message.contains("tls.acme_domains and tls.certificate are both set"), "{message}");
}
