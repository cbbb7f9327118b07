//! Removing images, and the layers and blobs that no image needs any more. What a running cell uses stays: the launcher
//! knows, and refuses.

use std::collections::BTreeSet;
use std::io::{self, Write};

use anyhow::{Context, bail};
use runner::Digest;
use runner::store::{Store, Using};

use super::layers::{Layers, Removal};

/// Removes an image and what only it needed. An image that a cell runs stays as it is.
pub(super) fn one(store: &Store, mut layers: Layers, name: &str) -> anyhow::Result<()> {
    let hold = store.hold(Using::Removing)?;
    let name = &store.whole_name(name)?;
    // A damaged image has nothing that could be looked up; its name can go.
    let documents = store.documents(name).ok();
    let own = match store.resolve(name) {
        Ok(image) => image.layers.into_iter().map(|layer| layer.diff_id).collect(),
        Err(_) => BTreeSet::new(),
    };
    // First the name: if this is interrupted, what is left is layers without an image, not an image without layers.
    store.remove(name)?;
    let needed = needed(store).context("the name is removed, the layers are not")?;
    let mut removed = 0;
    for layer in own.difference(&needed) {
        match layers.remove(layer)? {
            Removal::Gone => removed += 1,
            Removal::InUse(project) if removed == 0 => {
                if let Some((manifest, config)) = documents {
                    store.add(name, &manifest, &config)?;
                }
                bail!(
                    "image {name} is in use by the cell of project {project}: stop it first (cloister project stop {project})"
                );
            }
            // The cell runs an older image, of which this layer is a part.
            Removal::InUse(_) => {}
        }
    }
    store.prune(&hold)?;
    Ok(())
}

/// Removes everything that no image needs.
pub(super) fn unused(store: &Store, mut layers: Layers) -> anyhow::Result<()> {
    let hold = store.hold(Using::Removing)?;
    let needed = needed(store).context("nothing is removed")?;
    let (mut removed, mut kept) = (0, 0);
    for layer in layers.list()?.iter().filter(|layer| !needed.contains(layer)) {
        match layers.remove(layer)? {
            Removal::Gone => removed += 1,
            Removal::InUse(_) => kept += 1,
        }
    }
    let blobs = store.prune(&hold)?;
    let used = if kept > 0 { format!(", {kept} in use by running cells stay") } else { String::new() };
    writeln!(io::stdout(), "removed {removed} layers and {blobs} blobs{used}").context("say what was done")
}

/// The layers of all images. Fails if one can't be read, since what it needs is unknown then.
fn needed(store: &Store) -> anyhow::Result<BTreeSet<Digest>> {
    let mut needed = BTreeSet::new();
    for name in store.names()? {
        let image = store.resolve(&name).with_context(|| format!("remove image {name} first, it is damaged"))?;
        needed.extend(image.layers.into_iter().map(|layer| layer.diff_id));
    }
    Ok(needed)
}
