//! Everything that is published, by the ports that it takes: of ten thousand ports each is looked up, not compared with each other.

use std::collections::BTreeMap;

use super::{Model, Name, PortPublication, Protocol, Rejection};

/// What endpoints publish.
#[derive(Default)]
pub struct Published {
    owners: Vec<Name>,
    /// In the order in which they were noted.
    all: Vec<Noted>,
    /// Those of one port, by it.
    single: BTreeMap<(Protocol, u16), Vec<usize>>,
    /// Those of several.
    ranges: Vec<usize>,
}

struct Noted {
    owner: usize,
    port: PortPublication,
}

impl Published {
    /// What a model's endpoints publish.
    pub fn of(model: &Model) -> Self {
        let mut published = Self::default();
        for endpoint in model.endpoints.values().filter(|endpoint| !endpoint.publications.is_empty()) {
            let has = |address| endpoint.attachments.iter().any(|at| at.addresses().any(|one| one == address));
            // What was open at an address that it has no more takes no port from who has it now.
            let ports = endpoint.publications.iter().filter(|port| !port.direct || has(port.host_ip));
            ports.for_each(|port| published.note(&endpoint.name, port));
        }
        published
    }

    /// Notes one more, or to whom one that is noted is open now.
    pub fn note(&mut self, owner: &Name, port: &PortPublication) {
        if let Some(there) = self.place_of(owner, port) {
            self.all[there].port = port.clone();
            return;
        }
        if self.owners.last() != Some(owner) {
            self.owners.push(owner.clone());
        }
        let number = self.all.len();
        self.all.push(Noted { owner: self.owners.len() - 1, port: port.clone() });
        match port.count {
            1 => self.single.entry((port.protocol, port.host_port)).or_default().push(number),
            _ => self.ranges.push(number),
        }
    }

    /// Whether an endpoint publishes this, to whomever.
    pub fn has(&self, owner: &Name, port: &PortPublication) -> bool {
        self.place_of(owner, port).is_some()
    }

    /// Why these ports cannot be published to an endpoint: the first one that an endpoint has. Its own address it may open twice:
    /// two ports of the host may lead there. What it publishes already it may open to others than before.
    pub fn conflict(&self, owner: &Name, wish: &PortPublication) -> Option<Rejection> {
        let is_this = |noted: &Noted| {
            self.owners[noted.owner] == *owner
                && noted.port.is_same_place(wish)
                && (wish.direct || (&noted.port.from, noted.port.mesh) != (&wish.from, wish.mesh))
        };
        let (noted, port) = self.first_clash(wish, |noted| !is_this(noted))?;
        let any = noted.port.host_ip.is_unspecified();
        let address =
            if any { format!("every {} address", noted.port.family()) } else { noted.port.host_ip.to_string() };
        let by = self.owners[noted.owner].clone();
        Some(Rejection::AlreadyPublished { port, protocol: wish.protocol, address, by })
    }

    /// A port that one of these has and the wish would have, unless it is the container's own that is opened once more.
    pub fn clash(&self, wish: &PortPublication) -> Option<u16> {
        self.first_clash(wish, |noted| !(wish.direct && noted.port == *wish)).map(|(_, port)| port)
    }

    fn first_clash(&self, wish: &PortPublication, counts: impl Fn(&Noted) -> bool) -> Option<(&Noted, u16)> {
        let clash = |number: usize| {
            let noted = &self.all[number];
            counts(noted).then(|| Some((number, noted.port.clash(wish)?))).flatten()
        };
        let (number, port) = self.near(wish).filter_map(clash).min()?;
        Some((&self.all[number], port))
    }

    fn place_of(&self, owner: &Name, port: &PortPublication) -> Option<usize> {
        let is_it = |noted: &Noted| self.owners[noted.owner] == *owner && noted.port.is_same_place(port);
        self.near(port).find(|number| is_it(&self.all[*number]))
    }

    /// Those that may take a port of this one.
    fn near(&self, port: &PortPublication) -> impl Iterator<Item = usize> {
        let (first, last) = port.host_ports().into_inner();
        let place = |number| (port.protocol, number);
        // A range of one port takes two searches.
        let one = (first == last).then(|| self.single.get(&place(first))).flatten();
        let several = (first != last).then(|| self.single.range(place(first)..=place(last)));
        let several = several.into_iter().flatten().flat_map(|(_, numbers)| numbers);
        one.into_iter().flatten().chain(several).chain(&self.ranges).copied()
    }
}
