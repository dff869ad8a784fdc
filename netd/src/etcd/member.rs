//! The URL of a member of etcd.

use std::{fmt, str::FromStr};

use serde::Deserialize;
use thiserror::Error;

/// Where a member listens to clients.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Member {
    /// Whether by TLS.
    pub secure: bool,
    /// Its name or address, as a URL has it.
    pub host: String,
    /// TCP.
    pub port: u16,
}

/// What is no such URL.
#[derive(Debug, Error)]
#[error("`{0}` is no URL of an etcd member, as http://192.0.2.1:2379 or https://etcd.example:2379")]
pub struct MemberError(String);

impl Member {
    /// The port that etcd takes by itself.
    const PORT: u16 = 2379;

    /// The host as a resolver takes it: without the brackets that a URL puts around an IPv6 address.
    pub fn address(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl FromStr for Member {
    type Err = MemberError;

    fn from_str(text: &str) -> Result<Self, MemberError> {
        let wrong = || MemberError(text.to_owned());
        let (secure, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(wrong()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (rest, Self::PORT),
        };
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fits = match in_brackets {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            }
        };
        if fits { Ok(Self { secure, host: host.to_owned(), port }) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Member {
    type Error = MemberError;

    fn try_from(text: String) -> Result<Self, MemberError> {
        text.parse()
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_a_member_is_read() {
        let cases = [
            ("http://192.0.2.1:2379", "http://192.0.2.1:2379", "192.0.2.1"),
            ("https://etcd-1.example/", "https://etcd-1.example:2379", "etcd-1.example"),
            ("http://[fd00::1]:4001", "http://[fd00::1]:4001", "fd00::1"),
            ("http://[fd00::1]", "http://[fd00::1]:2379", "fd00::1"),
        ];
        for (text, shown, address) in cases {
            let member: Member = text.parse().unwrap();
            assert_eq!((member.to_string().as_str(), member.address()), (shown, address), "{text}");
        }
    }

    #[test]
    fn what_is_no_url_of_a_member_is_refused() {
        for text in
            ["192.0.2.1:2379", "ftp://a", "http://", "http://a:port", "http://a/b", "http://[x]:1", "http://u:p@a:1"]
        {
            assert!(text.parse::<Member>().is_err(), "{text}");
        }
    }
}
