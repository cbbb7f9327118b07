//! The crate's one inner error: which step failed, and why, in words that end up before an operator's eyes.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What was being done, as in "mount proc at /proc".
    pub(crate) step: String,
    /// Why, with a remedy where there is one.
    pub(crate) reason: String,
}

impl Failure {
    pub(crate) fn new(step: impl Into<String>, reason: impl Display) -> Self {
        Self { step: step.into(), reason: reason.to_string() }
    }
}

/// Names the step of a result.
pub(crate) trait Context<T> {
    /// Says what was being done.
    fn step(self, step: &str) -> Result<T, Failure>;

    /// Says what was being done, if the words have to be put together first.
    fn step_with<S: Into<String>>(self, step: impl FnOnce() -> S) -> Result<T, Failure>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, error))
    }

    fn step_with<S: Into<String>>(self, step: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step(), error))
    }
}
