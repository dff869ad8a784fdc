//! The session of a node, and what was made in it: no security association is ever made twice.
//!
//! What was made is noted before it is. What was made and is not there any more has the node draw another session, with which every
//! key is another: so none is used again from the start, whether the host has booted, somebody has emptied the kernel's table, or
//! the daemon was killed in between.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Encryption, Session, View, encryption};
use crate::{
    model::Name,
    reconcile::{AssociationId, Ipsec},
};

/// How often a session is drawn because two of its associations would have one index: once in a million is much.
const DRAWS: usize = 8;

/// A session, and every association that was made in it, by destination and index. It must outlive the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The session.
    pub session: Session,
    made: BTreeSet<(IpAddr, u32)>,
}

impl Kept {
    fn new(session: Session) -> Self {
        Self { session, made: BTreeSet::new() }
    }

    /// Goes on with what was kept, if nothing of it is lost in what is found in the kernel, else draws another session of
    /// `fresh`. What is returned is to be kept before any of it is made. `None` where chance is against it `DRAWS` times.
    pub fn go_on(
        kept: Option<Self>,
        view: &View,
        me: &Name,
        found: &Ipsec,
        mut fresh: impl FnMut() -> Session,
    ) -> Option<(Self, Encryption)> {
        let mut kept = kept.unwrap_or_else(|| Self::new(fresh()));
        for _ in 0..DRAWS {
            match encryption(view, me, &kept.session) {
                Ok(wanted) if !kept.has_lost(&wanted.ipsec, found) => {
                    kept.made.extend(wanted.ipsec.associations.keys().map(|id| (id.destination, id.spi)));
                    return Some((kept, wanted));
                }
                _ => kept = Self::new(fresh()),
            }
        }
        None
    }

    /// Whether something of what is wanted was made once and is not there as it was made, or is there and was never made.
    fn has_lost(&self, wanted: &Ipsec, found: &Ipsec) -> bool {
        let made = |id: &AssociationId| self.made.contains(&(id.destination, id.spi));
        let mut associations = wanted.associations.iter();
        associations.any(|(id, association)| {
            let found = found.associations.get(id);
            if made(id) { found != Some(association) } else { found.is_some() }
        })
    }
}
