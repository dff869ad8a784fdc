//! A host whose own firewall has rules: which packets it is shown, and when a flow may go without.

use netd_common::{
    firewall::{self, Passage},
    packet::Label,
    parse::tcp_flags::{ACK, FIN, RST, SYN},
    tables::{Firewall, Flow, Hook, Scratch, firewall_flags},
    tuple::Tuple,
    verdict::Verdict,
};
use netd_tests::{
    packets::{Build, fragments, icmp_error, ping, pong, tcp, udp},
    scene::{self, A, UPLINK, UPLINK_MACS, bridge_mac, container_mac},
    story::SERVER,
    world::{Frame, World},
};

const MARK: u32 = 0x0800_0000;
const CLIENT: &str = "203.0.113.9:40000";

#[test]
fn a_flow_goes_past_the_firewall_until_it_has_emerged_each_direction_for_itself() {
    let host = Firewalled::new(0);
    let out = || udp("10.176.1.2:5000", &format!("{SERVER}:53"));

    assert_eq!(host.sends(out()), Verdict::Show);
    assert_eq!(host.sends(out()), Verdict::Show, "the first one has not emerged");
    let left = host.emerges_outside(out());
    assert_eq!(host.sends(out()), Verdict::Neighbour(UPLINK));
    assert_eq!(host.comes(left.clone().turned()), Verdict::Show, "the answers prove themselves");
    host.emerges_inside(&left.clone().turned());
    assert_eq!(host.comes(left.turned()), Verdict::Peer(A));
    assert_eq!(host.sends(out()), Verdict::Neighbour(UPLINK));
}

#[test]
fn what_the_firewall_stops_never_leaves_its_way() {
    let host = Firewalled::new(0);
    for _ in 0..100 {
        assert_eq!(host.sends(udp("10.176.1.2:5000", &format!("{SERVER}:53"))), Verdict::Show);
        assert_eq!(host.comes(udp(CLIENT, "192.0.2.1:5353")), Verdict::Show);
        host.world.sleep_seconds(1);
    }
}

#[test]
fn the_firewall_sees_containers_addresses_in_both_directions() {
    let host = Firewalled::new(0);
    let mut inward = host.inward(tcp(CLIENT, "192.0.2.1:8080").flags(SYN));

    assert_eq!(host.world.run(Hook::FromUplink, &mut inward), Verdict::Show);
    assert_eq!((&inward.bytes[30..34], inward.label, inward.mark), (&[10, 176, 1, 2][..], Label::Approved, MARK));
    let mut outward = host.outward(tcp("10.176.1.2:80", CLIENT).flags(SYN | ACK));
    assert_eq!(host.world.run(Hook::FromContainer, &mut outward), Verdict::Show);
    assert_eq!((&outward.bytes[26..30], outward.mark), (&[10, 176, 1, 2][..], MARK));
    let at_uplink = host.at_uplink(tcp("10.176.1.2:80", CLIENT).flags(SYN | ACK), MARK);
    assert_eq!((&at_uplink.bytes[26..30], at_uplink.mark), (&[192, 0, 2, 1][..], 0));
}

#[test]
fn a_connection_is_taken_to_the_fast_path_once_established_and_followed() {
    let host = Firewalled::new(firewall_flags::TRACKED);
    let connection = host.connected();

    host.round_trip(&connection);
    assert_eq!(host.sends(connection.out(ACK)), Verdict::Show, "nf_conntrack does not bear gaps yet");
    assert_eq!(host.comes(connection.back(ACK)), Verdict::Show);
    host.answer_asks();
    host.round_trip(&connection);
    assert_eq!(host.sends(connection.out(ACK)), Verdict::Neighbour(UPLINK));
    assert_eq!(host.comes(connection.back(ACK)), Verdict::Peer(A));
}

#[test]
fn without_nf_conntrack_no_connection_waits_for_the_daemon() {
    let host = Firewalled::new(0);
    let connection = host.connected();

    host.round_trip(&connection);

    assert_eq!(host.sends(connection.out(ACK)), Verdict::Neighbour(UPLINK));
    assert!(host.world.unfollowed.borrow().is_empty());
}

#[test]
fn what_opens_or_ends_a_connection_is_always_shown_and_a_closing_one_stays_in_sight() {
    let host = Firewalled::new(0);
    let connection = host.connected();
    host.round_trip(&connection);

    assert_eq!(host.sends(connection.out(SYN)), Verdict::Show);
    assert_eq!(host.comes(connection.back(RST)), Verdict::Show);
    host.round_trip(&connection);
    assert_eq!(host.sends(connection.out(ACK)), Verdict::Neighbour(UPLINK));
    assert_eq!(host.sends(connection.out(FIN | ACK)), Verdict::Show);
    assert_eq!(host.sends(connection.out(ACK)), Verdict::Show, "the answer to the other side's FIN");
    assert_eq!(host.comes(connection.back(FIN | ACK)), Verdict::Show);
}

#[test]
fn a_change_of_the_ruleset_has_every_flow_prove_itself_once_more_within_a_tick() {
    let mut host = Firewalled::new(firewall_flags::TRACKED);
    let connection = host.offloaded();

    host.world.settings.as_mut().unwrap().firewall.generation += 1;
    host.world.sleep_seconds(2);

    assert_eq!(host.sends(connection.out(ACK)), Verdict::Show);
    assert_eq!(host.comes(connection.back(ACK)), Verdict::Show);
    host.round_trip(&connection);
    assert_eq!(host.sends(connection.out(ACK)), Verdict::Show, "its entry in nf_conntrack may be another one");
    host.answer_asks();
    host.round_trip(&connection);
    assert_eq!(host.sends(connection.out(ACK)), Verdict::Neighbour(UPLINK));
    assert_eq!(host.comes(connection.back(ACK)), Verdict::Peer(A));
}

#[test]
fn a_flow_of_before_the_first_rule_proves_itself_and_none_does_after_the_last_one() {
    let mut host = Firewalled::new(0);
    host.world.settings.as_mut().unwrap().firewall.generation = 0;
    let out = || udp("10.176.1.2:5000", &format!("{SERVER}:53"));
    assert_eq!(host.sends(out()), Verdict::Neighbour(UPLINK));

    host.world.settings.as_mut().unwrap().firewall.generation = 9;
    host.world.sleep_seconds(2);
    assert_eq!(host.sends(out()), Verdict::Show);

    host.world.settings.as_mut().unwrap().firewall.generation = 0;
    host.world.sleep_seconds(2);
    assert_eq!(host.sends(out()), Verdict::Neighbour(UPLINK));
}

#[test]
fn now_and_then_one_packet_of_a_proved_flow_shows_itself_and_no_other_waits_for_it() {
    let host = Firewalled::new(0);
    let connection = host.offloaded();
    let mut shown = 0;
    for _ in 0..64 {
        host.world.sleep_seconds(1);
        for _ in 0..10 {
            match host.sends(connection.out(ACK)) {
                Verdict::Show => {
                    shown += 1;
                    assert_eq!(host.sends(connection.out(ACK)), Verdict::Neighbour(UPLINK));
                    host.emerges_outside(connection.out(ACK));
                }
                verdict => assert_eq!(verdict, Verdict::Neighbour(UPLINK)),
            }
        }
    }

    assert!((3..=4).contains(&shown), "{shown} of 640 packets in 64 s");
}

#[test]
fn a_flow_that_a_new_rule_stops_is_stopped_though_nobody_told_of_the_rule() {
    let host = Firewalled::new(0);
    let connection = host.offloaded();
    let mut fast = 0;
    for _ in 0..60 {
        host.world.sleep_seconds(1);
        fast += u32::from(host.sends(connection.out(ACK)) == Verdict::Neighbour(UPLINK));
    }

    assert!(fast <= 34, "{fast} of 60 packets");
    assert_eq!(host.sends(connection.out(ACK)), Verdict::Show);
}

#[test]
fn a_flow_that_the_firewall_has_leave_elsewhere_stays_on_its_way() {
    let mut host = Firewalled::new(0);
    let second = netd_common::tables::Device { ifindex: 11, ..host.world.devices[&UPLINK] };
    host.world.devices.insert(11, second);
    let out = || udp("10.176.1.2:5000", &format!("{SERVER}:53"));
    assert_eq!(host.sends(out()), Verdict::Show);

    // A rule of the host has marked it, and its routing has sent it by another uplink.
    let mut frame = Frame { came_by: 20, ..Frame::at(11, out().bytes()) };
    assert_eq!(host.world.run(Hook::ToUplink, &mut frame), Verdict::Pass);

    assert_eq!(host.sends(out()), Verdict::Show);
}

#[test]
fn all_fragments_of_a_datagram_are_shown_or_the_host_could_not_put_them_together() {
    let host = Firewalled::new(0);
    let out = || udp("10.176.1.2:5000", &format!("{SERVER}:53"));
    assert_eq!(host.sends(out()), Verdict::Show);
    host.emerges_outside(out());
    assert_eq!(host.sends(out()), Verdict::Neighbour(UPLINK));

    let whole = out().payload(&[7; 3000]).macs(container_mac(A), bridge_mac(20)).bytes();
    for fragment in fragments(&whole, 1000, 77) {
        assert_eq!(host.world.run(Hook::FromContainer, &mut Frame::at(A, fragment)), Verdict::Show);
    }
}

#[test]
fn echoes_prove_themselves_too() {
    let host = Firewalled::new(0);
    let out = || ping("10.176.1.2", SERVER, 77);
    assert_eq!(host.sends(out()), Verdict::Show);
    host.emerges_outside(out());
    assert_eq!(host.sends(out()), Verdict::Neighbour(UPLINK));
    assert_eq!(host.comes(pong(SERVER, "192.0.2.1", 77)), Verdict::Show);
}

#[test]
fn errors_about_a_flow_that_is_shown_are_shown() {
    let host = Firewalled::new(0);
    let out = udp("10.176.1.2:5000", &format!("{SERVER}:53"));
    assert_eq!(host.sends(out.clone()), Verdict::Show);
    let left = host.at_uplink(out, MARK);

    let error = icmp_error("198.51.100.1", "192.0.2.1", false, &left.bytes[14..], 28);

    assert!(matches!(host.comes(error), Verdict::Pass | Verdict::Show));
}

#[test]
fn a_reset_that_the_host_sends_in_a_containers_name_has_the_published_address() {
    let host = Firewalled::new(0);
    assert_eq!(host.comes(tcp(CLIENT, "192.0.2.1:8080").flags(SYN)), Verdict::Show);
    let reset = tcp("10.176.1.2:80", CLIENT).flags(RST | ACK).macs(UPLINK_MACS[0], UPLINK_MACS[1]).bytes();
    // As nf_reject routes it: back to where the rejected packet came from, from the container it was for.
    let mut frame = Frame { came_by: 0, ..Frame::at(UPLINK, reset) };

    assert_eq!(host.world.run(Hook::ToUplink, &mut frame), Verdict::Pass);

    assert_eq!((&frame.bytes[26..30], &frame.bytes[34..36]), (&[192, 0, 2, 1][..], &8080u16.to_be_bytes()[..]));
}

#[test]
fn between_containers_nothing_is_shown() {
    let host = Firewalled::new(0);
    // By a published port of the host's.
    let within = tcp("10.176.1.2:5000", "192.0.2.1:8080").flags(SYN);

    assert_eq!(host.sends(within), Verdict::Peer(A));
}

#[test]
fn a_host_that_always_uses_its_stack_never_does_otherwise() {
    let host = Firewalled::new(firewall_flags::ALWAYS_STACK);
    let connection = host.connected();

    for _ in 0..3 {
        host.round_trip(&connection);
        assert_eq!(host.sends(connection.out(ACK)), Verdict::Show);
        assert_eq!(host.comes(connection.back(ACK)), Verdict::Show);
    }
}

#[test]
fn a_packet_of_an_established_flow_costs_no_more_lookups_beside_a_firewall() {
    let host = Firewalled::new(firewall_flags::TRACKED);
    let connection = host.offloaded();
    let before = host.world.lookups.get();

    assert_eq!(host.sends(connection.out(ACK)), Verdict::Neighbour(UPLINK));

    assert_eq!(host.world.lookups.get() - before, 1);
}

#[test]
fn a_flow_that_is_gone_is_not_followed() {
    let host = Firewalled::new(firewall_flags::TRACKED);
    let mut s = Scratch { key: Tuple::default(), ..Scratch::default() };

    assert!(!firewall::follow(&host.world, &mut s));
}

/// The scene's host with rules of its own.
struct Firewalled {
    world: World,
}

/// A container's connection to the server, and the port that it leaves by.
struct Connection {
    port: u16,
}

impl Connection {
    fn out(&self, flags: u8) -> Build {
        tcp("10.176.1.2:5000", &format!("{SERVER}:80")).flags(flags)
    }

    fn back(&self, flags: u8) -> Build {
        tcp(&format!("{SERVER}:80"), &format!("192.0.2.1:{}", self.port)).flags(flags)
    }
}

impl Firewalled {
    fn new(flags: u16) -> Self {
        let mut world = scene::world();
        world.settings.as_mut().unwrap().firewall = Firewall { mark: MARK, generation: 7, flags };
        Self { world }
    }

    fn outward(&self, build: Build) -> Frame {
        Frame::at(A, build.macs(container_mac(A), bridge_mac(20)).bytes())
    }

    fn inward(&self, build: Build) -> Frame {
        Frame::at(UPLINK, build.macs(UPLINK_MACS[1], UPLINK_MACS[0]).bytes())
    }

    /// What becomes of a packet of the container's.
    fn sends(&self, build: Build) -> Verdict {
        self.world.run(Hook::FromContainer, &mut self.outward(build))
    }

    /// What becomes of a packet from outside.
    fn comes(&self, build: Build) -> Verdict {
        self.world.run(Hook::FromUplink, &mut self.inward(build))
    }

    /// A container's packet that the stack has forwarded, after the uplink's hook.
    fn at_uplink(&self, build: Build, mark: u32) -> Frame {
        let mut frame = Frame { came_by: 20, mark, ..Frame::at(UPLINK, build.bytes()) };
        assert_eq!(self.world.run(Hook::ToUplink, &mut frame), Verdict::Pass);
        frame
    }

    /// The firewall lets a container's packet out; what left, as a packet that can be answered.
    fn emerges_outside(&self, build: Build) -> Build {
        let left = self.at_uplink(build, MARK).bytes;
        let port = |at: usize| u16::from_be_bytes([left[at], left[at + 1]]);
        let end = |ip: usize, at: usize| {
            format!("{}.{}.{}.{}:{}", left[ip], left[ip + 1], left[ip + 2], left[ip + 3], port(at))
        };
        udp(&end(26, 34), &end(30, 36))
    }

    /// The firewall lets a packet from outside through to the container.
    fn emerges_inside(&self, build: &Build) {
        let mut frame = self.inward(build.clone());
        assert_eq!(self.world.run(Hook::FromUplink, &mut frame), Verdict::Show);
        frame.device = A;
        assert_eq!(self.world.run(Hook::ToContainer, &mut frame), Verdict::Pass);
    }

    /// A connection after its handshake, all of which the firewall has let through.
    fn connected(&self) -> Connection {
        let syn = Connection { port: 0 }.out(SYN);
        assert_eq!(self.sends(syn.clone()), Verdict::Show);
        let left = self.at_uplink(syn, MARK).bytes;
        let connection = Connection { port: u16::from_be_bytes([left[34], left[35]]) };
        self.emerges_inside(&connection.back(SYN | ACK));
        assert_eq!(self.sends(connection.out(ACK)), Verdict::Show);
        connection
    }

    /// A packet each way, which the firewall lets through.
    fn round_trip(&self, connection: &Connection) {
        if self.sends(connection.out(ACK)) == Verdict::Show {
            self.at_uplink(connection.out(ACK), MARK);
        }
        let mut back = self.inward(connection.back(ACK));
        if self.world.run(Hook::FromUplink, &mut back) == Verdict::Show {
            back.device = A;
            assert_eq!(self.world.run(Hook::ToContainer, &mut back), Verdict::Pass);
        }
    }

    /// A connection on the fast path.
    fn offloaded(&self) -> Connection {
        let connection = self.connected();
        self.answer_asks();
        self.round_trip(&connection);
        assert_eq!(self.sends(connection.out(ACK)), Verdict::Neighbour(UPLINK));
        connection
    }

    /// As the daemon does.
    fn answer_asks(&self) {
        for key in self.world.unfollowed.take() {
            let mut s = Scratch { key, ..Scratch::default() };
            assert!(firewall::follow(&self.world, &mut s));
        }
    }
}

#[test]
fn how_a_flow_stands_is_written_to_no_other() {
    let mut stored = Flow { check: 1, generation: 7, ..Flow::default() };
    let of_another = Flow { check: 2, generation: 7, passage: Passage::FOLLOWED, ..Flow::default() };
    let of_before = Flow { check: 1, generation: 6, passage: Passage::FOLLOWED, ..Flow::default() };

    firewall::write_passage(&mut stored, &of_another);
    firewall::write_passage(&mut stored, &of_before);

    assert_eq!(stored.passage, 0);
}
