//! What programs in a cell may ask of the kernel: the policy as data, with the reason of every part.
//!
//! The text lies in `sandbox/policy/`: calls that are allowed and refused in groups, rules on arguments, what the profile
//! `strict` refuses beyond, what one project may be granted, and what the server itself is refused. A [`Catalogue`] is all of
//! it, a [`Policy`] what holds for one cell, or for the server. [`Policy::decide`] is the meaning; the filter that the kernel runs is made from the same (`seccomp`) and
//! tested against it.

mod calls;
mod rule;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

pub(crate) use calls::AUDIT_ARCHITECTURE;
pub use calls::{name, number};
use rule::Constants;
pub(crate) use rule::{Condition, Test};
pub use rule::{Rule, Seen, When};
use text::Paragraph;

/// How much a cell may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// What developers' tools need, debuggers included.
    #[default]
    Default,
    /// The same without looking into processes and without confinement within the cell's own.
    Strict,
}

impl Profile {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Default, Self::Strict];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Strict => "strict",
        }
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|profile| profile.name() == text);
        named.ok_or_else(|| format!("must be \"default\" or \"strict\", is `{}`", text.escape_debug()))
    }
}

/// What a cell is to be filtered by.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Choice {
    /// How much it may.
    pub profile: Profile,
    /// Names of the grants it is to have beyond.
    pub allow: BTreeSet<String>,
}

/// What the operator lets projects choose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leeway {
    /// The profile of projects that choose none.
    pub profile: Profile,
    /// Names of the grants that projects may have; `default`, that they may have this profile where `strict` is the rule.
    pub may_allow: BTreeSet<String>,
}

impl Leeway {
    /// Checks a name that is to stand in `may_allow`.
    pub fn known(name: &str) -> Result<(), String> {
        if name == Profile::Default.name() { Ok(()) } else { Catalogue::get().grant(name).map(drop) }
    }

    /// Checks a choice; an error reads after `policy.` and names the remedy.
    pub fn check(&self, choice: &Choice) -> Result<(), String> {
        let lets = |name: &str| {
            let remedy =
                || format!("the server's configuration doesn't let it: add \"{name}\" to policy.may_allow there");
            if self.may_allow.contains(name) { Ok(()) } else { Err(remedy()) }
        };
        if choice.profile < self.profile {
            lets(choice.profile.name()).map_err(|reason| format!("profile: {reason}"))?;
        }
        for name in &choice.allow {
            let granted =
                Catalogue::get().grant(name).and_then(|_| lets(name).map_err(|reason| format!("{name}: {reason}")));
            granted.map_err(|reason| format!("allow: {reason}"))?;
        }
        Ok(())
    }
}

/// What a call is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is made.
    Allow,
    /// It fails with this error, by name and number.
    Error(&'static str, u16),
    /// It seems to have been made.
    Done,
}

impl Answer {
    const ERRORS: [Self; 5] = [
        Self::Error("EPERM", libc::EPERM as u16),
        NOT_THERE,
        Self::Error("EINVAL", libc::EINVAL as u16),
        Self::Error("EAFNOSUPPORT", libc::EAFNOSUPPORT as u16),
        Self::Error("EPROTONOSUPPORT", libc::EPROTONOSUPPORT as u16),
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Error(name, _) => name,
            Self::Done => "done",
        }
    }
}

/// The server's rule on sockets: what keeps it from looking names up.
const SERVER_SOCKETS: &str = "server-sockets";

/// What a call is answered that isn't in any list: libraries that try newer calls expect it.
pub const NOT_THERE: Answer = Answer::Error("ENOSYS", libc::ENOSYS as u16);

/// Calls that get the same answer for the same reason.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What their callers hear.
    pub answer: Answer,
    /// Why.
    pub reason: String,
    /// What callers do instead, if they are prepared for the answer.
    pub instead: Option<String>,
    /// The calls.
    pub calls: Vec<String>,
}

/// What one project may be given beyond its profile.
#[derive(Debug)]
pub struct Grant {
    /// The calls, under its name.
    pub group: Group,
    /// Names of the rules that it lifts.
    pub lifts: Vec<String>,
    /// What it costs.
    pub cost: String,
}

/// All of the policy's text.
#[derive(Debug)]
pub struct Catalogue {
    groups: Vec<Group>,
    rules: Vec<Rule>,
    strict_groups: Vec<Group>,
    strict_rules: Vec<Rule>,
    /// What projects may be given.
    pub grants: Vec<Grant>,
    server_groups: Vec<Group>,
    server_rules: Vec<Rule>,
    constants: Constants,
}

impl Catalogue {
    /// The text that was compiled in.
    pub fn get() -> &'static Self {
        static CATALOGUE: LazyLock<Catalogue> =
            LazyLock::new(|| Catalogue::read().expect("the policy's text is read by its tests"));
        &CATALOGUE
    }

    fn read() -> Result<Self, String> {
        /// A file of the policy by its name.
        macro_rules! file {
            ($name:literal) => {
                text::paragraphs($name, include_str!(concat!("../../policy/", $name)))?
            };
        }
        let constants = constants("constants.txt", include_str!("../../policy/constants.txt"))?;
        let groups = |file: Vec<Paragraph>| file.into_iter().map(group).collect::<Result<Vec<_>, _>>();
        let rules = |file: Vec<Paragraph>| {
            let rules = file.into_iter().map(|paragraph| self::rules(paragraph, &constants));
            Ok::<_, String>(rules.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        };
        let apart = |file: Vec<Paragraph>| file.into_iter().partition(|part| part.has("group"));
        let (strict_groups, strict_rules) = apart(file!("strict.txt"));
        let (server_groups, server_rules) = apart(file!("server.txt"));
        let mut listed = groups(file!("allowed.txt"))?;
        listed.extend(groups(file!("refused.txt"))?);
        Ok(Self {
            groups: listed,
            rules: rules(file!("arguments.txt"))?,
            strict_groups: groups(strict_groups)?,
            strict_rules: rules(strict_rules)?,
            grants: file!("grants.txt").into_iter().map(grant).collect::<Result<_, _>>()?,
            server_groups: groups(server_groups)?,
            server_rules: rules(server_rules)?,
            constants,
        })
    }

    /// The value of a name that a rule has.
    pub fn constant(&self, name: &str) -> Option<u32> {
        self.constants.get(name).copied()
    }

    /// A grant by its name.
    pub fn grant(&self, name: &str) -> Result<&Grant, String> {
        let known = || self.grants.iter().map(|grant| grant.group.name.as_str());
        let named = self.grants.iter().find(|grant| grant.group.name == name);
        named.ok_or_else(|| {
            let known = known().collect::<Vec<_>>().join(", ");
            format!("`{}` can't be granted; what can is {known}", name.escape_debug())
        })
    }

    /// What holds for a cell.
    pub fn policy(&self, choice: &Choice) -> Result<Policy<'_>, String> {
        let grants = choice.allow.iter().map(|name| self.grant(name)).collect::<Result<Vec<_>, _>>()?;
        let strict = choice.profile == Profile::Strict;
        let beyond = self.strict_groups.iter().filter(|_| strict);
        let groups = self.groups.iter().chain(beyond).chain(grants.iter().map(|grant| &grant.group));
        let rules = self.rules.iter().chain(self.strict_rules.iter().filter(|_| strict));
        let lifted = |rule: &Rule| grants.iter().any(|grant| grant.lifts.contains(&rule.name));
        Ok(Policy::of(groups.collect(), rules.filter(|rule| !lifted(rule))))
    }

    /// What holds for the server once it serves; or for a process beside it that `finds_names`.
    pub(crate) fn server(&self, finds_names: bool) -> Policy<'_> {
        let groups = self.groups.iter().chain(&self.server_groups);
        let rules = self.server_rules.iter().filter(|rule| !finds_names || rule.name != SERVER_SOCKETS);
        Policy::of(groups.collect(), rules.chain(&self.rules))
    }
}

/// What holds for one cell, or for the server.
#[derive(Debug)]
pub struct Policy<'a> {
    groups: Vec<&'a Group>,
    calls: BTreeMap<&'a str, &'a Group>,
    /// The rules on arguments of allowed calls.
    pub rules: Vec<&'a Rule>,
}

/// What decided about a call.
#[derive(Clone, Copy, Debug)]
pub enum Because<'a> {
    /// Its group.
    Group(&'a Group),
    /// A rule on its arguments.
    Rule(&'a Rule),
    /// That it is in no list.
    Unlisted,
}

/// What a call is answered, and why.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'a> {
    /// What its caller hears.
    pub answer: Answer,
    /// Why.
    pub because: Because<'a>,
    /// What is known of its arguments doesn't tell: a rule may hold.
    pub unclear: bool,
}

impl<'a> Policy<'a> {
    /// Of groups of calls, the later ones before the earlier, and of rules in their order, as far as their calls are allowed.
    fn of(groups: Vec<&'a Group>, rules: impl Iterator<Item = &'a Rule>) -> Self {
        let calls = groups.iter().flat_map(|group| group.calls.iter().map(move |call| (call.as_str(), *group)));
        let calls: BTreeMap<_, _> = calls.collect();
        let allowed = |call: &str| calls.get(call).is_some_and(|group| group.answer == Answer::Allow);
        let rules = rules.filter(|rule| allowed(&rule.call)).collect();
        Self { groups, calls, rules }
    }

    /// What a call with these arguments is answered.
    pub fn decide(&self, call: &str, argument: impl Fn(usize) -> Seen) -> Verdict<'a> {
        let Some(group) = self.calls.get(call) else {
            return Verdict { answer: NOT_THERE, because: Because::Unlisted, unclear: false };
        };
        let mut unclear = false;
        for rule in self.rules.iter().filter(|rule| rule.call == call) {
            match rule.holds(&argument) {
                Some(true) => return Verdict { answer: rule.answer, because: Because::Rule(rule), unclear: false },
                Some(false) => {}
                None => unclear = true,
            }
        }
        Verdict { answer: group.answer, because: Because::Group(group), unclear }
    }

    /// The groups with those of their calls about which they decide and which this architecture has.
    pub fn groups(&self) -> impl Iterator<Item = (&'a Group, Vec<&'a str>)> {
        self.groups.iter().filter_map(|group| {
            let decided = |call: &&str| self.calls.get(call).is_some_and(|other| std::ptr::eq(*other, *group));
            let calls: Vec<_> = group.calls.iter().map(String::as_str).filter(decided).collect();
            let here: Vec<_> = calls.into_iter().filter(|call| number(call).is_some()).collect();
            (here.len() + usize::from(group.calls.is_empty()) > 0).then_some((*group, here))
        })
    }
}

fn constants(file: &str, text: &'static str) -> Result<Constants, String> {
    let mut constants = Constants::new();
    for (line, words) in text::lines(text).filter(|(_, line)| !line.is_empty()) {
        let (name, number) =
            words.split_once(' ').ok_or_else(|| format!("{file}:{line}: `{words}` is no name and number"))?;
        let number = rule::value(number, &Constants::new()).map_err(|reason| format!("{file}:{line}: {reason}"))?;
        if constants.insert(name, number).is_some() {
            return Err(format!("{file}:{line}: `{name}` stands there twice"));
        }
    }
    Ok(constants)
}

fn answer(paragraph: &mut Paragraph) -> Result<Option<Answer>, String> {
    let Some(name) = paragraph.maybe("answer")? else { return Ok(None) };
    let known = Answer::ERRORS.into_iter().chain([Answer::Done]).find(|answer| answer.name() == name);
    known.map(Some).ok_or_else(|| paragraph.wrong(&format!("`{name}` is no answer")))
}

/// Calls by their names, each of which must exist.
fn calls(paragraph: &Paragraph, text: &str) -> Result<Vec<String>, String> {
    let known = |call: &str| {
        let known = calls::exists(call).then(|| call.to_owned());
        known.ok_or_else(|| paragraph.wrong(&format!("there is no system call `{call}`")))
    };
    text.split_whitespace().map(known).collect()
}

fn group(mut paragraph: Paragraph) -> Result<Group, String> {
    let name = paragraph.one("group")?;
    let names = paragraph.one("calls")?;
    let group = Group {
        name,
        answer: answer(&mut paragraph)?.unwrap_or(Answer::Allow),
        reason: paragraph.one("reason")?,
        instead: paragraph.maybe("instead")?,
        calls: calls(&paragraph, &names)?,
    };
    paragraph.end()?;
    Ok(group)
}

fn grant(mut paragraph: Paragraph) -> Result<Grant, String> {
    let name = paragraph.one("grant")?;
    let names = paragraph.maybe("calls")?.unwrap_or_default();
    let lifts = paragraph.maybe("lifts")?.unwrap_or_default();
    let reason = paragraph.one("reason")?;
    let group = Group { name, answer: Answer::Allow, reason, instead: None, calls: calls(&paragraph, &names)? };
    let lifts = lifts.split_whitespace().map(str::to_owned).collect();
    let grant = Grant { group, lifts, cost: paragraph.one("cost")? };
    paragraph.end()?;
    Ok(grant)
}

/// A rule for each call that a paragraph is about.
fn rules(mut paragraph: Paragraph, constants: &Constants) -> Result<Vec<Rule>, String> {
    let name = paragraph.one("rule")?;
    let about = paragraph.one("call")?;
    let texts = paragraph.all("when");
    let answer = answer(&mut paragraph)?.ok_or_else(|| paragraph.wrong("`answer` is missing"))?;
    let reason = paragraph.one("reason")?;
    let signatures = rule::signatures(&about).map_err(|reason| paragraph.wrong(&reason))?;
    let mut made = Vec::new();
    for (call, arguments) in signatures {
        calls(&paragraph, &call)?;
        let whens = texts.iter().map(|text| rule::when(text, &arguments, constants)).collect::<Result<Vec<_>, _>>();
        let whens = whens.map_err(|reason| paragraph.wrong(&reason))?;
        if whens.is_empty() {
            return Err(paragraph.wrong("`when` is missing"));
        }
        made.push(Rule { name: name.clone(), call, arguments, whens, answer, reason: reason.clone() });
    }
    paragraph.end()?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call that aarch64's table has for kernels of 32 bits alone.
    fn of_32_bits(call: &str) -> bool {
        call.ends_with("64") && number(&call.replace("_time64", "")).or(number(call.trim_end_matches("64"))).is_some()
    }

    #[test]
    fn every_call_that_linux_has_is_decided_in_one_place() {
        let catalogue = Catalogue::read().unwrap_or_else(|mistake| panic!("{mistake}"));
        let mut listed = BTreeSet::new();
        for group in &catalogue.groups {
            for call in &group.calls {
                assert!(listed.insert(call.as_str()), "{call} is listed twice, in {} too", group.name);
            }
        }
        let forgotten: Vec<_> = calls::all().filter(|call| !listed.contains(call) && !of_32_bits(call)).collect();
        assert!(forgotten.is_empty(), "neither in allowed.txt nor in refused.txt: {forgotten:?}");
    }

    #[test]
    fn every_part_decides_something() {
        let catalogue = Catalogue::get();
        let allowed = |call: &str| {
            catalogue.groups.iter().any(|g| g.answer == Answer::Allow && g.calls.iter().any(|c| c == call))
        };
        for (groups, whose) in [(&catalogue.strict_groups, "strict"), (&catalogue.server_groups, "the server's list")] {
            let mut listed = BTreeSet::new();
            for call in groups.iter().flat_map(|group| &group.calls) {
                assert!(allowed(call), "{whose} refuses {call}, which is not allowed");
                assert!(listed.insert(call), "{whose} has {call} twice");
            }
        }
        for grant in &catalogue.grants {
            assert!(!grant.group.calls.is_empty() || !grant.lifts.is_empty(), "{}", grant.group.name);
            for call in &grant.group.calls {
                assert!(!allowed(call), "{} grants {call}, which is allowed", grant.group.name);
            }
            for lifted in &grant.lifts {
                assert!(catalogue.rules.iter().any(|rule| rule.name == *lifted), "there is no rule {lifted}");
            }
        }
        for rule in catalogue.rules.iter().chain(&catalogue.strict_rules).chain(&catalogue.server_rules) {
            let granted = catalogue.grants.iter().any(|grant| grant.group.calls.contains(&rule.call));
            assert!(allowed(&rule.call) || granted, "rule {} is about a call that nobody has", rule.name);
        }
    }

    #[test]
    fn constants_are_the_kernels() {
        let same = |name: &str, value: u64| {
            assert_eq!(Catalogue::get().constant(name).map(u64::from), Some(value), "{name}");
        };
        macro_rules! same {
            ($($name:ident)*) => { $(same(stringify!($name), libc::$name as u64);)* };
        }
        same!(AF_UNIX AF_INET AF_INET6 AF_NETLINK SOCK_STREAM SOCK_DGRAM SOCK_RAW SOCK_RDM SOCK_SEQPACKET SOCK_DCCP
            IPPROTO_IP IPPROTO_ICMP IPPROTO_TCP IPPROTO_UDP IPPROTO_ICMPV6 IPPROTO_MPTCP NETLINK_ROUTE SOL_SOCKET
            SO_ATTACH_FILTER SO_ATTACH_BPF SO_ATTACH_REUSEPORT_CBPF SO_ATTACH_REUSEPORT_EBPF
            CLONE_NEWNS CLONE_NEWCGROUP CLONE_NEWUTS CLONE_NEWIPC CLONE_NEWUSER CLONE_NEWPID CLONE_NEWNET
            TIOCSTI TIOCLINUX TIOCCONS TIOCSETD S_IFMT S_IFCHR S_IFBLK RLIMIT_CORE PR_SET_SECCOMP ADDR_NO_RANDOMIZE
            TCP_ULP UNAME26 CLONE_THREAD PROT_EXEC FIONBIO FIONREAD FIOCLEX TCGETS TCGETS2);
        same("FUTEX_LOCK_PI_PRIVATE", (libc::FUTEX_LOCK_PI | libc::FUTEX_PRIVATE_FLAG) as u64);
        let command = !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
        same("FUTEX_CMD_MASK", u64::from(command as u32));
    }

    #[test]
    fn the_server_has_less_than_a_cell_and_its_rules_go_first() {
        let server = Catalogue::get().server(false);
        for (call, arguments, expected) in [
            ("read", &[][..], "allow"),
            ("execve", &[], "EPERM"),
            ("clone", &[0x0001_0000], "allow"),
            ("clone", &[17], "EPERM"),
            ("clone", &[0x1001_0000], "EPERM"),
            ("clone3", &[], "ENOSYS"),
            ("mmap", &[0, 4096, 3], "allow"),
            ("mmap", &[0, 4096, 5], "EPERM"),
            ("ioctl", &[0, 0x5421], "allow"),
            ("ioctl", &[0, 0x5413], "EPERM"),
            ("socket", &[1, 5], "allow"),
            ("socket", &[2, 0x80801], "allow"),
            ("socket", &[2, 0x80802], "EPERM"),
            // As a cell hears it, where the server's own rules say nothing.
            ("socket", &[2, 3], "EAFNOSUPPORT"),
            ("socket", &[38, 5], "EPERM"),
            ("socket", &[16, 3, 0], "EPERM"),
            ("setrlimit", &[4], "done"),
        ] {
            let argument = |index: usize| Seen::Exactly(arguments.get(index).copied().unwrap_or(0));
            assert_eq!(server.decide(call, argument).answer.name(), expected, "{call} {arguments:x?}");
        }
    }

    #[test]
    fn who_finds_names_has_datagrams_beyond_the_server() {
        let [server, beside] = [false, true].map(|finds_names| Catalogue::get().server(finds_names));
        for (call, arguments, expected) in [
            ("socket", [2, 0x80802, 0], "allow"),
            ("socket", [10, 2, 17], "allow"),
            ("socket", [16, 3, 0], "allow"),
            ("socket", [2, 3, 0], "EAFNOSUPPORT"),
            ("execve", [0; 3], "EPERM"),
            ("mmap", [0, 4096, 5], "EPERM"),
        ] {
            let argument = |index: usize| Seen::Exactly(arguments.get(index).copied().unwrap_or(0));
            assert_eq!(beside.decide(call, argument).answer.name(), expected, "{call} {arguments:x?}");
        }
        assert_eq!(beside.rules.len() + 1, server.rules.len());
    }

    fn answer_to(choice: &Choice, call: &str, arguments: &[u64]) -> &'static str {
        let policy = Catalogue::get().policy(choice).unwrap();
        policy.decide(call, |index| Seen::Exactly(arguments.get(index).copied().unwrap_or(0))).answer.name()
    }

    #[test]
    fn profiles_and_grants_differ_in_what_they_say() {
        let default = Choice::default();
        let strict = Choice { profile: Profile::Strict, ..Choice::default() };
        let granted = |name: &str| Choice { allow: BTreeSet::from([name.to_owned()]), ..Choice::default() };
        for (choice, call, arguments, expected) in [
            (&default, "ptrace", &[][..], "allow"),
            (&strict, "ptrace", &[], "EPERM"),
            (&default, "seccomp", &[], "allow"),
            (&strict, "seccomp", &[], "ENOSYS"),
            (&strict, "prctl", &[22], "EINVAL"),
            (&strict, "prctl", &[38], "allow"),
            (&default, "socket", &[2, 1, 262], "allow"),
            (&strict, "socket", &[2, 1, 262], "EPROTONOSUPPORT"),
            (&default, "socket", &[38, 5, 0], "EAFNOSUPPORT"),
            (&default, "io_uring_setup", &[], "ENOSYS"),
            (&granted("io-uring"), "io_uring_setup", &[], "allow"),
            (&granted("page-faults"), "userfaultfd", &[0], "EPERM"),
            (&granted("page-faults"), "userfaultfd", &[1], "allow"),
            (&default, "futex", &[0, 134], "ENOSYS"),
            (&default, "futex", &[0, 128], "allow"),
            (&granted("priority-futexes"), "futex", &[0, 134], "allow"),
            (&default, "a call to come", &[], "ENOSYS"),
        ] {
            assert_eq!(answer_to(choice, call, arguments), expected, "{choice:?}: {call} {arguments:?}");
        }
        let unknown = Leeway::default().check(&granted("bpf")).unwrap_err();
        assert!(unknown.starts_with("allow: `bpf` can't be granted; what can is io-uring, "), "{unknown}");
        let unknown = Catalogue::get().policy(&granted("bpf")).unwrap_err();
        assert!(unknown.starts_with("`bpf` can't be granted; what can is io-uring, "), "{unknown}");
    }

    #[test]
    fn what_widens_needs_the_operators_consent() {
        let leeway = |profile, names: &[&str]| Leeway {
            profile,
            may_allow: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let choice =
            |profile, names: &[&str]| Choice { profile, allow: names.iter().map(|&name| name.to_owned()).collect() };
        use Profile::{Default, Strict};
        for (given, chosen, fails) in [
            (leeway(Default, &[]), choice(Default, &[]), None),
            (leeway(Default, &[]), choice(Strict, &[]), None),
            (leeway(Strict, &[]), choice(Strict, &[]), None),
            (leeway(Strict, &[]), choice(Default, &[]), Some("profile: ")),
            (leeway(Strict, &["default"]), choice(Default, &[]), None),
            (leeway(Default, &[]), choice(Default, &["io-uring"]), Some("allow: io-uring: ")),
            (
                leeway(Default, &["page-faults"]),
                choice(Default, &["io-uring", "page-faults"]),
                Some("allow: io-uring: "),
            ),
            (leeway(Default, &["io-uring"]), choice(Strict, &["io-uring"]), None),
            (leeway(Default, &["default"]), choice(Default, &["default"]), Some("allow: `default` can't be granted")),
        ] {
            let checked = given.check(&chosen);
            match fails {
                None => assert_eq!(checked, Ok(())),
                Some(begin) => {
                    assert!(checked.as_ref().is_err_and(|e| e.starts_with(begin)), "{chosen:?}: {checked:?}")
                }
            }
        }
        assert!(
            Leeway::known("default").is_ok() && Leeway::known("io-uring").is_ok() && Leeway::known("strict").is_err()
        );
    }
}
