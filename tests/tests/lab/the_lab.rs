//! The Lab itself: its wires carry, its checks check, and it leaves nothing.

use std::{
    fs,
    io::{Read, Write},
    os::unix::process::CommandExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use netd_tests::lab::{
    Host, Lab, Offloads, begin,
    traffic::{IMPATIENCE, PATIENCE},
};

use crate::town::wait_until;

#[test]
fn two_hosts_reach_each_other_over_a_wire_of_either_kind() {
    for kind in Offloads::BOTH {
        let (lab, left, right) = two_hosts(kind);
        let _echo = right.echo_tcp(7);
        let _bulk = right.serve_bulk(9000);
        let udp = right.echo_udp(7);
        let web = right.serve_http(80);

        assert_eq!(left.pings("192.0.2.2", 3, PATIENCE), 3);
        left.asks_tcp("192.0.2.2:7", PATIENCE).expect("the echo server answers");
        left.transfers("192.0.2.2:9000", 8_000_000);
        assert_eq!(left.asks_udp("192.0.2.2:7", 5, 1400, PATIENCE), 5);
        assert_eq!(left.curl("http://192.0.2.2/").ok(), "right sees 192.0.2.1\n");

        web.assert_seen_only("192.0.2.1");
        udp.assert_seen_only("192.0.2.1");
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn a_server_answers_from_the_address_that_it_was_asked_at() {
    let (_lab, left, right) = two_hosts(Offloads::On);
    right.ip("address add 203.0.113.80/32 dev lo");
    left.default_route("192.0.2.2");
    let _udp = right.echo_udp(7);

    assert_eq!(left.asks_udp("203.0.113.80:7", 2, 64, PATIENCE), 2);
    assert_eq!(left.pings("203.0.113.80", 2, PATIENCE), 2);
}

#[test]
fn a_port_that_a_server_has_left_is_had_again_though_another_test_starts_a_program_meanwhile() {
    let (_lab, left, _right) = two_hosts(Offloads::On);
    let server = (left.echo_udp(53), left.echo_tcp(53));
    // What is being started has copies of this process's descriptors, the server's too, until its program begins.
    let (mut begun, mut begins) = std::io::pipe().expect("a pipe");
    let mut command = Command::new("true");
    let linger = move || {
        begins.write_all(b"!")?;
        thread::sleep(Duration::from_millis(300));
        Ok(())
    };
    // SAFETY: between fork and exec it writes and sleeps, and allocates nothing.
    unsafe { command.pre_exec(linger) };
    thread::scope(|scope| {
        let starting = scope.spawn(|| command.status());
        begun.read_exact(&mut [0]).expect("it is being started");
        drop(server);

        let _again = (left.echo_udp(53), left.echo_tcp(53));

        assert!(starting.join().expect("it ends").expect("it was started").success());
    });
}

#[test]
fn what_is_not_there_does_not_answer() {
    let (_lab, left, right) = two_hosts(Offloads::On);
    right.ip("route add blackhole 198.51.100.0/24");

    assert_eq!(left.pings("192.0.2.9", 1, IMPATIENCE), 0);
    assert!(left.asks_tcp("192.0.2.2:7", IMPATIENCE).is_err());
    assert_eq!(left.asks_udp("192.0.2.2:7", 1, 8, IMPATIENCE), 0);
}

#[test]
fn a_wrong_checksum_is_counted_where_it_arrives() {
    let (lab, left, right) = two_hosts(Offloads::Off);
    let udp = right.echo_udp(7);

    left.enter(|| send_udp_with_a_wrong_checksum([192, 0, 2, 2], 7));

    wait_for(|| (right.snmp("Udp", "InCsumErrors") == 1).then_some(()));
    assert_eq!(udp.peers().len(), 0);
    assert!(catch_unwind(AssertUnwindSafe(|| lab.assert_no_checksum_errors())).is_err());
}

#[test]
fn a_slow_download_tells_how_long_it_stalled() {
    let (_lab, left, right) = two_hosts(Offloads::On);
    let _bulk = right.serve_bulk(9000);
    let pinging_server = right.echo_udp(7);

    let download = left.downloads_slowly("192.0.2.2:9000", PATIENCE, 400_000);
    let pinging = left.pings_udp("192.0.2.2:7", 200);
    while download.bytes() < 100_000 {
        thread::sleep(Duration::from_millis(5));
    }
    left.ip("link set eth0 down");
    thread::sleep(Duration::from_millis(300));
    left.ip("link set eth0 up");
    let received = download.finish();
    let pings = pinging.finish();

    received.assert_whole();
    assert!(received.longest_stall >= Duration::from_millis(250), "{received:?}");
    assert!(pings.answered < pings.sent && pings.longest_silence >= Duration::from_millis(250), "{pings:?}");
    pinging_server.assert_seen_only("192.0.2.1");
}

#[test]
fn segments_that_somebody_drops_are_lost_and_those_that_pass_are_not() {
    let (lab, left, right) = two_hosts(Offloads::On);
    let _bulk = right.serve_bulk(9000);
    let download = left.downloads_slowly("192.0.2.2:9000", Duration::from_secs(60), 400_000);
    wait_for(|| (download.bytes() > 10_000).then_some(()));
    let before = lab.losses();

    wait_for(|| (download.bytes() > 100_000).then_some(()));
    lab.assert_none_lost_since(&before);
    left.run(["iptables", "-A", "INPUT", "-p", "tcp", "-j", "DROP"]).ok();
    // TCP tells by itself when it has sent again.
    wait_for(|| (lab.losses().segments > before.segments).then_some(()));
    left.run(["iptables", "-F", "INPUT"]).ok();
    let received = download.finish();

    received.assert_whole();
    assert!(lab.losses().segments > before.segments, "what was lost stays counted when all has come");
}

#[test]
fn several_labs_have_the_same_names_and_addresses_at_once() {
    let labs = [two_hosts(Offloads::On), two_hosts(Offloads::On), two_hosts(Offloads::Off)];
    let servers: Vec<_> = labs.iter().map(|(_, _, right)| right.serve_http(80)).collect();

    for (_, left, _) in &labs {
        assert_eq!(left.curl("http://192.0.2.2/").ok(), "right sees 192.0.2.1\n");
    }

    for server in &servers {
        assert_eq!(server.peers().len(), 1);
    }
}

#[test]
fn a_host_has_files_and_processes_of_its_own() {
    let lab = Lab::new();
    let host = lab.host("own");

    let seen = host.run([
        "sh",
        "-c",
        "hostname; ls /etc/netd /var/lib/netd /run/netns; ls -d /sys/class/net/*; cat /etc/passwd",
    ]);
    assert!(seen.ok().starts_with("own\n"), "{seen}");
    assert!(seen.stdout.contains("/sys/class/net/lo") && seen.stdout.contains("root:"), "{seen}");
    assert!(host.mount_table().lines().any(|line| line.contains(" /sys/fs/bpf ") && line.contains(" - bpf ")));
    let beside = host.spawn(["sleep", "100"]);
    let listed = host.run(["sh", "-c", &format!("cat /proc/{}/comm", beside.id_inside())]);
    assert_eq!(listed.ok(), "sleep\n");

    host.run(["touch", "/var/lib/netd/here", "/etc/netd/here"]).ok();
    assert!(host.path("/var/lib/netd/here").exists());
    assert!(
        !fs::exists("/var/lib/netd/here").expect("it can be asked")
            && !fs::exists("/etc/netd/here").expect("so can this")
    );
}

#[test]
fn a_container_has_a_network_of_its_own_and_a_name_in_its_host() {
    let lab = Lab::new();
    let host = lab.host("host");
    let before = host.snapshot();
    let web = host.container("web");
    let _server = web.serve_http(80);

    assert_eq!(web.curl("http://127.0.0.1/").ok(), "web sees 127.0.0.1\n");
    assert!(!host.curl("http://127.0.0.1/").succeeded());
    assert_eq!(host.ip("netns list").trim(), "web");
    assert_eq!(before.difference(&host.snapshot()).lines().filter(|line| line.starts_with("+ netns")).count(), 1);
}

#[test]
fn a_snapshot_shows_what_has_changed_and_nothing_else() {
    let (_lab, left, _right) = two_hosts(Offloads::On);
    let before = left.snapshot();
    left.assert_as_in(&before);

    left.ip("route add 203.0.113.0/24 via 192.0.2.2");
    left.run(["nft", "add", "table", "ip", "foreign"]).ok();
    let difference = before.difference(&left.snapshot());

    let lines: Vec<_> = difference.lines().collect();
    assert_eq!(lines.len(), 3, "{difference}");
    assert!(lines.iter().any(|line| line.starts_with("+ route4") && line.contains("203.0.113.0/24")), "{difference}");
    assert!(lines.iter().any(|line| line.starts_with("+ nft") && line.contains("foreign")), "{difference}");
    left.ip("route del 203.0.113.0/24");
    left.run(["nft", "delete", "table", "ip", "foreign"]).ok();
    left.assert_as_in(&before);
}

#[test]
fn nothing_is_left_when_a_lab_goes() {
    let mut marks = Vec::new();

    let network;
    {
        let (_lab, left, right) = two_hosts(Offloads::On);
        network = net_of(&left);
        assert!(is_held_by_this_process(&network));
        marks.extend(leave_marks(&left));
        marks.extend(leave_marks(&right));
        assert!(marks.iter().all(exists), "the marks can be seen while the Lab stands");
    }

    for mark in marks {
        assert!(!exists(&mark), "{mark:?} is left");
    }
    // Another test's new network may have its number meanwhile, for as long as that lives.
    wait_for(|| (!is_held_by_this_process(&network)).then_some(()));
}

#[test]
fn nothing_is_left_after_a_panic() {
    let mut marks = Vec::new();

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let (_lab, left, right) = two_hosts(Offloads::On);
        marks.extend(leave_marks(&left));
        right.enter(|| panic!("on purpose"));
    }));

    let panic = panicked.expect_err("the panic of a closure goes on in the test");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
    for mark in marks {
        assert!(!exists(&mark), "{mark:?} is left");
    }
}

#[test]
fn nothing_is_left_when_the_process_is_killed() {
    const IN_CHILD: &str = "NETD_LAB_TO_BE_KILLED";
    if std::env::var_os(IN_CHILD).is_some() {
        let (_lab, left, _right) = two_hosts(Offloads::On);
        let processes = leave_marks(&left).map(|mark| mark.0.to_string()).join(" ");
        fs::write(std::env::var_os(IN_CHILD).expect("just seen"), processes + "\n").expect("the file can be written");
        thread::sleep(Duration::from_secs(180));
        return;
    }
    let told = std::env::temp_dir().join(format!("netd-lab-{}", std::process::id()));
    let mut again = Command::new(std::env::current_exe().expect("this test is a program"));
    again.args(["--exact", "the_lab::nothing_is_left_when_the_process_is_killed"]).env(IN_CHILD, &told);
    let mut child = begin(again.stdout(std::process::Stdio::null())).expect("this test starts again");

    let text = wait_for(|| fs::read_to_string(&told).ok().filter(|text| text.ends_with('\n')));
    fs::remove_file(&told).expect("the file was there");
    let marks: Vec<_> = text.split_whitespace().map(|id| Mark(id.parse().expect("process ids"))).collect();
    assert!(marks.iter().all(exists), "the marks can be seen while the Lab stands");
    child.kill().expect("the child runs");
    child.wait().expect("it is ours");

    wait_for(|| marks.iter().all(|mark| !exists(mark)).then_some(()));
}

/// A process of a Lab's host, with everything that hangs on it.
#[derive(Debug)]
struct Mark(u32);

/// Leaves two orphans, a named namespace and a mount in a host; the orphans have hold of all of it.
fn leave_marks(host: &Host) -> [Mark; 2] {
    host.container("left-behind");
    let machine_sees = |name: &str| {
        let ids = processes_named(name);
        ids.into_iter().find(|id| fs::read_link(format!("/proc/{id}/ns/net")).ok() == Some(net_of(host)))
    };
    // The shell ends at once and leaves an orphan, which the host's first process inherits.
    host.run(["sh", "-c", "mount -t tmpfs none /mnt; setsid sleep 1000 & setsid busybox sleep 1000 &"]).ok();
    ["sleep", "busybox"].map(|name| Mark(wait_for(|| machine_sees(name))))
}

/// A datagram to `port`, straight from a raw socket: the kernel adds the IP header and looks at nothing else.
fn send_udp_with_a_wrong_checksum(address: [u8; 4], port: u16) {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
    use std::os::fd::AsRawFd;
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Udp).expect("root may");
    let [source, target, length] = [40_000, port, 12_u16].map(u16::to_be_bytes);
    let datagram = [source, target, length, [0xde, 0xad], *b"sp", *b"il"].concat();
    let [a, b, c, d] = address;
    sendto(raw.as_raw_fd(), &datagram, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty()).expect("it can be sent");
}

fn net_of(host: &Host) -> PathBuf {
    host.enter(|| fs::read_link("/proc/thread-self/ns/net").expect("a thread has a network"))
}

fn is_held_by_this_process(network: &Path) -> bool {
    let held = fs::read_dir("/proc/self/fd").expect("a process sees what it holds").flatten();
    held.into_iter().any(|entry| fs::read_link(entry.path()).is_ok_and(|held| held == network))
}

fn processes_named(name: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").expect("/proc can be listed").flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|comm| comm.trim() == name)).collect()
}

fn exists(mark: &Mark) -> bool {
    fs::exists(format!("/proc/{}", mark.0)).unwrap_or(true)
}

#[track_caller]
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    wait_until("it comes about", || {
        found = look();
        found.is_some()
    });
    found.expect("it came about")
}

fn two_hosts(kind: Offloads) -> (Lab, Host, Host) {
    let lab = Lab::new();
    let left = lab.host("left");
    let right = lab.host("right");
    lab.wire(kind).from(&left, "eth0", "192.0.2.1/24").to(&right, "eth0", "192.0.2.2/24");
    (lab, left, right)
}
