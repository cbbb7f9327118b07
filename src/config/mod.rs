//! The configuration: flags over `CLOISTER_*` in the environment over a file over defaults.
//!
//! [`keys`] is the one table of what can be set, with documentation and checks; [`value`] is a setting as it was written;
//! [`file`] is the way back.
//! It opens no folder and knows no user: whether they exist shows where they are used.

mod file;
mod keys;
mod value;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use ipnet::IpNet;
use sandbox::policy::Leeway;
use sandbox::spec::{HostLimits, Limits};
use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

pub(crate) use keys::{IDLE_S_MAX, KEYS, help};
use value::Value;

/// Where the file lies unless `--config` says otherwise: root's, and below an ordinary user's folder of configuration.
const FILE: &str = "/etc/cloister/config.toml";
const FILE_OF_USER: &str = "cloister/config.toml";

/// Largest configuration file in bytes: all keys with long comments are a few KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What begins the environment variables that set keys.
const PREFIX: &str = "CLOISTER_";

/// Variables with that beginning that set no key: read by the command line, by logging, and set when building, which cargo passes on to tests.
const OTHER_VARIABLES: [&str; 6] = ["BUILD", "CONFIG", "LOG", "REQUIRE_WEB", "TOKEN", "URL"];

/// The configuration in force. Every field is documented at its key in [`KEYS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) state: PathBuf,
    pub(crate) projects: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) create_projects: bool,
    pub(crate) user: String,
    pub(crate) cgroup: String,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) tls: Tls,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) proxy_protocol: bool,
    pub(crate) cell_linger_s: u64,
    pub(crate) cells_at_stop: CellsAtStop,
    pub(crate) idle_freeze_s: u64,
    pub(crate) idle_stop_s: u64,
    pub(crate) image: String,
    pub(crate) limits: Limits,
    pub(crate) host: HostLimits,
    pub(crate) log_bytes: u32,
    pub(crate) quota: Quota,
    pub(crate) policy: Leeway,
    pub(crate) metrics_token_file: Option<PathBuf>,
    pub(crate) log_format: LogFormat,
}

/// Where the server's certificate lies or comes from, if it speaks TLS: both files or none are set, and no names with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tls {
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) acme_domains: Vec<String>,
    pub(crate) acme_contact: String,
    pub(crate) acme_directory: String,
    pub(crate) acme_ca: Option<PathBuf>,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            acme_domains: Vec::new(),
            acme_contact: String::new(),
            acme_directory: "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
            acme_ca: None,
        }
    }
}

/// The files of a server that speaks TLS.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Tls {
    /// The files, if there are both.
    pub(crate) fn files(&self) -> Option<TlsFiles> {
        Some(TlsFiles { certificate: self.certificate.clone()?, key: self.key.clone()? })
    }

    /// Whether a certificate is fetched.
    pub(crate) fn is_fetched(&self) -> bool {
        !self.acme_domains.is_empty()
    }

    /// Checks what the keys mean together.
    fn check(&self) -> anyhow::Result<()> {
        match (&self.certificate, &self.key) {
            (Some(_), None) => anyhow::bail!("tls.certificate is set and tls.key isn't: set both, or neither"),
            (None, Some(_)) => anyhow::bail!("tls.key is set and tls.certificate isn't: set both, or neither"),
            _ => {}
        }
        anyhow::ensure!(
            !self.is_fetched() || self.certificate.is_none(),
            "tls.acme_domains and tls.certificate are both set: a certificate is fetched or read from files, so take one back"
        );
        Ok(())
    }
}

/// What becomes of cells when the server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CellsAtStop {
    Keep,
    /// Also when it is restarted: it isn't told for what it is stopped.
    End,
}

/// Whether projects are kept within their limits of disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quota {
    /// Or a cell whose project has such a limit doesn't start.
    Enforced,
    Unenforced,
}

/// As what a server logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LogFormat {
    /// To the journal where standard error leads there, else as lines.
    Auto,
    Text,
    Json,
    Journal,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            state: "/var/lib/cloister".into(),
            projects: "/var/lib/cloister/projects".into(),
            run_dir: "/run/cloister".into(),
            create_projects: false,
            user: "cloister".to_owned(),
            cgroup: "cloister".to_owned(),
            allowed_origins: Vec::new(),
            tls: Tls::default(),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            cell_linger_s: 60,
            cells_at_stop: CellsAtStop::Keep,
            idle_freeze_s: 30 * 60,
            idle_stop_s: 0,
            image: "default".to_owned(),
            limits: Limits::default(),
            host: HostLimits::default(),
            log_bytes: sandbox::log::RING_BYTES_DEFAULT,
            quota: Quota::Enforced,
            policy: Leeway::default(),
            metrics_token_file: None,
            log_format: LogFormat::Auto,
        }
    }
}

/// A key that was given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flag {
    /// Its name in [`KEYS`].
    pub(crate) key: &'static str,
    /// What it was given.
    pub(crate) text: String,
}

/// Where an ordinary user keeps things (XDG Base Directory Specification).
struct Folders {
    configuration: PathBuf,
    data: PathBuf,
    /// Goes with the last login; there may be none.
    runtime: Option<PathBuf>,
}

impl Folders {
    /// Finds them by the environment, which may lead nowhere: then there are none, nor are there for a service's user, who has no
    /// home. As specified, relative paths mean nothing.
    fn find(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<Self> {
        let folder = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = folder("HOME")?;
        Some(Self {
            configuration: folder("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")),
            data: folder("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share")),
            runtime: folder("XDG_RUNTIME_DIR"),
        })
    }
}

impl Config {
    /// Reads the file (`file`, or the usual one if it exists), the environment and `flags`, each over the one before. The usual
    /// file and folders of who isn't root are that user's own.
    pub(crate) fn load(file: Option<&Path>, flags: &[Flag]) -> anyhow::Result<Self> {
        let root = rustix::process::geteuid().is_root();
        let there = |name: &str, path: &std::ffi::OsString| name != "HOME" || Path::new(path).is_dir();
        let variable = |name: &str| std::env::var_os(name).filter(|path| there(name, path));
        let folders = if root { None } else { Folders::find(variable) };
        let mut config = folders.as_ref().map_or_else(Self::default, Self::of_user);
        let usual = folders.map_or_else(|| FILE.into(), |folders| folders.configuration.join(FILE_OF_USER));
        if let Some((path, text)) = read_file(file, &usual)? {
            config.set_from_file(&path, &text)?;
        }
        config.set_from_environment(
            std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text))),
        )?;
        for Flag { key, text } in flags {
            let flag = || format!("--{}", key.replace('_', "-"));
            config.set(key, Value::Word(text)).with_context(flag)?;
        }
        config.check()?;
        Ok(config)
    }

    /// Checks what keys mean together.
    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.proxy_protocol || !self.trusted_proxies.is_empty(),
            "proxy_protocol is true and trusted_proxies names none that could speak it: name the proxy's address there"
        );
        anyhow::ensure!(
            self.host.memory_percent_max == 0 || self.cgroup != "none",
            "host.memory_percent_max is set and cgroup is none, which limits no cell's memory: name a cgroup, or take it back"
        );
        self.tls.check()
    }

    /// The defaults of an ordinary user.
    fn of_user(folders: &Folders) -> Self {
        let state = folders.data.join("cloister");
        Self {
            projects: state.join("projects"),
            run_dir: folders.runtime.as_ref().map_or_else(|| state.join("run"), |runtime| runtime.join("cloister")),
            state,
            ..Self::default()
        }
    }

    fn set_from_environment(
        &mut self,
        variables: impl Iterator<Item = (String, std::ffi::OsString)>,
    ) -> anyhow::Result<()> {
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| !OTHER_VARIABLES.contains(rest)) else {
                continue;
            };
            let mut set = || {
                let key = KEYS.iter().find(|key| key.variable() == rest).map(|key| key.name);
                let key =
                    key.ok_or_else(|| unknown("variable", KEYS.iter().map(|key| PREFIX.to_owned() + &key.variable())))?;
                self.set(key, Value::Word(text.to_str().context("is not UTF-8")?))
            };
            set().with_context(|| name.clone())?;
        }
        Ok(())
    }

    fn set_from_file(&mut self, path: &Path, text: &str) -> anyhow::Result<()> {
        let at = |offset: usize| {
            let line = 1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count();
            format!("{}:{line}", path.display())
        };
        let table = DeTable::parse(text).map_err(|error| {
            anyhow::anyhow!("{}: {}", at(error.span().map_or(0, |span| span.start)), error.message())
        })?;
        self.set_from_table("", table.get_ref(), &at)
    }

    /// Sets what a table names; tables in it have keys with a dot.
    fn set_from_table(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        at: &dyn Fn(usize) -> String,
    ) -> anyhow::Result<()> {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let inner = format!("{key}.");
            match value.get_ref() {
                DeValue::Table(table) if KEYS.iter().any(|key| key.name.starts_with(&inner)) => {
                    self.set_from_table(&inner, table, at)?;
                }
                value => Value::from_toml(value)
                    .and_then(|value| self.set(&key, value))
                    .with_context(|| format!("{}: {key}", at(name.span().start)))?,
            }
        }
        Ok(())
    }

    /// Sets one key after its check.
    fn set(&mut self, name: &str, value: Value<'_>) -> anyhow::Result<()> {
        let key = KEYS.iter().find(|key| key.name == name);
        let key = key.ok_or_else(|| unknown("key", KEYS.iter().map(|key| key.name.to_owned())))?;
        (key.set)(self, value).map_err(anyhow::Error::msg)
    }
}

/// The file's path and text; `None` when none was asked for and the usual one isn't there.
fn read_file(asked: Option<&Path>, usual: &Path) -> anyhow::Result<Option<(PathBuf, String)>> {
    let path = asked.unwrap_or(usual);
    let read = || {
        anyhow::ensure!(std::fs::metadata(path)?.len() <= FILE_BYTES_MAX, "is larger than {FILE_BYTES_MAX} bytes");
        anyhow::Ok(std::fs::read_to_string(path)?)
    };
    match read() {
        Ok(text) => Ok(Some((path.to_owned(), text))),
        Err(error)
            if asked.is_none()
                && error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.context(format!("configuration file {}", path.display()))),
    }
}

fn unknown(what: &str, known: impl Iterator<Item = String>) -> anyhow::Error {
    anyhow::anyhow!("unknown {what}; known are {}", known.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::policy::Profile;

    fn from_file(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        config.set_from_file(Path::new("c.toml"), text).map_err(|error| format!("{error:#}")).map(|()| config)
    }

    fn from_environment(name: &str, text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        let variables = [(name.to_owned(), text.into())];
        let set = config.set_from_environment(variables.into_iter());
        set.map_err(|error| format!("{error:#}")).map(|()| config)
    }

    #[test]
    fn every_key_is_set_from_the_file() {
        let config = from_file(
            r#"
            listen = "[::1]:9000"
            state = "/s"
            projects = "/p"
            run_dir = "/r"
            create_projects = true
            user = "ide"
            cgroup = "ide.slice/cells"
            allowed_origins = ["https://ide.example.org", "http://localhost:3000"]
            cell_linger_s = 5
            cells_at_stop = "end"
            idle_freeze_s = 7
            image = "debian:12"
            log_bytes = 65536
            quota = "unenforced"
            metrics_token_file = "/m"
            log_format = "json"
            trusted_proxies = ["10.0.0.0/8", "::1"]
            proxy_protocol = true
            [tls]
            certificate = "/c.pem"
            key = "/k.pem"
            acme_domains = ["IDE.example.org", "ide2.example.org"]
            acme_contact = "admin@example.org"
            acme_directory = "https://acme.example.org/dir"
            acme_ca = "/ca.pem"
            [limits]
            memory_bytes_max = 1_073_741_824
            cpu_millis_max = 500
            pids_max = 64
            open_files_max = 1024
            disk_bytes_max = 1_073_741_824
            [host]
            cells_max = 30
            memory_percent_max = 150
            disk_reserve_bytes = 0
            [policy]
            profile = "strict"
            may_allow = ["default", "io-uring"]
            "#,
        )
        .unwrap();
        let limits = Limits {
            memory_bytes_max: 1 << 30,
            cpu_millis_max: 500,
            pids_max: 64,
            open_files_max: 1024,
            disk_bytes_max: 1 << 30,
            ..Limits::default()
        };
        let expected = Config {
            listen: "[::1]:9000".parse().unwrap(),
            state: "/s".into(),
            projects: "/p".into(),
            run_dir: "/r".into(),
            create_projects: true,
            user: "ide".to_owned(),
            cgroup: "ide.slice/cells".to_owned(),
            allowed_origins: vec!["https://ide.example.org".to_owned(), "http://localhost:3000".to_owned()],
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            proxy_protocol: true,
            tls: Tls {
                certificate: Some("/c.pem".into()),
                key: Some("/k.pem".into()),
                acme_domains: vec!["ide.example.org".to_owned(), "ide2.example.org".to_owned()],
                acme_contact: "mailto:admin@example.org".to_owned(),
                acme_directory: "https://acme.example.org/dir".to_owned(),
                acme_ca: Some("/ca.pem".into()),
            },
            cell_linger_s: 5,
            cells_at_stop: CellsAtStop::End,
            idle_freeze_s: 7,
            idle_stop_s: 0,
            image: "debian:12".to_owned(),
            limits,
            host: HostLimits { cells_max: 30, memory_percent_max: 150, disk_reserve_bytes: 0 },
            log_bytes: 65536,
            quota: Quota::Unenforced,
            policy: Leeway { profile: Profile::Strict, may_allow: ["default", "io-uring"].map(str::to_owned).into() },
            metrics_token_file: Some("/m".into()),
            log_format: LogFormat::Json,
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn an_ordinary_user_has_folders_of_their_own() {
        let folders = |variables: &'static [(&str, &str)]| {
            Folders::find(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        let config = Config::of_user(&folders(&[("HOME", "/home/u"), ("XDG_DATA_HOME", "relative")]).unwrap());
        let places = [&config.state, &config.projects, &config.run_dir].map(|path| path.to_str().unwrap());
        let state = "/home/u/.local/share/cloister";
        assert_eq!(places, [state, &format!("{state}/projects"), &format!("{state}/run")]);
        let found = folders(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c"), ("XDG_RUNTIME_DIR", "/run/user/7")]).unwrap();
        assert_eq!(found.configuration, Path::new("/c"));
        assert_eq!(Config::of_user(&found).run_dir, Path::new("/run/user/7/cloister"));
        assert!(folders(&[("XDG_DATA_HOME", "/d")]).is_none());
    }

    #[test]
    fn every_key_is_set_from_the_environment() {
        assert_eq!(from_environment("CLOISTER_LISTEN", "127.0.0.1:1").unwrap().listen.port(), 1);
        assert!(from_environment("CLOISTER_CREATE_PROJECTS", "true").unwrap().create_projects);
        assert_eq!(from_environment("CLOISTER_LIMITS_PIDS_MAX", "9").unwrap().limits.pids_max, 9);
        assert_eq!(
            from_environment("CLOISTER_ALLOWED_ORIGINS", "http://a, http://b").unwrap().allowed_origins.len(),
            2
        );
        assert_eq!(from_environment("CLOISTER_ALLOWED_ORIGINS", "").unwrap(), Config::default());
        assert_eq!(from_environment("CLOISTER_LOG", "debug").unwrap(), Config::default());
        assert_eq!(from_environment("HOME", "/").unwrap(), Config::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let file = |text: &str| from_file(text).unwrap_err();
        assert!(file("state = '/s'\nlisen = '1'").starts_with("c.toml:2: lisen: unknown key; known are listen, "));
        assert!(file("[limits]\npid = 1").starts_with("c.toml:2: limits.pid: unknown key; known are "));
        assert_eq!(file("\n\nlisten = 8000"), "c.toml:3: listen: must be a text in quotes, is an integer");
        assert_eq!(file("cell_linger_s = '5'"), "c.toml:1: cell_linger_s: must be a whole number, is a text");
        assert_eq!(file("create_projects = 1"), "c.toml:1: create_projects: must be true or false, is an integer");
        assert_eq!(file("limits = 1").split(';').next(), Some("c.toml:1: limits: unknown key"));
        assert!(file("a = 1\nb = = 2").starts_with("c.toml:2: "));
        let variable = |name: &str, text: &str| from_environment(name, text).unwrap_err();
        assert!(
            variable("CLOISTER_LISTN", "x")
                .starts_with("CLOISTER_LISTN: unknown variable; known are CLOISTER_LISTEN, ")
        );
        assert_eq!(
            variable("CLOISTER_CREATE_PROJECTS", "yes"),
            "CLOISTER_CREATE_PROJECTS: must be true or false, is `yes`"
        );
        let flag = Flag { key: "run_dir", text: String::new() };
        let error = Config::load(Some(Path::new("/dev/null")), &[flag]).unwrap_err();
        assert_eq!(format!("{error:#}"), "--run-dir: must name a folder");
        let flag = Flag { key: "proxy_protocol", text: "true".to_owned() };
        let error = Config::load(Some(Path::new("/dev/null")), &[flag]).unwrap_err();
        assert!(error.to_string().starts_with("proxy_protocol is true and trusted_proxies names none"), "{error}");
        let flag = Flag { key: "tls.key", text: "/k.pem".to_owned() };
        let error = Config::load(Some(Path::new("/dev/null")), &[flag]).unwrap_err();
        assert_eq!(error.to_string(), "tls.key is set and tls.certificate isn't: set both, or neither");
        let mut without_cgroups = Config { cgroup: "none".to_owned(), ..Config::default() };
        without_cgroups.host.memory_percent_max = 100;
        let error = without_cgroups.check().unwrap_err();
        assert!(error.to_string().starts_with("host.memory_percent_max is set and cgroup is none"), "{error}");
        let error = Config::load(Some(Path::new("/nowhere/c.toml")), &[]).unwrap_err();
        assert!(format!("{error:#}").starts_with("configuration file /nowhere/c.toml: No such file"));
    }

    #[test]
    fn a_certificate_is_fetched_or_read_from_files() {
        let fetched = Tls { acme_domains: vec!["ide.example.org".to_owned()], ..Tls::default() };
        fetched.check().unwrap();
        let both = Tls { certificate: Some("/c.pem".into()), key: Some("/k.pem".into()), ..fetched };
        let error = both.check().unwrap_err().to_string();
        assert!(error.starts_with("tls.acme_domains and tls.certificate are both set"), "{error}");
    }

    #[test]
    fn values_out_of_bounds_are_refused() {
        for bad in [
            "listen = 'localhost'",
            "listen = '127.0.0.1'",
            "state = 'relative'",
            "user = ''",
            "user = 'a:b'",
            "cgroup = '../x'",
            "cgroup = '.'",
            "cgroup = 'a//b'",
            "cgroup = '/a'",
            "cgroup = 'a/../b'",
            "allowed_origins = ['ftp://x']",
            "allowed_origins = ['https://x/path']",
            "allowed_origins = ['https://']",
            "allowed_origins = [1]",
            "trusted_proxies = ['proxy.example.org']",
            "trusted_proxies = ['10.0.0.0/33']",
            "proxy_protocol = 'v2'",
            "tls.certificate = 'c.pem'",
            "tls.key = '/'",
            "tls.acme_domains = ['*.example.org']",
            "tls.acme_domains = ['192.0.2.1']",
            "tls.acme_domains = ['../x']",
            "tls.acme_domains = ['a.example.org', 'A.example.org']",
            "tls.acme_contact = 'admin'",
            "tls.acme_directory = 'http://acme.example.org/dir'",
            "tls.acme_directory = 'https://'",
            "tls.acme_ca = 'ca.pem'",
            "cell_linger_s = -1",
            "cell_linger_s = 99999999",
            "cells_at_stop = 'stay'",
            "image = ''",
            "image = 'a b'",
            "log_bytes = 65537",
            "log_bytes = 99999999999",
            "limits.pids_max = 0",
            "limits.memory_bytes_max = 1",
            "limits.disk_bytes_max = 1",
            "host.cells_max = -1",
            "host.memory_percent_max = 5",
            "quota = 'none'",
            "metrics_token_file = 'relative'",
            "log_format = 'xml'",
            "policy.profile = 'lax'",
            "policy.may_allow = ['bpf']",
        ] {
            assert!(from_file(bad).unwrap_err().starts_with("c.toml:1: "), "{bad}");
        }
    }

    #[test]
    fn the_table_names_every_key_once_with_its_default() {
        let names: std::collections::BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        for key in KEYS {
            let mut config = Config::default();
            let default = (key.get)(&config);
            (key.set)(&mut config, Value::Word(&default)).unwrap();
            assert_eq!(config, Config::default(), "{}", key.name);
        }
    }
}
