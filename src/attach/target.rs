//! What to attach to: a session of a project on a server, and the token that opens it.

use std::io;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use sandbox::control::{SessionName, Size};
use sandbox::spec::ProjectId;
use tokio::net::TcpStream;

/// Longest wait for a server to take a connection, or to answer: beyond it, it is as good as down.
pub(super) const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// A session on a server.
pub(super) struct Target {
    authority: String,
    host: String,
    port: u16,
    prefix: String,
    project: ProjectId,
    session: SessionName,
    bearer: HeaderValue,
}

impl Target {
    /// Puts it together from the server's address, as `http://host:port`, and a session's name.
    pub(super) fn new(url: &str, project: ProjectId, session: SessionName, token: &str) -> anyhow::Result<Self> {
        let uri: Uri =
            url.parse().with_context(|| format!("--url: `{url}` is no address such as http://127.0.0.1:8000"))?;
        match uri.scheme_str() {
            Some("http" | "ws") => {}
            Some("https" | "wss") => bail!("--url: TLS is not spoken; reach the server through `ssh -L` and http://"),
            _ => bail!("--url: must begin with http://, is `{url}`"),
        }
        let authority = uri.authority().context("--url: names no host")?;
        ensure!(!authority.as_str().contains('@'), "--url: must not hold a user name; give the token by --token");
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .ok()
            .context("--token: has characters that no token has")?;
        bearer.set_sensitive(true);
        Ok(Self {
            authority: authority.to_string(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            project,
            session,
            bearer,
        })
    }

    /// The server, for messages.
    pub(super) fn server(&self) -> &str {
        &self.authority
    }

    /// The project, for messages.
    pub(super) fn project(&self) -> &ProjectId {
        &self.project
    }

    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        let stream = tokio::time::timeout(ANSWER_WAIT_MAX, connect).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The request that becomes the terminal's WebSocket.
    pub(super) fn terminal(&self, size: Option<Size>) -> Request<()> {
        let Self { authority, prefix, project, session, .. } = self;
        let size = size.map_or_else(String::new, |Size { cols, rows }| format!("&cols={cols}&rows={rows}"));
        let uri = format!("ws://{authority}{prefix}/ws/terminal/{project}/?frames=binary&session={session}{size}");
        let key = tokio_tungstenite::tungstenite::handshake::client::generate_key();
        Request::get(uri)
            .header(HOST, authority)
            .header(AUTHORIZATION, &self.bearer)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", key)
            .body(())
            .expect("its parts were checked")
    }

    /// Tells the server of a new size.
    pub(super) async fn resize(&self, Size { cols, rows }: Size) -> anyhow::Result<()> {
        let Self { authority, prefix, project, session, .. } = self;
        let request = Request::post(format!("{prefix}/api/projects/{project}/sessions/{session}/size"))
            .header(HOST, authority)
            .header(AUTHORIZATION, &self.bearer)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(format!(r#"{{"cols":{cols},"rows":{rows}}}"#))))
            .expect("its parts were checked");
        let exchange = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await?)).await?;
            let answer = sender.send_request(request);
            tokio::pin!(connection, answer);
            let answer = tokio::select! {
                answer = &mut answer => answer?,
                ended = &mut connection => { ended?; answer.await? }
            };
            anyhow::Ok(answer.status())
        };
        let status = tokio::time::timeout(ANSWER_WAIT_MAX, exchange).await??;
        ensure!(status == StatusCode::NO_CONTENT, "the server answered {status}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, token: &str) -> anyhow::Result<Target> {
        Target::new(url, ProjectId::parse("demo").unwrap(), SessionName::main(), token)
    }

    #[test]
    fn a_server_is_named_by_host_port_and_prefix() {
        let parts = |url| target(url, "t").map(|t| (t.host, t.port, t.prefix)).unwrap();
        assert_eq!(parts("http://127.0.0.1:8000"), ("127.0.0.1".to_owned(), 8000, String::new()));
        assert_eq!(parts("http://[::1]:8000/"), ("::1".to_owned(), 8000, String::new()));
        assert_eq!(parts("ws://ide.example.org/a/b/"), ("ide.example.org".to_owned(), 80, "/a/b".to_owned()));
    }

    #[test]
    fn what_is_no_server_or_token_is_refused() {
        for bad in ["", "127.0.0.1:8000", "https://x", "ftp://x", "http://", "http://u:p@x", "http://x y"] {
            assert!(target(bad, "t").is_err(), "{bad}");
        }
        assert!(target("http://x", "a\nb").is_err());
    }

    #[test]
    fn the_token_stands_in_a_header_alone() {
        let request = target("http://h:1/p", "secret").unwrap().terminal(Some(Size { cols: 9, rows: 8 }));
        assert_eq!(request.uri(), "ws://h:1/p/ws/terminal/demo/?frames=binary&session=main&cols=9&rows=8");
        assert!(!format!("{request:?}").contains("secret"));
    }
}
