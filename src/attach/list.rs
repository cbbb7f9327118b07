//! `cloister attach --ls`: a project's sessions and who is attached to them. To know that, it looks into each of them for a
//! moment, as a viewer.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use sandbox::control::SessionName;

use super::end::{End, Failure};
use super::kept::Wish;
use super::socket::{Heard, Socket};
use super::target::Target;
use crate::wire::{CHANNELS_MAX, Channel, Member, Role, Tell};

/// Longest wait for the server to say it all.
const LIST_WAIT_MAX: Duration = Duration::from_secs(10);

/// Who is attached to each session, if that is known.
type Sessions = Vec<(SessionName, String)>;

/// Prints the list.
pub(super) async fn print(target: &Target, wish: &Wish) -> anyhow::Result<ExitCode> {
    let io = target.open().await.map_err(|failure| failure.at_first(target))?;
    let mut socket = Socket::over(io).await;
    let listed = tokio::time::timeout(LIST_WAIT_MAX, list(&mut socket, wish)).await.context("no answer in time")?;
    let sessions = listed.map_err(|end| Failure::from(end).at_first(target))?;
    let _ = tokio::time::timeout(LIST_WAIT_MAX, socket.close("listed")).await;
    io::stdout().write_all(table(&sessions).as_bytes()).map_err(|error| anyhow!(error).context("write the list"))?;
    Ok(ExitCode::SUCCESS)
}

async fn list(socket: &mut Socket, wish: &Wish) -> Result<Sessions, End> {
    let names = loop {
        if let Heard::Tell(Tell::Sessions { sessions, .. }) = socket.heard().await? {
            break sessions;
        }
    };
    let mut waiting: BTreeMap<Channel, usize> = BTreeMap::new();
    for (index, name) in names.iter().enumerate().take(CHANNELS_MAX) {
        let channel = Channel(u16::try_from(index).expect("there are few channels"));
        let wish = Wish { session: name.clone(), role: Role::Viewer, ..wish.clone() };
        socket.ask(&wish.ask(channel))?;
        waiting.insert(channel, index);
    }
    let mut sessions: Sessions = names.into_iter().map(|name| (name, String::new())).collect();
    while !waiting.is_empty() {
        let (channel, who) = match socket.heard().await? {
            Heard::Tell(Tell::Clients { channel, you, leader, clients }) => (channel, members(you, leader, &clients)),
            Heard::Tell(Tell::Refused { channel, message }) => (channel, message.escape_debug().to_string()),
            Heard::Tell(Tell::Exited { channel, .. } | Tell::Lost { channel, .. }) => (channel, "ended".to_owned()),
            _ => continue,
        };
        if let Some(index) = waiting.remove(&channel) {
            sessions[index].1 = who;
            socket.ask(&crate::wire::Ask::Detach { channel })?;
        }
    }
    Ok(sessions)
}

/// The others, by role and size, the leader with a star.
fn members(you: u64, leader: Option<u64>, clients: &[Member]) -> String {
    let others = clients.iter().filter(|member| member.id != you).map(|member| {
        let role = if member.role == Role::Writer { "writer" } else { "viewer" };
        let size = member.size.map_or_else(String::new, |size| format!(" {}x{}", size.cols, size.rows));
        format!("{role}{size}{}", if leader == Some(member.id) { "*" } else { "" })
    });
    others.collect::<Vec<_>>().join(", ")
}

fn table(sessions: &Sessions) -> String {
    let width = sessions.iter().map(|(name, _)| name.as_str().len()).max().unwrap_or(0).max("SESSION".len());
    let line = |name: &str, who: &str| format!("{name:width$}  {}\n", if who.is_empty() { "-" } else { who });
    let lines = sessions.iter().map(|(name, who)| line(name.as_str(), who));
    line("SESSION", "ATTACHED (* ITS SIZE COUNTS)") + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::control::Size;

    #[test]
    fn the_list_names_all_but_oneself() {
        let member = |id, role| Member { id, role, size: Some(Size { cols: 80, rows: 24 }) };
        let clients =
            [member(1, Role::Viewer), member(2, Role::Writer), Member { size: None, ..member(4, Role::Writer) }];
        let sessions = vec![
            (SessionName::parse("a-longer-name").unwrap(), String::new()),
            (SessionName::main(), members(3, Some(2), &clients)),
        ];
        assert_eq!(
            table(&sessions),
            "SESSION        ATTACHED (* ITS SIZE COUNTS)\na-longer-name  -\nmain           viewer 80x24, writer 80x24*, writer\n"
        );
    }
}
