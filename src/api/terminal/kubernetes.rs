//! Kubernetes' exec subprotocol `v5.channel.k8s.io`, for its clients: the number of a channel before each message
//! (k8s.io/apimachinery, `pkg/util/remotecommand/constants.go`; the status is a `metav1.Status`).

use bytes::Bytes;
use sandbox::control::{Exit, Size};
use serde::Deserialize;
use serde_json::json;

use super::dialect::{Dialect, Said, Words};
use crate::ws::{CloseCode, CloseFrame, Message, close};

/// The subprotocol's name.
pub(super) const PROTOCOL: &str = "v5.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: &[u8] = &[1];
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What a terminal's end of input is typed as.
const END_OF_INPUT: &[u8] = &[4];

/// What `kubectl exec -it` and its like speak.
#[derive(Debug, Default)]
pub(super) struct Kubernetes;

/// A terminal's size, as Go writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TerminalSize {
    width: u16,
    height: u16,
}

impl Dialect for Kubernetes {
    fn hear(&mut self, message: &Bytes) -> Result<Said, CloseFrame> {
        let protocol = |reason: &str| Err(close(CloseCode::Protocol, &format!("channels: {reason}")));
        match **message {
            [STDIN, ..] => Ok(Said::Input(message.slice(1..))),
            [RESIZE, ref json @ ..] => match serde_json::from_slice(json) {
                Ok(TerminalSize { width: cols, height: rows }) => Ok(Said::Size(Size { cols, rows }.clamped())),
                Err(error) => protocol(&format!("a size is JSON with Width and Height: {error}")),
            },
            [CLOSE, STDIN] => Ok(Said::Input(Bytes::from_static(END_OF_INPUT))),
            [CLOSE, _] => Ok(Said::Nothing),
            [channel, ..] => protocol(&format!("nothing can be sent on channel {channel}")),
            [] => protocol("a message begins with a channel's number"),
        }
    }

    fn head(&self) -> &'static [u8] {
        STDOUT
    }

    fn farewell(&mut self, exit: Exit) -> Words {
        let status = match exit {
            Exit::Code(0) => json!({ "metadata": {}, "status": "Success" }),
            Exit::Code(code) => failure(u32::from(code)),
            // As a shell would say it.
            Exit::Signal(signal) => failure(128 + u32::from(signal)),
        };
        Words::from([Message::binary([&[ERROR], status.to_string().as_bytes()].concat())])
    }
}

fn failure(code: u32) -> serde_json::Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_channels() {
        let hear = |bytes: &[u8]| {
            Kubernetes
                .hear(&Bytes::from(bytes.to_vec()))
                .map_err(|frame| (u16::from(frame.code), frame.reason.to_string()))
        };
        assert_eq!(hear(b"\0ls\r"), Ok(Said::Input(Bytes::from("ls\r"))));
        assert_eq!(hear(b"\x04{\"Width\":100,\"Height\":30}"), Ok(Said::Size(Size { cols: 100, rows: 30 })));
        assert_eq!(hear(b"\xFF\0"), Ok(Said::Input(Bytes::from_static(END_OF_INPUT))));
        assert_eq!(hear(b"\xFF\x01"), Ok(Said::Nothing));
        for (wrong, says) in [
            (&b""[..], "begins with"),
            (b"\x01out", "channel 1"),
            (b"\x04{}", "missing field `Width`"),
            (b"\xFF", "channel 255"),
        ] {
            let (code, reason) = hear(wrong).unwrap_err();
            assert!(code == 1002 && reason.contains(says), "{reason}");
        }
    }

    #[test]
    fn the_status_says_how_it_ended() {
        let status = |exit| {
            let words = Kubernetes.farewell(exit);
            let bytes = words[0].clone().into_data();
            assert_eq!(bytes[0], ERROR);
            serde_json::from_slice::<serde_json::Value>(&bytes[1..]).unwrap()
        };
        assert_eq!(status(Exit::Code(0))["status"], "Success");
        assert_eq!(status(Exit::Code(3))["details"]["causes"][0]["message"], "3");
        assert_eq!(status(Exit::Signal(9))["details"]["causes"][0]["message"], "137");
    }
}
