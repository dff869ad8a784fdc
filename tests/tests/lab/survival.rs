//! The daemon goes and comes back; packets do not notice.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use netd_common::tables::LAYOUT;
use netd_tests::lab::{
    Container, Host, Netd, Offloads, Outcome, Running,
    traffic::{Download, IMPATIENCE, PATIENCE, Server},
};

use crate::{
    says,
    town::{CLIENT, FRONT, INTERNET, Town, wait_until},
};

/// Bytes a second of a download beside which something is done.
const RATE: u64 = 500_000;

#[test]
fn a_kill_loses_nothing_and_new_connections_go_on() {
    for kind in Offloads::BOTH {
        nothing_is_lost(kind, |netd| netd.kill());
    }
}

#[test]
fn an_orderly_end_loses_nothing_and_new_connections_go_on() {
    nothing_is_lost(Offloads::Off, |netd| {
        netd.terminate().exits(0);
    });
}

#[test]
fn a_restart_rebuilds_nothing_and_loses_no_packet() {
    restart_is_unnoticed(Next::Same, |netd| netd.kill());
}

#[test]
fn another_netd_replaces_the_programs_rebuilds_nothing_else_and_loses_no_packet() {
    restart_is_unnoticed(Next::Another, |netd| {
        netd.terminate().exits(0);
    });
}

#[test]
fn networks_endpoints_and_publications_are_the_same_after_a_kill() {
    let mut play = Play::new(Offloads::On);
    let before = play.town.netd.listings();

    play.town.netd.kill();
    play.town.netd.start();

    assert_eq!(play.town.netd.listings(), before);
}

#[test]
fn what_is_changed_right_before_a_kill_is_kept() {
    let mut play = Play::new(Offloads::On);
    play.town.netd.say("network create late --subnet 10.99.0.0/24").ok();
    play.town.netd.say("publish app 8090:80").ok();

    play.town.netd.kill();
    play.town.netd.start();

    assert_eq!(says::subnet_of(&play.town.netd, "late"), "10.99.0.0/24");
    let _web = play.app.serve_http(80);
    assert_eq!(play.town.client.curl(&format!("http://{FRONT}:8090/")).ok(), format!("app sees {CLIENT}\n"));
}

#[test]
fn what_somebody_breaks_while_the_daemon_is_away_is_mended() {
    let mut play = Play::new(Offloads::On);
    let before = play.town.host.snapshot();
    let gateway = says::gateway_of(&play.town.netd, "blue");
    let bridge = device_with(&play.town.host, &gateway);
    play.town.netd.kill();

    play.town.host.ip(&format!("address flush dev {bridge} scope global"));
    assert_eq!(play.app.pings(&gateway, 1, IMPATIENCE), 0);
    play.town.netd.start();

    play.town.host.assert_as_in_but_for(&before, &["tcx", "filter"]);
    assert_eq!(play.app.pings(&gateway, 1, PATIENCE), 1);
}

#[test]
fn a_daemon_killed_while_it_attaches_leaves_what_it_said_it_did_and_no_more() {
    let mut town = Town::new(Offloads::On);
    town.network("blue");
    let before = town.host.snapshot();
    let names: Vec<_> = (0..8).map(|number| format!("c{number}")).collect();
    let containers: Vec<_> = names.iter().map(|name| town.host.container(name)).collect();

    let told = (0..20).find_map(|_| killed_while_it_attaches(&mut town, &containers));

    let told = told.expect("once in twenty times the daemon is killed after the first container and before the last");
    let listed = says::names(&town.netd.json("ps"));
    for (name, told) in names.iter().zip(&told) {
        assert!(!told.succeeded() || listed.contains(name), "{name} was said to be attached: {told}");
    }
    for name in &names {
        town.netd.run(["detach", name]);
        assert!(containers.iter().all(|container| container.name() != name || container.ifindex("eth0").is_none()));
    }
    containers.into_iter().for_each(Container::delete);
    town.host.assert_as_in_but_for(&before, &["tcx", "filter"]);
}

#[test]
fn a_damaged_store_is_refused_with_a_way_out_and_never_overwritten_while_the_kernel_goes_on() {
    let mut play = Play::new(Offloads::On);
    let path = play.town.host.path("/var/lib/netd/netd.redb");
    play.town.netd.kill();
    let whole = fs::read(&path).expect("the store is there");
    let damaged: Vec<u8> = whole.iter().enumerate().map(|(at, byte)| if at < 512 { !byte } else { *byte }).collect();
    fs::write(&path, &damaged).expect("a Lab's files can be written");

    play.town.netd.start_without_waiting();
    play.town.netd.wait().refused(["/var/lib/netd/netd.redb", "is damaged", "move it away"]);

    assert!(fs::read(&path).expect("it stays") == damaged, "it is left as it is");
    assert_eq!(play.web.pings(INTERNET, 1, PATIENCE), 1, "what is in the kernel goes on");

    // The way out: what was moved away is mended and comes back, and everything is as it was.
    fs::rename(&path, path.with_extension("away")).expect("it can be moved away");
    play.town.netd.start();
    assert_eq!(says::names(&play.town.netd.json("ps")), [""; 0], "without it nothing is known");
    play.town.netd.kill();
    fs::write(&path, &whole).expect("a Lab's files can be written");
    play.town.netd.start();
    assert_eq!(says::names(&play.town.netd.json("ps")), ["app", "web"]);
    assert_eq!(play.web.pings(INTERNET, 1, PATIENCE), 1);
}

/// Has all attached at once, kills the daemon when the first is, and starts another; what each was told. `None`, and all are as
/// before, where the last was attached too by then.
fn killed_while_it_attaches(town: &mut Town, containers: &[Container]) -> Option<Vec<Outcome>> {
    let attach = |container: &Container| {
        let (name, netns) = (container.name(), container.netns());
        town.netd.spawn(["attach", name, "--netns", &netns, "--network", "blue"])
    };
    let mut attaching: Vec<_> = containers.iter().map(attach).collect();
    let in_the_middle = wait_for_the_first(&mut attaching);
    town.netd.kill();
    let told: Vec<_> = attaching.into_iter().map(Running::wait).collect();
    town.netd.start();
    if in_the_middle {
        return Some(told);
    }
    containers.iter().for_each(|container| drop(town.netd.run(["detach", container.name()]).ok()));
    None
}

/// Two containers of network `blue`, one of them published, and servers on every side.
struct Play {
    web: Container,
    app: Container,
    _servers: [Server; 5],
    town: Town,
}

impl Play {
    fn new(kind: Offloads) -> Self {
        let town = Town::new(kind);
        town.network("blue");
        let web = town.container("web", "blue", &["9000:9000", "8080:80", "8007:7/udp"]);
        let app = town.container("app", "blue", &[]);
        let servers = [
            web.serve_bulk(9000),
            web.serve_http(80),
            web.echo_udp(7),
            town.internet.serve_bulk(9000),
            town.internet.echo_udp(7),
        ];
        Self { web, app, _servers: servers, town }
    }

    /// Downloads that go on for longer than what is done beside them: outwards, inwards, and between containers.
    fn downloads(&self) -> [Download; 3] {
        let (time, rate) = (Duration::from_secs(300), RATE);
        let downloads = [
            self.app.downloads_slowly(&format!("{INTERNET}:9000"), time, rate),
            self.town.client.downloads_slowly(&format!("{FRONT}:9000"), time, rate),
            self.app.downloads_slowly(&self.town.at("web", 9000), time, rate),
        ];
        while downloads.iter().any(|download| download.bytes() < rate / 4) {
            thread::sleep(Duration::from_millis(10));
        }
        downloads
    }

    /// Asserts that connections begun here and there arrive: outwards, inwards, and between containers.
    #[track_caller]
    fn new_connections_work(&self, web: &str) {
        self.app.transfers(&format!("{INTERNET}:9000"), 100_000);
        assert_eq!(self.app.asks_udp(&format!("{INTERNET}:7"), 2, 100, PATIENCE), 2);
        assert_eq!(self.app.pings(INTERNET, 1, PATIENCE), 1);
        let page = self.town.client.curl(&format!("http://{FRONT}:8080/")).ok();
        assert_eq!(page, format!("web sees {CLIENT}\n"));
        assert_eq!(self.town.client.asks_udp(&format!("{FRONT}:8007"), 2, 100, PATIENCE), 2);
        self.app.transfers(&format!("{web}:9000"), 100_000);
        assert_eq!(self.web.pings(INTERNET, 1, PATIENCE), 1);
    }
}

#[track_caller]
fn nothing_is_lost(kind: Offloads, end: impl Fn(&mut Netd)) {
    let mut play = Play::new(kind);
    let web = play.town.address("web");
    let downloads = play.downloads();
    let (lost, before) = (play.town.lab.losses(), downloads.each_ref().map(Download::bytes));

    end(&mut play.town.netd);
    // Half a second of each without a daemon. What goes as fast as it can loses segments of itself, and is not counted.
    wait_until("the downloads go on", || {
        downloads.iter().zip(before).all(|(one, before)| one.bytes() > before + RATE / 2)
    });
    play.town.lab.assert_none_lost_since(&lost);
    play.new_connections_work(&web);
    let on_the_way = downloads.each_ref().map(Download::bytes);
    downloads.iter().for_each(Download::hurry);
    let received = downloads.map(Download::finish);

    for (received, bytes) in received.iter().zip(on_the_way) {
        println!("the longest stall was {:?}", received.longest_stall);
        received.assert_whole();
        assert!(bytes < received.expected, "new connections were made while the download went on");
    }
    play.town.lab.assert_no_checksum_errors();
}

/// What the daemon that comes next is to the one that ends.
#[derive(PartialEq, Eq)]
enum Next {
    /// The same netd.
    Same,
    /// One with other programs: those that are pinned are named as another's.
    Another,
}

#[track_caller]
fn restart_is_unnoticed(next: Next, end: impl Fn(&mut Netd)) {
    let mut play = Play::new(Offloads::Off);
    let web = play.town.address("web");
    let app = play.town.address("app");
    let before = play.town.host.snapshot();
    let attached = programs(&play.town.host);
    let downloads = play.downloads();
    let lost = play.town.lab.losses();
    let pings = [
        play.app.pings_udp(&format!("{INTERNET}:7"), 200),
        play.town.client.pings_udp(&format!("{FRONT}:8007"), 200),
        play.app.pings_udp(&play.town.at("web", 7), 200),
    ];
    while pings.iter().any(|pinging| pinging.answered() < 50) {
        thread::sleep(Duration::from_millis(5));
    }

    end(&mut play.town.netd);
    if next == Next::Another {
        pin_programs_as_anothers(&play.town.host);
    }
    play.town.netd.start();
    thread::sleep(Duration::from_millis(300));
    let flow = |source: &str, target: String| {
        assert!(says::shows_flow(&play.town.netd, source, &target), "`flows` shows the one from {source} to {target}");
    };
    flow(&app, format!("{INTERNET}:7"));
    flow(&app, format!("{INTERNET}:9000"));
    flow(CLIENT, format!("{FRONT}:9000"));

    for pinging in pings {
        pinging.finish().assert_none_lost();
    }
    play.town.lab.assert_none_lost_since(&lost);
    downloads.iter().for_each(Download::hurry);
    for download in downloads {
        download.finish().assert_whole();
    }
    // Links keep their indexes, and everything else what it was, but for the programs, which are replaced in place.
    play.town.host.assert_as_in_but_for(&before, &["tcx", "filter"]);
    let replaced = programs(&play.town.host);
    assert_eq!(replaced.keys().collect::<Vec<_>>(), attached.keys().collect::<Vec<_>>());
    for (hook, program) in &replaced {
        assert_eq!(*program == attached[hook], next == Next::Same, "the program at {hook:?}");
    }
    play.new_connections_work(&web);
    play.town.lab.assert_no_checksum_errors();
}

#[test]
fn forwarding_that_another_switches_off_is_soon_on_again() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let app = town.container("app", "blue", &[]);
    let _server = town.internet.echo_tcp(7);
    let asks = |patience| app.asks_tcp(&format!("{INTERNET}:7"), patience);
    asks(PATIENCE).expect("it works before");
    // Until the daemon has looked at what the attachment itself changed.
    thread::sleep(Duration::from_secs(2));

    let mut took = Vec::new();
    // Sooner than the daemon's own look at the host, which comes every 30 s. Where everything stands still for a while, once more.
    while took.last().is_none_or(|took| *took > Duration::from_secs(6)) {
        assert!(took.len() < 3, "the container is cut off for {took:?}");
        // As `sysctl -p` and container engines do: a change of the one is a change of every device's.
        for value in ["1", "0"] {
            town.host.run(["sh", "-c", &format!("echo {value} > /proc/sys/net/ipv4/ip_forward")]).ok();
        }
        let began = Instant::now();
        wait_until("it gets out again", || asks(Duration::from_millis(500)).is_ok());
        took.push(began.elapsed());
    }
    assert_eq!(town.host.sysctl("ipv4/ip_forward").as_deref(), Some("0"), "the administrator's word stays");
}

#[test]
fn a_full_disk_refuses_changes_until_there_is_room_again() {
    let mut town = Town::before_netd();
    town.host.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", "/var/lib/netd"]).ok();
    town.netd.start();
    town.network("blue");
    // It fails when all is full.
    town.host.run(["sh", "-c", "cat /dev/zero > /var/lib/netd/filler"]);

    // The store has a little room of its own.
    let created = (0..20).map(|n| (n, town.netd.say(&format!("network create n{n}"))));
    let (refused, refusal) = created.into_iter().find(|(_, outcome)| !outcome.succeeded()).expect("one is refused");
    refusal.refused(["cannot write the store", "No space left"]);
    town.host.run(["rm", "/var/lib/netd/filler"]).ok();
    town.network("green");

    let names = says::names(&town.netd.json("network ls"));
    assert!(!names.contains(&format!("n{refused}")), "{names:?}");
    town.netd.kill();
    town.netd.start();
    assert_eq!(says::names(&town.netd.json("network ls")), names);
    assert!(names.contains(&"green".to_owned()), "{names:?}");
}

fn pin_programs_as_anothers(host: &Host) {
    let directory = host.path(format!("/sys/fs/bpf/netd/{LAYOUT}/programs"));
    let pins: Vec<_> = fs::read_dir(&directory).expect("programs are pinned").flatten().collect();
    assert!(!pins.is_empty(), "programs are pinned");
    for pin in pins {
        let name = pin.file_name().into_string().expect("a name of ASCII");
        let (program, _) = name.split_once('@').expect("a program, and what it is the same by");
        fs::rename(pin.path(), directory.join(format!("{program}@anothers"))).expect("a bpffs lets pins be renamed");
    }
}

/// Programs at TCX hooks by device, direction and link: a link that is the same has never been off.
fn programs(host: &Host) -> BTreeMap<(String, bool, u32), u32> {
    let mut found = BTreeMap::new();
    for device in devices(host) {
        for egress in [false, true] {
            let at_hook = host.tcx(&device, egress);
            found.extend(at_hook.into_iter().map(|(program, link)| ((device.clone(), egress, link), program)));
        }
    }
    assert!(!found.is_empty(), "this suite is for kernels with TCX; on others run `core` alone");
    found
}

fn devices(host: &Host) -> Vec<String> {
    let listed: serde_json::Value = serde_json::from_str(&host.ip("-j link show")).expect("`ip -j` prints JSON");
    listed.as_array().into_iter().flatten().map(|link| says::text(link, "/ifname")).collect()
}

fn device_with(host: &Host, address: &str) -> String {
    let words = format!("-j address show to {address}");
    let listed: serde_json::Value = serde_json::from_str(&host.ip(&words)).expect("`ip -j` prints JSON");
    let devices: Vec<_> = listed.as_array().into_iter().flatten().filter(|link| link["ifname"].is_string()).collect();
    let [device] = devices.as_slice() else { panic!("one device has {address}: {listed}") };
    says::text(device, "/ifname")
}

/// Waits until one of these has ended, and returns whether others have not.
fn wait_for_the_first(running: &mut [Running]) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ended = running.iter_mut().filter_map(Running::ended).count();
        if ended > 0 {
            return ended < running.len();
        }
        assert!(Instant::now() < deadline, "none has ended");
        thread::sleep(Duration::from_millis(1));
    }
}
