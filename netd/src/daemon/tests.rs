//! The daemon over a kernel in memory: requests in, model, store and host compared before and after.

mod addresses;
mod among;
mod flows;
mod healing;
mod repairs;
mod requests;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::PathBuf,
    rc::Rc,
};

use rand::{SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::*;
use crate::{
    config::Config,
    model::{NetworkOrder, Protocol},
    reconcile::{Family, LinkName, Process, Sandbox, Uplink, Use, fake::FakeKernel},
    reserve::Binder,
    testing::opened,
};

struct Bench {
    daemon: Daemon<FakeKernel>,
    directory: TempDir,
    /// Ports that processes of the host have bound.
    bound: Rc<RefCell<BTreeSet<u16>>>,
}

impl Bench {
    /// A host with `eth0`, a few namespaces, and a daemon on an empty store.
    async fn new() -> Self {
        let link = LinkName::new("eth0").unwrap();
        let addresses = vec!["192.0.2.1/24".parse().unwrap()];
        let mut kernel = FakeKernel::default();
        let was_no_router = Family::BOTH.into();
        kernel.facts.uplinks =
            [(link, Uplink { layer3: false, mtu: 1500, path_mtu: 1500, addresses, was_no_router })].into();
        let route = Use::Route { device: "eth0".to_owned() };
        kernel.facts.uses = [("192.0.2.0/24".parse().unwrap(), route)].into();
        for (inode, name) in (1..).zip(["c1", "c2", "c3"]) {
            let path = PathBuf::from(format!("/run/netns/{name}"));
            kernel.namespaces.insert(path.clone(), Sandbox { path, inode });
        }
        kernel.interfaces = [LinkName::new("lo").unwrap()].into();
        Self::with(kernel, tempfile::tempdir().unwrap(), Rc::default()).await
    }

    async fn with(kernel: FakeKernel, directory: TempDir, bound: Rc<RefCell<BTreeSet<u16>>>) -> Self {
        Self::among(kernel, directory, bound, None).await
    }

    async fn among(
        kernel: FakeKernel,
        directory: TempDir,
        bound: Rc<RefCell<BTreeSet<u16>>>,
        membership: Option<Membership>,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let opened = opened(directory.path(), &mut rng).unwrap();
        let binder = binder(bound.clone());
        let about = About::default();
        let daemon = Daemon::start(
            kernel,
            opened,
            &Config::default(),
            Reservations::with(binder),
            membership,
            Box::new(rng),
            about,
        )
        .await
        .unwrap();
        Self { daemon, directory, bound }
    }

    /// The daemon dies, and another starts on the same store and host.
    async fn restarted(self) -> Self {
        let Self { daemon, directory, bound } = self;
        let kernel = daemon.kernel.clone();
        drop(daemon);
        Self::with(kernel, directory, bound).await
    }

    async fn network(&mut self, name: &str) {
        let order = NetworkOrder { name: name.into(), ..Default::default() };
        self.daemon.answer(Request::CreateNetwork(order)).await.unwrap();
    }

    async fn attach(&mut self, name: &str, networks: &[&str], ports: &[&str]) -> Result<EndpointView, Failure> {
        match self.daemon.answer(Request::Attach(wish(name, networks, ports))).await? {
            Reply::Endpoint(endpoint) => Ok(endpoint),
            other => panic!("{other:?}"),
        }
    }

    /// All that a failed request must leave as it was.
    fn everything(&self) -> (Model, State, State, Vec<crate::reserve::Place>) {
        let daemon = &self.daemon;
        (daemon.model.clone(), daemon.kernel.state.clone(), daemon.applied.clone(), daemon.reservations.places())
    }

    async fn stored(self) -> Model {
        let directory = self.directory;
        drop(self.daemon);
        opened(directory.path(), &mut StdRng::seed_from_u64(2)).unwrap().1
    }
}

fn binder(bound: Rc<RefCell<BTreeSet<u16>>>) -> Binder {
    Box::new(move |(address, _, port)| {
        if bound.borrow().contains(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        if address.to_string() == "198.51.100.1" {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        Ok(File::open("/dev/null")?.into())
    })
}

fn wish(name: &str, networks: &[&str], ports: &[&str]) -> EndpointOrder {
    EndpointOrder {
        name: name.into(),
        netns: Some(format!("/run/netns/{name}").into()),
        networks: networks.iter().map(|text| (*text).to_owned()).collect(),
        ports: ports.iter().map(|text| (*text).to_owned()).collect(),
        ..Default::default()
    }
}

fn line(failure: Failure) -> String {
    match failure {
        Failure::Refused(rejection) => rejection.to_string(),
        Failure::Failed(error) => format!("{error:#}"),
    }
}
