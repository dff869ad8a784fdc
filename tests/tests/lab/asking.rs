//! Many questions, rude clients, and a daemon that goes away: no answer is lost.

use std::{
    collections::BTreeMap,
    io::{IoSliceMut, Write},
    net::{TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use netd_tests::lab::{Container, Node, Offloads};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns};

use crate::{names::dig, town::Town};

/// How many questions are asked at least, however soon it is told to stop.
const LEAST: usize = 100;

/// The question for the address of `web`, of this id.
fn question(id: u16) -> Vec<u8> {
    [&id.to_be_bytes()[..], b"\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01"].concat()
}

/// Asks at this rate until told to stop, each question on its own; how many were asked, and how long each answer took.
fn ask(node: &Node, every: Duration, stop: &AtomicBool) -> (usize, Vec<Duration>) {
    ask_at(node, "127.0.0.11:53", every, stop)
}

/// The same of another server, which answers with what begins like the question. An answer is there when the kernel has it: how long
/// the client then waits for a processor is not its server's doing.
fn ask_at(node: &Node, server: &str, every: Duration, stop: &AtomicBool) -> (usize, Vec<Duration>) {
    node.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect(server).expect("a route");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        setsockopt(&socket, ReceiveTimestampns, &true).expect("a socket tells when something came");
        let (mut asked, mut took) = (0, Vec::new());
        let start = Instant::now();
        // A thread may begin when all is over, and is to be heard too.
        while asked < LEAST || !stop.load(Ordering::Relaxed) {
            let id = asked as u16;
            let sent = SystemTime::now();
            socket.send(&question(id)).expect("sent");
            asked += 1;
            while let Some((begins, came)) = received(&socket) {
                if begins == id.to_be_bytes() {
                    took.push(came.duration_since(sent).unwrap_or_default());
                    break;
                }
            }
            let due = start + every * asked as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        (asked, took)
    })
}

/// How the next datagram begins, and when the kernel had it; `None` where none comes for seconds.
fn received(socket: &UdpSocket) -> Option<([u8; 2], SystemTime)> {
    let (mut buffer, mut space) = ([0; 512], nix::cmsg_space!(nix::sys::time::TimeSpec));
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).ok()?;
    let told = message.cmsgs().expect("the space is enough").find_map(|told| match told {
        ControlMessageOwned::ScmTimestampns(came) => Some(UNIX_EPOCH + Duration::from(came)),
        _ => None,
    });
    Some(([buffer[0], buffer[1]], told.expect("the kernel tells when it came")))
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() / 2]
}

#[test]
fn rude_clients_and_a_thousand_questions_a_second_lose_nobody_an_answer() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let (web, app) = (town.container("web", "blue", &[]), town.container("app", "blue", &[]));
    let others: Vec<_> = (0..50).map(|n| town.host.container(&format!("c{n}"))).collect();
    let ms = Duration::from_millis;

    let alone = {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let quiet = scope.spawn(|| ask(&app, ms(5), &stop));
            thread::sleep(ms(2_000));
            stop.store(true, Ordering::Relaxed);
            quiet.join().expect("it ends")
        })
    };
    assert_eq!(alone.0, alone.1.len(), "none is lost in peace");

    // Connections of `web` that say half a question, and bytes that are none.
    let stalled: Vec<TcpStream> = web.enter(|| {
        let stall = |_| {
            let mut connection = TcpStream::connect("127.0.0.11:53").expect("a connection");
            connection.write_all(&[0, 200, 1, 2, 3]).expect("it is taken");
            connection
        };
        (0..70).map(stall).collect()
    });
    let (stop, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (quiet, busy) = thread::scope(|scope| {
        let quiet = scope.spawn(|| ask(&app, ms(5), &stop));
        let busy: Vec<_> = (0..4).map(|_| scope.spawn(|| ask(&web, ms(4), &stop))).collect();
        let rude = scope.spawn(|| {
            web.enter(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                for n in 0..u16::MAX {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let noise: Vec<u8> = (0..n % 90).map(|i| (i * 37 + n) as u8).collect();
                    let _ = socket.send_to(&noise, "127.0.0.11:53");
                    thread::sleep(ms(2));
                }
            });
        });
        for other in &others {
            let (name, netns) = (other.name(), other.netns());
            town.netd.run(["attach", name, "--netns", &netns, "--network", "blue"]).ok();
            changes.fetch_add(1, Ordering::Relaxed);
        }
        for other in &others {
            town.netd.run(["detach", other.name()]).ok();
            changes.fetch_add(1, Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
        rude.join().expect("it ends");
        let busy: Vec<_> = busy.into_iter().map(|busy| busy.join().expect("it ends")).collect();
        (quiet.join().expect("it ends"), busy)
    });
    drop(stalled);

    let (asked, answered) = busy.iter().fold((0, 0), |sum, (asked, took)| (sum.0 + asked, sum.1 + took.len()));
    println!(
        "{asked} questions by four busy clients, {answered} answered, while {} endpoints came and went",
        changes.into_inner() / 2
    );
    println!(
        "another client's median: {:?} in peace, {:?} then ({} asked)",
        median(alone.1),
        median(quiet.1.clone()),
        quiet.0
    );
    assert_eq!((answered, quiet.1.len()), (asked, quiet.0), "no answer is lost");
    assert_eq!(dig(&app, "+tcp web"), [town.address("web")]);
}

#[test]
fn who_asks_while_the_daemon_is_replaced_has_an_answer_when_they_ask_again() {
    let mut town = Town::new(Offloads::On);
    town.network("blue");
    let (web, app) = (town.container("web", "blue", &[]), town.container("app", "blue", &[]));
    let address = town.address("web");

    // A client that asks every two milliseconds and lets go of a question at once shows how long nobody answers.
    let stop = AtomicBool::new(false);
    let (asking, tcp, gap) = thread::scope(|scope| {
        let ends = Ends(&stop);
        let gap = scope.spawn(|| longest_silence(&app, &stop));
        thread::sleep(Duration::from_millis(200));
        town.netd.kill();
        // As the C libraries do: five seconds, and then again.
        let asking = app.spawn("dig +short +tries=2 +time=5 @127.0.0.11 web".split(' '));
        let tcp = web.spawn("dig +short +tcp +tries=3 +time=5 @127.0.0.11 web".split(' '));
        thread::sleep(Duration::from_millis(200));
        town.netd.start_without_waiting();
        let started = Instant::now();
        while !is_answered(&app) {
            assert!(started.elapsed() < Duration::from_secs(60), "nobody answers again");
        }
        println!("answers again {:?} after the start, which was 200 ms after the kill", started.elapsed());
        thread::sleep(Duration::from_millis(200));
        drop(ends);
        (asking, tcp, gap.join().expect("it ends"))
    });
    println!("the longest time without an answer: {gap:?}; a C library asks again after five seconds");

    for outcome in [asking.wait(), tcp.wait()] {
        assert_eq!(outcome.ok().lines().last(), Some(address.as_str()), "{outcome}");
    }
}

/// The longest time from one answer to the next.
fn longest_silence(node: &Node, stop: &AtomicBool) -> Duration {
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        if is_answered(node) {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        thread::sleep(Duration::from_millis(2));
    }
    longest.max(last.elapsed())
}

/// Whether a question is answered within a few milliseconds.
fn is_answered(node: &Node) -> bool {
    node.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(10))).expect("a timeout");
        let sent = socket.send_to(&question(7), "127.0.0.11:53");
        sent.is_ok() && socket.recv(&mut [0; 512]).is_ok()
    })
}

/// Tells those that go on until they are told, also after a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How many connections say half a question at a time, and how many questions a second are asked in four parts.
const STALLED: usize = 20;
const BUSY: u64 = 1_000;
const EVERY: Duration = Duration::from_micros(4 * 1_000_000 / BUSY);

/// What goes on beside a client whose waits are measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Beside {
    /// Nothing.
    Nothing,
    /// The same load as netd has, of which nothing reaches its resolver: what the load itself takes of the machine's processors.
    AnotherServer,
    /// Questions, stalled connections and noise for netd's resolver.
    Netd,
}

/// By turns, so that what the machine does meanwhile meets all, and with a control that puts the same load beside netd: the load's
/// own share of two processors is not the resolver's. Compared within each round, of which the median is told: what else this machine
/// does for a second is no round's fault.
#[test]
fn a_client_that_asks_beside_rude_ones_and_a_thousand_questions_a_second_waits_no_longer_for_it() {
    const ROUNDS: usize = 9;
    let town = Town::new(Offloads::On);
    town.network("blue");
    let (web, app) = (town.container("web", "blue", &[]), town.container("app", "blue", &[]));
    let others: Vec<_> = (0..50).map(|n| town.host.container(&format!("c{n}"))).collect();
    let (_echo, _tcp) = (web.echo_udp(5300), web.echo_tcp(5300));

    let mut rounds: Vec<BTreeMap<Beside, Vec<Duration>>> = Vec::new();
    let mut loads: BTreeMap<Beside, (usize, Duration)> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut kinds = [Beside::Nothing, Beside::AnotherServer, Beside::Netd];
        kinds.rotate_left(round % 3);
        let mut waits = BTreeMap::new();
        for beside in kinds {
            // As many come and go beside either load; beside nothing none do.
            let part = &others[round * others.len() / ROUNDS..(round + 1) * others.len() / ROUNDS];
            let began = Instant::now();
            let (mut took, load) = waits_beside(&town, (&web, &app), beside, part);
            took.sort();
            waits.insert(beside, took);
            let sum = loads.entry(beside).or_default();
            *sum = (sum.0 + load, sum.1 + began.elapsed());
        }
        rounds.push(waits);
    }

    for (beside, (asked, within)) in loads {
        println!("{beside:?}: {:.0} questions a second", asked as f64 / within.as_secs_f64());
    }
    let quantiles = |beside: Beside, of_100: usize| -> Vec<Duration> {
        rounds.iter().map(|waits| waits[&beside][waits[&beside].len() * of_100 / 100]).collect()
    };
    for of_100 in [50, 99] {
        let [alone, control, beside] =
            [Beside::Nothing, Beside::AnotherServer, Beside::Netd].map(|beside| quantiles(beside, of_100));
        let (of_control, of_alone) = (ratios(&beside, &control), ratios(&beside, &alone));
        println!(
            "p{of_100}: {:?} alone, {:?} beside the same load on another server, {:?} beside it on netd",
            median(alone),
            median(control),
            median(beside)
        );
        println!("  of the control, by round: {of_control:.2?}");
        println!("  of alone, by round: {of_alone:.2?}");
        let middle = of_control[ROUNDS / 2];
        assert!(of_100 != 50 || middle < 1.3, "others wait {middle:.2} times as long as beside another server");
    }
    // How long the slowest take is the machine's doing, and differs from round to round tenfold. How many are slow does not.
    let all = |beside: Beside| rounds.iter().flat_map(move |waits| waits[&beside].iter().copied());
    let mut control: Vec<_> = all(Beside::AnotherServer).collect();
    control.sort();
    let slow = control[control.len() * 99 / 100];
    let slower = all(Beside::Netd).filter(|wait| *wait > slow).count() as f64 / all(Beside::Netd).count() as f64;
    println!("{:.1} % wait longer than {slow:?}, as 1 % do beside another server", slower * 100.0);
    assert!(slower < 0.1, "{:.1} % wait longer than {slow:?}, as 1 % do beside another server", slower * 100.0);
}

/// How many times as long, round by round, in order of size.
fn ratios(these: &[Duration], those: &[Duration]) -> Vec<f64> {
    let mut ratios: Vec<_> = these.iter().zip(those).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

/// What a client of `app` waits for each answer beside something, for about a second, and how many questions that asked. Of neither
/// an answer is lost.
fn waits_beside(
    town: &Town,
    (web, app): (&Container, &Container),
    beside: Beside,
    come_and_go: &[Container],
) -> (Vec<Duration>, usize) {
    let server = if beside == Beside::Netd { "127.0.0.11:53" } else { "127.0.0.1:5300" };
    let stop = AtomicBool::new(false);
    let stalled: Vec<TcpStream> = web.enter(|| {
        let stall = |_| {
            let mut connection = TcpStream::connect(server).expect("a connection");
            connection.write_all(&[0, 200, 1, 2, 3]).expect("it is taken");
            connection
        };
        (0..if beside == Beside::Nothing { 0 } else { STALLED }).map(stall).collect()
    });
    let (waited, busy) = thread::scope(|scope| {
        let ends = Ends(&stop);
        let mut busy = Vec::new();
        let asking = scope.spawn(|| ask(app, Duration::from_millis(2), &stop));
        if beside == Beside::Nothing {
            thread::sleep(Duration::from_secs(1));
        } else {
            busy.extend((0..4).map(|_| scope.spawn(|| ask_at(web, server, EVERY, &stop))));
            scope.spawn(|| {
                let socket = web.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
                for n in (0..u16::MAX).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let noise: Vec<u8> = (0..n % 90).map(|i| (i * 37 + n) as u8).collect();
                    let _ = socket.send_to(&noise, server);
                    thread::sleep(Duration::from_millis(2));
                }
            });
            let began = Instant::now();
            for other in come_and_go {
                town.netd.run(["attach", other.name(), "--netns", &other.netns(), "--network", "blue"]).ok();
            }
            for other in come_and_go {
                town.netd.run(["detach", other.name()]).ok();
            }
            thread::sleep(Duration::from_secs(1).saturating_sub(began.elapsed()));
        }
        drop(ends);
        let busy: Vec<_> = busy.into_iter().map(|busy| busy.join().expect("it ends")).collect();
        (asking.join().expect("it ends"), busy)
    });
    drop(stalled);
    for (asked, took) in busy.iter().chain([&waited]) {
        assert_eq!(took.len(), *asked, "no answer is lost beside {beside:?}");
    }
    (waited.1, busy.iter().map(|(asked, _)| asked).sum())
}
