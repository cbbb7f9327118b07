//! The handle, its driver and its link against a cell that each test plays itself, fair and foul.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sandbox::control::{Exit, Life, Reply, Request, VERSION};
use sandbox::log::{LogWriter, RING_BYTES_MIN};
use tokio_seqpacket::ancillary::AncillaryMessageWriter;
use tokio_seqpacket::{UnixSeqpacket, UnixSeqpacketListener};

use super::*;

/// Longer than a test takes.
const NEVER: Duration = Duration::from_secs(1000);

fn care(linger: Duration) -> Care {
    let coroner = Coroner::new(|| Box::pin(std::future::ready(None)));
    let freezers = Freezers::new(|| Box::pin(std::future::ready(Ok(None))));
    let patience = Patience::default();
    Care { coroner, linger, keeps: false, sizing: Sizing::default(), patience, freezers }
}

struct FakeCell {
    socket: UnixSeqpacket,
}

impl FakeCell {
    async fn accept(listener: &mut UnixSeqpacketListener, sessions: &[&str]) -> Self {
        let cell = Self { socket: listener.accept().await.unwrap() };
        let sessions = sessions.iter().map(|name| session(name)).collect();
        cell.say(&Reply::Hello { version: VERSION, project: project(), sessions }, &[]).await;
        cell
    }

    async fn say(&self, reply: &Reply, descriptors: &[OwnedFd]) {
        self.say_raw(&serde_json::to_vec(reply).unwrap(), descriptors).await;
    }

    async fn say_raw(&self, packet: &[u8], descriptors: &[OwnedFd]) {
        let mut space = [0; 64];
        let mut ancillary = AncillaryMessageWriter::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.add_fds(descriptors.iter().map(AsFd::as_fd)).unwrap();
        }
        self.socket.send_with_ancillary(packet, &mut ancillary).await.unwrap();
    }

    async fn attach(&self, name: &str, descriptors: &[OwnedFd]) {
        let reply =
            Reply::Attached { session: session(name), started: true, size: Size::DEFAULT, life: Life(1), typed: 0 };
        self.say(&reply, descriptors).await;
    }

    /// The next request; `None` when the server hung up.
    async fn hears(&self) -> Option<Request> {
        let mut packet = vec![0; 4096];
        match timeout(ANSWER_WAIT, self.socket.recv(&mut packet)).await.expect("a request comes") {
            // It went without having read all that was said.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            heard => {
                let length = heard.unwrap().bytes_read();
                (length > 0).then(|| serde_json::from_slice(&packet[..length]).unwrap())
            }
        }
    }
}

fn project() -> ProjectId {
    ProjectId::parse("demo").unwrap()
}

fn session(name: &str) -> SessionName {
    SessionName::parse(name).unwrap()
}

fn descriptors() -> Vec<OwnedFd> {
    let log = LogWriter::create(RING_BYTES_MIN).unwrap();
    let (ours, _theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    vec![log.file().try_clone().unwrap(), ours]
}

/// Runs a test with a folder for the socket.
fn run<T>(test: impl AsyncFnOnce(&Path, UnixSeqpacketListener) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cell.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = UnixSeqpacketListener::bind(&socket).unwrap();
        test(&socket, listener).await
    })
}

async fn connected(socket: &Path, listener: &mut UnixSeqpacketListener, linger: Duration) -> (Cell, FakeCell) {
    let (cell, fake) = tokio::join!(
        Cell::connect(project(), socket.to_owned(), care(linger), std::future::ready(None)),
        FakeCell::accept(listener, &[])
    );
    (cell.unwrap(), fake)
}

#[test]
fn answers_come_to_those_who_asked_in_their_order() {
    run(async |socket, mut listener| {
        let (cell, fake) = connected(socket, &mut listener, NEVER).await;
        let (one, two) = (session("one"), session("two"));
        let (first, second, ()) =
            tokio::join!(cell.open(&one, Size::DEFAULT, &[], 0), cell.open(&two, Size::DEFAULT, &[], 0), async {
                assert!(matches!(fake.hears().await, Some(Request::Open { session, .. }) if session == one));
                assert!(matches!(fake.hears().await, Some(Request::Open { session, .. }) if session == two));
                fake.say(&Reply::Failed { reason: "no\nroom".to_owned() }, &[]).await;
                fake.attach("two", &descriptors()).await;
            });
        assert_eq!(first.unwrap_err().to_string(), "no room");
        assert!(second.unwrap().started);
        assert_eq!(cell.state().sessions, BTreeSet::from([two.clone()]));
        fake.say(&Reply::Ended { session: two, exit: Exit::Code(0) }, &[]).await;
        let mut state = cell.state.clone();
        timeout(ANSWER_WAIT, state.wait_for(|state| state.sessions.is_empty())).await.unwrap().unwrap();
    });
}

#[test]
fn a_session_that_has_ended_is_not_joined_and_another_refusal_is_one() {
    run(async |socket, mut listener| {
        let (cell, fake) = tokio::join!(
            Cell::connect(project(), socket.to_owned(), care(NEVER), std::future::ready(None)),
            FakeCell::accept(&mut listener, &["main"])
        );
        let (cell, main) = (cell.unwrap(), SessionName::main());
        let refuse = async |ended: bool| {
            assert_eq!(fake.hears().await, Some(Request::Join { session: SessionName::main() }));
            if ended {
                fake.say(&Reply::Ended { session: SessionName::main(), exit: Exit::Code(0) }, &[]).await;
            }
            fake.say(&Reply::Failed { reason: "no".to_owned() }, &[]).await;
        };
        let (joined, ()) = tokio::join!(cell.join(&main), refuse(false));
        assert!(matches!(joined, Err(Error::Refused(_))));
        let (joined, ()) = tokio::join!(cell.join(&main), refuse(true));
        assert!(matches!(joined, Ok(None)));
    });
}

#[test]
fn a_cell_of_another_version_or_project_is_refused_by_name() {
    let other = ProjectId::parse("other").unwrap();
    let many = (0..65).map(|number| session(&format!("s{number}"))).collect();
    for (hello, says) in [
        (Reply::Hello { version: 99, project: project(), sessions: vec![] }, "speaks version 99 of the protocol"),
        (Reply::Hello { version: VERSION, project: other, sessions: vec![] }, "doesn't say that it is the project's"),
        (Reply::Hello { version: VERSION, project: project(), sessions: many }, "doesn't say"),
        (Reply::Failed { reason: String::new() }, "doesn't say"),
    ] {
        run(async |socket, mut listener| {
            let (cell, ()) = tokio::join!(
                Cell::connect(project(), socket.to_owned(), care(NEVER), std::future::ready(None)),
                async {
                    let fake = FakeCell { socket: listener.accept().await.unwrap() };
                    fake.say(&hello, &[]).await;
                }
            );
            let error = cell.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        });
    }
}

#[test]
fn nobody_at_the_socket_is_a_cell_that_is_gone() {
    run(async |socket, listener| {
        let connect = || Cell::connect(project(), socket.to_owned(), care(NEVER), std::future::ready(None));
        drop(listener);
        assert!(matches!(connect().await, Err(Error::Gone)));
        std::fs::remove_file(socket).unwrap();
        assert!(matches!(connect().await, Err(Error::Gone)));
    });
}

#[test]
fn a_cell_that_breaks_the_protocol_is_let_go() {
    let attached = |session: &str| {
        serde_json::to_vec(&Reply::Attached {
            session: self::session(session),
            started: true,
            size: Size::DEFAULT,
            life: Life(1),
            typed: 0,
        })
        .unwrap()
    };
    let three = [descriptors(), descriptors()].into_iter().flatten().take(3).collect();
    let cases: [(Vec<u8>, Vec<OwnedFd>); 7] = [
        (b"{".to_vec(), vec![]),
        (br#"{"type":"surprise"}"#.to_vec(), vec![]),
        (vec![b' '; sandbox::control::CONTROL_BYTES_MAX + 1], vec![]),
        (attached("main"), vec![]),
        (attached("main"), three),
        (attached("other"), descriptors()),
        (serde_json::to_vec(&Reply::Hello { version: VERSION, project: project(), sessions: vec![] }).unwrap(), vec![]),
    ];
    for (packet, descriptors) in cases {
        run(async |socket, mut listener| {
            let (cell, fake) = connected(socket, &mut listener, NEVER).await;
            let main = SessionName::main();
            let (opened, ()) = tokio::join!(cell.open(&main, Size::DEFAULT, &[], 0), async {
                fake.hears().await;
                fake.say_raw(&packet, &descriptors).await;
            });
            assert!(matches!(opened, Err(Error::Gone)), "{opened:?} after {:?}", String::from_utf8_lossy(&packet));
            cell.gone().await.unwrap();
            assert!(fake.hears().await.is_none());
        });
    }
}

#[test]
fn an_answer_nobody_asked_for_is_against_the_protocol() {
    run(async |socket, mut listener| {
        let (cell, fake) = connected(socket, &mut listener, NEVER).await;
        fake.attach("main", &descriptors()).await;
        cell.gone().await.unwrap();
    });
}

#[test]
fn an_idle_cell_is_told_to_stop() {
    run(async |socket, mut listener| {
        let (cell, fake) = connected(socket, &mut listener, Duration::ZERO).await;
        // Asked anew what runs, since others may have opened sessions.
        let _asked = FakeCell::accept(&mut listener, &[]).await;
        assert_eq!(fake.hears().await, Some(Request::Stop));
        assert!(!cell.is_running());
        let refused = cell.open(&SessionName::main(), Size::DEFAULT, &[], 0).await;
        assert!(matches!(refused, Err(Error::Gone)));
        drop(fake);
        cell.gone().await.unwrap();
    });
}

#[test]
fn a_cell_with_somebody_elses_session_is_not_idle() {
    run(async |socket, mut listener| {
        let (cell, fake) = connected(socket, &mut listener, Duration::ZERO).await;
        let _asked = FakeCell::accept(&mut listener, &["theirs"]).await;
        let mut state = cell.state.clone();
        timeout(ANSWER_WAIT, state.wait_for(|state| state.sessions.contains(&session("theirs"))))
            .await
            .unwrap()
            .unwrap();
        fake.say(&Reply::Ended { session: session("theirs"), exit: Exit::Signal(9) }, &[]).await;
        let _asked = FakeCell::accept(&mut listener, &[]).await;
        assert_eq!(fake.hears().await, Some(Request::Stop));
    });
}

#[test]
fn who_looks_at_an_idle_cell_does_not_keep_it_from_ending() {
    run(async |socket, mut listener| {
        let (cell, fake) = connected(socket, &mut listener, Duration::from_millis(100)).await;
        let looks = async {
            while cell.clients().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let ends = async {
            let _asked =
                timeout(ANSWER_WAIT, FakeCell::accept(&mut listener, &[])).await.expect("it is asked what runs");
            assert_eq!(fake.hears().await, Some(Request::Stop));
        };
        tokio::select! {
            () = ends => {}
            () = looks => panic!("nobody drives the cell"),
        }
    });
}

/// An empty cgroup of version 2, which the kernel freezes at once.
struct Group(PathBuf);

impl Group {
    fn make() -> Option<Self> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let root = roots.into_iter().find(|root| root.join("cgroup.controllers").exists());
        let group = root.map(|root| root.join(format!("cloister-test-{}", std::process::id())));
        let made = group.filter(|group| std::fs::create_dir(group).is_ok()).map(Self);
        assert!(
            made.is_some() || std::env::var_os("CI").is_none(),
            "in CI nothing is skipped: needs root and cgroup version 2"
        );
        made
    }

    fn freezer(&self) -> Freezer {
        let file = |name: &str| {
            let file = std::fs::File::options().read(true).write(name == "cgroup.freeze").open(self.0.join(name));
            (name.to_owned(), OwnedFd::from(file.unwrap()))
        };
        let (names, files) = ["cgroup.freeze", "cgroup.events", "cpu.stat"].map(file).into_iter().unzip();
        Freezer::new(names, files).unwrap()
    }

    fn is_frozen(&self) -> bool {
        std::fs::read_to_string(self.0.join("cgroup.events")).unwrap().contains("frozen 1")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_cell_whose_last_session_ends_while_it_is_being_frozen_is_asked_for_others_awake() {
    let Some(group) = Group::make().map(Arc::new) else { return };
    run(async |socket, mut listener| {
        let of = group.clone();
        let freezers = Freezers::new(move || Box::pin(std::future::ready(Ok(Some(of.freezer())))));
        let care = Care { patience: Patience::from_seconds(1, 0), freezers, ..care(Duration::ZERO) };
        let (cell, fake) = tokio::join!(
            Cell::connect(project(), socket.to_owned(), care, std::future::ready(None)),
            FakeCell::accept(&mut listener, &[])
        );
        let (cell, main) = (cell.unwrap(), SessionName::main());
        let (opened, ()) = tokio::join!(cell.open(&main, Size::DEFAULT, &[], 0), async {
            fake.hears().await;
            fake.attach("main", &descriptors()).await;
        });
        let _opened = opened.unwrap();
        let mut state = cell.watch();
        timeout(ANSWER_WAIT, state.wait_for(|state| state.frozen.is_some())).await.unwrap().unwrap();
        // What it said before the kernel had all of it at a stop.
        fake.say(&Reply::Ended { session: main, exit: Exit::Code(0) }, &[]).await;
        let asked = FakeCell { socket: timeout(ANSWER_WAIT, listener.accept()).await.unwrap().unwrap() };
        assert!(!group.is_frozen(), "it couldn't answer");
        asked.say(&Reply::Hello { version: VERSION, project: project(), sessions: vec![] }, &[]).await;
        assert_eq!(fake.hears().await, Some(Request::Stop));
    });
}

#[test]
fn times_are_said_in_two_units() {
    for (seconds, said) in [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3 * 3600 + 20 * 60 + 5, "3 h 20 min"),
        (86_400, "1 d"),
        (90_060, "1 d 1 h"),
    ] {
        assert_eq!(spoken(Duration::from_secs(seconds)), said);
    }
}
