//! How far a long step is: a bar on a terminal, nothing elsewhere. It knows numbers and a verb, not what is being done.

use indicatif::{ProgressBar, ProgressStyle};

/// One bar, which goes when it is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// `position` is which of how many layers this is about, `bytes` how much there is to do.
    pub(super) fn new(verb: &str, (number, count): (usize, usize), bytes: u64) -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes} {binary_bytes_per_sec}")
            .expect("the template is valid");
        // Drawn to standard error, and only if that is a terminal.
        let bar = ProgressBar::new(bytes).with_style(style);
        bar.set_message(format!("{verb} layer {number}/{count}"));
        Self(bar)
    }

    /// So much is done.
    pub(super) fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
