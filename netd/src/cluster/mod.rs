//! What several hosts agree on, as keys and values of a store that all of them reach (etcd), and what one host makes of them.
//!
//! Every record has one writer. A network is made and removed by transactions that look at all networks; an address belongs to
//! whoever made its claim first; a node and its endpoints are written by that node alone, under its lease and with its
//! incarnation: the revision of its last start, which every write of the node is conditional on. So nothing that an earlier life
//! of a node says can win over a later one, and no two nodes hold one address.
//!
//! A node never patches what it knows into what it does: a [`View`] is a full read, with the events of a watch on top, and
//! everything else ([`remotes`], [`missing`]) is computed from it anew.
//!
//! Invariant: nothing here performs IO or knows the time.

mod allowances;
mod claims;
mod encryption;
mod features;
mod keys;
mod local;
mod mesh;
mod own;
mod records;
mod remotes;
mod returning;
mod rotation;
mod segments;
mod session;
#[cfg(test)]
mod tests;
mod uses;
mod verify;
mod view;

pub use allowances::{Between, Opening, allow, deny};
pub use claims::{Compare, Op, Txn, claim, create, publish, remove};
pub use encryption::{Encryption, Generations, encryption};
pub use features::{known_features, required};
pub use keys::{Key, Range};
pub use local::{
    Elsewhere, Here, Wanted, adopt, announcements, elsewhere, free_vni, known, note_freed, shared, wanted,
};
pub use mesh::{Taken, alike, ends, mesh_ports, rival, taken};
pub use own::{Missing, Own, missing};
pub use records::{
    Allowed, Announcement, Answer, Claim, Installed, KeptNodes, MeshAnswer, MeshPort, Node, Party, Place, Record,
    Secret, Session, Shared, SharedNetwork, SharedSubnet, Way,
};
pub use remotes::{Remote, Remotes, announced, remotes};
pub use returning::keeping;
pub use rotation::{due, next};
pub use segments::{SegmentAnswer, Segments};
pub use session::Kept;
pub use uses::{Uses, own_subnets, uses};
#[cfg(test)]
pub use verify::forwarding;
pub use verify::{Verified, verified};
pub use view::{Entry, Event, View};
