//! The policy as text: what is allowed and why, what is refused and why, and what one project may be granted.

use sandbox::policy::{Answer, Catalogue, Choice, Policy};

/// Columns of the text.
const WIDTH: usize = 110;

/// What holds for a choice.
pub(super) fn text(catalogue: &Catalogue, policy: &Policy<'_>, choice: &Choice) -> String {
    let mut text = format!("Profile {}", choice.profile.name());
    if !choice.allow.is_empty() {
        let granted: Vec<_> = choice.allow.iter().map(String::as_str).collect();
        text.push_str(&format!(", granted {}", granted.join(", ")));
    }
    text.push_str("\n\nAllowed\n");
    for (group, calls) in policy.groups().filter(|(group, _)| group.answer == Answer::Allow) {
        paragraph(&mut text, 2, &format!("{}: {}", group.name, group.reason));
        paragraph(&mut text, 4, &calls.join(" "));
    }
    text.push_str("\nRefused of these, by their arguments\n");
    let mut named = "";
    for rule in &policy.rules {
        // One for each call that it is about.
        if rule.name != named {
            paragraph(&mut text, 2, &format!("{}, {}: {}", rule.name, rule.answer.name(), rule.reason));
            named = &rule.name;
        }
        for when in &rule.whens {
            paragraph(&mut text, 4, &format!("{}({}) where {}", rule.call, rule.arguments.join(", "), when.text));
        }
    }
    text.push_str("\nRefused\n");
    for (group, calls) in policy.groups().filter(|(group, _)| group.answer != Answer::Allow) {
        let instead = group.instead.as_ref().map(|instead| format!("; {instead}")).unwrap_or_default();
        paragraph(&mut text, 2, &format!("{}, {}: {}{instead}", group.name, group.answer.name(), group.reason));
        paragraph(&mut text, 4, &calls.join(" "));
    }
    text.push_str(
        "  ENOSYS: every call that is newer than these lists, and the numbers of x32\n  killed: a call of another ABI (i386)\n",
    );
    text.push_str(
        "\nWhat a project may ask for ([policy] allow in project.toml), if the operator agrees (policy.may_allow)\n",
    );
    for grant in &catalogue.grants {
        paragraph(&mut text, 2, &format!("{}: {}", grant.group.name, grant.group.reason));
        paragraph(&mut text, 4, &format!("costs: {}", grant.cost));
        if !grant.group.calls.is_empty() {
            paragraph(&mut text, 4, &format!("allows {}", grant.group.calls.join(" ")));
        }
        if !grant.lifts.is_empty() {
            paragraph(&mut text, 4, &format!("lifts the rule {}", grant.lifts.join(" ")));
        }
    }
    text
}

/// Adds words in lines that begin so far in.
pub(super) fn paragraph(text: &mut String, indent: usize, words: &str) {
    let mut column = 0;
    for word in words.split(' ') {
        if column == 0 || column + 1 + word.chars().count() > WIDTH {
            if column > 0 {
                text.push('\n');
            }
            text.push_str(&" ".repeat(indent));
            column = indent;
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += word.chars().count();
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_told_and_fits() {
        for profile in sandbox::policy::Profile::ALL {
            let catalogue = Catalogue::get();
            let choice = Choice { profile, allow: ["io-uring".to_owned()].into() };
            let text = text(catalogue, &catalogue.policy(&choice).unwrap(), &choice);
            assert!(text.starts_with(&format!("Profile {}, granted io-uring\n", profile.name())));
            for call in ["openat", "clone3", "mount", "ptrace", "socket(family) where family not in AF_UNIX"] {
                assert!(text.contains(call), "{call}");
            }
            let allowed = text.split("\nRefused\n").next().unwrap();
            assert!(allowed.contains("io_uring_setup"), "{allowed}");
            assert_eq!(allowed.contains(" ptrace "), profile.name() == "default");
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH && line == line.trim_end()), "{text}");
        }
    }
}
