//! The PROXY protocol, version 2: what a proxy puts before a connection's bytes, to say who is behind it
//! (<https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>). It doesn't know whom to believe.

use std::io;
use std::net::SocketAddr;

use ppp::v2::{Addresses, Command, Header, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Signature, version, command, family and length.
const HEAD_BYTES: usize = 16;

/// Largest preface in bytes: addresses are 36 at most, and what may follow them (names, a client's certificate's subject)
/// is some hundred.
const PREFACE_BYTES_MAX: usize = 2048;

/// Reads a preface and nothing behind it; `None` if the proxy speaks for itself, or doesn't say for whom.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut bytes = vec![0; HEAD_BYTES];
    stream.read_exact(&mut bytes).await?;
    let length = length(&bytes)?;
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[HEAD_BYTES..]).await?;
    client(&bytes)
}

/// How long a preface is, by its first [`HEAD_BYTES`] bytes.
fn length(bytes: &[u8]) -> io::Result<usize> {
    if !bytes.starts_with(ppp::v2::PROTOCOL_PREFIX) {
        return Err(invalid("no PROXY protocol of version 2"));
    }
    let length = HEAD_BYTES + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > PREFACE_BYTES_MAX { Err(invalid("a preface that is too long")) } else { Ok(length) }
}

/// Whom a whole preface names.
fn client(bytes: &[u8]) -> io::Result<Option<SocketAddr>> {
    let header = Header::try_from(bytes).map_err(|error| invalid(&format!("a broken preface: {error}")))?;
    if header.command == Command::Local {
        return Ok(None);
    }
    if header.protocol == Protocol::Datagram {
        return Err(invalid("a preface of datagrams"));
    }
    let client = match header.addresses {
        Addresses::IPv4(addresses) => SocketAddr::new(addresses.source_address.into(), addresses.source_port),
        Addresses::IPv6(addresses) => SocketAddr::new(addresses.source_address.into(), addresses.source_port),
        Addresses::Unspecified | Addresses::Unix(_) => return Ok(None),
    };
    Ok(Some(SocketAddr::new(client.ip().to_canonical(), client.port())))
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A preface with these bytes behind its signature.
    fn preface(rest: &[u8]) -> io::Result<Option<SocketAddr>> {
        let bytes = [ppp::v2::PROTOCOL_PREFIX, rest].concat();
        assert_eq!(length(&bytes)?, bytes.len());
        client(&bytes)
    }

    #[test]
    fn who_is_behind_is_said_by_address_and_port() {
        let four = [&[0x21, 0x11, 0, 12][..], &[1, 2, 3, 4, 10, 0, 0, 1, 0x12, 0x34, 0, 80]].concat();
        assert_eq!(preface(&four).unwrap(), Some("1.2.3.4:4660".parse().unwrap()));
        let six = [&[0x21, 0x21, 0, 36][..], &[0x20; 16], &[0; 16], &[0, 7, 0, 80]].concat();
        assert_eq!(preface(&six).unwrap(), Some("[2020:2020:2020:2020:2020:2020:2020:2020]:7".parse().unwrap()));
        let mapped = [&[0x21, 0x21, 0, 36][..], &[0; 10], &[0xFF, 0xFF, 1, 2, 3, 4], &[0; 16], &[0, 7, 0, 80]].concat();
        assert_eq!(preface(&mapped).unwrap(), Some("1.2.3.4:7".parse().unwrap()));
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        assert_eq!(preface(&[0x20, 0, 0, 0]).unwrap(), None, "a health check");
        assert_eq!(preface(&[0x21, 0, 0, 0]).unwrap(), None, "of no family");
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for rest in [
            &[0x11, 0x11, 0, 0][..],                                    // version 1
            &[0x22, 0x11, 0, 0],                                        // no such command
            &[0x21, 0x11, 0, 3, 1, 2, 3],                               // addresses that are cut
            &[0x21, 0x41, 0, 0],                                        // no such family
            &[0x21, 0x12, 0, 12, 1, 2, 3, 4, 10, 0, 0, 1, 0, 1, 0, 80], // datagrams
        ] {
            assert!(preface(rest).is_err(), "{rest:?}");
        }
        assert!(length(b"PROXY TCP4 1.2.3.4 ").is_err(), "version 1 in text");
        assert!(length(&[ppp::v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0xFF, 0xFF]].concat()).is_err());
    }
}
