//! What becomes of flows where the kernel has no memory for more of them.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use netd_common::tables::{LAYOUT, names};
use netd_tests::{
    kernel,
    lab::{
        Container,
        traffic::{IMPATIENCE, PATIENCE},
    },
};
use nix::unistd::gettid;

use crate::town::{FRONT, INTERNET, Town, wait_until};

/// Flows that are opened between two looks.
const FLOWS: u16 = 500;
/// Time for the answers to them.
const ANSWERS: Duration = Duration::from_millis(200);

#[test]
fn where_the_kernel_has_no_memory_for_new_flows_they_are_refused_and_told_of_and_those_that_are_live_on() {
    let mut town = Town::before_netd();
    // What the kernel takes for a map is accounted to whom its maker was accounted to.
    let memory = Memory::of_this_thread();
    town.netd.start();
    memory.move_all_out();
    town.network("blue");
    let app = town.container("app", "blue", &["9000:9000", "8007:7/udp"]);
    let _echoes = (app.echo_tcp(9000), app.echo_udp(7), town.internet.echo_tcp(9000), town.internet.echo_udp(7));
    let mut inward = town.client.connect(&format!("{FRONT}:9000"), PATIENCE).expect("the port is published");
    let mut outward = app.connect(&format!("{INTERNET}:9000"), PATIENCE).expect("the container gets out");
    let refused = || dropped(&town, "table_full");
    let flows = || kernel::flows(&town.host.path(format!("sys/fs/bpf/netd/{LAYOUT}/maps/{}", names::FLOWS)));

    wait_until("new flows are refused", || {
        // What the daemon gives back meanwhile is taken anew.
        memory.limit_to_what_is_used();
        opens_answered_flows(&app);
        says_all(&mut inward);
        says_all(&mut outward);
        refused() > 0
    });
    assert!(memory.refusals() > 0, "it is the memory that is short");
    assert_eq!(dropped(&town, "ports_exhausted"), 0, "it is not ports that are short");
    wait_until("it is told of", || town.netd.say("events --since 1h --until 0s").ok().contains("no memory"));
    // One that goes while the table is read may be seen by half.
    wait_until("no flow is there by half", || {
        let table = flows();
        table.values().all(|flow| table.contains_key(&flow.becomes.reversed(flow.becomes.zone)))
    });
    for _ in 0..100 {
        says_all(&mut inward);
        says_all(&mut outward);
    }

    memory.lift();

    wait_until("a new flow passes", || app.asks_udp(&format!("{INTERNET}:7"), 1, 100, IMPATIENCE) == 1);
    for _ in 0..100 {
        app.asks_tcp(&format!("{INTERNET}:9000"), PATIENCE).expect("a container gets out as ever");
        town.client.asks_tcp(&format!("{FRONT}:9000"), PATIENCE).expect("the port is reached as ever");
    }
    says_all(&mut inward);
    says_all(&mut outward);
}

/// How many packets of containers were dropped for a reason.
fn dropped(town: &Town, reason: &str) -> u64 {
    let status = town.netd.json("status");
    let programs = status["programs"].as_array().expect("a daemon has programs");
    let program = programs.iter().find(|one| one["name"] == "from_container").expect("this one too");
    program["dropped"][reason].as_u64().unwrap_or_default()
}

/// Sends a datagram from each of many ports, each of which is a flow, and leaves time for the answers: what nobody answered would
/// make room for what is new.
fn opens_answered_flows(app: &Container) {
    app.enter(|| {
        let sockets: Vec<_> = (0..FLOWS).map(|_| UdpSocket::bind(("0.0.0.0", 0)).expect("a port is free")).collect();
        for socket in &sockets {
            // One that is refused is what this is about.
            let _ = socket.send_to(b"?", (INTERNET, 7));
        }
        thread::sleep(ANSWERS);
    });
}

/// Says something by an open connection and hears it back.
#[track_caller]
fn says_all(stream: &mut TcpStream) {
    let mut heard = [0; 4];
    stream.write_all(b"here").expect("it is connected");
    stream.read_exact(&mut heard).expect("it goes on");
    assert_eq!(&heard, b"here");
}

/// A memory cgroup of the test's own (cgroup v1, where a thread may be in another than its process).
struct Memory {
    path: PathBuf,
    above: PathBuf,
}

impl Memory {
    /// A new one, with the calling thread in it, and what that starts from here on.
    fn of_this_thread() -> Self {
        let own = fs::read_to_string("/proc/thread-self/cgroup").expect("the kernel tells");
        let own =
            own.lines().find_map(|line| line.split(':').nth(1)?.split(',').any(|c| c == "memory").then_some(line));
        let own = own.and_then(|line| line.splitn(3, ':').nth(2)).expect("this machine has memory cgroups (v1)");
        let above = Path::new("/sys/fs/cgroup/memory").join(own.trim_start_matches('/'));
        let path = above.join(format!("netd-lab-memory-{}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let this = Self { path, above };
        this.write("tasks", &gettid().to_string());
        this
    }

    fn limit_to_what_is_used(&self) {
        let used = self.number("memory.usage_in_bytes");
        // Less than what is used by now is refused.
        let _ = fs::write(self.path.join("memory.limit_in_bytes"), used.to_string());
    }

    fn lift(&self) {
        self.write("memory.limit_in_bytes", "-1");
    }

    /// How often the kernel was refused memory by it.
    fn refusals(&self) -> u64 {
        self.number("memory.failcnt")
    }

    /// What was made in it stays accounted to it.
    fn move_all_out(&self) {
        let members = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for member in members.lines() {
            // Who is gone meanwhile need not be moved.
            let _ = fs::write(self.above.join("cgroup.procs"), member);
        }
    }

    fn number(&self, name: &str) -> u64 {
        let path = self.path.join(name);
        let told = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        told.trim().parse().expect("a number")
    }

    fn write(&self, name: &str, value: &str) {
        let path = self.path.join(name);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.move_all_out();
        for _ in 0..200 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
