//! What operating system commands mean: title, working directory, links, colours. The rest (clipboard, notifications,
//! images, marks of a shell) is between the program and the client, and no state.

use super::model::Model;

/// Longest title in bytes.
const TITLE_BYTES_MAX: usize = 1024;

/// Longest working directory in bytes: Linux knows no longer path.
const DIRECTORY_BYTES_MAX: usize = 4096;

/// The palette's first entry that isn't numbered: the foreground, then the background and the cursor.
pub(super) const FOREGROUND: u16 = 256;

impl Model {
    /// An operating system command, without introducer and terminator.
    pub(super) fn osc(&mut self, command: &[u8]) {
        let end = command.iter().position(|byte| *byte == b';').unwrap_or(command.len());
        let data = command.get(end + 1..).unwrap_or_default();
        match &command[..end] {
            b"0" | b"2" => self.set_title(title(data)),
            b"4" => self.set_colours(data),
            b"7" => self.set_directory(data),
            b"8" => self.open_link(data),
            b"10" => self.set_special_colours(data, FOREGROUND),
            b"11" => self.set_special_colours(data, FOREGROUND + 1),
            b"12" => self.set_special_colours(data, FOREGROUND + 2),
            b"104" if data.is_empty() => self.palette.retain(|index, _| *index >= FOREGROUND),
            b"104" => data.split(|byte| *byte == b';').filter_map(index).for_each(|index| {
                self.palette.remove(&index);
            }),
            b"110" => drop(self.palette.remove(&FOREGROUND)),
            b"111" => drop(self.palette.remove(&(FOREGROUND + 1))),
            b"112" => drop(self.palette.remove(&(FOREGROUND + 2))),
            _ => {}
        }
    }

    pub(super) fn set_title(&mut self, title: String) {
        self.news.title |= title != self.title;
        self.title = title;
    }

    fn set_directory(&mut self, url: &[u8]) {
        if let Some(directory) = directory(url) {
            self.news.cwd |= self.directory.as_ref() != Some(&directory);
            self.directory = Some(directory);
        }
    }

    fn open_link(&mut self, data: &[u8]) {
        let Some(end) = data.iter().position(|byte| *byte == b';') else { return };
        let text = |bytes| String::from_utf8_lossy(bytes).replace(char::is_control, "");
        let uri = text(&data[end + 1..]);
        let id = data[..end].split(|byte| *byte == b':').find_map(|parameter| parameter.strip_prefix(b"id="));
        let link = if uri.is_empty() { None } else { self.links.get(text(id.unwrap_or_default()), uri) };
        self.pen.set_link(link);
    }

    fn set_colours(&mut self, data: &[u8]) {
        let mut fields = data.split(|byte| *byte == b';');
        while let (Some(place), Some(colour)) = (fields.next(), fields.next()) {
            if let (Some(index), Some(colour)) = (index(place), colour_of(colour)) {
                self.palette.insert(index, colour);
            }
        }
    }

    /// Foreground, background and cursor follow each other, from the one that the command names on.
    fn set_special_colours(&mut self, data: &[u8], from: u16) {
        for (index, colour) in (from..FOREGROUND + 3).zip(data.split(|byte| *byte == b';')) {
            if let Some(colour) = colour_of(colour) {
                self.palette.insert(index, colour);
            }
        }
    }
}

/// A title as it may be shown anywhere: one line of bounded length.
fn title(data: &[u8]) -> String {
    let mut title = String::from_utf8_lossy(data).replace(char::is_control, "");
    title.truncate(title.floor_char_boundary(TITLE_BYTES_MAX));
    title
}

/// The path of a `file://` URL, whatever its host.
fn directory(url: &[u8]) -> Option<String> {
    let rest = url.strip_prefix(b"file://")?;
    let path = &rest[rest.iter().position(|byte| *byte == b'/')?..];
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, behind @ ..] = rest {
        let (byte, behind) = match (byte, behind) {
            (b'%', [high, low, behind @ ..]) => (hexadecimal(&[*high, *low])? as u8, behind),
            (b'%', _) => return None,
            (byte, behind) => (*byte, behind),
        };
        decoded.push(byte);
        rest = behind;
    }
    let path = String::from_utf8(decoded).ok()?;
    (path.len() <= DIRECTORY_BYTES_MAX && !path.contains(char::is_control)).then_some(path)
}

/// A place in the palette.
fn index(digits: &[u8]) -> Option<u16> {
    let index = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (index < FOREGROUND).then_some(index)
}

/// A colour as XParseColor reads it: `rgb:r/g/b` with one to four digits each, or `#` and three times as many.
fn colour_of(text: &[u8]) -> Option<[u8; 3]> {
    let parts: Vec<&[u8]> = if let Some(parts) = text.strip_prefix(b"rgb:") {
        parts.split(|byte| *byte == b'/').collect()
    } else {
        let digits = text.strip_prefix(b"#")?;
        digits.chunks((digits.len() / 3).max(1)).collect()
    };
    let [red, green, blue] = parts[..] else { return None };
    let same = red.len() == green.len() && green.len() == blue.len();
    let scaled = text.starts_with(b"rgb:");
    same.then_some([channel(red, scaled)?, channel(green, scaled)?, channel(blue, scaled)?])
}

/// A part of a colour. In the form with slashes the digits are a fraction of the largest number they can say, in the other
/// they are its first digits.
fn channel(digits: &[u8], scaled: bool) -> Option<u8> {
    let bits = 4 * u32::try_from(digits.len()).ok().filter(|digits| (1..=4).contains(digits))?;
    let value = hexadecimal(digits)?;
    let largest = (1 << bits) - 1;
    let channel = if scaled { (value * 255 + largest / 2) / largest } else { value << 8 >> bits };
    Some(channel as u8)
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    let valid = digits.iter().all(u8::is_ascii_hexdigit);
    valid.then(|| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())?
}
