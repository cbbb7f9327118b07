//! Names the build, of a release by its commit, and embeds the page: what `make web` left in `web/dist`, or the hand-written `web/fallback` that says how to make it.
//!
//! Writes `$OUT_DIR/page.rs`, a list of `File` values which `src/api/page.rs` includes. Never runs npm and needs no
//! network, so that `cargo build` works without either. Compressed forms (`.br`, `.gz`) are made by the page's own
//! build.

use std::collections::hash_map::DefaultHasher;
use std::error::Error;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fmt::Write, fs};

/// Set to 1 where a binary without its page would be a mistake: packages, CI.
const REQUIRE: &str = "CLOISTER_REQUIRE_WEB";

/// Files the page may have, so that a folder gone wrong is noticed here.
const FILES_MAX: usize = 100;

/// Endings of compressed forms.
const BROTLI: &str = "br";
const GZIP: &str = "gz";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rustc-env=CLOISTER_BUILD={}", build()?);
    let web = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("web");
    let (dist, fallback) = (web.join("dist"), web.join("fallback"));
    let built = dist.join("index.html").exists();
    println!("cargo:rerun-if-env-changed={REQUIRE}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", fallback.display());
    // A path that isn't there would make every build run this again: without a page, its parent is watched for one.
    println!("cargo:rerun-if-changed={}", if built { &dist } else { &web }.display());
    if !built {
        if env::var(REQUIRE).is_ok_and(|value| value == "1") {
            return Err(format!("web/dist: no page, and {REQUIRE}=1 asks for one: run `make web`").into());
        }
        println!("cargo:warning=web/dist: no page, so the server will only say how to build it: run `make web`");
    }
    let root = if built { dist } else { fallback };
    let mut files = Vec::new();
    list(&root, &mut files)?;
    files.sort();
    let mut code = String::from("&[\n");
    for path in files.iter().filter(|path| !is_compressed(path)) {
        entry(&mut code, &root, path)?;
    }
    code.push_str("]\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("page.rs"), code)?;
    Ok(())
}

/// The release's number and, where the sources come from git, how many commits it has behind it and which is the last one.
/// Other builds than releases don't say it: they would be built anew with each commit.
fn build() -> Result<String, Box<dyn Error>> {
    let mut version = env::var("CARGO_PKG_VERSION")?;
    if env::var("PROFILE")? == "release"
        && let Some(commits) = git(&["rev-list", "--count", "HEAD"])
        && let Some(last) = git(&["rev-parse", "--short=7", "HEAD"])
    {
        version = format!("{version}+{commits}.g{last}");
        if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
            println!("cargo:rerun-if-changed={log}");
        }
    }
    Ok(version)
}

/// What git says in one line; `None` without git, or outside of a repository.
fn git(words: &[&str]) -> Option<String> {
    let said = Command::new("git").args(words).output().ok().filter(|said| said.status.success())?;
    Some(String::from_utf8(said.stdout).ok()?.trim().to_owned())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
        if files.len() > FILES_MAX {
            return Err(format!("{}: more than {FILES_MAX} files: run `make web` again", folder.display()).into());
        }
    }
    Ok(())
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == BROTLI || end == GZIP)
}

fn entry(code: &mut String, root: &Path, path: &Path) -> Result<(), Box<dyn Error>> {
    let name = path.strip_prefix(root)?.to_str().ok_or("web/dist: a file's name is no UTF-8: run `make web` again")?;
    writeln!(code, "File {{ name: {name:?}, kind: {:?},", kind(name)?)?;
    writeln!(code, "  plain: {},", form(path)?)?;
    for (field, end) in [("brotli", BROTLI), ("gzip", GZIP)] {
        let coded = PathBuf::from(format!("{}.{end}", path.display()));
        let form = if coded.exists() { format!("Some({})", form(&coded)?) } else { "None".to_owned() };
        writeln!(code, "  {field}: {form},")?;
    }
    writeln!(code, "}},")?;
    Ok(())
}

/// One form of a file with its ETag: each form is another sequence of bytes, so each has its own. The files are ours,
/// so a hash need only tell one build from the next.
fn form(path: &Path) -> Result<String, Box<dyn Error>> {
    let mut hasher = DefaultHasher::new();
    hasher.write(&fs::read(path)?);
    Ok(format!("Form {{ etag: {:?}, bytes: include_bytes!({path:?}) }}", format!("\"{:016x}\"", hasher.finish())))
}

fn kind(name: &str) -> Result<&'static str, Box<dyn Error>> {
    Ok(match name.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => {
            return Err(format!(
                "web/dist/{name}: a kind of file the server has no media type for: name it in build.rs"
            )
            .into());
        }
    })
}
