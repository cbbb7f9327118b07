//! The links that cells lead to: each is stored once, and all together are bounded.

use std::collections::HashSet;
use std::sync::Arc;

use super::cell::Link;

/// Most bytes of links that one screen may lead to: a screen full of file names of usual length has 100 KiB.
const BYTES_MAX: usize = 1024 * 1024;

/// What a link costs beside its text.
const OVERHEAD_BYTES: usize = 128;

/// How many links are refused before it is looked again for those that no cell leads to any more.
const REFUSALS: usize = 1000;

/// The links of one screen.
#[derive(Debug, Default)]
pub(super) struct Links {
    known: HashSet<Arc<Link>>,
    bytes: usize,
    refused: usize,
}

impl Links {
    /// The link with this identity, unless there are too many others: then the text leads nowhere.
    pub(super) fn get(&mut self, id: String, uri: String) -> Option<Arc<Link>> {
        let link = Link { id, uri };
        if let Some(known) = self.known.get(&link) {
            return Some(known.clone());
        }
        let bytes = cost(&link);
        if self.bytes + bytes > BYTES_MAX {
            self.forget_unused();
        }
        if self.bytes + bytes > BYTES_MAX {
            self.refused += 1;
            return None;
        }
        let link = Arc::new(link);
        self.bytes += bytes;
        self.known.insert(link.clone());
        Some(link)
    }

    fn forget_unused(&mut self) {
        if self.refused.is_multiple_of(REFUSALS) {
            self.known.retain(|link| Arc::strong_count(link) > 1);
            self.bytes = self.known.iter().map(|link| cost(link)).sum();
        }
    }
}

fn cost(link: &Link) -> usize {
    OVERHEAD_BYTES + link.id.len() + link.uri.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_use_are_bounded_and_others_make_room() {
        let mut links = Links::default();
        let open = |links: &mut Links, n: usize| links.get(String::new(), format!("{n:01000}"));
        let used: Vec<_> = (0..10_000).map_while(|n| open(&mut links, n)).collect();
        assert!((900..1000).contains(&used.len()));
        assert!(open(&mut links, 0).is_some(), "a known one is no new one");
        drop(used);
        assert!((10_000..12_000).filter(|n| open(&mut links, *n).is_some()).count() > 900);
    }
}
