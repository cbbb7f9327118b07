//! What a trace of strace's ran into: its calls, each held against the policy, with the rule that answers it.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use anyhow::ensure;
use sandbox::policy::{Answer, Because, Catalogue, Choice, Policy, Profile, Verdict, name};

use super::show::paragraph;
use super::trace::{self, Call, Line};

/// Longest line that is read in bytes; what comes behind is left out. strace cuts texts at 32 bytes, unless told otherwise.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Most different findings that are told: a trace of random names must not fill the memory.
const FINDINGS_MAX: usize = 500;

/// Longest call that is shown, in characters.
const SHOWN_MAX: usize = 100;

/// What a trace ran into.
#[derive(Default)]
pub(super) struct Report {
    findings: BTreeMap<Key, Finding>,
    calls: u64,
    refused: u64,
    not_understood: u64,
    /// Findings beyond those that are told.
    untold: u64,
}

/// Findings that are told as one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: Kind,
    call: String,
    /// The rule, if it is one's.
    rule: Option<String>,
}

/// What it means for the program, in the order in which it is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Refused,
    Prepared,
    Unclear,
}

struct Finding {
    count: u64,
    /// The first such call.
    example: String,
    why: String,
}

/// Reads a trace to its end.
pub(super) fn read(input: &mut dyn BufRead, policy: &Policy<'_>) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut line = Vec::new();
    while next_line(input, &mut line)? {
        match trace::read(&String::from_utf8_lossy(&line)) {
            Line::Call(call) => report.judge(&call, policy),
            Line::OtherAbi => {
                let why = "killed: calls of another ABI (i386, x32) are not served".to_owned();
                let key = Key { kind: Kind::Refused, call: "another ABI".to_owned(), rule: None };
                report.refused += 1;
                report.add(key, "a process of another ABI", why);
            }
            Line::Nothing => {}
            Line::NotUnderstood => report.not_understood += 1,
        }
    }
    let calls = report.calls + report.refused;
    ensure!(calls > 0, "no system call is in it: make it with `strace -f -o <file> <program>`");
    Ok(report)
}

/// Reads the next line, or as much of it as may be kept.
fn next_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    if (&mut *input).take(LINE_BYTES_MAX as u64).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.len() == LINE_BYTES_MAX && !line.ends_with(b"\n") {
        input.skip_until(b'\n')?;
    }
    Ok(true)
}

/// The name by which the policy knows a call that strace has no name for.
fn known(call: &str) -> &str {
    let number = call.strip_prefix("syscall_0x").and_then(|number| u32::from_str_radix(number, 16).ok());
    number.and_then(name).unwrap_or(call)
}

impl Report {
    fn judge(&mut self, call: &Call<'_>, policy: &Policy<'_>) {
        self.calls += 1;
        let name = known(call.name);
        let rule = policy.rules.iter().find(|rule| rule.call == name);
        let argument_name = |index: usize| Some(rule?.arguments.get(index)?.as_str());
        let Verdict { answer, because, unclear } =
            policy.decide(name, |index| call.argument(index, argument_name(index)));
        let (kind, why) = match (answer, because) {
            (Answer::Allow, _) if unclear => (Kind::Unclear, "its arguments aren't in the trace".to_owned()),
            (Answer::Allow, _) => return,
            (Answer::Done, Because::Rule(rule)) => {
                (Kind::Prepared, format!("seems done, by rule {}: {}", rule.name, rule.reason))
            }
            (answer, Because::Rule(rule)) => {
                (Kind::Refused, format!("{} by rule {}: {}", answer.name(), rule.name, rule.reason))
            }
            (answer, Because::Group(group)) => match &group.instead {
                Some(instead) => (Kind::Prepared, format!("{}, {}: {instead}", answer.name(), group.name)),
                None => (Kind::Refused, format!("{}, {}: {}", answer.name(), group.name, group.reason)),
            },
            (answer, Because::Unlisted) => {
                (Kind::Refused, format!("{}: no call by this name is in the policy", answer.name()))
            }
        };
        self.refused += u64::from(kind == Kind::Refused);
        let rule = match because {
            Because::Rule(rule) => Some(rule.name.clone()),
            Because::Group(_) | Because::Unlisted => None,
        };
        self.add(Key { kind, call: cut(name), rule }, call.text, why);
    }

    fn add(&mut self, key: Key, example: &str, why: String) {
        if self.findings.len() >= FINDINGS_MAX && !self.findings.contains_key(&key) {
            self.untold += 1;
            return;
        }
        let finding = || Finding { count: 0, example: cut(example), why };
        self.findings.entry(key).or_insert_with(finding).count += 1;
    }

    /// Whether a call of the program would be refused.
    pub(super) fn refuses(&self) -> bool {
        self.refused > 0
    }

    /// The report as text.
    pub(super) fn text(&self, catalogue: &Catalogue, choice: &Choice) -> String {
        let mut text = String::new();
        for (kind, title) in [
            (Kind::Refused, "Refused"),
            (Kind::Prepared, "Answered otherwise, for which callers are prepared"),
            (Kind::Unclear, "Not to be told"),
        ] {
            let of_kind = self.findings.iter().filter(|(key, _)| key.kind == kind);
            for (index, (key, finding)) in of_kind.enumerate() {
                if index == 0 {
                    text.push_str(&format!("{title}\n"));
                }
                text.push_str(&format!("{:>6}  {}\n", finding.count, finding.example));
                paragraph(&mut text, 8, &finding.why);
                if kind == Kind::Refused
                    && let Some(way) = way_out(key, catalogue, choice)
                {
                    paragraph(&mut text, 8, &way);
                }
            }
        }
        if self.untold > 0 {
            text.push_str(&format!("{} more are not told\n", self.untold));
        }
        text.push_str(&format!("{} calls, {} refused", self.calls, self.refused));
        if self.not_understood > 0 {
            text.push_str(&format!("; {} lines were not understood", self.not_understood));
        }
        text.push('\n');
        text
    }
}

/// How a project could have what was refused.
fn way_out(key: &Key, catalogue: &Catalogue, choice: &Choice) -> Option<String> {
    let grants = catalogue.grants.iter().find(|grant| {
        let lifts = key.rule.as_ref().is_some_and(|rule| grant.lifts.contains(rule));
        lifts || (key.rule.is_none() && grant.group.calls.contains(&key.call))
    });
    if let Some(grant) = grants {
        return Some(format!("a project can be granted it as `{}` (see `cloister policy show`)", grant.group.name));
    }
    let strict = |name: &str| name.starts_with("strict-");
    let by_strict = match &key.rule {
        Some(rule) => strict(rule),
        None => catalogue.policy(choice).is_ok_and(|policy| {
            policy.groups().any(|(group, calls)| strict(&group.name) && calls.contains(&key.call.as_str()))
        }),
    };
    (by_strict && choice.profile == Profile::Strict).then(|| "the profile `default` allows it".to_owned())
}

/// A text of the trace's for a terminal: short, and without what a terminal would obey.
fn cut(text: &str) -> String {
    let text = text.trim();
    let mut cut: String = text.chars().take(SHOWN_MAX).flat_map(shown).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        cut.push('…');
    }
    cut
}

fn shown(c: char) -> Box<dyn Iterator<Item = char>> {
    if c == '"' || c == '\'' || c == '\\' { Box::new(std::iter::once(c)) } else { Box::new(c.escape_debug()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(profile: Profile, trace: impl AsRef<[u8]>) -> anyhow::Result<(String, bool)> {
        let choice = Choice { profile, ..Choice::default() };
        let policy = Catalogue::get().policy(&choice).unwrap();
        let report = read(&mut trace.as_ref(), &policy)?;
        Ok((report.text(Catalogue::get(), &choice), report.refuses()))
    }

    #[track_caller]
    fn refused(line: &str, says: &str) {
        let (text, refuses) = check(Profile::Default, line).unwrap();
        assert!(refuses && text.contains(says), "{line}: {text}");
    }

    #[test]
    fn each_refused_call_is_told_with_its_rule() {
        for (line, says) in [
            ("socket(AF_ALG, SOCK_SEQPACKET, 0) = -1 EAFNOSUPPORT", "EAFNOSUPPORT by rule socket-families: "),
            ("7 socket(AF_INET, SOCK_RAW|SOCK_CLOEXEC, IPPROTO_ICMP) = 3", "by rule socket-types: "),
            ("socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_AUDIT) = 3", "by rule netlink: "),
            ("socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP) = 3", "by rule socket-protocols: "),
            ("clone(child_stack=NULL, flags=CLONE_NEWUSER|SIGCHLD) = 9", "EPERM by rule namespaces: "),
            ("ioctl(0, TIOCSTI, \"x\") = 0", "EPERM by rule terminals: "),
            ("ioctl(0, TIOCSTI, [\"x\"]) = 0", "     1  ioctl(0, TIOCSTI, [\"x\"])\n"),
            ("setsockopt(3, SOL_TCP, TCP_ULP, [7564404], 4) = 0", "by rule upper-layer-protocols: "),
            ("personality(READ_IMPLIES_EXEC) = 0", "by rule execution-domains: "),
            ("mknodat(AT_FDCWD, \"d\", S_IFBLK|0600, makedev(0x8, 0)) = 0", "by rule device-nodes: "),
            ("futex(0x5, FUTEX_LOCK_PI_PRIVATE, NULL) = 0", "granted it as `priority-futexes`"),
            ("unshare(CLONE_NEWUSER) = 0", "EPERM, namespaces: "),
            ("io_setup(128, [0x7f]) = 0", "granted it as `asynchronous-io`"),
            ("syscall_0x1bf(0, 0) = 0", "ENOSYS, secret-memory: "),
            ("reed(3) = 0", "ENOSYS: no call by this name is in the policy"),
            ("strace: [ Process PID=7 runs in 32 bit mode. ]", "killed: "),
        ] {
            refused(line, says);
        }
    }

    #[test]
    fn what_passes_and_what_callers_are_prepared_for_is_no_failure() {
        let trace = "1 execve(\"/bin/sh\", [\"sh\"], 0x7ff /* 9 vars */) = 0\n\
            1 socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0) = 3\n\
            1 socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE) = 3\n\
            1 socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, IPPROTO_IP) = 3\n\
            1 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD, child_tidptr=0x7f) = 2\n\
            1 ioctl(1, TCGETS, {c_iflag=ICRNL}) = 0\n\
            1 futex(0x7f, FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME, 0, NULL) = 0\n\
            1 personality(0xffffffff) = 0\n\
            1 prlimit64(0, RLIMIT_NOFILE, NULL, {rlim_cur=1024}) = 0\n\
            1 prlimit64(0, RLIMIT_CORE, NULL, {rlim_cur=0}) = 0\n\
            1 setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0\n\
            1 mknodat(AT_FDCWD, \"fifo\", S_IFIFO|0644) = 0\n";
        assert_eq!(check(Profile::Default, trace).unwrap(), ("12 calls, 0 refused\n".to_owned(), false));
        let prepared =
            "1 clone3({flags=CLONE_VM}, 88) = -1 ENOSYS\n1 prlimit64(0, RLIMIT_CORE, {rlim_cur=0}, NULL) = 0\n";
        let (text, refuses) = check(Profile::Default, prepared).unwrap();
        assert!(!refuses && text.contains("go on with clone") && text.contains("seems done"), "{text}");
    }

    #[test]
    fn strict_says_what_it_refuses_beyond() {
        let trace = "1 ptrace(PTRACE_TRACEME) = 0\n1 prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, 0x7) = 0\n";
        assert!(!check(Profile::Default, trace).unwrap().1);
        let (text, refuses) = check(Profile::Strict, trace).unwrap();
        assert!(refuses && text.matches("the profile `default` allows it").count() == 2, "{text}");
    }

    #[test]
    fn a_hostile_trace_costs_and_commands_nothing() {
        let mut trace = format!("1 socket({}\n", "x".repeat(10 << 20)).into_bytes();
        trace.extend(b"mount(\"\x1b]0;owned\x07\xff\", 1) = 0\n");
        trace.extend((0..2000).flat_map(|number| format!("call_{number}()\n").into_bytes()));
        let (text, refuses) = check(Profile::Default, &trace).unwrap();
        assert!(refuses && !text.contains('\x1b') && text.contains("2002 calls, "), "{text}");
        assert!(text.contains("1502 more are not told") && text.lines().all(|line| line.len() < 400), "{text}");
    }

    #[test]
    fn an_argument_that_is_missing_is_said() {
        let (text, refuses) = check(Profile::Default, "1 clone( <unfinished ...>\n").unwrap();
        assert!(!refuses && text.starts_with("Not to be told\n     1  clone(\n"), "{text}");
    }

    #[test]
    fn what_is_no_trace_is_an_error() {
        for nothing in ["", "hello\n", "+++ exited with 0 +++\n"] {
            let error = check(Profile::Default, nothing).unwrap_err().to_string();
            assert!(error.contains("strace -f -o"), "{error}");
        }
    }
}
