//! What commands take, as whoever runs them sees it: from the start of the process to its end. netd's command line beside the CNI
//! plugins, turn about; then netd with many endpoints. Of netd's it is told too how long the daemon had a processor meanwhile, and how
//! long it waited for one. The machine's speed is not waited for: a command that begins after 20 ms of waiting takes some times as long
//! (29 ms instead of 12 to attach, 70 instead of 26 by the CNI plugin), so another thing would be measured.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use netd_tests::lab::{Host, Lab, Netd, NetdOptions, Offloads};

use super::{
    busy,
    contenders::TCX,
    findings::{Area, Findings},
    memory, peers,
    site::{Contender, HOST, OUTSIDE},
};
use crate::workspace;

/// Subjects that targets name.
pub mod about {
    /// `netd network create`.
    pub const CREATE: &str = "network create";
    /// `netd attach`, or ADD of the plugin bridge.
    pub const ATTACH: &str = "attach";
    /// `netd publish` of one port, or ADD of the plugin portmap.
    pub const PUBLISH: &str = "publish a port";
    /// `netd detach`, or DEL of both plugins.
    pub const DETACH: &str = "detach";
    /// `netd attach` on a host with many endpoints.
    pub const ATTACH_MANY: &str = "attach, with 1,000 endpoints";
    /// `netd detach` there.
    pub const DETACH_MANY: &str = "detach, with 1,000 endpoints";
    /// Ten thousand ports that are a range.
    pub const RANGE: &str = "publish 10,000 ports, one range";
    /// Ten thousand that are none.
    pub const SINGLES: &str = "publish 10,000 ports, each by itself";
    /// From `kill -9` to the first answer.
    pub const RESTART: &str = "restart, with 1,000 endpoints";
    /// Resident memory of the daemon.
    pub const RESIDENT: &str = "daemon, resident, with 100 endpoints";
    /// What of that is the daemon's alone.
    pub const OWN: &str = "of which its own, not its binary's";
    /// What every command pays: starting a process on the host.
    pub const NOTHING: &str = "a command that does nothing (true)";

    /// How long of one of these the daemon had a processor.
    pub fn on_processor(subject: &str) -> String {
        format!("{subject}: the daemon on a processor")
    }

    /// How long it waited for one meanwhile.
    pub fn waiting(subject: &str) -> String {
        format!("{subject}: the daemon waiting for one")
    }
}

/// Where it is told what things take.
struct Timed<'a>(&'a mut Findings);

impl Timed<'_> {
    /// Milliseconds that `work` takes.
    fn of(&mut self, about: &str, who: Contender, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        work()?;
        self.0.add(Area::Control, about, who, "ms", milliseconds(begin.elapsed()));
        Ok(())
    }

    /// The same of what this daemon does, and of the daemon meanwhile.
    fn of_netd(&mut self, about: &str, netd: &Netd, work: impl FnOnce()) -> Result<()> {
        let now = || -> Result<_> { Ok([busy::spent(netd.id_outside())?, netd.waited()]) };
        let [spent_before, waited_before] = now()?;
        self.of(about, Contender::Netd, || {
            work();
            Ok(())
        })?;
        let [spent, waited] = now()?;
        self.daemon(about, spent.saturating_sub(spent_before), waited.saturating_sub(waited_before));
        Ok(())
    }

    fn daemon(&mut self, about: &str, spent: Duration, waited: Duration) {
        for (about, time) in [(about::on_processor(about), spent), (about::waiting(about), waited)] {
            self.0.add(Area::Control, &about, Contender::Netd, "ms", milliseconds(time));
        }
    }
}

/// Endpoints with which the daemon's memory is measured, and the greater number.
const SOME: usize = 100;
const MANY: usize = 1_000;
/// Endpoints of one network: a bridge has room for 1,023.
const OF_A_NETWORK: usize = 250;
/// Commands that are timed on a host with many endpoints.
const SAMPLE: usize = 20;

/// Measures everything; what needs many endpoints only in a whole run.
pub fn measured(findings: &mut Findings, whole: bool) -> Result<()> {
    let mut timed = Timed(findings);
    let (lab, host) = a_host("netd");
    let netd = host.netd_with(NetdOptions::default().binary(workspace::netd()));
    beside_cni(&mut timed, &host, &netd, if whole { 21 } else { 5 })?;
    ten_thousand_ports(&mut timed, &host, &netd, if whole { 5 } else { 1 })?;
    drop((netd, host, lab));
    many_endpoints(&mut timed, whole)
}

/// A host with an uplink.
fn a_host(name: &str) -> (Lab, Host) {
    let lab = Lab::new();
    let (host, outside) = (lab.host(name), lab.host("outside"));
    let [near, far] = [HOST, OUTSIDE].map(|address| format!("{address}/24"));
    lab.wire(Offloads::On).from(&host, "eth0", &near).to(&outside, "eth0", &far);
    (lab, host)
}

fn beside_cni(timed: &mut Timed, host: &Host, netd: &Netd, rounds: usize) -> Result<()> {
    let (_lab, peer) = a_host("cni");
    let (_by_tcx_lab, tcx_host) = a_host("netd-tcx");
    let by_tcx = tcx_host.netd_with(NetdOptions::default().binary(workspace::netd()).arguments(TCX));
    for netd in [netd, &by_tcx] {
        netd.say("network create bench").ok();
    }
    // Round zero warms up.
    let mut untold = Findings::default();
    for round in 0..=rounds {
        let mut timed = Timed(if round == 0 { &mut untold } else { &mut *timed.0 });
        let name = format!("c{round}");
        timed.of(about::NOTHING, Contender::Netd, || {
            host.run(["true"]).ok();
            Ok(())
        })?;
        let container = host.container(&name);
        let netns = container.netns();
        for (subject, words) in [
            (about::CREATE, format!("network create n{round}")),
            (about::ATTACH, format!("attach {name} --netns {netns} --network bench")),
            (about::PUBLISH, format!("publish {name} 9000:80")),
            (about::DETACH, format!("detach {name}")),
        ] {
            timed.of_netd(subject, netd, || drop(netd.say(&words).ok()))?;
        }
        netd.say(&format!("network rm n{round}")).ok();

        let container = tcx_host.container(&name);
        for (about, words) in [
            (about::CREATE, format!("network create n{round}")),
            (about::ATTACH, format!("attach {name} --netns {} --network bench", container.netns())),
            (about::DETACH, format!("detach {name}")),
        ] {
            timed.of(about, Contender::NetdTcx, || {
                by_tcx.say(&words).ok();
                Ok(())
            })?;
        }
        by_tcx.say(&format!("network rm n{round}")).ok();

        let container = peer.container(&name);
        let mut added = None;
        timed.of(about::ATTACH, Contender::Cni, || {
            added = Some(peers::join(&peer, &container)?);
            Ok(())
        })?;
        let added = added.context("a container that has joined was told what it is")?;
        timed.of(about::PUBLISH, Contender::Cni, || peers::map_port(&peer, &container, added))?;
        timed.of(about::DETACH, Contender::Cni, || peers::leave(&peer, &container))?;
    }
    Ok(())
}

fn ten_thousand_ports(timed: &mut Timed, host: &Host, netd: &Netd, rounds: usize) -> Result<()> {
    let web = host.container("web");
    netd.say(&format!("attach web --netns {} --network bench", web.netns())).ok();
    let singles: Vec<_> = (0..10_000).map(|n| format!("{}:80/udp", 10_000 + 2 * n)).collect();
    for (about, specs) in [(about::RANGE, vec!["10000-19999:10000-19999".to_owned()]), (about::SINGLES, singles)] {
        let words = |verb: &str| [verb.to_owned(), "web".to_owned()].into_iter().chain(specs.iter().cloned());
        for _ in 0..rounds {
            timed.of_netd(about, netd, || drop(netd.run(words("publish")).ok()))?;
            netd.run(words("unpublish")).ok();
        }
    }
    Ok(())
}

fn many_endpoints(timed: &mut Timed, whole: bool) -> Result<()> {
    let (_lab, host) = a_host("many");
    let mut netd = host.netd_with(NetdOptions::default().binary(workspace::netd()));
    let count = if whole { MANY } else { SOME };
    let spare: Vec<_> = (0..SAMPLE).map(|n| format!("s{n}")).collect();
    let names: Vec<_> = (0..count).map(|n| format!("e{n}")).collect();
    namespaces(&host, names.iter().chain(&spare))?;
    for network in 0..=count / OF_A_NETWORK {
        netd.say(&format!("network create many{network}")).ok();
    }
    let attach = |netd: &Netd, name: &str, network: usize| {
        netd.say(&format!("attach {name} --netns /run/netns/{name} --network many{network}")).ok();
    };
    for (n, name) in names.iter().enumerate() {
        attach(&netd, name, n / OF_A_NETWORK);
        if n + 1 == SOME {
            weigh(timed.0, &host, &netd)?;
        }
    }
    if !whole {
        return Ok(());
    }
    for name in &spare {
        timed.of_netd(about::ATTACH_MANY, &netd, || attach(&netd, name, MANY / OF_A_NETWORK))?;
    }
    for name in &spare {
        timed.of_netd(about::DETACH_MANY, &netd, || drop(netd.say(&format!("detach {name}")).ok()))?;
    }
    for _ in 0..3 {
        netd.kill();
        timed.of(about::RESTART, Contender::Netd, || {
            netd.start();
            Ok(())
        })?;
        // All that this daemon has ever done.
        timed.daemon(about::RESTART, busy::spent(netd.id_outside())?, netd.waited());
    }
    Ok(())
}

/// Empty network namespaces, made by one process.
fn namespaces<'a>(host: &Host, names: impl Iterator<Item = &'a String>) -> Result<()> {
    let lines: String = names.map(|name| format!("netns add {name}\n")).collect();
    fs::write(host.path("/run/namespaces"), lines).context("cannot list the namespaces to make")?;
    host.run(["ip", "-batch", "/run/namespaces"]).ok();
    Ok(())
}

/// The daemon's memory and its maps'.
fn weigh(findings: &mut Findings, host: &Host, netd: &Netd) -> Result<()> {
    const MEGABYTE: f64 = 1e6;
    let resident = memory::resident(host, netd)?;
    let mut add =
        |about: &str, bytes: u64| findings.add(Area::Memory, about, Contender::Netd, "MB", bytes as f64 / MEGABYTE);
    add(about::RESIDENT, resident.all);
    add(about::OWN, resident.own);
    let maps = memory::maps(host, netd)?;
    add("all maps", maps.values().map(|map| map.bytes).sum());
    for (name, map) in maps.iter().filter(|(_, map)| map.bytes >= 1 << 20) {
        add(&format!("map {name}, room for {}", crate::programs::grouped(map.entries)), map.bytes);
    }
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
