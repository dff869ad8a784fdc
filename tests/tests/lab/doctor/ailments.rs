//! Every finding of the doctor, provoked: what it says it is, what it means, what to do, how the command ends; and once it is
//! cured, nothing is left of it.

use std::{fs, time::Instant};

use netd_common::tables::LAYOUT;
use netd_tests::lab::{NetdOptions, Offloads};
use serde_json::Value;

use super::{findings, healthy_town, with_a_resolver};
use crate::{
    says::{subnet_of, text},
    town::{Town, wait_until},
};

/// A finding as it has to be: words of what was found, of what it means and of what to do.
pub struct Expected {
    check: &'static str,
    severity: &'static str,
    found: String,
    meaning: &'static str,
    remedy: String,
}

impl Expected {
    fn new(
        severity: &'static str,
        check: &'static str,
        found: impl Into<String>,
        meaning: &'static str,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, severity, found: found.into(), meaning, remedy: remedy.into() }
    }

    pub fn note(
        check: &'static str,
        found: impl Into<String>,
        meaning: &'static str,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new("note", check, found, meaning, remedy)
    }

    pub fn warning(
        check: &'static str,
        found: impl Into<String>,
        meaning: &'static str,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new("warning", check, found, meaning, remedy)
    }

    pub fn problem(
        check: &'static str,
        found: impl Into<String>,
        meaning: &'static str,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new("problem", check, found, meaning, remedy)
    }

    fn is(&self, finding: &Value) -> bool {
        let has = |field: &str, words: &str| text(finding, field).contains(words);
        text(finding, "/check") == self.check
            && text(finding, "/severity") == self.severity
            && has("/found", &self.found)
            && has("/meaning", self.meaning)
            && has("/remedy", &self.remedy)
    }
}

/// Who asks `netd doctor` in a town.
pub struct Doctor<'a> {
    town: &'a Town,
}

impl<'a> Doctor<'a> {
    pub const fn of(town: &'a Town) -> Self {
        Self { town }
    }

    /// Asserts that it comes to find these and nothing else, each in one finding or more, and that the command's end says how bad
    /// it is.
    #[track_caller]
    pub fn finds(&self, expected: &[&Expected]) {
        self.comes_to(expected, |found| found.iter().all(|finding| expected.iter().any(|one| one.is(finding))));
    }

    /// Asserts that it comes to find this.
    #[track_caller]
    pub fn finds_among_others(&self, expected: &Expected) {
        self.comes_to(&[expected], |_| true);
    }

    #[track_caller]
    fn comes_to(&self, expected: &[&Expected], and: impl Fn(&[Value]) -> bool) {
        let began = Instant::now();
        loop {
            let (mut found, code) = findings(self.town);
            found.retain(|finding| text(finding, "/severity") != "fine");
            let is_there = |one: &&Expected| found.iter().any(|finding| one.is(finding));
            if expected.iter().all(is_there) && and(&found) {
                let bad = found.iter().any(|finding| text(finding, "/severity") != "note");
                assert_eq!(code, i32::from(bad), "{found:#?}");
                return;
            }
            let wanted: Vec<_> = expected.iter().map(|one| &one.found).collect();
            assert!(began.elapsed() < super::DEADLINE, "{wanted:?} should be found, and is: {found:#?}");
        }
    }

    /// Does something to the host, asserts what is then found, undoes it, and that nothing is left to be found.
    #[track_caller]
    fn finds_while(&self, harm: &str, cure: &str, expected: &Expected) {
        println!("{harm}: {}", expected.found);
        self.does(harm);
        self.finds(&[expected]);
        self.does(cure);
    }

    #[track_caller]
    pub fn does(&self, script: &str) {
        self.town.host.run(["sh", "-ec", script]).ok();
    }
}

/// Has a file of /proc/sys read as `value` by the processes of the host, and the end of that.
fn as_if(file: &str, value: &str) -> [String; 2] {
    [format!("echo {value} > /run/as-if; mount --bind /run/as-if {file}"), format!("umount {file}")]
}

#[test]
fn what_the_kernel_lacks_is_found() {
    let (town, _resolver) = healthy_town();
    let doctor = Doctor::of(&town);
    for (release, expected) in [
        (
            "5.15.0-91",
            Expected::problem("kernel", "kernel 5.15.0-91", "made for 6.1 and later", "Boot a kernel of 6.1"),
        ),
        ("6.1.0-40", Expected::note("kernel", "kernel 6.1.0-40", "It has no TCX", "Boot a kernel of 6.6")),
    ] {
        let [harm, cure] = as_if("/proc/sys/kernel/osrelease", release);
        doctor.finds_while(&harm, &cure, &expected);
    }

    doctor.finds_while(
        "mkdir -p /run/core; echo 0 > /run/core/bpf_jit_enable; mount --bind /run/core /proc/sys/net/core",
        "umount /proc/sys/net/core",
        &Expected::warning(
            "kernel",
            "net.core.bpf_jit_enable is 0",
            "Programs are interpreted",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
    );
    doctor.finds_while(
        "mount -t tmpfs none /sys/kernel; echo 1 > /sys/kernel/realtime",
        "umount /sys/kernel",
        &Expected::problem("kernel", "PREEMPT_RT", "may be mistranslated", "Boot a kernel without PREEMPT_RT"),
    );
    doctor.finds(&[]);
}

#[test]
fn what_the_host_does_to_its_packets_is_found() {
    let (town, _resolver) = healthy_town();
    town.network("blue");
    let doctor = Doctor::of(&town);
    let subnet = subnet_of(&town.netd, "blue");

    doctor.finds_while(
        &format!("ip route add {subnet} via 192.0.2.2 metric 77"),
        &format!("ip route del {subnet} via 192.0.2.2 metric 77"),
        &Expected::warning(
            "subnets",
            format!("network blue ({subnet}) overlaps {subnet}, which the host routes by eth0"),
            "goes to one of the two",
            "netd network renumber",
        ),
    );
    doctor.finds_while(
        "ip rule add tos 0x10 lookup main",
        "ip rule del tos 0x10 lookup main",
        &Expected::warning("ways", "a rule of `ip rule` picks routes", "not as fast", "Mend what it names"),
    );
    doctor.finds_while(
        "sysctl -qw net.ipv4.conf.eth1.rp_filter=1",
        "sysctl -qw net.ipv4.conf.eth1.rp_filter=0",
        &Expected::note(
            "rp_filter",
            "the reverse-path filter of eth1 is strict",
            "dropped by the kernel in silence",
            "sysctl -w net.ipv4.conf.eth1.rp_filter=2",
        ),
    );
    doctor.finds_while(
        "sysctl -qw net.bridge.bridge-nf-call-iptables=1",
        "sysctl -qw net.bridge.bridge-nf-call-iptables=0",
        &Expected::note(
            "br_netfilter",
            "net.bridge.bridge-nf-call-iptables is 1",
            "pass the host's iptables rules",
            "sysctl -w net.bridge.bridge-nf-call-iptables=0",
        ),
    );
    // Somebody keeps it off: what netd writes there is refused.
    doctor.does(
        "mkdir -p /run/conf; mount --bind /proc/sys/net/ipv4/conf /run/conf; \
         mount --bind -o ro /proc/sys/net/ipv4/conf /proc/sys/net/ipv4/conf; \
         mount -o remount,bind,ro /proc/sys/net/ipv4/conf; echo 0 > /run/conf/eth0/forwarding",
    );
    doctor.finds_among_others(&Expected::warning(
        "forwarding",
        "IPv4 forwarding of eth0 is off",
        "is not forwarded",
        "look in /etc/sysctl.d",
    ));
    doctor.does("umount /proc/sys/net/ipv4/conf; umount /run/conf");
    doctor.finds(&[]);
}

#[test]
fn a_network_that_is_wider_than_a_way_out_is_found_by_device_and_by_route() {
    let (town, _resolver) = healthy_town();
    town.netd.say("network create blue --mtu 1500").ok();
    let doctor = Doctor::of(&town);
    let too_wide = |way: &str| {
        Expected::warning(
            "mtu",
            format!("network blue has MTU 1500, the way by {way}"),
            "Large packets are fragmented or refused",
            "netd network set",
        )
    };

    doctor.finds_while("ip link set eth1 mtu 1400", "ip link set eth1 mtu 1500", &too_wide("eth1 1400"));
    doctor.finds_while(
        "ip route replace 10.77.0.0/16 via 192.0.2.2 dev eth0 mtu 1300",
        "ip route del 10.77.0.0/16",
        &too_wide("eth0 1300"),
    );
    doctor.does("ip link set eth1 mtu 1400");
    doctor.finds(&[&too_wide("eth1 1400")]);
    // The remedy helps.
    town.netd.say("network set blue --mtu auto").ok();
    doctor.finds(&[]);
}

#[test]
fn what_the_hosts_firewall_stops_is_found() {
    let (town, _resolver) = healthy_town();
    town.network("blue");
    let _web = town.container("web", "blue", &["8080:80"]);
    let doctor = Doctor::of(&town);

    doctor.finds_while(
        "nft 'add table inet guard; add chain inet guard forward { type filter hook forward priority 0; policy drop; }'",
        "nft delete table inet guard",
        &Expected::warning("firewall", "stops new flows", "It is a rule of the host's", "If that is not meant: "),
    );
    doctor.finds_while(
        "iptables-nft -A INPUT -i lo -j ACCEPT; iptables-nft -P INPUT DROP",
        "iptables-nft -P INPUT ACCEPT; iptables-nft -F INPUT",
        &Expected::warning(
            "firewall",
            "port 8080/tcp of 0.0.0.0 is open although INPUT denies it",
            "INPUT does not see it",
            "from=",
        ),
    );
    doctor.finds_while(
        "iptables-nft -P FORWARD DROP; iptables-nft -t mangle -A PREROUTING -j MARK --set-mark 1",
        "iptables-nft -t mangle -F PREROUTING; iptables-nft -P FORWARD ACCEPT",
        &Expected::warning("firewall", "takes netd's mark", "knows netd's packets by that bit", "--set-xmark 1/1"),
    );
    doctor.finds_while(
        "nft=$(readlink -f $(command -v nft)); echo $nft > /run/nft; mount --bind /dev/null $nft; iptables-nft -N unseen",
        "umount $(cat /run/nft); iptables-nft -X unseen",
        &Expected::warning(
            "firewall",
            "the host's rules cannot be read",
            "Every flow shows itself to the firewall",
            "Install what is missing",
        ),
    );
    doctor.finds(&[]);
}

#[test]
fn what_is_not_as_the_store_says_is_found() {
    let (town, _resolver) = healthy_town();
    town.network("blue");
    let (_web, app) = (town.container("web", "blue", &[]), town.container("app", "blue", &[]));
    let doctor = Doctor::of(&town);

    // Another device has the name of the container's own, which netd cannot give back.
    doctor.does(
        "until ip -n web link set eth0 down && ip -n web link set eth0 name other0 && ip -n web link add eth0 type ifb; \
         do sleep 0.1; done",
    );
    let (found, meaning) = ("endpoint web: ", "The host is not as the store says");
    doctor.finds_among_others(&Expected::warning("state", found, meaning, "`netd status` says what is in the way"));
    let meaning = "netd has tried, and tries again";
    doctor.finds_among_others(&Expected::problem("state", "cannot ", meaning, "See what is in the way"));
    doctor.does("ip -n web link del eth0");
    doctor.finds(&[]);

    app.delete();
    let gone = "endpoint app: its namespace /run/netns/app is gone";
    doctor.finds(&[&Expected::warning("state", gone, "Its addresses and ports stay taken", "netd rm app")]);
    town.netd.say("rm app").ok();
    doctor.finds(&[]);
}

#[test]
fn a_published_port_that_a_process_has_too_is_found() {
    let (mut town, _resolver) = healthy_town();
    town.network("blue");
    let _web = town.container("web", "blue", &["8080:80"]);
    Doctor::of(&town).finds(&[]);

    // With the daemon dead nobody puts back what keeps the port.
    town.netd.kill();
    let pins = town.host.path(format!("/sys/fs/bpf/netd/{LAYOUT}/links"));
    for pin in fs::read_dir(&pins).expect("the links are pinned").flatten() {
        if pin.file_name().to_string_lossy().contains("bind") {
            fs::remove_file(pin.path()).expect("a pin can be removed");
        }
    }
    let listens = "import socket,time; s=socket.socket(); s.bind(('',8080)); s.listen(); print('there',flush=True); time.sleep(600)";
    let process = town.host.spawn(["python3", "-c", listens]);
    wait_until("the process has the port", || process.log().contains("there"));
    town.netd.start();

    Doctor::of(&town).finds(&[&Expected::warning(
        "ports",
        "port 8080 is published, and python3 (pid ",
        "Clients from outside reach the container, not that process",
        "End the process, or publish another port",
    )]);
    process.signal(nix::sys::signal::Signal::SIGKILL);
    process.wait();
    Doctor::of(&town).finds(&[]);
}

#[test]
fn a_host_without_a_cgroup_is_told_what_that_costs() {
    let town = Town::with(Offloads::On, NetdOptions::default().arguments(["--cgroup", "none"]));
    let _resolver = with_a_resolver(&town);

    let held = "published ports are held by sockets";
    Doctor::of(&town).finds(&[&Expected::note("ports", held, "free while the daemon is not there", "--cgroup")]);
}
