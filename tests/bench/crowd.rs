//! Many sessions that are typed at, all at once and each at its own pace: how long a key's echo takes then, and what a key costs
//! the server.
//!
//! One thread and one epoll type and read all of them, with frames of its own making, so that little of the machine goes to
//! the measuring.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::event::{Timespec, epoll};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::client::Client;
use crate::report::{Report, Verdict};
use crate::samples::Samples;
use crate::server::Server;

/// Sessions of a cell. It has at most 64.
const SESSIONS_PER_CELL: usize = 20;

/// Pause between two keys at one session: 200 ms, more or less.
const PAUSE: Duration = Duration::from_millis(100);
const JITTER: Duration = Duration::from_millis(200);

/// What isn't counted in the beginning, and how long the last echoes may take.
const WARM_UP: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(2);

/// Keys of a line, then ^U takes it back: fewer than the terminal has columns, so that none wraps.
const KEYS: usize = 40;
const KEY: u8 = b'x';
const TAKE_BACK: u8 = 0x15;

const MS_MAX: f64 = 10.0;

/// A session, as who types at it sees it.
struct Typist {
    stream: TcpStream,
    received: Vec<u8>,
    /// Keys whose echo hasn't come, and when they were pressed.
    waiting: VecDeque<(u8, Instant)>,
    pressed: usize,
}

/// What came out.
#[derive(Default)]
struct Outcome {
    /// Times of echoes in µs.
    times: Samples,
    keys: usize,
}

/// Measures so many sessions for so many seconds.
pub(crate) fn measure(server: &Server, sessions: usize, seconds: usize, report: &mut Report) -> anyhow::Result<()> {
    // Each is a descriptor.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit })?;
    let projects: Vec<String> = (0..sessions.div_ceil(SESSIONS_PER_CELL)).map(|cell| format!("crowd-{cell}")).collect();
    let mut typists = Vec::with_capacity(sessions);
    for number in 0..sessions {
        let project = &projects[number / SESSIONS_PER_CELL];
        let mut client = Client::connect(&server.address, &format!("/ws/terminal/{project}/?session=s{number}"))?;
        client.until_prompt().with_context(|| format!("session {number}"))?;
        typists.push(Typist::new(client.into_stream())?);
    }
    let (server_before, machine_before) = (server.processor_time()?, machine_time()?);
    let began = Instant::now();
    let outcome = type_at(&mut typists, WARM_UP + Duration::from_secs(seconds as u64))?;
    let took = began.elapsed().as_secs_f64();
    let (server_time, machine_time) = (server.processor_time()? - server_before, machine_time()? - machine_before);
    drop(typists);
    for project in &projects {
        server.remove(project)?.ask()?;
    }
    let crowd = format!("{sessions} sessions at 5 keys a second");
    report.figure(&format!("echo of bash, {crowd}"), "µs", &outcome.times);
    let per_key = |time: Duration| Samples::of(time.as_secs_f64() * 1e6 / outcome.keys as f64);
    report.figure(&format!("processors' time a key, the server's, {crowd}"), "µs", &per_key(server_time));
    report.figure(&format!("processors' time a key, everything, {crowd}"), "µs", &per_key(machine_time));
    let busy = Samples::of(machine_time.as_secs_f64() / took * 100.0);
    report.figure(&format!("processors busy (100 is one of them), {crowd}"), "%", &busy);
    let what = format!("echo of bash, {crowd}: 99 of 100 within {MS_MAX} ms");
    report.promise(what, Verdict::at_most(outcome.times.quantile(0.99) / 1e3, MS_MAX, " ms"));
    Ok(())
}

/// Types at all of them for a while.
fn type_at(typists: &mut [Typist], time: Duration) -> anyhow::Result<Outcome> {
    let waiting = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, typist) in typists.iter().enumerate() {
        epoll::add(&waiting, &typist.stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
    }
    let mut random = 1_u64;
    let mut pause = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        PAUSE + JITTER.mul_f64((random >> 33) as f64 / f64::from(1_u32 << 31))
    };
    let began = Instant::now();
    let mut due: BinaryHeap<_> = (0..typists.len()).map(|number| Reverse((began + pause(), number))).collect();
    let mut outcome = Outcome::default();
    let mut events = Vec::with_capacity(64);
    loop {
        let now = Instant::now();
        while let Some(Reverse((at, number))) = due.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            due.pop();
            typists[number].press()?;
            outcome.keys += 1;
            // The next one is due whenever this one was: who is late doesn't type more slowly.
            let next = at + pause();
            if next < began + time {
                due.push(Reverse((next, number)));
            }
        }
        if due.is_empty() && typists.iter().all(|typist| typist.waiting.is_empty()) {
            return Ok(outcome);
        }
        ensure!(now < began + time + GRACE, "the last echoes don't come");
        let next = due.peek().map_or(GRACE, |Reverse((at, _))| at.saturating_duration_since(now));
        let next = Timespec { tv_sec: next.as_secs().cast_signed(), tv_nsec: next.subsec_nanos().into() };
        events.clear();
        epoll::wait(&waiting, rustix::buffer::spare_capacity(&mut events), Some(&next))?;
        for event in &events {
            let typist = &mut typists[usize::try_from(event.data.u64())?];
            typist.read(|pressed| {
                if pressed >= began + WARM_UP {
                    outcome.times.add(pressed.elapsed().as_secs_f64() * 1e6);
                }
            })?;
        }
    }
}

impl Typist {
    fn new(stream: TcpStream) -> anyhow::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, received: Vec::new(), waiting: VecDeque::new(), pressed: 0 })
    }

    /// Types the next key: one masked binary message (RFC 6455 §5.2), whose mask changes nothing.
    fn press(&mut self) -> anyhow::Result<()> {
        let key = if self.pressed % (KEYS + 1) == KEYS { TAKE_BACK } else { KEY };
        self.pressed += 1;
        self.waiting.push_back((key, Instant::now()));
        // The socket has room for a few bytes, unless the server has stopped to read.
        Ok(self.stream.write_all(&[0x82, 0x81, 0, 0, 0, 0, key])?)
    }

    /// Reads what there is, and tells when each key was pressed whose echo has come.
    fn read(&mut self, mut echoed: impl FnMut(Instant)) -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => anyhow::bail!("the server hung up"),
            Ok(count) => self.received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(printed) = take_message(&mut self.received) {
            let mut printed = printed.as_slice();
            while let Some((key, pressed)) = self.waiting.front().copied() {
                // A key's echo is itself, that of ^U is whatever removes the line.
                let length = match key {
                    KEY => printed.iter().position(|byte| *byte == KEY).map(|at| at + 1),
                    _ => Some(printed.len()).filter(|length| *length > 0),
                };
                let Some(length) = length else { break };
                printed = &printed[length..];
                self.waiting.pop_front();
                echoed(pressed);
            }
        }
        Ok(())
    }
}

/// Takes one message off the front once it is whole; nothing is printed by one that controls. It isn't long: it is an echo.
fn take_message(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (kind, length) = (*received.first()?, usize::from(*received.get(1)?));
    let head = if length == 126 { 4 } else { 2 };
    let length = if length == 126 { u16::from_be_bytes([*received.get(2)?, *received.get(3)?]).into() } else { length };
    if received.len() < head + length {
        return None;
    }
    let message = received.drain(..head + length).skip(head).collect();
    Some(if matches!(kind & 0x0f, 1 | 2) { message } else { Vec::new() })
}

/// How long all processors together have worked, for whatever it was (proc_stat(5)).
fn machine_time() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let first = text.lines().next().context("/proc/stat has lines")?;
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system; idle and waiting for disks are left out; interrupts.
    let worked = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum();
    Ok(crate::server::ticks(worked))
}
