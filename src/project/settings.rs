//! `project.toml`: what one project wants otherwise than the server's configuration says.

use std::collections::{BTreeMap, BTreeSet};

use sandbox::policy::Choice;
use sandbox::spec::{DISK_BYTES_MAX, DISK_BYTES_MIN, IO_BYTES_PER_S_MIN, Limits, Network};
use serde::Deserialize;
use toml_edit::{DocumentMut, Item, Table, TomlError, Value};

use crate::cell::Patience;
use crate::config::{Config, IDLE_S_MAX};
use crate::session::Sizing;

/// Largest environment in bytes, names and values together: with it a cell's spec fits in a message to the launcher.
const ENV_BYTES_MAX: usize = 64 * 1024;

/// The same as it travels, where a control takes six bytes.
const ENV_TRAVELLING_BYTES_MAX: usize = 128 * 1024;

/// Longest part of the file that an error quotes, in letters.
const QUOTED_MAX: usize = 300;

/// What a project's cell shall be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) image: String,
    pub(super) limits: Limits,
    pub(super) env: BTreeMap<String, String>,
    pub(super) network: Network,
    pub(super) record: bool,
    pub(super) autostart: bool,
    pub(super) size: Sizing,
    pub(super) patience: Patience,
    pub(super) policy: Choice,
}

/// The file as it is written: everything may be left out.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    image: Option<String>,
    limits: WrittenLimits,
    env: BTreeMap<String, String>,
    network: Network,
    record: bool,
    autostart: bool,
    size: Option<String>,
    idle_freeze_s: Option<u64>,
    idle_stop_s: Option<u64>,
    policy: WrittenPolicy,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenLimits {
    memory_bytes_max: Option<u64>,
    cpu_millis_max: Option<u32>,
    pids_max: Option<u32>,
    open_files_max: Option<u32>,
    disk_bytes_max: Option<u64>,
    cpu_weight: Option<u32>,
    file_bytes_max: Option<u64>,
    io_bytes_per_s_max: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenPolicy {
    profile: Option<String>,
    allow: BTreeSet<String>,
}

/// Reads the file's text; an error reads after the file's name and a colon.
pub(super) fn parse(text: &str, config: &Config) -> Result<Settings, String> {
    let written: Written = toml::from_str(text).map_err(|error| {
        let before = error.span().map_or("", |span| &text[..span.start.min(text.len())]);
        format!("{}: {}", before.matches('\n').count() + 1, quoted(error.message()))
    })?;
    let Written { image, limits, env, network, record, autostart, size, idle_freeze_s, idle_stop_s, policy } = written;
    for (name, seconds) in [("idle_freeze_s", idle_freeze_s), ("idle_stop_s", idle_stop_s)] {
        if seconds.is_some_and(|seconds| seconds > IDLE_S_MAX) {
            return Err(format!(" {name} must be 0 for never, or at most {IDLE_S_MAX}, is {}", seconds.unwrap_or(0)));
        }
    }
    let settings = Settings {
        image: image.unwrap_or_else(|| config.image.clone()),
        limits: Limits {
            memory_bytes_max: limits.memory_bytes_max.unwrap_or(config.limits.memory_bytes_max),
            cpu_millis_max: limits.cpu_millis_max.unwrap_or(config.limits.cpu_millis_max),
            pids_max: limits.pids_max.unwrap_or(config.limits.pids_max),
            open_files_max: limits.open_files_max.unwrap_or(config.limits.open_files_max),
            disk_bytes_max: limits.disk_bytes_max.unwrap_or(config.limits.disk_bytes_max),
            cpu_weight: limits.cpu_weight.unwrap_or(config.limits.cpu_weight),
            file_bytes_max: limits.file_bytes_max.unwrap_or(config.limits.file_bytes_max),
            io_bytes_per_s_max: limits.io_bytes_per_s_max.unwrap_or(config.limits.io_bytes_per_s_max),
        },
        env,
        network,
        record,
        autostart,
        size: size.map_or(Ok(Sizing::default()), |size| size.parse()).map_err(|reason| format!(" size {reason}"))?,
        patience: Patience::from_seconds(
            idle_freeze_s.unwrap_or(config.idle_freeze_s),
            idle_stop_s.unwrap_or(config.idle_stop_s),
        ),
        policy: choice(policy, config).map_err(|reason| format!(" policy.{reason}"))?,
    };
    check(&settings).map_err(|reason| format!(" {reason}"))?;
    Ok(settings)
}

/// What the project chooses of the policy, as far as the operator lets it. The launcher checks it again.
fn choice(WrittenPolicy { profile, allow }: WrittenPolicy, config: &Config) -> Result<Choice, String> {
    let chosen = profile.map_or(Ok(config.policy.profile), |profile| profile.parse());
    let choice = Choice { profile: chosen.map_err(|reason| format!("profile {reason}"))?, allow };
    config.policy.check(&choice)?;
    Ok(choice)
}

/// Changes of limits, by their keys; `None` takes one out, so that the configuration's holds.
pub(crate) type Changes = BTreeMap<String, Option<u64>>;

/// The limits that may change while a cell runs, and those that hold from its next start: each process's, and its disk's.
const OF_CELL: [&str; 5] = ["memory_bytes_max", "cpu_millis_max", "pids_max", "cpu_weight", "io_bytes_per_s_max"];
const FROM_NEXT_START: [&str; 3] = ["open_files_max", "file_bytes_max", "disk_bytes_max"];

/// Changes limits in the file's text; all else stays as it is written, comments too. Whether they make sense is for [`parse`].
pub(super) fn edit(text: &str, changes: &Changes) -> Result<String, String> {
    let document: Result<DocumentMut, TomlError> = text.parse();
    let mut document = document.map_err(|error| format!("project.toml: {}", error.message()))?;
    if !document.contains_key("limits") {
        // Behind all that is there, the comments at its end included.
        let before = document.trailing().as_str().unwrap_or_default().to_owned();
        let mut limits = Table::new();
        limits.decor_mut().set_prefix(if text.is_empty() { before } else { before + "\n" });
        document.set_trailing("");
        document.insert("limits", Item::Table(limits));
    }
    let limits = document.get_mut("limits").and_then(Item::as_table_like_mut);
    let limits = limits.ok_or("project.toml: limits must be a table")?;
    for (key, value) in changes {
        if !OF_CELL.iter().chain(&FROM_NEXT_START).any(|known| known == key) {
            let known = [&OF_CELL[..], &FROM_NEXT_START].concat().join(", limits.");
            return Err(format!("limits.{} is unknown; known are limits.{known}", key.escape_debug()));
        }
        let Some(value) = value else {
            limits.remove(key);
            continue;
        };
        let number = i64::try_from(*value).map_err(|_| format!("limits.{key} is too large: {value}"))?;
        match limits.get_mut(key).and_then(Item::as_value_mut) {
            Some(earlier) => {
                let decor = earlier.decor().clone();
                *earlier = Value::from(number);
                *earlier.decor_mut() = decor;
            }
            None => drop(limits.insert(key, Item::Value(number.into()))),
        }
    }
    Ok(document.to_string())
}

/// The limits that are others than before and that a cell has from its next start on.
pub(super) fn for_next_start(before: &Limits, now: &Limits) -> Vec<&'static str> {
    let differs = [
        before.open_files_max != now.open_files_max,
        before.file_bytes_max != now.file_bytes_max,
        before.disk_bytes_max != now.disk_bytes_max,
    ];
    FROM_NEXT_START.into_iter().zip(differs).filter_map(|(key, differs)| differs.then_some(key)).collect()
}

/// What a new project's file says.
pub(super) fn template(image: Option<&str>) -> Result<String, String> {
    let image = match image {
        Some(image) => {
            check_image(image)?;
            format!("image = {}", toml::Value::from(image))
        }
        None => "# image = \"default\"".to_owned(),
    };
    Ok(format!(
        "# Settings of this project; what is left out is as the server's configuration says.\n\
         # They hold from the next start of its cell on; `cloister project set` changes limits at once.\n\
         {image}\n\
         # network = \"none\"\n\
         # record = false  # true: every session that starts from then on is written to recordings/\n\
         # autostart = false  # true: its cell starts with the server, with the session main\n\
         # idle_freeze_s = 1800  # 0: never frozen, however long nothing happens in its cell\n\
         # idle_stop_s = 0  # 86_400: stopped after a day in which nothing happens\n\
         # size = \"latest\"  # whose terminal's size sessions have: \"smallest\" of all, or \"120x40\" whoever is there\n\
         \n\
         # [limits]\n\
         # memory_bytes_max = 2_147_483_648\n\
         # cpu_millis_max = 2000\n\
         # pids_max = 1024\n\
         # open_files_max = 16_384\n\
         # disk_bytes_max = 0  # 10_737_418_240: workspace and changes to the image have 10 GiB together\n\
         # cpu_weight = 100\n\
         # file_bytes_max = 1_099_511_627_776\n\
         # io_bytes_per_s_max = 0  # 52_428_800: from disks and to them 50 MiB a second each\n\
         \n\
         # [policy]\n\
         # profile = \"default\"  # \"strict\": no debuggers; see `cloister policy show`\n\
         # allow = []  # names of what the server's configuration lets projects ask for\n\
         \n\
         # [env]\n\
         # EDITOR = \"nano\"\n"
    ))
}

fn check(settings: &Settings) -> Result<(), String> {
    check_image(&settings.image)?;
    let limits = &settings.limits;
    let Limits { memory_bytes_max, cpu_millis_max, pids_max, open_files_max, .. } = *limits;
    let Limits { cpu_weight, file_bytes_max, disk_bytes_max, io_bytes_per_s_max, .. } = *limits;
    for (name, value, least) in [
        // What a shell needs to show its prompt, as in the server's configuration.
        ("memory_bytes_max", memory_bytes_max, 16 << 20),
        ("cpu_millis_max", cpu_millis_max.into(), 10),
        ("pids_max", pids_max.into(), 8),
        ("open_files_max", open_files_max.into(), 256),
        ("cpu_weight", cpu_weight.into(), 1),
        // The sessions' logs are files too, of 64 MiB at most.
        ("file_bytes_max", file_bytes_max, 128 << 20),
    ] {
        if value < least {
            return Err(format!("limits.{name} must be at least {least}, is {value}"));
        }
    }
    if disk_bytes_max != 0 && !(DISK_BYTES_MIN..=DISK_BYTES_MAX).contains(&disk_bytes_max) {
        return Err(format!(
            "limits.disk_bytes_max must be 0 for no limit, or {DISK_BYTES_MIN} to {DISK_BYTES_MAX}, is {disk_bytes_max}"
        ));
    }
    if io_bytes_per_s_max != 0 && io_bytes_per_s_max < IO_BYTES_PER_S_MIN {
        return Err(format!(
            "limits.io_bytes_per_s_max must be 0 for no limit, or at least {IO_BYTES_PER_S_MIN}, is {io_bytes_per_s_max}"
        ));
    }
    if cpu_weight > 10_000 {
        return Err(format!("limits.cpu_weight must be at most 10000, is {cpu_weight}"));
    }
    for (name, value) in &settings.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!("env.{}: a name has no '=' in it, and neither it nor its value a NUL", quoted(name)));
        }
    }
    let bytes: usize = settings.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > ENV_BYTES_MAX {
        return Err(format!("env must have at most {ENV_BYTES_MAX} bytes, has {bytes}"));
    }
    let travelling = serde_json::to_string(&settings.env).map_or(usize::MAX, |text| text.len());
    if travelling > ENV_TRAVELLING_BYTES_MAX {
        return Err(format!(
            "env has too many quotes and control characters: they count up to six, {travelling} together"
        ));
    }
    Ok(())
}

/// What the file says, fit to be shown: what would steer a terminal is written out, and it ends somewhere.
fn quoted(text: &str) -> String {
    let mut shown = String::new();
    for letter in text.chars().take(QUOTED_MAX) {
        if matches!(letter, '"' | '\'' | '\\') { shown.push(letter) } else { shown.extend(letter.escape_debug()) }
    }
    if text.chars().nth(QUOTED_MAX).is_some() {
        shown.push('…');
    }
    shown
}

fn check_image(name: &str) -> Result<(), String> {
    let plain = (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if plain { Ok(()) } else { Err("image must be an image's name as `cloister image ls` shows it".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_comes_from_the_configuration() {
        let limits = Limits { pids_max: 99, ..Limits::default() };
        let config = Config { image: "house".to_owned(), limits, ..Config::default() };
        let settings = parse("[limits]\ncpu_millis_max = 500\n[env]\nA = 'b'", &config).unwrap();
        assert_eq!(settings.image, "house");
        assert_eq!(settings.limits, Limits { pids_max: 99, cpu_millis_max: 500, ..Limits::default() });
        assert_eq!(settings.env, BTreeMap::from([("A".to_owned(), "b".to_owned())]));
    }

    #[test]
    fn the_template_says_what_holds_anyway() {
        let config = Config::default();
        let template = template(None).unwrap();
        assert_eq!(parse(&template, &config).unwrap(), parse("", &config).unwrap());
        let spoken: String =
            template.lines().skip(2).map(|line| line.trim_start_matches("# ").to_owned() + "\n").collect();
        let settings = parse(&spoken, &config).unwrap();
        assert_eq!((settings.limits, settings.image.as_str()), (config.limits.clone(), "default"));
    }

    #[test]
    fn limits_change_and_all_else_stays_as_it_is_written() {
        let text = "image = 'a' # mine\n\n[limits] # all of them\npids_max = 100 # few\ncpu_millis_max = 7_0\n";
        let changes = Changes::from([
            ("pids_max".to_owned(), Some(200)),
            ("cpu_millis_max".to_owned(), None),
            ("memory_bytes_max".to_owned(), Some(1 << 30)),
        ]);
        let edited =
            "image = 'a' # mine\n\n[limits] # all of them\npids_max = 200 # few\nmemory_bytes_max = 1073741824\n";
        assert_eq!(edit(text, &changes).unwrap(), edited);
        let template = template(None).unwrap();
        let edited = edit(&template, &changes).unwrap();
        assert_eq!(edited, template + "\n[limits]\nmemory_bytes_max = 1073741824\npids_max = 200\n");
        assert_eq!(parse(&edited, &Config::default()).unwrap().limits.pids_max, 200);
        let inline = edit("limits = { pids_max = 9 }", &Changes::from([("pids_max".to_owned(), Some(10))])).unwrap();
        assert_eq!(inline, "limits = { pids_max = 10 }\n");
        let wrong =
            |text: &str, key: &str, value| edit(text, &Changes::from([(key.to_owned(), Some(value))])).unwrap_err();
        assert!(wrong("", "pids", 9).starts_with("limits.pids is unknown; known are limits.memory_bytes_max, "));
        assert!(wrong("limits = 1", "pids_max", 9).contains("must be a table"));
        assert!(wrong("=", "pids_max", 9).starts_with("project.toml: "));
        assert!(wrong("", "memory_bytes_max", u64::MAX).contains("too large"));
    }

    #[test]
    fn an_image_survives_the_template() {
        let odd = r#"registry:5000/a"b\c"#;
        assert_eq!(parse(&template(Some(odd)).unwrap(), &Config::default()).unwrap().image, odd);
        assert!(template(Some("two words")).is_err());
    }

    #[test]
    fn a_project_chooses_what_the_operator_lets_it() {
        let mut config = Config::default();
        config.policy.may_allow = BTreeSet::from(["io-uring".to_owned()]);
        let chosen = |text: &str, config: &Config| parse(text, config).map(|settings| settings.policy);
        let strict = chosen("[policy]\nprofile = 'strict'\nallow = ['io-uring']", &config).unwrap();
        assert_eq!((strict.profile.name(), strict.allow), ("strict", config.policy.may_allow.clone()));
        let refused = chosen("[policy]\nallow = ['page-faults']", &config).unwrap_err();
        assert!(
            refused.starts_with(" policy.allow: page-faults: ") && refused.contains("policy.may_allow"),
            "{refused}"
        );
        assert!(chosen("[policy]\nprofile = 'lax'", &config).unwrap_err().starts_with(" policy.profile must be"));
        assert!(chosen("[policy]\nallow = ['bpf']", &config).unwrap_err().contains("`bpf` can't be granted"));
        config.policy.profile = "strict".parse().unwrap();
        assert_eq!(chosen("", &config).unwrap().profile.name(), "strict");
        assert!(chosen("[policy]\nprofile = 'default'", &config).unwrap_err().contains("policy.may_allow"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |text: &str| parse(text, &Config::default()).unwrap_err();
        assert!(wrong("\nimmage = 'x'").starts_with("2: unknown field `immage`, expected one of `image`, "));
        assert!(wrong("[limits]\npids = 1").starts_with("2: unknown field `pids`"));
        assert!(wrong("network = 'host'").starts_with("1: unknown variant `host`, expected `none`"));
        assert!(wrong("image = 7").starts_with("1: invalid type: integer `7`"));
        assert!(wrong("= 1").starts_with("1: "));
        assert!(wrong("size = '80'").starts_with(" size must be"));
        assert_eq!(
            wrong("idle_stop_s = 31536001"),
            " idle_stop_s must be 0 for never, or at most 31536000, is 31536001"
        );
        assert_eq!(wrong("[limits]\npids_max = 0"), " limits.pids_max must be at least 8, is 0");
        assert!(
            wrong("[limits]\ndisk_bytes_max = 1")
                .starts_with(" limits.disk_bytes_max must be 0 for no limit, or 67108864")
        );
        assert!(wrong("image = ''").contains("image must be"));
        assert!(wrong("[env]\n\"A=B\" = ''").contains("env.A=B"));
        assert!(wrong("[env]\nA = \"\\u0000\"").contains("env.A"));
        assert!(wrong(&format!("[env]\nA = '{}'", "x".repeat(70_000))).contains("at most 65536 bytes"));
        assert!(wrong(&format!("[env]\nA = \"{}\"", "\\u0001".repeat(22_000))).contains("control characters"));
        let unknown = wrong(&format!("\"\\u001b[2J{}\" = 1", "x".repeat(9000)));
        assert!(unknown.starts_with("1: unknown field `\\u{1b}[2Jxxx") && unknown.ends_with('…'), "{unknown}");
        assert!(unknown.len() < 400);
    }
}
