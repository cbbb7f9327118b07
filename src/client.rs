//! Requests to a server by its address: over TCP, and TLS where the address says so, with the server's certificate checked.
//! It doesn't know what is asked.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cli::ServerOptions;
use crate::config::Config;
use crate::stream::Stream;
use crate::tls::{certificates, fetched};
use crate::token;

/// Longest wait for a server to take a connection, or to answer: beyond it, it is as good as down.
pub(crate) const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Largest file of certificates in bytes: all of a distribution's authorities are 220 KiB.
const CERTIFICATES_BYTES_MAX: u64 = 4 << 20;

/// What the settings of an address are called where it was written, for who has to change them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// The address itself.
    pub(crate) url: &'static str,
    /// The file of certificates to trust.
    pub(crate) certificates: &'static str,
}

/// Those of the command line.
const FLAGS: Names = Names { url: "--url", certificates: "--cacert FILE" };

/// Where a server is.
pub(crate) struct Address {
    /// Host and port as they were written.
    pub(crate) authority: String,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Where the host was found beforehand; `None` if it is looked for at each connection.
    pub(crate) found: Option<Vec<SocketAddr>>,
    /// What paths begin with; it doesn't end with a slash.
    prefix: String,
    tls: Option<TlsConnector>,
    names: Names,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody answers, or not in the right language: it may be different soon.
    #[error("{0}")]
    Unreachable(String),
    /// Somebody answers who can't show to be the one who is meant.
    #[error("{0}")]
    Untrusted(String),
}

impl From<hyper::Error> for Error {
    fn from(error: hyper::Error) -> Self {
        Self::Unreachable(format!("{:#}", anyhow::Error::from(error)))
    }
}

impl Address {
    /// Takes an address as users write it, as `https://host:port/prefix`. Of `known` certificates, a file in PEM, one may be
    /// the server's own, or an authority's beside those of the system.
    pub(crate) fn parse(url: &str, known: Option<&Path>) -> anyhow::Result<Self> {
        Self::parse_named(FLAGS, url, known)
    }

    /// The same for an address that other settings name.
    pub(crate) fn parse_named(names: Names, url: &str, known: Option<&Path>) -> anyhow::Result<Self> {
        let name = names.url;
        let uri: Uri =
            url.parse().with_context(|| format!("{name}: `{url}` is no address such as http://127.0.0.1:8000"))?;
        let secure = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => bail!("{name}: must begin with https:// or http://, is `{url}`"),
        };
        let authority = uri.authority().with_context(|| format!("{name}: names no host"))?;
        ensure!(!authority.as_str().contains('@'), "{name}: must not hold a user name; a token is given apart from it");
        let known = known.map(read_certificates).transpose()?.unwrap_or_default();
        Ok(Self {
            authority: authority.to_string(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            found: None,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            tls: secure.then(|| connector(known)).transpose()?,
            names,
        })
    }

    /// Where a URL leads that a server of TLS gave: the certificates that are known are the same.
    #[cfg(feature = "acme")]
    pub(crate) fn led_to(&self, uri: &Uri) -> Option<Self> {
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https"))?;
        Some(Self {
            authority: authority.to_string(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(443),
            found: None,
            prefix: String::new(),
            tls: self.tls.clone(),
            names: self.names,
        })
    }

    /// The address of the server that is meant: by its own, or the one of this machine. That one, if it speaks TLS, is known by its
    /// certificate, which names no address.
    fn of_server(config: &Config, options: &ServerOptions) -> anyhow::Result<Self> {
        let known = options.cacert.as_deref();
        if let Some(url) = &options.url {
            return Self::parse(url, known);
        }
        let mut address = config.listen;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        let fetched = config.tls.is_fetched().then(|| config.state.join(fetched::certificate(&config.tls)));
        match config.tls.certificate.as_ref().or(fetched.as_ref()) {
            Some(own) => Self::parse(&format!("https://{address}"), Some(known.unwrap_or(own))),
            None => Self::parse(&format!("http://{address}"), None),
        }
    }

    /// Whether it is asked by TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// The origin of its pages, as browsers send it.
    pub(crate) fn origin(&self) -> String {
        let (scheme, port) = if self.is_secure() { ("https", ":443") } else { ("http", ":80") };
        format!("{scheme}://{}", self.authority.strip_suffix(port).unwrap_or(&self.authority).to_ascii_lowercase())
    }

    /// The beginning of a request for a path of the server's.
    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let uri = format!("{}{path}", self.prefix);
        Request::builder().method(method).uri(uri).header(HOST, &self.authority)
    }

    /// Sends a request on a connection of its own and waits for the answer's head.
    pub(crate) async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        let exchange = async {
            let stream = self.connect().await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection.with_upgrades());
            Ok::<_, Error>(sender.send_request(request).await?)
        };
        let late = |_| Error::Unreachable("no answer in time".to_owned());
        tokio::time::timeout(ANSWER_WAIT_MAX, exchange).await.map_err(late)?
    }

    async fn connect(&self) -> Result<Stream, Error> {
        let unreachable = |error: io::Error| Error::Unreachable(error.to_string());
        let stream = match &self.found {
            Some(found) => TcpStream::connect(found.as_slice()).await,
            None => TcpStream::connect((self.host.as_str(), self.port)).await,
        };
        let stream = stream.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let Some(tls) = &self.tls else { return Ok(stream.into()) };
        let name = ServerName::try_from(self.host.clone());
        let name = name.map_err(|_| Error::Untrusted(format!("{} is no name that a certificate has", self.host)))?;
        let stream = tls.connect(name, stream).await.map_err(|error| self.failed(&error))?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    /// What a handshake's error means.
    fn failed(&self, error: &io::Error) -> Error {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => Error::Untrusted(format!(
                "the certificate of {} is of no authority that this machine knows: name the authority's, or the server's \
                 own, by {}",
                self.authority, self.names.certificates
            )),
            Some(rustls::Error::InvalidCertificate(reason)) => {
                let reason = reason.to_string().escape_debug().to_string();
                Error::Untrusted(format!("the certificate of {} can't be trusted: {reason}", self.authority))
            }
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                Error::Unreachable(format!("{} speaks no TLS: begin the address with http://", self.authority))
            }
            _ => Error::Unreachable(error.to_string().escape_debug().to_string()),
        }
    }
}

/// The server that is meant, and a token for it: the owner's, if none is given.
pub(crate) fn server(config: &Config, options: &ServerOptions) -> anyhow::Result<(Address, String)> {
    let token = options.token.clone().map_or_else(|| token::of_this_machine(config), Ok)?;
    Ok((Address::of_server(config, options)?, token))
}

/// What a server said as JSON, for a terminal: of controls in texts, serde_json escapes those alone that JSON has to.
pub(crate) fn without_controls(json: &str) -> String {
    let is_control = |letter: char| letter.is_control() && letter != '\n';
    let escaped = |letter: char| format!("\\u{:04x}", u32::from(letter));
    json.chars().map(|letter| if is_control(letter) { escaped(letter) } else { letter.to_string() }).collect()
}

/// The token as a header.
pub(crate) fn bearer(token: &str) -> anyhow::Result<HeaderValue> {
    let bearer = HeaderValue::from_str(&format!("Bearer {token}")).ok();
    let mut bearer = bearer.context("--token: has characters that no token has")?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

/// The certificates of a file.
fn read_certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || {
        ensure!(
            std::fs::metadata(path)?.len() <= CERTIFICATES_BYTES_MAX,
            "is larger than {CERTIFICATES_BYTES_MAX} bytes"
        );
        certificates(&std::fs::read(path)?)
    };
    read().with_context(|| format!("certificates in {}", path.display()))
}

fn connector(known: Vec<CertificateDer<'static>>) -> anyhow::Result<TlsConnector> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let authorities = authorities(&known, &provider);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { known, authorities, algorithms }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Checks against the system's authorities and those that are known besides; `None` if there is none at all.
fn authorities(known: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Option<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    // What a system's file has that can't be read is no authority.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(known.iter().cloned());
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().ok()
}

/// Trusts whom an authority vouches for, and the very certificates that the user named: a self-signed one vouches for nobody.
#[derive(Debug)]
struct Verifier {
    known: Vec<CertificateDer<'static>>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.known.contains(certificate) {
            return Ok(ServerCertVerified::assertion());
        }
        let authorities = self.authorities.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        authorities.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_host_port_and_prefix() {
        let parts = |url| Address::parse(url, None).map(|a| (a.host, a.port, a.prefix, a.tls.is_some())).unwrap();
        assert_eq!(parts("http://127.0.0.1:8000"), ("127.0.0.1".to_owned(), 8000, String::new(), false));
        assert_eq!(parts("http://[::1]:8000/"), ("::1".to_owned(), 8000, String::new(), false));
        assert_eq!(parts("ws://ide.example.org/a/b/"), ("ide.example.org".to_owned(), 80, "/a/b".to_owned(), false));
        assert_eq!(parts("https://ide.example.org"), ("ide.example.org".to_owned(), 443, String::new(), true));
        assert_eq!(parts("wss://[::1]:8443/a"), ("::1".to_owned(), 8443, "/a".to_owned(), true));
    }

    #[test]
    fn json_steers_no_terminal_and_means_the_same() {
        let text = "a\u{1b}[2J\u{9b}31m\u{7f}ü\n";
        let json = serde_json::to_string_pretty(&[text]).unwrap();
        let shown = without_controls(&json);
        assert_eq!(shown, "[\n  \"a\\u001b[2J\\u009b31m\\u007fü\\n\"\n]");
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [text]);
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for bad in ["", "127.0.0.1:8000", "ftp://x", "http://", "http://u:p@x", "http://x y"] {
            assert!(Address::parse(bad, None).is_err(), "{bad}");
        }
        let error = Address::parse("https://x", Some(Path::new("/dev/null"))).err().unwrap();
        assert!(format!("{error:#}").starts_with("certificates in /dev/null: holds no certificate"), "{error:#}");
    }
}
