//! Questions in bytes, as clients send them, and what is said to them.

use std::{collections::BTreeSet, net::Ipv6Addr, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use netd_common::tuple::Mac;
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    model::{Attachment, Endpoint, Model, Network, Subnet},
    reconcile::LinkName,
};

/// Inodes of namespaces: on `blue` and `red`, on `red`, on the internal `vault`, on `blue` with servers of its own.
const BOTH: u64 = 1;
const RED: u64 = 2;
const VAULT: u64 = 3;
const OWN_SERVERS: u64 = 4;

#[test]
fn a_name_is_known_by_itself_with_its_network_and_by_its_short_id_in_any_case() {
    for name in ["web.blue", "Web.Blue", "0000000000aa.blue"] {
        assert_eq!(addresses(&asked(name, RecordType::A, BOTH)), ["10.0.1.2"], "{name}");
    }
    for name in ["web", "WEB", "0000000000AA"] {
        let everywhere: BTreeSet<_> = addresses(&asked(name, RecordType::A, BOTH)).into_iter().collect();
        assert!(everywhere.iter().eq(["10.0.1.2", "10.0.2.2"]), "{name}: {everywhere:?}");
    }
}

#[test]
fn an_answer_repeats_the_question_and_the_id_and_is_short_lived() {
    let question = question("WeB", RecordType::A);

    let answer = answered(&question.to_vec().unwrap(), BOTH);

    assert_eq!((answer.metadata.id, &answer.queries), (question.metadata.id, &question.queries));
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(answer.answers[0].ttl, TTL);
    assert_eq!(answer.answers[0].name, question.queries[0].name);
}

#[test]
fn a_name_of_a_network_that_the_asker_is_not_on_is_no_containers_name_to_it() {
    for name in ["safe", "web.blue", "safe.vault", "0000000000ac", "a.b"] {
        assert!(matches!(asked_raw(name, RecordType::A, RED), Asked::Relay(_)), "{name}");
    }
    assert_eq!(addresses(&asked("web", RecordType::A, RED)), ["10.0.2.2"]);
    assert_eq!(addresses(&asked("db", RecordType::A, RED)), ["10.0.2.3"]);
    assert_eq!(addresses(&asked("db", RecordType::A, BOTH)), ["10.0.2.3"]);
}

#[test]
fn a_name_that_has_dots_is_found_with_its_network_and_without() {
    assert_eq!(addresses(&asked("a.b", RecordType::A, BOTH)), ["10.0.1.9"]);
    assert_eq!(addresses(&asked("a.b.blue", RecordType::A, BOTH)), ["10.0.1.9"]);
}

#[test]
fn a_missing_type_of_a_known_name_is_an_empty_answer_and_never_forwarded() {
    for record_type in [RecordType::MX, RecordType::TXT, RecordType::HTTPS] {
        let answer = asked("web", record_type, BOTH);

        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0), "{record_type}");
    }
}

#[test]
fn a_name_has_addresses_of_both_families_and_an_ipv6_address_has_its_name() {
    assert_eq!(addresses(&asked("db", RecordType::AAAA, RED)), ["fd00:2::3"]);
    assert_eq!(asked("db", RecordType::ANY, RED).answers.len(), 2);
    let reversed = format!("3{}.2.0.0.0.0.0.d.f.ip6.arpa.", ".0".repeat(23));
    let answer = asked(&reversed, RecordType::PTR, RED);
    assert_eq!(addresses(&answer), ["db.red."], "{answer:?}");
    let mut model = model();
    for endpoint in model.endpoints.values_mut().map(Arc::make_mut) {
        endpoint.attachments[0].ip6 = None;
    }
    let bytes = question("db", RecordType::AAAA).to_vec().unwrap();
    let Asked::Answer(answer) = respond(&bytes, &Directory::of(&model, there), RED, &mut StdRng::seed_from_u64(1))
    else {
        panic!("it is known")
    };
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
}

#[test]
fn an_address_of_the_askers_networks_has_a_name_or_none_and_others_are_asked_about_the_rest() {
    let name_of = |address, asker| asked_raw(address, RecordType::PTR, asker);
    let Asked::Answer(answer) = name_of("2.1.0.10.in-addr.arpa.", BOTH) else { panic!("it is known") };
    let RData::PTR(PTR(name)) = &answer.answers[0].data else { panic!("{answer:?}") };

    assert_eq!(name.to_ascii(), "web.blue.");
    let Asked::Answer(nobody) = name_of("77.1.0.10.in-addr.arpa.", BOTH) else { panic!("it is of the network") };
    assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
    assert!(matches!(name_of("2.1.0.10.in-addr.arpa.", RED), Asked::Relay(_)));
    assert!(matches!(name_of("8.8.8.8.in-addr.arpa.", BOTH), Asked::Relay(_)));
    assert!(matches!(name_of("1.0.10.in-addr.arpa.", BOTH), Asked::Relay(_)));
}

#[test]
fn all_who_share_a_name_are_told_in_an_order_that_changes() {
    let orders: BTreeSet<Vec<String>> = (0..64)
        .map(|seed| {
            let bytes = question("many", RecordType::A).to_vec().unwrap();
            let Asked::Answer(answer) = respond(&bytes, &shared_name(3), BOTH, &mut StdRng::seed_from_u64(seed)) else {
                panic!("it is known")
            };
            addresses(&answer)
        })
        .collect();

    assert_eq!(orders.len(), 6);
    assert!(orders.iter().all(|order| order.len() == 3));
}

#[test]
fn who_has_the_number_of_a_namespace_that_is_gone_asks_in_its_own_name_alone() {
    let mut model = model();
    let heir = endpoint("heir", "0000000000ae", BOTH, &[("vault", [10, 0, 3, 9])]);
    model.endpoints.insert(heir.name.clone(), Arc::new(heir));

    let directory = Directory::of(&model, |endpoint| endpoint.name.as_str() != "Web");

    assert_eq!(directory.addresses(BOTH, "db"), None);
    assert!(directory.addresses(BOTH, "safe").is_some());
    assert_eq!(directory.forwarding(BOTH), &Forwarding::Never);
    assert!(directory.addresses(RED, "web").is_some(), "its name stays");
}

#[test]
fn a_container_of_internal_networks_alone_is_told_that_there_is_no_other_name() {
    assert_eq!(asked("example.com", RecordType::A, VAULT).metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(addresses(&asked("safe", RecordType::A, VAULT)), ["10.0.3.2"]);
}

#[test]
fn others_questions_go_to_the_containers_servers_then_its_networks_then_the_hosts() {
    let forwarding = |asker| match asked_raw("example.com", RecordType::A, asker) {
        Asked::Relay(relay) => relay.forwarding,
        other => panic!("{other:?}"),
    };

    assert_eq!(forwarding(OWN_SERVERS), Forwarding::To(vec!["192.0.2.1".parse().unwrap()]));
    assert_eq!(forwarding(RED), Forwarding::To(vec!["192.0.2.2".parse().unwrap()]));
    assert_eq!(Directory::of(&Model::default(), there).forwarding(7), &Forwarding::Never);
    let mut model = model();
    model.networks.get_mut(&"red".parse().unwrap()).unwrap().dns.clear();
    assert_eq!(Directory::of(&model, there).forwarding(RED), &Forwarding::Host);
}

#[test]
fn what_is_no_question_is_refused_or_passed_over() {
    let whole = question("web", RecordType::A);
    let with = |change: fn(&mut Message)| {
        let mut message = whole.clone();
        change(&mut message);
        message.to_vec().unwrap()
    };
    let cases = [
        ("cut off", whole.to_vec().unwrap()[..20].to_vec(), Some(ResponseCode::FormErr)),
        ("a header and noise", [&whole.to_vec().unwrap()[..12], &[0xc0; 40]].concat(), Some(ResponseCode::FormErr)),
        ("no question", with(|m| m.queries.clear()), Some(ResponseCode::FormErr)),
        ("two questions", with(|m| m.queries.push(m.queries[0].clone())), Some(ResponseCode::FormErr)),
        ("an update", with(|m| m.metadata.op_code = OpCode::Update), Some(ResponseCode::NotImp)),
        ("a later EDNS", with(|m| m.edns = Some(Edns::new().set_version(1).clone())), Some(ResponseCode::BADVERS)),
        ("an answer", with(|m| m.metadata.message_type = MessageType::Response), None),
        ("less than a header", vec![0; 11], None),
        ("nothing", Vec::new(), None),
    ];
    for (what, bytes, expected) in cases {
        let code = match respond(&bytes, &Directory::of(&model(), there), BOTH, &mut StdRng::seed_from_u64(1)) {
            Asked::Answer(answer) => Some(answer.metadata.response_code),
            Asked::Nothing => None,
            Asked::Relay(_) => panic!("{what} is forwarded"),
        };
        assert_eq!(code, expected, "{what}");
    }
}

#[test]
fn a_datagram_holds_what_the_client_takes_and_says_when_that_is_not_all() {
    for (edns, limit) in [(None, 512), (Some(100), 512), (Some(1232), 1232), (Some(4096), 4096)] {
        let mut question = question("many", RecordType::A);
        question.edns = edns.map(|size| Edns::new().set_max_payload(size).clone());
        let directory = shared_name(200);
        let Asked::Answer(answer) =
            respond(&question.to_vec().unwrap(), &directory, BOTH, &mut StdRng::seed_from_u64(1))
        else {
            panic!("it is known")
        };

        let datagram = written(&answer, true).unwrap();
        let whole = written(&answer, false).unwrap();

        let read = Message::from_vec(&datagram).unwrap();
        let fits = datagram.len() <= limit;
        assert!(fits && (read.metadata.truncation || read.answers.len() == 200), "{edns:?}: {}", datagram.len());
        assert!(limit - datagram.len() < 16 || !read.metadata.truncation, "as many as fit: {}", datagram.len());
        assert_eq!(read.edns.is_some(), edns.is_some());
        let whole = Message::from_vec(&whole).unwrap();
        assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));
    }
}

#[test]
fn a_servers_answer_reaches_the_client_with_its_own_id_and_question() {
    let client = question("Example.COM", RecordType::A);
    let bytes = client.to_vec().unwrap();
    let Asked::Relay(relay) = respond(&bytes, &Directory::of(&model(), there), RED, &mut StdRng::seed_from_u64(1))
    else {
        panic!("it is others' to answer")
    };
    let mut answer = relay.question.message(4711, true);
    assert_eq!(answer.edns.as_ref().map(Edns::max_payload), Some(DATAGRAM));
    answer.metadata.message_type = MessageType::Response;
    answer.answers.push(Record::from_rdata(client.queries[0].name.clone(), 60, RData::A(A::new(192, 0, 2, 7))));
    assert!(relay.question.is_answered_by(&answer, 4711));
    assert!(!relay.question.is_answered_by(&answer, 4712));

    let told = relayed(&relay, &answer);

    assert_eq!((told.metadata.id, &told.queries, told.edns.is_some()), (client.metadata.id, &client.queries, false));
    assert_eq!((told.answers, told.metadata.authoritative), (answer.answers, false));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_panic(bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..100)) {
        let directory = Directory::of(&model(), there);
        if let Asked::Answer(answer) = respond(&bytes, &directory, BOTH, &mut StdRng::seed_from_u64(1)) {
            proptest::prop_assert!(written(&answer, true).is_some());
        }
    }
}

fn question(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(4242, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).unwrap();
    message.queries.push(Query::query(name, record_type));
    message
}

fn there(_: &Endpoint) -> bool {
    true
}

fn asked_raw(name: &str, record_type: RecordType, asker: u64) -> Asked {
    let bytes = question(name, record_type).to_vec().unwrap();
    respond(&bytes, &Directory::of(&model(), there), asker, &mut StdRng::seed_from_u64(1))
}

fn asked(name: &str, record_type: RecordType, asker: u64) -> Message {
    answered(&question(name, record_type).to_vec().unwrap(), asker)
}

fn answered(bytes: &[u8], asker: u64) -> Message {
    match respond(bytes, &Directory::of(&model(), there), asker, &mut StdRng::seed_from_u64(1)) {
        Asked::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn addresses(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

/// A model in which so many containers of `blue` share the alias `many`.
fn shared_name(count: u8) -> Directory {
    let mut model = model();
    for i in 0..count {
        let (id, name) = (format!("0000000001{i:02x}"), format!("c{i}"));
        let mut endpoint = endpoint(&name, &id, 100 + u64::from(i), &[("blue", [10, 0, 1, 20 + i])]);
        endpoint.attachments[0].aliases = vec!["many".parse().unwrap()];
        model.endpoints.insert(endpoint.name.clone(), Arc::new(endpoint));
    }
    Directory::of(&model, there)
}

fn model() -> Model {
    let mut model = Model::default();
    for (zone, name, internal, dns) in
        [(1, "blue", false, &[][..]), (2, "red", false, &["192.0.2.2"]), (3, "vault", true, &[])]
    {
        let mut network = network(name, zone);
        network.internal = internal;
        network.dns = dns.iter().map(|server| server.parse().unwrap()).collect();
        model.networks.insert(network.name.clone(), network);
    }
    let mut own = endpoint("a.b", "0000000000ad", OWN_SERVERS, &[("blue", [10, 0, 1, 9])]);
    own.dns = vec!["192.0.2.1".parse().unwrap()];
    let endpoints = [
        endpoint("Web", "0000000000aa", BOTH, &[("blue", [10, 0, 1, 2]), ("red", [10, 0, 2, 2])]),
        endpoint("db", "0000000000ab", RED, &[("red", [10, 0, 2, 3])]),
        endpoint("safe", "0000000000ac", VAULT, &[("vault", [10, 0, 3, 2])]),
        own,
    ];
    model.endpoints.extend(endpoints.map(|endpoint| (endpoint.name.clone(), Arc::new(endpoint))));
    model
}

fn network(name: &str, zone: u8) -> Network {
    let subnets = [format!("10.0.{zone}.0/24"), format!("fd00:{zone}::/64")].map(|text| {
        let subnet: IpNet = text.parse().unwrap();
        Subnet {
            subnet,
            gateway: subnet.hosts().next().unwrap(),
            ip_range: None,
            aux_addresses: Default::default(),
            last_given: None,
            freed: Default::default(),
            gateway_mode: None,
        }
    });
    Network {
        name: name.parse().unwrap(),
        id: format!("{zone:012x}"),
        zone: zone.into(),
        driver: Default::default(),
        subnets: subnets.into(),
        internal: false,
        no_icc: false,
        no_masquerade: false,
        mtu: 1500,
        mtu_follows: false,
        ifname_prefix: None,
        snat_ips: Default::default(),
        options: Default::default(),
        dns: Vec::new(),
        from: Vec::new(),
        labels: Default::default(),
        mac: Mac::default(),
        created: 0,
    }
}

fn endpoint(name: &str, id: &str, netns_inode: u64, places: &[(&str, [u8; 4])]) -> Endpoint {
    let attachment = |(i, (network, ip)): (usize, &(&str, [u8; 4]))| Attachment {
        id: format!("{netns_inode:07x}{i}"),
        network: network.parse().unwrap(),
        ip: Some((*ip).into()),
        ip6: Some(six(*ip)),
        mac: Mac::default(),
        ifname: LinkName::new(format!("eth{i}")).unwrap(),
        aliases: Vec::new(),
        gw_priority: 0,
        bridge: 0,
    };
    Endpoint {
        name: name.parse().unwrap(),
        id: id.to_owned(),
        netns: PathBuf::from("/x"),
        netns_inode,
        netns_made: false,
        mode: crate::model::Mode::Own,
        process: None,
        command: Vec::new(),
        attachments: places.iter().enumerate().map(attachment).collect(),
        dns: Vec::new(),
        labels: Default::default(),
        publications: Vec::new(),
        allows: Default::default(),
        created: 0,
    }
}

/// `fd00:ZONE::HOST` for `10.0.ZONE.HOST`.
fn six([_, _, zone, host]: [u8; 4]) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, zone.into(), 0, 0, 0, 0, 0, host.into())
}
