//! What earlier cells, launchers or a foreign hand have left: told once, in one line of the log, when a server starts.

use sandbox::orphans::{Kept, Orphans};

use super::Projects;

/// Most that are named in the line.
const NAMED_MAX: usize = 10;

impl Projects {
    /// Tells what the launcher has removed of it and what it keeps, if there is anything.
    pub(crate) async fn report_orphans(&self) {
        match self.0.launch.orphans().await {
            Ok(orphans) if orphans.is_empty() => tracing::debug!("nothing was left over"),
            Ok(orphans) => report(&orphans),
            Err(error) => tracing::warn!(%error, "it can't be told what was left over"),
        }
    }
}

fn report(orphans: &Orphans) {
    let Orphans { removable, kept, unnamed, trash, trash_bytes } = orphans;
    let removed = if removable.count() == 0 { "nothing".to_owned() } else { removable.to_string() };
    let bytes_kept: u64 = kept.iter().map(|kept| kept.bytes).sum();
    let (trash_mib, kept_mib) = (trash_bytes >> 20, bytes_kept >> 20);
    let count = kept.len() + unnamed;
    tracing::info!(%removed, trash, trash_mib, kept = count, kept_mib, named = named(kept), "what was left over is swept");
}

/// What is kept, each with the reason; the first of many.
fn named(kept: &[Kept]) -> String {
    let one = |kept: &Kept| format!("{}: {}", kept.name, kept.kind.reason());
    kept.iter().take(NAMED_MAX).map(one).collect::<Vec<_>>().join("; ")
}
