//! The configurations in `docs/proxies`, each started for real in front of a real server: what is written there is what is
//! run here, with other ports, names and files in their places.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::harness::certificate::{self, Certificate};
use crate::harness::{DEADLINE, Message, Pipe, Response, Server, Settings, Terminal, block_on, tool, upgrade};

/// Longest silence that the proxies bear, where they have such a limit: a little more than between two of the server's pings.
const SILENCE: &str = "25s";

/// A proxy with its certificate.
pub(crate) struct Proxy {
    process: Child,
    certificate: Certificate,
    folder: TempDir,
    pub(crate) address: SocketAddr,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its children end with it, as they do when a service is stopped.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.process),
            rustix::process::Signal::TERM,
        );
        let _ = self.process.wait();
    }
}

/// A text with other words in the places of some, each of which it must have.
fn instead(text: &str, words: &[(&str, &str)]) -> String {
    words.iter().fold(text.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old:?} is not in the configuration:\n{text}");
        text.replace(old, new)
    })
}

impl Proxy {
    /// Starts a program with a configuration that is written for it, once where it listens and what it needs is known.
    pub(crate) fn start(
        program: &str,
        words: impl Fn(&Path) -> Vec<String>,
        configuration: impl Fn(&Path, SocketAddr, &Certificate) -> Vec<(&'static str, String)>,
    ) -> Option<Self> {
        let program = tool(program)?;
        let (folder, certificate) = (tempfile::tempdir().unwrap(), Certificate::make());
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (name, text) in configuration(folder.path(), address, &certificate) {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut command = Command::new(program);
        command.args(words(folder.path())).current_dir(folder.path()).env("HOME", folder.path());
        let process = command.stdin(Stdio::null()).spawn().expect("the proxy starts");
        let proxy = Self { process, certificate, folder, address };
        let by = Instant::now() + DEADLINE;
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < by, "the proxy does not listen");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Some(proxy)
    }

    /// The certificate that it shows.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.certificate.certificate()
    }

    /// Where it is, for clients.
    pub(crate) fn authority(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// nginx with the documented configuration, changed further.
    pub(crate) fn nginx(server: SocketAddr, changes: &[(&str, &str)]) -> Option<Self> {
        let main = "user root; daemon off; worker_processes 1; pid pid; error_log stderr error;\n\
            events { worker_connections 256; }\n\
            http { client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;\n\
            include cloister.conf; }\n";
        let words = |folder: &Path| {
            ["-e", "stderr", "-p", folder.to_str().unwrap(), "-c", "nginx.conf"].map(str::to_owned).to_vec()
        };
        Self::start("nginx", words, |folder, address, certificate| {
            let text = instead(
                include_str!("../../docs/proxies/nginx.conf"),
                &[
                    ("server 127.0.0.1:8000", &format!("server {server}")),
                    ("listen 443", &format!("listen {address}")),
                    ("server_name ide.example.org", "server_name localhost"),
                    ("/var/log/nginx/cloister.log", &folder.join("log").display().to_string()),
                    (
                        "/etc/letsencrypt/live/ide.example.org/fullchain.pem",
                        certificate.certificate().to_str().unwrap(),
                    ),
                    ("/etc/letsencrypt/live/ide.example.org/privkey.pem", certificate.key().to_str().unwrap()),
                ],
            );
            vec![("nginx.conf", main.to_owned()), ("cloister.conf", instead(&text, changes))]
        })
    }

    /// Caddy with the documented configuration, changed further.
    pub(crate) fn caddy(server: SocketAddr, changes: &[(&str, &str)]) -> Option<Self> {
        let words = |_: &Path| ["run", "--config", "Caddyfile"].map(str::to_owned).to_vec();
        Self::start("caddy", words, |_, address, certificate| {
            let site = format!(
                "https://localhost:{} {{\n\ttls {} {}",
                address.port(),
                certificate.certificate().display(),
                certificate.key().display()
            );
            let text = instead(
                include_str!("../../docs/proxies/Caddyfile"),
                &[("reverse_proxy 127.0.0.1:8000", &format!("reverse_proxy {server}")), ("ide.example.org {", &site)],
            );
            // No redirects from port 80, and no door for commands.
            let global = "{\n\tadmin off\n\tauto_https disable_redirects\n\tlog {\n\t\tlevel ERROR\n\t}\n}\n";
            vec![("Caddyfile", global.to_owned() + &instead(&text, changes))]
        })
    }

    /// HAProxy with the documented configuration, changed further.
    pub(crate) fn haproxy(server: SocketAddr, changes: &[(&str, &str)]) -> Option<Self> {
        let words = |_: &Path| ["-db", "-q", "-f", "haproxy.cfg"].map(str::to_owned).to_vec();
        Self::start("haproxy", words, |_, address, certificate| {
            let both =
                [certificate.certificate(), certificate.key()].map(|path| std::fs::read_to_string(path).unwrap());
            let text = instead(
                include_str!("../../docs/proxies/haproxy.cfg"),
                &[
                    ("server cloister 127.0.0.1:8000", &format!("server cloister {server}")),
                    ("bind :443", &format!("bind {address}")),
                    ("/etc/haproxy/certs/ide.example.org.pem", "both.pem"),
                    ("log /dev/log local0", "log 127.0.0.1:9 local0"),
                ],
            );
            vec![("both.pem", both.concat()), ("haproxy.cfg", instead(&text, changes))]
        })
    }

    /// Connects from an address of this machine, to be told from the proxy.
    async fn connect(&self, from: &str) -> impl Pipe + use<> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        let stream = timeout(DEADLINE, socket.connect(self.address)).await.expect("the proxy accepts in time").unwrap();
        let trusted = certificate::read(&self.certificate());
        certificate::secure(stream, trusted, rustls::ALL_VERSIONS, &["http/1.1"]).await.expect("a handshake")
    }

    /// Opens a terminal as a browser does, which claims to be somebody else.
    async fn open(&self, server: &Server, from: &str, project: &str) -> Terminal {
        let url = format!("wss://{}/ws/terminal/{project}/?token={}", self.authority(), server.token);
        let origin = format!("https://{}", self.authority());
        let fields = [
            ("origin", origin.as_str()),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6;host=evil.example"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "http"),
        ];
        let mut terminal = upgrade(Box::new(self.connect(from).await), &url, &fields).await.expect("a terminal");
        terminal.expect("$ ").await;
        terminal
    }

    /// What every proxy must pass on.
    async fn is_seen_through(&self, server: &Server, from: &str, logged: &str) {
        let mut stream = self.connect(from).await;
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.authority());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(Response::parse(&answer).status, 200);

        let mut idle = self.open(server, from, &server.project()).await;
        let mut terminal = self.open(server, from, &server.project()).await;
        assert_eq!(terminal.run("echo h''i").await, "hi\r\n");
        assert_eq!(terminal.run("head -c 3000000 /dev/zero | tr '\\0' x").await.len(), 3_000_000);
        // The largest message that there is, several times.
        terminal.send("stty raw -echo; echo re''ady; head -c 655360 | sha256sum; stty sane\r").await;
        terminal.expect("ready").await;
        for _ in 0..10 {
            terminal.send(&"01234567".repeat(8192)).await;
        }
        terminal.expect("b7b3122e98ad1ba7a87ecb7e2b8d92d362b8846702001744bb5ce7dd9fc70ae3").await;
        terminal.send("exit\r").await;
        assert_eq!(terminal.closed().await.0, 1000);

        // Nothing but pings, for longer than the proxy bears silence.
        let mut pings = 0;
        while pings < 2 {
            match idle.message().await.expect("the connection holds") {
                Message::Ping(_) => pings += 1,
                Message::Text(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(idle.run("echo still-h''ere").await, "still-here\r\n");
        drop(idle);
        let log = server.log();
        assert!(log.contains(logged), "{log}");
        assert!(!log.contains("6.6.6.6") && !log.contains("evil"), "{log}");
    }
}

fn server(more: &str) -> Option<Server> {
    let config = format!("trusted_proxies = ['127.0.0.1']\n{more}");
    Server::start_with(Settings { config, ..Settings::default() })
}

#[test]
fn nginx_caddy_and_haproxy_as_documented_pass_all_on() {
    let Some(server) = server("") else { return };
    let Some(nginx) = Proxy::nginx(server.address, &[("75s", SILENCE)]) else { return };
    let Some(caddy) = Proxy::caddy(server.address, &[]) else { return };
    let Some(haproxy) = Proxy::haproxy(server.address, &[("75s", SILENCE)]) else { return };
    block_on(async {
        // At a time, for each waits for pings.
        tokio::join!(
            nginx.is_seen_through(&server, "127.0.0.9", "peer=127.0.0.9}"),
            caddy.is_seen_through(&server, "127.0.0.10", "peer=127.0.0.10}"),
            haproxy.is_seen_through(&server, "127.0.0.11", "peer=127.0.0.11}"),
        )
    });
    let logged = std::fs::read_to_string(nginx.folder.path().join("log")).unwrap();
    assert!(logged.contains("/ws/terminal/") && !logged.contains(&server.token), "{logged}");
}

#[test]
fn haproxy_says_who_is_behind_it_by_the_proxy_protocol() {
    let Some(server) = server("proxy_protocol = true") else { return };
    let address = server.address.to_string();
    let with = format!("{address} send-proxy-v2");
    let changes = [
        (address.as_str(), with.as_str()),
        // What clients say of themselves is passed on.
        ("    http-request set-header X-Forwarded-For %[src]\n", ""),
        ("75s", SILENCE),
    ];
    let Some(proxy) = Proxy::haproxy(server.address, &changes) else { return };
    block_on(proxy.is_seen_through(&server, "127.0.0.9", "peer=127.0.0.9:"));
}

/// What `doctor --url` finds through a proxy: of each thing its state, and all of it as text.
fn look(server: &Server, proxy: &Proxy, words: &[&str]) -> (Option<i32>, Value, String) {
    let url = format!("https://{}", proxy.authority());
    let certificate = proxy.certificate();
    let mut command = server.command(&["doctor", "--json", "--url", &url, "--cacert", certificate.to_str().unwrap()]);
    let output = command.args(words).stdin(Stdio::null()).output().expect("cloister runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    let text = format!("{report:#}");
    (output.status.code(), report, text)
}

fn states(report: &Value) -> Vec<(&str, &str)> {
    let findings = report["findings"].as_array().expect("findings");
    findings.iter().map(|finding| (finding["thing"].as_str().unwrap(), finding["state"].as_str().unwrap())).collect()
}

/// What is found of a thing, with the remedy.
fn said(report: &Value, thing: &str) -> String {
    let findings = report["findings"].as_array().expect("findings");
    let finding = findings.iter().find(|finding| finding["thing"] == thing).unwrap_or_else(|| panic!("{report:#}"));
    format!("{}: {}: {}", finding["state"], finding["detail"], finding["remedy"])
}

#[test]
fn doctor_finds_nothing_wrong_with_what_is_documented() {
    let Some(server) = server("") else { return };
    let address = server.address;
    let proxies = [Proxy::nginx(address, &[]), Proxy::caddy(address, &[]), Proxy::haproxy(address, &[])];
    let looks = proxies.into_iter().flatten().map(|proxy| {
        let server = &server;
        move || look(server, &proxy, &[])
    });
    std::thread::scope(|scope| {
        let looks: Vec<_> = looks.map(|look| scope.spawn(look)).collect();
        for found in looks {
            let (status, report, text) = found.join().expect("no look panics");
            let things = ["server", "client's address", "origin", "tls", "echo", "large messages", "silence"];
            assert_eq!(states(&report), things.map(|thing| (thing, "ok")), "{text}");
            assert_eq!((status, &report["terminals"]), (Some(0), &Value::Bool(true)));
        }
    });
}

#[test]
fn doctor_names_what_a_proxy_swallows() {
    let Some(server) = server("") else { return };
    let with = |changes: &[(&str, &str)]| {
        let proxy = Proxy::nginx(server.address, changes)?;
        let (status, report, _) = look(&server, &proxy, &[]);
        assert_eq!(status, Some(1), "{report:#}");
        Some(report)
    };
    let upgrade = "        proxy_set_header Upgrade    $http_upgrade;\n        proxy_set_header Connection $cloister_connection;\n";
    let Some(report) = with(&[(upgrade, "        proxy_set_header Connection '';\n")]) else { return };
    let websocket = said(&report, "websocket");
    assert!(websocket.contains("connection (missing) and upgrade (missing)"), "{websocket}");
    for remedy in ["nginx: proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade", "Caddy: ", "HAProxy: "] {
        assert!(websocket.contains(remedy), "{websocket}");
    }
    let host = "        proxy_set_header Host $http_host;\n";
    let forwarded = "        proxy_set_header X-Forwarded-Host  $http_host;\n";
    let report = with(&[(host, "        proxy_set_header Host 127.0.0.1;\n"), (forwarded, "")]).unwrap();
    let origin = said(&report, "origin");
    assert!(origin.contains("may not connect") && origin.contains("proxy_set_header Host $http_host"), "{origin}");
    // nginx's own is the name of the upstream.
    let report = with(&[(host, "")]).unwrap();
    let name = said(&report, "host");
    assert!(name.contains("another one arrives") && name.contains("proxy_set_header Host $http_host"), "{name}");
    let report = with(&[(host, &format!("{host}        proxy_set_header Authorization '';\n"))]).unwrap();
    let token = said(&report, "token");
    assert!(token.contains("the header Authorization doesn't arrive"), "{token}");
}

#[test]
fn doctor_names_who_is_believed_and_should_not_be_and_the_other_way_round() {
    let Some(server) = server("") else { return };
    let set = "X-Forwarded-For   $remote_addr";
    let Some(proxy) = Proxy::nginx(server.address, &[(set, "X-Forwarded-For $http_x_forwarded_for")]) else { return };
    let (status, report, _) = look(&server, &proxy, &[]);
    let client = said(&report, "client's address");
    assert!(status == Some(1) && client.contains("passes on what clients say of themselves"), "{client}");
    let strict = Server::start().unwrap();
    let proxy = Proxy::nginx(strict.address, &[]).unwrap();
    let (status, report, _) = look(&strict, &proxy, &[]);
    let client = said(&report, "client's address");
    assert!(status == Some(0) && client.contains("trusted_proxies = [\\\"127.0.0.1\\\"]"), "{client}");
    let (status, report, _) = look(&strict, &proxy, &["--token", "wrong"]);
    assert!(status == Some(1) && said(&report, "token").contains("is refused"), "{report:#}");
}

#[test]
fn doctor_names_who_cuts_silence() {
    let Some(server) = server("") else { return };
    let address = server.address;
    let nginx = Proxy::nginx(address, &[("75s", "4s")]);
    let haproxy = Proxy::haproxy(address, &[("timeout tunnel 75s", "timeout tunnel 4s")]);
    for proxy in [nginx, haproxy].into_iter().flatten() {
        let (status, report, _) = look(&server, &proxy, &[]);
        let silence = said(&report, "silence");
        assert!(status == Some(1) && silence.contains("the connection is cut after "), "{silence}");
        assert!(silence.contains("proxy_read_timeout") && silence.contains("timeout tunnel 75s"), "{silence}");
    }
}

#[test]
fn doctor_names_a_server_or_a_certificate_that_is_none() {
    let Some(server) = server("") else { return };
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let Some(proxy) = Proxy::nginx(nowhere, &[]) else { return };
    let (status, report, _) = look(&server, &proxy, &[]);
    let named = said(&report, "server");
    assert!(status == Some(1) && named.contains("502") && named.contains("HAProxy: server"), "{named}");
    let url = format!("https://{}", proxy.authority());
    let output = server.command(&["doctor", "--url", &url]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && text.starts_with("fails  certificate"), "{text}");
}
