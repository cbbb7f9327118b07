//! Pulling an image from a registry (OCI distribution specification). A layer is downloaded into a file without a name
//! while the one before is being unpacked. It trusts the registry with nothing: what comes is bounded by what the manifest
//! announces and checked by digest.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::TryStreamExt;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use runner::Digest;
use runner::image::{Blob, DOCUMENT_BYTES_MAX, Document, INDEX_DEPTH_MAX, Image, Layer, for_this_machine};
use runner::import::Unpack;
use runner::layer::UnpackRequest;
use runner::store::{Store, Using, check_name};

use super::credentials;
use super::layers::Layers;
use super::progress::Progress;

/// How long a registry may take to answer at all.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long a download may stand still.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How long small documents may take, which bounds what a registry can make us read of one, too.
const DOCUMENT_MAX: Duration = Duration::from_secs(60);

/// Tries for one layer, each of which goes on where the one before ended.
const TRIES: usize = 5;

/// Pause before the next try.
const PAUSE: Duration = Duration::from_secs(1);

/// The kinds of documents that describe images.
const DOCUMENT_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// What is to be pulled, and all that is needed of the caller's own for it.
pub(super) struct Pull {
    reference: Reference,
    name: String,
    protocol: ClientProtocol,
    credentials: RegistryAuth,
}

/// An image's documents as they came.
struct Fetched {
    manifest: Vec<u8>,
    config: Vec<u8>,
    image: Image,
}

impl Pull {
    pub(super) fn new(
        reference: &str,
        name: Option<&str>,
        plain_http: bool,
        username: Option<&str>,
    ) -> anyhow::Result<Self> {
        let reference: Reference = reference.parse().with_context(|| {
            format!("reference {reference:?}: write it like debian:12 or localhost:5000/tools:latest")
        })?;
        let name = name.map_or_else(|| reference.whole(), str::to_owned);
        check_name(&name)?;
        let credentials = credentials::find(reference.registry(), username)?;
        let protocol = if plain_http { ClientProtocol::Http } else { ClientProtocol::Https };
        Ok(Self { reference, name, protocol, credentials })
    }

    /// What it will be called in the store.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn run(self, store: &Store, layers: Layers) -> anyhow::Result<(Image, Layers)> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
        let Self { reference, name, protocol, credentials } = self;
        let config = ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT_MAX),
            read_timeout: Some(SILENCE_MAX),
            user_agent: concat!("cloister/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let what = format!("pull {reference}");
        let registry = Registry { client: Client::new(config), reference, credentials };
        runtime.block_on(pull(registry, &name, store, layers)).context(what)
    }
}

async fn pull(
    mut registry: Registry,
    name: &str,
    store: &Store,
    mut layers: Layers,
) -> anyhow::Result<(Image, Layers)> {
    let fetched = tokio::time::timeout(DOCUMENT_MAX, registry.documents());
    let Fetched { manifest, config, image } = fetched
        .await
        .with_context(|| format!("the registry gives no manifest within {} s; try again", DOCUMENT_MAX.as_secs()))??;
    let _hold = store.hold(Using::Adding)?;
    let count = image.layers.len();
    let mut missing: Vec<(usize, &Layer)> = Vec::new();
    for (number, layer) in image.layers.iter().enumerate() {
        if !layers.has(&layer.diff_id)? && !missing.iter().any(|(_, other)| other.diff_id == layer.diff_id) {
            missing.push((number + 1, layer));
        }
    }
    // One layer is downloaded while the one before is unpacked; whoever unpacks has the layers.
    let mut idle = Some(layers);
    let mut busy: Option<Unpacking> = None;
    for (number, layer) in missing {
        let blob = registry.layer(&layer.blob, store.scratch()?, (number, count)).await?;
        let layers = match busy.take() {
            Some(unpacking) => unpacking.await.context("unpack a layer")??,
            None => idle.take().expect("idle until the first layer is downloaded"),
        };
        busy = Some(unpack(layers, layer, blob, (number, count)));
    }
    let layers = match busy {
        Some(unpacking) => unpacking.await.context("unpack a layer")??,
        None => idle.expect("idle if nothing was downloaded"),
    };
    Ok((store.add(name, &manifest, &config)?, layers))
}

/// A layer being unpacked; gives back what unpacked it.
type Unpacking = tokio::task::JoinHandle<anyhow::Result<Layers>>;

fn unpack(mut layers: Layers, layer: &Layer, blob: File, position: (usize, usize)) -> Unpacking {
    let Layer { blob: Blob { digest, size }, diff_id } = layer.clone();
    let request = UnpackRequest { digest, diff_id, offset: 0, size };
    tokio::task::spawn_blocking(move || {
        layers.unpack(&request, blob.as_fd(), position)?;
        Ok(layers)
    })
}

/// One repository of a registry.
struct Registry {
    client: Client,
    reference: Reference,
    credentials: RegistryAuth,
}

impl Registry {
    /// Finds the image for this machine.
    async fn documents(&mut self) -> anyhow::Result<Fetched> {
        self.client
            .auth(&self.reference, &self.credentials, RegistryOperation::Pull)
            .await
            .map_err(|error| explained(&error))?;
        for _ in 0..=INDEX_DEPTH_MAX {
            let manifest = self.document().await?;
            match Document::parse(&manifest)? {
                Document::Index(entries) => {
                    let digest = &for_this_machine(&entries)?.blob.digest;
                    self.reference = self.reference.clone_with_digest(digest.to_string());
                }
                Document::Manifest(described) => {
                    let config = self.config(&described.config).await.context("image configuration")?;
                    let image = Image::check(&manifest, &config)?;
                    return Ok(Fetched { manifest, config, image });
                }
            }
        }
        bail!("more than {INDEX_DEPTH_MAX} indexes in each other")
    }

    async fn document(&self) -> anyhow::Result<Vec<u8>> {
        let pulled = self.client.pull_manifest_raw(&self.reference, &self.credentials, &DOCUMENT_TYPES).await;
        let (bytes, _) = pulled.map_err(|error| explained(&error))?;
        ensure!(bytes.len() as u64 <= DOCUMENT_BYTES_MAX, "image manifest: more than {DOCUMENT_BYTES_MAX} bytes");
        if let Some(digest) = self.reference.digest() {
            let found = Digest::of(&bytes);
            ensure!(
                found.as_str() == digest,
                "image manifest should be {digest} but is {found}: the registry is damaged"
            );
        }
        Ok(bytes.into())
    }

    async fn config(&self, blob: &Blob) -> anyhow::Result<Vec<u8>> {
        ensure!(blob.size <= DOCUMENT_BYTES_MAX, "has {} bytes, at most {DOCUMENT_BYTES_MAX} are read", blob.size);
        let mut bytes = Vec::new();
        self.download(blob, 0, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })
        .await?;
        Ok(bytes)
    }

    /// Downloads a layer's blob into `file`, from which it is then unpacked; that checks its digest.
    async fn layer(&self, blob: &Blob, mut file: File, position: (usize, usize)) -> anyhow::Result<File> {
        let progress = Progress::new("download", position, blob.size);
        let mut done = 0;
        for attempt in 1.. {
            let downloaded = self.download(blob, done, |part| {
                file.write_all(part).context("write the layer; is the disk of the state folder full?")?;
                done += part.len() as u64;
                progress.at(done);
                Ok(())
            });
            match downloaded.await {
                Ok(()) => break,
                Err(Interrupted::Network(_)) if attempt < TRIES => tokio::time::sleep(PAUSE).await,
                Err(interrupted) => return Err(interrupted.into()),
            }
        }
        Ok(file)
    }

    /// Downloads a blob from `offset` on, part by part, and no byte more than it should have.
    async fn download(
        &self,
        blob: &Blob,
        offset: u64,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> Result<(), Interrupted> {
        let network = |error: OciDistributionError| Interrupted::Network(explained(&error));
        let digest = blob.digest.as_str();
        let response = match offset {
            0 => BlobResponse::Full(self.client.pull_blob_stream(&self.reference, &digest).await.map_err(network)?),
            _ => self.client.pull_blob_stream_partial(&self.reference, &digest, offset, None).await.map_err(network)?,
        };
        let (mut stream, mut skip) = match response {
            BlobResponse::Partial(stream) => (stream, 0),
            // A registry that knows no ranges begins from the start.
            BlobResponse::Full(stream) => (stream, offset),
        };
        let mut left = blob.size - offset;
        loop {
            let part = match stream.try_next().await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                // What the client checks at the end is the digest.
                Err(error) if left == 0 => {
                    return Err(Interrupted::Other(anyhow::Error::new(error).context("damaged blob")));
                }
                Err(error) => return Err(Interrupted::Network(anyhow::Error::new(error).context("download a blob"))),
            };
            let skipped = skip.min(part.len() as u64);
            skip -= skipped;
            let part = &part[skipped as usize..];
            left = left.checked_sub(part.len() as u64).ok_or_else(|| {
                Interrupted::Other(anyhow::anyhow!(
                    "the registry sends more than the {} bytes of blob {digest}",
                    blob.size
                ))
            })?;
            take(part).map_err(Interrupted::Other)?;
        }
        if left == 0 {
            Ok(())
        } else {
            Err(Interrupted::Network(anyhow::anyhow!("the download ended {left} bytes early")))
        }
    }
}

/// Why a download ended before its end.
enum Interrupted {
    /// Another try may do better.
    Network(anyhow::Error),
    /// It will not.
    Other(anyhow::Error),
}

impl From<Interrupted> for anyhow::Error {
    fn from(interrupted: Interrupted) -> Self {
        let (Interrupted::Network(error) | Interrupted::Other(error)) = interrupted;
        error
    }
}

/// A registry's answer as one line with a remedy.
fn explained(error: &OciDistributionError) -> anyhow::Error {
    const LINE_BYTES_MAX: usize = 300;
    const NOT_FOUND: &str = "the registry has no such image: check the reference";
    let what = match error {
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            "the registry refuses: check the reference, or give --username and the password on standard input"
        }
        OciDistributionError::ImageManifestNotFoundError(_) => NOT_FOUND,
        OciDistributionError::RegistryError { envelope, .. } if envelope.errors.iter().any(is_unknown) => NOT_FOUND,
        OciDistributionError::RequestError(error) if error.is_connect() => {
            "the registry can't be reached: check its address, and whether it wants --plain-http"
        }
        _ => "the registry fails: try again later",
    };
    let mut line = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        // Errors often repeat what caused them.
        if !line.contains(&text) {
            line += if line.is_empty() { "" } else { ": " };
            line += &text;
        }
        cause = error.source();
    }
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE_BYTES_MAX).collect();
    anyhow::anyhow!("{what} ({line})")
}

fn is_unknown(error: &OciError) -> bool {
    matches!(error.code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::BlobUnknown)
}
