//! netd as a service: the unit that systemd runs it by, the word that it is ready, completions and manual pages.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::Path,
};

use netd_tests::lab::{NetdOptions, descriptors_are_gone, netd_binary, traffic::PATIENCE};

use crate::town::{INTERNET, Town};

const UNIT: &str = include_str!("../../../netd/dist/netd.service");

#[test]
fn the_unit_is_one_that_systemd_understands() {
    let town = Town::before_netd();
    let unit = UNIT.replace("/usr/local/bin/netd", &netd_binary().to_string_lossy());
    assert_ne!(unit, UNIT, "the unit names the binary where it is installed");
    fs::write(town.host.path("/run/netd.service"), unit).expect("a Lab's /run can be written");

    let verified = town.host.run(["systemd-analyze", "verify", "--man=no", "/run/netd.service"]);

    assert_eq!((verified.code(), verified.stdout.as_str(), verified.stderr.as_str()), (0, "", ""), "{verified}");
}

#[test]
fn with_the_capabilities_of_its_unit_the_daemon_does_its_work_and_says_when_it_is_ready() {
    let line = UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("the unit bounds them");
    let kept: Vec<String> =
        line.split(' ').map(|name| format!("+{}", name.to_lowercase().replace("cap_", ""))).collect();
    let mut town = Town::before_netd();
    let wrapper = town.host.path("/run/bounded-netd");
    let netd = netd_binary();
    let script = format!(
        "#!/bin/sh\nexec setpriv --no-new-privs --bounding-set=-all,{} {} \"$@\"\n",
        kept.join(","),
        netd.display()
    );
    fs::write(&wrapper, script).expect("a Lab's /run can be written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("and its modes changed");
    // The kernel runs nothing that somebody still has open for writing (ETXTBSY).
    descriptors_are_gone();
    let listener = UnixDatagram::bind(town.host.path("/run/notify")).expect("a socket can be made there");
    listener.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");

    let options = NetdOptions::default().binary("/run/bounded-netd").variable("NOTIFY_SOCKET", "/run/notify");
    town.netd = town.host.netd_stopped(options);
    town.netd.start();

    assert_eq!(received(&listener), "READY=1");
    town.network("blue");
    let web = town.container("web", "blue", &["80:80", "53:53/udp"]);
    let _internet = town.internet.serve_http(80);
    assert!(web.curl(&format!("http://{INTERNET}/")).succeeded());
    town.netd.say("publish web 80:81").refused(["web"]);
    town.netd.say("detach web").ok();
    town.netd.terminate().exits(0);
    assert_eq!(received(&listener), "STOPPING=1");
}

/// Nothing here can restrict families as systemd does: what the sources name is what may be opened.
#[test]
fn the_unit_allows_every_family_of_sockets_that_netd_opens() {
    let line =
        UNIT.lines().find_map(|line| line.strip_prefix("RestrictAddressFamilies=")).expect("the unit restricts them");
    let allowed: BTreeSet<&str> = line.split(' ').collect();
    let mut named = BTreeSet::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../netd/src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("the sources are there").flatten() {
            match entry.path() {
                path if path.is_dir() => directories.push(path),
                path => named.extend(families(&fs::read_to_string(path).expect("sources are text"))),
            }
        }
    }

    assert!(named.contains("AF_NETLINK") && named.contains("AF_INET6"), "{named:?}");
    let refused: Vec<_> = named.iter().filter(|family| !allowed.contains(family.as_str())).collect();
    assert!(refused.is_empty(), "{refused:?} of {named:?} are not in {line:?}");
}

/// Families of sockets that a source names, in the kernel's words. Messages about bridges are of a family that has no sockets.
fn families(source: &str) -> BTreeSet<String> {
    let after = |prefix: &'static str| source.split(prefix).skip(1);
    let word = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric()).collect::<String>();
    let named = after("libc::AF_").chain(after("AddressFamily::")).map(word);
    let families = named.map(|name| format!("AF_{}", name.to_uppercase()));
    families.filter(|family| family != "AF_" && family != "AF_BRIDGE" && family != "AF_UNSPEC").collect()
}

fn received(listener: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let length = listener.recv(&mut buffer).expect("the daemon tells in time");
    String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned()
}

#[test]
fn completions_and_manual_pages_are_made_without_a_daemon() {
    let town = Town::before_netd();
    let script = town.netd.say("completion bash").ok();
    fs::write(town.host.path("/run/netd.bash"), &script).expect("a Lab's /run can be written");
    let ask = |words: &str| {
        let shell = format!(
            "source /run/netd.bash; COMP_WORDS=({words} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); \
             _netd netd '' {}; echo ${{COMPREPLY[*]}}",
            words.rsplit(' ').next().unwrap_or_default()
        );
        town.host.run(["bash", "-c", &shell]).ok()
    };
    assert!(ask("netd network").contains("create") && ask("netd network").contains("connect"));
    assert!(!ask("netd").contains("__"));
    for (words, values) in [
        ("netd daemon --firewall", "aware full off"),
        ("netd daemon --xdp", "auto native off"),
        ("netd attach --publish-mode", "host mesh"),
        ("netd network create -d", "bridge overlay vxlan"),
        ("netd ps --format", "table json"),
        ("netd completion", "bash"),
    ] {
        assert!(ask(words).contains(values), "{words}: {}", ask(words));
    }
    assert!(town.netd.say("help network create").ok().contains("--subnet <CIDR>"));
    for shell in ["zsh", "fish"] {
        assert!(town.netd.say(&format!("completion {shell}")).ok().contains("disconnect"));
    }
    town.netd.say("completion dos").exits(2);

    let page = town.netd.say("man network create").ok();
    assert!(page.contains("NETD-NETWORK-CREATE") && page.contains("\\-\\-subnet"), "{page}");
    assert!(town.netd.say("man").ok().contains("netd\\-network(8)"));
    town.netd.say("man nonsense").exits(2);
    assert!(!Path::new("/run/netd.bash").exists(), "a Lab's /run is its own");
}
