//! What a container says to all in a network joined by hand: a copy for each peer (head-end replication), and none from peer to peer.

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use netd_tests::lab::{
    Lab, Node, Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};

use crate::{
    spanning::{attached, plain_vtep_at},
    town::wait_until,
};

/// A place in `blue`, with a socket for what is said to all.
struct Ear<'a> {
    place: &'a Node,
    socket: UdpSocket,
    /// How often each word was heard.
    heard: BTreeMap<String, usize>,
}

impl<'a> Ear<'a> {
    fn of(place: &'a Node) -> Self {
        let socket = place.bound(|| UdpSocket::bind("0.0.0.0:9")).expect("the port is free");
        socket.set_broadcast(true).and_then(|()| socket.set_nonblocking(true)).expect("a socket can be told so");
        Self { place, socket, heard: BTreeMap::new() }
    }

    fn says_to_all(&self, word: &str) {
        self.socket
            .send_to(word.as_bytes(), "10.9.0.255:9")
            .unwrap_or_else(|error| panic!("{}: {error}", self.place.name()));
    }

    fn has_heard(&mut self, word: &str) -> bool {
        let mut datagram = [0; 64];
        while let Ok(length) = self.socket.recv(&mut datagram) {
            *self.heard.entry(String::from_utf8_lossy(&datagram[..length]).into_owned()).or_default() += 1;
        }
        self.heard.contains_key(word)
    }
}

/// Has one of these say something to all, and others hear it; more than once where a loaded machine has lost it.
#[track_caller]
fn comes_from(ears: &mut [Ear<'_>], from: usize, to: &[usize]) {
    let mut said = 0;
    wait_until("all have heard one word", || {
        let word = format!("{} {said}", ears[from].place.name());
        said += 1;
        ears[from].says_to_all(&word);
        let patient = Instant::now() + IMPATIENCE;
        loop {
            // What has come to each is taken in, whether the others have it or not.
            let heard = to.iter().filter(|ear| ears[**ear].has_heard(&word)).count();
            if heard == to.len() || Instant::now() > patient {
                return heard == to.len();
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Who they are below.
const WEB: usize = 0;
const APP: usize = 1;
const FIRST: usize = 2;
const SECOND: usize = 3;

#[test]
fn what_is_said_to_all_goes_to_each_peer_once_and_from_a_peer_to_containers_and_to_no_other_peer() {
    let lab = Lab::new();
    let (host, plain) = (lab.host("host"), ["first", "second"].map(|name| lab.host(name)));
    lab.wire(Offloads::On).from(&host, "eth0", "192.0.2.1/24").to(&plain[0], "eth0", "192.0.2.2/24");
    lab.wire(Offloads::Off).from(&host, "eth1", "198.51.100.1/24").to(&plain[1], "eth0", "198.51.100.2/24");
    let netd = host.netd();
    netd.say("network create blue -d vxlan --vni 42 --peer 192.0.2.2 --peer 198.51.100.2 --subnet 10.9.0.0/24").ok();
    let [web, app] =
        [("web", 11), ("app", 12)].map(|(name, last)| attached(&netd, &host, name, &format!("blue:ip=10.9.0.{last}")));
    plain_vtep_at(&plain[0], "vx0", (42, 4789), 100, "192.0.2.1");
    plain_vtep_at(&plain[1], "vx0", (42, 4789), 101, "198.51.100.1");
    let mut ears = [&*web, &*app, &*plain[0], &*plain[1]].map(Ear::of);

    comes_from(&mut ears, WEB, &[APP, FIRST, SECOND]);
    comes_from(&mut ears, FIRST, &[WEB, APP]);
    comes_from(&mut ears, SECOND, &[WEB, APP]);
    // What came first is there by now.
    comes_from(&mut ears, APP, &[WEB, FIRST, SECOND]);

    for ear in &ears {
        let name = ear.place.name();
        assert!(ear.heard.values().all(|count| *count == 1), "{name} has heard something twice: {:?}", ear.heard);
    }
    for (ear, other) in [(FIRST, "second"), (SECOND, "first")] {
        let of_other: Vec<_> = ears[ear].heard.keys().filter(|word| word.starts_with(other)).collect();
        assert!(of_other.is_empty(), "a peer's words are not said again to another: {of_other:?}");
    }
    // Each is asked for by ARP, which goes to both, and is answered by the one that it is.
    for station in ["10.9.0.100", "10.9.0.101"] {
        assert_eq!(web.pings(station, 2, PATIENCE), 2, "{station}");
    }
    for plain in &plain {
        assert_eq!(plain.pings("10.9.0.12", 2, PATIENCE), 2);
    }
    lab.assert_no_checksum_errors();
}
