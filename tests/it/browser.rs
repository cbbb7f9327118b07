//! The page: how its files are served, and how it works for a person at a real browser (`web/test/`, which needs node,
//! Debian's chromium and `web/node_modules`).

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Server, block_on};

/// Where Debian puts the browser.
const CHROMIUM: &str = "/usr/bin/chromium";

/// What a person's project may have, so that a program can take too much of it.
const SETTINGS: &str = "[limits]\nmemory_bytes_max = 536_870_912\n";

#[test]
fn a_person_works_in_a_browser() {
    works("terminal.mjs");
}

#[test]
fn a_person_records_and_plays_in_a_browser() {
    works("recordings.mjs");
}

/// Runs a script whose every step must work.
fn works(name: &str) {
    let Some(server) = Server::start() else { return };
    let Some(web) = web_or_skip(&server) else { return };
    let run = script(&web, name, &server, &server.project_with(SETTINGS)).output().expect("node runs");
    let said = [run.stdout, run.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(run.status.success(), "{said}");
    print!("{said}");
    assert!(!server.log().contains(&server.token), "the token was logged");
}

#[test]
fn a_page_survives_its_server() {
    let Some(mut server) = Server::start() else { return };
    let Some(web) = web_or_skip(&server) else { return };
    let mut script = script(&web, "restart.mjs", &server, &server.project());
    let mut run = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node runs");
    let mut lines = BufReader::new(run.stdout.take().expect("its output is piped")).lines().map_while(Result::ok);
    if lines.any(|line| line == "restart") {
        server.signal(Signal::KILL);
        server.ended();
        server.restart();
        let mut input = run.stdin.take().expect("its input is piped");
        writeln!(input, "http://{}", server.address).expect("node reads");
    }
    // It ends by itself; a server that went first would be its failure.
    let said: Vec<_> = lines.collect();
    assert!(run.wait().expect("node is our child").success(), "{said:?}");
}

#[test]
fn the_page_is_fenced_in_and_asked_for_only_once() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let get = async |path: &str, head: &str| server.ask_with("GET", path, head, "").await;
        let index = get("/", "").await;
        let policy = &index.headers["content-security-policy"];
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("script-src 'self' '"), "{policy}");
        assert_eq!(index.headers["x-content-type-options"], "nosniff");
        assert_eq!(index.headers["referrer-policy"], "no-referrer");
        let again = get("/p/demo", &format!("If-None-Match: {}\r\n", index.headers["etag"])).await;
        assert_eq!((again.status, again.body.as_str()), (304, ""));
        let head = server.ask_with("HEAD", "/", "", "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert_eq!(server.ask_with("POST", "/", "", "").await.status, 405);
        for script in scripts(&index.body) {
            let plain = get(script, "").await;
            assert_eq!(plain.headers["content-type"], "text/javascript; charset=utf-8");
            assert_eq!(plain.headers["cache-control"], "public, max-age=31536000, immutable");
            let brotli = get(script, "Accept-Encoding: gzip, br\r\n").await;
            assert_eq!(brotli.headers["content-encoding"], "br");
            assert_ne!(brotli.headers["etag"], plain.headers["etag"]);
            let [coded, whole] = [&brotli, &plain].map(|response| response.headers["content-length"].parse::<usize>());
            assert!(coded.expect("a length") * 3 < whole.expect("a length"));
        }
        assert_eq!(get("/assets/none.js", "").await.status, 404);
    });
}

/// A test of the page, to be run against a server, with a project.
pub(crate) fn script(web: &Path, name: &str, server: &Server, project: &str) -> Command {
    let mut command = Command::new("node");
    command
        .arg(web.join("test").join(name))
        .arg(format!("http://{}", server.address))
        .arg(project)
        .env("CLOISTER_TOKEN", &server.token)
        .env("CLOISTER_PROJECTS", server.projects())
        .env("CHROMIUM", CHROMIUM);
    command
}

/// The scripts that the page loads; none if it is the one that says how to build it.
fn scripts(index: &str) -> Vec<&str> {
    index.split("src=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// The folder of the page's sources if all is there to try it, else says what is missing; in CI that is a failure.
pub(crate) fn web_or_skip(server: &Server) -> Option<PathBuf> {
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
    let index = block_on(server.ask_with("GET", "/", "", ""));
    let missing = [
        (!scripts(&index.body).is_empty(), "the page in the binary: run make web build"),
        (Path::new(CHROMIUM).exists(), "chromium: apt-get install chromium"),
        (Command::new("node").arg("--version").output().is_ok(), "node: apt-get install nodejs"),
        (web.join("node_modules/playwright-core").exists(), "web/node_modules: run make web"),
    ];
    let Some((_, reason)) = missing.into_iter().find(|(there, _)| !there) else { return Some(web) };
    assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: needs {reason}");
    eprintln!("skipped: needs {reason}");
    None
}
