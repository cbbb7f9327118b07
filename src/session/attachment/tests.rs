//! An attachment against a cell that each test plays itself, fair and foul.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use sandbox::control::Life;
use sandbox::log::{LogWriter, RING_BYTES_MIN};
use tokio::time::timeout;

use super::*;

/// Longest wait for what must come.
const DEADLINE: Duration = Duration::from_secs(10);

struct FakeCell {
    log: LogWriter,
    data: OwnedFd,
}

impl FakeCell {
    fn send(&self, frame: FromCell) {
        self.send_raw(&frame.encode());
    }

    fn send_raw(&self, packet: &[u8]) {
        send(&self.data, packet, SendFlags::NOSIGNAL).unwrap();
    }

    /// The packets that have come by now.
    fn received(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut packet = vec![0; FRAME_BYTES_MAX];
        while let Ok((length, _)) = recv(&self.data, packet.as_mut_slice(), RecvFlags::DONTWAIT) {
            packets.push(packet[..length].to_vec());
        }
        packets
    }

    fn input(&self) -> Vec<u8> {
        let mut typed = Vec::new();
        for packet in self.received() {
            if let ToCell::Input { seq, bytes, .. } = ToCell::decode(&packet).unwrap() {
                assert_eq!((seq - TYPED) % 65_536, typed.len() as u64 % 65_536);
                typed.extend_from_slice(bytes);
            }
        }
        typed
    }
}

/// Input of the client that had arrived before.
const TYPED: u64 = 1000;

/// A session with the two ends of a data socket.
fn session() -> (Arc<Session>, LogWriter, OwnedFd, OwnedFd) {
    let mut log = LogWriter::create(RING_BYTES_MIN).unwrap();
    log.mark(Event::Resized(Size::DEFAULT));
    let (ours, data) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    (Arc::new(Session::new(Life(7), log.file()).unwrap()), log, ours, data)
}

fn attach(session: Arc<Session>, data: OwnedFd, start: Start, acks: bool) -> io::Result<Attachment> {
    let presence = if acks { Presence::Acking } else { Presence::Reading };
    let who = Who { client: 5, role: Role::Writer, size: None, bell: Arc::default(), presence };
    Attachment::new(Hold { session, data, size: Size::DEFAULT, typed: TYPED }, start, who)
}

fn attached_at(start: Start, acks: bool) -> (Attachment, FakeCell) {
    let (session, log, ours, data) = session();
    (attach(session, ours, start, acks).unwrap(), FakeCell { log, data })
}

/// Attached to a new session, whose size was told.
async fn attached() -> (Attachment, FakeCell) {
    let (mut attachment, cell) = attached_at(Start::Resume(0), false);
    assert!(matches!(next(&mut attachment).await.0, Output::Resized(Size::DEFAULT)));
    (attachment, cell)
}

/// The next output, which must come.
async fn next(attachment: &mut Attachment) -> (Output, Vec<u8>) {
    let mut bytes = Vec::new();
    let polled = std::future::poll_fn(|cx| attachment.poll_output(cx, 4096, &mut bytes));
    (timeout(DEADLINE, polled).await.expect("output comes"), bytes)
}

/// Lets everything be received that has come; there must be no output.
async fn nothing(attachment: &mut Attachment) {
    let mut bytes = Vec::new();
    let polled = std::future::poll_fn(|cx| attachment.poll_output(cx, 4096, &mut bytes));
    assert!(timeout(Duration::from_millis(20), polled).await.is_err());
}

/// Polls once; whether there was output.
async fn settled(attachment: &mut Attachment) -> bool {
    let mut bytes = Vec::new();
    std::future::poll_fn(|cx| Poll::Ready(attachment.poll_output(cx, 4096, &mut bytes).is_pending())).await
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn output_comes_in_order_and_the_end_after_it() {
    run(async {
        let (mut attachment, mut cell) = attached().await;
        cell.log.append(b"one ");
        assert!(matches!(next(&mut attachment).await, (Output::Bytes { .. }, bytes) if bytes == b"one "));
        assert!(settled(&mut attachment).await);
        cell.log.append(b"two");
        cell.send(FromCell::Wake { taken: 0 });
        cell.send(FromCell::Ended(Exit::Code(3)));
        drop(cell);
        assert!(matches!(next(&mut attachment).await, (Output::Bytes { .. }, bytes) if bytes == b"two"));
        assert!(matches!(next(&mut attachment).await.0, Output::Ended(Exit::Code(3))));
    });
}

#[test]
fn credit_is_renewed_once_half_of_it_is_used() {
    run(async {
        let (mut attachment, mut cell) = attached().await;
        let credits = |cell: &FakeCell| -> Vec<(u64, u64, u64)> {
            let packets = cell.received();
            let credit = |packet: &Vec<u8>| match ToCell::decode(packet).unwrap() {
                ToCell::Credit { seen, upto, wakes } => (seen, upto, wakes),
                other => panic!("{other:?}"),
            };
            packets.iter().map(credit).collect()
        };
        let window = u64::from(RING_BYTES_MIN) / 2;
        assert_eq!(credits(&cell), [(0, window, 0)]);
        for _ in 0..WAKES_MAX / 2 {
            nothing(&mut attachment).await;
            assert_eq!(credits(&cell), [], "not while enough wakes are left");
            cell.log.append(b"k");
            cell.send(FromCell::Wake { taken: 0 });
            next(&mut attachment).await;
        }
        assert_eq!(credits(&cell), [], "not before the client was given it");
        nothing(&mut attachment).await;
        let had = WAKES_MAX / 2;
        assert_eq!(credits(&cell), [(had, had + window, had)]);
        cell.log.append(&[b'x'; 20_000]);
        while attachment.cursor.offset() < had + 20_000 {
            next(&mut attachment).await;
        }
        nothing(&mut attachment).await;
        let (seen, upto, wakes) = credits(&cell).pop().expect("most of what it may write is written");
        assert!(seen > window / 2 && upto == seen + window && wakes == had);
    });
}

#[test]
fn who_is_unseen_grants_nothing_and_is_woken_all_the_same() {
    run(async {
        let (session, log, ours, data) = session();
        let mut cell = FakeCell { log, data };
        let who = Who { client: 0, role: Role::Viewer, size: None, bell: Arc::default(), presence: Presence::Unseen };
        let hold = Hold { session, data: ours, size: Size::DEFAULT, typed: 0 };
        let mut attachment = Attachment::new(hold, Start::Resume(0), who).unwrap();
        assert!(attachment.members().1.is_empty());
        next(&mut attachment).await;
        let mut credits = Vec::new();
        for _ in 0..=WAKES_MAX {
            cell.log.append(&[b'x'; 2000]);
            cell.send(FromCell::Wake { taken: 0 });
            next(&mut attachment).await;
            nothing(&mut attachment).await;
            credits.extend(cell.received().iter().map(|packet| match ToCell::decode(packet).unwrap() {
                ToCell::Credit { upto, wakes, .. } => (upto, wakes),
                other => panic!("{other:?}"),
            }));
        }
        assert_eq!(credits, [(0, 0), (0, WAKES_MAX / 2), (0, WAKES_MAX)]);
        attachment.start_over();
        assert_eq!(snapshot(&mut attachment).await.2, cell.log.head());
    });
}

/// All of a snapshot that must come now: its size, its bytes, and where output goes on.
async fn snapshot(attachment: &mut Attachment) -> (Size, Vec<u8>, u64) {
    let Output::Reset(size) = next(attachment).await.0 else { panic!("no snapshot begins") };
    let mut picture = Vec::new();
    loop {
        match next(attachment).await {
            (Output::Picture, bytes) => picture.extend(bytes),
            (Output::Painted { offset }, _) => return (size, picture, offset),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn who_is_too_slow_skips_to_a_snapshot() {
    run(async {
        let (mut attachment, mut cell) = attached().await;
        cell.log.append(b"first\r\n");
        next(&mut attachment).await;
        for _ in 0..3 {
            cell.log.append(&b"0123456\r\n".repeat(7000));
        }
        let (size, picture, offset) = snapshot(&mut attachment).await;
        assert_eq!((size, offset), (Size::DEFAULT, cell.log.head()));
        assert!(String::from_utf8(picture).unwrap().contains("0123456"));
        cell.log.append(b"then");
        assert!(
            matches!(next(&mut attachment).await, (Output::Bytes { offset: at }, bytes) if at == offset && bytes == b"then")
        );
    });
}

#[test]
fn a_late_client_begins_with_a_snapshot_and_one_that_comes_back_where_it_was() {
    run(async {
        let (session, mut log, ours, _data) = session();
        log.append(b"one two");
        let mut late = attach(session.clone(), ours, Start::Snapshot, true).unwrap();
        let (_, picture, offset) = snapshot(&mut late).await;
        assert!(String::from_utf8(picture).unwrap().contains("one two") && offset == 7);
        for (from, rest) in [(0, &b"one two"[..]), (4, b"two"), (7, b"")] {
            let (ours, _theirs) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
            let mut back = attach(session.clone(), ours, Start::Resume(from), true).unwrap();
            let mut got = Vec::new();
            while (got.len() as u64) < 7 - from {
                got.extend(next(&mut back).await.1);
            }
            assert_eq!(got, rest);
        }
    });
}

#[test]
fn output_beyond_the_window_waits_for_acknowledgements() {
    run(async {
        let (session, _, ours, _data) = {
            let mut log = LogWriter::create(RING_BYTES_MIN * 16).unwrap();
            log.append(&vec![b'x'; 3 * UNACKED_BYTES_MAX as usize]);
            let (ours, data) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
            (Arc::new(Session::new(Life(7), log.file()).unwrap()), log, ours, data)
        };
        let mut attachment = attach(session, ours, Start::Resume(0), true).unwrap();
        let mut had = 0;
        while had < UNACKED_BYTES_MAX {
            had += next(&mut attachment).await.1.len() as u64;
        }
        assert_eq!(had, UNACKED_BYTES_MAX);
        assert!(settled(&mut attachment).await);
        assert!(!attachment.ack(had + 1), "it was never sent");
        assert!(attachment.ack(had - 100_000));
        while had < 2 * UNACKED_BYTES_MAX - 100_000 {
            had += next(&mut attachment).await.1.len() as u64;
        }
        assert!(settled(&mut attachment).await);
    });
}

#[test]
fn what_the_terminal_threw_away_is_not_sent() {
    run(async {
        let (mut attachment, mut cell) = attached_at(Start::Resume(0), true);
        next(&mut attachment).await;
        cell.log.append(&[b'y'; 30_000]);
        cell.log.mark(Event::Flushed);
        cell.log.append(b"^C\r\n$ ");
        let (_, _, offset) = snapshot(&mut attachment).await;
        assert_eq!(offset, cell.log.head());
    });
}

#[test]
fn an_acknowledgement_of_what_a_snapshot_takes_the_place_of_means_nothing() {
    run(async {
        let (mut attachment, mut cell) = attached_at(Start::Snapshot, true);
        cell.log.append(b"one");
        assert!(attachment.ack(u64::MAX));
        let (_, _, offset) = snapshot(&mut attachment).await;
        assert!(attachment.ack(offset) && !attachment.ack(offset + 1));
    });
}

#[test]
fn only_the_leader_answers_and_a_viewer_does_nothing() {
    run(async {
        let (session, log, ours, data) = session();
        let cell = FakeCell { log, data };
        let mut viewer = attach(session.clone(), ours, Start::Resume(0), true).unwrap();
        viewer.role = Role::Viewer;
        cell.received();
        viewer.input(b"no");
        assert_eq!(cell.input(), b"");
        let (ours, data) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut second = attach(session, ours, Start::Resume(0), true).unwrap();
        let second_cell = FakeCell { log: LogWriter::create(RING_BYTES_MIN).unwrap(), data };
        second_cell.received();
        second.answer(b"\x1b[?1;2c");
        assert_eq!(second_cell.received(), Vec::<Vec<u8>>::new(), "the first one leads");
        second.input(b"x");
        second_cell.received();
        second.answer(b"\x1b[?1;2c");
        let packets = second_cell.received();
        assert!(
            matches!(ToCell::decode(&packets[0]), Ok(ToCell::Input { client, seq: 0, .. }) if client != second.client)
        );
        second_cell.send(FromCell::Wake { taken: 8 });
        next(&mut second).await;
        nothing(&mut second).await;
        assert_eq!((second.typed(), second.next_seq()), (TYPED + 1, TYPED + 1));
    });
}

#[test]
fn input_waits_for_room_and_none_is_lost() {
    run(async {
        let (mut attachment, cell) = attached().await;
        cell.received();
        let typed: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        for piece in typed.chunks(50_000) {
            attachment.input(piece);
        }
        assert!(!attachment.takes_input());
        let mut taken = cell.input();
        assert_eq!(taken.len() as u64, INPUT_WINDOW_BYTES);
        let mut had_room = false;
        while taken.len() < typed.len() {
            cell.send(FromCell::Wake { taken: taken.len() as u64 });
            let mut output = Vec::new();
            // Ready when there is room for more; otherwise what was taken has let more out by now.
            let polled = std::future::poll_fn(|cx| attachment.poll_output(cx, 1, &mut output));
            had_room |= matches!(timeout(Duration::from_millis(20), polled).await, Ok(Output::Room));
            taken.extend(cell.input());
        }
        assert!(taken == typed && had_room && attachment.takes_input());
    });
}

#[test]
fn keys_that_the_socket_has_no_room_for_come_later() {
    run(async {
        const KEYS: usize = 20_000;
        let (mut attachment, cell) = attached().await;
        (0..KEYS).for_each(|_| attachment.input(b"k"));
        assert!(!attachment.waiting.is_empty());
        let mut typed = cell.input().len();
        while typed < KEYS {
            let mut output = Vec::new();
            let polled = std::future::poll_fn(|cx| attachment.poll_output(cx, 1, &mut output));
            let _nothing_comes = timeout(Duration::from_millis(20), polled).await;
            typed +=
                cell.received().iter().filter(|packet| packet[0] == 1).map(|packet| packet.len() - 17).sum::<usize>();
        }
        assert_eq!(typed, KEYS);
    });
}

#[test]
fn what_a_cell_must_not_say_loses_the_session() {
    run(async {
        for packet in [&b"\x81"[..], b"\x99\0\0\0\0\0\0\0\0", &[0x81; 40], &[0x81, 1, 0, 0, 0, 0, 0, 0, 0]] {
            let (mut attachment, cell) = attached().await;
            cell.send_raw(packet);
            assert!(matches!(next(&mut attachment).await.0, Output::Lost(_)), "{packet:?}");
        }
        let (mut attachment, cell) = attached().await;
        drop(cell);
        assert!(matches!(next(&mut attachment).await.0, Output::Lost(error) if error.to_string() == "the cell ended"));
    });
}

#[test]
fn descriptors_of_a_wrong_kind_are_refused() {
    run(async {
        let (session, ..) = session();
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(attach(session.clone(), file(), Start::Snapshot, false).is_err());
        let (stream, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(attach(session, stream.into(), Start::Snapshot, false).is_err());
        assert!(Session::new(Life(7), file()).is_err());
    });
}

#[test]
fn a_socket_made_blocking_by_its_other_owner_blocks_nobody() {
    run(async {
        let (session, _log, ours, _theirs) = session();
        let kept = ours.try_clone().unwrap();
        let mut attachment = attach(session, ours, Start::Resume(0), false).unwrap();
        next(&mut attachment).await;
        rustix::io::ioctl_fionbio(kept.as_fd(), false).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&kept, 4096).unwrap();
        for _ in 0..10 {
            attachment.input(&[b'x'; 10_000]);
        }
        assert!(settled(&mut attachment).await);
    });
}
