//! `cloister.v1`: several sessions on one socket, sizes, roles, windows, and every rule that can be broken.

use serde_json::json;
use tokio::time::{Duration, timeout};
use tokio_tungstenite::tungstenite::Message;

use futures_util::SinkExt;

use crate::harness::{Heard, Server, Wire, block_on};

const WINDOW: u64 = 256 * 1024;

#[test]
fn sessions_share_a_socket_and_end_by_themselves() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let mut wire = server.wire(&project).await;
        let first = wire.attach(1, "main", json!({})).await;
        assert_eq!((&first["started"], &first["typed"], &first["cols"]), (&json!(true), &json!(0), &json!(80)));
        assert_eq!(wire.told("sessions").await["sessions"], json!(["main"]));
        wire.expect(1, "$ ").await;
        let second = wire.attach(9, "build", json!({})).await;
        assert_ne!(first["life"], second["life"]);
        wire.input(9, 0, b"echo on-$((6*7)); exit 3\r").await;
        wire.expect(9, "on-42").await;
        assert_eq!(wire.told("exited").await, json!({ "type": "exited", "channel": 9, "code": 3 }));
        assert_eq!(wire.told("sessions").await["sessions"], json!(["main"]));
        // The channel is free, and frames that were on their way for it are no fault.
        wire.input(9, 25, b"late").await;
        wire.attach(9, "build", json!({})).await;
        wire.say(json!({ "type": "close", "session": "build" })).await;
        assert_eq!(wire.told("exited").await["channel"], 9);
        wire.input(1, 0, b"kill -9 $$\r").await;
        assert_eq!(wire.told("exited").await, json!({ "type": "exited", "channel": 1, "signal": 9 }));
        wire.say(json!({ "type": "ping", "id": 7 })).await;
        assert_eq!(wire.told("pong").await["id"], 7);
    });
}

#[test]
fn what_was_sent_before_is_not_typed_again() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let mut wire = server.wire_prompt(&project, "main").await;
        wire.input(1, 0, b"echo one").await;
        wire.input(1, 5, b"one").await;
        wire.input(1, 0, b"echo one-$((1+1))\r").await;
        wire.expect(1, "one-2\r\n").await;
        let mut again = server.wire(&project).await;
        let attached = again.attach(1, "main", json!({})).await;
        assert_eq!(attached["typed"], 18, "the same client on another connection");
        let attached = again.attach(2, "main", json!({ "client": "00000000000000aa" })).await;
        assert_eq!(attached["typed"], 0, "another client");
        again.input(1, 19, b"x").await;
        let (code, reason) = again.closed().await;
        assert!(code == 1008 && reason.contains("gap: 18 comes next"), "{code} {reason}");
    });
}

#[test]
fn the_size_follows_who_typed_last_and_a_viewer_only_looks() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let mut first = server.wire_prompt(&project, "main").await;
        let mut second = server.wire(&project).await;
        let size = json!({ "client": "00000000000000aa", "cols": 100, "rows": 30 });
        let attached = second.attach(1, "main", size).await;
        assert_eq!((&attached["cols"], &attached["rows"]), (&json!(80), &json!(24)));
        let mut viewer = server.wire(&project).await;
        viewer
            .attach(1, "main", json!({ "client": "00000000000000bb", "cols": 30, "rows": 5, "role": "viewer" }))
            .await;
        let clients = first.told("clients").await;
        assert_eq!((&clients["you"], &clients["leader"]), (&json!(1), &json!(1)));
        second.input(1, 0, b"stty size\r").await;
        second.expect(1, "30 100\r\n").await;
        let resized = first.told("resized").await;
        assert_eq!((&resized["cols"], &resized["rows"]), (&json!(100), &json!(30)));
        viewer.input(1, 0, b"touch viewer\r").await;
        viewer.say(json!({ "type": "resize", "channel": 1, "cols": 20, "rows": 4 })).await;
        let listed = loop {
            let clients = viewer.told("clients").await;
            if clients["clients"][2]["cols"] == 20 {
                break clients;
            }
        };
        assert_eq!(listed["leader"], 2);
        assert_eq!(listed["clients"][2], json!({ "id": 3, "role": "viewer", "cols": 20, "rows": 4 }));
        viewer.send(2, 1, None, b"touch answer\r").await;
        viewer.say(json!({ "type": "ping", "id": 1 })).await;
        viewer.told("pong").await;
        second.input(1, 10, b"stty size; ls\r").await;
        let shown = second.expect(1, "30 100\r\n").await;
        assert!(!shown.contains("viewer"), "{shown}");
        // The leader goes, and the size is the other writer's.
        drop(second);
        loop {
            let resized = first.told("resized").await;
            if resized["cols"] == 80 {
                break;
            }
        }
        let mut late = server.wire(&project).await;
        late.say(json!({
            "type": "attach", "channel": 1, "session": "none", "client": "00000000000000bb", "cols": 30, "rows": 5,
            "role": "viewer",
        }))
        .await;
        assert!(late.told("refused").await["message"].as_str().is_some_and(|message| message.contains("does not run")));
    });
}

#[test]
fn no_more_is_sent_than_is_acknowledged() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let mut wire = server.wire_prompt(&project, "main").await;
        let mut end = 0;
        wire.input(1, 0, b"yes\r").await;
        let mut acknowledged = None;
        while let Ok(heard) = timeout(Duration::from_millis(500), wire.heard()).await {
            if let Heard::Output(1, offset, bytes) = heard {
                acknowledged.get_or_insert(offset);
                end = offset + bytes.len() as u64;
            }
        }
        let sent = end - acknowledged.expect("output came");
        assert!((WINDOW / 2..=WINDOW).contains(&sent), "{sent} bytes were sent");
        wire.input(1, 4, b"\x03").await;
        wire.ack(1, end).await;
        let shown = wire.expect(1, "$ ").await;
        assert!(shown.contains("^C"), "{shown}");
        wire.ack(1, end + (1 << 30)).await;
        let (code, reason) = wire.closed().await;
        assert!(code == 1008 && reason.contains("was never sent offset"), "{code} {reason}");
    });
}

#[test]
fn a_paste_into_a_program_that_does_not_read_holds_back_nothing_else() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let mut wire = server.wire_prompt(&project, "deaf").await;
        wire.input(1, 0, b"stty raw -echo; echo rea''dy; sleep 1000\r").await;
        wire.expect(1, "ready").await;
        let mut seq = 41;
        for _ in 0..4 {
            wire.input(1, seq, &[b'x'; 16 * 1024]).await;
            seq += 16 * 1024;
        }
        wire.attach(2, "main", json!({})).await;
        wire.expect(2, "$ ").await;
        wire.input(2, 0, b"echo on-$((6*7))\r").await;
        wire.expect(2, "on-42").await;
        for _ in 0..10 {
            wire.input(1, seq, &[b'x'; 16 * 1024]).await;
            seq += 16 * 1024;
        }
        let (code, reason) = wire.closed().await;
        assert!(code == 1008 && reason.contains("more than 131072 bytes ahead"), "{code} {reason}");
    });
}

#[test]
fn who_breaks_a_rule_is_told_which() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let mut wire = server.wire(&project).await;
        let life = wire.attach(1, "main", json!({})).await["life"].clone();
        let attach = |more: serde_json::Value| {
            let mut ask = json!({ "type": "attach", "channel": 1, "session": "main", "client": "00000000000000aa", "cols": 80, "rows": 24 });
            for (key, value) in more.as_object().expect("an object") {
                ask[key] = value.clone();
            }
            Message::text(ask.to_string())
        };
        let text = |text: &str| Message::text(text);
        for (message, code, says) in [
            (text("hello"), 1002, "JSON: expected value"),
            (text(r#"{"type":"dance"}"#), 1002, "unknown variant `dance`"),
            (text(&format!(r#"{{"type":"ping","id":1{}}}"#, " ".repeat(5000))), 1002, "at most 4096 bytes"),
            (text(r#"{"type":"resize","channel":1,"cols":0,"rows":1}"#), 1002, "1 to 2000"),
            (Message::binary(vec![9, 0, 0]), 1002, "unknown type 0x9"),
            (Message::binary(vec![1, 0]), 1002, "fewer than 3 bytes"),
            (Message::binary(vec![3, 0, 0, 1]), 1002, "cut short"),
            (Message::binary(vec![1; 64 * 1024 + 1]), 1009, "at most 65536 bytes"),
            (attach(json!({ "client": "aa" })), 1002, "16 digits"),
            (attach(json!({ "resume": { "life": life, "offset": 1_u64 << 40 } })), 1008, "is in the future"),
        ] {
            let mut wire = server.wire(&project).await;
            let shown = format!("{message:?}").chars().take(100).collect::<String>();
            wire.socket.send(message).await.expect("it is sent");
            let (got, reason) = wire.closed().await;
            assert!(got == code && reason.contains(says), "{shown}: {got} {reason}");
        }
        // Nobody else has noticed.
        wire.input(1, 0, b"echo on-$((6*7))\r").await;
        wire.expect(1, "on-42").await;
        wire.socket.send(attach(json!({}))).await.expect("it is sent");
        let (code, reason) = wire.closed().await;
        assert!(code == 1008 && reason == "channel 1 is in use", "{code} {reason}");
    });
}

#[test]
fn a_query_has_no_wishes_and_unknown_subprotocols_mean_plain_mode() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let path = format!("/ws/terminal/{project}/?token={}", server.token);
        let refused =
            server.upgrade(&format!("{path}&cols=80"), &[("sec-websocket-protocol", "cloister.v1")]).await.err();
        let refused = refused.expect("it is refused");
        assert!(refused.status == 400 && refused.body.contains("known are token"), "{refused:?}");
    });
}

#[test]
fn channels_are_many_and_not_endless() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let mut wire: Wire = server.wire(&project).await;
        for channel in 0..64 {
            wire.attach(channel, "main", json!({})).await;
        }
        wire.say(json!({ "type": "attach", "channel": 64, "session": "main", "client": "00000000000000aa", "cols": 80, "rows": 24 })).await;
        assert!(wire.told("refused").await["message"].as_str().is_some_and(|message| message.contains("at most 64")));
        wire.say(json!({ "type": "detach", "channel": 63 })).await;
        wire.attach(64, "main", json!({})).await;
    });
}
