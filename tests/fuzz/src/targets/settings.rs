//! A project's `project.toml`, which whoever has the workspace's folder may have written.

use sandbox::spec::{ImageConfig, LayerId, Limits};

use super::message;
use crate::config::Config;
use crate::session::Sizing;

#[path = "../../../../src/project/settings.rs"]
mod written;

/// Largest file in bytes that is read at all.
const FILE_BYTES_MAX: usize = 128 * 1024;

/// Longest error in bytes: it is shown to a person.
const ERROR_BYTES_MAX: usize = 1000;

/// A file's text.
pub(crate) fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.len() > FILE_BYTES_MAX {
        return;
    }
    let settings = match written::parse(text, &Config::default()) {
        Ok(settings) => settings,
        Err(reason) => return is_clear(&reason, text),
    };
    let Limits { memory_bytes_max, cpu_millis_max, pids_max, open_files_max, .. } = settings.limits;
    assert!(memory_bytes_max >= 16 << 20 && cpu_millis_max >= 10 && pids_max >= 8 && open_files_max >= 256);
    for (name, value) in &settings.env {
        assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
    }
    if let Sizing::Fixed(size) = settings.size {
        assert_eq!(size, size.clamped());
    }
    let template = written::template(Some(&settings.image)).expect("a good name");
    let again = written::parse(&template, &Config::default()).expect("what is written for it is read");
    assert_eq!(again.image, settings.image);
    let image = ImageConfig { user: "x".repeat(48 << 10), ..ImageConfig::default() };
    message::fits(largest_image(), image, settings.env, settings.limits);
}

fn largest_image() -> Vec<LayerId> {
    vec![LayerId::parse(&"0".repeat(64)).expect("it is one"); 128]
}

/// It names a line that the file has, or a key; and is fit to be shown.
fn is_clear(reason: &str, text: &str) {
    assert!(reason.len() <= ERROR_BYTES_MAX, "an error of {} bytes: {}…", reason.len(), &reason[..40]);
    assert!(!reason.contains(char::is_control), "{reason:?}");
    let line = reason.split_once(": ").and_then(|(line, _)| line.parse::<usize>().ok());
    match line {
        Some(line) => assert!((1..=text.split('\n').count()).contains(&line), "line {line}"),
        None => {
            let named = [" image ", " limits.", " env", " size ", " policy."].iter().any(|key| reason.starts_with(key));
            assert!(named, "{reason:?} names neither a line nor a key");
        }
    }
}
