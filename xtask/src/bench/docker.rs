//! Docker itself: the engine of Debian's packages in a root of its own, which it sees in place of the machine's. Two of a Lab's hosts
//! are two of its nodes.

use std::{fs, path::PathBuf, str::FromStr, thread, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use netd_tests::lab::{Container, Host, Lab, Outcome, Running};

use super::{
    overlay,
    server::PORT,
    site::{APP, Contender, Furnished, GATEWAY, HOST, OUTSIDE, PUBLISHED, SUBNET, Site, WEB},
};
use crate::{root, workspace};

/// The suite that has a current engine.
const SUITE: &str = "sid";
/// What the root holds besides the essential packages.
const PACKAGES: &str = "ca-certificates,docker.io,docker-cli,iptables,iproute2,busybox-static";
/// The only image: there is no registry.
const IMAGE: &str = "busybox";
/// The network of the containers.
const NETWORK: &str = "bench";
/// How often it is asked whether an engine, or its cluster, is there.
const PAUSE: Duration = Duration::from_millis(250);
/// And how many times.
const TIMES: usize = 240;

/// Makes `ROOT` what the engine sees: file systems of its own, the network and processes of the Lab's host. The tree itself stays as it is.
const ENTER: &str = r#"set -e
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
cd "$ROOT"
mkdir -p .old etc/docker var/lib/docker
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t bpf bpf sys/fs/bpf
mount -t cgroup2 cgroup2 sys/fs/cgroup
for place in run dev tmp etc/docker var/lib/docker; do mount -t tmpfs -o mode=755 tmpfs $place; done
mkdir -p run/lock run/netns dev/net dev/pts dev/shm dev/mqueue
for n in null zero full random urandom tty; do touch dev/$n; mount --bind /dev/$n dev/$n; done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs dev/shm
pivot_root . .old
umount -l /.old
echo 1 > /proc/sys/net/ipv4/ip_forward
exec dockerd --exec-opt native.cgroupdriver=cgroupfs --bip 10.200.0.1/24 --default-address-pool base=10.201.0.0/16,size=24
"#;

/// An engine that runs on a host.
pub struct Engine {
    host: Host,
    daemon: Running,
}

/// The tree that engines see as their root, and the engine's version. Made when it is not there.
pub fn root() -> Result<(PathBuf, String)> {
    let root = workspace::target().join("peers/docker");
    root::make(&root, SUITE, PACKAGES)?;
    let status = fs::read_to_string(root.join("var/lib/dpkg/status")).context("the root lists no packages")?;
    let version = version_in(&status).context("the root has no docker.io")?;
    Ok((root, version))
}

/// The engine's version in dpkg's list.
fn version_in(status: &str) -> Option<String> {
    let package = status.split("\n\n").find(|package| package.lines().any(|line| line == "Package: docker.io"))?;
    package.lines().find_map(|line| line.strip_prefix("Version: ")).map(str::to_owned)
}

impl Engine {
    /// Starts it, with its image, and waits until it answers.
    fn start(host: &Host) -> Result<Self> {
        let root = root()?.0.display().to_string();
        let variables = [("ROOT", root.as_str()), ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/tmp")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let words = ["unshare", "--mount", "--cgroup", "sh", "-c", ENTER];
        let engine = Self { host: host.clone(), daemon: host.spawn_with(words, &variables) };
        engine.until("the engine answers", || engine.docker("info").succeeded())?;
        engine.inside("tar -C / -c bin/busybox | docker import - busybox").ok();
        Ok(engine)
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) -> Result<()> {
        let held = (0..TIMES).any(|_| holds() || (thread::sleep(PAUSE), false).1);
        ensure!(held, "{what}: not within {:?}\n{}", PAUSE * TIMES as u32, self.daemon.log());
        Ok(())
    }

    /// What it says of a container, by a template of Go's.
    fn inspected<T: FromStr>(&self, name: &str, what: &str) -> Result<T> {
        let told = self.docker(&format!("inspect -f '{{{{{what}}}}}' {name}")).ok();
        told.trim().parse().map_err(|_| anyhow!("Docker tells {told} as {what} of {name}"))
    }

    /// A line of the shell in the engine's root.
    fn inside(&self, line: &str) -> Outcome {
        let daemon = self.daemon.id_inside().to_string();
        let path = "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp; ";
        self.host.run([
            "nsenter",
            "--target",
            &daemon,
            "--mount",
            "--cgroup",
            "--",
            "sh",
            "-c",
            &(path.to_owned() + line),
        ])
    }

    fn docker(&self, words: &str) -> Outcome {
        self.inside(&format!("docker {words}"))
    }

    /// A container on the network that sleeps; programs of the bench run in its namespace.
    fn container(&self, name: &str, more: &str) -> Result<Container> {
        self.docker(&format!("run -d --name {name} --network {NETWORK} {more} {IMAGE} /bin/busybox sleep 100000")).ok();
        let pid: u32 = self.inspected(name, ".State.Pid")?;
        let line = format!("touch /run/netns/{name} && mount --bind /proc/{pid}/ns/net /run/netns/{name}");
        self.host.run(["sh", "-c", &line]).ok();
        Ok(self.host.existing_container(name))
    }
}

/// One host, with a port published in TCP and UDP.
pub fn furnish(host: &Host) -> Result<Furnished> {
    let engine = Engine::start(host)?;
    engine.docker(&format!("network create --subnet {SUBNET} --gateway {GATEWAY} {NETWORK}")).ok();
    let web = engine.container("web", &format!("--ip {WEB} -p {PUBLISHED}:{PORT} -p {PUBLISHED}:{PORT}/udp"))?;
    let app = engine.container("app", &format!("--ip {APP}"))?;
    Ok(Furnished { companions: vec![Box::new(engine)], ..Furnished::by_hand(web, app) })
}

/// Two hosts of a swarm, with an overlay network that containers may join.
pub fn overlay(lab: Lab, one: Host, two: &Host) -> Result<Site> {
    let (first, second) = (Engine::start(&one)?, Engine::start(two)?);
    first.docker(&format!("swarm init --advertise-addr {HOST}")).ok();
    let token = first.docker("swarm join-token -q worker").ok();
    second.docker(&format!("swarm join --advertise-addr {OUTSIDE} --token {} {HOST}:2377", token.trim())).ok();
    first.docker(&format!("network create -d overlay --attachable --subnet {SUBNET} {NETWORK}")).ok();
    let app = first.container("app", "")?;
    let web = second.container("web", "")?;
    // The swarm takes some addresses for itself.
    let address = second.inspected("web", &format!(".NetworkSettings.Networks.{NETWORK}.IPAddress"))?;
    Ok(overlay::between(Contender::Docker, &app, (&web, address), one, lab)?
        .with_companions(vec![Box::new(first), Box::new(second)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_version_is_that_of_its_own_package() {
        let status = "Package: docker-cli\nVersion: 1\n\nPackage: docker.io\nStatus: ok\nVersion: 28.5.2+dfsg4-5\n\nPackage: z\n";

        assert_eq!(version_in(status).as_deref(), Some("28.5.2+dfsg4-5"));
        assert_eq!(version_in("Package: z\n"), None);
    }
}
