//! The filter that the kernel runs for every system call of a cell, compiled from a [`Policy`].
//!
//! One program in the language of BPF: the architecture first, then the calls with rules on their arguments, then all others
//! by ranges of numbers with equal answers. Ranges take a tenth of what one comparison a call takes: the kernel runs the
//! filter once for every number when it is loaded, and a cell's start waits for that. It doesn't know what is allowed, or why.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use libc::sock_filter;

use crate::policy::{
    AUDIT_ARCHITECTURE, Answer, Catalogue, Choice, Condition, NOT_THERE, Policy, Rule, Seen, Test, name, number,
};
use crate::sys;

/// A compiled filter.
pub(crate) struct Filter(Vec<sock_filter>);

impl Filter {
    /// Compiles a policy.
    pub(crate) fn compile(policy: &Policy<'_>) -> Result<Self, String> {
        let mut program = vec![
            load(ARCHITECTURE_AT),
            jump(libc::BPF_JEQ, AUDIT_ARCHITECTURE, 1, 0),
            give(libc::SECCOMP_RET_KILL_PROCESS),
            load(NUMBER_AT),
        ];
        let mut narrowed: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
        for rule in &policy.rules {
            if let Some(number) = number(&rule.call) {
                narrowed.entry(number).or_default().push(rule);
            }
        }
        for (number, rules) in narrowed {
            let block = by_arguments(&rules)?;
            program.extend([jump(libc::BPF_JEQ, number, 1, 0), skip(block.len())]);
            program.extend(block);
        }
        program.extend(by_number(policy));
        Ok(Self(program))
    }

    /// Binds this process and all its children for good. Needs `no_new_privs`.
    pub(crate) fn apply(&self) -> io::Result<()> {
        sys::install_filter(&self.0)
    }
}

/// Every filter that was asked for, compiled once. There are as many as profiles times sets of grants, some dozens, of which
/// a server's projects use two or three; names that don't exist make none.
#[derive(Default)]
pub(crate) struct Filters(BTreeMap<Choice, Rc<Filter>>);

impl Filters {
    /// The filter of a choice.
    pub(crate) fn get(&mut self, choice: &Choice) -> Result<Rc<Filter>, String> {
        if let Some(filter) = self.0.get(choice) {
            return Ok(filter.clone());
        }
        let filter = Rc::new(Filter::compile(&Catalogue::get().policy(choice)?)?);
        self.0.insert(choice.clone(), filter.clone());
        Ok(filter)
    }
}

// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// Where the lower half of an argument lies; the upper half is 4 bytes on.
fn argument_at(index: u8) -> u32 {
    16 + 8 * u32::from(index)
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

fn and(mask: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16, jt: 0, jf: 0, k: mask }
}

fn jump(test: u32, value: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | test | libc::BPF_K) as u16, jt, jf, k: value }
}

fn skip(instructions: usize) -> sock_filter {
    jump(libc::BPF_JA, instructions as u32, 0, 0)
}

fn give(answer: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: answer }
}

/// An answer as the kernel has it.
fn action(answer: Answer) -> u32 {
    match answer {
        Answer::Allow => libc::SECCOMP_RET_ALLOW,
        Answer::Error(_, number) => libc::SECCOMP_RET_ERRNO | u32::from(number),
        Answer::Done => libc::SECCOMP_RET_ERRNO,
    }
}

/// The answers to an allowed call by its arguments.
fn by_arguments(rules: &[&Rule]) -> Result<Vec<sock_filter>, String> {
    let mut block = Vec::new();
    for rule in rules {
        for when in &rule.whens {
            let mut tests: Vec<_> = when.conditions.iter().flat_map(condition).collect();
            let end = tests.len() + 1;
            for (at, (instruction, fails)) in tests.iter_mut().enumerate() {
                // Past the answer, from the instruction after this one.
                let away = u8::try_from(end - at - 1).map_err(|_| format!("rule {} is too long", rule.name))?;
                match fails {
                    Fails::Never => {}
                    Fails::IfTrue => instruction.jt = away,
                    Fails::IfFalse => instruction.jf = away,
                }
            }
            block.extend(tests.into_iter().map(|(instruction, _)| instruction));
            block.push(give(action(rule.answer)));
        }
    }
    block.push(give(libc::SECCOMP_RET_ALLOW));
    Ok(block)
}

/// On which outcome of an instruction's test its condition doesn't hold.
#[derive(Clone, Copy)]
enum Fails {
    Never,
    IfTrue,
    IfFalse,
}

/// The instructions of a condition: behind the last one if it holds.
fn condition(condition: &Condition) -> Vec<(sock_filter, Fails)> {
    let at = argument_at(condition.argument);
    let equal = |value: &u32| jump(libc::BPF_JEQ, *value, 0, 0);
    let mut code = vec![(load(at), Fails::Never)];
    if condition.mask != u32::MAX {
        code.push((and(condition.mask), Fails::Never));
    }
    match &condition.test {
        Test::In(values) => {
            for (index, value) in values.iter().enumerate() {
                let left = values.len() - index - 1;
                let fails = if left == 0 { Fails::IfFalse } else { Fails::Never };
                code.push((sock_filter { jt: left as u8, ..equal(value) }, fails));
            }
        }
        Test::NotIn(values) => code.extend(values.iter().map(|value| (equal(value), Fails::IfTrue))),
        Test::Has(flags) => code.push((jump(libc::BPF_JSET, *flags, 0, 0), Fails::IfFalse)),
        Test::Given => code.extend([
            (jump(libc::BPF_JEQ, 0, 0, 2), Fails::Never),
            (load(at + 4), Fails::Never),
            (equal(&0), Fails::IfTrue),
        ]),
    }
    code
}

/// The answers to calls by their numbers alone.
fn by_number(policy: &Policy<'_>) -> Vec<sock_filter> {
    // One past the newest call that there is a name for.
    const NUMBERS: u32 = 1024;
    let answer = |number| {
        // Rules come before this.
        let decided = name(number).map(|call| policy.decide(call, |_| Seen::Nothing).answer);
        action(decided.unwrap_or(NOT_THERE))
    };
    let mut program = Vec::new();
    let mut present = answer(0);
    for number in 1..=NUMBERS {
        // From the lowest number up: whatever is below the next change of answer gets the present one.
        let answer = answer(number);
        if answer != present {
            program.extend([jump(libc::BPF_JGE, number, 1, 0), give(present)]);
            present = answer;
        }
    }
    program.push(give(action(NOT_THERE)));
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Profile;
    use proptest::prelude::*;

    /// Runs a filter as the kernel does, for the few instructions that are used.
    fn run(Filter(program): &Filter, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            match u32::from(step.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    loaded = match step.k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => architecture,
                        offset => {
                            let (index, half) = ((offset - 16) / 8, (offset - 16) % 8);
                            (arguments[index as usize] >> (8 * half)) as u32
                        }
                    }
                }
                code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => loaded &= step.k,
                code if code == libc::BPF_RET | libc::BPF_K => return step.k,
                code if code == libc::BPF_JMP | libc::BPF_JA => at += step.k as usize,
                code => {
                    let holds = match code & !libc::BPF_JMP {
                        libc::BPF_JEQ => loaded == step.k,
                        libc::BPF_JGE => loaded >= step.k,
                        libc::BPF_JSET => loaded & step.k != 0,
                        other => panic!("instruction {other:#x}"),
                    };
                    at += usize::from(if holds { step.jt } else { step.jf });
                }
            }
        }
    }

    fn choices() -> impl Iterator<Item = Choice> {
        let grants: Vec<_> = Catalogue::get().grants.iter().map(|grant| grant.group.name.clone()).collect();
        (0..1 << grants.len()).flat_map(move |set: u32| {
            let chosen = grants.iter().enumerate().filter(|(index, _)| set >> index & 1 == 1);
            let allow: std::collections::BTreeSet<_> = chosen.map(|(_, name)| name.clone()).collect();
            Profile::ALL.map(|profile| Choice { profile, allow: allow.clone() })
        })
    }

    fn expected(policy: &Policy<'_>, number: u32, arguments: [u64; 6]) -> u32 {
        let decided = name(number).map(|call| policy.decide(call, |index| Seen::Exactly(arguments[index])).answer);
        action(decided.unwrap_or(NOT_THERE))
    }

    /// Every policy there is, with its name.
    fn policies() -> impl Iterator<Item = (String, Policy<'static>)> {
        let cells = choices().map(|choice| (format!("{choice:?}"), Catalogue::get().policy(&choice).unwrap()));
        let beside = [("the server", false), ("who finds names", true)];
        cells.chain(beside.map(|(whose, finds_names)| (whose.to_owned(), Catalogue::get().server(finds_names))))
    }

    #[test]
    fn every_number_gets_its_answer_under_every_policy() {
        for (whose, policy) in policies() {
            let filter = Filter::compile(&policy).unwrap();
            assert!(filter.0.len() < 4096, "the kernel takes 4096 instructions, these are {}", filter.0.len());
            for number in 0..2000 {
                for arguments in [[0; 6], [u64::MAX; 6]] {
                    let given = run(&filter, AUDIT_ARCHITECTURE, number, arguments);
                    assert_eq!(given, expected(&policy, number, arguments), "{whose}: {:?}", name(number));
                }
            }
            for number in (0..2000).map(|number| 0x4000_0000 | number).chain([u32::MAX]) {
                let given = run(&filter, AUDIT_ARCHITECTURE, number, [0; 6]);
                assert_eq!(given, action(NOT_THERE), "x32 call {number:#x}");
            }
            assert_eq!(run(&filter, 0x4000_0003, 1, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS, "i386");
        }
    }

    #[test]
    fn the_limit_of_cores_can_be_asked_and_not_changed() {
        let filter = Filters::default().get(&Choice::default()).unwrap();
        let core = u64::from(libc::RLIMIT_CORE);
        for (call, arguments, expected) in [
            ("setrlimit", [core, 1, 0], action(Answer::Done)),
            ("setrlimit", [1 << 32 | core, 1, 0], action(Answer::Done)),
            ("setrlimit", [u64::from(libc::RLIMIT_NOFILE), 1, 0], libc::SECCOMP_RET_ALLOW),
            ("prlimit64", [0, core, 8], action(Answer::Done)),
            ("prlimit64", [7, core, 1 << 32], action(Answer::Done)),
            ("prlimit64", [0, core, 0], libc::SECCOMP_RET_ALLOW),
            ("prlimit64", [0, u64::from(libc::RLIMIT_NOFILE), 8], libc::SECCOMP_RET_ALLOW),
            ("getrlimit", [core, 8, 8], libc::SECCOMP_RET_ALLOW),
        ] {
            let [a, b, c] = arguments;
            let given = run(&filter, AUDIT_ARCHITECTURE, number(call).unwrap(), [a, b, c, 0, 0, 0]);
            assert_eq!(given, expected, "{call} with {arguments:?}");
        }
    }

    /// An argument near those that rules speak of, with high bits or without.
    fn argument() -> impl Strategy<Value = u64> {
        let constants = [
            "AF_INET",
            "AF_NETLINK",
            "SOCK_RAW",
            "IPPROTO_TCP",
            "IPPROTO_MPTCP",
            "CLONE_NEWUSER",
            "CLONE_THREAD",
            "PROT_EXEC",
            "FIONBIO",
            "TIOCSTI",
            "TCP_ULP",
            "UDP_ENCAP",
            "S_IFBLK",
            "S_IFCHR",
            "FUTEX_LOCK_PI_PRIVATE",
            "PER_QUERY",
            "PR_SET_SECCOMP",
        ];
        let near = proptest::sample::select(constants.to_vec());
        let low = prop_oneof![near.prop_map(|name| Catalogue::get().constant(name).unwrap()), 0..64_u32, any::<u32>(),];
        (low, prop_oneof![Just(0), any::<u32>()], any::<bool>())
            .prop_map(|(low, high, flags)| u64::from(low | if flags { 0x80800 } else { 0 }) | u64::from(high) << 32)
    }

    proptest! {
        #[test]
        fn the_filter_says_what_the_policy_means(
            whose in proptest::option::of(proptest::sample::select(Profile::ALL.to_vec())),
            rule in any::<proptest::sample::Index>(),
            arguments in proptest::array::uniform6(argument()),
        ) {
            let of_cell = |profile| Catalogue::get().policy(&Choice { profile, ..Choice::default() }).unwrap();
            let policy = whose.map_or_else(|| Catalogue::get().server(false), of_cell);
            let filter = Filter::compile(&policy).unwrap();
            let call = &rule.get(&policy.rules).call;
            if let Some(number) = number(call) {
                let given = run(&filter, AUDIT_ARCHITECTURE, number, arguments);
                prop_assert_eq!(given, expected(&policy, number, arguments), "{} {:?}", call, arguments);
            }
        }
    }
}
