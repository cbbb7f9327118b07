//! A rule on the arguments of a call: what it says, and whether it holds.

use std::collections::BTreeMap;

use super::Answer;

/// Names of values.
pub(super) type Constants = BTreeMap<&'static str, u32>;

/// What is refused of a call that is allowed otherwise, and why.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// The call.
    pub call: String,
    /// The names of the call's first arguments, as strace and the manual have them or nearly so.
    pub arguments: Vec<String>,
    /// It holds if one of these does.
    pub whens: Vec<When>,
    /// What the caller hears.
    pub answer: Answer,
    /// Why.
    pub reason: String,
}

/// Conditions that hold together.
#[derive(Debug)]
pub struct When {
    /// As it is written.
    pub text: String,
    pub(crate) conditions: Vec<Condition>,
}

/// A condition on one argument.
#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) argument: u8,
    /// The bits that are compared.
    pub(crate) mask: u32,
    pub(crate) test: Test,
}

#[derive(Debug)]
pub(crate) enum Test {
    In(Vec<u32>),
    NotIn(Vec<u32>),
    /// One of these bits is set.
    Has(u32),
    /// A pointer that isn't null.
    Given,
}

/// What is known of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All of it.
    Exactly(u64),
    /// These bits, of a value that has others too which no rule names.
    AtLeast(u64),
    /// Nothing.
    Nothing,
}

impl Rule {
    /// Whether it holds for these arguments; `None` if what is known of them doesn't tell.
    pub(super) fn holds(&self, argument: &impl Fn(usize) -> Seen) -> Option<bool> {
        any(self.whens.iter().map(|when| {
            let fails = when.conditions.iter().map(|condition| {
                let holds = condition.holds(argument(usize::from(condition.argument)));
                holds.map(|holds| !holds)
            });
            any(fails).map(|fails| !fails)
        }))
    }
}

/// Whether one of these is so, in a logic that knows "who knows".
fn any(all: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut known = true;
    for one in all {
        match one {
            Some(true) => return Some(true),
            Some(false) => {}
            None => known = false,
        }
    }
    known.then_some(false)
}

impl Condition {
    fn holds(&self, seen: Seen) -> Option<bool> {
        // As the kernel reads an int: high bits can't smuggle a value past.
        let (bits, all_of_it) = match seen {
            Seen::Exactly(value) => (value, true),
            // A name that no rule has stands for a bit outside of the mask, or for quite another value.
            Seen::AtLeast(bits) => (bits, self.mask != u32::MAX),
            Seen::Nothing => return None,
        };
        let low = bits as u32;
        Some(match &self.test {
            Test::In(values) => all_of_it && values.contains(&(low & self.mask)),
            Test::NotIn(values) => !(all_of_it && values.contains(&(low & self.mask))),
            Test::Has(flags) => low & flags != 0,
            Test::Given => bits != 0 || !all_of_it,
        })
    }
}

/// Reads the calls that a rule is about: `mknodat(folder, path, mode, device) mknod(path, mode, device)`.
pub(super) fn signatures(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let mut calls = Vec::new();
    for call in text.split_inclusive(')') {
        let inner = call.trim().strip_suffix(')').and_then(|call| call.split_once('('));
        let (name, arguments) = inner.ok_or_else(|| format!("`{}` is no call(argument, …)", call.trim()))?;
        calls.push((name.to_owned(), arguments.split(',').map(|argument| argument.trim().to_owned()).collect()));
    }
    Ok(calls)
}

/// Reads a `when`: conditions between semicolons.
pub(super) fn when(text: &str, arguments: &[String], constants: &Constants) -> Result<When, String> {
    let conditions = text.split(';').map(|condition| self::condition(condition.trim(), arguments, constants));
    Ok(When { text: text.to_owned(), conditions: conditions.collect::<Result<_, _>>()? })
}

fn condition(text: &str, arguments: &[String], constants: &Constants) -> Result<Condition, String> {
    let mut words = text.split_whitespace().peekable();
    let name = words.next().unwrap_or_default();
    let index = arguments.iter().position(|argument| argument == name);
    let argument = index.ok_or_else(|| format!("`{name}` is none of the call's arguments"))? as u8;
    let mut mask = u32::MAX;
    if words.next_if_eq(&"&").is_some() {
        mask = value(words.next().unwrap_or_default(), constants)?;
    }
    let operator = words.next().unwrap_or_default();
    let negated = operator == "not" && words.next() == Some("in");
    let values = words.map(|word| value(word, constants)).collect::<Result<Vec<_>, _>>()?;
    let test = match (operator, values.is_empty()) {
        ("given", true) => Test::Given,
        ("in", false) => Test::In(values),
        ("not", false) if negated => Test::NotIn(values),
        ("has", false) => Test::Has(values.iter().fold(0, |all, bits| all | bits)),
        _ => return Err(format!("`{text}` has no `in`, `not in` or `has` with values, nor `given`")),
    };
    Ok(Condition { argument, mask, test })
}

/// A value by its name or as a number.
pub(super) fn value(word: &str, constants: &Constants) -> Result<u32, String> {
    let number = match word.strip_prefix("0x") {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok(),
        None => word.parse().ok(),
    };
    number.or_else(|| constants.get(word).copied()).ok_or_else(|| format!("`{word}` is no constant"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str, seen: Seen) -> Option<bool> {
        let constants = Constants::from([("A", 1), ("B", 2), ("MASK", 0xf)]);
        condition(text, &["x".to_owned()], &constants).unwrap().holds(seen)
    }

    #[test]
    fn conditions_hold_for_what_they_name() {
        use Seen::{AtLeast, Exactly, Nothing};
        const HIGH: u64 = 1 << 32;
        for (text, seen, expected) in [
            ("x in A B", Exactly(2), true),
            ("x in A B", Exactly(HIGH | 2), true),
            ("x in A B", Exactly(3), false),
            ("x in A B", AtLeast(0), false),
            ("x not in A B", Exactly(2), false),
            ("x not in A B", Exactly(HIGH | 2), false),
            ("x not in 0 A", AtLeast(0), true),
            ("x & MASK in A", Exactly(0x11), true),
            ("x & MASK in A", AtLeast(1), true),
            ("x & 0xf in 2", AtLeast(1), false),
            ("x has A B", Exactly(4), false),
            ("x has A B", AtLeast(6), true),
            ("x given", Exactly(HIGH), true),
            ("x given", Exactly(0), false),
            ("x given", AtLeast(0), true),
        ] {
            assert_eq!(holds(text, seen), Some(expected), "{text}, {seen:?}");
            assert_eq!(holds(text, Nothing), None);
        }
    }

    #[test]
    fn who_knows_is_no_answer_if_the_rest_tells() {
        assert_eq!(any([None, Some(true)].into_iter()), Some(true));
        assert_eq!(any([None, Some(false)].into_iter()), None);
        assert_eq!(any([Some(false)].into_iter()), Some(false));
    }

    #[test]
    fn what_is_wrong_in_a_rule_is_said() {
        let wrong = |text| condition(text, &["x".to_owned()], &Constants::new()).unwrap_err();
        assert_eq!(wrong("y in 1"), "`y` is none of the call's arguments");
        assert_eq!(wrong("x in A"), "`A` is no constant");
        for text in ["x in", "x not 1", "x is 1", "x", "x given 1"] {
            assert!(wrong(text).contains("has no `in`"), "{text}");
        }
        assert!(signatures("clone").unwrap_err().contains("is no call"));
    }
}
