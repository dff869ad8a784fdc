//! Whose network a container has: its own with the networks it joins, none, the host's, or another endpoint's.

use serde::{Deserialize, Serialize};

use super::{Name, Rejection};

/// Whose network namespace an endpoint is in.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Mode {
    /// Its own, in which it joins networks.
    #[default]
    Own,
    /// The host's.
    Host,
    /// That of another endpoint.
    Container(Name),
}

/// Words that are no networks.
pub const RESERVED: [&str; 3] = ["host", "none", "container"];

impl Mode {
    /// Reads what stands for networks: `host`, `none` and `container:NAME` stand alone, and then nothing is joined. With the
    /// mode, whether networks are joined.
    pub fn read(networks: &[String]) -> Result<(Self, bool), Rejection> {
        let mode = |text: &String| match text.as_str() {
            "host" => Some(Ok(Self::Host)),
            "none" => Some(Ok(Self::Own)),
            text => Some(text.strip_prefix("container:")?.parse().map(Self::Container)),
        };
        match networks.iter().find_map(|text| Some((text, mode(text)?))) {
            Some((text, _)) if networks.len() > 1 => Err(Rejection::NotAlone(text.clone())),
            Some((_, mode)) => Ok((mode?, false)),
            None => Ok((Self::Own, true)),
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own => f.write_str("own"),
            Self::Host => f.write_str("host"),
            Self::Container(name) => write!(f, "container:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_stand_alone_and_networks_do_not() {
        let read = |networks: &[&str]| Mode::read(&networks.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let web = || Mode::Container("web".parse().unwrap());
        assert_eq!(read(&[]), Ok((Mode::Own, true)));
        assert_eq!(read(&["blue", "name=red"]), Ok((Mode::Own, true)));
        assert_eq!(read(&["none"]), Ok((Mode::Own, false)));
        assert_eq!(read(&["host"]), Ok((Mode::Host, false)));
        assert_eq!(read(&["container:web"]), Ok((web(), false)));
        for networks in [["blue", "host"], ["none", "none"], ["container:web", "blue"]] {
            assert!(read(&networks).unwrap_err().to_string().contains("stands alone"), "{networks:?}");
        }
        assert!(read(&["container:"]).is_err());
    }
}
