//! The resolver's sockets in a namespace; what it answers there is told by the Lab.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use netd_common::dns::{FIRST_SOCKET, RESOLVER};

use super::*;
use crate::testing::{on_a_host_of_its_own, sandbox};

#[test]
fn the_sockets_are_opened_once_closed_and_opened_again() {
    on_a_host_of_its_own(async |_| {
        let resolver = Resolver::start().unwrap();
        let sandbox = sandbox();

        resolver.open(&sandbox).unwrap();
        resolver.open(&sandbox).unwrap();

        assert_eq!(resolver.listening(), BTreeSet::from([sandbox.inode]));
        resolver.close(sandbox.inode);
        assert_eq!(resolver.listening(), BTreeSet::new());
        resolver.open(&sandbox).unwrap();
    });
}

#[test]
fn in_a_namespace_whose_loopback_device_is_down_the_answer_comes_from_where_it_was_asked() {
    on_a_host_of_its_own(async |_| {
        let resolver = Resolver::start().unwrap();
        let sandbox = sandbox();
        resolver.open(&sandbox).unwrap();

        let (from, answer) = Namespace::of(&sandbox).unwrap().inside(ask).unwrap();

        assert_eq!(from, resolvers_place());
        // No directory knows this namespace.
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    });
}

#[test]
fn a_namespace_whose_path_is_gone_is_left() {
    on_a_host_of_its_own(async |directory| {
        let resolver = Resolver::start().unwrap();
        let (path, there) = (directory.join("name"), sandbox());
        std::os::unix::fs::symlink(&there.path, &path).unwrap();
        let named = Sandbox { path: path.clone(), ..there };
        resolver.open(&named).unwrap();

        std::fs::remove_file(&path).unwrap();

        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !resolver.listening().is_empty() {
            assert!(std::time::Instant::now() < deadline, "its sockets stay open");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn who_asks_while_the_names_change_is_answered_before_they_have() {
    on_a_host_of_its_own(async |_| {
        let resolver = Resolver::start().unwrap();
        let sandbox = sandbox();
        resolver.open(&sandbox).unwrap();
        let mut answers = 0;

        resolver.mend(&mut |_| {
            Namespace::of(&sandbox).unwrap().inside(ask).unwrap();
            answers += 1;
        });

        assert_eq!(answers, 1);
    });
}

fn resolvers_place() -> SocketAddr {
    (Ipv4Addr::from(RESOLVER), FIRST_SOCKET).into()
}

/// Asks the socket itself, without the program before it.
fn ask() -> (SocketAddr, Message) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.queries.push(Query::query(Name::from_ascii("web.").unwrap(), RecordType::A));
    socket.send_to(&question.to_vec().unwrap(), resolvers_place()).unwrap();
    let mut buffer = [0; 512];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (from, Message::from_vec(&buffer[..length]).unwrap())
}
