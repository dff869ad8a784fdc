//! Peers whose own programs furnish the host: the CNI plugins and netavark, as Debian packages them.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context, Result};
use netd_tests::lab::{Container, Host};
use serde_json::{Value, json};

use super::{
    load::PORT,
    site::{APP, Furnished, GATEWAY, PUBLISHED, SUBNET, WEB},
};

/// Where Debian puts the plugins.
const PLUGINS: &str = "/usr/lib/cni";
/// Where Debian puts netavark.
const NETAVARK: &str = "/usr/lib/podman/netavark";

/// `bridge` with `host-local`, then `portmap`: what containerd runs with its usual configuration.
pub fn cni(host: &Host) -> Result<Furnished> {
    let bridge = json!({
        "cniVersion": "0.4.0", "name": "bench", "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
        "ipam": {
            "type": "host-local", "dataDir": "/run/cni", "routes": [{ "dst": "0.0.0.0/0" }],
            "ranges": [[{ "subnet": SUBNET, "gateway": GATEWAY, "rangeStart": WEB }]],
        },
    });
    // Its host-local gives addresses in order: web comes first.
    let web = host.container("web");
    let added = add(host, &web, "bridge", &bridge)?;
    let portmap = json!({
        "cniVersion": "0.4.0", "name": "bench", "type": "portmap", "capabilities": { "portMappings": true },
        "snat": true, "prevResult": added,
        "runtimeConfig": { "portMappings": mappings("hostPort", "containerPort") },
    });
    add(host, &web, "portmap", &portmap)?;
    let app = host.container("app");
    add(host, &app, "bridge", &bridge)?;
    Ok(Furnished::by_hand(web, app))
}

fn add(host: &Host, container: &Container, plugin: &str, configuration: &Value) -> Result<Value> {
    let file = format!("/run/{}-{plugin}.json", container.name());
    fs::write(host.path(&file), configuration.to_string()).context("cannot write a plugin's configuration")?;
    let variables = [
        ("CNI_COMMAND", "ADD".to_owned()),
        ("CNI_CONTAINERID", container.name().to_owned()),
        ("CNI_NETNS", container.netns()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_PATH", PLUGINS.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let command = format!("exec {PLUGINS}/{plugin} < {file}");
    Ok(host.spawn_with(["sh", "-c", &command], &variables).wait().json())
}

/// `netavark setup`, as Podman runs it.
pub fn netavark(host: &Host) -> Result<Furnished> {
    let container = |name: &str, address: Ipv4Addr, ports: Value| -> Result<Container> {
        let container = host.container(name);
        let id = format!("{:0<64}", address.octets()[3]);
        let options = json!({
            "container_id": id, "container_name": name, "port_mappings": ports,
            "networks": { "bench": { "interface_name": "eth0", "static_ips": [address] } },
            "network_info": { "bench": {
                "name": "bench", "id": "b".repeat(64), "driver": "bridge", "network_interface": "podman1",
                "subnets": [{ "subnet": SUBNET, "gateway": GATEWAY }], "ipv6_enabled": false, "internal": false,
                "dns_enabled": false, "ipam_options": { "driver": "host-local" },
            } },
        });
        let file = format!("/run/{name}.json");
        fs::write(host.path(&file), options.to_string()).context("cannot write netavark's options")?;
        let command = format!(
            "mkdir -p /run/netavark && exec {NETAVARK} --config /run/netavark setup {} < {file}",
            container.netns()
        );
        host.run(["sh", "-c", &command]).json();
        Ok(container)
    };
    let mut ports = mappings("host_port", "container_port");
    for port in ports.as_array_mut().into_iter().flatten() {
        (port["host_ip"], port["range"]) = (json!(""), json!(1));
    }
    Ok(Furnished::by_hand(container("web", WEB, ports)?, container("app", APP, Value::Null)?))
}

/// The published port in TCP and UDP, in a format's own words.
fn mappings(host_port: &str, container_port: &str) -> Value {
    let mapping = |protocol| json!({ host_port: PUBLISHED, container_port: PORT, "protocol": protocol });
    ["tcp", "udp"].map(mapping).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_told_in_a_formats_own_words() {
        let mappings = mappings("hostPort", "containerPort");

        assert_eq!(mappings[1], json!({ "hostPort": 8000, "containerPort": 5000, "protocol": "udp" }));
        assert_eq!(mappings.as_array().map(Vec::len), Some(2));
    }
}
