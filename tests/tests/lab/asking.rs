//! Many questions, rude clients, and a daemon that goes away: no answer is lost.

use std::{
    io::Write,
    net::{TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use netd_tests::lab::{Node, Offloads};

use crate::{names::dig, town::Town};

/// The question for the address of `web`, of this id.
fn question(id: u16) -> Vec<u8> {
    [&id.to_be_bytes()[..], b"\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01"].concat()
}

/// Asks at this rate until told to stop, each question on its own; how many were asked, and how long each answer took.
fn ask(node: &Node, every: Duration, stop: &AtomicBool) -> (usize, Vec<Duration>) {
    node.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect("127.0.0.11:53").expect("a route");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let (mut asked, mut took) = (0, Vec::new());
        let start = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let id = asked as u16;
            let sent = Instant::now();
            socket.send(&question(id)).expect("sent");
            asked += 1;
            let mut buffer = [0; 512];
            while let Ok(length) = socket.recv(&mut buffer) {
                if length > 12 && buffer[..2] == id.to_be_bytes() {
                    took.push(sent.elapsed());
                    break;
                }
            }
            let due = start + every * asked as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        (asked, took)
    })
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

    town.netd.kill();
    let killed = Instant::now();
    // As the C libraries do: five seconds, and then again.
    let asking = app.spawn("dig +short +tries=2 +time=5 @127.0.0.11 web".split(' '));
    let tcp = web.spawn("dig +short +tcp +tries=3 +time=5 @127.0.0.11 web".split(' '));
    thread::sleep(Duration::from_millis(200));
    town.netd.start_without_waiting();
    let started = Instant::now();
    while !is_answered(&app) {
        assert!(started.elapsed() < Duration::from_secs(30), "nobody answers again");
    }
    println!("answers again {:?} after the start, {:?} after the kill", started.elapsed(), killed.elapsed());

    for outcome in [asking.wait(), tcp.wait()] {
        assert_eq!(outcome.ok().lines().last(), Some(address.as_str()), "{outcome}");
    }
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

#[test]
fn stalled_connections_and_malformed_messages_do_not_slow_others_down() {
    const ROUNDS: usize = 6;
    let town = Town::new(Offloads::On);
    town.network("blue");
    let (web, app) = (town.container("web", "blue", &[]), town.container("app", "blue", &[]));

    let (mut in_peace, mut beside) = (Vec::new(), Vec::new());
    // By turns, so that what the machine does meanwhile meets both.
    for round in 0..ROUNDS * 2 {
        let rude = round % 2 == 1;
        let stalled: Vec<TcpStream> = web.enter(|| {
            let stall = |_| {
                let mut connection = TcpStream::connect("127.0.0.11:53").expect("a connection");
                connection.write_all(&[0, 200, 1, 2, 3]).expect("it is taken");
                connection
            };
            (0..if rude { 20 } else { 0 }).map(stall).collect()
        });
        let stop = AtomicBool::new(false);
        let (asked, took) = thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&app, Duration::from_millis(2), &stop));
            let socket = web.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
            for n in 0..500_u16 {
                let noise: Vec<u8> = (0..n % 90).map(|i| (i * 37 + n) as u8).collect();
                if rude && n % 2 == 0 {
                    let _ = socket.send_to(&noise, "127.0.0.11:53");
                }
                thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, Ordering::Relaxed);
            asking.join().expect("it ends")
        });
        drop(stalled);
        assert_eq!(took.len(), asked, "no answer is lost");
        if rude { beside.extend(took) } else { in_peace.extend(took) }
    }

    let ratio = median(beside.clone()).as_secs_f64() / median(in_peace.clone()).as_secs_f64();
    println!(
        "median of {}: {:?} in peace, {:?} beside rude clients: {ratio:.3}",
        in_peace.len(),
        median(in_peace),
        median(beside)
    );
    assert!(ratio < 2.0, "others wait {ratio:.2} times as long");
}
