//! Tab stops of one screen. Every eighth column, until a program says otherwise: then they are stored.

/// Columns from one tab stop to the next when nobody set any.
const INTERVAL: usize = 8;

/// Where the tab stops are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tabs {
    /// A flag for each column, if any stop was set or cleared.
    stops: Option<Vec<bool>>,
}

impl Tabs {
    pub(super) fn is_default(&self) -> bool {
        self.stops.is_none()
    }

    fn is_stop(&self, x: usize) -> bool {
        match &self.stops {
            Some(stops) => stops.get(x).copied().unwrap_or(false),
            None => x.is_multiple_of(INTERVAL),
        }
    }

    /// The columns with a stop.
    pub(super) fn stops(&self, width: usize) -> impl Iterator<Item = usize> {
        (0..width).filter(|x| self.is_stop(*x))
    }

    /// The stop behind `x`, or the last column.
    pub(super) fn next(&self, x: usize, width: usize) -> usize {
        (x + 1..width).find(|x| self.is_stop(*x)).unwrap_or(width - 1)
    }

    /// The stop before `x`, or the first column.
    pub(super) fn previous(&self, x: usize) -> usize {
        (0..x).rev().find(|x| self.is_stop(*x)).unwrap_or(0)
    }

    pub(super) fn set(&mut self, x: usize, stop: bool, width: usize) {
        if self.is_stop(x) == stop {
            return;
        }
        let stops = self.stops.get_or_insert_with(|| (0..width).map(|x| x.is_multiple_of(INTERVAL)).collect());
        if let Some(place) = stops.get_mut(x) {
            *place = stop;
        }
        self.forget_default();
    }

    pub(super) fn clear(&mut self, width: usize) {
        self.stops = Some(vec![false; width]);
        self.forget_default();
    }

    /// New columns have the usual stops.
    pub(super) fn resize(&mut self, width: usize) {
        if let Some(stops) = &mut self.stops {
            let had = stops.len();
            stops.truncate(width);
            stops.extend((had..width).map(|x| x.is_multiple_of(INTERVAL)));
        }
        self.forget_default();
    }

    /// Equal stops are stored equally.
    fn forget_default(&mut self) {
        let usual = |(x, stop): (usize, &bool)| x.is_multiple_of(INTERVAL) == *stop;
        if self.stops.as_ref().is_some_and(|stops| stops.iter().enumerate().all(usual)) {
            self.stops = None;
        }
    }
}
