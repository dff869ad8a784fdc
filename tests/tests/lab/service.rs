//! netd as a service: the unit that systemd runs it by, the word that it is ready, completions and manual pages.

use std::{collections::BTreeSet, fs, path::Path, thread};

use netd_tests::lab::{Host, Outcome, Running, netd_binary};

use crate::town::{INTERNET, Town, wait_until};

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

/// The service manager that the unit is for, of Debian's package, as a user's: a host of a Lab has no boot that it could be the first
/// process of. What the unit says of system calls, families, namespaces, capabilities, mounts and limits is done all the same.
struct Manager<'a> {
    host: &'a Host,
    process: Running,
}

impl<'a> Manager<'a> {
    const DIRECTORY: &'static str = "/run/manager";

    /// Starts it, and the unit with it, changed by `drop_in`.
    fn starts(host: &'a Host, drop_in: &str) -> Self {
        // What a boot leaves: word that systemd runs the host, what it lays over what is hidden, and mounts that services see too.
        let booted = "mount --make-rshared /run && mkdir -p /run/systemd/system /run/systemd/inaccessible/dir && \
                      cd /run/systemd/inaccessible && touch reg && mkfifo fifo && mknod chr c 0 0 && mknod blk b 0 0";
        host.run(["sh", "-c", booted]).ok();
        let units = host.path(Self::DIRECTORY).join("units");
        fs::create_dir_all(units.join("netd.service.d")).expect("a Lab's /run can be written");
        let basic = "[Unit]\nDefaultDependencies=no\n";
        for (name, text) in [("netd.service", UNIT), ("netd.service.d/test.conf", drop_in), ("basic.target", basic)] {
            fs::write(units.join(name), text).expect("a Lab's /run can be written");
        }
        let systemd = ["/lib/systemd/systemd", "--user", "--unit=netd.service"].map(str::to_owned);
        let words = ["unshare", "--cgroup", "env"].map(str::to_owned).into_iter().chain(Self::variables());
        Self { host, process: host.spawn(words.chain(systemd)) }
    }

    fn variables() -> [String; 3] {
        [("HOME", ""), ("XDG_RUNTIME_DIR", ""), ("SYSTEMD_UNIT_PATH", "/units")]
            .map(|(name, below)| format!("{name}={}{below}", Self::DIRECTORY))
    }

    fn systemctl(&self, words: &str) -> Outcome {
        let words = ["systemctl", "--user"].into_iter().chain(words.split(' ')).map(str::to_owned);
        self.host.run(["env".to_owned()].into_iter().chain(Self::variables()).chain(words))
    }

    /// A property of the unit; nothing while the manager does not answer.
    fn shows(&self, property: &str) -> String {
        self.systemctl(&format!("show netd.service --value -p {property}")).stdout.trim_end().to_owned()
    }
}

impl Drop for Manager<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.host.path("/run/netd.log")).unwrap_or_default();
            eprintln!("---- systemd ----\n{}---- netd ----\n{log}----", self.process.log());
        }
        // A Lab removes its cgroup, and knows of none in it.
        let ends = "for kill in $(find /sys/fs/cgroup -mindepth 2 -name cgroup.kill); do echo 1 > $kill; done; \
                    for try in $(seq 200); do find /sys/fs/cgroup -mindepth 1 -depth -type d -exec rmdir {} + && break; \
                    sleep 0.02; done";
        self.host.run(["sh", "-c", ends]);
    }
}

/// Whatever the unit does not allow of system calls ends the daemon.
#[test]
fn as_a_service_that_may_do_what_its_unit_says_and_no_more_the_daemon_does_its_work() {
    let town = Town::before_netd();
    let drop_in = format!(
        "[Service]\nExecStart=\nExecStart={} daemon\nSystemCallErrorNumber=kill\n\
         StandardOutput=append:/run/netd.log\nStandardError=append:/run/netd.log\n",
        netd_binary().display()
    );
    fs::write(
        town.host.path("/run/compose.yaml"),
        "name: shop\nservices:\n  front:\n    command: sleep 600\n    ports: [\"8081:80\"]\n",
    )
    .expect("a Lab's /run can be written");
    let manager = Manager::starts(&town.host, &drop_in);
    wait_until("the manager has word that netd is ready", || manager.shows("ActiveState") == "active");
    let process = town.host.run(["cat", &format!("/proc/{}/status", manager.shows("MainPID"))]).ok();
    assert!(process.contains("Seccomp:\t2") && process.contains("NoNewPrivs:\t1"), "it is bounded: {process}");

    let say = |words: &str| town.netd.say(words).ok();
    say("network create blue --ipv6");
    let web = town.container("web", "blue", &["80:80", "53:53/udp"]);
    let _internet = town.internet.serve_http(80);
    assert!(web.curl(&format!("http://{INTERNET}/")).succeeded());
    town.netd.say("publish web 80:81").refused(["web"]);
    say("network create tunnelled --driver vxlan --vni 7 --peer 192.0.2.9");
    say("network connect tunnelled web");
    say("run -d --name job --network blue -- sleep 600");
    assert!(say("exec job -- ip -br address").contains("eth0"));
    say("up -f /run/compose.yaml");
    town.host.run(["iptables", "-P", "FORWARD", "DROP"]).ok();
    wait_until("netd has made way for its packets", || {
        town.host.run(["iptables", "-S", "FORWARD"]).stdout.contains("netd")
    });
    assert!(town.netd.say("doctor").stdout.contains("tunnels"));
    say("detach web");
    assert_eq!(manager.shows("NRestarts"), "0", "nothing has ended it");

    manager.systemctl("kill --kill-who=main --signal=KILL netd.service").ok();
    wait_until("it is started again", || manager.shows("NRestarts") == "1" && manager.shows("ActiveState") == "active");
    assert!(say("network ls -q").contains("blue"));
    manager.systemctl("stop netd.service").ok();
    assert_eq!((manager.shows("Result").as_str(), manager.shows("ExecMainStatus").as_str()), ("success", "0"));
}

/// Not every one is opened in a test: what the sources name is what may be.
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
