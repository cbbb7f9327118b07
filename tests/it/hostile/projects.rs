//! Projects whose folders and settings aren't what they should be.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{Canary, does, fails, output, text};
use crate::harness::Server;

/// A new project's id and folder.
pub(super) fn create(server: &Server) -> (String, PathBuf) {
    let project = server.project();
    does(server, &["project", "create", &project]);
    let folder = server.projects().join(&project);
    (project, folder)
}

#[test]
fn a_workspace_that_is_no_folder_is_named() {
    let Some(server) = Server::start() else { return };
    let canary = Canary::new(&server);
    let (project, folder) = create(&server);
    let (workspace, aside) = (folder.join("workspace"), folder.join("aside"));
    let step = format!("open the workspace of project {project} (is it missing, or a link?)");
    let refused = || {
        fails(&server, &["run", &project, "--", "true"], &[&step]);
        canary.sings();
    };
    fs::rename(&workspace, &aside).expect("it can be moved");
    refused();
    for target in [canary.path(), "aside", "/proc/self/cwd"] {
        symlink(target, &workspace).expect("a link can be made");
        refused();
        fs::remove_file(&workspace).expect("it can be removed");
    }
    mknodat(CWD, &workspace, FileType::Fifo, Mode::from_raw_mode(0o644), 0).expect("a FIFO can be made");
    refused();
    fs::remove_file(&workspace).expect("it can be removed");
    fs::rename(&aside, &workspace).expect("it can be moved");
    assert_eq!(does(&server, &["run", &project, "--", "echo", "fine"]), "fine\n");
}

#[test]
fn a_project_that_is_a_link_is_none() {
    let Some(server) = Server::start() else { return };
    let canary = Canary::new(&server);
    let (project, _) = create(&server);
    let link = server.project();
    for target in [&project, canary.path()] {
        symlink(target, server.projects().join(&link)).expect("a link can be made");
        for words in [&["run", &link, "--", "true"][..], &["project", "rm", &link]] {
            fails(&server, words, &[&format!("project {link}: it is no folder; links are not followed")]);
        }
        fs::remove_file(server.projects().join(&link)).expect("it can be removed");
    }
    canary.sings();
}

#[test]
fn settings_that_are_wrong_are_named_with_their_place() {
    let Some(server) = Server::start() else { return };
    let (project, folder) = create(&server);
    let file = folder.join("project.toml");
    let refused =
        |says: &str| fails(&server, &["run", &project, "--", "true"], &[&format!("project {project}: {says}")]);
    for (text, says) in [
        ("memory = 1\n", "project.toml:1: unknown field `memory`, expected one of `image`"),
        ("\n[limits]\npids = 1\n", "project.toml:3: unknown field `pids`, expected one of `memory_bytes_max`"),
        ("network = 'host'\n", "project.toml:1: unknown variant `host`, expected `none`"),
        ("image = '../../etc'\n", "the store has no image \"../../etc\""),
        ("image = \"a\\nb\"\n", "project.toml: image must be an image's name as `cloister image ls` shows it"),
        ("[limits]\npids_max = 0\n", "project.toml: limits.pids_max must be at least 8, is 0"),
        ("[limits]\nmemory_bytes_max = -1\n", "project.toml:2: invalid value: integer `-1`, expected u64"),
        ("[env]\n'A=B' = ''\n", "project.toml: env.A=B: a name has no '=' in it"),
        ("[env", "project.toml:1: "),
    ] {
        fs::write(&file, text).expect("the settings are written");
        refused(says);
    }
    fs::write(&file, vec![b'#'; 200_000]).expect("the settings are written");
    refused("project.toml: it is larger than 131072 bytes");
    fs::remove_file(&file).expect("it can be removed");
    symlink("/etc/passwd", &file).expect("a link can be made");
    refused("project.toml: ");
    fs::remove_file(&file).expect("it can be removed");
    mknodat(CWD, &file, FileType::Fifo, Mode::from_raw_mode(0o644), 0).expect("a FIFO can be made");
    refused("project.toml: it is no regular file");
    fs::remove_file(&file).expect("it can be removed");
    // A project without settings has the defaults.
    assert_eq!(does(&server, &["run", &project, "--", "echo", "fine"]), "fine\n");
}

#[test]
fn settings_reach_no_further_than_their_cell() {
    let Some(server) = Server::start() else { return };
    let (project, folder) = create(&server);
    let odd = "[env]\nA = '+b = c'\n'B C' = \"x\\ny\"\nLD_PRELOAD = '/workspace/none.so'\n[limits]\nopen_files_max = 4294967295\n";
    fs::write(folder.join("project.toml"), odd).expect("the settings are written");
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("the kernel has it");
    let said = does(
        &server,
        &["run", &project, "--", "python3", "-c", "import os; print([os.environ['A'], os.environ['B C']])"],
    );
    assert!(said.ends_with("['+b = c', 'x\\ny']\n"), "{said}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").expect("the kernel has it"), pattern);
}

#[test]
fn ids_that_are_paths_or_options_are_refused() {
    let Some(server) = Server::start() else { return };
    let long = "x".repeat(41);
    for id in ["..", ".", "a/b", "../projects/a", "/etc", "A", "a_b", "a-", "ä", "a\nb", "", &long] {
        let refused = output(server.command(&["run", "--", id]));
        let refused_id = output(server.command(&["project", "create", id]));
        for refused in [refused, refused_id] {
            assert!(!refused.status.success(), "{id:?}");
        }
        fails(&server, &["run", id, "--", "true"], &["a project id is 1 to 40 of a-z, 0-9 and '-'"]);
    }
    let option = output(server.command(&["run", "-x"]));
    assert_eq!(option.status.code(), Some(2), "{}", text(&option.stderr));
}

#[test]
fn commands_that_begin_with_a_dash_are_no_options() {
    let Some(server) = Server::start() else { return };
    let (project, _) = create(&server);
    for word in ["--help", "--bind", "-c", "--projects"] {
        fails(&server, &["run", &project, "--", word, "/", "/"], &[&format!("{word} is not in the cell's PATH")]);
    }
}

#[test]
fn a_project_goes_whomever_its_files_were_given_to() {
    let Some(server) = Server::start() else { return };
    let canary = Canary::new(&server);
    let (project, folder) = create(&server);
    let script = format!(
        "mkdir -p a/b/c; touch a/b/file; ln -s {canary} a/link; ln -s {canary} b; chmod 0 a/b/c; \
         chown -hR 1000:1000 a; chmod 700 a; ls -ln | grep -c '1000 *1000'",
        canary = canary.path()
    );
    assert_eq!(does(&server, &["run", &project, "--", "sh", "-c", &script]), "1\n");
    does(&server, &["project", "rm", &project]);
    assert!(!folder.exists());
    let ids = server.state().join("ids");
    assert!(ids.join(&project).symlink_metadata().is_err(), "its host ids are nobody's");
    let trash = server.projects().join(".trash");
    let by = std::time::Instant::now() + crate::harness::DEADLINE;
    // And others' once its files are gone.
    let released = || {
        let names = ids.read_dir().expect("the ids are there").filter_map(Result::ok).map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().starts_with(".released-")).count()
    };
    while trash.read_dir().expect("the trash is there").next().is_some() || released() > 0 {
        assert!(std::time::Instant::now() < by, "the trash is not emptied");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    canary.sings();
    // The id is free again.
    does(&server, &["project", "create", &project]);
    assert_eq!(does(&server, &["run", &project, "--", "ls", "-A"]), "");
}

#[test]
fn a_trash_that_is_not_roots_is_not_emptied() {
    let Some(server) = Server::start() else { return };
    let canary = Canary::new(&server);
    let trash = server.projects().join(".trash");
    fs::remove_dir(&trash).expect("it is empty");
    symlink(canary.path(), &trash).expect("a link can be made");
    let step = "prepare the folder .trash of the projects: ";
    fails(&server, &["project", "ls"], &[step]);
    fs::remove_file(&trash).expect("it can be removed");
    fs::create_dir(&trash).expect("a folder can be made");
    std::os::unix::fs::chown(&trash, Some(65_534), None).expect("it can be given away");
    fails(&server, &["project", "ls"], &[step, "it is not root's alone: remove it"]);
    fs::remove_dir(&trash).expect("it can be removed");
    does(&server, &["project", "ls"]);
    canary.sings();
}
