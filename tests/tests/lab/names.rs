//! Names as containers ask for them: with dig, with glibc's getent, and with a program linked against musl.

use std::{fs, path::PathBuf};

use netd_tests::lab::{Host, Node, Offloads};

use crate::{says, town::Town};

/// What `dig +short` prints for this, at the resolver.
#[track_caller]
pub fn dig(node: &Node, words: &str) -> Vec<String> {
    let command = format!("dig +short +tries=3 +time=20 @127.0.0.11 {words}");
    // What has to be asked again is told as a comment.
    let told = node.run(command.split(' ')).ok();
    let mut lines: Vec<_> = told.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The status and the number of answers that dig is told.
#[track_caller]
pub fn status(node: &Node, words: &str) -> (String, usize) {
    let command = format!("dig +tries=3 +time=20 @127.0.0.11 {words}");
    let told = node.run(command.split(' ')).ok();
    let field = |start: &str, end: char| {
        let rest = told.split_once(start).unwrap_or_else(|| panic!("dig tells {start}: {told}")).1;
        rest.split(end).next().unwrap_or_default().to_owned()
    };
    (field("status: ", ','), field("ANSWER: ", ',').parse().expect("a number of answers"))
}

#[test]
fn a_name_leads_to_a_container_only_within_its_networks() {
    let town = Town::new(Offloads::On);
    for network in ["blue", "red", "--internal vault"] {
        town.netd.say(&format!("network create {network}")).ok();
    }
    let web = town.container("web", "blue", &[]);
    let app = town.container("app", "red", &[]);
    let safe = town.container("safe", "vault", &[]);

    let address = town.address("app");
    for name in ["app", "app.red"] {
        assert_eq!(dig(&web, name), [""; 0], "{name}");
        assert_eq!(dig(&safe, name), [""; 0], "{name}");
        assert_eq!(dig(&app, name), [address.as_str()], "{name}");
    }
    assert_eq!(status(&safe, "example.com"), ("NXDOMAIN".to_owned(), 0));
    town.netd.say("network connect red web").ok();
    assert_eq!(dig(&web, "app"), [address]);
    town.netd.say("network disconnect red web").ok();
    assert_eq!(dig(&web, "app"), [""; 0]);
}

#[test]
fn the_network_that_nobody_has_asked_for_knows_names_too() {
    let town = Town::new(Offloads::On);
    let [web, app] = ["web", "app"].map(|name| town.host.container(name));
    for container in [&web, &app] {
        town.netd.run(["attach", container.name(), "--netns", &container.netns()]).ok();
    }

    for name in ["web", "web.bridge"] {
        assert_eq!(dig(&app, name), [town.address("web")], "{name}");
    }
    assert_eq!(dig(&web, "app"), [town.address("app")]);
}

#[test]
fn an_alias_leads_to_all_who_have_it() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    let replicas: Vec<_> = (0..3).map(|n| town.container(&format!("r{n}"), "blue:alias=api", &[])).collect();

    let mut addresses: Vec<_> = (0..3).map(|n| town.address(&format!("r{n}"))).collect();
    addresses.sort();
    assert_eq!(dig(&web, "api"), addresses);
    assert_eq!(dig(&replicas[0], "api.blue"), addresses);
    town.netd.say("detach r1").ok();

    assert_eq!(dig(&web, "api").len(), 2);
}

#[test]
fn a_containers_own_server_on_port_53_is_not_in_the_way() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.host.container("web");
    let before = [web.echo_udp(53), web.echo_udp(717)];

    town.netd.say("attach web --netns /run/netns/web --network blue").ok();
    let _after = (web.serve_http(53), before);

    assert_eq!(dig(&web, "web"), [town.address("web")]);
    assert_eq!(dig(&web, "+tcp web"), [town.address("web")]);
    assert_eq!(web.asks_udp("127.0.0.1:53", 1, 100, netd_tests::lab::traffic::PATIENCE), 1);
    assert!(web.curl("http://127.0.0.1:53/").succeeded());
}

#[test]
fn the_command_of_run_finds_names_by_either_c_library() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let resolves = musl_program(&town.host);
    let _web = town.container("web", "blue:alias=front", &[]);
    let address = town.address("web");
    let run = |command: &str| town.netd.say(&format!("run --rm --name app --network blue -- {command}")).ok();

    for name in ["web", "front", "web.blue"] {
        let glibc = run(&format!("getent ahostsv4 {name}"));
        assert!(glibc.starts_with(&address), "{name}: {glibc}");
        assert_eq!(run(&format!("{} {name}", resolves.display())), format!("{address}\n"), "{name}");
    }
    assert!(run(&format!("getent hosts {address}")).contains("web.blue"));
    let conf = run("cat /etc/resolv.conf");
    assert!(conf.lines().any(|line| line == "nameserver 127.0.0.11") && conf.contains("ndots:0"), "{conf}");
    assert!(run("cat /etc/hosts").lines().any(|line| line.ends_with("\tapp")));
    assert!(!town.host.path("/run/netd/etc/app").exists(), "the files go with the endpoint");
    let host = town.host.run(["cat", "/etc/resolv.conf"]).ok();
    assert!(!host.contains("127.0.0.11"), "the host's own file stays: {host}");
    assert_eq!(says::names(&town.netd.json("ps")), ["web"]);
}

#[test]
fn a_command_that_runs_finds_itself_at_the_addresses_that_it_comes_to_have() {
    let town = Town::new(Offloads::On);
    for (network, subnet) in [("blue", "10.201.1.0/24"), ("red", "10.201.2.0/24")] {
        town.netd.say(&format!("network create {network} --subnet {subnet}")).ok();
    }
    town.netd.say("run -d --name app --network blue -- sleep 600").ok();
    let own = || {
        let hosts = town.netd.say("exec app -- cat /etc/hosts").ok();
        let lines = hosts.lines().filter_map(|line| line.strip_suffix("\tapp")).map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    assert_eq!(own(), ["10.201.1.2"]);

    town.netd.say("network connect red app").ok();
    assert_eq!(own(), ["10.201.1.2", "10.201.2.2"]);
    town.netd.say("network renumber blue --subnet 10.202.0.0/24 --recreate").ok();
    assert_eq!(own(), ["10.202.0.2", "10.201.2.2"]);
    town.netd.say("network disconnect blue app").ok();
    assert_eq!(own(), ["10.201.2.2"]);

    let pid = says::inspected(&town.netd, "inspect app")["pid"].to_string();
    let seen = town.host.run(["nsenter", "-m", "-t", &pid, "cat", "/etc/hosts"]).ok();
    assert!(seen.contains("10.201.2.2\tapp") && !seen.contains("10.201.1.2"), "what has run all along sees it: {seen}");
    town.netd.say("rm -f app").ok();
}

#[test]
fn what_goes_leaves_nothing_at_the_loopback_device() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    assert!(bound(&web).contains("127.0.0.11"));

    town.netd.say("detach web").ok();

    assert!(!bound(&web).contains("127.0.0.11"), "{}", bound(&web));
    let outcome = web.run("dig +tries=1 +time=20 @127.0.0.11 web".split(' '));
    assert!(!outcome.succeeded() && outcome.to_string().contains("refused"), "nobody is there: {outcome}");
}

/// The sockets of a namespace.
fn bound(node: &Node) -> String {
    node.run(["ss", "-Hlntu"]).ok()
}

/// A program that prints the first address of a name, linked against musl, made on this host.
fn musl_program(host: &Host) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (directory.join("resolves.c"), directory.join("resolves"));
    let text = r#"
        #include <arpa/inet.h>
        #include <netdb.h>
        #include <stdio.h>
        int main(int argc, char **argv) {
            struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM }, *found;
            char text[INET_ADDRSTRLEN];
            int error = argc == 2 ? getaddrinfo(argv[1], 0, &hints, &found) : EAI_NONAME;
            if (error) { fprintf(stderr, "%s\n", gai_strerror(error)); return 1; }
            puts(inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text));
            return 0;
        }
    "#;
    fs::write(&source, text).expect("the build's own directory takes files");
    // `cargo xtask test` installs it.
    let made = ["musl-gcc".as_ref(), "-static".as_ref(), "-o".as_ref(), program.as_os_str(), source.as_os_str()];
    host.run(made).ok();
    program
}

#[test]
fn dig_finds_addresses_of_both_families_and_the_names_back() {
    let town = Town::new(Offloads::On);
    town.netd.say("network create blue --ipv6").ok();
    let (_web, app) = (town.container("web", "blue", &[]), town.container("app", "blue", &[]));
    let web = says::inspected(&town.netd, "inspect web");
    let [ip, ip6] = ["/networks/0/ip", "/networks/0/ip6"].map(|pointer| says::text(&web, pointer));

    assert_eq!(dig(&app, "A web"), [ip.as_str()]);
    assert_eq!(dig(&app, "AAAA web"), [ip6.as_str()]);
    assert_eq!(status(&app, "MX web"), ("NOERROR".to_owned(), 0));
    let told = app.run("dig +noall +answer +tries=1 +time=60 @127.0.0.11 web".split(' ')).ok();
    assert_eq!(told.split_whitespace().collect::<Vec<_>>(), ["web.", "5", "IN", "A", ip.as_str()], "for five seconds");
    for address in [ip, ip6] {
        assert_eq!(dig(&app, &format!("-x {address}")), ["web.blue."], "{address}");
    }
}

#[test]
fn an_answer_that_does_not_fit_a_datagram_says_so_and_is_had_by_tcp() {
    const MANY: usize = 40;
    let town = Town::new(Offloads::On);
    town.network("blue");
    let app = town.container("app", "blue", &[]);
    town.host.bare_namespaces("r", MANY);
    let mut addresses: Vec<_> = (0..MANY)
        .map(|n| {
            let (name, netns) = (format!("r{n}"), format!("/run/netns/r{n}"));
            town.netd.run(["attach", &name, "--netns", &netns, "--network", "blue:alias=api"]).ok();
            town.address(&name)
        })
        .collect();
    addresses.sort();

    let cut_off = app.run("dig +tries=1 +time=60 +noedns +ignore @127.0.0.11 api".split(' ')).ok();
    let flags = cut_off.lines().find(|line| line.starts_with(";; flags:")).unwrap_or_default();
    assert!(flags.contains(" tc"), "{cut_off}");
    assert_eq!(dig(&app, "+noedns api"), addresses, "dig asks again by TCP");
    assert_eq!(dig(&app, "+bufsize=4096 api"), addresses, "and need not where it takes more");
}
