//! Images whose folders aren't folders, whose users aren't users, and whose wishes can't be met.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::layout::{Layer, alone, on_default};
use super::{Canary, does, fails};
use crate::harness::{Server, block_on};

/// An image in the store, and a project that wants it. Dropping it removes the image.
struct Case<'a> {
    server: &'a Server,
    project: String,
}

impl<'a> Case<'a> {
    #[track_caller]
    fn new(server: &'a Server, layout: &TempDir) -> Self {
        let project = server.project();
        let path = layout.path().to_str().expect("test folders are UTF-8");
        does(server, &["image", "import", path, "--name", &project]);
        does(server, &["project", "create", &project, "--image", &project]);
        Self { server, project }
    }

    #[track_caller]
    fn runs(&self, script: &str) -> String {
        does(self.server, &["run", &self.project, "--", "sh", "-c", script])
    }

    /// A cell or its command doesn't start, and nothing of it is left.
    #[track_caller]
    fn fails(&self, says: &[&str]) {
        fails(self.server, &["run", &self.project, "--", "sh", "-c", "echo through"], says);
        assert!(!self.server.state().join("cells").join(&self.project).exists(), "something is left of the cell");
        assert!(!self.server.run_dir().join("cells").join(format!("{}.sock", self.project)).exists());
    }
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            does(self.server, &["project", "stop", &self.project]);
        }
        let _ = self.server.command(&["image", "rm", &self.project]).output();
    }
}

#[test]
fn a_mount_point_that_is_no_folder_is_refused_and_not_followed() {
    let Some(server) = Server::start() else { return };
    let canary = Canary::new(&server);
    let up = format!("../../../../../..{}", canary.path());
    let refused = |layer: Layer, says: &[&str]| {
        Case::new(&server, &on_default(layer, json!({}))).fails(says);
        canary.sings();
    };
    let a_link =
        |place: &str| format!("/{place} of the image is a link or a file: it must be a folder, mend the image");
    for (place, step) in [("proc", "mount proc at /proc: "), ("dev", "attach devices at /dev: ")] {
        let says = [step, &a_link(place)];
        refused(Layer::new().link(place, canary.path()), &says);
        refused(Layer::new().link(place, &up), &says);
        refused(Layer::new().link(place, "/proc/self/root"), &says);
        refused(Layer::new().link(place, "tmp"), &says);
        refused(Layer::new().fifo(place), &says);
        refused(Layer::new().file(place, 0o644, b"text"), &says);
    }
    refused(Layer::new().link("sys", canary.path()), &["mount sysfs at /sys: ", &a_link("sys")]);
    refused(Layer::new().fifo("sys"), &["mount sysfs at /sys: ", &a_link("sys")]);
    refused(
        Layer::new().link("workspace", "/proc/1/root"),
        &["attach the workspace at /workspace: ", &a_link("workspace")],
    );
    refused(
        Layer::new().file("workspace", 0o644, b""),
        &["attach the workspace at /workspace: ", &a_link("workspace")],
    );
    refused(Layer::new().link("etc", &format!("{}/etc", canary.path())), &["write /etc/hostname: ", &a_link("etc")]);
    refused(Layer::new().fifo("etc"), &["write /etc/hostname: ", &a_link("etc")]);
}

#[test]
fn a_file_that_a_cell_writes_must_be_one() {
    let Some(server) = Server::start() else { return };
    let canary = Canary::new(&server);
    for name in ["hostname", "hosts"] {
        let path = format!("etc/{name}");
        let says = [&*format!("write /{path}: "), &format!("/{path} of the image is no regular file: mend the image")];
        for layer in [
            Layer::new().link(&path, &format!("{}/hostname", canary.path())),
            Layer::new().link(&path, "/proc/sys/kernel/core_pattern"),
            Layer::new().fifo(&path),
            Layer::new().folder(&path),
        ] {
            Case::new(&server, &on_default(layer, json!({}))).fails(&says);
            canary.sings();
        }
    }
}

#[test]
fn what_an_image_has_in_its_devices_is_covered() {
    let Some(server) = Server::start() else { return };
    let layer = Layer::new()
        .folder("dev")
        .link("dev/null", "/proc/sysrq-trigger")
        .link("dev/pts", "/tmp")
        .link("dev/shm", "/etc")
        .file("dev/console", 0o666, b"")
        .folder("proc/sys")
        .file("proc/kcore", 0o666, b"false");
    let case = Case::new(&server, &on_default(layer, json!({})));
    let said = case.runs("stat -c '%F %t:%T' /dev/null; stat -f -c %T /dev/pts /dev/shm /proc; ls /dev/console; tty");
    assert_eq!(
        said,
        "character special file 1:3\ndevpts\ntmpfs\nproc\nls: cannot access '/dev/console': No such file or directory\n/dev/pts/0\n"
    );
}

#[test]
fn set_id_bits_and_devices_of_an_image_are_gone() {
    let Some(server) = Server::start() else { return };
    let layer = Layer::new().file("usr/bin/set-id", 0o6755, b"#!/bin/sh\n").file("usr/bin/sticky", 0o1755, b"");
    let case = Case::new(&server, &on_default(layer, json!({})));
    assert_eq!(case.runs("stat -c %a /usr/bin/set-id; find / -xdev -perm /6000"), "755\n");
}

#[test]
fn an_image_without_a_shell_says_so() {
    let Some(server) = Server::start() else { return };
    let layer = Layer::new().folder("etc").file("bin/sh", 0o644, b"not executable").link("bin/bash", "nowhere");
    let case = Case::new(&server, &alone(layer, json!({ "Cmd": ["/bin/zsh"] })));
    case.fails(&["the image has no shell: install bash or sh in it"]);
}

#[test]
fn a_shell_that_is_the_launcher_itself_changes_nothing() {
    const TERMINALS: usize = 100;
    let Some(server) = Server::start() else { return };
    let before = std::fs::read(env!("CARGO_BIN_EXE_cloister-launcher")).expect("the launcher is there");
    let links = Layer::new().link("usr/bin/bash", "/proc/self/exe").link("usr/bin/sh", "/proc/self/exe");
    let script = Layer::new().file("usr/bin/evil", 0o755, b"#!/proc/self/exe\n");
    for (layer, shell) in [(links, "/usr/bin/bash"), (script, "/usr/bin/evil")] {
        let case = Case::new(&server, &on_default(layer, json!({ "Entrypoint": [shell] })));
        // It runs: a sealed copy in memory, without privilege, which finds no one to serve.
        let run = server.command(&["run", &case.project, "--", "-c", "echo through"]).output().expect("cloister runs");
        assert_eq!(run.status.code(), Some(1), "{run:?}");
        // And once for each terminal that a server opens.
        block_on(async {
            for number in 0..TERMINALS / 2 {
                let opened = server.try_open(&case.project, &format!("&session=s{number}")).await;
                drop(opened);
            }
        });
    }
    assert!(std::fs::read(env!("CARGO_BIN_EXE_cloister-launcher")).expect("it is still there") == before);
}

#[test]
fn users_are_looked_up_as_numbers_and_names_and_nowhere_else() {
    let Some(server) = Server::start() else { return };
    let user = |user: &str| json!({ "User": user });
    let passwd = b"root:x:0:0::/root:/bin/bash\n1000:x:0:0:a trick:/root:/bin/bash\ngiant:x:70000:70000::/:/bin/sh\n";
    let database = || Layer::new().file("etc/passwd", 0o644, passwd);
    let case = |layer: Layer, config: Value| Case::new(&server, &on_default(layer, config));
    assert_eq!(case(database(), user("1000")).runs("id -u; id -g"), "1000\n0\n", "a number is never a name");
    let step = "find the image's user: ";
    case(database(), user("nobody-knows"))
        .fails(&[step, "\"nobody-knows\" is not in its /etc/passwd: use a numeric id"]);
    case(database(), user("0:nobody-knows"))
        .fails(&[step, "\"nobody-knows\" is not in its /etc/group: use a numeric id"]);
    case(database(), user("giant")).fails(&[step, "\"70000\": a cell has the ids 0 to 65535"]);
    case(database(), user("4294967295")).fails(&[step, "a cell has the ids 0 to 65535"]);
    case(Layer::new().fifo("etc/passwd"), user("1")).fails(&[step, "/etc/passwd can't be read: it is no regular file"]);
    case(Layer::new().link("etc/passwd", "/proc/self/environ"), user("1")).fails(&[step, "/etc/passwd can't be read"]);
    case(Layer::new().zeros("etc/passwd", 2 << 20), user("1"))
        .fails(&[step, "/etc/passwd can't be read: it is longer than 1 MiB"]);
    case(Layer::new().fifo("etc/group"), user("1")).fails(&[step, "/etc/group can't be read: it is no regular file"]);
}

#[test]
fn wishes_that_can_not_be_met_are_named_and_odd_ones_mean_nothing() {
    let Some(server) = Server::start() else { return };
    let canary = Canary::new(&server);
    let case = |config: Value| Case::new(&server, &on_default(Layer::new().folder("srv/x"), config));
    let descriptors = (3..16).map(|number| format!("/proc/self/fd/{number}"));
    let magic = ["/proc/1/cwd", "/proc/self/cwd/../../..", "/proc/self/root", "/proc/thread-self/fd/9/../../.."];
    let others = ["/nowhere", "../../..", "/etc/passwd", canary.path()].into_iter().chain(magic).map(str::to_owned);
    for folder in descriptors.chain(others) {
        let says = format!("the image's working folder {folder:?} is no folder in it");
        case(json!({ "WorkingDir": folder })).fails(&[&says]);
    }
    let odd = json!({
        "WorkingDir": "/srv/x/../x",
        "Env": ["=nothing", "NOTHING", "", "A=1=2", "A=3", "B=\u{1b}[2J", "HOME=/srv", "PATH=:/usr/bin:.:/bin"],
        "Volumes": { "/": {}, "/proc": {}, "/../../etc": {} },
        "Labels": { "../../etc/passwd": "x" },
        "ExposedPorts": { "99999/tcp": {} },
        "StopSignal": "SIGKILL -1",
    });
    let said = case(odd).runs("pwd; echo $A $HOME; env | grep -c -e ^= -e ^NOTHING; true");
    assert_eq!(said, "/srv/x\n3 /srv\n0\n");
    canary.sings();
}

#[test]
fn an_entrypoint_that_begins_with_a_dash_is_no_option() {
    let Some(server) = Server::start() else { return };
    for words in [&["--bind", "/", "/"][..], &["-c", "echo through"], &["--help"]] {
        let case = Case::new(&server, &on_default(Layer::new(), json!({ "Entrypoint": words })));
        case.fails(&[&format!("{} is not in the cell's PATH", words[0])]);
    }
}

#[test]
fn after_a_refusal_everything_else_works() {
    let Some(server) = Server::start() else { return };
    let layout = on_default(Layer::new().fifo("proc"), json!({}));
    let case = Case::new(&server, &layout);
    let ids = server.state().join("ids").join(&case.project);
    case.fails(&["mount proc at /proc"]);
    let before = std::fs::read_link(&ids).expect("the project has host ids");
    case.fails(&["mount proc at /proc"]);
    // The same project with an image that is good.
    let settings = server.projects().join(&case.project).join("project.toml");
    std::fs::write(settings, "image = \"default\"\n").expect("the settings are written");
    assert_eq!(case.runs("echo fine"), "fine\n");
    assert_eq!(std::fs::read_link(&ids).expect("the project has host ids"), before);
    let listed = does(&server, &["image", "ls"]);
    assert!(listed.contains("\ndefault ") && listed.contains(&case.project), "{listed}");
}
