//! In place of the rest in a program that was built without the feature `otel`: nothing is exported, and who asks for it is told.

use std::fmt::Display;

use http::{Request, StatusCode};
use tokio::runtime::Handle;
use tracing::Span;
use tracing_subscriber::layer::Identity;

use crate::proxy::Caller;

/// There is none.
pub(crate) enum Export {}

/// Fails if the environment asks for an export.
pub(crate) fn prepare() -> anyhow::Result<Option<Export>> {
    match super::endpoint(|name| std::env::var(name).ok()) {
        None => Ok(None),
        Some((name, _)) => anyhow::bail!(
            "{name} is set, and this program was built without the feature `otel`: take a package, or build it with that, or take \
             the variable away"
        ),
    }
}

impl Export {
    pub(crate) fn layer(&self) -> Identity {
        match *self {}
    }

    pub(crate) fn port(&self) -> u16 {
        match *self {}
    }

    pub(crate) fn start(&mut self, _runtime: Handle) {
        match *self {}
    }

    pub(crate) fn finish(&self) {
        match *self {}
    }
}

pub(crate) fn asked<B>(_span: &Span, _request: &Request<B>, _caller: &Caller) {}

pub(crate) fn answered(_status: StatusCode) {}

pub(crate) fn note(_name: &'static str, _value: &impl Display) {}

pub(crate) fn failed(_error: &impl Display) {}

pub(crate) fn follow(_span: &Span, _earlier: &Span) {}
