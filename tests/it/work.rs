//! Real work in a cell of the default policy: what people do in an IDE all day, with Debian's own tools, installed in the cell.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::harness::Server;

/// What `scripts/fetch-packages` has put there; `None` if there is nothing, which is said.
fn packages() -> Option<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/packages");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok);
    let packages: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "deb")).collect();
    if !packages.is_empty() {
        return Some(packages);
    }
    let reason = format!("no packages in {}: run scripts/fetch-packages, as the Makefile says", folder.display());
    assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: {reason}");
    eprintln!("skipped: {reason}");
    None
}

/// What is done, and what it has to say at its end.
const WORK: [(&str, &str, &str); 12] = [
    ("a C program", "cd c && make -s && ./sum 20 22", "42"),
    (
        "gdb at a breakpoint",
        "cd c && gdb -batch -ex 'break add' -ex 'run 20 22' -ex 'print a + b' ./sum 2>&1 | tail -1",
        "$1 = 42",
    ),
    ("strace", "strace -f -o /tmp/trace ls / >/dev/null && grep -c 'exited with 0' /tmp/trace", "1"),
    (
        "a Python project with its tests",
        "cd python && python3 -m unittest -q 2>&1 | tail -1 && python3 -m sums 20 22",
        "OK\n42",
    ),
    (
        "a Rust project, offline, with a vendored crate",
        "cd rust && cargo build -q --offline && target/debug/sums 20 22",
        "42",
    ),
    ("a Go project", "cd go && GOCACHE=/tmp/go go build -o sums . && ./sums 20 22", "42"),
    ("a Node project with worker threads", "cd node && node sums.js 20 22", "42"),
    ("a Java program", "cd java && java Sums.java 20 22", "42"),
    (
        "git",
        "git init -q --bare there.git && git clone -q there.git here 2>/dev/null && cd here && git config user.email a@example.org && \
         git config user.name A && echo 42 > file && git add file && git commit -qm one && git push -q origin HEAD && \
         git clone -q ../there.git ../again && cat ../again/file",
        "42",
    ),
    (
        "tmux",
        "tmux new-session -d 'tty > /tmp/tty; tmux wait-for -S done' \\; wait-for done; cut -c1-8 /tmp/tty",
        "/dev/pts",
    ),
    (
        "a browser's own sandbox, politely refused",
        "su -s /bin/sh nobody -c 'HOME=/tmp chromium-headless-shell --disable-gpu --dump-dom about:blank' 2>&1 | grep -oi -m1 'no usable sandbox'",
        "No usable sandbox",
    ),
    (
        "a browser without it",
        "echo '<p id=a></p><script>a.textContent = 20 + 22</script>' > page.html; chromium-headless-shell --no-sandbox --disable-gpu \
         --disable-dev-shm-usage --dump-dom file:///workspace/page.html 2>/dev/null | grep -o '>42<'",
        ">42<",
    ),
];

/// The projects' files.
const FILES: [(&str, &str); 16] = [
    ("c/add.c", "int add(int a, int b) { return a + b; }\n"),
    (
        "c/sum.c",
        "#include <stdio.h>\n#include <stdlib.h>\nint add(int, int);\n\
         int main(int n, char **v) { printf(\"%d\\n\", add(atoi(v[1]), atoi(v[2]))); return n != 3; }\n",
    ),
    ("c/Makefile", "CFLAGS = -g -O0\nsum: sum.o add.o\n\t$(CC) -o $@ $^\n"),
    ("python/sums/__init__.py", "def add(a, b):\n    return a + b\n"),
    ("python/sums/__main__.py", "import sys\nfrom . import add\nprint(add(*map(int, sys.argv[1:])))\n"),
    (
        "python/test_sums.py",
        "import unittest\nfrom concurrent.futures import ProcessPoolExecutor\nfrom sums import add\n\
         class Sums(unittest.TestCase):\n    def test_add(self):\n        with ProcessPoolExecutor(2) as pool:\n\
         \x20           self.assertEqual(pool.submit(add, 20, 22).result(), 42)\n",
    ),
    (
        "rust/Cargo.toml",
        "[package]\nname = \"sums\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\nadd = \"1\"\n",
    ),
    (
        "rust/.cargo/config.toml",
        "[source.crates-io]\nreplace-with = \"vendored\"\n[source.vendored]\ndirectory = \"vendor\"\n",
    ),
    ("rust/vendor/add/Cargo.toml", "[package]\nname = \"add\"\nversion = \"1.0.0\"\nedition = \"2021\"\n"),
    ("rust/vendor/add/.cargo-checksum.json", "{\"files\":{}}\n"),
    ("rust/vendor/add/src/lib.rs", "pub fn add(a: i32, b: i32) -> i32 { a + b }\n"),
    (
        "rust/src/main.rs",
        "fn main() {\n    let n: Vec<i32> = std::env::args().skip(1).map(|word| word.parse().unwrap()).collect();\n\
         \x20   println!(\"{}\", std::thread::spawn(move || add::add(n[0], n[1])).join().unwrap());\n}\n",
    ),
    ("go/go.mod", "module example.org/sums\n"),
    (
        "go/main.go",
        "package main\nimport (\"fmt\"; \"os\"; \"strconv\")\nfunc main() {\n\tsums := make(chan int)\n\
         \tgo func() { a, _ := strconv.Atoi(os.Args[1]); b, _ := strconv.Atoi(os.Args[2]); sums <- a + b }()\n\
         \tfmt.Println(<-sums)\n}\n",
    ),
    (
        "node/sums.js",
        "const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads');\n\
         if (isMainThread) new Worker(__filename, { workerData: process.argv.slice(2) }).on('message', n => console.log(n));\n\
         else parentPort.postMessage(workerData.reduce((sum, word) => sum + Number(word), 0));\n",
    ),
    (
        "java/Sums.java",
        "public class Sums {\n    public static void main(String[] words) throws Exception {\n\
         \x20       var sum = java.util.concurrent.CompletableFuture.supplyAsync(\n\
         \x20           () -> Integer.parseInt(words[0]) + Integer.parseInt(words[1]));\n        System.out.println(sum.get());\n    }\n}\n",
    ),
];

#[test]
fn what_people_do_all_day_works() {
    let Some(server) = Server::start() else { return };
    let Some(packages) = packages() else { return };
    let project = server.project_with("[limits]\nmemory_bytes_max = 4_294_967_296\n");
    let workspace = server.projects().join(&project).join("workspace");
    let put = |name: &str| {
        let path = workspace.join(name);
        std::fs::create_dir_all(path.parent().expect("it lies in the workspace")).expect("the folder is made");
        path
    };
    for package in &packages {
        let name = package.file_name().expect("a file").to_string_lossy();
        std::fs::copy(package, put(&format!("packages/{name}"))).expect("the package is copied");
    }
    for (name, text) in FILES {
        std::fs::write(put(name), text).expect("the file is written");
    }
    // What the test made as root is given to whom it would belong.
    let owner = std::fs::metadata(&workspace).expect("the workspace is there");
    give(&workspace, owner.uid(), owner.gid());
    let mut script = String::from(
        "cd /workspace\n\
         DEBIAN_FRONTEND=noninteractive apt-get -qq --no-install-recommends install ./packages/*.deb > /tmp/apt 2>&1 \
             && echo installed || tail -20 /tmp/apt\n",
    );
    for (name, work, _) in WORK {
        script += &format!("echo \"== {name}\"; (cd /workspace; {work}) 2>&1 | tail -3\n");
    }
    std::fs::write(workspace.join("work.sh"), script).expect("the script is written");
    let output = server
        .command(&["run", &project, "--", "bash", "/workspace/work.sh"])
        .stdin(Stdio::null())
        .output()
        .expect("cloister runs");
    let said = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
    let expected: String = WORK.iter().map(|(name, _, last)| format!("== {name}\n{last}\n")).collect();
    assert_eq!(said, format!("installed\n{expected}"));
}

/// Gives a tree to a user.
fn give(path: &Path, uid: u32, gid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).expect("the test may give files away");
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).expect("it can be listed").filter_map(Result::ok) {
            give(&entry.path(), uid, gid);
        }
    }
}
