//! What befalls a host: no room, no processor to spare, a clock that jumps, no journal, no names. Whoever works goes on working, what
//! can't be done says why, and all is well again by itself.

use super::{Clients, READY, ask_shell, held};
use crate::guest::Guest;
use crate::harness::Server;

/// What the server says of itself.
const STATE: &str =
    r"exec 3<>/dev/tcp/127.0.0.1/8000 && printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 && cat <&3; exec 3>&-";

/// Another project's cell starts, runs a program, and ends.
const NEW_CELL: &str = "cloister run spare -- true";

/// The processes that are to live on.
const SERVICES: &str = "systemctl show --property MainPID cloister cloister-launcher";

/// Lines of the journal, since there may be none of the server's for a while.
const LOG_LINES: &str = "journalctl --boot --unit cloister --output cat | wc -l";

/// All of it, one after the other.
pub(crate) async fn endure(clients: &mut Clients, server: &Server, guest: &mut Guest) {
    guest.run("cloister project create spare");
    guest.run(NEW_CELL);
    let before = guest.run(SERVICES);
    no_room(clients, server, guest).await;
    no_processor(clients, server, guest).await;
    clock_steps(clients, server, guest).await;
    no_journal(clients, server, guest).await;
    no_names(clients, server, guest).await;
    assert_eq!(before, guest.run(SERVICES), "nothing had to be restarted");
}

/// Neither bytes nor inodes, in turn.
async fn no_room(clients: &mut Clients, server: &Server, guest: &mut Guest) {
    let fill_files = "mkdir /var/fill && cd /var/fill && seq 200000 | xargs touch 2>/dev/null; cd /; [ \"$(df --output=iavail / | tail -n 1)\" -lt 1000 ]";
    let fill_bytes = "fallocate --length $(df --block-size=1 --output=avail / | tail -n 1) /var/fill; cat /dev/zero >>/var/fill 2>/dev/null; true";
    for (fill, what, says) in [
        (fill_bytes, "no byte of disk", "host.disk_reserve_bytes is 268435456"),
        (fill_files, "no inode", "No space left on device"),
    ] {
        guest.run(fill);
        clients.answer(server, "full").await;
        clients.type_in(super::SHELL, "echo x >>here || echo ref''used\r").await;
        clients.hear(server, super::SHELL, "refused\r\n").await;
        guest.until(&format!("{{ {STATE}; }} | grep --quiet 'left on its disk: make room'"));
        let (status, refused) = guest.try_run(&format!("{NEW_CELL} 2>&1"));
        assert!(status == 125 && refused.contains(says), "{status} {refused}");
        guest.run("rm -r /var/fill");
        guest.until(READY);
        guest.run(NEW_CELL);
        held(format!("{what} left: sessions go on, /readyz and new cells name it, and with room all is well"));
    }
}

/// More programs of the host's that only calculate than it has processors, four times over.
async fn no_processor(clients: &mut Clients, server: &Server, guest: &mut Guest) {
    guest.run(
        "for n in $(seq $((4 * $(nproc)))); do timeout 600 sh -c 'while :; do :; done' & echo $! ; done >/run/busy",
    );
    clients.answer(server, "busy").await;
    guest.run(NEW_CELL);
    guest.until(READY);
    guest.run("kill $(cat /run/busy)");
    held("every processor is busy four times over: sessions answer, cells start, the server is ready");
}

/// A day ahead, two back, and where it belongs.
async fn clock_steps(clients: &mut Clients, server: &Server, guest: &mut Guest) {
    for (step, word) in [("+1 day", "tomorrow"), ("-2 days", "yesterday"), ("+1 day", "today")] {
        guest.run(&format!("date --set '{step}'"));
        clients.answer(server, word).await;
        guest.run(NEW_CELL);
        guest.until(READY);
    }
    held("the clock is set a day ahead, two back, and right again: sessions answer, cells start, the server is ready");
}

/// The journal is away, and comes back.
async fn no_journal(clients: &mut Clients, server: &Server, guest: &mut Guest) {
    let journal = "systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket";
    guest.run(&format!("systemctl stop {journal}"));
    clients.answer(server, "unheard").await;
    ask_shell(server, "spare", "exit\r", "exit\r\n").await;
    guest.until(READY);
    guest.run(&format!("systemctl start {journal}"));
    let before = guest.run(LOG_LINES);
    ask_shell(server, "spare", "exit\r", "exit\r\n").await;
    guest.until(&format!("[ \"$({LOG_LINES})\" -gt {} ]", before.trim()));
    held("the journal stops: sessions answer, cells start; it starts: the server's log goes on");
}

/// No name is resolved.
async fn no_names(clients: &mut Clients, server: &Server, guest: &mut Guest) {
    guest.run("echo 'nameserver 10.0.2.254' >/etc/resolv.conf");
    clients.answer(server, "nameless").await;
    guest.run(NEW_CELL);
    let (status, refused) = guest.try_run("timeout 120 cloister image pull registry.example/runner:1 2>&1");
    assert!(status == 1 && refused.contains("registry.example"), "{status} {refused}");
    held("no name is resolved: sessions answer, cells start, and what needs one fails by its name");
}
