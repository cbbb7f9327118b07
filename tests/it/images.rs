//! Runner images as the tools that Debian has make them: imported or pulled by the real binary, and run. Each test has a
//! state folder of its own; the images are small, a busybox with a few files.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::harness::remove_cgroup;

/// Numbers the places of this process.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The password `secret` of the user `owner`, as registries keep it.
const PASSWORDS: &str = "owner:$2b$04$gb7QHQfkcl2TbblD.ujCBO94UX5e8AB6MYT0Sp0kclH42yEdqlrjy\n";

/// Folders of a test's own for everything. Dropping it ends its cells.
struct Place {
    folder: TempDir,
    cgroup: String,
}

impl Place {
    /// A place where `tools` are there; `None` if not, which is said.
    fn new(tools: &[&str]) -> Option<Self> {
        let missing = match tools.iter().find(|tool| program(tool).is_none()) {
            _ if !rustix::process::geteuid().is_root() => Some("root".to_owned()),
            Some(tool) => Some(format!("{tool}: run scripts/install-deps test")),
            None => None,
        };
        if let Some(missing) = missing {
            assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: needs {missing}");
            eprintln!("skipped: needs {missing}");
            return None;
        }
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("cloister-it-images-{}-{number}", std::process::id());
        Some(Self { folder: tempfile::tempdir().expect("a temporary folder"), cgroup })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cloister(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister"));
        // A developer's own settings and credentials are not a test's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CLOISTER_")) {
            command.env_remove(name);
        }
        fs::write(self.path("config.toml"), "").expect("the configuration is written");
        command.env("DOCKER_CONFIG", self.path("docker")).current_dir(self.folder.path()).stdin(Stdio::null());
        for (option, name) in
            [("--config", "config.toml"), ("--state", "state"), ("--projects", "projects"), ("--run-dir", "run")]
        {
            command.arg(option).arg(self.path(name));
        }
        command.args(["--cgroup", &self.cgroup]).args(words);
        command
    }

    /// Runs a command of ours that must work; gives what it printed.
    #[track_caller]
    fn does(&self, words: &[&str]) -> String {
        let output = self.cloister(words).output().expect("cloister runs");
        assert!(output.status.success(), "{words:?}: {output:?}");
        text(&output.stdout)
    }

    /// Runs a command of ours that must fail, and say why in one line.
    #[track_caller]
    fn fails(&self, words: &[&str], says: &str) {
        is_refusal(&self.cloister(words).output().expect("cloister runs"), says);
    }

    /// Runs a shell command in a new cell of an image.
    #[track_caller]
    fn run(&self, image: &str, command: &str) -> String {
        let project = format!("p-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        self.does(&["project", "create", &project, "--image", image]);
        self.does(&["run", &project, "--", "/bin/sh", "-c", command]).replace("\r\n", "\n")
    }

    /// The unpacked layers, and anything unfinished.
    fn layers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("state/layers")).expect("the folder of layers");
        let mut names: Vec<String> = entries.map(|entry| text(entry.unwrap().file_name().as_encoded_bytes())).collect();
        names.sort();
        names
    }

    /// The files of a small system.
    fn rootfs(&self) -> PathBuf {
        let rootfs = self.path("rootfs");
        for folder in ["bin", "etc", "tmp"] {
            fs::create_dir_all(rootfs.join(folder)).unwrap();
        }
        fs::copy(program("busybox").unwrap(), rootfs.join("bin/busybox")).unwrap();
        for name in ["cat", "id", "ls", "sh"] {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        fs::write(rootfs.join("greeting"), "hello\n").unwrap();
        fs::write(rootfs.join("gone"), "").unwrap();
        rootfs
    }

    /// An OCI layout made by umoci, with an image `v1` of two layers, the upper of which removes a file.
    fn layout(&self) -> PathBuf {
        let rootfs = self.rootfs();
        let layout = self.path("layout");
        let bundle = self.path("bundle");
        let [layout_text, bundle_text] = [&layout, &bundle].map(|path| path.to_str().unwrap().to_owned());
        let image = format!("{layout_text}:v1");
        tool(&["umoci", "init", "--layout", &layout_text]);
        tool(&["umoci", "new", "--image", &image]);
        tool(&["umoci", "unpack", "--image", &image, &bundle_text]);
        tool(&["cp", "-a", &format!("{}/.", rootfs.display()), &format!("{bundle_text}/rootfs/")]);
        tool(&["umoci", "repack", "--refresh-bundle", "--image", &image, &bundle_text]);
        fs::remove_file(bundle.join("rootfs/gone")).unwrap();
        tool(&["umoci", "repack", "--image", &image, &bundle_text]);
        let config = ["--config.cmd", "/bin/sh", "--config.env", "PATH=/bin", "--config.env", "TOOL=umoci"];
        tool(&[&["umoci", "config", "--image", &image, "--config.workingdir", "/tmp"], &config[..]].concat());
        layout
    }

    /// An OCI layout whose one layer is `layer`, with a name for each of `names`.
    fn layout_of(&self, folder: &str, layer: &[u8], diff_id: &[u8]) -> PathBuf {
        let layout = self.path(folder);
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        let blob = |content: &[u8]| {
            let digest = sha256(content);
            fs::write(layout.join("blobs/sha256").join(&digest), content).unwrap();
            serde_json::json!({ "digest": format!("sha256:{digest}"), "size": content.len() })
        };
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux",
            "rootfs": { "diff_ids": [format!("sha256:{}", sha256(diff_id))] },
        });
        let manifest = serde_json::json!({ "config": blob(config.to_string().as_bytes()), "layers": [blob(layer)] });
        let index = serde_json::json!({ "manifests": [blob(manifest.to_string().as_bytes())] });
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        layout
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let stopped = self.cloister(&["project", "stop", "--all"]).output().expect("cloister runs");
        remove_cgroup(&self.cgroup);
        assert!(std::thread::panicking() || stopped.status.success(), "project stop: {stopped:?}");
    }
}

/// A program by its name, in the usual places or where `scripts/install-deps` puts those it doesn't install.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/usr/bin");
    std::env::split_paths(&path).chain([own]).map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[track_caller]
fn tool(words: &[&str]) -> String {
    let path = program(words[0]).expect("the tool is there");
    let output = Command::new(path).args(&words[1..]).stdin(Stdio::null()).output().expect("the tool runs");
    assert!(output.status.success(), "{words:?}: {output:?}");
    text(&output.stdout).trim().to_owned()
}

#[track_caller]
fn is_refusal(output: &Output, says: &str) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(error.contains(says), "{error:?} doesn't say {says:?}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn an_image_made_by_umoci_runs_with_its_wishes() {
    let Some(place) = Place::new(&["busybox", "umoci"]) else { return };
    let layout = place.layout();
    let said = place.does(&["image", "import", layout.to_str().unwrap()]);
    assert!(said.starts_with("layout:v1: image "), "{said}");
    let output = place.run("layout:v1", "cat /greeting; echo $TOOL; pwd; ls /gone; id -u");
    assert_eq!(output, "hello\numoci\n/tmp\nls: /gone: No such file or directory\n0\n");
    let list = place.does(&["image", "ls"]);
    assert!(list.lines().nth(1).is_some_and(|line| line.starts_with("layout:v1 ")), "{list}");
}

#[test]
fn archives_made_by_skopeo_run_and_share_layers() {
    let Some(place) = Place::new(&["busybox", "umoci", "skopeo"]) else { return };
    let layout = place.layout();
    let from = format!("oci:{}:v1", layout.display());
    let [oci, docker, folder] = ["oci.tar", "docker.tar", "copy"].map(|name| place.path(name).display().to_string());
    tool(&["skopeo", "copy", "--quiet", &from, &format!("oci-archive:{oci}:v1")]);
    tool(&["skopeo", "copy", "--quiet", &from, &format!("docker-archive:{docker}:team/tools:1")]);
    tool(&["skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", &from, &format!("oci:{folder}:v2")]);
    fs::write(place.path("saved.tgz"), gzip(&fs::read(&docker).unwrap())).unwrap();
    for (path, name) in [
        (oci.as_str(), "oci:v1"),
        (&docker, "docker.io/team/tools:1"),
        (&folder, "copy:v2"),
        (place.path("saved.tgz").to_str().unwrap(), "zipped"),
    ] {
        let named: &[&str] = if name == "zipped" { &["--name", "zipped"] } else { &[] };
        let said = place.does(&[&["image", "import", path], named].concat());
        assert!(said.starts_with(&format!("{name}: image ")), "{said}");
        assert_eq!(
            place.run(name, "cat /greeting; ls /gone 2>&1 | cat; pwd"),
            "hello\nls: /gone: No such file or directory\n/tmp\n"
        );
    }
    assert_eq!(place.layers().len(), 2, "all four are the same two layers");
}

#[test]
fn images_made_by_buildah_run_as_their_user() {
    let Some(place) = Place::new(&["busybox", "buildah"]) else { return };
    let rootfs = place.rootfs().display().to_string();
    let [root, run] = ["storage", "storage-run"].map(|name| place.path(name).display().to_string());
    let storage = ["buildah", "--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
    let buildah = |words: &[&str]| tool(&[&storage[..], words].concat());
    let cell = buildah(&["from", "scratch"]);
    buildah(&["add", "--quiet", &cell, &rootfs, "/"]);
    buildah(&[
        "config",
        "--cmd",
        "/bin/sh",
        "--env",
        "PATH=/bin",
        "--env",
        "TOOL=buildah",
        "--user",
        "1000:1001",
        &cell,
    ]);
    for (format, file) in [("oci-archive", "oci.tar"), ("docker-archive", "docker.tar"), ("oci", "folder")] {
        let path = place.path(file).display().to_string();
        buildah(&["commit", "--quiet", &cell, &format!("{format}:{path}:example.org/made/by:buildah")]);
        place.does(&["image", "import", &path, "--name", file]);
        assert_eq!(
            place.run(file, "cat /greeting; echo $TOOL; id -u; id -g"),
            "hello\nbuildah\n1000\n1001\n",
            "{format}"
        );
    }
}

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

#[test]
fn an_image_in_use_stays_and_removing_it_later_leaves_nothing() {
    let Some(place) = Place::new(&["busybox", "umoci"]) else { return };
    let layout = place.layout().display().to_string();
    place.does(&["image", "import", &layout, "--name", "tools"]);
    place.does(&["image", "import", &layout, "--name", "also-tools"]);
    place.does(&["project", "create", "demo", "--image", "tools"]);
    let mut cell = place
        .cloister(&["run", "demo", "--", "/bin/sh", "-c", "echo ready; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cloister runs");
    let mut output = BufReader::new(cell.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), "ready");
    // Another name for the same layers may go, the last one may not.
    place.does(&["image", "rm", "also-tools"]);
    place.fails(&["image", "rm", "tools"], "in use by the cell of project demo: stop it first");
    place.does(&["image", "prune"]);
    assert!(place.does(&["image", "ls"]).contains("\ntools "));
    assert_eq!(place.layers().len(), 2);
    drop(cell.stdin.take());
    output.read_to_string(&mut line).unwrap();
    cell.wait().unwrap();
    place.does(&["project", "stop", "demo"]);
    place.does(&["image", "rm", "tools"]);
    place.fails(&["image", "rm", "tools"], "no image \"tools\"");
    assert_eq!(place.layers(), [""; 0]);
    assert_eq!(fs::read_dir(place.path("state/images/blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn hostile_and_damaged_images_leave_the_store_as_it_was() {
    let Some(place) = Place::new(&["busybox", "umoci"]) else { return };
    let layout = place.layout().display().to_string();
    place.does(&["image", "import", &layout, "--name", "good"]);
    let before = (place.layers(), place.does(&["image", "ls"]));
    let secret = place.path("secret");
    fs::write(&secret, "untouched").unwrap();
    let tar = |name: &str, kind: tar::EntryType, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, &[][..]).unwrap();
        builder.into_inner().unwrap()
    };
    let fine = tar("fine", tar::EntryType::Regular, "");
    let bomb = zstd::encode_all(&vec![0; 64 << 20][..], 1).unwrap();
    for (number, (layer, diff_id, says)) in [
        (tar("../escaped", tar::EntryType::Regular, ""), None, "`..`"),
        (tar("link", tar::EntryType::Link, secret.to_str().unwrap()), None, "isn't a file of this layer"),
        (tar(".wh..", tar::EntryType::Regular, ""), None, "whiteout of nothing"),
        (fine.clone(), Some(&b"something else"[..]), "the unpacked layer should be sha256:"),
        (gzip(&fine)[..30].to_vec(), Some(&fine[..]), "ends too early"),
        (b"no archive".to_vec(), None, "ends within a header"),
        (bomb, Some(&fine[..]), "should be sha256:"),
    ]
    .into_iter()
    .enumerate()
    {
        let diff_id = diff_id.unwrap_or(&layer);
        let layout = place.layout_of(&format!("bad-{number}"), &layer, diff_id).display().to_string();
        place.fails(&["image", "import", &layout, "--name", "bad"], says);
        place.fails(&["image", "import", &layout, "--name", "good"], says);
        assert_eq!((place.layers(), place.does(&["image", "ls"])), before, "{says}");
    }
    let layout = place.layout_of("tampered", &fine, &fine);
    let blob = layout.join("blobs/sha256").join(sha256(&fine));
    fs::write(&blob, tar("fin!", tar::EntryType::Regular, "")).unwrap();
    place.fails(&["image", "import", layout.to_str().unwrap()], "the blob should be sha256:");
    fs::remove_file(&blob).unwrap();
    symlink(&secret, &blob).unwrap();
    place.fails(&["image", "import", layout.to_str().unwrap()], "leads out of it");
    place.fails(&["image", "import", "nothing-here"], "No such file or directory");
    place.fails(&["image", "import", &secret.display().to_string()], "ends within a header");
    assert_eq!((place.layers(), place.does(&["image", "ls"])), before);
    assert_eq!(fs::read_to_string(secret).unwrap(), "untouched");
    assert_eq!(place.run("good", "cat /greeting"), "hello\n");
}

#[test]
fn what_killed_imports_left_is_swept_by_the_next() {
    let Some(place) = Place::new(&["busybox", "umoci"]) else { return };
    let layout = place.layout().display().to_string();
    place.does(&["image", "ls"]);
    let leftover = place.path("state/layers/.tmp-3");
    fs::create_dir_all(leftover.join("usr/bin")).unwrap();
    File::create(leftover.join("usr/bin/half")).unwrap();
    place.does(&["image", "import", &layout, "--name", "tools"]);
    assert!(!leftover.exists());
    assert_eq!(place.layers().len(), 2);
}
