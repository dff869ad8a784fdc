//! What was lost on the way, whatever the time it took: segments that TCP had to send again because they had not come, and packets
//! that the machine itself threw away, whoever's they were.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{Lab, Node, traffic::PATIENCE};

/// What had been lost at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Losses {
    /// TCP segments of every node of the Lab.
    pub segments: u64,
    /// Packets that found the queue of a processor full (`net.core.netdev_max_backlog`). Every namespace of the machine shares it,
    /// so that traffic of others fills it.
    pub of_the_machine: u64,
}

impl Lab {
    /// What has been lost until now. From the first call on, who gets a segment twice tells of it whatever comes right after.
    pub fn losses(&self) -> Losses {
        self.nodes.all().iter().for_each(acknowledge_each_segment);
        let segments = self.nodes.all().iter().map(lost_segments).sum();
        Losses { segments, of_the_machine: machine_losses() }
    }

    /// Asserts that since `before` no segment was lost but to the machine. One that was only slow looks lost for a moment: from when
    /// it is sent again until the receiver says that both copies have come.
    ///
    /// # Panics
    /// When one was.
    #[track_caller]
    pub fn assert_none_lost_since(&self, before: &Losses) {
        let deadline = Instant::now() + PATIENCE;
        while self.losses().unexplained_since(before) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        self.losses().assert_none_since(before);
    }
}

impl Losses {
    /// Segments since `before`, and what the machine has thrown away.
    fn since(&self, before: &Self) -> (u64, u64) {
        (self.segments.saturating_sub(before.segments), self.of_the_machine - before.of_the_machine)
    }

    fn unexplained_since(&self, before: &Self) -> bool {
        let (segments, of_the_machine) = self.since(before);
        segments > of_the_machine
    }

    #[track_caller]
    fn assert_none_since(&self, before: &Self) {
        let (segments, of_the_machine) = self.since(before);
        println!("{segments} segments were lost, and the machine has thrown {of_the_machine} packets away");
        assert!(
            segments <= of_the_machine,
            "{segments} segments were lost, of which the machine's own queues explain {of_the_machine}"
        );
    }
}

/// A receiver that is busy with its socket puts off its acknowledgements and sends the last alone, which does not tell any more that
/// one of those segments had come before: a sender that was only slow to hear would look as if it had lost something. Kernels before
/// 6.7 put off none.
fn acknowledge_each_segment(node: &Node) {
    let path = Path::new("/proc/sys/net/ipv4/tcp_backlog_ack_defer");
    node.enter(|| {
        if path.exists() {
            fs::write(path, "0").expect("a Lab's sysctls can be written");
        }
    });
}

/// Segments that were sent again, without those whose first copy had come too: the receiver tells of these (RFC 2883). They were
/// only slow, as on a busy machine.
fn lost_segments(node: &Node) -> u64 {
    node.snmp("Tcp", "RetransSegs").saturating_sub(node.netstat("TcpExt", "TCPDSACKRecvSegs"))
}

/// The second column of `/proc/net/softnet_stat` is what a processor has thrown away.
pub(crate) fn machine_losses() -> u64 {
    let table = fs::read_to_string("/proc/net/softnet_stat").expect("the kernel's tables are readable");
    let dropped = table.lines().map(|line| {
        let word = line.split_ascii_whitespace().nth(1).expect("a second column");
        u64::from_str_radix(word, 16).expect("a number")
    });
    dropped.sum()
}
