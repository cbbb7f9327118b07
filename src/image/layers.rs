//! The unpacked layers: seen through their folder, made and removed through the launcher.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use runner::Digest;
use runner::import::Unpack;
use runner::layer::{self, UnpackRequest};
use sandbox::launcher::{Error, Launcher};
use sandbox::spec::{LayerId, ProjectId};

use super::progress::Progress;

/// The launcher and the folder in which it unpacks.
pub(super) struct Layers {
    launcher: Launcher,
    folder: OwnedFd,
}

/// What became of a layer that was to go.
pub(super) enum Removal {
    /// It is gone.
    Gone,
    /// The cell of this project uses it.
    InUse(ProjectId),
}

impl Layers {
    pub(super) fn new(launcher: Launcher, folder: OwnedFd) -> Self {
        Self { launcher, folder }
    }

    /// All that are unpacked.
    pub(super) fn list(&self) -> anyhow::Result<Vec<Digest>> {
        Ok(layer::list(self.folder.as_fd())?)
    }

    /// The room that one takes, in bytes, as far as the service user sees it.
    pub(super) fn bytes(&self, layer: &Digest) -> anyhow::Result<u64> {
        Ok(layer::bytes(self.folder.as_fd(), layer)?)
    }

    pub(super) fn remove(&mut self, layer: &Digest) -> anyhow::Result<Removal> {
        let id = LayerId::parse(layer.as_str()).expect("a digest is a layer's id");
        match self.launcher.remove_layer(&id) {
            Ok(()) => Ok(Removal::Gone),
            Err(Error::InUse(project)) => Ok(Removal::InUse(project)),
            Err(error) => Err(error).with_context(|| format!("remove layer {}", layer.short())),
        }
    }
}

impl Unpack for Layers {
    type Error = anyhow::Error;

    fn has(&mut self, layer: &Digest) -> runner::Result<bool> {
        layer::is_unpacked(self.folder.as_fd(), layer)
    }

    fn unpack(
        &mut self,
        request: &UnpackRequest,
        blob: BorrowedFd<'_>,
        position: (usize, usize),
    ) -> anyhow::Result<()> {
        let progress = Progress::new("unpack", position, request.size);
        let words = serde_json::to_string(request).context("describe the layer")?;
        self.launcher
            .unpack(words, blob, |bytes| progress.at(bytes))
            .with_context(|| format!("layer {}", request.diff_id.short()))
    }
}
