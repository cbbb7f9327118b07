//! A runner image by its name, as a cell wants it. The one place here that speaks with the image store.

use std::os::fd::OwnedFd;

use runner::store::Store;
use sandbox::spec::{ImageConfig, LayerId, ProjectId};

use super::Error;

/// The images of this host.
pub(super) struct Images {
    store: Store,
}

impl Images {
    pub(super) fn open(folder: OwnedFd) -> Result<Self, Error> {
        let failed = |error: runner::Error| Error::Io {
            what: "open the image store".to_owned(),
            error: std::io::Error::other(error),
        };
        Ok(Self { store: Store::open(folder).map_err(failed)? })
    }

    /// The layers of an image, lowest first, and how its programs want to be run. Read anew each time, so that an image
    /// imported again is what the next cell gets.
    pub(super) fn resolve(&self, project: &ProjectId, name: &str) -> Result<(Vec<LayerId>, ImageConfig), Error> {
        let image = self.store.resolve(name);
        let image = image.map_err(|error| Error::Invalid { project: project.clone(), reason: error.to_string() })?;
        let layer = |digest: &runner::Digest| LayerId::parse(&digest.to_string()).expect("a digest is a layer's id");
        let layers = image.overlay().into_iter().map(layer).collect();
        let runner::image::Wishes { env, user, working_dir, entrypoint, cmd } = image.wishes;
        Ok((layers, ImageConfig { env, user, working_dir, entrypoint, cmd }))
    }
}
