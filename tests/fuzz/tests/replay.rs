//! Every target over all of its corpus, so that neither rots: what libFuzzer found once is tried in every run of the tests.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What tasks have said that panicked where nobody waits for them.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[test]
fn hostile_cells() {
    replay("cell");
}

#[test]
fn changed_checkpoints() {
    replay("checkpoint");
}

#[test]
fn frames_of_clients_in_all_dialects() {
    replay("frames");
}

#[test]
fn documents_of_images() {
    replay("image");
}

#[test]
fn archives_of_layers() {
    replay("layer");
}

#[test]
fn packets_between_server_and_cell() {
    replay("packets");
}

#[test]
fn words_of_proxies() {
    replay("proxies");
}

#[test]
fn requests_to_the_launcher() {
    replay("request");
}

#[test]
fn settings_of_projects() {
    replay("settings");
}

#[test]
fn users_of_images() {
    replay("users");
}

#[test]
fn what_programs_print() {
    replay("screen");
}

#[test]
fn bytes_on_a_websocket() {
    replay("socket");
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let mut corpora: Vec<_> =
        entries(&corpus()).iter().map(|path| path.file_name().expect("a name").to_owned()).collect();
    corpora.sort();
    assert_eq!(corpora, fuzz::TARGETS.map(|(name, _)| name));
}

fn replay(name: &str) {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        PANICS.lock().expect("nobody panics here").push(panic.to_string());
    }));
    let target = fuzz::target(name).expect("a target");
    let files = entries(&corpus().join(name));
    assert!(files.len() >= 10, "{} files are no corpus", files.len());
    for file in files {
        eprintln!("{}", file.display());
        target(&std::fs::read(&file).expect("a file"));
        let panics = std::mem::take(&mut *PANICS.lock().expect("nobody panics here"));
        assert!(panics.is_empty(), "{}: {panics:?}", file.display());
    }
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}
