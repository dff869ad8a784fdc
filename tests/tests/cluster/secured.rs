//! An etcd that asks for certificates and for a password.

use std::{fs, net::IpAddr, path::Path};

use netd_tests::lab::{Host, traffic::IMPATIENCE};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, PATIENCE, comes_to_be_verified, done, options, vtep, wait_until},
    member::Member,
};

/// Where certificates are on every host that has some.
const FILES: &str = "/etc/netd";

/// Writes the authority's certificate, and one of its own with its key, to each of these hosts.
fn certify(hosts: &[(&Host, IpAddr)]) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, key).expect("it signs itself");
    for (host, address) in hosts {
        let mut params = CertificateParams::new(vec![address.to_string()]).expect("an address");
        // etcd takes the common name of a certificate for a user.
        params.distinguished_name = DistinguishedName::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &authority).expect("it is signed");
        let write = |name: &str, text: &str| {
            fs::write(host.path(Path::new(FILES).join(name)), text).expect("the host's /etc/netd is the Lab's");
        };
        write("ca.pem", &authority.pem());
        write("own.pem", &certificate.pem());
        write("own.key", &key.serialize_pem());
    }
}

/// Asks etcd as `etcdctl` does.
fn ask(etcd: &Member, path: &str, question: &Value) {
    let files = ["--cacert", "ca.pem", "--cert", "own.pem", "--key", "own.key"];
    let files =
        files.iter().map(|word| if word.starts_with("--") { (*word).to_owned() } else { format!("{FILES}/{word}") });
    let rest = ["-d".to_owned(), question.to_string(), format!("{}{path}", etcd.url)];
    let words = ["curl", "--silent", "--fail-with-body", "--max-time", "10"].map(str::to_owned);
    wait_until(&format!("etcd does {path}"), || {
        etcd.host.run(words.iter().cloned().chain(files.clone()).chain(rest.clone())).succeeded()
    });
}

#[test]
fn nodes_agree_by_an_etcd_that_asks_for_certificates_and_a_password() {
    // The cluster has an etcd of its own, which asks for nothing; its hosts meet at this one instead.
    let cluster = Cluster::new(0, 1);
    let mut etcd = Member::secured(&cluster, 111, FILES);
    let hosts = ["a", "b"].map(|name| cluster.lab.host(name));
    for (host, number) in hosts.iter().zip(1..) {
        cluster.add_to_street(host, number);
    }
    certify(&[(&etcd.host, [192, 0, 2, 111].into()), (&hosts[0], vtep(0)), (&hosts[1], vtep(1))]);
    etcd.start();
    for (path, question) in [
        ("/v3/auth/user/add", json!({ "name": "root", "password": "of the operator" })),
        ("/v3/auth/role/add", json!({ "name": "root" })),
        ("/v3/auth/user/grant", json!({ "user": "root", "role": "root" })),
        ("/v3/auth/user/add", json!({ "name": "netd", "password": "open sesame" })),
        ("/v3/auth/role/add", json!({ "name": "netd" })),
        // All that begins with /netd/v1/, and nothing else.
        (
            "/v3/auth/role/grant",
            json!({ "name": "netd", "perm": { "permType": "READWRITE", "key": "L25ldGQvdjEv", "range_end": "L25ldGQvdjEw" } }),
        ),
        ("/v3/auth/user/grant", json!({ "user": "netd", "role": "netd" })),
        ("/v3/auth/enable", json!({})),
    ] {
        ask(&etcd, path, &question);
    }
    let start = |n: usize, password: &str| {
        fs::write(hosts[n].path(format!("{FILES}/password")), format!("{password}\n")).expect("it is the Lab's");
        let secrets = [
            "--etcd-ca",
            "ca.pem",
            "--etcd-cert",
            "own.pem",
            "--etcd-key",
            "own.key",
            "--etcd-password-file",
            "password",
        ];
        let secrets = secrets
            .iter()
            .map(|word| if word.starts_with("--") { (*word).to_owned() } else { format!("{FILES}/{word}") });
        let user = ["--etcd-user", "netd"].map(str::to_owned);
        let name = ["a", "b"][n];
        hosts[n].netd_with(options(name, vtep(n), &[etcd.url.clone()]).arguments(secrets).arguments(user))
    };
    let a = start(0, "open sesame");
    let mut b = start(1, "a guess");

    wait_until("b is told why not", || b.say("status").stdout.contains("user netd"));
    assert!(!b.say("status").stdout.contains("a guess"));
    drop(b.terminate());
    b = start(1, "open sesame");
    wait_until("a and b are nodes", || a.json("node ls").as_array().is_some_and(|nodes| nodes.len() == 2));
    done(&a, "network create -d overlay web");
    wait_until("it is everywhere", || b.say("network inspect web").succeeded());
    let attach = |netd: &netd_tests::lab::Netd, host: &Host, name: &str| {
        let container = host.container(name);
        done(netd, &format!("attach {name} --netns /run/netns/{name} --network web"));
        container
    };
    let (one, two) = (attach(&a, &hosts[0], "one"), attach(&b, &hosts[1], "two"));
    let shown = b.say("inspect two").json();
    let address = shown.pointer("/0/networks/0/ip").and_then(Value::as_str).expect("it has one").to_owned();
    let _server = two.echo_tcp(7);
    wait_until("one reaches two", || one.asks_tcp(&format!("{address}:7"), IMPATIENCE * 5).is_ok());
    assert_eq!(one.pings(&address, 1, PATIENCE), 1);
    comes_to_be_verified(&a);
}
