//! What a developer does in a cell of the default image, as root of the cell and as another.

use std::process::Stdio;

use crate::harness::Server;

/// Runs a script in a new cell, in its workspace; what it prints.
fn script(text: &str) -> Option<String> {
    let server = Server::start()?;
    let project = server.project();
    let run = |words: &[&str]| server.command(words).stdin(Stdio::null()).output().expect("cloister runs");
    assert!(run(&["project", "create", &project]).status.success());
    let output = run(&["run", &project, "--", "bash", "-ec", text]);
    // A terminal ends its lines so.
    let said = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Some(said)
}

#[test]
fn a_program_is_compiled_and_run() {
    let text = "printf '#include <stdio.h>\\nint main(void) { return printf(\"built\\\\n\") != 6; }' > a.c
                printf 'a: a.c\\n\\tgcc -O2 -o a a.c\\n' > Makefile; make --silent; ./a";
    let Some(said) = script(text) else { return };
    assert_eq!(said, "built\n");
}

#[test]
fn work_is_committed() {
    let text = "git init -q .; git config user.name me; git config user.email me@example.org
                echo one > file; git add file; git commit -qm first; git branch --show-current; git status --short";
    let Some(said) = script(text) else { return };
    assert_eq!(said, "main\n");
}

#[test]
fn users_are_made_and_become() {
    let text = "useradd -m joe; su joe -c 'id -un; umask; touch ~/mine'; stat -c %U /home/joe/mine; su nobody -s /bin/sh -c 'id -u'";
    let Some(said) = script(text) else { return };
    assert_eq!(said, "joe\n0022\njoe\n65534\n");
}

#[test]
fn a_package_is_built_and_installed() {
    let text = "mkdir -p p/DEBIAN p/usr/bin; printf '#!/bin/sh\\necho installed\\n' > p/usr/bin/ours; chmod +x p/usr/bin/ours
                printf 'Package: ours\\nVersion: 1\\nArchitecture: all\\nMaintainer: me <me@example.org>\\nDescription: x\\n' > p/DEBIAN/control
                dpkg-deb --build p ours.deb >/dev/null; apt-get install --yes ./ours.deb >/dev/null 2>&1; ours";
    let Some(said) = script(text) else { return };
    assert_eq!(said, "installed\n");
}

#[test]
fn tools_are_there_and_speak_utf8() {
    let text = "for tool in curl file git jq less nano python3 rg strings tmux top tree unzip vim xz zstd; do
                  command -v $tool >/dev/null || echo no $tool; done
                printf 'h\\303\\251' | wc -m; python3 -c 'print(\"\\u00e9\")'; locale charmap";
    let Some(said) = script(text) else { return };
    assert_eq!(said, "2\né\nUTF-8\n");
}
