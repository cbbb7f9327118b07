//! The garbage of images: layers and blobs that no image needs, and, if asked for, images that no project names. The store is
//! held alone meanwhile, so what is being brought in is safe; what a cell runs is, since the launcher refuses.

use std::collections::BTreeSet;
use std::io::{self, Write};

use anyhow::Context;
use indicatif::HumanBytes;
use runner::Digest;
use runner::store::{Hold, Store, Using};

use super::layers::{Layers, Removal};
use super::remove::{self, Removed};

/// What is to go.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// Only say what would.
    pub(super) dry_run: bool,
    /// Images besides that nobody names.
    pub(super) unused: bool,
}

/// Removes what is wanted, or says what would be; `named` gives the images that projects and the configuration name, as they do.
pub(super) fn run(
    store: &Store,
    mut layers: Layers,
    wanted: Wanted,
    named: impl FnOnce() -> anyhow::Result<BTreeSet<String>>,
) -> anyhow::Result<()> {
    let hold = store.hold(Using::Removing)?;
    let unused = if wanted.unused { unused(store, &named()?)? } else { Vec::new() };
    let say = |line: String| writeln!(io::stdout(), "{line}").context("say what was done");
    if wanted.dry_run {
        for name in &unused {
            say(format!("would remove image {name}, which no project names"))?;
        }
        let needed = store.layers_needed_without(&unused)?;
        let garbage = layers.list()?.into_iter().filter(|layer| !needed.contains(layer));
        let Sum { count, bytes } = Sum::of(&layers, garbage)?;
        return say(format!("would remove {count} layers, {}; those that running cells use stay", HumanBytes(bytes)));
    }
    for name in &unused {
        match remove::held(store, &mut layers, name, &hold)? {
            Removed::Gone => say(format!("removed image {name}, which no project named"))?,
            Removed::InUse(project) => say(format!("image {name} stays, the cell of project {project} uses it"))?,
        }
    }
    let Swept { layers, bytes, in_use, blobs } = garbage(store, &mut layers, &hold)?;
    let used = if in_use > 0 { format!("; {in_use} in use by running cells stay") } else { String::new() };
    say(format!("removed {layers} layers, {}, and {blobs} blobs{used}", HumanBytes(bytes)))
}

/// Removes what the image left that had this name before, unless somebody is bringing in another: who comes last does it.
pub(super) fn after_import(store: &Store, mut layers: Layers) -> anyhow::Result<()> {
    let Some(hold) = store.hold_now(Using::Removing)? else { return Ok(()) };
    // An image that is damaged may need any of them: it isn't this command's to say so.
    let Ok(Swept { layers, bytes, .. }) = garbage(store, &mut layers, &hold) else { return Ok(()) };
    if layers > 0 {
        let line = format!("removed {layers} layers that no image needs any more, {}", HumanBytes(bytes));
        writeln!(io::stdout(), "{line}").context("say what was done")?;
    }
    Ok(())
}

/// What was removed.
struct Swept {
    layers: usize,
    bytes: u64,
    in_use: usize,
    blobs: usize,
}

fn garbage(store: &Store, layers: &mut Layers, hold: &Hold) -> anyhow::Result<Swept> {
    let needed = store.layers_needed().context("nothing is removed")?;
    let mut swept = Swept { layers: 0, bytes: 0, in_use: 0, blobs: 0 };
    for layer in layers.list()?.iter().filter(|layer| !needed.contains(layer)) {
        let bytes = layers.bytes(layer)?;
        match layers.remove(layer)? {
            Removal::Gone => {
                swept.layers += 1;
                swept.bytes += bytes;
            }
            Removal::InUse(_) => swept.in_use += 1,
        }
    }
    swept.blobs = store.prune(hold)?;
    Ok(swept)
}

/// How many layers, and the room they take.
struct Sum {
    count: usize,
    bytes: u64,
}

impl Sum {
    fn of(layers: &Layers, garbage: impl Iterator<Item = Digest>) -> anyhow::Result<Self> {
        let mut sum = Self { count: 0, bytes: 0 };
        for layer in garbage {
            sum.count += 1;
            sum.bytes += layers.bytes(&layer)?;
        }
        Ok(sum)
    }
}

/// The images that nobody names, by whole names.
fn unused(store: &Store, named: &BTreeSet<String>) -> anyhow::Result<Vec<String>> {
    // One that is named and isn't there keeps nothing.
    let named: BTreeSet<_> = named.iter().filter_map(|name| store.whole_name(name).ok()).collect();
    Ok(store.names()?.into_iter().filter(|name| !named.contains(name)).collect())
}
