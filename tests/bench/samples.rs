//! Repeated measurements of one thing, and what they say. It doesn't know the thing or its unit.

use std::time::Duration;

/// Measurements of one thing, in one unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// One measurement, of what is an average already.
    pub(crate) fn of(value: f64) -> Self {
        Self(vec![value])
    }

    /// Adds a measurement.
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a time, in milliseconds.
    pub(crate) fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1e3);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value that half of them are below: what one bad moment of a busy machine doesn't move. Nothing gives NaN.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value that this share of them is below.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
        let at = share * last as f64;
        let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        below + (above - below) * at.fract()
    }

    /// How many times the other's median this median is. Both were measured in turns, so what disturbs the machine
    /// for longer than a turn disturbs both.
    pub(crate) fn ratio(&self, other: &Self) -> f64 {
        self.median() / other.median()
    }
}
