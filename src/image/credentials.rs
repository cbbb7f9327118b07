//! Who we are to a registry: a name with a password from standard input, or what `docker login` and its kin have kept.
//! Credential helpers are not asked, since they would be programs started as root.

use std::io::{self, BufRead, Read};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

/// Largest password in bytes; registries hand out tokens of some KiB.
const PASSWORD_BYTES_MAX: u64 = 16 << 10;

/// Largest file of credentials in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What Docker Hub goes by in that file.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

#[derive(Default, Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, Kept>,
}

#[derive(Deserialize)]
struct Kept {
    auth: Option<String>,
}

/// The credentials for `registry`. With a user name, the password is the first line of standard input.
pub(super) fn find(registry: &str, username: Option<&str>) -> anyhow::Result<RegistryAuth> {
    if let Some(username) = username {
        return Ok(RegistryAuth::Basic(username.to_owned(), password()?));
    }
    let Some(path) = docker_config() else { return Ok(RegistryAuth::Anonymous) };
    let mut text = String::new();
    match std::fs::File::open(&path) {
        Ok(file) => file.take(FILE_BYTES_MAX).read_to_string(&mut text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(RegistryAuth::Anonymous),
        Err(error) => Err(error),
    }
    .with_context(|| format!("read {}", path.display()))?;
    kept(&text, registry).with_context(|| format!("read {}", path.display()))
}

fn password() -> anyhow::Result<String> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .take(PASSWORD_BYTES_MAX)
        .read_line(&mut line)
        .context("read the password from standard input")?;
    let password = line.trim_end_matches(['\r', '\n']);
    ensure!(!password.is_empty(), "no password on standard input: pipe it in");
    Ok(password.to_owned())
}

fn docker_config() -> Option<PathBuf> {
    let folder = match std::env::var_os("DOCKER_CONFIG") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(folder.join("config.json"))
}

/// What a file of credentials has for a registry.
fn kept(text: &str, registry: &str) -> anyhow::Result<RegistryAuth> {
    // The error would quote what it can't read.
    let config: DockerConfig = serde_json::from_str(text).ok().context("not the JSON that docker login writes")?;
    let key = if matches!(registry, "docker.io" | "index.docker.io") { DOCKER_HUB } else { registry };
    let Some(auth) = config.auths.get(key).and_then(|kept| kept.auth.as_deref()).filter(|auth| !auth.is_empty()) else {
        return Ok(RegistryAuth::Anonymous);
    };
    let decoded = BASE64.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|pair| pair.split_once(':'));
    let (username, password) = pair.with_context(|| format!("damaged credentials for {key}: log in again"))?;
    Ok(RegistryAuth::Basic(username.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_credentials_are_found_by_registry() {
        let file = format!(
            r#"{{"auths": {{"localhost:5000": {{"auth": "{}"}}, "{DOCKER_HUB}": {{"auth": "{}"}}, "helped.example": {{}}}}, "credsStore": "x"}}"#,
            BASE64.encode("me:pass:word"),
            BASE64.encode("you:word"),
        );
        let basic = |name: &str, word: &str| RegistryAuth::Basic(name.to_owned(), word.to_owned());
        assert_eq!(kept(&file, "localhost:5000").unwrap(), basic("me", "pass:word"));
        assert_eq!(kept(&file, "docker.io").unwrap(), basic("you", "word"));
        assert_eq!(kept(&file, "helped.example").unwrap(), RegistryAuth::Anonymous);
        assert_eq!(kept(&file, "other.example").unwrap(), RegistryAuth::Anonymous);
        assert_eq!(kept("{}", "other.example").unwrap(), RegistryAuth::Anonymous);
    }

    #[test]
    fn damaged_credentials_are_not_quoted() {
        for text in ["secret", r#"{"auths": {"r": {"auth": "c2VjcmV0"}}}"#, r#"{"auths": {"r": {"auth": "secret!"}}}"#]
        {
            let error = format!("{:#}", kept(text, "r").unwrap_err());
            assert!(!error.contains("secret") && !error.contains("c2Vj"), "{error}");
        }
    }
}
