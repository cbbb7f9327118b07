//! What came out: every figure, and for each promise whether it is kept. It is printed, and on request written into
//! docs/performance.md, so that what stands there is what was measured.

use std::fmt::Write as _;

use anyhow::Context;

use crate::peers::Peer;
use crate::samples::Samples;

/// The page that holds the tables, between these two lines.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
const BEGIN: &str = "<!-- written by scripts/bench --write -->\n";
const END: &str = "<!-- until here -->\n";

/// Whether a promise is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is; what was measured.
    Kept(String),
    /// It isn't; what was measured.
    Broken(String),
    /// Nothing was measured; why.
    Missing(String),
}

/// What a run found out.
#[derive(Default)]
pub(crate) struct Report {
    promises: Vec<(String, Verdict)>,
    figures: Vec<String>,
}

impl Verdict {
    /// A number that must not be above a bound.
    pub(crate) fn at_most(value: f64, bound: f64, unit: &str) -> Self {
        Self::of(value <= bound, value, unit)
    }

    /// A number that must not be below a bound.
    pub(crate) fn at_least(value: f64, bound: f64, unit: &str) -> Self {
        Self::of(value >= bound, value, unit)
    }

    /// This verdict, if the peer was there to measure.
    pub(crate) fn unless_missing(self, peer: &Peer) -> Self {
        peer.as_ref().err().map_or(self, |reason| Self::Missing(reason.clone()))
    }

    fn of(kept: bool, value: f64, unit: &str) -> Self {
        let text = format!("{value:.2}{unit}");
        if kept { Self::Kept(text) } else { Self::Broken(text) }
    }
}

impl Report {
    /// Adds a figure, unless there is nothing to tell of it.
    pub(crate) fn figure(&mut self, what: &str, unit: &str, samples: &Samples) {
        if samples.len() > 0 {
            let digits = if unit == "ms" { 2 } else { 0 };
            let [median, low, high] = [0.5, 0.1, 0.9].map(|share| format!("{:.digits$}", samples.quantile(share)));
            self.figures.push(format!("| {what} | {median} {unit} | {low} – {high} | {} |", samples.len()));
        }
    }

    /// Adds what stands in a figure's place.
    pub(crate) fn remark(&mut self, what: &str, remark: &str) {
        self.figures.push(format!("| {what} | {remark} | | |"));
    }

    /// Adds a promise.
    pub(crate) fn promise(&mut self, what: String, verdict: Verdict) {
        self.promises.push((what, verdict));
    }

    /// Whether no promise is broken. One that wasn't measured isn't.
    pub(crate) fn is_kept(&self) -> bool {
        !self.promises.iter().any(|(_, verdict)| matches!(verdict, Verdict::Broken(_)))
    }

    /// Both tables, in Markdown.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::from("| promise | measured | |\n|---|---|---|\n");
        for (what, verdict) in &self.promises {
            let (measured, kept) = match verdict {
                Verdict::Kept(measured) => (measured.as_str(), "kept"),
                Verdict::Broken(measured) => (measured.as_str(), "**broken**"),
                Verdict::Missing(reason) => (reason.as_str(), "not measured"),
            };
            let _ = writeln!(text, "| {what} | {measured} | {kept} |");
        }
        if !self.figures.is_empty() {
            text.push_str("\n| figure | median | p10 – p90 | samples |\n|---|---|---|---|\n");
            self.figures.iter().for_each(|figure| text.extend([figure, "\n"]));
        }
        text
    }

    /// Puts the tables into the page, with the machine they are of.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let page = std::fs::read_to_string(PAGE)?;
        let (before, rest) = page.split_once(BEGIN).with_context(|| format!("{PAGE} has no line {BEGIN}"))?;
        let (_, after) = rest.split_once(END).with_context(|| format!("{PAGE} has no line {END}"))?;
        let text = format!("{before}{BEGIN}{}\n\n{}{END}{after}", machine(), self.tables());
        std::fs::write(PAGE, text).with_context(|| format!("write {PAGE}"))
    }
}

/// What the figures depend on most.
fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{processors} processors, Linux {}", release.trim())
}
