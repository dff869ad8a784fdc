//! The insides of sandboxes: looked into where something has changed, and the others in turn.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use rtnetlink::{
    packet_route::{RouteNetlinkMessage, address::AddressMessage, link::LinkMessage, route::RouteMessage},
    sys::{Socket, protocols::NETLINK_ROUTE},
};

use super::{
    Filter,
    asked::{dump, socket},
    filters::{egress_of, filter},
    kernel::{Assigned, every_route},
    ours::Link,
    watch::Changed,
};
use crate::{
    netns::{Entered, Namespace, Unfit},
    reconcile::Sandbox,
};

/// After this long a sandbox is looked into even if nothing tells of a change there.
const TURN: Duration = Duration::from_secs(30);

/// How many are looked into at a time without need: what is asked of the daemon meanwhile waits.
const AT_A_TIME: usize = 40;

/// For so long a path is not asked about again: a look at the host asks for what is at each twice in a row, and a thousand take
/// milliseconds.
const FRESH: Duration = Duration::from_millis(100);

/// Threads that look at once, at most, and how many namespaces are one thread's work.
const THREADS: usize = 4;
const ALONE: usize = 8;

/// The index of the loopback device of every namespace.
const LOOPBACK: u32 = 1;

/// What is in a sandbox.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    /// Devices by their indexes.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of all devices.
    pub addresses: Vec<Assigned>,
    /// Routes of both families.
    pub routes: Vec<RouteMessage>,
    /// What is on the clsact qdisc of the loopback device, at its egress.
    pub filters: BTreeSet<Filter>,
}

/// What was found out about a sandbox.
#[derive(Clone, Debug)]
pub enum Found {
    /// This is in it.
    Inside(Arc<Inside>),
    /// It is there no more.
    Gone,
    /// It cannot be looked at, for this reason, and may well be there.
    Unclear(String),
}

/// What is known of the sandboxes.
#[derive(Debug, Default)]
pub struct Insides {
    places: HashMap<PathBuf, Place>,
    known: BTreeMap<u64, (Instant, Arc<Inside>)>,
}

/// The file at a path, and the namespace that it is.
#[derive(Debug)]
struct Place {
    file: (u64, u64),
    sandbox: Sandbox,
    seen: Instant,
}

impl Insides {
    /// The sandbox at a path: opened where another file is there than the last time.
    pub fn sandbox_at(&mut self, path: &Path) -> Result<Sandbox, Unfit> {
        let unreachable = |error| Unfit::Unreachable { path: path.to_owned(), error };
        let file = fs::metadata(path).map(|file| (file.dev(), file.ino()));
        let seen = Instant::now();
        if let Some(place) =
            self.places.get_mut(path).filter(|place| file.as_ref().is_ok_and(|file| place.file == *file))
        {
            place.seen = seen;
            return Ok(place.sandbox.clone());
        }
        self.places.remove(path);
        let sandbox = Namespace::open(path)?.sandbox().clone();
        let file = file.map_err(unreachable)?;
        self.places.insert(path.to_owned(), Place { file, sandbox: sandbox.clone(), seen });
        Ok(sandbox)
    }

    /// The same, or what was there a moment ago.
    fn lately_at(&mut self, path: &Path) -> Result<Sandbox, Unfit> {
        match self.places.get(path) {
            Some(place) if place.seen.elapsed() < FRESH => Ok(place.sandbox.clone()),
            _ => self.sandbox_at(path),
        }
    }

    /// What is in `sandboxes`, each with the number that tells of changes there.
    pub fn look(
        &mut self,
        sandboxes: &BTreeMap<u64, (Sandbox, Option<i32>)>,
        changed: &Changed,
    ) -> BTreeMap<u64, Found> {
        let is_changed = |number: &Option<i32>| match (changed, number) {
            (Changed::Everywhere, _) | (_, None) => true,
            (Changed::In(numbers), Some(number)) => numbers.contains(number),
        };
        self.known.retain(|inode, _| sandboxes.get(inode).is_some_and(|(_, number)| !is_changed(number)));
        let mut found = BTreeMap::new();
        let mut going = Vec::new();
        for (inode, (sandbox, _)) in sandboxes {
            match self.lately_at(&sandbox.path) {
                Ok(there) if there.inode == *inode => {
                    if !self.known.contains_key(inode) {
                        going.push(sandbox.clone());
                    }
                }
                Err(error) if !error.is_final() => drop(found.insert(*inode, Found::Unclear(error.to_string()))),
                _ => drop(found.insert(*inode, Found::Gone)),
            }
        }
        let paths: HashSet<&Path> = sandboxes.values().map(|(sandbox, _)| sandbox.path.as_path()).collect();
        self.places.retain(|path, _| paths.contains(path.as_path()));
        going.extend(self.due(sandboxes, &found));

        for (sandbox, inside) in visits(going) {
            match inside {
                Ok(inside) => drop(self.known.insert(sandbox.inode, (Instant::now(), Arc::new(inside)))),
                Err(error) => {
                    self.known.remove(&sandbox.inode);
                    let why = format!("{error:#}");
                    let gone = error.downcast_ref::<Unfit>().is_some_and(Unfit::is_final);
                    found.insert(sandbox.inode, if gone { Found::Gone } else { Found::Unclear(why) });
                }
            }
        }
        let known = self.known.iter().map(|(inode, (_, inside))| (*inode, Found::Inside(Arc::clone(inside))));
        known.chain(found).collect()
    }

    /// Those whose turn it is.
    fn due(&self, sandboxes: &BTreeMap<u64, (Sandbox, Option<i32>)>, found: &BTreeMap<u64, Found>) -> Vec<Sandbox> {
        let now = Instant::now();
        let old = self.known.iter().filter(|(inode, (when, _))| now > *when + TURN && !found.contains_key(inode));
        old.take(AT_A_TIME).filter_map(|(inode, _)| Some(sandboxes.get(inode)?.0.clone())).collect()
    }
}

/// Looks into each, on threads that visit one after the other.
fn visits(sandboxes: Vec<Sandbox>) -> Vec<(Sandbox, Result<Inside>)> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let panicked = || Err(anyhow!("what was done inside a namespace panicked"));
    thread::scope(|scope| {
        let parts = sandboxes.chunks(sandboxes.len().div_ceil(threads).max(ALONE));
        let visits: Vec<_> =
            parts.map(|part| (part, scope.spawn(|| part.iter().map(visit).collect::<Vec<_>>()))).collect();
        let visited = visits.into_iter().flat_map(|(part, visit)| {
            let visited = visit.join().unwrap_or_else(|_| part.iter().map(|_| panicked()).collect());
            part.iter().cloned().zip(visited)
        });
        visited.collect()
    })
}

/// On a thread that is back where it was when this returns.
fn visit(sandbox: &Sandbox) -> Result<Inside> {
    let namespace = Namespace::of(sandbox)?;
    let look = || {
        let _inside = Entered::new(&namespace)?;
        socket(NETLINK_ROUTE)
    };
    let socket = look().with_context(|| format!("cannot look into {}", sandbox.path.display()))?;
    Inside::listed(&socket).with_context(|| format!("cannot list what is in {}", sandbox.path.display()))
}

impl Inside {
    /// What is in a namespace.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        let path = namespace.sandbox().path.display();
        let listed = namespace
            .inside(|| Self::listed(&socket(NETLINK_ROUTE)?))
            .with_context(|| format!("cannot look into {path}"))?;
        listed.with_context(|| format!("cannot list what is in {path}"))
    }

    fn listed(socket: &Socket) -> Result<Self> {
        let mut inside = Self::default();
        // Before the links and addresses that they go with: what goes in between is then not told to have lost its route.
        for request in every_route() {
            for message in dump(socket, &request)? {
                if let RouteNetlinkMessage::NewRoute(route) = message {
                    inside.routes.push(route);
                }
            }
        }
        for message in dump(socket, &RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
            if let RouteNetlinkMessage::NewLink(message) = message
                && let Some(link) = Link::of(message)
            {
                inside.links.insert(link.index, link);
            }
        }
        for message in dump(socket, &RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
            if let RouteNetlinkMessage::NewAddress(message) = message {
                inside.addresses.extend(Assigned::of(&message));
            }
        }
        let filters = RouteNetlinkMessage::GetTrafficFilter(egress_of(LOOPBACK)?);
        inside.filters = dump(socket, &filters)?.iter().filter_map(|message| filter(message, true)).collect();
        Ok(inside)
    }
}
