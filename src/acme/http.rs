//! How requests to an authority are sent: by the client that all of `cloister` has, with the same certificates trusted. It knows nothing
//! of ACME.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::client::Address;

/// Largest answer in bytes: chains and directories are a few KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Speaks to an authority and to whom it leads on.
#[derive(Clone)]
pub(super) struct Http(Arc<Address>);

impl Http {
    /// Begins at the authority's directory.
    pub(super) fn new(directory: Address) -> Self {
        Self(Arc::new(directory))
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let address = self.0.led_to(request.uri());
        Box::pin(async move {
            let other = |reason: String| Error::Other(reason.into());
            let (head, body) = request.into_parts();
            let address = address.ok_or_else(|| other(format!("{} isn't https://", head.uri)))?;
            let Ok(body) = body.collect().await.map(|body| body.to_bytes());
            let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
            let mut asking = address.request(head.method, path);
            asking.headers_mut().into_iter().for_each(|fields| fields.extend(head.headers.clone()));
            let answer = address.ask(asking.body(Full::new(body))?).await;
            let answer = answer.map_err(|error| other(format!("{}: {error}", address.authority)))?;
            Ok(answer.map(|body| Limited::new(body, ANSWER_BYTES_MAX)).into())
        })
    }
}
