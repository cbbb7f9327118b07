//! Pulling: from Debian's own registry, and from ones that break off, lie, or go on for ever.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::place::{Made, Place, image_of, is_refusal, program, sha256, text, tool};

/// The password `secret` of the user `owner`, as registries keep it.
const PASSWORDS: &str = "owner:$2b$04$gb7QHQfkcl2TbblD.ujCBO94UX5e8AB6MYT0Sp0kclH42yEdqlrjy\n";

/// A registry on a free port of the loopback interface.
struct Registry {
    process: Child,
    address: String,
}

impl Registry {
    fn start(place: &Place, auth: &str) -> Self {
        let storage = place.path("registry");
        let config = place.path("registry.yml");
        let storage = format!("storage: {{filesystem: {{rootdirectory: '{}'}}}}", storage.display());
        fs::write(&config, format!("version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:0'}}\n{auth}")).unwrap();
        let mut process = Command::new(program("docker-registry").unwrap())
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the registry starts");
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = log.by_ref().map_while(Result::ok).find_map(|line| {
            let rest = line.split("listening on ").nth(1)?;
            Some(rest.split(['"', ' ']).next()?.to_owned())
        });
        // It goes on logging, and must not wait for a reader.
        std::thread::spawn(move || log.map_while(Result::ok).for_each(drop));
        Self { address: address.expect("the registry listens"), process }
    }

    fn push(&self, layout: &Path, credentials: &[&str]) -> String {
        let reference = format!("{}/team/tools:1", self.address);
        let (from, to) = (format!("oci:{}:v1", layout.display()), format!("docker://{reference}"));
        let words = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", &from, &to];
        tool(&[&words[..], credentials].concat());
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn an_image_pulled_from_a_registry_runs() {
    let Some(place) = Place::new(&["busybox", "umoci", "skopeo", "docker-registry"]) else { return };
    let registry = Registry::start(&place, "");
    let reference = registry.push(&place.layout(), &[]);
    let said = place.does(&["image", "pull", "--plain-http", &reference]);
    assert!(said.starts_with(&format!("{reference}: image ")), "{said}");
    assert_eq!(place.run(&reference, "cat /greeting; echo $TOOL"), "hello\numoci\n");

    let index = fs::read_to_string(place.path("state/images/index.json")).unwrap();
    let digest = &index[index.find("sha256:").unwrap()..][..71];
    let by_digest = format!("{}/team/tools@{digest}", registry.address);
    place.does(&["image", "pull", "--plain-http", "--name", "pinned", &by_digest]);
    assert_eq!(place.layers().len(), 2);

    let address = &registry.address;
    for missing in ["team/tools:2".to_owned(), "nobody:1".to_owned(), format!("team/tools@sha256:{}", "0".repeat(64))] {
        place.fails(
            &["image", "pull", "--plain-http", &format!("{address}/{missing}")],
            "no such image: check the reference",
        );
    }
    place.fails(&["image", "pull", &reference], "--plain-http");
    place.fails(&["image", "pull", "Not A Reference"], "write it like");
    let unfinished = fs::read_dir(place.path("state/images")).unwrap().filter_map(Result::ok);
    assert_eq!(unfinished.filter(|entry| text(entry.file_name().as_encoded_bytes()).starts_with('.')).count(), 0);
    let gone = reference.clone();
    drop(registry);
    place.fails(&["image", "pull", "--plain-http", &gone], "can't be reached");
}

#[test]
fn a_registry_may_want_to_know_who_asks() {
    let Some(place) = Place::new(&["busybox", "umoci", "skopeo", "docker-registry"]) else { return };
    let passwords = place.path("passwords");
    fs::write(&passwords, PASSWORDS).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: tools, path: '{}'}}}}\n", passwords.display());
    let registry = Registry::start(&place, &auth);
    let reference = registry.push(&place.layout(), &["--dest-creds", "owner:secret"]);
    let pull = |password: &str| {
        let words = ["image", "pull", "--plain-http", "--username", "owner", &reference];
        let mut process = place
            .cloister(&words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cloister runs");
        process.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        process.wait_with_output().unwrap()
    };
    place.fails(&["image", "pull", "--plain-http", &reference], "the registry refuses");
    is_refusal(&pull("wrong\n"), "the registry refuses");
    is_refusal(&pull(""), "no password on standard input");
    let output = pull("secret\n");
    assert!(output.status.success(), "{output:?}");
    // What `docker login` keeps: owner:secret in base 64.
    fs::create_dir(place.path("docker")).unwrap();
    let kept = format!(r#"{{"auths": {{"{}": {{"auth": "b3duZXI6c2VjcmV0"}}}}}}"#, registry.address);
    fs::write(place.path("docker/config.json"), kept).unwrap();
    place.does(&["image", "pull", "--plain-http", "--name", "kept", &reference]);
}

/// A registry that answers as a test wants, byte for byte.
struct Liar {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicBool>,
}

impl Liar {
    /// `answer` gets a request's path and the offset it asks to begin at, and writes the whole answer.
    fn start(answer: impl Fn(&str, Option<usize>, &mut dyn Write) -> std::io::Result<()> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (requests, stopped) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, stop) = (Arc::clone(&requests), Arc::clone(&stopped));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let head: Vec<String> =
                    BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let path = head[0].split(' ').nth(1).unwrap().to_owned();
                let range = head
                    .iter()
                    .find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
                let offset = range.and_then(|range| range.trim_end_matches('-').parse().ok());
                log.lock().unwrap().push(format!("{path} {offset:?}"));
                // The client may have heard enough.
                let _ = answer(&path, offset, &mut stream);
            }
        });
        Self { address, requests, stopped }
    }

    /// One that has `made` and sends it as it is, but for what `layer` does with requests for the layer.
    fn with_layer(
        made: Made,
        layer: impl Fn(&[u8], Option<usize>, &mut dyn Write) -> std::io::Result<()> + Send + 'static,
    ) -> Self {
        let [config, blob] = [&made.config, &made.layer].map(|blob| sha256(blob));
        Self::start(move |path, offset, out| match path {
            _ if path.contains("/manifests/") => send(out, 200, &made.manifest),
            _ if path.ends_with(&config) => send(out, 200, &made.config),
            _ if path.ends_with(&blob) => layer(&made.layer, offset, out),
            _ => send(out, 200, b"{}"),
        })
    }

    fn reference(&self) -> String {
        format!("{}/team/tools:1", self.address)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
    }
}

fn send(out: &mut dyn Write, status: u16, body: &[u8]) -> std::io::Result<()> {
    head(out, status, body.len())?;
    out.write_all(body)
}

fn head(out: &mut dyn Write, status: u16, length: usize) -> std::io::Result<()> {
    write!(out, "HTTP/1.1 {status} As Said\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
}

/// A layer too large to come in one piece.
fn large_layer() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(3 << 20);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    let content: Vec<u8> = (0_u32..3 << 20).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    builder.append_data(&mut header, "large", &content[..]).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let Some(place) = Place::new(&[]) else { return };
    let layer = large_layer();
    let half = layer.len() / 2;
    let resumes = Liar::with_layer(image_of(&layer, &layer), move |layer, offset, out| match offset {
        None => {
            head(out, 200, layer.len())?;
            out.write_all(&layer[..half])
        }
        Some(offset) => send(out, 206, &layer[offset..]),
    });
    place.does(&["image", "pull", "--plain-http", "--name", "resumed", &resumes.reference()]);
    let asked = resumes.requests.lock().unwrap().iter().filter(|request| request.contains(&sha256(&layer))).count();
    assert_eq!(asked, 2, "{:?}", resumes.requests);
    assert_eq!(place.layers(), [sha256(&layer)]);

    // One that knows no ranges sends everything again.
    place.does(&["image", "rm", "resumed"]);
    let repeats = Liar::with_layer(image_of(&layer, &layer), {
        let tries = Mutex::new(0);
        move |layer, _, out| {
            let mut tries = tries.lock().unwrap();
            *tries += 1;
            head(out, 200, layer.len())?;
            out.write_all(if *tries == 1 { &layer[..half] } else { layer })
        }
    });
    place.does(&["image", "pull", "--plain-http", "--name", "repeated", &repeats.reference()]);
    assert_eq!(place.layers(), [sha256(&layer)]);
}

#[test]
fn a_registry_that_lies_is_found_out() {
    let Some(place) = Place::new(&[]) else { return };
    let layer = large_layer();
    let pull = |liar: &Liar, says: &str| {
        place.fails(&["image", "pull", "--plain-http", "--name", "x", &liar.reference()], says);
        assert_eq!(place.layers(), [""; 0], "{says}");
        assert!(!place.does(&["image", "ls"]).contains('x'), "{says}");
    };
    // Other content of the same length.
    let swaps = Liar::with_layer(image_of(&layer, &layer), |layer, _, out| send(out, 200, &vec![0; layer.len()]));
    pull(&swaps, "damaged blob");
    // Content without end.
    let floods = Liar::with_layer(image_of(&layer, &layer), |_, _, out| {
        out.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        loop {
            out.write_all(&[0; 1 << 16])?;
        }
    });
    pull(&floods, "sends more than the");
    // A manifest beyond all bounds, and one that is none.
    let stuffs = Liar::start(|_, _, out| send(out, 200, &vec![b' '; 5 << 20]));
    pull(&stuffs, "more than 4194304 bytes");
    let mumbles = Liar::start(|_, _, out| send(out, 200, b"<html>"));
    pull(&mumbles, "image manifest");
    // Another configuration than the manifest names.
    let made = image_of(&layer, &layer);
    let other = Made { config: made.config.to_ascii_uppercase(), ..image_of(&layer, &layer) };
    let wanted = sha256(&made.config);
    let confuses = Liar::start(move |path, _, out| match path {
        _ if path.contains("/manifests/") => send(out, 200, &other.manifest),
        _ if path.ends_with(&wanted) => send(out, 200, &other.config),
        _ => send(out, 200, b"{}"),
    });
    pull(&confuses, "damaged blob");
    // A reference by digest is that digest.
    let digest = format!("{}/team/tools@sha256:{}", swaps.address, "0".repeat(64));
    place.fails(&["image", "pull", "--plain-http", &digest], "the registry");
    let errs = Liar::start(|_, _, out| send(out, 500, b"out of\norder"));
    pull(&errs, "the registry fails: try again later");
}
