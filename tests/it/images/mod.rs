//! Runner images as the tools that Debian has make them: imported or pulled by the real binary, and run. Each test has a
//! state folder of its own; the images are small, a busybox with a few files.

mod place;
mod prune;
mod registry;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use place::{Place, gzip, image_of, is_refusal, sha256, tool};

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
        let layout = image_of(&layer, diff_id).layout(place.path(&format!("bad-{number}"))).display().to_string();
        place.fails(&["image", "import", &layout, "--name", "bad"], says);
        place.fails(&["image", "import", &layout, "--name", "good"], says);
        assert_eq!((place.layers(), place.does(&["image", "ls"])), before, "{says}");
    }
    let layout = image_of(&fine, &fine).layout(place.path("tampered"));
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

#[test]
fn a_full_disk_is_said_and_what_was_written_goes() {
    let Some(place) = Place::new(&["busybox", "umoci", "unshare"]) else { return };
    let layout = place.layout().display().to_string();
    let state = place.path("state");
    fs::create_dir(&state).unwrap();
    // A file system of 1.5 MiB in a mount namespace of the test's own; the image has 2.
    let script = "mount -t tmpfs -o size=1536k,mode=0755 none \"$1\" && shift && \"$@\"; status=$?; ls -A \"$STATE/layers\"; exit $status";
    let mut import = place.cloister(&["image", "import", &layout]);
    import.env("CLOISTER_HOST_DISK_RESERVE_BYTES", "0");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(&state)
        .arg(import.get_program())
        .args(import.get_args())
        .envs(import.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("STATE", &state)
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    is_refusal(&output, "No space left on device (os error 28); free some space");
    assert_eq!(output.stdout, b"", "nothing half-made is left");
    place.does(&["image", "import", &layout]);
}
