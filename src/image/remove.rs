//! Removing an image, with the layers and blobs that only it needed. What a running cell uses stays: the launcher knows, and
//! refuses.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use runner::store::{Hold, Store, Using};
use sandbox::spec::ProjectId;

use super::layers::{Layers, Removal};

/// Removes an image and what only it needed. An image that a cell runs stays as it is.
pub(super) fn one(store: &Store, mut layers: Layers, name: &str) -> anyhow::Result<()> {
    let hold = store.hold(Using::Removing)?;
    let name = &store.whole_name(name)?;
    if let Removed::InUse(project) = held(store, &mut layers, name, &hold)? {
        bail!(
            "image {name} is in use by the cell of project {project}: stop it first (cloister project stop {project})"
        );
    }
    Ok(())
}

/// What became of an image that was to go.
pub(super) enum Removed {
    /// It is gone.
    Gone,
    /// The cell of this project uses it.
    InUse(ProjectId),
}

/// As [`one`], of a whole name in a store that is held for [`Using::Removing`].
pub(super) fn held(store: &Store, layers: &mut Layers, name: &str, hold: &Hold) -> anyhow::Result<Removed> {
    // A damaged image has nothing that could be looked up; its name can go.
    let documents = store.documents(name).ok();
    let own = match store.resolve(name) {
        Ok(image) => image.layers.into_iter().map(|layer| layer.diff_id).collect(),
        Err(_) => BTreeSet::new(),
    };
    // First the name: if this is interrupted, what is left is layers without an image, not an image without layers.
    store.remove(name)?;
    let needed = store.layers_needed().context("the name is removed, the layers are not")?;
    let mut removed = 0;
    for layer in own.difference(&needed) {
        match layers.remove(layer)? {
            Removal::Gone => removed += 1,
            Removal::InUse(project) if removed == 0 => {
                if let Some((manifest, config)) = documents {
                    store.add(name, &manifest, &config)?;
                }
                return Ok(Removed::InUse(project));
            }
            // The cell runs an older image, of which this layer is a part.
            Removal::InUse(_) => {}
        }
    }
    store.prune(hold)?;
    Ok(Removed::Gone)
}
