//! What can't be lost: output and input of sessions over connections that are cut and servers that are killed.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Heard, Kept, Server, Wire, block_on};

/// Connections cut at random points, and servers killed, in the test that does both.
const CUTS: u32 = 1000;
const KILLS: u32 = 10;

/// What runs, and what is typed into it, one after the other once this is shown.
const PROGRAMS: [(&str, &[(&str, &str)]); 6] = [
    (
        "vim -u NONE /usr/share/common-licenses/GPL-3",
        &[("PUBLIC", "20j"), ("", ":set number\r"), ("  1 ", "oa new line\x1b")],
    ),
    ("less -N /usr/share/common-licenses/GPL-3", &[("PUBLIC", "ff"), ("", "G"), ("END", "b")]),
    ("top -d 100", &[("PID", "1")]),
    // As a tree, and paused: it draws every ten seconds at the least.
    ("htop -d 100", &[("PID", "t"), ("", "Z")]),
    ("tmux new 'ls --color=always -l /; exec bash'", &[("usr", "\x02%"), ("│", "echo he''re\r"), ("here", "\x02\"")]),
    ("ls --color=always -l /usr/bin; printf '\\e[3;7mlook\\e[m \\e[44m\\e[2Kblue\\n'", &[("blue", "ec")]),
];

#[test]
fn after_a_kill_the_screen_is_that_of_who_never_left() {
    let Some(mut server) = Server::start() else { return };
    let Some(web) = crate::browser::web_or_skip(&server) else { return };
    block_on(async {
        for (program, steps) in PROGRAMS {
            let project = server.project();
            let mut wire = server.wire(&project).await;
            let mut whole = Kept::new(1, "main");
            whole.typed = format!("{program}\r").into_bytes();
            whole.attach(&mut wire).await;
            let mut from = 0;
            for (shown, keys) in steps {
                while !String::from_utf8_lossy(&whole.output[from..]).contains(shown) {
                    let heard = wire.heard().await;
                    whole.hear(&mut wire, &heard).await;
                }
                from = whole.output.len();
                whole.typed.extend_from_slice(keys.as_bytes());
                whole.send(&mut wire).await;
            }
            settle(&mut whole, &mut wire).await;
            server.signal(Signal::KILL);
            server.ended();
            server.restart();
            let mut wire = server.wire(&project).await;
            whole.attach(&mut wire).await;
            settle(&mut whole, &mut wire).await;
            let mut late = server.wire(&project).await;
            let attached = late.attach(1, "main", json!({})).await;
            assert_eq!(attached["started"], false);
            late.told("reset").await;
            let mut snapshot = Vec::new();
            loop {
                match late.heard().await {
                    Heard::Picture(1, bytes) => snapshot.extend(bytes),
                    Heard::Told(told) if told["type"] == "painted" => {
                        assert_eq!(told["offset"], whole.offset, "{program} was quiet");
                        break;
                    }
                    _ => {}
                }
            }
            let folder = tempfile::tempdir().expect("a temporary folder");
            let [one, other] = ["whole", "snapshot"].map(|name| folder.path().join(name));
            std::fs::write(&one, &whole.output).expect("it is written");
            std::fs::write(&other, &snapshot).expect("it is written");
            let compared = std::process::Command::new("node")
                .arg(web.join("test/same.mjs"))
                .args(["80", "24"])
                .args([&one, &other])
                .output()
                .expect("node runs");
            assert!(compared.status.success(), "{program}: {}", String::from_utf8_lossy(&compared.stderr));
        }
    });
}

/// Hears until a program has been quiet for a while.
async fn settle(kept: &mut Kept, wire: &mut Wire) {
    while let Ok(heard) = tokio::time::timeout(std::time::Duration::from_millis(700), wire.heard()).await {
        kept.hear(wire, &heard).await;
    }
}

/// Numbers that look random and are the same in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn cut_a_thousand_times_and_killed_ten_nothing_is_lost_or_comes_twice() {
    let Some(mut server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
        let mut wire = server.wire(&project).await;
        let (mut lines, mut keys) = (Kept::new(1, "lines"), Kept::new(2, "keys"));
        lines.typed = b"i=0; while :; do echo line-$i.; i=$((i+1)); [ $((i%20)) = 0 ] && sleep 0.002; done\r".to_vec();
        keys.typed = b"stty raw -echo; echo rea''dy; exec cat > typed\r".to_vec();
        lines.attach(&mut wire).await;
        keys.attach(&mut wire).await;
        // From here on each byte that is typed goes into the file.
        while !keys.text().contains("ready") {
            let heard = wire.heard().await;
            lines.hear(&mut wire, &heard).await;
            keys.hear(&mut wire, &heard).await;
        }
        let command = keys.typed.len();
        drop(wire);
        for cut in 0..CUTS {
            if cut % (CUTS / KILLS) == CUTS / KILLS / 2 {
                server.signal(Signal::KILL);
                server.ended();
                server.restart();
            }
            let mut wire = server.wire(&project).await;
            lines.attach(&mut wire).await;
            keys.attach(&mut wire).await;
            type_some(&mut dice, &mut wire, &mut lines, &mut keys).await;
            // The connection breaks, whatever is on its way.
            drop(wire.socket.into_inner());
        }
        let mut wire = server.wire(&project).await;
        keys.attach(&mut wire).await;
        lines.attach(&mut wire).await;
        let file = server.projects().join(&project).join("workspace/typed");
        let by = std::time::Instant::now() + crate::harness::DEADLINE;
        loop {
            let heard = wire.heard().await;
            lines.hear(&mut wire, &heard).await;
            keys.hear(&mut wire, &heard).await;
            let arrived = std::fs::read(&file).expect("the file is there");
            if arrived.len() >= keys.typed.len() - command {
                assert_eq!(String::from_utf8_lossy(&arrived), String::from_utf8_lossy(&keys.typed[command..]));
                break;
            }
            assert!(std::time::Instant::now() < by, "{} of {} keys", arrived.len(), keys.typed.len() - command);
        }
        let count = counted(&String::from_utf8(lines.output).expect("text"));
        assert!(count > 1000, "only {count} lines");
    });
}

/// Types some keys, while output comes and before all that was asked for has.
async fn type_some(dice: &mut Dice, wire: &mut Wire, lines: &mut Kept, keys: &mut Kept) {
    let mut left = dice.below(12) as i32;
    while left >= 0 {
        let heard = wire.heard().await;
        assert!(!matches!(heard, Heard::Closed(..) | Heard::Gone), "{heard:?}");
        lines.hear(wire, &heard).await;
        keys.hear(wire, &heard).await;
        if matches!(heard, Heard::Told(_)) && dice.below(2) == 0 {
            continue;
        }
        keys.typed.push(b'a' + dice.below(26) as u8);
        keys.send(wire).await;
        left -= 1;
    }
}

/// How many numbered lines there are, which must be there once and in order; the last may be cut.
fn counted(output: &str) -> usize {
    let (_, behind) = output.split_once("line-0.").expect("the first line");
    let (whole, _cut) = behind.rsplit_once("\r\n").expect("a line");
    let lines = whole.split("\r\n").enumerate().skip(1);
    lines.map(|(number, line)| assert_eq!(line, format!("line-{number}."))).count()
}
