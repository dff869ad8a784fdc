//! Places with a network: a host, or a container in one. Programs and closures run there, and its counters are read there.

use std::{
    ffi::OsStr,
    fs::{self, File},
    ops::Deref,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::{
    Nodes,
    command::{self, Outcome, Running},
    namespaces::{self, Namespaces},
};

/// A place with a network of its own. Cheap to clone; the place lives as long as a clone.
#[derive(Clone)]
pub struct Node {
    name: Arc<str>,
    host: Arc<Namespaces>,
    /// `None` for the host's own.
    sandbox: Option<Arc<OwnedFd>>,
}

impl Node {
    /// What the test calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread in this network and returns its value. Sockets made there stay there. Only the network is
    /// this node's: files are the machine's.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        namespaces::enter(self.net(), work)
    }

    /// Runs a program here to its end, at most a minute.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Outcome {
        self.spawn(words).wait()
    }

    /// Starts a program here, killed when the handle goes.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Running {
        self.spawn_with(words, &[])
    }

    /// As [`Node::spawn`], with variables in its environment.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn_with<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
        variables: &[(String, String)],
    ) -> Running {
        let mut command = command::command(words);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command::start(command, &self.host, |command| self.host.spawn(command, self.net()))
    }

    /// Runs `ip` with these words, separated by white space, and returns its output.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        self.run(std::iter::once("ip").chain(words.split_whitespace())).ok()
    }

    /// Routes everything unknown by this gateway.
    pub fn default_route(&self, gateway: &str) {
        self.ip(&format!("route add default via {gateway}"));
    }

    /// A counter of `/proc/net/snmp`, such as `("Tcp", "InCsumErrors")`.
    ///
    /// # Panics
    /// When the kernel has no such counter.
    pub fn snmp(&self, protocol: &str, counter: &str) -> u64 {
        self.counted("snmp", protocol, counter)
    }

    /// A counter of `/proc/net/netstat`, such as `("TcpExt", "TCPDSACKRecvSegs")`.
    ///
    /// # Panics
    /// When the kernel has no such counter.
    pub fn netstat(&self, protocol: &str, counter: &str) -> u64 {
        self.counted("netstat", protocol, counter)
    }

    /// A counter of a table that has a row of names and one of values for each protocol.
    fn counted(&self, table: &str, protocol: &str, counter: &str) -> u64 {
        let path = Path::new("/proc/thread-self/net").join(table);
        let table = self.enter(|| fs::read_to_string(path).expect("the kernel's tables are readable"));
        let mut rows = table.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let (names, values) = (rows.next().unwrap_or_default(), rows.next().unwrap_or_default());
        let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == counter);
        let Some((_, value)) = found else { panic!("the kernel has no counter {protocol} {counter}") };
        value.parse().unwrap_or_else(|_| panic!("counter {protocol} {counter} is {value:?}"))
    }

    /// A counter of `/proc/net/snmp6`, such as `Udp6InCsumErrors`.
    ///
    /// # Panics
    /// When the kernel has no such counter.
    pub fn snmp6(&self, counter: &str) -> u64 {
        let table =
            self.enter(|| fs::read_to_string("/proc/thread-self/net/snmp6").expect("/proc/net/snmp6 is readable"));
        let value = table.lines().find_map(|line| line.strip_prefix(counter)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("the kernel has no counter {counter}"))
    }

    /// A sysctl of this network by its path below `/proc/sys/net`, such as `ipv4/ip_forward`; `None` if there is none.
    pub fn sysctl(&self, path: &str) -> Option<String> {
        let path = Path::new("/proc/sys/net").join(path);
        self.enter(|| fs::read_to_string(path).ok()).map(|value| value.trim().to_owned())
    }

    /// The index of an interface, or `None` if there is none of this name.
    pub fn ifindex(&self, interface: &str) -> Option<u32> {
        let name = std::ffi::CString::new(interface).ok()?;
        // SAFETY: `name` is a string that ends with NUL and outlives the call.
        let index = self.enter(|| unsafe { nix::libc::if_nametoindex(name.as_ptr()) });
        (index != 0).then_some(index)
    }

    /// Runs `curl` for at most a minute.
    pub fn curl(&self, url: &str) -> Outcome {
        self.run(["curl", "--silent", "--show-error", "--max-time", "60", "--connect-timeout", "15", url])
    }

    pub(super) fn net(&self) -> &OwnedFd {
        self.sandbox.as_deref().unwrap_or(&self.host.net)
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self.net(), other.net())
    }
}

/// A private host. See [`super::Lab::host`].
#[derive(Clone)]
pub struct Host {
    node: Node,
    nodes: Nodes,
}

impl Host {
    pub(super) fn new(name: &str, nodes: &Nodes) -> Self {
        let host = Namespaces::new(name).unwrap_or_else(|error| panic!("cannot make host {name}: {error:#}"));
        let node = Node { name: name.into(), host: Arc::new(host), sandbox: None };
        node.ip("link set lo up");
        nodes.add(&node);
        Self { node, nodes: nodes.clone() }
    }

    /// A bare container: a network namespace at `/run/netns/NAME` of this host with `lo` up and nothing else.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn container(&self, name: &str) -> Container {
        self.ip(&format!("netns add {name}"));
        let container = self.existing_container(name);
        container.ip("link set lo up");
        container
    }

    /// Many bare namespaces at once, at `/run/netns/PREFIX0` and so on; `lo` is down in each.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn bare_namespaces(&self, prefix: &str, count: usize) {
        let batch: String = (0..count).map(|number| format!("netns add {prefix}{number}\n")).collect();
        std::fs::write(self.path("/run/batch"), batch).expect("the host has room for a file");
        self.ip("-batch /run/batch");
    }

    /// The container whose network namespace somebody else has put at `/run/netns/NAME` of this host.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn existing_container(&self, name: &str) -> Container {
        let path = self.path(format!("/run/netns/{name}"));
        let sandbox = File::open(&path).unwrap_or_else(|error| panic!("no container {name}: {error}"));
        let sandbox = Some(Arc::new(sandbox.into()));
        let node = Node { name: name.into(), host: Arc::clone(&self.node.host), sandbox };
        self.nodes.add(&node);
        Container { node, host: self.clone() }
    }

    /// Where a file of this host is seen from outside.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.node.host.path(inside)
    }

    /// The mount table of this host (`mountinfo`).
    ///
    /// # Panics
    /// When the kernel does not tell.
    pub fn mount_table(&self) -> String {
        self.node.host.mount_table().expect("the kernel tells the mounts of a process of ours")
    }

    pub(super) fn net_path(&self) -> String {
        self.node.host.net_path()
    }

    /// Runs a program in this host's network with the machine's mounts and processes around it, so that it can name
    /// another host's network.
    #[track_caller]
    pub(super) fn run_with_machines_files<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Outcome {
        let start = |command: &mut Command| self.enter(|| command::begin(command));
        command::start(command::command(words), &self.node.host, start).wait()
    }
}

impl Deref for Host {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

/// A container: a network namespace of a host, named there.
#[derive(Clone)]
pub struct Container {
    node: Node,
    host: Host,
}

impl Container {
    /// Its path in its host.
    pub fn netns(&self) -> String {
        format!("/run/netns/{}", self.name())
    }

    /// Takes the name away and lets go of the namespace, which ends with its last process.
    pub fn delete(self) {
        self.host.ip(&format!("netns del {}", self.name()));
        self.host.nodes.remove(&self.node);
    }
}

impl Deref for Container {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

/// Asserts that none of these has received a TCP, UDP or ICMP packet with a wrong checksum.
///
/// # Panics
/// When one has, naming it and the counter.
#[track_caller]
pub fn assert_no_checksum_errors(nodes: &[&Node]) {
    for node in nodes {
        for protocol in ["Tcp", "Udp", "Icmp"] {
            let wrong = node.snmp(protocol, "InCsumErrors");
            assert_eq!(wrong, 0, "{} received {wrong} {protocol} packets with a wrong checksum", node.name());
        }
        for counter in ["Udp6InCsumErrors", "Icmp6InCsumErrors"] {
            assert_eq!(node.snmp6(counter), 0, "{} received packets with a wrong checksum: {counter}", node.name());
        }
    }
}
