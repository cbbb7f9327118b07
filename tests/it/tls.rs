//! TLS at the server's port: who gets in, who is told what, and a certificate that changes while it is served.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::certificate::{self, Certificate, open_over};
use crate::harness::{DEADLINE, Response, Server, Settings, Terminal, block_on, upgrade};

fn start(certificate: &Certificate) -> Option<Server> {
    Server::start_with(Settings { config: certificate.config(), ..Settings::default() })
}

/// Opens a terminal over TLS as a browser would.
async fn open(server: &Server, certificate: &Certificate, project: &str) -> Terminal {
    let stream = certificate::connect(server.address, certificate::read(&certificate.certificate())).await.unwrap();
    open_over(server, stream, project).await
}

#[test]
fn terminals_echo_over_tls_1_2_and_1_3() {
    let certificate = Certificate::make();
    let Some(server) = start(&certificate) else { return };
    let trusted = certificate::read(&certificate.certificate());
    let project = server.project();
    block_on(async {
        for version in [&TLS12, &TLS13] {
            let stream = TcpStream::connect(server.address).await.unwrap();
            let stream = certificate::secure(stream, trusted.clone(), &[version], &["h2", "http/1.1"]).await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(version.version));
            assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
            let mut terminal = open_over(&server, stream, &project).await;
            assert_eq!(terminal.run("echo h''i").await, "hi\r\n");
            // Many records, and more than the kernel takes at once.
            let output = terminal.run("head -c 3000000 /dev/zero | tr '\\0' x").await;
            assert_eq!(output.len(), 3_000_000);
            terminal.send("exit 3\r").await;
            let (code, reason, _) = terminal.closed().await;
            assert_eq!((code, reason.as_str()), (1000, "exited with status 3"));
        }
        let stream = TcpStream::connect(server.address).await.unwrap();
        let refused = certificate::secure(stream, trusted, &[&TLS13], &["h2"]).await;
        assert!(refused.is_err(), "only HTTP/1.1 is spoken");
    });
}

#[test]
fn a_page_must_be_of_https_too() {
    let certificate = Certificate::make();
    let Some(server) = start(&certificate) else { return };
    let authority = format!("localhost:{}", server.address.port());
    let url = format!("wss://{authority}/ws/terminal/{}/?token={}", server.project(), server.token);
    block_on(async {
        let trusted = certificate::read(&certificate.certificate());
        let stream = certificate::connect(server.address, trusted).await.unwrap();
        let origin = format!("http://{authority}");
        let refused = upgrade(Box::new(stream), &url, &[("origin", &origin)]).await.err().expect("a page in the clear");
        assert_eq!(refused.status, 403);
        assert!(refused.body.contains("origin_refused"), "{refused:?}");
    });
}

#[test]
fn http_in_the_clear_is_told_to_speak_tls() {
    let certificate = Certificate::make();
    let Some(server) = start(&certificate) else { return };
    block_on(async {
        let response = server.ask_with("GET", "/healthz", "", "").await;
        assert_eq!((response.status, response.code().as_str()), (400, "tls_needed"));
        assert!(response.body.contains("https://"), "{response:?}");
    });
}

#[test]
fn what_is_no_handshake_is_dropped_and_keeps_nobody_out() {
    let certificate = Certificate::make();
    let Some(server) = start(&certificate) else { return };
    let trusted = certificate::read(&certificate.certificate());
    block_on(async {
        // Silent ones, and some that begin a hello of 512 bytes and never end it.
        let mut slow = Vec::new();
        for number in 0..400 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            if number % 2 == 0 {
                stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await.unwrap();
            }
            slow.push(stream);
        }
        for garbage in [
            &b"\0\x01\x02\x03"[..],
            &[22; 64],
            &[22, 3, 1, 0xFF, 0xFF, 1, 0xFF, 0xFF, 0xFF],
            &[22, 3, 1, 0, 4, 1, 0, 0, 0],
            &[23, 3, 3, 0, 1, 0],
            b"ssh-2.0-x\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C",
        ] {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(garbage).await.unwrap();
            let mut answer = Vec::new();
            // A reset is an answer, too.
            let _ended = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("it is dropped");
            // At most an alert (RFC 8446 section 6), which has two bytes.
            assert!(answer.is_empty() || (answer[0], answer.len()) == (21, 7), "{garbage:?}: {answer:?}");
        }
        let mut stream = certificate::connect(server.address, trusted).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().expect("it ends with a goodbye");
        assert_eq!(Response::parse(&answer).status, 200);
        for mut stream in slow {
            let mut answer = Vec::new();
            let _ended = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("it is dropped in time");
            assert!(answer.is_empty(), "{answer:?}");
        }
    });
}

#[test]
fn a_renewed_certificate_is_shown_while_terminals_go_on() {
    let certificate = Certificate::make();
    let Some(server) = start(&certificate) else { return };
    let shown =
        async |certificate: &Path| certificate::connect(server.address, certificate::read(certificate)).await.is_ok();
    let path = certificate.certificate();
    block_on(async {
        let mut terminal = open(&server, &certificate, &server.project()).await;
        let first = certificate.certificate().with_extension("first");
        std::fs::copy(&path, &first).unwrap();
        certificate.renew();
        server.signal(Signal::HUP);
        server.logged("the certificate was read anew").await;
        assert!(shown(&path).await && !shown(&first).await);
        // Half of a renewal, and then a broken one: what was good stays.
        let good = path.with_extension("good");
        std::fs::copy(&path, &good).unwrap();
        std::fs::copy(&first, &path).unwrap();
        server.signal(Signal::HUP);
        server.logged("tls.key is not the key of the first certificate").await;
        assert!(shown(&good).await);
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").unwrap();
        server.logged("is broken PEM").await;
        assert!(shown(&good).await);
        // Nobody says that this one is there.
        certificate.renew();
        let by = Instant::now() + DEADLINE;
        while !shown(&path).await {
            assert!(Instant::now() < by, "the files are looked at; the log:\n{}", server.log());
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(terminal.run("echo still-h''ere").await, "still-here\r\n");
    });
}

#[test]
fn a_key_that_only_root_reads_is_complained_of_and_serves() {
    use std::os::unix::fs::PermissionsExt;
    let certificate = Certificate::make();
    std::fs::set_permissions(certificate.key(), PermissionsExt::from_mode(0o600)).unwrap();
    certificate.expire();
    let Some(server) = start(&certificate) else { return };
    block_on(async {
        server.logged("won't be seen until a restart").await;
        server.logged("has expired").await;
        let trusted = certificate::read(&certificate.certificate());
        let error = certificate::connect(server.address, trusted).await.expect_err("it has expired");
        assert!(error.to_string().contains("expired"), "{error}");
    });
}

#[test]
fn files_that_can_not_be_used_are_named() {
    let Some(server) = Server::start() else { return };
    let (one, other) = (Certificate::make(), Certificate::make());
    let nowhere = one.key().with_extension("nowhere");
    let key = one.key();
    let start = |certificate: &Path, key: &Path| {
        let mut command = server.command(&["serve", "--listen", "127.0.0.1:0"]);
        command.env("CLOISTER_TLS_CERTIFICATE", certificate).env("CLOISTER_TLS_KEY", key);
        said(command.stdin(Stdio::null()).output().expect("cloister runs"))
    };
    let name = |path: &Path| path.display().to_string();
    let message = start(&nowhere, &key);
    assert!(message.contains(&format!("tls.certificate: {}: No such file", name(&nowhere))), "{message}");
    let message = start(&one.certificate(), &one.certificate());
    assert!(message.contains(&format!("tls.key: {}: holds no key in PEM", name(&one.certificate()))), "{message}");
    let message = start(&key, &key);
    assert!(message.contains(&format!("tls.certificate: {}: holds no certificate", name(&key))), "{message}");
    let message = start(&other.certificate(), &key);
    assert!(message.contains(&name(&other.certificate())) && message.contains("tls.key is not the key"), "{message}");
    let message = start(Path::new("/"), &key);
    assert!(message.contains("CLOISTER_TLS_CERTIFICATE: must name a file"), "{message}");
    let message = start(Path::new(""), &key);
    assert!(message.contains("tls.key is set and tls.certificate isn't"), "{message}");
}

fn said(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn attach_trusts_whom_it_is_told_to() {
    let certificate = Certificate::make();
    let other = Certificate::make();
    let Some(server) = start(&certificate) else { return };
    let project = server.project();
    let url = format!("https://localhost:{}", server.address.port());
    let attach = |words: &[&str], listen: Option<String>| {
        let mut command = server.command(&[&["attach", &project], words].concat());
        command.envs(listen.map(|address| ("CLOISTER_LISTEN", address)));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One that is refused reads nothing.
        let _unread = process.stdin.take().unwrap().write_all(b"echo h''i; exit 5\n");
        let output = process.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let [own, others] = [&certificate, &other].map(|certificate| certificate.certificate().display().to_string());
    let (status, output, message) = attach(&["--url", &url, "--cacert", &own], None);
    assert!(status == Some(5) && output.contains("\rhi\r\n"), "{status:?} {output:?} {message}");
    // The server of this machine is known by the certificate that it is configured to have.
    let (status, output, message) = attach(&[], Some(server.address.to_string()));
    assert!(status == Some(5) && output.contains("\rhi\r\n"), "{status:?} {output:?} {message}");
    for words in [vec!["--url", &url], vec!["--url", &url, "--cacert", &others]] {
        let (status, _, message) = attach(&words, None);
        assert_eq!(status, Some(125));
        assert!(
            message.contains("of no authority that this machine knows") && message.contains("--cacert"),
            "{message}"
        );
    }
    let (status, _, message) = attach(&["--url", &url.replace("https", "http")], None);
    assert!(status == Some(125) && message.contains("begin the address with https://"), "{message}");
    let plain = Server::start().unwrap();
    let (status, _, message) = attach(&["--url", &format!("https://{}", plain.address)], None);
    assert!(status == Some(125) && message.contains("speaks no TLS"), "{message}");
}
