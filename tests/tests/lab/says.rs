//! Where in netd's JSON a thing stands. The only place that knows the fields' names.

use jiff::Timestamp;
use netd_tests::lab::Netd;
use serde_json::Value;

/// The only network or endpoint of this name, from an `inspect`.
#[track_caller]
pub fn inspected(netd: &Netd, words: &str) -> Value {
    let listed = netd.say(words).json();
    let array = listed.as_array().unwrap_or_else(|| panic!("`{words}` prints an array, not {listed}"));
    let [one] = array.as_slice() else { panic!("`{words}` prints one thing, not {listed}") };
    one.clone()
}

/// What netd has told of one sort, as a filter of events says it: when, and in what words.
#[track_caller]
pub fn told(netd: &Netd, filter: &str) -> Vec<(Timestamp, String)> {
    let events = netd.say(&format!("events --format json --since 1h --until 0s -f {filter}")).ok();
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is an object"));
    let time = |event: &Value| text(event, "/time").parse().expect("times are as in RFC 3339");
    events.map(|event| (time(&event), text(&event, "/message"))).collect()
}

/// Address of an endpoint in its first network.
#[track_caller]
pub fn address_of(netd: &Netd, endpoint: &str) -> String {
    text(&inspected(netd, &format!("inspect {endpoint}")), "/networks/0/ip")
}

/// Gateway of a network.
#[track_caller]
pub fn gateway_of(netd: &Netd, network: &str) -> String {
    text(&inspected(netd, &format!("network inspect {network}")), "/subnets/0/gateway")
}

/// Subnet of a network.
#[track_caller]
pub fn subnet_of(netd: &Netd, network: &str) -> String {
    text(&inspected(netd, &format!("network inspect {network}")), "/subnets/0/subnet")
}

/// The values of `name` in a listing, in its order.
#[track_caller]
pub fn names(listing: &Value) -> Vec<String> {
    let array = listed(listing);
    array.iter().map(|one| text(one, "/name")).collect()
}

/// How the programs are attached: `tcx`, `clsact`.
#[track_caller]
pub fn attach_mode(netd: &Netd) -> String {
    text(&netd.json("status"), "/attach")
}

/// How a program is attached, and the names of the devices that have it.
#[track_caller]
pub fn attached(netd: &Netd, name: &str) -> (String, Vec<String>) {
    let found = program(netd, name);
    let devices = listed(&found["devices"]).iter().map(|device| device.as_str().expect("a name").to_owned());
    (text(&found, "/attach"), devices.collect())
}

#[track_caller]
fn program(netd: &Netd, name: &str) -> Value {
    let status = netd.json("status");
    let found = listed(&status["programs"]).iter().find(|one| one["name"] == name).cloned();
    found.unwrap_or_else(|| panic!("no program {name} in {status}"))
}

/// Ids of the programs that the daemon has loaded.
#[track_caller]
pub fn program_ids(netd: &Netd) -> Vec<u32> {
    let status = netd.json("status");
    let ids: Vec<u32> = listed(&status["programs"])
        .iter()
        .map(|program| number(program, "/id").try_into().expect("the kernel's ids are 32 bits wide"))
        .collect();
    assert!(!ids.is_empty(), "a daemon has programs: {status}");
    ids
}

/// A counter of a program, such as `("from_container", "to_peer")`.
#[track_caller]
pub fn counted(netd: &Netd, name: &str, counter: &str) -> u64 {
    number(&program(netd, name), &format!("/{counter}"))
}

/// Whether `flows` shows a flow whose first packet went from `source` (an address) to `target` (`ADDRESS:PORT`).
#[track_caller]
pub fn shows_flow(netd: &Netd, source: &str, target: &str) -> bool {
    let flows = netd.json("flows");
    listed(&flows).iter().any(|flow| {
        let (from, to) = (text(flow, "/original/src"), text(flow, "/original/dst"));
        from.starts_with(&format!("{source}:")) && to == target
    })
}

/// What memory the daemon has, in kB (`VmRSS` of proc(5)).
#[track_caller]
pub fn resident(netd: &Netd) -> u64 {
    let status = netd.host().run(["cat", &format!("/proc/{}/status", netd.id())]).ok();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells what is resident");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A string at a JSON pointer.
#[track_caller]
pub fn text(value: &Value, pointer: &str) -> String {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("no text at {pointer} of {value}")).to_owned()
}

/// A number at a JSON pointer.
#[track_caller]
pub fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number at {pointer} of {value}"))
}

#[track_caller]
fn listed(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("a listing is an array, not {value}"))
}
