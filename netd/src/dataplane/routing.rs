//! When the host's routing was last heard to have changed: the programs ask for the way of a flow anew if it was looked up before.

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use netd_common::tables::{Instant, names};

use super::{Pins, flows, tables::Wire};

/// What the programs are told of it.
pub struct RoutingChanges(Array<MapData, Wire<Instant>>);

impl RoutingChanges {
    /// That of the loaded programs, whose maps are pinned.
    pub fn open(pins: &Pins) -> Result<Self> {
        let open = || anyhow::Ok(Array::try_from(Map::Array(MapData::from_pin(pins.map(names::WAYS))?))?);
        open().map(Self).context("cannot open the map of the routing's changes")
    }

    /// Has every flow look its way up once more.
    pub fn changed(&mut self) -> Result<()> {
        self.0.set(0, Wire(flows::now()?), 0).context("cannot tell of a change of the routing")
    }
}
