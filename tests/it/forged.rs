//! Who says to be somebody else: headers and prefaces that only proxies of ours may send, from anybody.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{DEADLINE, Response, Server, Settings, block_on};

/// What begins a preface of the PROXY protocol, version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn server(config: &str) -> Option<Server> {
    Server::start_with(Settings { config: config.to_owned(), ..Settings::default() })
}

/// Sends parts one after the other, and reads what comes until the server closes; a reset is an end, too.
async fn exchange(server: &Server, parts: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let exchange = async {
        for part in parts {
            if stream.write_all(part).await.is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
        answer
    };
    timeout(DEADLINE, exchange).await.expect("the server closes in time")
}

#[test]
fn headers_of_who_is_no_proxy_are_not_believed() {
    let Some(server) = server("trusted_proxies = ['10.0.0.0/8', 'fd00::/8']") else { return };
    let project = server.project();
    let path = format!("/ws/terminal/{project}/?token={}", server.token);
    block_on(async {
        for (name, value) in [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6;proto=https;host=evil.example"),
        ] {
            let mut terminal = server.upgrade(&path, &[(name, value)]).await.expect("a terminal");
            terminal.expect("$ ").await;
            terminal.socket.close(None).await.unwrap();
        }
        server.logged(": left").await;
        for name in ["x-forwarded-host", "forwarded"] {
            let host = if name == "forwarded" { "host=evil.example" } else { "evil.example" };
            let fields = [("origin", "http://evil.example"), (name, host)];
            let refused = server.upgrade(&path, &fields).await.err().expect("a page of evil.example");
            assert_eq!(refused.status, 403, "{name}");
        }
    });
    let log = server.log();
    assert!(log.contains("peer=127.0.0.1:") && !log.contains("6.6.6.6") && !log.contains("peer=10."), "{log}");
    // Whoever plays with it fills no disk.
    assert_eq!(log.matches("isn't believed").count(), 1, "{log}");
}

#[test]
fn a_proxys_word_on_the_host_opens_no_door_of_loopbacks() {
    let Some(server) = server("trusted_proxies = ['127.0.0.1']") else { return };
    block_on(async {
        // A page whose name was made to point here may send any header to its own host.
        let head =
            format!("Host: evil.example\r\nX-Forwarded-Host: localhost\r\nAuthorization: Bearer {}\r\n", server.token);
        let response = server.ask_with("GET", "/api/projects", &head, "").await;
        assert_eq!((response.status, response.code().as_str()), (403, "host_refused"));
        let head = "Host: localhost\r\nX-Forwarded-Host: localhost\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\n";
        assert_eq!(
            server.ask_with("GET", "/api/projects", head, "").await.status,
            401,
            "the token is needed all the same"
        );
    });
}

#[test]
fn a_page_must_be_of_the_host_that_the_proxy_was_asked_for() {
    let Some(server) = server("trusted_proxies = ['127.0.0.1']") else { return };
    let path = format!("/ws/terminal/{}/?token={}", server.project(), server.token);
    block_on(async {
        let by = |host: &'static str, proto: &'static str, origin: &'static str| {
            let fields = [("x-forwarded-host", host), ("x-forwarded-proto", proto), ("origin", origin)];
            let (server, path) = (&server, &path);
            async move { server.upgrade(path, &fields).await.map(drop).map_err(|refused| refused.status) }
        };
        assert_eq!(by("ide.example.org", "https", "https://ide.example.org").await, Ok(()));
        assert_eq!(by("ide.example.org:8443", "https", "https://ide.example.org:8443").await, Ok(()));
        assert_eq!(by("ide.example.org", "https", "http://ide.example.org").await, Err(403), "read along on its way");
        assert_eq!(by("ide.example.org", "https", "https://evil.example").await, Err(403));
        assert_eq!(by("no host", "https", "https://ide.example.org").await, Err(403));
    });
}

#[test]
fn prefaces_of_who_is_no_proxy_are_dropped_unread() {
    let Some(server) = server("trusted_proxies = ['10.0.0.0/8']\nproxy_protocol = true") else { return };
    let preface = [SIGNATURE, &[0x21, 0x11, 0, 12, 6, 6, 6, 6, 127, 0, 0, 1, 0, 9, 0, 80]].concat();
    block_on(async {
        assert_eq!(exchange(&server, &[&preface, REQUEST]).await, b"");
        assert_eq!(exchange(&server, &[REQUEST]).await, b"");
        server.logged("isn't believed").await;
    });
    assert_eq!(server.log().matches("isn't believed").count(), 1);
}

#[test]
fn prefaces_that_are_huge_slow_or_none_keep_nobody_out() {
    let Some(server) = server("trusted_proxies = ['127.0.0.0/8']\nproxy_protocol = true") else { return };
    let good = [SIGNATURE, &[0x21, 0x11, 0, 15, 1, 2, 3, 4, 127, 0, 0, 1, 0, 9, 0, 80, 4, 0, 0]].concat();
    block_on(async {
        // Silent ones, and ones that never end what they have begun.
        let mut slow = Vec::new();
        for number in 0..300 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(&good[..number % good.len()]).await.unwrap();
            slow.push(stream);
        }
        let by_bytes: Vec<_> = good.chunks(1).chain([REQUEST]).collect();
        for parts in [vec![&good[..], REQUEST], by_bytes] {
            assert_eq!(Response::parse(&exchange(&server, &parts).await).status, 200);
        }
        let itself = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
        assert_eq!(Response::parse(&exchange(&server, &[&itself, REQUEST]).await).status, 200);
        let with = |rest: &[u8]| [SIGNATURE, rest].concat();
        for (bad, what) in [
            (with(&[0x21, 0x11, 0xFF, 0xFF]), "64 KiB"),
            ([with(&[0x21, 0x11, 0x20, 0]), vec![0; 8192]].concat(), "8 KiB that come"),
            (with(&[0x21, 0x11, 0, 4, 1, 2, 3, 4]), "addresses that are cut"),
            (with(&[0x2F, 0x11, 0, 12]), "no such command"),
            (b"PROXY TCP4 1.2.3.4 127.0.0.1 9 80\r\n".to_vec(), "version 1"),
            (REQUEST.to_vec(), "none"),
            (vec![0xFF; 64], "noise"),
        ] {
            let started = Instant::now();
            let bad = [&bad[..], &[0; 32], REQUEST].concat();
            assert_eq!(exchange(&server, &[&bad]).await, b"", "{what}");
            assert!(started.elapsed().as_secs() < 8, "{what} is not waited for");
        }
        for mut stream in slow {
            let mut answer = Vec::new();
            let _reset = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("it is dropped in time");
            assert!(answer.is_empty());
        }
    });
}
