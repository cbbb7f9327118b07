//! Certificates of a test's own, and connections that trust them.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{DEADLINE, Pipe, Server, Terminal, upgrade};

/// A self-signed certificate for `localhost` with its key, in a folder that everybody can read and whose parent only root can.
pub(crate) struct Certificate {
    folder: TempDir,
}

impl Certificate {
    /// Makes one.
    pub(crate) fn make() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("tls")).expect("a folder");
        let made = Self { folder };
        made.renew();
        made
    }

    /// Where the certificate lies.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("tls/certificate.pem")
    }

    /// Where its key lies.
    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("tls/key.pem")
    }

    /// The configuration of a server that has it.
    pub(crate) fn config(&self) -> String {
        format!("tls.certificate = '{}'\ntls.key = '{}'\n", self.certificate().display(), self.key().display())
    }

    /// Puts another one in its place, file by file as tools do it.
    pub(crate) fn renew(&self) {
        self.renew_for(30);
    }

    /// As [`Self::renew`], for so many days.
    pub(crate) fn renew_for(&self, days: u32) {
        // Of a name of its own: authorities are found by their names.
        let subject = format!("/CN={}", self.folder.path().file_name().expect("a name").display());
        let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -addext \
                     subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
        let (key, certificate) = (self.folder.path().join("new-key"), self.folder.path().join("new-certificate"));
        openssl(
            Command::new("openssl")
                .args(words.split_whitespace())
                .args(["-days", &days.to_string(), "-subj", &subject])
                .arg("-keyout")
                .arg(&key)
                .arg("-out")
                .arg(&certificate),
        );
        for (from, to) in [(key, self.key()), (certificate, self.certificate())] {
            std::fs::set_permissions(&from, PermissionsExt::from_mode(0o644)).expect("a mode");
            std::fs::rename(from, to).expect("it is renewed");
        }
    }

    /// Puts one of the same key in its place that expired years ago.
    pub(crate) fn expire(&self) {
        let folder = self.folder.path();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file");
        write("ca.index", "");
        write("ca.serial", "01\n");
        write(
            "ca.conf",
            "[ca]\ndefault_ca = c\n[c]\ndatabase = ca.index\nserial = ca.serial\nnew_certs_dir = .\ndefault_md = sha256\n\
             policy = p\n[p]\ncommonName = supplied\n[x]\nsubjectAltName = DNS:localhost\n",
        );
        for words in [
            "req -new -key tls/key.pem -subj /CN=localhost -out request",
            "ca -batch -notext -config ca.conf -selfsign -keyfile tls/key.pem -in request -out tls/certificate.pem \
             -startdate 20200101000000Z -enddate 20200201000000Z -extensions x",
        ] {
            openssl(Command::new("openssl").args(words.split_whitespace()).current_dir(folder));
        }
    }
}

fn openssl(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("openssl runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The certificate in a file.
pub(crate) fn read(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}

/// Speaks TLS with `localhost` on a connection, trusting a certificate, in these versions and application protocols.
pub(crate) async fn secure(
    stream: TcpStream,
    trusted: CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_protocol_versions(versions).expect("known versions").with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    timeout(DEADLINE, connecting).await.expect("the handshake ends in time")
}

/// Connects as any client would.
pub(crate) async fn connect(
    address: SocketAddr,
    trusted: CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    secure(TcpStream::connect(address).await?, trusted, rustls::ALL_VERSIONS, &["http/1.1"]).await
}

/// A terminal over a connection that is open, at its first prompt.
pub(crate) async fn open_over(server: &Server, stream: impl Pipe + 'static, project: &str) -> Terminal {
    let authority = format!("localhost:{}", server.address.port());
    let url = format!("wss://{authority}/ws/terminal/{project}/?token={}", server.token);
    let origin = format!("https://{authority}");
    let mut terminal = upgrade(Box::new(stream), &url, &[("origin", &origin)]).await.expect("a terminal");
    terminal.expect("$ ").await;
    terminal
}
