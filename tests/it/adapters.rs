//! Clients of other servers, written from those servers' public documents: ttyd's `tty`, Kubernetes' exec, and asciinema's
//! player.

use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Server, Terminal, block_on};

async fn upgraded(server: &Server, project: &str, subprotocol: &str, query: &str) -> Terminal {
    let path = format!("/ws/terminal/{project}/?token={}{query}", server.token);
    server.upgrade(&path, &[("sec-websocket-protocol", subprotocol)]).await.expect("it is upgraded")
}

/// Bytes that came behind this first byte until they contain `wanted`; other messages are kept for the caller.
async fn until(terminal: &mut Terminal, first: u8, wanted: &str, others: &mut Vec<Vec<u8>>) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        match terminal.message().await {
            Some(Message::Binary(bytes)) if bytes[0] == first => text.push_str(&String::from_utf8_lossy(&bytes[1..])),
            Some(Message::Binary(bytes)) => others.push(bytes.to_vec()),
            Some(Message::Ping(_)) => {}
            other => panic!("{other:?} before {wanted:?}; there was {text:?}"),
        }
    }
    text
}

#[test]
fn ttyds_clients_are_understood() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let mut terminal = upgraded(&server, &project, "tty", "").await;
        let mut others = Vec::new();
        terminal.send_message(Message::text(r#"{"AuthToken":"","columns":100,"rows":30}"#)).await;
        until(&mut terminal, b'0', "$ ", &mut others).await;
        assert_eq!(others, [format!("1{project}").into_bytes(), b"2{}".to_vec()]);
        terminal.send_message(Message::binary(b"0stty size\r".to_vec())).await;
        until(&mut terminal, b'0', "30 100\r\n", &mut others).await;
        terminal.send_message(Message::binary(br#"1{"columns":90,"rows":20}"#.to_vec())).await;
        terminal
            .send_message(Message::binary(b"0stty size; yes | head -c 1000000; echo; echo do''ne\r".to_vec()))
            .await;
        until(&mut terminal, b'0', "20 90\r\n", &mut others).await;
        terminal.send_message(Message::binary(b"2".to_vec())).await;
        terminal.send_message(Message::binary(b"3".to_vec())).await;
        until(&mut terminal, b'0', "\r\ndone\r\n", &mut others).await;
        terminal.send_message(Message::binary(b"0exit 3\r".to_vec())).await;
        let (code, reason, _) = terminal.closed().await;
        assert_eq!((code, reason.as_str()), (1000, "exited with status 3"));
        let mut wrong = upgraded(&server, &project, "tty", "").await;
        wrong.send_message(Message::binary(b"9".to_vec())).await;
        assert_eq!(wrong.closed().await.0, 1002);
    });
}

#[test]
fn kubernetes_clients_are_understood() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let exec = async |words: &[&str]| {
            let command: String = words.iter().map(|word| format!("&command={word}")).collect();
            upgraded(&server, &project, "v5.channel.k8s.io", &format!("&stdin=true&stdout=true&tty=true{command}"))
                .await
        };
        let mut others = Vec::new();
        let mut terminal = exec(&["bash", "-c", "echo%20rea''dy;%20read%20x;%20stty%20size;%20cat;%20exit%205"]).await;
        until(&mut terminal, 1, "ready", &mut others).await;
        terminal.send_message(Message::binary(b"\x04{\"Width\":100,\"Height\":30}".to_vec())).await;
        terminal.send_message(Message::binary(b"\0x\r".to_vec())).await;
        until(&mut terminal, 1, "30 100\r\n", &mut others).await;
        terminal.send_message(Message::binary(b"\xFF\0".to_vec())).await;
        let status = loop {
            match terminal.message().await {
                Some(Message::Binary(bytes)) if bytes[0] == 3 => break bytes,
                Some(Message::Binary(_) | Message::Ping(_)) => {}
                other => panic!("{other:?} instead of a status"),
            }
        };
        let status: Value = serde_json::from_slice(&status[1..]).expect("JSON");
        assert_eq!((&status["status"], &status["reason"]), (&"Failure".into(), &"NonZeroExitCode".into()));
        assert_eq!(status["details"]["causes"][0]["message"], "5");
        assert_eq!(terminal.closed().await.0, 1000);
        // Whoever goes takes his program along.
        let mut terminal = exec(&["sh", "-c", "echo%20rea''dy;%20sleep%201000"]).await;
        until(&mut terminal, 1, "ready", &mut others).await;
        drop(terminal);
        let mut shell = server.prompt(&project, "").await;
        shell.run_until("pgrep -c sleep", "0").await;
        let path = format!("/ws/terminal/{project}/?token={}&command=ls", server.token);
        let refused = server.upgrade(&path, &[("sec-websocket-protocol", "v5.channel.k8s.io")]).await.err();
        assert!(refused.is_some_and(|refused| refused.status == 400 && refused.body.contains("tty must be true")));
    });
}

/// The next event of a live stream: its kind and what follows.
async fn event(terminal: &mut Terminal) -> (u8, Vec<u8>) {
    loop {
        match terminal.message().await {
            Some(Message::Binary(bytes)) => return (bytes[0], bytes[1..].to_vec()),
            Some(Message::Ping(_)) => {}
            other => panic!("{other:?} instead of an event"),
        }
    }
}

#[test]
fn a_session_is_looked_at_live_by_asciinemas_player() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let path = format!("/ws/terminal/{project}/?token={}", server.token);
        let offered = [("sec-websocket-protocol", "v1.alis, v2.asciicast, raw")];
        let refused = server.upgrade(&path, &offered).await.err().expect("nothing runs");
        assert_eq!(refused.status, 404);
        let mut shell = server.prompt(&project, "").await;
        shell.run("echo before").await;
        let mut player = server.upgrade(&path, &offered).await.expect("it is upgraded");
        assert_eq!(event(&mut player).await, (b'A', b"LiS\x01".to_vec()));
        assert_eq!(event(&mut player).await.0, 1, "it begins with the size");
        let mut shown = String::new();
        shell.send("echo af''ter\r").await;
        while !shown.contains("after\r\n") {
            let (kind, bytes) = event(&mut player).await;
            assert_eq!(kind, b'o');
            shown.push_str(&String::from_utf8_lossy(&bytes));
        }
        assert!(shown.contains("before"));
        player.send_message(Message::text("touch typed\r")).await;
        assert_eq!(shell.run("ls").await, "");
        shell.send("exit 3\r").await;
        loop {
            match event(&mut player).await {
                (b'x', bytes) => break assert_eq!(bytes.last(), Some(&3)),
                (kind, _) => assert_eq!(kind, b'o'),
            }
        }
        assert_eq!(player.closed().await.0, 1000);
    });
}
