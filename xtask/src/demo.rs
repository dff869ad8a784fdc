//! `cargo xtask demo`: netd at work in ten seconds, on a private host made of namespaces. Nothing of the machine's own
//! network is touched, and everything goes with this process, however it ends.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use netd_tests::lab::{Host, Lab, Netd, NetdOptions, Offloads, Outcome, Running};
use serde_json::Value;

use crate::{build_ebpf, command, debian, stage, workspace};

/// Bytes of the download that the daemon's death must not disturb.
const DOWNLOAD: usize = 24 << 20;
/// Bytes a second that it is held to, so that it goes on for a while.
const RATE: &str = "12M";

/// What the demo itself runs.
const PACKAGES: [&str; 5] = ["busybox-static", "ca-certificates", "curl", "ethtool", "iproute2"];

/// Gets what is needed, builds, and runs the demo. What fails is one line; the exit code says so.
pub fn run() -> Result<u8> {
    command::need_root("demo")?;
    debian::ensure_packages(&PACKAGES)?;
    build_ebpf::build(false)?;
    command::show(&mut workspace::cargo(["build", "--release", "-p", "netd"]))?;
    stage::play("the demo", || Demo::new().and_then(|mut demo| demo.tell())).map(|()| 0)
}

/// The stage: a host with netd, an internet behind its uplink with a web server, and a client outside. Everything on it ends
/// with it.
struct Demo {
    netd: Netd,
    host: Host,
    server: Running,
    client: Host,
    started: Instant,
    _internet: Host,
    _lab: Lab,
}

impl Demo {
    fn new() -> Result<Self> {
        let started = Instant::now();
        println!("A private host with netd, an internet behind its uplink and a client outside, all in namespaces.\n");
        let lab = Lab::new();
        let (host, internet, client) = (lab.host("host"), lab.host("internet"), lab.host("client"));
        lab.wire(Offloads::On).from(&host, "eth0", "192.0.2.1/24").to(&internet, "eth0", "192.0.2.254/24");
        lab.wire(Offloads::On).from(&client, "eth0", "203.0.113.9/24").to(&internet, "eth1", "203.0.113.1/24");
        host.default_route("192.0.2.254");
        client.default_route("203.0.113.1");
        internet.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).ok();
        fs::write(host.path("/run/hello"), "hello from web\n").context("the host's page")?;
        fs::write(internet.path("/run/index"), "hello from the internet\n").context("the internet's page")?;
        let server = internet.spawn(["busybox", "httpd", "-f", "-vv", "-p", "80", "-h", "/run"]);
        fs::write(host.path("/run/big"), noise(DOWNLOAD)).context("the download")?;
        told(started, "three hosts, wired");

        let netd = host.netd_with(NetdOptions::default().binary(workspace::netd()));
        told(started, &format!("netd daemon answers on the host ({})", attachment(&netd)));
        Ok(Self { netd, host, server, client, started, _internet: internet, _lab: lab })
    }

    fn tell(&mut self) -> Result<()> {
        self.make_networks_and_containers();
        self.containers_reach_each_other()?;
        self.a_container_reaches_the_internet()?;
        self.a_client_reaches_the_published_port()?;
        self.the_other_network_is_unreachable()?;
        self.show_the_flows_and_counters();
        self.the_daemon_dies_and_nothing_else()?;
        println!("\nTry next:");
        println!(
            "  cargo xtask run                                             netd on this host, in the foreground; then, elsewhere:"
        );
        println!(
            "  target/release/netd run -p 8080:80 -- busybox httpd -f -p 80 -h .    a web server in a container of its own"
        );
        println!(
            "  target/release/netd flows                                   who talks to whom, as the kernel sees it"
        );
        Ok(())
    }

    fn make_networks_and_containers(&self) {
        for network in ["blue", "red"] {
            self.netd.run(["network", "create", network]).ok();
        }
        told(self.started, "netd network create blue; netd network create red");
        let web = ["run", "-d", "--name", "web", "--network", "blue", "-p", "8080:80", "--"];
        let httpd = ["busybox", "httpd", "-f", "-vv", "-p", "80", "-h", "/run"];
        self.netd.run(web.into_iter().chain(httpd)).ok();
        for (name, network) in [("app", "blue"), ("stranger", "red")] {
            self.netd.run(["run", "-d", "--name", name, "--network", network, "--", "sleep", "600"]).ok();
        }
        told(self.started, "netd run: web (a web server, published as 8080) and app on blue, stranger on red");
        show(&self.netd.run(["ps"]).ok());
    }

    fn containers_reach_each_other(&self) -> Result<()> {
        let url = format!("http://{}/hello", self.address("web")?);
        let page = self.in_container("app", &["curl", "-sS", "--max-time", "5", &url]).ok();
        ensure!(page == "hello from web\n", "app read {page:?} from web");
        told(self.started, &format!("app reaches web: curl {url} says {:?}", page.trim_end()));
        Ok(())
    }

    fn a_container_reaches_the_internet(&self) -> Result<()> {
        let url = "http://192.0.2.254/index";
        let page = self.in_container("app", &["curl", "-sS", "--max-time", "5", url]).ok();
        ensure!(page == "hello from the internet\n", "app read {page:?} from the internet");
        let seen = eventually(|| last_peer(&self.server.log())).context("the internet's server logged no peer")?;
        ensure!(seen == "192.0.2.1", "the internet's server saw {seen} and not the host");
        told(self.started, &format!("app reaches the internet, whose server saw the host's address: {seen}"));
        Ok(())
    }

    fn a_client_reaches_the_published_port(&self) -> Result<()> {
        let url = "http://192.0.2.1:8080/hello";
        let page = self.client.run(["curl", "-sS", "--max-time", "5", url]).ok();
        ensure!(page == "hello from web\n", "the client read {page:?}");
        let log = self.host.path("/run/netd/logs/web.log");
        let seen = eventually(|| last_peer(&fs::read_to_string(&log).ok()?).filter(|peer| !peer.starts_with("10.")));
        let seen = seen.context("web logged no peer from outside")?;
        ensure!(seen == "203.0.113.9", "web saw {seen} and not the client");
        told(self.started, &format!("a client outside reaches {url}; web logged the client's own address: {seen}"));
        Ok(())
    }

    fn the_other_network_is_unreachable(&self) -> Result<()> {
        let url = format!("http://{}/hello", self.address("web")?);
        let refused = self.in_container("stranger", &["curl", "-sS", "--max-time", "1", &url]);
        ensure!(!refused.succeeded(), "stranger on red reached web on blue");
        told(self.started, "stranger on red cannot reach web on blue");
        Ok(())
    }

    fn show_the_flows_and_counters(&self) {
        told(self.started, "netd flows");
        show(&self.netd.run(["flows"]).ok());
        told(self.started, "netd status");
        show(&self.netd.run(["status"]).ok());
    }

    fn the_daemon_dies_and_nothing_else(&mut self) -> Result<()> {
        let url = "http://192.0.2.1:8080/big";
        let arguments = ["curl", "-sS", "--max-time", "30", "--limit-rate", RATE, "-o", "/run/copy", url];
        let download = self.client.spawn(arguments);
        let copy = self.client.path("/run/copy");
        eventually(|| fs::metadata(&copy).ok().filter(|m| m.len() > 2 << 20)).context("the download does not begin")?;
        self.netd.kill();
        let at = fs::metadata(&copy).map_or(0, |m| m.len());
        told(self.started, &format!("kill -9 of the daemon, {} of {} MiB into a download", at >> 20, DOWNLOAD >> 20));
        let page = self.client.run(["curl", "-sS", "--max-time", "5", "http://192.0.2.1:8080/hello"]).ok();
        ensure!(page == "hello from web\n", "without its daemon the host served {page:?}");
        told(self.started, "a new connection to the published port works without the daemon");
        download.wait().ok();
        let copied = fs::read(&copy).context("the copy")?;
        if copied != noise(DOWNLOAD) {
            bail!("the download of {} bytes arrived as {} bytes or differs", DOWNLOAD, copied.len());
        }
        told(self.started, "the download is complete, byte for byte");
        Ok(())
    }

    fn address(&self, container: &str) -> Result<String> {
        let inspected = self.netd.run(["inspect", container]).json();
        let ip = &inspected[0]["networks"][0]["ip"];
        ip.as_str().map(str::to_owned).with_context(|| format!("netd inspect {container} has no address: {inspected}"))
    }

    fn in_container(&self, name: &str, command: &[&str]) -> Outcome {
        self.netd.run(["exec", name, "--"].into_iter().chain(command.iter().copied()))
    }
}

/// The mode of attachment that `netd status` tells.
fn attachment(netd: &Netd) -> String {
    let status: Value = netd.json("status");
    status["attach"].as_str().unwrap_or("attached").to_owned()
}

fn told(started: Instant, what: &str) {
    println!("{:>6.2} s  {what}", started.elapsed().as_secs_f64());
}

fn show(text: &str) {
    for line in text.trim_end().lines() {
        println!("          {line}");
    }
}

/// What `look` finds within two seconds.
fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The address in the last line of a busybox httpd log: `[::ffff:192.0.2.1]:40000: url:/index`.
fn last_peer(log: &str) -> Option<String> {
    let line = log.lines().rfind(|line| line.contains("url:"))?;
    let line = line.trim_start_matches('[').trim_start_matches("::ffff:");
    line.split([']', ':']).next().map(str::to_owned)
}

/// Bytes that no compression and no repetition could hide a loss in.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}
