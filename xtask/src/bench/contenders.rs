//! What netd, a plain bridge, and a bridge with Docker's rules make of a host.

use std::{
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{Container, Host, Netd, NetdOptions};
use serde_json::Value;

use super::{
    proxy,
    server::PORT,
    site::{APP, Furnished, GATEWAY, HOST, PUBLISHED, SUBNET, WEB},
};
use crate::workspace;

/// The bridge made by hand.
const BRIDGE: &str = "br0";

/// What the daemon is told to attach containers' devices by TCX.
pub const TCX: [&str; 2] = ["--endpoint-attach", "tcx"];

/// How long netd may take to settle.
const SETTLING: Duration = Duration::from_secs(90);

/// netd with one network, through its own doors; its daemon has these arguments.
pub fn netd(host: &Host, arguments: &[&str]) -> Result<Furnished> {
    let netd = host.netd_with(NetdOptions::default().binary(workspace::netd()).arguments(arguments));
    netd.say(&format!("network create bench --subnet {SUBNET}")).ok();
    let (web, app) = (host.container("web"), host.container("app"));
    let ports = format!("-p {PUBLISHED}:{PORT} -p {PUBLISHED}:{PORT}/udp");
    netd.say(&format!("attach web --netns {} --network bench {ports}", web.netns())).ok();
    netd.say(&format!("attach app --netns {} --network bench", app.netns())).ok();
    let inspected = netd.run(["inspect", "web"]).json();
    let address = inspected[0]["networks"][0]["ip"].as_str().context("netd tells no address of web")?;
    let web_address = address.parse().with_context(|| format!("netd tells {address} as an address"))?;
    Ok(Furnished { web, web_address, app, companions: Vec::new(), netd: Some(netd) })
}

/// Waits until netd has done what it does half a minute after a network was made: its bridge has its program by TCX, as uplinks have
/// theirs.
pub fn settle(netd: &Netd) -> Result<()> {
    let manner = |status: &Value, name: &str| {
        let program = status["programs"].as_array().into_iter().flatten().find(|program| program["name"] == name);
        program.map(|program| program["attach"].clone())
    };
    let deadline = Instant::now() + SETTLING;
    loop {
        let status = netd.json("status");
        if manner(&status, "from_host") == manner(&status, "from_uplink") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "netd's bridges have their programs as at first, after {SETTLING:?} too");
        thread::sleep(Duration::from_millis(200));
    }
}

/// A Linux bridge with two containers, and nothing else.
pub fn bridge(host: &Host) -> Furnished {
    host.ip(&format!("link add {BRIDGE} type bridge"));
    host.ip(&format!("address add {GATEWAY}/24 dev {BRIDGE}"));
    host.ip(&format!("link set {BRIDGE} up"));
    let container = |name: &str, address: Ipv4Addr| -> Container {
        let container = host.container(name);
        host.ip(&format!("link add veth-{name} type veth peer name eth0 netns {name}"));
        host.ip(&format!("link set veth-{name} master {BRIDGE} up"));
        container.ip(&format!("address add {address}/24 dev eth0"));
        container.ip("link set eth0 up");
        container.default_route(&GATEWAY.to_string());
        container
    };
    Furnished::by_hand(container("web", WEB), container("app", APP))
}

/// The same with the rules that Docker 28 writes for a bridge network with one published port, and with its userland proxy.
pub fn docker_like(host: &Host) -> Result<Furnished> {
    let mut furnished = bridge(host);
    furnished.companions = proxy::start(host)?;
    host.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).ok();
    for rule in docker_rules() {
        host.run(std::iter::once("iptables").chain(rule.split_whitespace())).ok();
    }
    Ok(furnished)
}

/// Publishes more ports of UDP, all of which lead to the container's one. Half of them have their rules before the port that is published
/// already: they are gone through one after the other, and so it meets as many as a port does on average.
pub fn publish_like_docker(host: &Host, ports: &[u16]) -> Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let rules = host.path("/run/rules");
    fs::write(&rules, more_rules(ports)).context("cannot write the rules of many ports")?;
    host.run(["iptables-restore", "--noflush", "/run/rules"]).ok();
    Ok(())
}

fn more_rules(ports: &[u16]) -> String {
    let (before, behind) = ports.split_at(ports.len() / 2);
    let rule = |place: &'static str| {
        move |port: &u16| {
            format!(
                "{place} ! -i {BRIDGE} -d {HOST}/32 -p udp -m udp --dport {port} -j DNAT --to-destination {WEB}:{PORT}\n"
            )
        }
    };
    let rules = before.iter().map(rule("-I DOCKER 1")).chain(behind.iter().map(rule("-A DOCKER")));
    format!("*nat\n{}COMMIT\n", rules.collect::<String>())
}

fn docker_rules() -> Vec<String> {
    let fixed = [
        "-t nat -N DOCKER".to_owned(),
        "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER".to_owned(),
        "-t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER".to_owned(),
        format!("-t nat -A POSTROUTING -s {SUBNET} ! -o {BRIDGE} -j MASQUERADE"),
        "-P FORWARD DROP".to_owned(),
        "-N DOCKER".to_owned(),
        "-N DOCKER-USER".to_owned(),
        "-N DOCKER-FORWARD".to_owned(),
        "-N DOCKER-CT".to_owned(),
        "-N DOCKER-BRIDGE".to_owned(),
        "-N DOCKER-ISOLATION-STAGE-1".to_owned(),
        "-N DOCKER-ISOLATION-STAGE-2".to_owned(),
        "-A FORWARD -j DOCKER-USER".to_owned(),
        "-A FORWARD -j DOCKER-FORWARD".to_owned(),
        "-A DOCKER-FORWARD -j DOCKER-CT".to_owned(),
        "-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1".to_owned(),
        "-A DOCKER-FORWARD -j DOCKER-BRIDGE".to_owned(),
        format!("-A DOCKER-FORWARD -i {BRIDGE} -j ACCEPT"),
        format!("-A DOCKER-CT -o {BRIDGE} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
        format!("-A DOCKER-BRIDGE -o {BRIDGE} -j DOCKER"),
        format!("-A DOCKER-ISOLATION-STAGE-1 -i {BRIDGE} ! -o {BRIDGE} -j DOCKER-ISOLATION-STAGE-2"),
        format!("-A DOCKER-ISOLATION-STAGE-2 -o {BRIDGE} -j DROP"),
        format!("-t raw -A PREROUTING -d {WEB}/32 ! -i {BRIDGE} -j DROP"),
    ];
    let published = ["tcp", "udp"].into_iter().flat_map(|protocol| {
        let port = format!("-p {protocol} -m {protocol} --dport");
        [
            format!(
                "-t nat -A DOCKER ! -i {BRIDGE} -d {HOST}/32 {port} {PUBLISHED} -j DNAT --to-destination {WEB}:{PORT}"
            ),
            format!("-A DOCKER -d {WEB}/32 ! -i {BRIDGE} -o {BRIDGE} {port} {PORT} -j ACCEPT"),
        ]
    });
    let last = format!("-A DOCKER ! -i {BRIDGE} -o {BRIDGE} -j DROP");
    fixed.into_iter().chain(published).chain([last]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_ports_half_come_before_the_one_that_is_there() {
        let rules = more_rules(&[10_002, 10_004, 10_006, 10_008]);

        let with = |start: &str| rules.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!((with("-I DOCKER 1"), with("-A DOCKER"), rules.lines().count()), (2, 2, 6));
        assert!(rules.contains("--dport 10008 -j DNAT --to-destination 10.88.0.2:5000\n"));
    }

    #[test]
    fn what_is_published_is_accepted_before_the_rest_is_dropped() {
        let rules = docker_rules();

        let at = |part: &str| rules.iter().position(|rule| rule.contains(part)).expect("the rule is written");
        assert!(at("-p udp -m udp --dport 5000 -j ACCEPT") < at("-A DOCKER ! -i br0 -o br0 -j DROP"));
        assert!(at("-t nat -N DOCKER") < at("-j DNAT --to-destination 10.88.0.2:5000"));
    }
}
