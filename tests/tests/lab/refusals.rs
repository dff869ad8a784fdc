//! What cannot be is refused with one line that names the thing in the way, and the machine is as it was.

use std::{
    io::ErrorKind::ConnectionRefused,
    time::{Duration, Instant},
};

use netd_tests::lab::{Host, NetdOptions, Offloads, flattened, netd_binary, traffic::PATIENCE};

use crate::{
    says,
    town::{CLIENT, FRONT, Town, dial, wait_until},
};

#[test]
fn networks_that_cannot_be_are_refused_and_nothing_changes() {
    let town = furnished_town();
    let cases: [(&str, &[&str]); 11] = [
        ("network create blue", &["blue"]),
        ("network create -not-a-name", &["-not-a-name"]),
        ("network create not/a/name", &["not/a/name"]),
        ("network create new --subnet 10.1.2.3/24", &["10.1.2.3/24", "10.1.2.0/24"]),
        ("network create new --subnet 10.200.0.0/16", &["10.200.0.0/16", "blue", "10.200.1.0/24"]),
        ("network create new --subnet 10.200.1.128/25", &["10.200.1.128/25", "blue", "10.200.1.0/24"]),
        ("network create new --subnet 192.0.2.0/25", &["192.0.2.0/25", "192.0.2.0/24", "eth0"]),
        ("network create new --subnet 203.0.112.0/22", &["203.0.112.0/22", "203.0.113.0/24", "eth0"]),
        ("network create new --subnet 10.1.2.0/24 --gateway 10.1.3.1", &["10.1.3.1", "10.1.2.0/24"]),
        ("network rm nowhere", &["nowhere"]),
        ("network rm blue", &["blue", "web"]),
    ];
    for (words, named) in cases {
        // A name that begins with a dash reaches the daemon only after `--`.
        let words = words.replace("create -", "create -- -");
        changes_nothing(&town, || town.netd.say(&words).refused(named.iter().copied()));
    }
    changes_nothing(&town, || town.netd.say("network inspect nowhere").refused(["nowhere"]));
}

#[test]
fn endpoints_that_cannot_be_are_refused_and_nothing_changes() {
    let town = furnished_town();
    let free = town.host.container("free");
    let web = town.address("web");
    let gateway = says::gateway_of(&town.netd, "blue");
    let at_free = format!("--netns {}", free.netns());
    let cases = [
        (format!("attach new {at_free} --network nowhere"), vec!["nowhere"]),
        (format!("attach web {at_free} --network blue"), vec!["web"]),
        (format!("attach not/a/name {at_free} --network blue"), vec!["not/a/name"]),
        (format!("attach new {at_free} --network blue:ip=10.9.9.9"), vec!["10.9.9.9", "10.200.1.0/24"]),
        (format!("attach new {at_free} --network blue:ip={web}"), vec![web.as_str(), "web"]),
        (format!("attach new {at_free} --network blue:ip={gateway}"), vec![gateway.as_str(), "blue"]),
        (format!("attach new {at_free} --network blue --network blue"), vec!["blue"]),
        ("attach new --netns /run/netns/nowhere --network blue".to_owned(), vec!["/run/netns/nowhere"]),
        ("attach new --netns /etc/passwd --network blue".to_owned(), vec!["/etc/passwd"]),
        ("attach new --netns /proc/1/ns/mnt --network blue".to_owned(), vec!["/proc/1/ns/mnt"]),
        ("attach new --netns /proc/1/ns/net --network blue".to_owned(), vec!["/proc/1/ns/net", "host"]),
        ("attach new --pid 99999 --network blue".to_owned(), vec!["99999"]),
        ("inspect nobody".to_owned(), vec!["nobody"]),
        ("detach nobody".to_owned(), vec!["nobody"]),
        ("publish nobody 80".to_owned(), vec!["nobody"]),
        ("unpublish nobody 80".to_owned(), vec!["nobody"]),
        ("port nobody".to_owned(), vec!["nobody"]),
    ];
    for (words, named) in cases {
        changes_nothing(&town, || town.netd.say(&words).refused(named));
        assert_eq!(free.ip("-o link show").lines().count(), 1, "`{words}` leaves nothing in the container");
    }
}

#[test]
fn ports_that_cannot_be_published_are_refused_and_nothing_changes() {
    let town = furnished_town();
    let free = town.host.container("free");
    let at_free = format!("--netns {} --network blue", free.netns());
    let _held = town.host.spawn(["busybox", "httpd", "-f", "-p", "8081"]);
    // A socket of a process that the host cannot see.
    let _held_udp = town.host.echo_udp(8082);
    wait_until_bound(&town.host, 8081);
    let _holders = ["udp 0.0.0.0:8084", "udp [::]:8085", "tcp [::]:8086", "tcp 0.0.0.0:8087"].map(|what| {
        let holder = town.host.spawn(dial(&format!("hold {what}")));
        wait_until("it has its port", || holder.log().contains("bound"));
        holder
    });
    let cases: [(&str, &[&str]); 13] = [
        ("publish app 8084:80/udp", &["8084/udp", "dial"]),
        ("publish app 8085:80/udp", &["8085/udp", "dial"]),
        ("publish app 8086:80", &["8086/tcp", "dial"]),
        ("publish app 8083-8199:8083-8199/udp", &["8084/udp", "dial"]),
        ("publish app 8080:80", &["8080/tcp", "web"]),
        ("publish app 8070-8090:70-90", &["web"]),
        ("publish web 8080:81", &["8080/tcp", "web"]),
        ("publish app 8081:80", &["8081/tcp", "busybox"]),
        ("publish app 8082:80/udp", &["8082/udp"]),
        ("publish app 192.0.2.77:8083:80", &["192.0.2.77"]),
        ("publish app seven:80", &["seven:80"]),
        ("publish app 8083:70000", &["8083:70000"]),
        ("unpublish web 9999:80", &["9999", "web"]),
    ];
    for (words, named) in cases {
        changes_nothing(&town, || town.netd.say(words).refused(named.iter().copied()));
    }
    for (port, named) in [("8080:80", "web"), ("8081:80", "busybox")] {
        changes_nothing(&town, || {
            town.netd.say(&format!("attach new {at_free} -p 8090:90 -p {port}")).refused([&port[..4], named]);
        });
        assert_eq!(free.ip("-o link show").lines().count(), 1, "nothing is left in the container");
    }
    let _web = town.host.existing_container("web").serve_http(80);
    assert_eq!(town.client.curl(&format!("http://{FRONT}:8080/")).ok(), format!("web sees {CLIENT}\n"));
}

#[test]
fn an_interface_asked_for_that_is_there_already_is_left_alone_and_so_is_the_rest() {
    let town = furnished_town();
    let taken = town.host.container("taken");
    taken.ip("link add name eth0 type veth peer name other");
    let before = taken.ip("-j address show");
    let attach = format!("attach new --netns {} --network blue:ifname=eth0 -p 8090:80", taken.netns());

    changes_nothing(&town, || town.netd.say(&attach).refused(["eth0"]));

    assert_eq!(taken.ip("-j address show"), before);
    taken.ip("link del eth0");
    town.netd.say(&attach).ok();
    assert_eq!(taken.pings(&town.address("web"), 1, PATIENCE), 1);
}

#[test]
fn the_second_network_of_an_attach_that_fails_takes_the_first_with_it() {
    let town = furnished_town();
    town.network("green");
    let taken = town.host.container("taken");
    taken.ip("link add name eth1 type veth peer name other");

    changes_nothing(&town, || {
        let attach = format!("attach new --netns {} --network blue --network green:ifname=eth1", taken.netns());
        town.netd.say(&attach).refused(["eth1"]);
    });

    assert_eq!(taken.ifindex("eth0"), None);
}

#[test]
fn wrong_usage_exits_with_2_and_changes_nothing() {
    let town = furnished_town();
    for words in ["", "nonsense", "network create", "network ls --nonsense", "attach", "ps --format xml", "publish web"]
    {
        changes_nothing(&town, || {
            let outcome = town.netd.say(words);
            assert!(!outcome.exits(2).stderr.is_empty(), "{outcome}");
        });
    }
}

#[test]
fn without_a_daemon_the_command_line_says_so_at_once() {
    let town = Town::before_netd();
    for words in ["status", "network ls", "network create blue", "ps", "flows"] {
        // A process may stand still for a while; who waits for a daemon always takes as long.
        wait_until(&format!("`{words}` is refused within two seconds"), || {
            let begin = Instant::now();
            town.netd.say(words).refused(["/run/netd/netd.sock"]);
            begin.elapsed() < Duration::from_secs(2)
        });
    }
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let town = furnished_town();
    let binary = netd_binary().to_string_lossy().into_owned();
    let pid = format!("pid {}", town.netd.id());
    for elsewhere in
        ["--state-dir /run/a --run-dir /run/b", "--state-dir /run/a --run-dir /run/b --bpf-dir /sys/fs/bpf/c", ""]
    {
        changes_nothing(&town, || {
            let words = [binary.as_str(), "daemon"].into_iter().chain(elsewhere.split_whitespace());
            town.host.run(words).refused([pid.as_str(), "network namespace"]);
        });
    }
    assert!(!town.host.path("/run/a").exists() && !town.host.path("/run/b").exists());
    town.netd.say("status").ok();
}

#[test]
fn what_the_kernel_lacks_is_said_at_start_by_name() {
    let cases: [(&str, &[&str], &str); 5] = [
        ("", &["setpriv", "--bounding-set=-net_admin"], "CAP_NET_ADMIN"),
        ("", &["setpriv", "--bounding-set=-sys_admin"], "CAP_SYS_ADMIN"),
        ("", &["setpriv", "--bounding-set=-bpf,-sys_admin"], "CAP_BPF"),
        ("/sys/fs", &[], "bpffs"),
        ("/sys/kernel/btf", &[], "BTF"),
    ];
    for (hidden, prefix, named) in cases {
        let town = Town::before_netd();
        if !hidden.is_empty() {
            town.host.run(["mount", "-t", "tmpfs", "-o", "ro", "none", hidden]).ok();
        }
        let before = town.host.snapshot();

        let binary = netd_binary().to_string_lossy().into_owned();
        let outcome = town.host.run(prefix.iter().copied().chain([binary.as_str(), "daemon"]));

        assert!(outcome.exits(1).stderr.contains(named), "{outcome} but should name {named}");
        town.host.assert_as_in(&before);
    }
}

/// Network `blue` on a subnet of its own, `web` (published at 8080) and `app` in it, and a route beyond the internet's wire.
fn furnished_town() -> Town {
    let town = Town::with(Offloads::On, NetdOptions::default());
    town.host.ip("route add 203.0.113.0/24 via 192.0.2.2 dev eth0");
    town.netd.say("network create blue --subnet 10.200.1.0/24").ok();
    town.container("web", "blue", &["8080:80"]);
    town.container("app", "blue", &[]);
    town
}

/// Runs `refused` and asserts that the host and what netd tells of it are as before.
#[track_caller]
fn changes_nothing(town: &Town, refused: impl FnOnce()) {
    let before = town.host.snapshot();
    let told_before = town.netd.listings();

    refused();

    let told = town.netd.listings();
    let lines = |told: &serde_json::Value| flattened(told).into_iter().collect();
    for (listing, before) in &told_before {
        let difference = netd_tests::lab::difference(&lines(before), &lines(&told[listing]));
        assert!(difference.is_empty(), "`{listing}` tells something else:\n{difference}");
    }
    town.host.assert_as_in(&before);
}

#[track_caller]
fn wait_until_bound(host: &Host, port: u16) {
    let asked = || host.asks_tcp(&format!("127.0.0.1:{port}"), PATIENCE);
    wait_until("the host's own server listens", || !asked().is_err_and(|error| error.kind() == ConnectionRefused));
}
