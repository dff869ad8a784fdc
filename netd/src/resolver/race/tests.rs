//! Two or three servers, of which some are silent, fail, or cut off what they say.

use std::{
    future::pending,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, rdata::NS},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    sync::Notify,
};

use super::{
    super::{exchange, sockets},
    *,
};
use crate::{dns::Question, testing::on_a_host_of_its_own};

const FIRST: SocketAddr = at(2);
const SECOND: SocketAddr = at(3);
const THIRD: SocketAddr = at(4);

/// A server on the loopback device.
const fn at(number: u8) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, number)), 53)
}

#[test]
fn each_server_is_asked_within_a_second_whoever_before_it_is_dead_and_once_more_after_all_were() {
    // As many as the host's `resolv.conf` names at most (resolv.conf(5): MAXNS).
    for servers in [&[FIRST, SECOND][..], &[FIRST, SECOND, THIRD]] {
        let turns: Vec<_> = turns(servers).collect();

        let asked: Vec<_> = turns.iter().map(|(server, _)| *server).collect();
        assert_eq!(asked, [servers, servers].concat());
        let until_the_last: Duration = turns[..servers.len() - 1].iter().map(|(_, wait)| *wait).sum();
        assert!(until_the_last < Duration::from_secs(1), "{turns:?}");
        let until_the_first_again = until_the_last + turns[servers.len() - 1].1;
        assert!(until_the_first_again > Duration::from_secs(1), "a slow answer is waited for: {turns:?}");
    }
    assert_eq!(turns(&[]).count(), 0);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_passed_by_and_one_that_fails_at_once() {
    for first_fails in [false, true] {
        let asked = Arc::<Mutex<Vec<SocketAddr>>>::default();
        let noted = Arc::clone(&asked);

        let answer = race(&[FIRST, SECOND], |server| {
            noted.lock().unwrap().push(server);
            async move {
                match server {
                    SECOND => Ok("an answer"),
                    _ if first_fails => Err(io::Error::other("SERVFAIL")),
                    _ => pending().await,
                }
            }
        });

        assert_eq!(answer.await, Some("an answer"));
        assert!(asked.lock().unwrap().starts_with(&[FIRST, SECOND]), "{asked:?}");
    }
}

#[tokio::test]
async fn a_slow_servers_answer_counts_though_the_other_has_failed_meanwhile() {
    let failed = Arc::new(Notify::new());

    let answer = race(&[FIRST, SECOND], |server| {
        let failed = Arc::clone(&failed);
        async move {
            if server == FIRST {
                failed.notified().await;
                return Ok("late");
            }
            failed.notify_one();
            Err(io::Error::other("REFUSED"))
        }
    });

    assert_eq!(answer.await, Some("late"));
}

#[tokio::test]
async fn when_every_server_has_failed_twice_there_is_no_answer() {
    let asked = AtomicUsize::new(0);

    let answer = race(&[FIRST, SECOND], |_| {
        asked.fetch_add(1, Ordering::Relaxed);
        async { Err::<(), _>(io::Error::other("SERVFAIL")) }
    });

    assert_eq!(answer.await, None);
    assert_eq!(asked.load(Ordering::Relaxed), 4);
}

#[test]
fn where_one_server_fails_or_refuses_the_others_answer_is_told() {
    on_a_host_of_its_own(async |_| {
        sockets::raise_loopback().unwrap();
        let cases = [ResponseCode::ServFail, ResponseCode::Refused].into_iter().flat_map(|code| [(code, 0), (code, 1)]);
        for (case, (code, failing)) in (0..).zip(cases) {
            // Addresses that none has had: a port that was let go of may be held for a moment.
            let places = [at(10 + 2 * case), at(11 + 2 * case)];
            let says = |number| if number == failing { code } else { NO_ERROR };
            let _servers =
                [Upstream::serve(places[0], says(0), false).await, Upstream::serve(places[1], says(1), false).await];

            let (answer, _) = race(&places, asking).await.expect("one has an answer");

            assert_eq!(answer.metadata.response_code, NO_ERROR, "server {failing} says {code}");
            assert_eq!(answer.answers, [record()]);
        }
    });
}

#[test]
fn a_truncated_answer_is_asked_for_again_by_tcp() {
    on_a_host_of_its_own(async |_| {
        sockets::raise_loopback().unwrap();
        let server = Upstream::serve(FIRST, NO_ERROR, true).await;

        let (answer, _) = race(&[FIRST], asking).await.expect("it has an answer");

        assert_eq!((answer.metadata.truncation, &answer.answers[..]), (false, &[record()][..]), "the whole");
        assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    });
}

const NO_ERROR: ResponseCode = ResponseCode::NoError;

/// What the resolver does with a server.
fn asking(server: SocketAddr) -> impl Future<Output = io::Result<(Message, usize)>> + Send + 'static {
    exchange::ask(Arc::new(Question::for_the_root()), server, None)
}

/// What the servers know.
fn record() -> Record {
    Record::from_rdata(Name::root(), 60, RData::NS(NS(Name::from_ascii("a.root-servers.net.").unwrap())))
}

/// A server that says one thing to all as long as it is.
struct Upstream {
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// By TCP the whole, by UDP that or that there is more.
    async fn serve(place: SocketAddr, code: ResponseCode, truncates: bool) -> Self {
        let (udp, tcp) = (UdpSocket::bind(place).await.unwrap(), TcpListener::bind(place).await.unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                udp.send_to(&answer(&buffer[..length], code, truncates), client).await.unwrap();
            }
        });
        let counted = Arc::clone(&connections);
        tasks.spawn(async move {
            loop {
                let (mut connection, _) = tcp.accept().await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                let mut question = vec![0; connection.read_u16().await.unwrap().into()];
                connection.read_exact(&mut question).await.unwrap();
                let whole = answer(&question, code, false);
                connection.write_u16(whole.len() as u16).await.unwrap();
                connection.write_all(&whole).await.unwrap();
            }
        });
        Self { connections, _tasks: tasks }
    }
}

fn answer(question: &[u8], code: ResponseCode, truncates: bool) -> Vec<u8> {
    let mut message = Message::from_vec(question).unwrap();
    message.metadata.message_type = MessageType::Response;
    message.metadata.response_code = code;
    message.metadata.truncation = truncates;
    if code == NO_ERROR && !truncates {
        message.answers.push(record());
    }
    message.to_vec().unwrap()
}
