//! The one table of what can be configured: name, documentation, default, check. Help texts and manuals are made from it.

use std::path::PathBuf;

use super::Config;
use super::value::Value;

/// A key of the configuration file; also a `CLOISTER_*` variable, and for some a flag.
pub(crate) struct Key {
    /// Its name in the file; a dot stands for a table.
    pub(crate) name: &'static str,
    /// What it means, as a help text.
    pub(crate) doc: &'static str,
    /// Its value in a configuration, as a word that sets it.
    pub(crate) get: fn(&Config) -> String,
    /// Sets it after a check; an error reads after the key's name.
    pub(super) set: fn(&mut Config, Value<'_>) -> Result<(), String>,
}

impl Key {
    /// The end of its variable's name, behind `CLOISTER_`.
    pub(crate) fn variable(&self) -> String {
        self.name.replace('.', "_").to_ascii_uppercase()
    }
}

/// Longest time in seconds that an idle cell may linger: a day.
const LINGER_S_MAX: u64 = 24 * 60 * 60;

/// All keys, in the order in which they are documented.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "listen",
        doc: "Address and port to serve on; port 0 takes a free one",
        get: |config| config.listen.to_string(),
        set: |config, value| {
            let text = value.text()?;
            let wrong = |_| format!("must be an address and a port such as 127.0.0.1:8000 or [::1]:8000, is `{text}`");
            config.listen = text.parse().map_err(wrong)?;
            Ok(())
        },
    },
    Key {
        name: "state",
        doc: "Folder of images, cells' storage and the owner's token",
        get: |config| config.state.display().to_string(),
        set: |config, value| folder(&value).map(|path| config.state = path),
    },
    Key {
        name: "projects",
        doc: "Folder of projects",
        get: |config| config.projects.display().to_string(),
        set: |config, value| folder(&value).map(|path| config.projects = path),
    },
    Key {
        name: "run_dir",
        doc: "Folder of the cells' sockets",
        get: |config| config.run_dir.display().to_string(),
        set: |config, value| folder(&value).map(|path| config.run_dir = path),
    },
    Key {
        name: "create_projects",
        doc: "Create a project when a terminal of it is first opened",
        get: |config| config.create_projects.to_string(),
        set: |config, value| value.boolean().map(|yes| config.create_projects = yes),
    },
    Key {
        name: "user",
        doc: "Unprivileged user who serves and owns the projects' files",
        get: |config| config.user.clone(),
        set: |config, value| {
            let name = value.text()?;
            let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b':' | b'/' | b',');
            if name.is_empty() || name.len() > 32 || name.starts_with('-') || !name.bytes().all(plain) {
                return Err(format!("must be a user's name, is `{name}`"));
            }
            config.user = name.to_owned();
            Ok(())
        },
    },
    Key {
        name: "cgroup",
        doc: "Cgroup below which each cell gets its own",
        get: |config| config.cgroup.clone(),
        set: |config, value| {
            let name = value.text()?;
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(plain) {
                return Err(format!(
                    "must be 1 to 64 of A-Z, a-z, 0-9, '-', '_' and '.', not beginning with '.', is `{name}`"
                ));
            }
            config.cgroup = name.to_owned();
            Ok(())
        },
    },
    Key {
        name: "allowed_origins",
        doc: "Origins of web pages that may connect besides the server's own, such as https://ide.example.org",
        get: |config| config.allowed_origins.join(","),
        set: |config, value| {
            config.allowed_origins = value.list()?.into_iter().map(origin).collect::<Result<_, _>>()?;
            Ok(())
        },
    },
    Key {
        name: "cell_linger_s",
        doc: "Seconds that a cell without a session goes on before it is stopped",
        get: |config| config.cell_linger_s.to_string(),
        set: |config, value| value.number(0, LINGER_S_MAX).map(|seconds| config.cell_linger_s = seconds),
    },
    Key {
        name: "image",
        doc: "Runner image of projects that name none",
        get: |config| config.image.clone(),
        set: |config, value| {
            let name = value.text()?;
            if name.is_empty() || name.len() > 255 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!("must be an image's name as `cloister image ls` shows it, is `{name}`"));
            }
            config.image = name.to_owned();
            Ok(())
        },
    },
    Key {
        name: "log_bytes",
        doc: "Output kept for each session, in bytes: a power of two, 64 KiB to 64 MiB",
        get: |config| config.log_bytes.to_string(),
        set: |config, value| {
            let bytes = value.number(sandbox::log::RING_BYTES_MIN, sandbox::log::RING_BYTES_MAX)?;
            if !sandbox::log::valid_ring_bytes(bytes) {
                return Err(format!("must be a power of two, is {bytes}"));
            }
            config.log_bytes = bytes;
            Ok(())
        },
    },
    // The least values below are what a shell needs to show its prompt; the most are beyond any one host.
    Key {
        name: "limits.memory_bytes_max",
        doc: "Memory and page cache of a cell's processes together, in bytes",
        get: |config| config.limits.memory_bytes_max.to_string(),
        set: |config, value| value.number(16 << 20, 1 << 50).map(|bytes| config.limits.memory_bytes_max = bytes),
    },
    Key {
        name: "limits.cpu_millis_max",
        doc: "Processor time of a cell in thousandths of one processor: 1500 is one and a half",
        get: |config| config.limits.cpu_millis_max.to_string(),
        set: |config, value| value.number(10, 1_000_000).map(|millis| config.limits.cpu_millis_max = millis),
    },
    Key {
        name: "limits.pids_max",
        doc: "Processes and threads of a cell together",
        get: |config| config.limits.pids_max.to_string(),
        set: |config, value| value.number(8, 4_194_304).map(|pids| config.limits.pids_max = pids),
    },
    Key {
        name: "limits.open_files_max",
        doc: "Open files of one process in a cell",
        get: |config| config.limits.open_files_max.to_string(),
        set: |config, value| value.number(256, 1_048_576).map(|files| config.limits.open_files_max = files),
    },
];

/// A key's help text with its default, for the command line.
pub(crate) fn help(name: &str) -> String {
    let key = KEYS.iter().find(|key| key.name == name).expect("the command line names keys of the table");
    match (key.get)(&Config::default()).as_str() {
        "false" => key.doc.to_owned(),
        default => format!("{} [default: {default}]", key.doc),
    }
}

/// A folder's path; a relative one counts from where the command was started, in the file it would mean nothing.
fn folder(value: &Value<'_>) -> Result<PathBuf, String> {
    let text = value.text()?;
    if text.is_empty() || text.contains('\0') {
        return Err("must name a folder".to_owned());
    }
    if matches!(value, Value::Text(_)) && !text.starts_with('/') {
        return Err(format!("must be an absolute path, is `{text}`"));
    }
    std::path::absolute(text).map_err(|error| format!("can't be made absolute: {error}"))
}

/// An origin as browsers send it: scheme, host, and the port unless it is the scheme's own.
fn origin(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    match host {
        Some(host) if !host.is_empty() && host.bytes().all(plain) => Ok(text.to_ascii_lowercase()),
        _ => Err(format!("must be origins such as https://ide.example.org, without a path; is `{text}`")),
    }
}
