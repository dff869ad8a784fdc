//! Members of etcd, each a host of the street.

use std::time::Duration;

use netd_tests::lab::{Host, Lab, Running};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cluster::{Cluster, on_street};

/// A member of etcd.
pub struct Member {
    pub host: Host,
    /// Where it answers.
    pub url: String,
    words: Vec<String>,
    process: Option<Running>,
}

impl Member {
    pub fn all(lab: &Lab, street: &Host, count: usize) -> Vec<Self> {
        Self::from(lab, street, 101, count)
    }

    /// One more, of a cluster of its own.
    pub fn alone(cluster: &Cluster, number: usize) -> Self {
        Self::from(&cluster.lab, &cluster.street, number, 1).remove(0)
    }

    /// As [`Member::alone`], one that asks for certificates of who signed its own, which are in this directory of its host.
    pub fn secured(cluster: &Cluster, number: usize, files: &str) -> Self {
        let mut member = Self::alone(cluster, number);
        let secure =
            |word: &String| if word.ends_with(":2379") { word.replace("http://", "https://") } else { word.clone() };
        member.words = member.words.iter().map(secure).collect();
        member.url = member.url.replace("http://", "https://");
        let [ca, cert, key] = ["ca.pem", "own.pem", "own.key"].map(|file| format!("{files}/{file}"));
        let given = ["--client-cert-auth", "--trusted-ca-file", &ca, "--cert-file", &cert, "--key-file", &key];
        member.words.extend(given.map(str::to_owned));
        member
    }

    fn from(lab: &Lab, street: &Host, first: usize, count: usize) -> Vec<Self> {
        let address = |n: usize| format!("192.0.2.{}", first + n);
        let all = (0..count).map(|n| format!("m{n}=http://{}:2380", address(n))).collect::<Vec<_>>().join(",");
        let member = |n: usize| {
            let host = lab.host(&format!("etcd{}", first + n));
            on_street(lab, street, &host, first + n);
            let (client, peer) = (format!("http://{}:2379", address(n)), format!("http://{}:2380", address(n)));
            // Soon to notice that a leader is gone.
            let words = format!(
                "etcd --name m{n} --data-dir /run/etcd --log-level error --heartbeat-interval 100 --election-timeout 1000 \
                 --listen-client-urls {client} --advertise-client-urls {client} --listen-peer-urls {peer} \
                 --initial-advertise-peer-urls {peer} --initial-cluster {all}"
            );
            Self { host, url: client, words: words.split_whitespace().map(str::to_owned).collect(), process: None }
        };
        (0..count).map(member).collect()
    }

    /// Starts it, with what it had.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.host.name());
        self.process = Some(self.host.spawn(&self.words));
    }

    /// Ends it, with what it has.
    pub fn stop(&mut self) {
        let process = self.process.take().expect("it runs");
        process.signal(Signal::SIGKILL);
        process.wait();
    }

    /// Puts aside what it has, or back what was put aside.
    pub fn copies(&self, from: &str, to: &str) {
        assert!(self.process.is_none(), "{} runs", self.host.name());
        self.host.run(["rm", "-rf", to]).ok();
        self.host.run(["cp", "-a", from, to]).ok();
    }

    /// Has it do nothing, and say nothing; or go on.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    /// How long it has waited for a processor since its start.
    pub fn waited(&self) -> Duration {
        self.process.as_ref().map_or(Duration::ZERO, Running::waited)
    }

    /// Writes a record, as a node would.
    pub fn put(&self, key: &str, value: &str) {
        let [key, value] = [key, value].map(|text| {
            let encode = "printf %s \"$1\" | base64 --wrap 0";
            self.host.run(["sh", "-c", encode, "-", text]).ok()
        });
        let body = serde_json::json!({ "key": key, "value": value }).to_string();
        self.host.run(["curl", "--silent", "--fail", "-d", &body, &format!("{}/v3/kv/put", self.url)]).ok();
    }

    /// Whether it leads the others.
    pub fn leads(&self) -> bool {
        let body = self.host.run([
            "curl",
            "--silent",
            "--max-time",
            "5",
            "-d",
            "{}",
            &format!("{}/v3/maintenance/status", self.url),
        ]);
        let status: Value = serde_json::from_str(&body.stdout).unwrap_or_default();
        status["leader"].is_string() && status["leader"] == status["header"]["member_id"]
    }
}
