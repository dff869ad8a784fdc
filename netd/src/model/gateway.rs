//! How containers of a network and everybody else reach one another: Docker's gateway modes, of each family by itself.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Rejection, Subnet};
use crate::reconcile::Family;

/// What the host's gateway does for the containers of a subnet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// They leave by the host's address, and are reached by its published ports alone.
    Nat,
    /// The same, and besides everybody who has a route to them reaches every port of theirs.
    NatUnprotected,
    /// They keep their addresses, at which their published ports are open, and answer pings.
    Routed,
    /// There is no gateway: not even the host reaches them. Of internal networks alone.
    Isolated,
}

impl GatewayMode {
    const ALL: [Self; 4] = [Self::Nat, Self::NatUnprotected, Self::Routed, Self::Isolated];

    /// Its name, as Docker has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::NatUnprotected => "nat-unprotected",
            Self::Routed => "routed",
            Self::Isolated => "isolated",
        }
    }
}

impl fmt::Display for GatewayMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for GatewayMode {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let known = Self::ALL.into_iter().find(|mode| mode.name() == text);
        let wanted = "a gateway mode: nat, nat-unprotected, routed or isolated";
        known.ok_or_else(|| Rejection::Malformed { given: text.to_owned(), wanted })
    }
}

/// A mode that somebody asked for: of one family, or of each that the network has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModeWish {
    /// `None` for each.
    pub family: Option<Family>,
    /// Which.
    pub mode: GatewayMode,
}

impl FromStr for ModeWish {
    type Err = Rejection;

    /// `MODE`, `ipv4=MODE` or `ipv6=MODE`.
    fn from_str(text: &str) -> Result<Self, Rejection> {
        let (family, mode) = match text.split_once('=') {
            Some(("ipv4", mode)) => (Some(Family::V4), mode),
            Some(("ipv6", mode)) => (Some(Family::V6), mode),
            _ => (None, text),
        };
        Ok(Self { family, mode: mode.parse()? })
    }
}

/// Gives subnets the modes that were asked for; of two wishes for one family both must say the same, and one for a single family
/// goes before one for each.
pub fn set_modes(subnets: &mut [Subnet], wishes: &[ModeWish], internal: bool) -> Result<(), Rejection> {
    for subnet in subnets {
        let family = subnet.family();
        let of = |wanted: Option<Family>| wishes.iter().filter(move |wish| wish.family == wanted).map(|wish| wish.mode);
        let asked: Vec<GatewayMode> =
            if of(Some(family)).next().is_some() { of(Some(family)).collect() } else { of(None).collect() };
        if let Some((first, second)) = asked.first().zip(asked.iter().find(|mode| Some(*mode) != asked.first())) {
            return Err(Rejection::TwoModes { family, first: *first, second: *second });
        }
        subnet.gateway_mode = asked.first().copied();
        if subnet.gateway_mode == Some(GatewayMode::Isolated) && !internal {
            return Err(Rejection::IsolatedWayOut);
        }
    }
    Ok(())
}
