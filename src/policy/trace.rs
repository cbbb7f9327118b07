//! A line of what strace writes: which call, with which arguments, as far as they tell. What is traced may be hostile, and so
//! may the trace be: whatever stands there is read as a call or not.

use sandbox::policy::{Catalogue, Seen};

/// Most arguments of a call; the kernel takes six.
const ARGUMENTS_MAX: usize = 16;

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A system call.
    Call(Call<'a>),
    /// A process makes calls of another ABI from here on.
    OtherAbi,
    /// Something else that strace says, such as a signal or the second half of a call.
    Nothing,
    /// No line of strace's.
    NotUnderstood,
}

/// A system call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call<'a> {
    /// Its name, or `syscall_0x…` if strace knew none.
    pub(super) name: &'a str,
    /// As far as the closing parenthesis, if that is there.
    pub(super) text: &'a str,
    arguments: Vec<&'a str>,
}

/// Reads a line.
pub(super) fn read(line: &str) -> Line<'_> {
    let line = line.trim();
    if line.strip_prefix("strace: ").unwrap_or(line).starts_with("[ Process PID=") {
        return if line.ends_with("in 64 bit mode. ]") { Line::Nothing } else { Line::OtherAbi };
    }
    let rest = without_prefix(line);
    let said = ["--- ", "+++ ", "<... ", "strace: ", "???"];
    if rest.is_empty() || said.iter().any(|beginning| rest.starts_with(beginning)) {
        return Line::Nothing;
    }
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, inner) = rest.split_at(end);
    match inner.strip_prefix('(') {
        Some(inner) if !name.is_empty() => {
            let (arguments, length) = arguments(inner);
            Line::Call(Call { name, text: &rest[..end + 1 + length], arguments })
        }
        _ => Line::NotUnderstood,
    }
}

/// The line without the process, the time, the instruction and the number that strace may put before a call.
fn without_prefix(line: &str) -> &str {
    let mut rest = line;
    loop {
        let after = match rest.as_bytes().first() {
            Some(b'[') => rest.split_once(']').map(|(_, after)| after),
            // Names of calls begin with a letter.
            Some(b'0'..=b'9') => {
                let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit());
                // A process with its name, as in `1234<bash>`.
                let named = digits.strip_prefix('<').and_then(|name| name.split_once('>'));
                named.map(|(_, after)| after).or_else(|| rest.split_once(char::is_whitespace).map(|(_, after)| after))
            }
            Some(b'+') if !rest.starts_with("+++") => rest.split_once(char::is_whitespace).map(|(_, after)| after),
            _ => None,
        };
        match after {
            Some(after) => rest = after.trim_start(),
            None => return rest,
        }
    }
}

/// Splits arguments at their commas, up to the parenthesis that closes them. Gives them, and how far they go.
fn arguments(text: &str) -> (Vec<&str>, usize) {
    let mut arguments = Vec::new();
    let (mut start, mut depth, mut quoted, mut escaped, mut named) = (0, 0_u32, false, false, false);
    let mut before = ' ';
    let mut end = text.len();
    let mut length = end;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if !named => quoted = !quoted,
            _ if quoted => {}
            '<' if text[at..].starts_with("<unfinished") => {
                (end, length) = (at, at);
                break;
            }
            // What a descriptor refers to, as in `3</a,b>` and `4<TCP:[127.0.0.1:1->127.0.0.1:2]>`.
            '<' => named = true,
            '>' if named && before != '-' => named = false,
            _ if named => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => {
                (end, length) = (at, at + 1);
                break;
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                if arguments.len() < ARGUMENTS_MAX {
                    arguments.push(text[start..at].trim());
                }
                start = at + 1;
            }
            _ => {}
        }
        before = c;
    }
    let last = text[start..end].trim();
    if !last.is_empty() && arguments.len() < ARGUMENTS_MAX {
        arguments.push(last);
    }
    (arguments, length)
}

impl Call<'_> {
    /// What the trace tells of an argument, which strace may call by its name: `clone(child_stack=NULL, flags=SIGCHLD)`.
    pub(super) fn argument(&self, index: usize, name: Option<&str>) -> Seen {
        let named = self.arguments.iter().filter_map(|argument| argument.split_once('='));
        let named = named.filter(|(called, _)| Some(*called) == name).map(|(_, value)| value).next();
        let plain = || self.arguments.get(index).copied().filter(|argument| !is_named(argument));
        named.or_else(plain).map_or(Seen::Nothing, value)
    }
}

fn is_named(argument: &str) -> bool {
    argument.split_once('=').is_some_and(|(name, _)| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
}

/// What an argument's text tells of its value: numbers, and names that rules have, joined by `|`.
fn value(text: &str) -> Seen {
    let text = uncommented(text);
    // Older versions give all names of a number.
    if let Some(known) = text.split(" or ").find_map(number).filter(|_| text.contains(" or ")) {
        return Seen::Exactly(known);
    }
    let (mut bits, mut all) = (0, true);
    for part in text.split('|') {
        match number(part.trim()) {
            Some(number) => bits |= number,
            None => all = false,
        }
    }
    if all { Seen::Exactly(bits) } else { Seen::AtLeast(bits) }
}

fn uncommented(text: &str) -> &str {
    let text = text.split_once("/*").map_or(text, |(before, _)| before);
    text.trim()
}

fn number(text: &str) -> Option<u64> {
    if text == "NULL" {
        return Some(0);
    }
    if let Some(device) = text.strip_prefix("makedev(").and_then(|device| device.strip_suffix(')')) {
        let (major, minor) = device.split_once(',')?;
        return Some(number(major.trim())? << 8 | number(minor.trim())?);
    }
    if let Some(negative) = text.strip_prefix('-') {
        return negative.parse::<i64>().ok().map(|number| (-number).cast_unsigned());
    }
    let parsed = match text.strip_prefix("0x") {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8),
        None => text.parse(),
    };
    parsed.ok().or_else(|| Catalogue::get().constant(text).map(u64::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(line: &str) -> (&str, Vec<&str>) {
        match read(line) {
            Line::Call(call) => (call.name, call.arguments),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn calls_are_found_behind_all_that_strace_puts_before_them() {
        for before in [
            "",
            "1234  ",
            "[pid  1234] ",
            "1234<bash> ",
            "1234<my shell> ",
            "12:00:01 ",
            "12:00:01.123456 ",
            "1234 1700000000.123456 ",
            "     0.000012 ",
            "1234      +0.000012 ",
            "[00007f1234567890] ",
            "1234 [  41] ",
        ] {
            let line = format!("{before}socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0) = 3");
            assert_eq!(call(&line), ("socket", vec!["AF_UNIX", "SOCK_STREAM|SOCK_CLOEXEC", "0"]), "{line}");
        }
    }

    #[test]
    fn arguments_end_where_they_end() {
        for (line, arguments) in [
            (r#"write(1, "a, b\") (", 7) = 7"#, vec!["1", r#""a, b\") (""#, "7"]),
            ("getpid() = 1", vec![]),
            ("wait4(-1,  <unfinished ...>", vec!["-1"]),
            ("read(3</tmp/a,b)>, {a=1, b=[2, 3]}, 4", vec!["3</tmp/a,b)>", "{a=1, b=[2, 3]}", "4"]),
            ("read(3<TCP:[1.1.1.1:1->2.2.2.2:2]>, 0x1, 4)", vec!["3<TCP:[1.1.1.1:1->2.2.2.2:2]>", "0x1", "4"]),
            (
                "mknodat(AT_FDCWD, \"x\", S_IFCHR|0600, makedev(0x1, 0x3)) = 0",
                vec!["AT_FDCWD", "\"x\"", "S_IFCHR|0600", "makedev(0x1, 0x3)"],
            ),
        ] {
            assert_eq!(call(line).1, arguments, "{line}");
        }
        let Line::Call(call) = read("5 kill(1, SIGTERM) = -1 EPERM (Operation not permitted)") else {
            panic!("no call")
        };
        assert_eq!(call.text, "kill(1, SIGTERM)");
    }

    #[test]
    fn what_is_no_call_is_told_apart() {
        for line in [
            "",
            "--- SIGCHLD {si_signo=SIGCHLD} ---",
            "1 +++ exited with 0 +++",
            "5 <... read resumed>, 8) = 0",
            "strace: Process 7 attached",
            "[pid 3] ???( <unfinished ...>",
        ] {
            assert_eq!(read(line), Line::Nothing, "{line}");
        }
        for (line, said) in [
            ("strace: [ Process PID=7 runs in 32 bit mode. ]", Line::OtherAbi),
            ("[ Process PID=7 runs in x32 mode. ]\n", Line::OtherAbi),
            ("[ Process PID=7 runs in 64 bit mode. ]", Line::Nothing),
        ] {
            assert_eq!(read(line), said, "{line}");
        }
        for line in ["hello world", "# a comment", "(x)", "Ünïcode("] {
            assert_eq!(read(line), Line::NotUnderstood, "{line}");
        }
    }

    #[test]
    fn values_are_numbers_and_names_of_rules() {
        use Seen::{AtLeast, Exactly};
        for (text, seen) in [
            ("AF_INET", Exactly(2)),
            ("AF_ALG", AtLeast(0)),
            ("SOCK_RAW|SOCK_CLOEXEC", AtLeast(3)),
            ("0x2 /* AF_INET */", Exactly(2)),
            ("S_IFCHR|0600", Exactly(0x2000 | 0o600)),
            ("NULL", Exactly(0)),
            ("-1", Exactly(u64::MAX)),
            ("0xffffffff /* PER_??? */", Exactly(0xffff_ffff)),
            ("makedev(0x1, 0x3)", Exactly(0x103)),
            ("TIOCGWINSZ or OTHER", AtLeast(0)),
            ("TCGETS or SNDCTL_TMR_TIMEBASE", Exactly(0x5401)),
            ("TIOCSTI or OTHER", Exactly(0x5412)),
            ("{rlim_cur=0}", AtLeast(0)),
            ("[7564404]", AtLeast(0)),
        ] {
            assert_eq!(value(text), seen, "{text}");
        }
        let Line::Call(clone) = read("clone(child_stack=NULL, flags=CLONE_NEWUSER|SIGCHLD) = 5") else {
            panic!("no call")
        };
        assert_eq!(clone.argument(0, Some("flags")), AtLeast(0x1000_0000));
        assert_eq!(clone.argument(0, Some("other")), Seen::Nothing);
        assert_eq!(clone.argument(7, None), Seen::Nothing);
    }

    proptest! {
        #[test]
        fn any_line_is_read(line in "(\\PC|[(){}<>\\[\\]\",\\\\= ]|[0-9]){0,80}") {
            if let Line::Call(call) = read(&line) {
                prop_assert!(line.contains(call.text));
                for index in 0..8 {
                    call.argument(index, Some("flags"));
                }
            }
        }
    }
}
