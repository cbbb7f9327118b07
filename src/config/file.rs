//! A configuration as the file that says it: what isn't as by default is set, the rest stands in comments.

use super::Config;
use super::keys::{KEYS, Key};
use super::value::Value;

/// How wide a comment's lines are.
const WIDTH: usize = 100;

impl Config {
    /// The file's text, with every key.
    pub(crate) fn to_file(&self) -> String {
        let mut file =
            "# Configuration of Cloister: /etc/cloister/config.toml. What stands in a comment is the default.\n"
                .to_owned();
        let default = Self::default();
        for key in KEYS {
            file.push('\n');
            let mut line = "#".to_owned();
            for word in key.doc.split(' ') {
                if line.len() + 1 + word.len() > WIDTH {
                    file += &(std::mem::replace(&mut line, "#".to_owned()) + "\n");
                }
                line = line + " " + word;
            }
            let is_default = (key.get)(self) == (key.get)(&default);
            let mark = if is_default { "# " } else { "" };
            file += &format!("{line}.\n{mark}{} = {}\n", key.name, self.in_toml(key));
        }
        file
    }

    /// A key's value, in the type that the key takes.
    fn in_toml(&self, key: &Key) -> String {
        let text = (key.get)(self);
        let takes = |value: Value<'_>| {
            let mut config = self.clone();
            (key.set)(&mut config, value).is_ok() && config == *self
        };
        let quoted = |text: &str| toml::Value::from(text).to_string();
        if text.parse().is_ok_and(|yes| takes(Value::Boolean(yes)))
            || text.parse().is_ok_and(|number| takes(Value::Integer(number)))
        {
            text
        } else if takes(Value::Text(&text)) {
            quoted(&text)
        } else {
            let elements: Vec<_> = text.split(',').filter(|element| !element.is_empty()).map(quoted).collect();
            format!("[{}]", elements.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_is_printed_says_the_same() {
        let mut config = Config::default();
        let text = r#"
            cgroup = "cloister.slice/cloister-cells.service"
            create_projects = true
            allowed_origins = ["https://a.example", "https://b.example"]
            state = "/a \"b\""
            limits.pids_max = 77
        "#;
        config.set_from_file(Path::new("c.toml"), text).unwrap();
        let printed = config.to_file();
        let set = printed.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        assert_eq!(set, 5, "{printed}");
        let mut read = Config::default();
        read.set_from_file(Path::new("c.toml"), &printed).unwrap();
        assert_eq!(read, config);
        // What is in comments is right, too.
        let uncommented: Vec<_> = printed
            .lines()
            .map(|line| if line.contains(" = ") { line.trim_start_matches("# ") } else { line })
            .collect();
        let mut read = Config::default();
        read.set_from_file(Path::new("c.toml"), &uncommented.join("\n")).unwrap();
        assert_eq!(read, config);
    }
}
