//! What an image is: the documents that describe one (OCI image specification: index, manifest, configuration; and
//! Docker's equivalents), read with suspicion. Everything here is pure: bytes in, values out.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::shortened;
use crate::{Digest, Error, Result};

/// Largest document in bytes. Registries refuse manifests beyond 4 MiB (OCI distribution specification), and
/// configurations are smaller.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Indexes within indexes: two are in use.
pub const INDEX_DEPTH_MAX: usize = 4;

/// Layers of an image, as many as other engines take.
const LAYERS_MAX: usize = 128;

/// Bytes of all words of a configuration that go along with each request for a cell, as they travel: a control takes six.
const WORDS_BYTES_MAX: usize = 48 << 10;

/// An image whose documents fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of its manifest, which names everything else.
    pub manifest: Digest,
    /// Digest of its configuration.
    pub config: Digest,
    /// How its programs want to be run.
    pub wishes: Wishes,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// When it was made, in the words of whoever made it (RFC 3339); empty if not said.
    pub created: String,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The blob as it is transferred.
    pub blob: Blob,
    /// Digest of its uncompressed archive, under which it lies unpacked.
    pub diff_id: Digest,
}

/// How an image's programs want to be run ("config" in its configuration).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// `KEY=value`.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; may be empty.
    pub user: String,
    /// May be empty.
    pub working_dir: String,
    /// Words before a command.
    pub entrypoint: Vec<String>,
    /// The command if none is given.
    pub cmd: Vec<String>,
}

/// Content by digest and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// What is in it.
    pub digest: Digest,
    /// How long it is.
    pub size: u64,
}

/// A document that describes an image, or leads to ones that do.
#[derive(Clone, Debug)]
pub enum Document {
    /// Manifests for several platforms or of several images.
    Index(Vec<Entry>),
    /// One image for one platform.
    Manifest(Manifest),
}

/// Where an index leads.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    /// The document.
    #[serde(flatten)]
    pub blob: Blob,
    platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: Annotations,
}

/// One image for one platform.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its configuration.
    pub config: Blob,
    /// Its layers' blobs, lowest first.
    pub layers: Vec<Blob>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Annotations {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    reference: Option<String>,
    #[serde(rename = "io.containerd.image.name")]
    full_name: Option<String>,
}

impl Image {
    /// Checks that a configuration is the one its manifest names, that both fit together, and that this machine can run
    /// the image.
    pub fn check(manifest: &[u8], config: &[u8]) -> Result<Self> {
        let Document::Manifest(described) = Document::parse(manifest)? else {
            return Err(Error::refused("image manifest: is an index"));
        };
        let found = Digest::of(config);
        if found != described.config.digest {
            let wanted = described.config.digest;
            return Err(Error::refused(format_args!(
                "image configuration should be {wanted} but is {found}: fetch it again"
            )));
        }
        let parsed: Configuration = parse("image configuration", config)?;
        if (parsed.os.as_str(), parsed.architecture.as_str()) != ("linux", architecture()) {
            return Err(Error::refused(format_args!(
                "the image is for {}/{}, this machine is linux/{}: get it for this platform",
                shortened(&parsed.os),
                shortened(&parsed.architecture),
                architecture()
            )));
        }
        let diff_ids = parsed.rootfs.diff_ids;
        if diff_ids.len() != described.layers.len() {
            return Err(Error::refused(format_args!(
                "the image's manifest has {} layers and its configuration {}: it is damaged",
                described.layers.len(),
                diff_ids.len()
            )));
        }
        let layers =
            described.layers.into_iter().zip(diff_ids).map(|(blob, diff_id)| Layer { blob, diff_id }).collect();
        let wishes = Wishes::from(parsed.config);
        wishes.check()?;
        Ok(Self {
            manifest: Digest::of(manifest),
            config: found,
            wishes,
            layers,
            created: parsed.created.filter(|created| created.len() <= 64).unwrap_or_default(),
        })
    }

    /// The layers as an overlay wants them: lowest first, each once. Of a layer that occurs several times the uppermost
    /// place counts, above which the others show nothing.
    pub fn overlay(&self) -> Vec<&Digest> {
        let mut layers: Vec<&Digest> = Vec::with_capacity(self.layers.len());
        for layer in self.layers.iter().rev() {
            if !layers.contains(&&layer.diff_id) {
                layers.push(&layer.diff_id);
            }
        }
        layers.reverse();
        layers
    }

    /// Bytes of all layers as they are transferred.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.blob.size).fold(0, u64::saturating_add)
    }
}

impl Wishes {
    fn check(&self) -> Result<()> {
        let Self { env, user, working_dir, entrypoint, cmd } = self;
        let words = || [user, working_dir].into_iter().chain(env).chain(entrypoint).chain(cmd);
        if words().any(|word| word.contains('\0')) {
            return Err(Error::refused("image configuration: a word contains a NUL"));
        }
        let travelling = |word: &String| serde_json::to_string(word).map_or(usize::MAX, |text| text.len() + 1);
        if words().map(travelling).fold(0, usize::saturating_add) > WORDS_BYTES_MAX {
            return Err(Error::refused(format_args!(
                "image configuration: environment and command are longer than {WORDS_BYTES_MAX} bytes"
            )));
        }
        Ok(())
    }
}

impl Document {
    /// Reads an index or a manifest, by what it holds rather than by what it is called.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let any: AnyDocument = parse("image manifest", bytes)?;
        match any {
            AnyDocument { schema_version: Some(1), .. } => Err(Error::refused(
                "image manifest: Docker's schema 1 isn't supported; push the image again with a newer tool",
            )),
            // Which of both it is must not depend on the reader (CVE-2021-41190).
            AnyDocument { manifests: Some(_), layers: Some(_), .. } => {
                Err(Error::refused("image manifest: is an index and a manifest at once"))
            }
            AnyDocument { manifests: Some(entries), .. } => Ok(Self::Index(entries)),
            AnyDocument { config: Some(config), layers: Some(layers), .. } => {
                Manifest::check(config, layers).map(Self::Manifest)
            }
            _ => Err(Error::refused("image manifest: names neither layers nor other manifests")),
        }
    }
}

impl Manifest {
    fn check(config: Blob, layers: Vec<TypedBlob>) -> Result<Self> {
        if layers.is_empty() {
            return Err(Error::refused("the image has no layers"));
        }
        if layers.len() > LAYERS_MAX {
            return Err(Error::refused(format_args!(
                "the image has {} layers, at most {LAYERS_MAX} are supported: squash it",
                layers.len()
            )));
        }
        let layers = layers.into_iter().map(TypedBlob::check).collect::<Result<_>>()?;
        Ok(Self { config, layers })
    }
}

impl Entry {
    /// The name it goes by in its index: Docker's full one, or the tag that OCI has.
    pub fn name(&self) -> Option<&str> {
        self.annotations.full_name.as_deref().or(self.annotations.reference.as_deref())
    }

    /// Whether a user who says `name` may mean this one.
    pub fn is_called(&self, name: &str) -> bool {
        self.annotations.full_name.as_deref() == Some(name) || self.annotations.reference.as_deref() == Some(name)
    }

    fn fits_this_machine(&self) -> bool {
        self.platform.as_ref().is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture())
    }
}

/// The entry for this machine among those of one image.
pub fn for_this_machine(entries: &[Entry]) -> Result<&Entry> {
    let fitting = entries.iter().find(|entry| entry.fits_this_machine());
    // Tools leave the platform out where there is no choice.
    let unsaid = || entries.iter().find(|entry| entry.platform.is_none());
    fitting.or_else(unsaid).ok_or_else(|| {
        const NAMED_MAX: usize = 12;
        let offers: Vec<String> = entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .filter(|platform| platform.os != "unknown")
            .take(NAMED_MAX)
            .map(|platform| format!("{}/{}", shortened(&platform.os), shortened(&platform.architecture)))
            .collect();
        let offers = if offers.is_empty() { "nothing".to_owned() } else { offers.join(", ") };
        Error::refused(format_args!("the image is offered for {offers}, this machine is linux/{}", architecture()))
    })
}

/// This machine's architecture in the words of images (those of the Go language).
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "loongarch64" => "loong64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

/// A manifest for an image whose format has none.
pub(crate) fn manifest_of(config: &Blob, layers: &[Blob]) -> Vec<u8> {
    let typed = |blob: &Blob, media_type: &str| serde_json::json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size });
    let layers: Vec<_> = layers.iter().map(|layer| typed(layer, "application/vnd.oci.image.layer.v1.tar")).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": typed(config, "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

/// Reads JSON, with an error that says which document it was.
pub(crate) fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::refused(format_args!("{what}: {error}")))
}

#[derive(Deserialize)]
struct AnyDocument {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    manifests: Option<Vec<Entry>>,
    config: Option<Blob>,
    layers: Option<Vec<TypedBlob>>,
}

#[derive(Deserialize)]
struct TypedBlob {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    #[serde(flatten)]
    blob: Blob,
}

impl TypedBlob {
    /// Layers of images are tar archives, plain or compressed; others are encrypted, or no layers of an image at all.
    fn check(self) -> Result<Blob> {
        let known = ["tar", "tar+gzip", "tar+zstd", "tar.gzip", "tar.zstd"];
        let is_known = known.iter().any(|end| self.media_type.ends_with(&format!(".{end}")));
        if is_known || self.media_type.is_empty() {
            Ok(self.blob)
        } else {
            Err(Error::refused(format_args!(
                "layer {}: unsupported kind {:?}",
                self.blob.digest,
                shortened(&self.media_type)
            )))
        }
    }
}

#[derive(Deserialize)]
struct Configuration {
    created: Option<String>,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default, deserialize_with = "null_is_default")]
    config: Config,
    rootfs: Rootfs,
}

#[derive(Deserialize)]
struct Rootfs {
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<Digest>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    user: String,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
}

impl From<Config> for Wishes {
    fn from(Config { env, user, working_dir, entrypoint, cmd }: Config) -> Self {
        Self { env, user, working_dir, entrypoint, cmd }
    }
}

/// Go writes an empty list or map as `null`.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn blob(content: &[u8]) -> Value {
        json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": Digest::of(content), "size": content.len() })
    }

    fn config(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut config = json!({
            "architecture": architecture(), "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": { "Env": ["A=b"], "Cmd": ["/bin/sh"], "Entrypoint": null, "User": "1000:1000", "Labels": { "x": "y" } },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"1"), Digest::of(b"2")] },
        });
        change(&mut config);
        config.to_string().into_bytes()
    }

    fn manifest(config: &[u8], layers: usize) -> Vec<u8> {
        let layers: Vec<Value> = (0..layers).map(|number| blob(&number.to_le_bytes())).collect();
        json!({ "schemaVersion": 2, "config": { "digest": Digest::of(config), "size": config.len() }, "layers": layers })
            .to_string()
            .into_bytes()
    }

    #[test]
    fn documents_that_fit_make_an_image() {
        let config = config(|_| {});
        let image = Image::check(&manifest(&config, 2), &config).unwrap();
        assert_eq!(image.wishes.user, "1000:1000");
        assert_eq!(image.wishes.cmd, ["/bin/sh"]);
        assert_eq!(image.overlay(), [&Digest::of(b"1"), &Digest::of(b"2")]);
        assert_eq!(image.size(), 16);
    }

    #[test]
    fn documents_that_do_not_fit_are_refused() {
        let refused = |config: Vec<u8>, layers, says: &str| {
            let error = Image::check(&manifest(&config, layers), &config).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains('\n'), "{error}");
        };
        refused(config(|_| {}), 3, "manifest has 3 layers and its configuration 2");
        refused(config(|_| {}), 0, "no layers");
        refused(config(|_| {}), 129, "squash");
        refused(config(|c| c["architecture"] = "s390x".into()), 2, "linux/s390x");
        refused(config(|c| c["os"] = "windows".into()), 2, "windows/");
        refused(config(|c| c["rootfs"]["diff_ids"] = json!(["sha256:../../x", "y"])), 2, "hex digits");
        refused(config(|c| c["config"]["Env"] = json!(["A=\0"])), 2, "NUL");
        refused(config(|c| c["config"]["Env"] = json!(vec!["A=b"; 30_000])), 2, "longer than");
        // As it would travel to the launcher.
        refused(config(|c| c["config"]["User"] = json!("\u{1}".repeat(9_000))), 2, "longer than");
        refused(b"[".to_vec(), 2, "image configuration: ");
        let config = config(|_| {});
        let error = Image::check(&manifest(&config, 2), b"{}").unwrap_err().to_string();
        assert!(error.contains("configuration should be sha256:"), "{error}");
    }

    #[test]
    fn a_layer_that_occurs_twice_counts_where_it_is_uppermost() {
        let twice = config(|c| c["rootfs"]["diff_ids"] = json!([Digest::of(b"1"), Digest::of(b"2"), Digest::of(b"1")]));
        let image = Image::check(&manifest(&twice, 3), &twice).unwrap();
        assert_eq!(image.overlay(), [&Digest::of(b"2"), &Digest::of(b"1")]);
    }

    #[test]
    fn ambiguous_and_foreign_documents_are_refused() {
        for (document, says) in [
            (json!({ "schemaVersion": 2, "manifests": [], "layers": [], "config": blob(b"") }), "at once"),
            (json!({ "schemaVersion": 1, "fsLayers": [] }), "schema 1"),
            (json!({ "schemaVersion": 2 }), "neither"),
            (
                json!({ "config": blob(b""), "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "digest": Digest::of(b""), "size": 1 }] }),
                "unsupported kind",
            ),
            (json!({ "config": blob(b""), "layers": [{ "digest": "sha256:/etc/passwd", "size": 1 }] }), "hex digits"),
            (json!({ "config": blob(b""), "layers": [{ "digest": Digest::of(b""), "size": -1 }] }), "manifest"),
        ] {
            let error = Document::parse(document.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn an_index_offers_this_machines_platform_or_says_what_it_has() {
        let entry = |content: &[u8], platform: Value| {
            let mut entry = blob(content);
            entry["platform"] = platform;
            entry
        };
        let parse =
            |entries: Value| match Document::parse(json!({ "manifests": entries }).to_string().as_bytes()).unwrap() {
                Document::Index(entries) => entries,
                Document::Manifest(_) => panic!("not an index"),
            };
        let unknown = entry(b"attestation", json!({ "os": "unknown", "architecture": "unknown" }));
        let foreign = entry(b"foreign", json!({ "os": "linux", "architecture": "s390x" }));
        let ours = entry(b"ours", json!({ "os": "linux", "architecture": architecture() }));
        let entries = parse(json!([unknown, foreign, ours]));
        assert_eq!(for_this_machine(&entries).unwrap().blob.digest, Digest::of(b"ours"));
        let entries = parse(json!([foreign, blob(b"unsaid")]));
        assert_eq!(for_this_machine(&entries).unwrap().blob.digest, Digest::of(b"unsaid"));
        let error = for_this_machine(&parse(json!([unknown, foreign]))).unwrap_err().to_string();
        assert!(error.contains("offered for linux/s390x,"), "{error}");
    }
}
