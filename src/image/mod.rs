//! The `cloister image` commands: bringing images in, listing and removing them. This is where the store of images and the
//! launcher, which alone can unpack and remove layers, come together.
//!
//! What a command needs of the caller's own (an archive, a password) is opened or read while the process is still the
//! caller; all the rest happens as the service user.

mod credentials;
mod layers;
mod progress;
mod prune;
mod pull;
mod remove;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use indicatif::HumanBytes;
use runner::image::Image;
use runner::import::import;
use runner::source::Source;
use runner::store::{Store, Using, check_name};

use crate::cli::ImageCommand;
use crate::config::Config;
use crate::host::Host;
use crate::project;
use layers::Layers;

/// Does what is asked with images.
pub(crate) fn run(config: Config, command: &ImageCommand) -> anyhow::Result<ExitCode> {
    match command {
        ImageCommand::Import { path, name, reference } => {
            import_from(config, path, name.as_deref(), reference.as_deref())?;
        }
        ImageCommand::Pull { reference, name, plain_http, username } => {
            let pull = pull::Pull::new(reference, name.as_deref(), *plain_http, username.as_deref())?;
            let (store, layers) = open(config)?;
            let name = pull.name().to_owned();
            let (image, layers) = pull.run(&store, layers)?;
            report(&name, &image)?;
            prune::after_import(&store, layers)?;
        }
        ImageCommand::Ls => {
            let (store, _) = open(config)?;
            list(&store)?;
        }
        ImageCommand::Rm { name } => {
            let (store, layers) = open(config)?;
            remove::one(&store, layers, name)?;
        }
        ImageCommand::Prune { dry_run, unused } => {
            let wanted = prune::Wanted { dry_run: *dry_run, unused: *unused };
            let Host { images, layers, launcher, projects, config, .. } = Host::start(config)?;
            let named = || project::images(&config, projects).context("nothing is removed");
            prune::run(&Store::open(images)?, Layers::new(launcher, layers), wanted, named)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes the service user, with the store and the layers at hand.
fn open(config: Config) -> anyhow::Result<(Store, Layers)> {
    let Host { images, layers, launcher, .. } = Host::start(config)?;
    Ok((Store::open(images)?, Layers::new(launcher, layers)))
}

fn import_from(config: Config, path: &Path, name: Option<&str>, reference: Option<&str>) -> anyhow::Result<()> {
    if let Some(name) = name {
        check_name(name)?;
    }
    let source = Source::open(path)?;
    let (store, mut layers) = open(config)?;
    let found = source.read(reference, || store.scratch()).with_context(|| format!("import {}", path.display()))?;
    let name = name.unwrap_or(&found.name);
    let hold = store.hold(Using::Adding)?;
    let image =
        import(&found, name, &store, &hold, &mut layers).with_context(|| format!("import {}", path.display()))?;
    report(name, &image)?;
    drop(hold);
    prune::after_import(&store, layers)
}

/// Says what a name stands for now.
fn report(name: &str, image: &Image) -> anyhow::Result<()> {
    let layers = image.layers.len();
    let plural = if layers == 1 { "" } else { "s" };
    writeln!(
        io::stdout(),
        "{name}: image {}, {layers} layer{plural}, {}",
        image.manifest.short(),
        HumanBytes(image.size())
    )
    .context("say what was done")
}

/// Prints all images; a damaged one with what is wrong with it.
fn list(store: &Store) -> anyhow::Result<()> {
    let names = store.names()?;
    let width = names.iter().map(String::len).max().unwrap_or(0).max("NAME".len());
    let mut table = format!("{:width$}  {:12}  {:>6}  {:>10}  CREATED\n", "NAME", "IMAGE", "LAYERS", "SIZE");
    for name in names {
        let line = match store.resolve(&name) {
            Ok(image) => format!(
                "{name:width$}  {:12}  {:>6}  {:>10}  {}",
                image.manifest.short(),
                image.layers.len(),
                HumanBytes(image.size()).to_string(),
                date(&image.created)
            ),
            Err(error) => format!("{name:width$}  {error}"),
        };
        table.push_str(line.trim_end());
        table.push('\n');
    }
    io::stdout().write_all(table.as_bytes()).context("write the list")
}

/// The day in an RFC 3339 time, which is whatever the image's maker wrote.
fn date(created: &str) -> &str {
    let is_date = |day: &&str| day.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    created.get(..10).filter(is_date).unwrap_or("-")
}
