//! Programs of others at the hooks where netd's are: named, and when they keep netd's from its packets or from its place, said so.

use std::os::fd::{AsRawFd, OwnedFd};

use netd_common::tables::LAYOUT;
use netd_tests::lab::Host;

use super::{
    ailments::{Doctor, Expected},
    healthy_town,
};
use crate::{
    pinned::{self, command, made},
    town::{HOST, wait_until},
};
/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u64 = 3;
/// `BPF_TCX_INGRESS`.
const TCX_INGRESS: u64 = 46;

/// What a program says to a packet (`linux/pkt_cls.h`).
#[derive(Clone, Copy)]
enum Says {
    /// `TCX_NEXT`: the next program is asked.
    Next = -1,
    /// `TCX_PASS`: nobody else is.
    Pass = 0,
}

/// Where it stands among those at a hook (`BPF_F_BEFORE`, `BPF_F_AFTER` without a relative).
#[derive(Clone, Copy)]
enum Place {
    First = 1 << 3,
    Last = 1 << 4,
}

/// A program that looks at nothing, attached at a device's ingress until it is dropped.
struct Stranger {
    _link: OwnedFd,
}

impl Stranger {
    /// `None` where there is no room.
    fn stands(host: &Host, device: &str, place: Place, says: Says) -> Option<Self> {
        let license = c"GPL";
        // r0 = says; exit
        let program = [0xb7_u64 | u64::from((says as i32).cast_unsigned()) << 32, 0x95];
        let name = u64::from_le_bytes(*b"guard\0\0\0");
        let load = [SCHED_CLS | 2 << 32, program.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0, name, 0];
        let program = made(command::PROG_LOAD, load).expect("a program of two instructions is loaded");
        let index = u64::from(host.ifindex(device).expect("the device is there"));
        let attach = [fd(&program) | index << 32, TCX_INGRESS | (place as u64) << 32, 0, 0, 0, 0, 0, 0];
        host.enter(|| made(command::LINK_CREATE, attach)).ok().map(|link| Self { _link: link })
    }
}

fn fd(of: &OwnedFd) -> u64 {
    of.as_raw_fd() as u64
}

#[test]
fn programs_of_others_are_named_with_what_they_do_to_netds() {
    let (town, _resolver) = healthy_town();
    town.network("blue");
    let doctor = Doctor::of(&town);
    let before = Expected::warning(
        "programs",
        "guard stands before from_uplink on eth0",
        "It sees packets before netd's program",
        "or detach it",
    );
    let after = Expected::note(
        "programs",
        "guard stands after from_uplink on eth0",
        "It sees what netd's program lets go on",
        "Detach it",
    );

    let stranger = Stranger::stands(&town.host, "eth0", Place::Last, Says::Next).expect("there is room");
    doctor.finds(&[&after]);
    drop(stranger);

    let stranger = Stranger::stands(&town.host, "eth0", Place::First, Says::Next).expect("there is room");
    doctor.finds(&[&before]);
    drop(stranger);

    // Attached as it should be, and not asked.
    let stranger = Stranger::stands(&town.host, "eth0", Place::First, Says::Pass).expect("there is room");
    let _echo = town.host.echo_udp(7);
    let flood = town.internet.pings_udp(&format!("{HOST}:7"), 2_000);
    let starved = Expected::problem(
        "hooks",
        "packets, and from_uplink has seen none",
        "The program is attached and does not run",
        "Look for programs of others below",
    );
    doctor.finds(&[&starved, &before]);
    drop((flood, stranger));

    let filter = ["tc", "filter", "add", "dev", "eth0", "ingress", "pref", "7", "protocol", "all", "bpf"];
    town.host.run(["tc", "qdisc", "add", "dev", "eth0", "clsact"]).ok();
    town.host.run(filter.iter().chain(&["bytecode", "1,6 0 0 0", "classid", "1:1"])).ok();
    doctor.finds(&[&Expected::note(
        "programs",
        "after from_uplink on eth0",
        "It sees what netd's program lets go on",
        "Detach it",
    )]);
    town.host.run(["tc", "qdisc", "del", "dev", "eth0", "clsact"]).ok();
    doctor.finds(&[]);
}

#[test]
fn a_hook_that_netd_cannot_get_back_is_a_problem() {
    let (mut town, _resolver) = healthy_town();
    town.network("blue");
    let uplink = town.host.ifindex("eth0").expect("it is there");
    let pin = town.host.path(format!("/sys/fs/bpf/netd/{LAYOUT}/links/from_uplink@{uplink}"));

    // While nobody looks after it, others take its place and every other.
    town.netd.kill();
    pinned::detach(&pin);
    let stands = || Stranger::stands(&town.host, "eth0", Place::Last, Says::Next);
    let crowd: Vec<_> = std::iter::from_fn(stands).collect();
    assert!(crowd.len() > 8, "a hook has room for many");
    town.netd.start_without_waiting();
    let told = || town.netd.say("status").stdout.contains("cannot attach from_uplink to eth0");
    wait_until("netd says that it cannot attach it", told);
    let status = town.netd.say("status").stdout;
    let line = status.lines().find(|line| line.contains("from_uplink to eth0")).unwrap_or_default();
    assert_eq!(line.matches("attach from_uplink to eth0").count(), 1, "what failed is said once: {status}");

    let doctor = Doctor::of(&town);
    let lost = Expected::problem(
        "hooks",
        "from_uplink is not attached to eth0",
        "Packets there are neither translated nor checked",
        "See `netd status` for what is in the way",
    );
    doctor.finds_among_others(&lost);
    drop(crowd);
    doctor.finds(&[]);
}
