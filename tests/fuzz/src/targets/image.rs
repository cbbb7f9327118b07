//! The documents of an image, as its maker or a registry wrote them.

use runner::Digest;
use runner::image::{Document, Image, Wishes, for_this_machine};
use sandbox::spec::{ImageConfig, LayerId, Limits};
use serde_json::{Value, json};

use super::message;

/// Most layers of an image, and longest date of its making in bytes.
const LAYERS_MAX: usize = 128;
const CREATED_BYTES_MAX: usize = 64;

/// Longest error in bytes: it is shown to a person.
const ERROR_BYTES_MAX: usize = 1000;

/// A letter: a document alone; or a configuration, a NUL, and a manifest, which is made to name that configuration.
pub(crate) fn image(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind {
        b'd' => document(data),
        _ => {
            let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
            let (config, manifest) = (&data[..end], data.get(end + 1..).unwrap_or_default());
            both(&naming(manifest, config), config);
        }
    }
}

/// The manifest with the digest of the configuration, which no mutation would hit upon.
fn naming(manifest: &[u8], config: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<Value>(manifest) {
        Ok(Value::Object(mut members)) => {
            members.insert("config".to_owned(), json!({ "digest": Digest::of(config), "size": config.len() }));
            Value::Object(members).to_string().into_bytes()
        }
        _ => manifest.to_vec(),
    }
}

fn document(data: &[u8]) {
    match Document::parse(data) {
        Ok(Document::Index(entries)) => {
            if let Err(error) = for_this_machine(&entries) {
                is_clear(&error);
            }
        }
        Ok(Document::Manifest(manifest)) => assert!((1..=LAYERS_MAX).contains(&manifest.layers.len())),
        Err(error) => is_clear(&error),
    }
}

fn both(manifest: &[u8], config: &[u8]) {
    let image = match Image::check(manifest, config) {
        Ok(image) => image,
        Err(error) => return is_clear(&error),
    };
    assert_eq!(Image::check(manifest, config).expect("nothing has changed"), image);
    assert_eq!((&image.manifest, &image.config), (&Digest::of(manifest), &Digest::of(config)));
    assert!((1..=LAYERS_MAX).contains(&image.layers.len()) && image.created.len() <= CREATED_BYTES_MAX);
    let overlay = image.overlay();
    for (place, layer) in overlay.iter().enumerate() {
        assert!(!overlay[..place].contains(layer), "{layer} twice");
        assert!(image.layers.iter().any(|one| one.diff_id == **layer));
    }
    let Wishes { env, user, working_dir, entrypoint, cmd } = image.wishes.clone();
    let words = [&user, &working_dir].into_iter().chain(&env).chain(&entrypoint).chain(&cmd);
    assert!(words.into_iter().all(|word| !word.contains('\0')));
    let layers =
        overlay.iter().map(|layer| LayerId::parse(layer.as_str()).expect("a digest is a layer's id")).collect();
    let environment = [("x".repeat(64 << 10), String::new())].into();
    message::fits(layers, ImageConfig { env, user, working_dir, entrypoint, cmd }, environment, Limits::default());
}

/// The image is refused, not the machine blamed; in one bounded line.
fn is_clear(error: &runner::Error) {
    let text = error.to_string();
    assert!(matches!(error, runner::Error::Refused(_)), "{text}");
    assert!(!text.is_empty() && text.len() <= ERROR_BYTES_MAX, "an error of {} bytes", text.len());
    assert!(!text.contains(char::is_control), "{text:?}");
}
