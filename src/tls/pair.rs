//! Whether a certificate and a key, as they stand in files, can be used together; and until when. It reads no file.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};

/// How long before its end a running server complains of a certificate: authorities advise to renew at a third of what they last, which
/// is a month of three, or two days of six.
pub(super) const NOTICE: Duration = Duration::from_secs(2 * DAY_S);

const DAY_S: u64 = 24 * 60 * 60;

/// Certificates in a chain: ours and what leads to a root are two or three.
const CHAIN_MAX: usize = 16;

/// The certificates of a PEM text, which must have some.
pub(crate) fn certificates(text: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().map_err(broken)?;
    ensure!(
        !certificates.is_empty(),
        "holds no certificate in PEM (-----BEGIN CERTIFICATE-----); from DER, `openssl x509 -inform der` makes it"
    );
    Ok(certificates)
}

/// The key of a PEM text.
pub(crate) fn key(text: &[u8]) -> anyhow::Result<PrivateKeyDer<'static>> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if contains(text, b"ENCRYPTED PRIVATE KEY") => {
            bail!("holds an encrypted key: `openssl pkey -in …` writes it without a password")
        }
        Err(pem::Error::NoItemsFound) => bail!("holds no key in PEM (-----BEGIN PRIVATE KEY-----)"),
        Err(error) => Err(broken(error)),
    }
}

/// Puts both together. The first certificate must be the key's; those behind it lead to a root that clients know.
pub(crate) fn together(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<CertifiedKey> {
    ensure!(certificates.len() <= CHAIN_MAX, "tls.certificate has more than {CHAIN_MAX} certificates");
    let first = certificates.first().context("tls.certificate has none")?;
    EndEntityCert::try_from(first).map_err(|error| anyhow!("tls.certificate is broken: {error}"))?;
    CertifiedKey::from_der(certificates, key, &aws_lc_rs::default_provider()).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => anyhow!(
            "tls.key is not the key of the first certificate in tls.certificate: the server's own comes first there, and \
             both must be of one renewal"
        ),
        error => anyhow!("tls.key can't be used: {error}"),
    })
}

/// From when until when a certificate holds, in seconds since 1970; `None` if it is broken.
pub(crate) fn holds(certificate: &CertificateDer<'_>) -> Option<Range<u64>> {
    // Who checks tells a date that a time is wrong by.
    let wrong_at = |seconds| dates_at(certificate, UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
    match (wrong_at(0)?, wrong_at(u64::MAX)?) {
        (webpki::Error::CertNotValidYet { not_before, .. }, webpki::Error::CertExpired { not_after, .. }) => {
            Some(not_before.as_secs()..not_after.as_secs())
        }
        _ => None,
    }
}

/// The names that a certificate is for, sorted; none if it is broken.
#[cfg(feature = "acme")]
pub(crate) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let parsed = EndEntityCert::try_from(certificate).ok();
    let mut names: Vec<_> =
        parsed.iter().flat_map(|parsed| parsed.valid_dns_names()).map(str::to_ascii_lowercase).collect();
    names.sort();
    names
}

/// What is wrong with a certificate's dates, today or so soon.
pub(crate) fn complaint(certificate: &CertificateDer<'_>, notice: Duration) -> Option<String> {
    let now = UnixTime::now();
    complaint_at(certificate, now).or_else(|| {
        let soon = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + notice);
        match dates_at(certificate, soon)? {
            webpki::Error::CertExpired { not_after, .. } => {
                Some(format!("expires in {}", span(not_after.as_secs().saturating_sub(now.as_secs()))))
            }
            _ => None,
        }
    })
}

/// Why a certificate doesn't hold at a time, if its dates are the reason.
fn dates_at(certificate: &CertificateDer<'_>, time: UnixTime) -> Option<webpki::Error> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    // Without roots no certificate is good, but dates are looked at first.
    parsed.verify_for_usage(ALL_VERIFICATION_ALGS, &[], &[], time, KeyUsage::server_auth(), None, None).err()
}

fn complaint_at(certificate: &CertificateDer<'_>, time: UnixTime) -> Option<String> {
    match dates_at(certificate, time)? {
        webpki::Error::CertExpired { not_after, .. } => {
            Some(format!("has expired {} ago", span(time.as_secs().saturating_sub(not_after.as_secs()))))
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            Some(format!("holds in {} only", span(not_before.as_secs().saturating_sub(time.as_secs()))))
        }
        webpki::Error::InvalidCertValidity => Some("holds at no time".to_owned()),
        _ => None,
    }
}

/// A time of so many seconds, as people say it.
pub(crate) fn span(seconds: u64) -> String {
    if seconds < 2 * DAY_S { format!("{} hours", seconds.div_ceil(3600)) } else { format!("{} days", seconds / DAY_S) }
}

fn broken(error: pem::Error) -> anyhow::Error {
    anyhow!("is broken PEM: {error}")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_said_to_be_none() {
        let certificate = |text: &str| format!("{:#}", certificates(text.as_bytes()).unwrap_err());
        assert!(certificate("").starts_with("holds no certificate in PEM"));
        assert!(certificate("\u{30}\u{82}binary").starts_with("holds no certificate in PEM"));
        assert!(certificate("-----BEGIN CERTIFICATE-----\nMIIB\n").starts_with("is broken PEM"));
        assert!(
            certificate("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").starts_with("is broken PEM")
        );
        let key = |text: &str| format!("{:#}", key(text.as_bytes()).unwrap_err());
        assert!(key("").starts_with("holds no key in PEM"));
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(key(encrypted).starts_with("holds an encrypted key"));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_named() {
        let certificate = certificates(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let key = key(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        let error = together(certificate, key).unwrap_err();
        assert!(error.to_string().starts_with("tls.certificate is broken: "), "{error}");
    }

    #[test]
    fn spans_are_in_hours_or_days() {
        assert_eq!([span(1), span(3600), span(3 * DAY_S + 1)], ["1 hours", "1 hours", "3 days"]);
    }
}
