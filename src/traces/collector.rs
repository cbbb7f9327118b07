//! The collector: how it is asked, within bounded time, and what the log says of it. It doesn't know what it is sent.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::header::HOST;
use http::{HeaderValue, Uri};
use http_body_util::{BodyExt, Full, Limited};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_sdk::error::OTelSdkResult;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::client::Address;

/// Largest body of an answer, in bytes: it holds a number and a sentence.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How often the log says at most that spans are lost.
const TOLD_EVERY: Duration = Duration::from_secs(10 * 60);

/// A handle on the collector; cheap to clone.
#[derive(Clone)]
pub(super) struct Collector(Arc<Inner>);

struct Inner {
    address: Address,
    /// How long it may take for one batch.
    wait: Duration,
    /// What asks it; there is none before the walls are up.
    runtime: OnceLock<Handle>,
    news: Mutex<News>,
}

/// What there is to say of it.
#[derive(Default)]
struct News {
    /// Why it couldn't be asked last.
    unreachable: Option<String>,
    /// Spans that were lost since that was told.
    lost: u64,
    told: Option<Instant>,
    /// Whether it was told that it takes nothing, and not yet that it does again.
    is_down: bool,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Collector").field(&self.0.address.authority).finish()
    }
}

impl Collector {
    pub(super) fn new(address: Address, wait: Duration) -> Self {
        Self(Arc::new(Inner { address, wait, runtime: OnceLock::new(), news: Mutex::default() }))
    }

    pub(super) fn address(&self) -> &Address {
        &self.0.address
    }

    /// Has requests be sent on this runtime from now on.
    pub(super) fn open(&self, runtime: Handle) {
        let _ = self.0.runtime.set(runtime);
    }

    /// Notes how it went with a batch, and how many spans were lost besides since there was no room for them.
    pub(super) fn tell(&self, sent: &OTelSdkResult, spans: u64, crowded_out: u64) {
        let collector = self.0.address.authority.as_str();
        let mut news = self.0.news.lock().unwrap_or_else(PoisonError::into_inner);
        let unreachable = news.unreachable.take();
        news.lost += crowded_out + if sent.is_err() { spans } else { 0 };
        if sent.is_ok() && std::mem::take(&mut news.is_down) {
            tracing::info!(collector, "traces arrive again");
        }
        if news.lost == 0 || news.told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
            return;
        }
        let lost = std::mem::take(&mut news.lost);
        news.told = Some(Instant::now());
        match sent {
            Ok(()) => tracing::warn!(collector, lost, "traces are lost: the collector is too slow for them"),
            Err(error) => {
                news.is_down = true;
                let error = unreachable.unwrap_or_else(|| error.to_string());
                tracing::warn!(
                    collector,
                    error,
                    lost,
                    "traces are lost: the collector doesn't take them (this is said every {} minutes at most)",
                    TOLD_EVERY.as_secs() / 60
                );
            }
        }
    }

    async fn ask(&self, request: Request<Bytes>) -> anyhow::Result<Response<Bytes>> {
        let address = &self.0.address;
        let (mut head, body) = request.into_parts();
        head.uri = Uri::from(head.uri.path_and_query().cloned().unwrap_or_else(|| "/".parse().expect("it is a path")));
        head.headers.insert(HOST, HeaderValue::from_str(&address.authority)?);
        let answer = address.ask(Request::from_parts(head, Full::new(body))).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // Who calls has a thread without a runtime.
        let runtime = self.0.runtime.get().ok_or("there is nothing yet to send it")?;
        let (this, wait) = (self.clone(), self.0.wait);
        let asked = runtime.spawn(async move { timeout(wait, this.ask(request)).await });
        let answer = match asked.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(anyhow::anyhow!("no answer within {} s", wait.as_secs_f32())),
            Err(_) => Err(anyhow::anyhow!("the server is ending")),
        };
        answer.map_err(|error| {
            let error = format!("{error:#}");
            self.0.news.lock().unwrap_or_else(PoisonError::into_inner).unreachable = Some(error.clone());
            error.into()
        })
    }
}
