//! The one table of what can be configured: name, documentation, default, check. Help texts and manuals are made from it.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use sandbox::policy::Leeway;
use sandbox::spec::{DISK_BYTES_MAX, DISK_BYTES_MIN, IO_BYTES_PER_S_MIN};

use super::value::Value;
use super::{CellsAtStop, Config, LogFormat, Quota};

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

/// Longest time in seconds that a cell may be idle before it is frozen or stopped: a year.
pub(crate) const IDLE_S_MAX: u64 = 365 * 24 * 60 * 60;

/// The words of [`CellsAtStop`].
const CELLS_AT_STOP: [(&str, CellsAtStop); 2] = [("keep", CellsAtStop::Keep), ("end", CellsAtStop::End)];

/// The words of [`Quota`].
const QUOTAS: [(&str, Quota); 2] = [("enforced", Quota::Enforced), ("unenforced", Quota::Unenforced)];

/// The words of [`LogFormat`].
const LOG_FORMATS: [(&str, LogFormat); 4] =
    [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json), ("journal", LogFormat::Journal)];

/// All keys, in the order in which they are documented.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "listen",
        doc: "Address and port to serve on, unless a service manager gives a socket (cloister.socket); port 0 takes a free one",
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
        doc: "Unprivileged user who serves and owns the projects' files; started by another than root, that one does",
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
        doc: "Cgroup below which each cell gets its own, as a path; `none`: cells have no limit of memory, processor and processes",
        get: |config| config.cgroup.clone(),
        set: |config, value| {
            let name = value.text()?;
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain);
            if name.len() > 128 || !name.split('/').all(part) {
                return Err(format!(
                    "must be names of A-Z, a-z, 0-9, '-', '_' and '.', not beginning with '.', with '/' between them and 128 \
                     characters in all at most, is `{name}`"
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
        name: "tls.certificate",
        doc: "File of the server's certificate, and of those that lead to a root, in PEM: with it and its key TLS is spoken",
        get: |config| file_word(config.tls.certificate.as_ref()),
        set: |config, value| file(&value).map(|path| config.tls.certificate = path),
    },
    Key {
        name: "tls.key",
        doc: "File of the certificate's key in PEM, unencrypted",
        get: |config| file_word(config.tls.key.as_ref()),
        set: |config, value| file(&value).map(|path| config.tls.key = path),
    },
    Key {
        name: "tls.acme_domains",
        doc: "Names for which the server gets a certificate by ACME and renews it, such as ide.example.org; with them TLS is spoken, and \
              the authority's terms of service are agreed to",
        get: |config| config.tls.acme_domains.join(","),
        set: |config, value| {
            let names = value.list()?.into_iter().map(domain).collect::<Result<Vec<_>, _>>()?;
            if names.iter().enumerate().any(|(at, name)| names[..at].contains(name)) {
                return Err("must name each only once".to_owned());
            }
            config.tls.acme_domains = names;
            Ok(())
        },
    },
    Key {
        name: "tls.acme_contact",
        doc: "Mail address that the authority is told, for what it has to say of the certificate",
        get: |config| config.tls.acme_contact.clone(),
        set: |config, value| contact(value.text()?).map(|contact| config.tls.acme_contact = contact),
    },
    Key {
        name: "tls.acme_directory",
        doc: "The authority: the address of its ACME directory",
        get: |config| config.tls.acme_directory.clone(),
        set: |config, value| directory(value.text()?).map(|directory| config.tls.acme_directory = directory),
    },
    Key {
        name: "tls.acme_ca",
        doc: "File of certificates, in PEM, by which the ACME directory is known besides the system's authorities",
        get: |config| file_word(config.tls.acme_ca.as_ref()),
        set: |config, value| file(&value).map(|path| config.tls.acme_ca = path),
    },
    Key {
        name: "trusted_proxies",
        doc: "Addresses and networks of proxies that are believed who and which host they were asked by, such as 127.0.0.1 or 10.0.0.0/8",
        get: |config| config.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        set: |config, value| {
            config.trusted_proxies = value.list()?.into_iter().map(network).collect::<Result<_, _>>()?;
            Ok(())
        },
    },
    Key {
        name: "proxy_protocol",
        doc: "Whether each connection begins with a preface of the PROXY protocol, version 2, from one of them; others are dropped",
        get: |config| config.proxy_protocol.to_string(),
        set: |config, value| value.boolean().map(|yes| config.proxy_protocol = yes),
    },
    Key {
        name: "cell_linger_s",
        doc: "Seconds that a cell without a session goes on before it is stopped",
        get: |config| config.cell_linger_s.to_string(),
        set: |config, value| value.number(0, LINGER_S_MAX).map(|seconds| config.cell_linger_s = seconds),
    },
    Key {
        name: "cells_at_stop",
        doc: "What becomes of cells when the server is stopped, which a restart does too: `keep` or `end`",
        get: |config| word(&CELLS_AT_STOP, config.cells_at_stop),
        set: |config, value| of_word(&CELLS_AT_STOP, &value).map(|at_stop| config.cells_at_stop = at_stop),
    },
    Key {
        name: "idle_freeze_s",
        doc: "Seconds without activity after which a cell is frozen until somebody types; 0 is never",
        get: |config| config.idle_freeze_s.to_string(),
        set: |config, value| value.number(0, IDLE_S_MAX).map(|seconds| config.idle_freeze_s = seconds),
    },
    Key {
        name: "idle_stop_s",
        doc: "Seconds without activity after which a cell is stopped with all its sessions; 0 is never",
        get: |config| config.idle_stop_s.to_string(),
        set: |config, value| value.number(0, IDLE_S_MAX).map(|seconds| config.idle_stop_s = seconds),
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
    Key {
        name: "limits.cpu_weight",
        doc: "Share of processors beside other cells when all want more than there is: 1 to 10000",
        get: |config| config.limits.cpu_weight.to_string(),
        set: |config, value| value.number(1, 10_000).map(|weight| config.limits.cpu_weight = weight),
    },
    Key {
        name: "limits.file_bytes_max",
        doc: "Largest file that a process in a cell may write, in bytes",
        get: |config| config.limits.file_bytes_max.to_string(),
        // The sessions' logs are files too, of 64 MiB at most.
        set: |config, value| value.number(128 << 20, 1 << 50).map(|bytes| config.limits.file_bytes_max = bytes),
    },
    Key {
        name: "limits.io_bytes_per_s_max",
        doc: "Bytes that a cell may read from the host's disks in a second, and as many to write; 0 is no limit",
        get: |config| config.limits.io_bytes_per_s_max.to_string(),
        set: |config, value| {
            zero_or(&value, IO_BYTES_PER_S_MIN, 1 << 50).map(|bytes| config.limits.io_bytes_per_s_max = bytes)
        },
    },
    Key {
        name: "limits.disk_bytes_max",
        doc: "Disk for a project's workspace and its cell's changes to the image together, in bytes; 0 is no limit",
        get: |config| config.limits.disk_bytes_max.to_string(),
        set: |config, value| {
            zero_or(&value, DISK_BYTES_MIN, DISK_BYTES_MAX).map(|bytes| config.limits.disk_bytes_max = bytes)
        },
    },
    Key {
        name: "host.cells_max",
        doc: "Cells that run at once on this host; 0 is no limit",
        get: |config| config.host.cells_max.to_string(),
        set: |config, value| value.number(0, 65_536).map(|cells| config.host.cells_max = cells),
    },
    Key {
        name: "host.memory_percent_max",
        doc: "Memory limits of all running cells together, in percent of the host's memory or, if that is less, of what their cgroup \
              may have: 150 gives half as much again as there is; 0 is no limit",
        get: |config| config.host.memory_percent_max.to_string(),
        set: |config, value| {
            // Less than a tenth is a factor written in place of a percentage.
            zero_or(&value, 10, 100_000).map(|percent| config.host.memory_percent_max = percent as u32)
        },
    },
    Key {
        name: "host.disk_reserve_bytes",
        doc: "What is to stay free of the disks of state and projects, in bytes: below it no cell starts and no image is unpacked; \
              0 is no reserve",
        get: |config| config.host.disk_reserve_bytes.to_string(),
        set: |config, value| value.number(0, 1 << 50).map(|bytes| config.host.disk_reserve_bytes = bytes),
    },
    Key {
        name: "quota",
        doc: "Whether limits of disk are `enforced`, by project quotas or a disk image for each project, or `unenforced`",
        get: |config| word(&QUOTAS, config.quota),
        set: |config, value| of_word(&QUOTAS, &value).map(|quota| config.quota = quota),
    },
    Key {
        name: "metrics_token_file",
        doc: "File with a token for `/metrics` alone; the owner's token is good for it too",
        get: |config| config.metrics_token_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        set: |config, value| {
            // Without a word it is none, as the default is.
            let none = value.text()?.is_empty();
            config.metrics_token_file = if none { None } else { Some(path(&value, "a file")?) };
            Ok(())
        },
    },
    Key {
        name: "log_format",
        doc: "The server's log: `text` or `json` lines on standard error, `journal` with fields, `auto` for the journal under systemd",
        get: |config| word(&LOG_FORMATS, config.log_format),
        set: |config, value| of_word(&LOG_FORMATS, &value).map(|format| config.log_format = format),
    },
    Key {
        name: "policy.profile",
        doc: "System calls of cells whose project chooses no profile: default, or strict, which has no debuggers",
        get: |config| config.policy.profile.name().to_owned(),
        set: |config, value| value.text()?.parse().map(|profile| config.policy.profile = profile),
    },
    Key {
        name: "policy.may_allow",
        doc: "What projects may ask for beyond that profile, by names that `cloister policy show` lists",
        get: |config| config.policy.may_allow.iter().map(String::as_str).collect::<Vec<_>>().join(","),
        set: |config, value| {
            let named = |name: &str| Leeway::known(name).map(|()| name.to_owned());
            config.policy.may_allow = value.list()?.into_iter().map(named).collect::<Result<_, _>>()?;
            Ok(())
        },
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

/// The word of a choice, of which each has one.
fn word<T: PartialEq>(words: &[(&str, T)], chosen: T) -> String {
    words.iter().find(|(_, choice)| *choice == chosen).map(|(word, _)| (*word).to_owned()).unwrap_or_default()
}

/// What a word chooses; an error names all words.
fn of_word<T: Copy>(words: &[(&str, T)], value: &Value<'_>) -> Result<T, String> {
    let text = value.text()?;
    let chosen = words.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
    chosen.ok_or_else(|| {
        let all = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let (others, last) = all.rsplit_once(", ").unwrap_or(("nothing", &all));
        format!("must be {others} or {last}, is `{text}`")
    })
}

/// A limit for which 0 is none.
fn zero_or(value: &Value<'_>, least: u64, most: u64) -> Result<u64, String> {
    match value.number(0, most)? {
        number if number != 0 && number < least => Err(format!("must be 0 or at least {least}, is {number}")),
        number => Ok(number),
    }
}

/// A folder's path; a relative one counts from where the command was started, in the file it would mean nothing.
fn folder(value: &Value<'_>) -> Result<PathBuf, String> {
    path(value, "a folder")
}

/// As [`folder`], of whatever it is the path.
fn path(value: &Value<'_>, what: &str) -> Result<PathBuf, String> {
    let text = value.text()?;
    if text.is_empty() || text.contains('\0') {
        return Err(format!("must name {what}"));
    }
    if matches!(value, Value::Text(_)) && !text.starts_with('/') {
        return Err(format!("must be an absolute path, is `{text}`"));
    }
    std::path::absolute(text).map_err(|error| format!("can't be made absolute: {error}"))
}

/// A network, or an address alone.
fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("must be addresses or networks such as 127.0.0.1 or 10.0.0.0/8, is `{text}`"))
}

/// A file's path, as a folder's; an empty text is none.
fn file(value: &Value<'_>) -> Result<Option<PathBuf>, String> {
    match value.text()? {
        "" => Ok(None),
        text if text.ends_with('/') => Err(format!("must name a file, is `{text}`")),
        _ => folder(value).map(Some),
    }
}

fn file_word(path: Option<&PathBuf>) -> String {
    path.map_or_else(String::new, |path| path.display().to_string())
}

/// A name that a certificate can have, in lower case; the file of its challenge has it, too.
fn domain(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    // An address is none.
    let is_name = |name: &str| name.bytes().any(|byte| byte.is_ascii_lowercase());
    if name.len() > 253 || !name.split('.').all(label) || !name.rsplit('.').next().is_some_and(is_name) {
        return Err(format!(
            "must be names such as ide.example.org, whole ones since a wildcard takes a challenge in DNS; is `{text}`"
        ));
    }
    Ok(name)
}

/// A mail address as ACME has it (RFC 8555 section 7.3); an empty text is none.
fn contact(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("mailto:").unwrap_or(text);
    let plain =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic() && !b",?@".contains(&byte));
    match address.split_once('@') {
        None if address.is_empty() => Ok(String::new()),
        Some((name, host)) if address.len() <= 254 && plain(name) && plain(host) => Ok(format!("mailto:{address}")),
        _ => Err(format!("must be a mail address such as admin@example.org, is `{text}`")),
    }
}

/// Where an ACME directory is; TLS is a must (RFC 8555 section 6.1).
fn directory(text: &str) -> Result<String, String> {
    let known = text.parse::<http::Uri>().ok().filter(|uri| uri.scheme_str() == Some("https"));
    // Its folder has a name made of this, of 255 bytes at most.
    match known.and_then(|uri| uri.host().map(|host| !host.is_empty())) {
        Some(true) if text.len() <= 200 => Ok(text.to_owned()),
        _ => Err(format!("must be an address of at most 200 characters that begins with https://, is `{text}`")),
    }
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
