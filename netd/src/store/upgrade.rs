//! Rows of earlier formats as rows of this one.

use serde_json::{Map, Value, json};

/// A network's row. Format 1 knew one IPv4 subnet, whose fields were the network's.
pub fn network(format: u64, row: Value) -> Value {
    let mut network = match row {
        Value::Object(network) if format < 2 => network,
        current => return current,
    };
    let moved = ["subnet", "gateway", "ip_range", "aux_addresses", "last_given"];
    let subnet: Map<_, _> = moved.iter().filter_map(|field| network.remove_entry(*field)).collect();
    network.insert("subnets".to_owned(), json!([subnet]));
    network.into()
}

/// An endpoint's row. Format 1 published by IPv4 alone, and said nothing where every address was meant.
pub fn endpoint(format: u64, mut row: Value) -> Value {
    let publications = row.get_mut("publications").and_then(Value::as_array_mut);
    for publication in publications.into_iter().flatten().filter(|_| format < 2) {
        if publication["host_ip"].is_null() {
            publication["host_ip"] = json!("0.0.0.0");
        }
        publication["direct"] = json!(false);
    }
    row
}
