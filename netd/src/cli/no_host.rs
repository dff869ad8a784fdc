//! Stands in for the host where there is none to open: a type without values.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Result;
use netd_common::{
    tables::{Counters, Flow, Hook, Instant},
    tuple::{Address, Tuple, Zone},
};

use crate::reconcile::{HostFacts, Kernel, LinkName, Process, Program, Sandbox, State, Step};

/// No host.
pub enum NoHost {}

impl Kernel for NoHost {
    async fn observe(&mut self) -> Result<State> {
        match *self {}
    }

    async fn apply(&mut self, _: &Step) -> Result<()> {
        match *self {}
    }

    async fn facts(&mut self, _: &BTreeSet<PathBuf>) -> Result<HostFacts> {
        match *self {}
    }

    async fn sandbox(&mut self, _: &Path) -> Result<Sandbox> {
        match *self {}
    }

    async fn interfaces(&mut self, _: &Sandbox) -> Result<BTreeSet<LinkName>> {
        match *self {}
    }

    async fn holder(&mut self, _: IpAddr, _: u8, _: u16) -> Result<Option<Process>> {
        match *self {}
    }

    fn flows(&self, _: &mut dyn FnMut(&Tuple, &Flow)) -> Result<Instant> {
        match *self {}
    }

    fn forget_flows_of(&mut self, _: Zone, _: Address) -> Result<usize> {
        match *self {}
    }

    fn collect(&mut self) -> Result<usize> {
        match *self {}
    }

    fn counters(&self) -> Result<BTreeMap<Hook, Counters>> {
        match *self {}
    }

    fn programs(&self) -> Result<Vec<Program>> {
        match *self {}
    }
}
