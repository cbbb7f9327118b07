//! HTTP as bytes on a socket, so that a test decides every one of them.

use std::collections::HashMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{DEADLINE, Server};

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// Fields by their names in lower case.
    pub(crate) headers: HashMap<String, String>,
    /// The body.
    pub(crate) body: String,
}

impl Response {
    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The code of the error that it reports.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("no error in {self:?}")).to_owned()
    }

    /// Reads a whole answer, to the connection's end.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let field = |line: &str| {
            let (name, value) = line.split_once(':').expect("a field has a colon");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Self { status: status.expect("a status line"), headers: lines.map(field).collect(), body: body.to_owned() }
    }
}

impl Server {
    /// Asks as the owner.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<serde_json::Value>) -> Response {
        let mut head = format!("Authorization: Bearer {}\r\n", self.token);
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        if !body.is_empty() {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        self.ask_with(method, path, &head, &body).await
    }

    /// Asks with exactly these fields besides `Host` and `Connection`.
    pub(crate) async fn ask_with(&self, method: &str, path: &str, head: &str, body: &str) -> Response {
        let host = if head.to_ascii_lowercase().contains("host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.address)
        };
        let connection = if head.contains("Connection:") { "" } else { "Connection: close\r\n" };
        Response::parse(
            &self.exchange(&format!("{method} {path} HTTP/1.1\r\n{host}{connection}{head}\r\n{body}")).await,
        )
    }

    /// Sends bytes and reads all that comes until the server closes.
    pub(crate) async fn exchange(&self, request: &str) -> Vec<u8> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        timeout(DEADLINE, exchange).await.expect("the server answers in time").expect("the connection holds")
    }
}
