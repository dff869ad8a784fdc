//! The session of a node, and what was made in it: no security association is ever made twice.
//!
//! What was made is noted before it is. What was made and is not there any more has the node draw another session, with which every
//! key is another: so none is used again from the start, whether the host has booted, somebody has emptied the kernel's table, or
//! the daemon was killed in between.
//!
//! The note of an association goes when its generation of the secret has. Such a generation comes again only where the store was put
//! back to an earlier copy, and then the node draws another session too.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Encryption, Generations, Session, View, encryption};
use crate::{
    model::Name,
    reconcile::{AssociationId, Ipsec},
};

/// How often a session is drawn because two of its associations would have one index: once in a million is much.
const DRAWS: usize = 8;

/// A session, and every association that was made in it and may be wanted again. It must outlive the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The session.
    pub session: Session,
    /// Of generations that are not known: what a netd has noted that does not note them.
    made: BTreeSet<(IpAddr, u32)>,
    /// From the oldest on that there was at the last look: what was made of those before it is forgotten.
    #[serde(default)]
    generations: Generations,
}

impl Kept {
    fn new(session: Session) -> Self {
        Self { session, made: BTreeSet::new(), generations: Generations::new() }
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
                Ok(wanted) if !kept.has_lost(&wanted, found) => {
                    kept.note(&wanted.generations);
                    return Some((kept, wanted));
                }
                _ => kept = Self::new(fresh()),
            }
        }
        None
    }

    /// Notes what is wanted as made, and forgets what was made of generations that are gone.
    fn note(&mut self, wanted: &Generations) {
        if let Some(oldest) = wanted.keys().next() {
            self.generations = self.generations.split_off(oldest);
        }
        for (generation, associations) in wanted {
            self.generations.entry(*generation).or_default().extend(associations);
        }
    }

    /// Whether something of what is wanted was made once and is not there as it was made, or is there and was never made. Of a
    /// generation that is back after it had gone it is not known what was made.
    fn has_lost(&self, wanted: &Encryption, found: &Ipsec) -> bool {
        let oldest = self.generations.keys().next();
        if oldest.is_some_and(|oldest| wanted.generations.range(..oldest).next().is_some()) {
            return true;
        }
        let made = |id: &AssociationId| {
            let id = (id.destination, id.spi);
            self.made.contains(&id) || self.generations.values().any(|associations| associations.contains(&id))
        };
        let mut associations = wanted.ipsec.associations.iter();
        associations.any(|(id, association)| {
            let found = found.associations.get(id);
            if made(id) { found != Some(association) } else { found.is_some() }
        })
    }
}
