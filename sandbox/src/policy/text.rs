//! The form of the policy's files: paragraphs of `key: value`. It knows no key.

/// A paragraph of a file.
pub(super) struct Paragraph {
    file: &'static str,
    line: usize,
    fields: Vec<(&'static str, String)>,
}

/// Splits a file into its paragraphs. A line that begins with a space goes on with the one before, `#` begins a comment.
pub(super) fn paragraphs(file: &'static str, text: &'static str) -> Result<Vec<Paragraph>, String> {
    let mut paragraphs: Vec<Paragraph> = Vec::new();
    let mut open = false;
    for (line, words) in lines(text) {
        if words.trim().is_empty() {
            open = false;
            continue;
        }
        if !open {
            paragraphs.push(Paragraph { file, line, fields: Vec::new() });
            open = true;
        }
        let fields = &mut paragraphs.last_mut().expect("one was just pushed").fields;
        if words.starts_with(' ') {
            let (_, value) = fields.last_mut().ok_or_else(|| format!("{file}:{line}: goes on with nothing"))?;
            value.push(' ');
            value.push_str(words.trim());
        } else {
            let (key, value) =
                words.split_once(':').ok_or_else(|| format!("{file}:{line}: `{words}` is no `key: value`"))?;
            fields.push((key, value.trim().to_owned()));
        }
    }
    Ok(paragraphs)
}

/// The lines of a file that are no comments, numbered from 1.
pub(super) fn lines(text: &'static str) -> impl Iterator<Item = (usize, &'static str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line)).filter(|(_, line)| !line.starts_with('#'))
}

impl Paragraph {
    /// Takes all values of a key, in their order.
    pub(super) fn all(&mut self, key: &str) -> Vec<String> {
        let taken = self.fields.extract_if(.., |(name, _)| *name == key);
        taken.map(|(_, value)| value).collect()
    }

    /// Takes the value of a key that may stand there once.
    pub(super) fn maybe(&mut self, key: &str) -> Result<Option<String>, String> {
        let mut values = self.all(key);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(self.wrong(&format!("`{key}` stands there twice"))),
        }
    }

    /// Takes the value of a key that must stand there.
    pub(super) fn one(&mut self, key: &str) -> Result<String, String> {
        self.maybe(key)?.ok_or_else(|| self.wrong(&format!("`{key}` is missing")))
    }

    /// Whether it is about this.
    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.iter().any(|(name, _)| *name == key)
    }

    /// Checks that every key was taken.
    pub(super) fn end(self) -> Result<(), String> {
        self.fields.first().map_or(Ok(()), |(key, _)| Err(self.wrong(&format!("`{key}` is no key here"))))
    }

    /// An error with its place.
    pub(super) fn wrong(&self, what: &str) -> String {
        format!("{}:{}: {what}", self.file, self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_goes_on_over_lines_and_comments() {
        let mut read = paragraphs("f", "# c\n\na: 1\n# c\n  2\nb: 3\nb: 4\n\n\nc: 5\n").unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].one("a").unwrap(), "1 2");
        assert_eq!(read[0].all("b"), ["3", "4"]);
        assert_eq!(read[1].one("a"), Err("f:10: `a` is missing".to_owned()));
        assert_eq!(read.pop().unwrap().end(), Err("f:10: `c` is no key here".to_owned()));
        assert_eq!(read.pop().unwrap().end(), Ok(()));
    }

    #[test]
    fn what_is_no_field_is_named_with_its_line() {
        let wrong = |text| paragraphs("f", text).err().unwrap();
        assert_eq!(wrong("a: 1\n\n b"), "f:3: goes on with nothing");
        assert_eq!(wrong("a"), "f:1: `a` is no `key: value`");
        assert_eq!(paragraphs("f", "a: 1\na: 2").unwrap()[0].one("a"), Err("f:1: `a` stands there twice".to_owned()));
    }
}
