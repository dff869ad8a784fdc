//! Names of networks and endpoints: checked once, trusted after.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::Rejection;

/// A letter or digit, then letters, digits, `_`, `.` and `-`; 63 bytes at most, as a DNS label (RFC 1035 section 2.3.4).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The most bytes a name has.
    pub const MAX: usize = 63;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let clean = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if !begins || !clean || text.len() > Self::MAX {
            return Err(Rejection::NotAName(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Name {
    type Error = Rejection;

    fn try_from(text: String) -> Result<Self, Rejection> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
