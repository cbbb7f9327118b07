//! What a server logs, where and as what.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Server, Settings, block_on};

#[test]
fn a_request_has_a_name_in_its_answer_and_in_the_log() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let create = async |id: &str| server.ask("POST", "/api/projects", Some(json!({ "id": id }))).await;
        let created = create(&project).await;
        let id = &created.headers["x-request-id"];
        assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        let log = server.log();
        let line = log.lines().find(|line| line.contains("created")).expect("it was logged");
        assert!(line.contains(id.as_str()) && line.contains(&project), "{line}");
        // Also of what is refused or isn't there; and what a client calls its request is not heard.
        let mut ids = BTreeSet::from([id.clone()]);
        for (path, head) in [("/nowhere", ""), ("/metrics", ""), ("/healthz", "x-request-id: mine\r\n")] {
            ids.insert(server.ask_with("GET", path, head, "").await.headers["x-request-id"].clone());
        }
        assert!(ids.len() == 4 && !ids.contains("mine"), "{ids:?}");
        // A terminal's whole life has the name of the request that opened it.
        let mut terminal = server.prompt(&project, "").await;
        terminal.send("exit\r").await;
        terminal.closed().await;
        server.logged("detached").await;
        let of = |word: &str| {
            let log = server.log();
            let line = log.lines().find(|line| line.contains(word)).unwrap_or_else(|| panic!("no {word}")).to_owned();
            let (_, rest) = line.split_once("request_id").unwrap_or_else(|| panic!("{line}"));
            rest.chars().filter(char::is_ascii_hexdigit).take(16).collect::<String>()
        };
        assert_eq!(of("attached"), of("detached"));
    });
}

#[test]
fn who_inherits_a_journal_but_not_its_stream_logs_where_standard_error_leads() {
    let Some(server) = Server::start() else { return };
    // It ends soon, since its port is taken.
    let mut serve = server.command(&["serve", "--listen", &server.address.to_string()]);
    let ended = serve.env("JOURNAL_STREAM", "1:1").output().expect("cloister runs");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("confined by seccomp"), "{said}");
}

#[test]
fn a_log_for_machines_is_an_object_a_line() {
    let config = "log_format = 'json'".to_owned();
    let Some(server) = Server::start_with(Settings { config, ..Settings::default() }) else { return };
    block_on(async {
        let project = server.project();
        server.prompt(&project, "&session=work").await;
        let refused = server.project_with("image = 'nowhere'");
        server.try_open(&refused, "").await.err().expect("there is no image");
        let log = server.log();
        let lines: Vec<Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        let attached = lines.iter().find(|line| line["message"] == "attached").expect("it was logged");
        assert_eq!((&attached["project"], &attached["session"]), (&json!(project), &json!("work")));
        assert_eq!((&attached["level"], attached["spans"][0]["name"].as_str()), (&json!("INFO"), Some("request")));
        assert!(attached["spans"][0]["request_id"].is_string() && attached["timestamp"].is_string(), "{attached}");
    });
    let refused = server.command(&["serve", "--log-format", "xml"]).output().expect("cloister runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("--log-format: must be auto, text, json or journal, is `xml`"), "{said}");
}

#[cfg(not(feature = "otel"))]
#[test]
fn who_asks_for_traces_of_a_program_without_them_is_told_once() {
    let environment = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318".to_owned())];
    let Some(server) = Server::start_with(Settings { environment, ..Settings::default() }) else { return };
    let log = server.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("OTEL_EXPORTER_OTLP_ENDPOINT")).collect();
    assert!(told.len() == 1 && told[0].contains("built without the feature `otel`"), "{log}");
}

/// A server whose standard error leads to a journal of its own: journald as Debian has it, in a mount namespace with the server.
struct Journaled {
    process: Child,
    folder: tempfile::TempDir,
}

/// Starts journald, then the server in its place. Standard error is a file here; that it leads to the journal is what the
/// variable says, as a service manager would.
const JOURNALED: &str = "set -e\n\
    mount --make-rprivate /; mount -t tmpfs none /run; mkdir -p /run/systemd/journal /run/log/journal\n\
    mount --bind \"$1/journal\" /run/log/journal\n\
    /lib/systemd/systemd-journald >\"$1/journald\" 2>&1 & echo $! >\"$1/pid\"\n\
    for n in $(seq 300); do [ -S /run/systemd/journal/socket ] && break; sleep 0.1; done\n\
    exec 2>\"$1/stderr\"; export JOURNAL_STREAM=\"$(stat -L -c %d:%i /proc/self/fd/2)\"; shift; exec \"$@\"\n";

impl Journaled {
    fn start(server: &Server) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("journal")).expect("the folder is made");
        let serve = server.command(&["serve", "--listen", "127.0.0.1:0"]);
        let mut command = Command::new("unshare");
        command.args(["--mount", "bash", "-c", JOURNALED, "bash"]).arg(folder.path());
        command.arg(serve.get_program()).args(serve.get_args()).stdin(Stdio::null());
        for (name, value) in serve.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        // A line for every request.
        let process = command.env("CLOISTER_LOG", "debug").spawn().expect("unshare runs");
        Self { process, folder }
    }

    /// Journald itself, which is a child of the server.
    fn journald(&self) -> Option<Pid> {
        let pid = std::fs::read_to_string(self.path("pid")).ok()?;
        Pid::from_raw(pid.trim().parse().ok()?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// All that is in the journal.
    fn entries(&self) -> Vec<Value> {
        let read = Command::new("journalctl").args(["--output=json", "--all", "-D"]).arg(self.path("journal")).output();
        let text = String::from_utf8_lossy(&read.expect("journalctl runs").stdout).into_owned();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The first entry in the journal that is as wanted.
    fn entry(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let by = Instant::now() + DEADLINE;
        loop {
            let entries = self.entries();
            if let Some(found) = entries.iter().find(|entry| wanted(entry)) {
                return found.clone();
            }
            let messages: Vec<_> = entries.iter().filter(|entry| entry["_TRANSPORT"] == "journal").collect();
            let said = |name| std::fs::read_to_string(self.path(name)).unwrap_or_default();
            assert!(Instant::now() < by, "not among {messages:?}\n{}\n{}", said("stderr"), said("journald"));
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

impl Drop for Journaled {
    fn drop(&mut self) {
        // As long as its parent lives its number is nobody else's. It may be stopped.
        for signal in [Signal::TERM, Signal::CONT] {
            let _ = self.journald().map(|journald| kill_process(journald, signal));
        }
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

#[test]
fn below_a_service_manager_it_logs_to_the_journal_with_fields() {
    let Some(mut server) = Server::start() else { return };
    if !Path::new("/lib/systemd/systemd-journald").exists() {
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: no systemd-journald");
        eprintln!("skipped: no systemd-journald");
        return;
    }
    // Its folders and its token are the next one's.
    server.signal(Signal::TERM);
    server.ended();
    let journaled = Journaled::start(&server);
    let serving = journaled
        .entry(|entry| entry["MESSAGE"].as_str().is_some_and(|message| message.starts_with("serving on http://")));
    assert_eq!((&serving["SYSLOG_IDENTIFIER"], &serving["PRIORITY"]), (&json!("cloister"), &json!("6")));
    let address = serving["MESSAGE"].as_str().and_then(|message| message.split('/').nth(2));
    server.address = address.expect("an address").parse().expect("an address");
    let project = server.project();
    block_on(async {
        let created = server.ask("POST", "/api/projects", Some(json!({ "id": project }))).await;
        assert_eq!(created.status, 201, "{created:?}");
        // Behind the server's walls, too.
        let entry = journaled.entry(|entry| entry["MESSAGE"] == "created");
        assert_eq!(entry["CLOISTER_PROJECT"], json!(project));
        assert_eq!(entry["CLOISTER_REQUEST_ID"], json!(created.headers["x-request-id"]));
    });
    block_on(async {
        // A journal that takes nothing any more keeps nobody from working.
        let journald = journaled.journald().expect("it runs");
        kill_process(journald, Signal::STOP).expect("it can be stopped");
        let began = Instant::now();
        for _ in 0..2000 {
            assert_eq!(server.ask_with("GET", "/healthz", "", "").await.status, 200);
        }
        assert!(began.elapsed() < 2 * DEADLINE);
        kill_process(journald, Signal::CONT).expect("it can go on");
        // Once it has caught up it gets everything again.
        let by = Instant::now() + DEADLINE;
        loop {
            let id = json!(server.ask_with("GET", "/healthz", "", "").await.headers["x-request-id"]);
            std::thread::sleep(std::time::Duration::from_millis(100));
            if journaled.entries().iter().any(|entry| entry["CLOISTER_REQUEST_ID"] == id) {
                break;
            }
            assert!(Instant::now() < by, "it gets nothing any more");
        }
    });
    let text = File::open(journaled.path("stderr")).and_then(std::io::read_to_string).expect("it is there");
    assert!(!text.contains("serving"), "it is said once: {text}");
    drop(journaled);
    server.restart();
}
