//! The store of images: an OCI image layout that keeps names, manifests and configurations, but no layer blobs; what
//! those hold lies unpacked elsewhere.
//!
//! All is done relative to the layout's folder. The index is replaced as a whole, under a lock; blobs are checked by their
//! digests whenever they are read. While an image is brought in it holds the store for [`Using::Adding`], so that nobody
//! removes what is there already but not named yet.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, ResolveFlags, flock, fsync, mkdirat, openat2, renameat, unlinkat,
};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::digest::shortened;
use crate::image::{DOCUMENT_BYTES_MAX, Document, Entry, Image};
use crate::{Digest, Error, Result};

/// Folder of blobs in an OCI image layout.
const BLOBS: &str = "blobs/sha256";

/// The file that makes a folder an OCI image layout.
const LAYOUT: (&str, &str) = ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);

/// The layout's list of images.
const INDEX: &str = "index.json";

/// Where an entry of the index has its name.
const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// Beginning of the names of files that aren't finished.
const UNFINISHED: &str = ".tmp-";

/// Longest name of an image: registry, repository and digest are at most this long together.
const NAME_BYTES_MAX: usize = 255;

/// Images of a store; its index must stay within a document's size.
const IMAGES_MAX: usize = 1000;

/// How long removing waits for images that are being brought in, which may take as long as a download.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// How often it looks meanwhile; the kernel's own waiting has no end.
const WAIT_STEP: Duration = Duration::from_millis(50);

/// Unfinished files at once; more is a sign that nothing can be finished.
const UNFINISHED_MAX: u32 = 256;

/// A folder of images.
#[derive(Debug)]
pub struct Store {
    folder: OwnedFd,
}

/// What somebody is doing with the whole store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Using {
    /// Bringing an image in; several may at once.
    Adding,
    /// Removing what no image needs; alone.
    Removing,
}

impl Using {
    fn operation(self) -> FlockOperation {
        match self {
            Self::Adding => FlockOperation::NonBlockingLockShared,
            Self::Removing => FlockOperation::NonBlockingLockExclusive,
        }
    }
}

/// The store is held until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Hold {
    _lock: OwnedFd,
}

impl Store {
    /// Opens the store in `folder`, which becomes one if it isn't.
    pub fn open(folder: OwnedFd) -> Result<Self> {
        let store = Self { folder };
        for name in ["blobs", BLOBS] {
            match mkdirat(&store.folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => {
                    return Err(Error::host(format_args!("create the folder {name} of the image store"), error));
                }
            }
        }
        let (name, content) = LAYOUT;
        if store.read(name)?.is_none() {
            store.write(name, content.as_bytes())?;
        }
        if store.read(INDEX)?.is_none() {
            store.change(|_| Ok(()))?;
        }
        Ok(store)
    }

    /// Holds the store for something that takes several steps.
    pub fn hold(&self, using: Using) -> Result<Hold> {
        let other = match using {
            Using::Adding => "unused images are being removed",
            Using::Removing => "an image is being imported or pulled",
        };
        self.lock("blobs", using.operation(), other)
    }

    /// As [`hold`](Self::hold), unless somebody else holds it; doesn't wait.
    pub fn hold_now(&self, using: Using) -> Result<Option<Hold>> {
        let failed = |error| Error::host("lock the image store", error);
        let file = self.open_file("blobs", OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        match flock(&file, using.operation()) {
            Ok(()) => Ok(Some(Hold { _lock: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// The layers of all images. Fails if one can't be read, since what it needs is unknown then.
    pub fn layers_needed(&self) -> Result<BTreeSet<Digest>> {
        self.layers_needed_without(&[])
    }

    /// The layers of all images but some, by whole names.
    pub fn layers_needed_without(&self, left_out: &[String]) -> Result<BTreeSet<Digest>> {
        let mut needed = BTreeSet::new();
        for name in self.names()?.iter().filter(|name| !left_out.contains(name)) {
            let damaged = |error| Error::refused(format_args!("remove image {name} first, it is damaged: {error}"));
            needed.extend(self.resolve(name).map_err(damaged)?.layers.into_iter().map(|layer| layer.diff_id));
        }
        Ok(needed)
    }

    /// Names of all images, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> =
            self.entries()?.iter().filter_map(|entry| entry.name().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// The whole name of what a user calls `name`: Docker's, `alpine` for `docker.io/library/alpine:latest`, is understood.
    pub fn whole_name(&self, name: &str) -> Result<String> {
        let entries = self.entries()?;
        let known = |spelling: &String| entries.iter().any(|entry| entry.name() == Some(spelling));
        spellings(name).into_iter().find(known).ok_or_else(|| unknown(name, &entries))
    }

    /// The image of that name, with all its documents checked.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let (manifest, config) = self.documents(name)?;
        Image::check(&manifest, &config).map_err(|error| damaged(name, error))
    }

    /// Manifest and configuration of the image of that name, byte for byte.
    pub fn documents(&self, name: &str) -> Result<(Vec<u8>, Vec<u8>)> {
        let entries = self.entries()?;
        let spellings = spellings(name);
        let named = |spelling: &String| entries.iter().find(|entry| entry.name() == Some(spelling));
        let entry = spellings.iter().find_map(named).ok_or_else(|| unknown(name, &entries))?;
        let manifest = self.blob(&entry.blob.digest).map_err(|error| damaged(name, error))?;
        let config = match Document::parse(&manifest).map_err(|error| damaged(name, error))? {
            Document::Manifest(manifest) => manifest.config.digest,
            Document::Index(_) => return Err(damaged(name, Error::refused("its manifest is an index"))),
        };
        let config = self.blob(&config).map_err(|error| damaged(name, error))?;
        Ok((manifest, config))
    }

    /// Keeps an image, whose layers are unpacked, under a name that may have been another's.
    pub fn add(&self, name: &str, manifest: &[u8], config: &[u8]) -> Result<Image> {
        check_name(name)?;
        let image = Image::check(manifest, config)?;
        self.write(&format!("{BLOBS}/{}", image.config.hex()), config)?;
        self.write(&format!("{BLOBS}/{}", image.manifest.hex()), manifest)?;
        let entry = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.manifest,
            "size": manifest.len(),
            "annotations": { NAME_ANNOTATION: name },
        });
        self.change(|manifests| {
            manifests.retain(|other| name_of(other) != Some(name));
            if manifests.len() >= IMAGES_MAX {
                return Err(Error::refused(format_args!("the store has {IMAGES_MAX} images: remove some first")));
            }
            manifests.push(entry);
            Ok(())
        })?;
        Ok(image)
    }

    /// Forgets a whole name. What only it needed stays until [`prune`](Self::prune).
    pub fn remove(&self, name: &str) -> Result<()> {
        let entries = self.entries()?;
        self.change(|manifests| {
            let before = manifests.len();
            manifests.retain(|other| name_of(other) != Some(name));
            if manifests.len() < before { Ok(()) } else { Err(unknown(name, &entries)) }
        })
    }

    /// Removes blobs that no image needs and files that were never finished, and says how many. The store must be held for
    /// [`Using::Removing`]. Fails without removing anything if an image is damaged, since what it needs is unknown then.
    pub fn prune(&self, _hold: &Hold) -> Result<usize> {
        let mut needed = Vec::new();
        for name in self.names()? {
            let image = self.resolve(&name)?;
            needed.extend([image.manifest, image.config]);
        }
        let in_blobs = self.remove_from(BLOBS, |name| {
            Digest::from_hex(name).is_some_and(|digest| !needed.contains(&digest)) || name.starts_with(UNFINISHED)
        })?;
        Ok(in_blobs + self.remove_from(".", |name| name.starts_with(UNFINISHED))?)
    }

    /// A file without a name, for content on its way; it is gone when it is closed, whatever happens.
    pub fn scratch(&self) -> Result<File> {
        let (name, file) = self.unfinished(".")?;
        unlinkat(&self.folder, &name, AtFlags::empty())
            .map_err(|error| Error::host("unlink a temporary file of the image store", error))?;
        Ok(file)
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        let Some(bytes) = self.read(INDEX)? else { return Ok(Vec::new()) };
        match Document::parse(&bytes) {
            Ok(Document::Index(entries)) => Ok(entries),
            Ok(Document::Manifest(_)) => Err(Error::refused("index.json of the image store isn't an index")),
            Err(error) => Err(Error::refused(format_args!("index.json of the image store: {error}"))),
        }
    }

    /// Changes the list of images, one changer after the other.
    fn change(&self, change: impl FnOnce(&mut Vec<Value>) -> Result<()>) -> Result<()> {
        let _lock = self.lock(".", FlockOperation::NonBlockingLockExclusive, "somebody else is changing its index")?;
        let mut manifests = match self.read(INDEX)? {
            None => Vec::new(),
            Some(bytes) => {
                match crate::image::parse::<Value>("index.json of the image store", &bytes)?["manifests"].take() {
                    Value::Array(manifests) => manifests,
                    _ => return Err(Error::refused("index.json of the image store has no manifests")),
                }
            }
        };
        change(&mut manifests)?;
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        self.write(INDEX, index.to_string().as_bytes())
    }

    fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let bytes = self
            .read(&format!("{BLOBS}/{}", digest.hex()))?
            .ok_or_else(|| Error::missing(format_args!("the store lacks {digest}")))?;
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(Error::refused(format_args!("{digest} is damaged"))) }
    }

    fn open_file(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o644) } else { Mode::empty() };
        openat2(&self.folder, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, resolve)
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let failed = |error: std::io::Error| Error::host(format_args!("read {path} of the image store"), error);
        let file = match self.open_file(path, OFlags::RDONLY) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        let mut bytes = Vec::new();
        file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(Error::refused(format_args!(
                "{path} of the image store has more than {DOCUMENT_BYTES_MAX} bytes"
            )));
        }
        Ok(Some(bytes))
    }

    /// Writes a file as a whole: whoever reads it, even after a power cut, finds the old one or the new one.
    fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let (unfinished, mut file) = self.unfinished(folder)?;
        let mut finish = || -> std::io::Result<()> {
            file.write_all(bytes)?;
            file.sync_all()?;
            renameat(&self.folder, &unfinished, &self.folder, path)?;
            Ok(fsync(self.open_file(folder, OFlags::RDONLY | OFlags::DIRECTORY)?)?)
        };
        finish().map_err(|error| {
            // If that fails too, it is swept with the next pruning.
            let _ = unlinkat(&self.folder, &unfinished, AtFlags::empty());
            Error::host(format_args!("write {path} of the image store"), error)
        })
    }

    fn unfinished(&self, folder: &str) -> Result<(String, File)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        for number in 0..UNFINISHED_MAX {
            let path = format!("{folder}/{UNFINISHED}{}-{number}", std::process::id());
            match self.open_file(&path, flags) {
                Ok(file) => return Ok((path, File::from(file))),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(Error::host("create a temporary file in the image store", error)),
            }
        }
        Err(Error::host("create one more temporary file in the image store", Errno::AGAIN))
    }

    fn remove_from(&self, folder: &str, is_garbage: impl Fn(&str) -> bool) -> Result<usize> {
        let failed = |error| Error::host(format_args!("remove unused files from {folder} of the image store"), error);
        let folder = self.open_file(folder, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        let mut removed = 0;
        for entry in Dir::read_from(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_str().is_ok_and(&is_garbage) {
                unlinkat(&folder, entry.file_name(), AtFlags::empty()).map_err(failed)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Locks a folder, which unlike a file is never replaced.
    fn lock(&self, folder: &str, operation: FlockOperation, other: &str) -> Result<Hold> {
        let failed = |error| Error::host("lock the image store", error);
        let file = self.open_file(folder, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Hold { _lock: file }),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(WAIT_STEP),
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::host(
                        format_args!("lock the image store, where {other}; try again later"),
                        Errno::WOULDBLOCK,
                    ));
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// Whether a name can be kept: what is printed, typed and written into one line of a configuration.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte);
    if name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(plain)
    {
        return Ok(());
    }
    Err(Error::refused(format_args!(
        "image name {:?}: up to {NAME_BYTES_MAX} letters, digits and `._-/:@+`, beginning with a letter or digit; choose one with --name",
        shortened(name)
    )))
}

/// What may be meant by a name: itself, or the image of Docker Hub that Docker would take.
fn spellings(name: &str) -> Vec<String> {
    let (host, path) = name.split_once('/').unwrap_or(("", name));
    let hub = match host {
        "" => format!("docker.io/library/{name}"),
        // What is no host name is a user of Docker Hub.
        _ if !host.contains(['.', ':']) && host != "localhost" => format!("docker.io/{name}"),
        _ => name.to_owned(),
    };
    let tagged = path.contains([':', '@']);
    let latest = |name: &String| (!tagged).then(|| format!("{name}:latest"));
    let hub_latest = latest(&hub);
    [Some(name.to_owned()), latest(&name.to_owned()), Some(hub), hub_latest].into_iter().flatten().collect()
}

fn name_of(entry: &Value) -> Option<&str> {
    entry["annotations"][NAME_ANNOTATION].as_str()
}

fn damaged(name: &str, problem: Error) -> Error {
    match problem {
        Error::Refused(text) | Error::Missing(text) => {
            Error::refused(format_args!("image {name}: {text}; import or pull it again"))
        }
        host => host,
    }
}

fn unknown(name: &str, entries: &[Entry]) -> Error {
    const NAMED_MAX: usize = 10;
    let names: Vec<&str> = entries.iter().filter_map(Entry::name).take(NAMED_MAX).collect();
    let has = if names.is_empty() { "it is empty".to_owned() } else { format!("it has {}", names.join(", ")) };
    Error::missing(format_args!("the store has no image {:?} ({has}); import or pull one", shortened(name)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::image::{Blob, architecture, manifest_of};

    fn store() -> (TempDir, Store) {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(File::open(place.path()).unwrap().into()).unwrap();
        (place, store)
    }

    /// An image with one layer, which nobody needs to have.
    fn documents(layer: &str) -> (Vec<u8>, Vec<u8>) {
        let layer = Digest::of(layer.as_bytes());
        let config = json!({ "architecture": architecture(), "os": "linux", "rootfs": { "diff_ids": [layer] } });
        let config = config.to_string().into_bytes();
        let layer = Blob { digest: layer, size: 7 };
        let manifest = manifest_of(&Blob { digest: Digest::of(&config), size: config.len() as u64 }, &[layer]);
        (manifest, config)
    }

    fn add(store: &Store, name: &str, layer: &str) -> Image {
        let (manifest, config) = documents(layer);
        store.add(name, &manifest, &config).unwrap()
    }

    fn files(place: &TempDir, folder: &str) -> usize {
        fs::read_dir(place.path().join(folder)).unwrap().count()
    }

    #[test]
    fn a_name_is_one_image_until_it_is_anothers() {
        let (place, store) = store();
        let first = add(&store, "default", "1");
        add(&store, "docker.io/library/alpine:3", "1");
        assert_eq!(store.resolve("default").unwrap(), first);
        let second = add(&store, "default", "2");
        assert_eq!(store.resolve("default").unwrap(), second);
        assert_eq!(store.names().unwrap(), ["default", "docker.io/library/alpine:3"]);
        assert_eq!(files(&place, BLOBS), 4);
        let again = Store::open(File::open(place.path()).unwrap().into()).unwrap();
        assert_eq!(again.resolve("default").unwrap(), second);
    }

    #[test]
    fn names_may_be_said_as_docker_says_them() {
        let (_place, store) = store();
        for name in ["docker.io/library/alpine:latest", "docker.io/team/tools:1", "localhost/x:latest", "tools:latest"]
        {
            add(&store, name, name);
        }
        for (said, meant) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:latest", "docker.io/library/alpine:latest"),
            ("team/tools:1", "docker.io/team/tools:1"),
            ("localhost/x", "localhost/x:latest"),
            ("tools", "tools:latest"),
        ] {
            assert_eq!(store.whole_name(said).unwrap(), meant);
            assert_eq!(store.documents(said).unwrap(), store.documents(meant).unwrap());
        }
        for unknown in ["alpine:3", "team/tools", "library/alpine:3", "example.org/alpine", "x"] {
            assert!(store.resolve(unknown).is_err(), "{unknown}");
        }
        add(&store, "alpine", "its own");
        assert_eq!(store.whole_name("alpine").unwrap(), "alpine");
    }

    #[test]
    fn what_no_image_needs_is_pruned() {
        let (place, store) = store();
        let (one, two) = (add(&store, "one", "1"), add(&store, "two", "2"));
        add(&store, "also-one", "1");
        fs::write(place.path().join(".tmp-1-1"), "").unwrap();
        fs::write(place.path().join(BLOBS).join(".tmp-1-1"), "").unwrap();
        fs::write(place.path().join(BLOBS).join("README"), "not ours").unwrap();
        store.remove("one").unwrap();
        store.remove("two").unwrap();
        let hold = store.hold(Using::Removing).unwrap();
        assert_eq!(store.prune(&hold).unwrap(), 4);
        assert_eq!(store.resolve("also-one").unwrap(), one);
        assert!(!place.path().join(BLOBS).join(two.manifest.hex()).exists());
        assert_eq!(files(&place, BLOBS), 3);
    }

    #[test]
    fn unknown_names_are_answered_with_the_known() {
        let (_place, store) = store();
        let says = |result: Result<()>| result.unwrap_err().to_string();
        assert!(says(store.remove("x")).contains("no image \"x\" (it is empty)"));
        add(&store, "default", "1");
        assert!(says(store.remove("defualt")).contains("(it has default)"));
        assert!(says(store.resolve("defualt").map(drop)).contains("(it has default)"));
        for name in ["", "-x", "a b", "a\n", "ü", "../x", &"x".repeat(256)] {
            let (manifest, config) = documents("1");
            assert!(store.add(name, &manifest, &config).unwrap_err().to_string().contains("image name"), "{name}");
        }
    }

    #[test]
    fn a_damaged_store_says_so_and_removes_nothing() {
        let (place, store) = store();
        let image = add(&store, "default", "1");
        let config = place.path().join(BLOBS).join(image.config.hex());
        let content = fs::read(&config).unwrap();
        fs::write(&config, "{}").unwrap();
        assert!(store.resolve("default").unwrap_err().to_string().contains("is damaged; import or pull it again"));
        fs::remove_file(&config).unwrap();
        assert!(store.resolve("default").unwrap_err().to_string().contains("the store lacks sha256:"));
        assert!(store.prune(&store.hold(Using::Removing).unwrap()).is_err());
        fs::write(&config, content).unwrap();
        store.resolve("default").unwrap();
        for index in ["", "[]", "{}", r#"{"manifests": 1}"#] {
            fs::write(place.path().join(INDEX), index).unwrap();
            assert!(store.names().unwrap_err().to_string().contains("index.json"), "{index}");
            assert!(store.remove("default").is_err());
        }
    }

    #[test]
    fn changes_of_several_at_once_all_count() {
        let (place, store) = store();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    let _hold = store.hold(Using::Adding).unwrap();
                    add(store, &format!("image-{number}"), &number.to_string());
                });
            }
        });
        assert_eq!(store.names().unwrap().len(), 8);
        assert_eq!(files(&place, "."), 3, "nothing unfinished is left");
    }

    #[test]
    fn scratch_files_have_no_name() {
        let (place, store) = store();
        let mut scratch = store.scratch().unwrap();
        scratch.write_all(b"on its way").unwrap();
        assert_eq!(files(&place, "."), 3);
    }
}
