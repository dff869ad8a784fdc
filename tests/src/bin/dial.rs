//! Makes one socket and says what happens to it, for tests of what netd does to the sockets of a host's processes.
//!
//! ```text
//! dial tcp|udp TARGET [FROM]       connects, says a line, prints whom it is connected with and the answer
//! dial datagram TARGET [FROM]      sends without connecting, prints whom the answer is from and the answer
//! dial talk tcp|udp TARGET         connects, says a line every 20 ms and prints each answer until it fails, by UDP with its source
//! dial crowd TARGET NUMBER         connects so many UDP sockets, each of which it closes before the next
//! dial bind tcp|udp ADDRESS:PORT   binds
//! dial hold tcp|udp ADDRESS:PORT   binds, says so and stays, without listening
//! ```
//!
//! A failure is printed as the kernel's number for it, such as `error 98`. Answers are waited for a minute, or for as many seconds
//! as `DIAL_PATIENCE` in the environment says; a datagram that has none is sent again meanwhile.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

const LINE: &[u8; 6] = b"hello\n";
const AGAIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["tcp", target] => tcp(place(target), None),
        ["tcp", target, from] => tcp(place(target), Some(place(from))),
        ["udp", target] => udp(place(target), None),
        ["udp", target, from] => udp(place(target), Some(place(from))),
        ["datagram", target] => datagram(place(target), None),
        ["datagram", target, from] => datagram(place(target), Some(place(from))),
        ["talk", "tcp", target] => talk_tcp(place(target)),
        ["talk", "udp", target] => talk_udp(place(target)),
        ["crowd", target, number] => crowd(place(target), number.parse().expect("a number of sockets")),
        ["bind", "tcp", at] => TcpListener::bind(place(at)).map(|_| "bound".to_owned()),
        ["bind", "udp", at] => UdpSocket::bind(place(at)).map(|_| "bound".to_owned()),
        ["hold", kind, at] => hold(kind, place(at)),
        _ => {
            eprintln!("dial does not understand {words:?}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("error {}", error.raw_os_error().unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

fn place(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no ADDRESS:PORT"))
}

fn patience() -> Duration {
    let wish = std::env::var("DIAL_PATIENCE").map_or(60, |wish| wish.parse().expect("DIAL_PATIENCE is seconds"));
    Duration::from_secs(wish)
}

fn tcp(target: SocketAddr, from: Option<SocketAddr>) -> io::Result<String> {
    let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(from) = from {
        bind(made.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    connect(made.as_raw_fd(), &SockaddrStorage::from(target))?;
    let mut stream = TcpStream::from(made);
    stream.set_read_timeout(Some(patience()))?;
    let answer = says(&mut stream)?;
    Ok(format!("{} {answer}", stream.peer_addr()?))
}

/// Says a line; the answer.
fn says(stream: &mut TcpStream) -> io::Result<String> {
    let mut answer = *LINE;
    stream.write_all(LINE)?;
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).trim().to_owned())
}

fn bound(target: SocketAddr, from: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let any: SocketAddr =
        if target.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(from.unwrap_or(any))?;
    socket.set_read_timeout(Some(AGAIN.min(patience())))?;
    Ok(socket)
}

/// Sends until something comes; how long it is, and from whom.
fn asked(
    socket: &UdpSocket,
    answer: &mut [u8],
    send: impl Fn() -> io::Result<usize>,
) -> io::Result<(usize, SocketAddr)> {
    let began = Instant::now();
    loop {
        send()?;
        match socket.recv_from(answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && began.elapsed() < patience() => {}
            heard => return heard,
        }
    }
}

fn udp(target: SocketAddr, from: Option<SocketAddr>) -> io::Result<String> {
    let socket = bound(target, from)?;
    socket.connect(target)?;
    let mut answer = [0; 64];
    let (length, source) = asked(&socket, &mut answer, || socket.send(LINE))?;
    if source != socket.peer_addr()? {
        return Err(io::Error::other(format!("an answer from {source}")));
    }
    Ok(format!("{source} {}", String::from_utf8_lossy(&answer[..length]).trim()))
}

fn datagram(target: SocketAddr, from: Option<SocketAddr>) -> io::Result<String> {
    let socket = bound(target, from)?;
    let mut answer = [0; 64];
    let (length, source) = asked(&socket, &mut answer, || socket.send_to(LINE, target))?;
    Ok(format!("{source} {}", String::from_utf8_lossy(&answer[..length]).trim()))
}

fn talk_tcp(target: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(target)?;
    stream.set_read_timeout(Some(patience()))?;
    loop {
        println!("{}", says(&mut stream)?);
        thread::sleep(PAUSE);
    }
}

fn talk_udp(target: SocketAddr) -> io::Result<String> {
    let socket = bound(target, None)?;
    socket.connect(target)?;
    loop {
        let mut answer = [0; 64];
        let (length, source) = asked(&socket, &mut answer, || socket.send(LINE))?;
        println!("{source} {}", String::from_utf8_lossy(&answer[..length]).trim());
        thread::sleep(PAUSE);
    }
}

fn crowd(target: SocketAddr, number: usize) -> io::Result<String> {
    for _ in 0..number {
        bound(target, None)?.connect(target)?;
    }
    Ok(format!("{number} connected"))
}

fn hold(kind: &str, at: SocketAddr) -> io::Result<String> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = if kind == "tcp" { SockType::Stream } else { SockType::Datagram };
    let made = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    bind(made.as_raw_fd(), &SockaddrStorage::from(at))?;
    println!("bound");
    loop {
        thread::park();
    }
}
