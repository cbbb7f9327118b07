//! Asks a server for its cells.

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use serde::Deserialize;
use tokio::time::timeout;

use crate::client::{ANSWER_WAIT_MAX, Address, bearer};
use crate::project::Seen;

/// Longest answer in bytes: a cell takes less than a KiB, and a server tells of 5000 at most.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// A server and what opens it.
pub(super) struct Server {
    address: Address,
    bearer: HeaderValue,
}

/// What there was at one moment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Look {
    /// Microseconds on a clock of the server's that nobody sets.
    pub(super) at_us: u64,
    /// All cells, by id.
    pub(super) cells: Vec<Seen>,
}

/// A refusal.
#[derive(Deserialize)]
struct Refused {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    message: String,
}

impl Server {
    pub(super) fn new(address: Address, token: &str) -> anyhow::Result<Self> {
        Ok(Self { address, bearer: bearer(token)? })
    }

    /// The server, for messages.
    pub(super) fn name(&self) -> &str {
        &self.address.authority
    }

    /// What there is now. An error is one line without controls.
    pub(super) async fn look(&self) -> anyhow::Result<Look> {
        let request = self.address.request(Method::GET, "/api/cells").header(AUTHORIZATION, &self.bearer);
        let request = request.body(Full::<Bytes>::default()).context("make a request")?;
        let asked = self.address.ask(request).await;
        let answer = asked.map_err(|error| anyhow!("{}", plain(&format!("{}: {error}", self.name()))))?;
        let status = answer.status();
        let body = timeout(ANSWER_WAIT_MAX, Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect());
        let body = match body.await {
            Ok(Ok(body)) => body.to_bytes(),
            _ => bail!("{} doesn't come to the end of its answer", plain(self.name())),
        };
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map_err(|error| anyhow!("{}", plain(&format!("{} says what makes no sense: {error}", self.name())))),
            StatusCode::UNAUTHORIZED => bail!("the token is refused: give the right one by CLOISTER_TOKEN or --token"),
            StatusCode::NOT_FOUND => bail!("the server at {} is of another version", plain(self.name())),
            status => {
                let reason = serde_json::from_slice::<Refused>(&body).ok().map(|refused| plain(&refused.error.message));
                bail!("{}", reason.unwrap_or_else(|| format!("{} answers {status}", plain(self.name()))))
            }
        }
    }
}

/// A text without what would steer a terminal, each of its letters one column wide.
fn plain(text: &str) -> String {
    let is_plain = |letter: char| letter == ' ' || letter.is_ascii_graphic();
    text.chars()
        .map(|letter| if is_plain(letter) { letter.to_string() } else { letter.escape_unicode().to_string() })
        .collect()
}
