//! What the server answers over HTTP, and whom it doesn't.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{DEADLINE, Server, Settings, block_on};

#[test]
fn health_is_told_to_anybody() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let response = server.ask_with("GET", "/healthz", "", "").await;
        assert_eq!((response.status, response.json()["status"].as_str()), (200, Some("ok")));
        assert_eq!(server.ask_with("POST", "/healthz", "Content-Length: 0\r\n", "").await.status, 405);
    });
}

#[test]
fn without_the_token_nothing_is_done() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let terminal = format!("/ws/terminal/{project}/");
        let wrong = "Authorization: Bearer wrong\r\n";
        for (method, path) in [("GET", "/api/projects"), ("DELETE", "/api/projects/x"), ("GET", terminal.as_str())] {
            for head in ["", wrong, "Authorization: Basic Zm9v\r\n"] {
                let response = server.ask_with(method, path, head, "").await;
                assert_eq!((response.status, response.code().as_str()), (401, "unauthorized"), "{path} {head}");
                assert!(response.headers["www-authenticate"].starts_with("Bearer"));
            }
        }
        let refused = server.upgrade(&terminal, &[]).await.err().expect("no token");
        assert_eq!(refused.status, 401);
        let refused = server.upgrade(&format!("{terminal}?token=wrong"), &[]).await.err().expect("a wrong token");
        assert_eq!(refused.status, 401);
    });
    assert!(!server.projects().join(project).exists());
}

#[test]
fn the_token_is_never_logged() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        server.prompt(&server.project(), "").await;
        server.upgrade("/ws/terminal/x/?token=secret-but-wrong", &[]).await.err().expect("a wrong token");
    });
    assert!(!server.log().contains(&server.token) && !server.log().contains("secret-but-wrong"));
}

#[test]
fn pages_of_other_origins_are_refused() {
    let config = "allowed_origins = ['https://ide.example.org']".to_owned();
    let Some(server) = Server::start_with(Settings { config, ..Settings::default() }) else { return };
    let project = server.project();
    let path = format!("/ws/terminal/{project}/?token={}", server.token);
    block_on(async {
        for origin in ["https://evil.example", "null", "http://127.0.0.1:1"] {
            let refused = server.upgrade(&path, &[("origin", origin)]).await.err().expect("a foreign origin");
            assert_eq!(refused.status, 403, "{origin}");
            assert!(refused.body.contains("origin_refused") && refused.body.contains("allowed_origins"), "{refused:?}");
        }
        for origin in [format!("http://{}", server.address).as_str(), "https://ide.example.org"] {
            let mut terminal = server.upgrade(&path, &[("origin", origin)]).await.expect("an own origin");
            terminal.expect("$ ").await;
        }
        let rebound = format!("Host: evil.example\r\nAuthorization: Bearer {}\r\n", server.token);
        let response = server.ask_with("GET", "/api/projects", &rebound, "").await;
        assert_eq!((response.status, response.code().as_str()), (403, "host_refused"));
    });
}

#[test]
fn a_request_that_is_no_upgrade_is_told_how() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    let path = format!("/ws/terminal/{project}/?token={}", server.token);
    block_on(async {
        let response = server.ask_with("GET", &path, "", "").await;
        assert_eq!((response.status, response.headers["sec-websocket-version"].as_str()), (426, "13"));
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let old = server.ask_with("GET", &path, &format!("{upgrade}{key}Sec-WebSocket-Version: 8\r\n"), "").await;
        assert_eq!(old.status, 426);
        for key in ["", "Sec-WebSocket-Key: short\r\n"] {
            // Not closed by the client: `Connection` has another meaning here.
            let head = format!("{upgrade}{key}Sec-WebSocket-Version: 13\r\n");
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{head}\r\n", server.address);
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut status = [0; 12];
            timeout(DEADLINE, stream.read_exact(&mut status)).await.unwrap().unwrap();
            assert_eq!(&status, b"HTTP/1.1 400");
        }
        assert_eq!(server.ask("POST", &path, None).await.status, 405);
    });
    assert!(!server.projects().join(project).exists(), "a request that fails makes no project");
}

#[test]
fn what_means_nothing_is_named() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        for (query, says) in [
            ("&colums=80", "unknown query key `colums`"),
            ("&cols=0", "1 to 2000"),
            ("&rows=x", "rows must be a number"),
            ("&session=a%20b", "a name is"),
            ("&frames=json", "frames must be"),
            ("&cols=80&cols=81", "comes twice"),
        ] {
            let refused = server.try_open(&project, query).await.err().expect(says);
            assert_eq!(refused.status, 400, "{query}");
            assert!(refused.body.contains(says), "{refused:?}");
        }
        for id in ["Demo", "-a", "a_b", "%2e%2e", "a.b", &"x".repeat(41)] {
            let refused = server.try_open(id, "").await.err().expect("a bad id");
            assert_eq!(refused.status, 400, "{id}");
            assert!(refused.body.contains("a project id is"), "{refused:?}");
        }
        for path in ["/nowhere", "/api", "/api/projects/a/b", "/ws/terminal/a/b", "/ws/terminal"] {
            let response = server.ask("GET", path, None).await;
            assert_eq!((response.status, response.code().as_str()), (404, "not_found"), "{path}");
        }
    });
}

#[test]
fn unknown_projects_are_not_found() {
    let Some(server) = Server::start_with(Settings { create_projects: false, ..Settings::default() }) else { return };
    let project = server.project();
    block_on(async {
        let refused = server.try_open(&project, "").await.err().expect("there is no project");
        assert_eq!(refused.status, 404);
        assert!(refused.body.contains("project create"), "{refused:?}");
        for (method, path) in [("POST", format!("{project}/stop")), ("DELETE", project.clone())] {
            let response = server.ask(method, &format!("/api/projects/{path}"), None).await;
            assert_eq!((response.status, response.code().as_str()), (404, "project_not_found"), "{path}");
        }
    });
}

#[test]
fn projects_are_created_listed_stopped_and_removed() {
    let Some(server) = Server::start_with(Settings { create_projects: false, ..Settings::default() }) else { return };
    let project = server.project();
    let path = format!("/api/projects/{project}");
    block_on(async {
        let create = || server.ask("POST", "/api/projects", Some(json!({ "id": project })));
        assert_eq!(create().await.status, 201);
        let again = create().await;
        assert_eq!((again.status, again.code().as_str()), (409, "project_exists"));
        let list = async || server.ask("GET", "/api/projects", None).await.json();
        assert_eq!(list().await, json!([{ "id": project, "running": false, "sessions": [] }]));
        let mut terminal = server.prompt(&project, "&session=work").await;
        terminal.run("echo kept > file; mkdir -p deep/er; chmod 0 deep").await;
        assert_eq!(list().await, json!([{ "id": project, "running": true, "sessions": ["work"] }]));
        assert_eq!(server.ask("POST", &format!("{path}/stop"), None).await.status, 204);
        let (code, ..) = terminal.closed().await;
        assert!(code == 1000 || code == 1011, "{code}");
        assert_eq!(list().await, json!([{ "id": project, "running": false, "sessions": [] }]));
        let mut terminal = server.prompt(&project, "").await;
        assert_eq!(terminal.run("cat file").await, "kept\r\n");
        assert_eq!(server.ask("DELETE", &path, None).await.status, 204);
        assert_eq!(list().await, json!([]));
        assert_eq!(server.ask("DELETE", &path, None).await.status, 404);
    });
    let left = server.projects().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), [".trash"]);
}

#[test]
fn bodies_that_mean_nothing_are_refused() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let create = async |body| server.ask("POST", "/api/projects", Some(body)).await;
        for (body, says) in [
            (json!({}), "missing field `id`"),
            (json!({ "id": "Demo" }), "a project id is"),
            (json!({ "id": "demo", "imgae": "x" }), "unknown field `imgae`"),
        ] {
            let response = create(body).await;
            assert_eq!((response.status, response.code().as_str()), (400, "malformed"));
            assert!(response.body.contains(says), "{response:?}");
        }
        let long = create(json!({ "id": "x".repeat(5000) })).await;
        assert_eq!((long.status, long.code().as_str()), (413, "too_large"));
        let bad_image = create(json!({ "id": server.project(), "image": "two words" })).await;
        assert_eq!((bad_image.status, bad_image.code().as_str()), (422, "project_invalid"));
    });
}

#[test]
fn settings_that_mean_nothing_are_named_with_their_line() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        server.ask("POST", "/api/projects", Some(json!({ "id": project }))).await;
        let settings = server.projects().join(&project).join("project.toml");
        for (text, says) in [
            ("\nimmage = 'x'", "project.toml:2: unknown field `immage`"),
            ("image = 'nowhere'", "nowhere"),
            ("[limits]\npids_max = 1", "limits.pids_max must be at least 8"),
            ("network = 'host'", "unknown variant `host`, expected `none`"),
        ] {
            std::fs::write(&settings, text).unwrap();
            let refused = server.try_open(&project, "").await.err().expect(says);
            assert_eq!(refused.status, 422, "{refused:?}");
            assert!(refused.body.contains(says), "{refused:?}");
        }
        std::fs::write(&settings, "").unwrap();
        server.prompt(&project, "").await;
    });
}

#[test]
fn a_connection_that_sends_no_request_is_closed() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let started = std::time::Instant::now();
        let answer = server.exchange("GET /healthz HTTP/1.1\r\nHost: loc").await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
        assert!(started.elapsed() < DEADLINE);
    });
}

#[test]
fn many_silent_connections_keep_nobody_out() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let mut silent = Vec::new();
        for _ in 0..500 {
            silent.push(TcpStream::connect(server.address).await.unwrap());
        }
        assert_eq!(server.ask("GET", "/healthz", None).await.status, 200);
        server.prompt(&server.project(), "").await;
    });
}

#[test]
fn a_session_is_started_once_or_said_why_not() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    let session = format!("/api/projects/{project}/sessions/build");
    block_on(async {
        assert_eq!(server.ask("PUT", &session, None).await.status, 404, "the project doesn't exist");
        server.prompt(&project, "").await;
        assert_eq!(server.ask("PUT", &session, None).await.status, 201);
        assert_eq!(server.ask("PUT", &session, None).await.status, 204);
        let bare = server.project();
        let body = json!({ "id": bare, "image": "no-such-image" });
        assert_eq!(server.ask("POST", "/api/projects", Some(body)).await.status, 201);
        let refused = server.ask("PUT", &format!("/api/projects/{bare}/sessions/main"), None).await;
        assert_eq!(refused.status, 422);
        assert!(refused.body.contains("no-such-image"), "{}", refused.body);
    });
}
