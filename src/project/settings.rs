//! `project.toml`: what one project wants otherwise than the server's configuration says.

use std::collections::BTreeMap;

use sandbox::spec::{Limits, Network};
use serde::Deserialize;

use crate::config::Config;
use crate::session::Sizing;

/// Largest environment in bytes, names and values together: with it a cell's spec fits in a message to the launcher.
const ENV_BYTES_MAX: usize = 64 * 1024;

/// What a project's cell shall be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) image: String,
    pub(super) limits: Limits,
    pub(super) env: BTreeMap<String, String>,
    pub(super) network: Network,
    pub(super) record: bool,
    pub(super) size: Sizing,
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
    size: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenLimits {
    memory_bytes_max: Option<u64>,
    cpu_millis_max: Option<u32>,
    pids_max: Option<u32>,
    open_files_max: Option<u32>,
}

/// Reads the file's text; an error reads after the file's name and a colon.
pub(super) fn parse(text: &str, config: &Config) -> Result<Settings, String> {
    let written: Written = toml::from_str(text).map_err(|error| {
        let before = error.span().map_or("", |span| &text[..span.start.min(text.len())]);
        format!("{}: {}", before.matches('\n').count() + 1, error.message())
    })?;
    let Written { image, limits, env, network, record, size } = written;
    let settings = Settings {
        image: image.unwrap_or_else(|| config.image.clone()),
        limits: Limits {
            memory_bytes_max: limits.memory_bytes_max.unwrap_or(config.limits.memory_bytes_max),
            cpu_millis_max: limits.cpu_millis_max.unwrap_or(config.limits.cpu_millis_max),
            pids_max: limits.pids_max.unwrap_or(config.limits.pids_max),
            open_files_max: limits.open_files_max.unwrap_or(config.limits.open_files_max),
        },
        env,
        network,
        record,
        size: size.map_or(Ok(Sizing::default()), |size| size.parse()).map_err(|reason| format!(" size {reason}"))?,
    };
    check(&settings).map_err(|reason| format!(" {reason}"))?;
    Ok(settings)
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
         # They hold from the next start of its cell on.\n\
         {image}\n\
         # network = \"none\"\n\
         # record = false  # true: every session that starts from then on is written to recordings/\n\
         # size = \"latest\"  # whose terminal's size sessions have: \"smallest\" of all, or \"120x40\" whoever is there\n\
         \n\
         # [limits]\n\
         # memory_bytes_max = 2_147_483_648\n\
         # cpu_millis_max = 2000\n\
         # pids_max = 1024\n\
         # open_files_max = 16_384\n\
         \n\
         # [env]\n\
         # EDITOR = \"nano\"\n"
    ))
}

fn check(settings: &Settings) -> Result<(), String> {
    check_image(&settings.image)?;
    let Limits { memory_bytes_max, cpu_millis_max, pids_max, open_files_max } = settings.limits;
    for (name, value, least) in [
        // What a shell needs to show its prompt, as in the server's configuration.
        ("memory_bytes_max", memory_bytes_max, 16 << 20),
        ("cpu_millis_max", cpu_millis_max.into(), 10),
        ("pids_max", pids_max.into(), 8),
        ("open_files_max", open_files_max.into(), 256),
    ] {
        if value < least {
            return Err(format!("limits.{name} must be at least {least}, is {value}"));
        }
    }
    for (name, value) in &settings.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!(
                "env.{}: a name has no '=' in it, and neither it nor its value a NUL",
                name.escape_debug()
            ));
        }
    }
    let bytes: usize = settings.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > ENV_BYTES_MAX {
        return Err(format!("env must have at most {ENV_BYTES_MAX} bytes, has {bytes}"));
    }
    Ok(())
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
    fn an_image_survives_the_template() {
        let odd = r#"registry:5000/a"b\c"#;
        assert_eq!(parse(&template(Some(odd)).unwrap(), &Config::default()).unwrap().image, odd);
        assert!(template(Some("two words")).is_err());
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
        assert_eq!(wrong("[limits]\npids_max = 0"), " limits.pids_max must be at least 8, is 0");
        assert!(wrong("image = ''").contains("image must be"));
        assert!(wrong("[env]\n\"A=B\" = ''").contains("env.A=B"));
        assert!(wrong("[env]\nA = \"\\u0000\"").contains("env.A"));
        assert!(wrong(&format!("[env]\nA = '{}'", "x".repeat(70_000))).contains("at most 65536 bytes"));
    }
}
