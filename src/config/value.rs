//! A setting as it was written: an untyped word from a flag or a variable, or a typed value from the file.

use toml::de::DeValue;

/// Most elements of a list: each is compared with every request.
const LIST_MAX: usize = 64;

/// A setting's value.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    /// From a flag or a variable, where everything is a text; a list's elements are separated by commas.
    Word(&'a str),
    Text(&'a str),
    Integer(i64),
    Boolean(bool),
    List(Vec<&'a str>),
}

impl<'a> Value<'a> {
    /// Takes what the file says.
    pub(super) fn from_toml(value: &'a DeValue<'_>) -> anyhow::Result<Self> {
        Ok(match value {
            DeValue::String(text) => Self::Text(text),
            DeValue::Boolean(yes) => Self::Boolean(*yes),
            DeValue::Integer(integer) => Self::Integer(
                i64::from_str_radix(integer.as_str(), integer.radix())
                    .map_err(|_| anyhow::anyhow!("must fit in 64 bits, is {}", integer.as_str()))?,
            ),
            DeValue::Array(array) => Self::List(
                array
                    .iter()
                    .map(|element| element.get_ref().as_str().ok_or_else(|| anyhow::anyhow!("must be a list of texts")))
                    .collect::<Result<_, _>>()?,
            ),
            DeValue::Table(_) => anyhow::bail!("unknown key; no table is known by this name"),
            DeValue::Float(_) | DeValue::Datetime(_) => anyhow::bail!("no key takes a {}", value.type_str()),
        })
    }

    pub(super) fn text(&self) -> Result<&'a str, String> {
        match self {
            Self::Word(text) | Self::Text(text) => Ok(text),
            other => Err(other.instead_of("a text in quotes")),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, String> {
        match self {
            Self::Boolean(yes) => Ok(*yes),
            Self::Word("true") => Ok(true),
            Self::Word("false") => Ok(false),
            other => Err(other.instead_of("true or false")),
        }
    }

    /// A whole number within bounds.
    pub(super) fn number<N: TryFrom<i64> + PartialOrd + std::fmt::Display>(
        &self,
        least: N,
        most: N,
    ) -> Result<N, String> {
        let number = match self {
            Self::Integer(number) => Some(*number),
            Self::Word(text) => text.parse().ok(),
            _ => None,
        };
        let number = number.ok_or_else(|| self.instead_of("a whole number"))?;
        let inside = N::try_from(number).ok().filter(|number| (&least..=&most).contains(&number));
        inside.ok_or_else(|| format!("must be {least} to {most}, is {number}"))
    }

    pub(super) fn list(&self) -> Result<Vec<&'a str>, String> {
        let list: Vec<_> = match self {
            Self::List(list) => list.clone(),
            Self::Word("") => Vec::new(),
            Self::Word(text) => text.split(',').map(str::trim).collect(),
            other => return Err(other.instead_of("a list of texts")),
        };
        if list.len() > LIST_MAX { Err(format!("must have at most {LIST_MAX} elements")) } else { Ok(list) }
    }

    fn instead_of(&self, wanted: &str) -> String {
        let is = match self {
            Self::Word(text) => format!("`{text}`"),
            Self::Text(_) => "a text".to_owned(),
            Self::Integer(_) => "an integer".to_owned(),
            Self::Boolean(_) => "a boolean".to_owned(),
            Self::List(_) => "a list".to_owned(),
        };
        format!("must be {wanted}, is {is}")
    }
}
