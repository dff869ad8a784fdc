//! Peers whose own programs furnish the host: the CNI plugins and netavark, as Debian packages them.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context, Result};
use netd_tests::lab::{Container, Host, Outcome};
use serde_json::{Value, json};

use super::{
    server::PORT,
    site::{APP, Furnished, GATEWAY, PUBLISHED, SUBNET, WEB},
};

/// Where Debian puts the plugins.
const PLUGINS: &str = "/usr/lib/cni";
/// Where Debian puts netavark.
const NETAVARK: &str = "/usr/lib/podman/netavark";

/// `bridge` with `host-local`, then `portmap`: what containerd runs with its usual configuration.
pub fn cni(host: &Host) -> Result<Furnished> {
    // Its host-local gives addresses in order: web comes first.
    let web = host.container("web");
    let added = join(host, &web)?;
    map_port(host, &web, added)?;
    let app = host.container("app");
    join(host, &app)?;
    Ok(Furnished::by_hand(web, app))
}

/// ADD of `bridge`: the container is on the network. What the plugin says of it.
pub fn join(host: &Host, container: &Container) -> Result<Value> {
    Ok(plugin(host, container, "bridge", "ADD", &bridge())?.json())
}

/// ADD of `portmap`: the container's port is published.
pub fn map_port(host: &Host, container: &Container, added: Value) -> Result<()> {
    plugin(host, container, "portmap", "ADD", &portmap(added))?.ok();
    Ok(())
}

/// DEL of both, the last first.
pub fn leave(host: &Host, container: &Container) -> Result<()> {
    plugin(host, container, "portmap", "DEL", &portmap(Value::Null))?.ok();
    plugin(host, container, "bridge", "DEL", &bridge())?.ok();
    Ok(())
}

fn bridge() -> Value {
    json!({
        "cniVersion": "0.4.0", "name": "bench", "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
        "ipam": {
            "type": "host-local", "dataDir": "/run/cni", "routes": [{ "dst": "0.0.0.0/0" }],
            "ranges": [[{ "subnet": SUBNET, "gateway": GATEWAY, "rangeStart": WEB }]],
        },
    })
}

fn portmap(added: Value) -> Value {
    let mut configuration = json!({
        "cniVersion": "0.4.0", "name": "bench", "type": "portmap", "capabilities": { "portMappings": true }, "snat": true,
        "runtimeConfig": { "portMappings": mappings("hostPort", "containerPort") },
    });
    if !added.is_null() {
        configuration["prevResult"] = added;
    }
    configuration
}

fn plugin(host: &Host, container: &Container, name: &str, verb: &str, configuration: &Value) -> Result<Outcome> {
    let file = format!("/run/{}-{name}.json", container.name());
    fs::write(host.path(&file), configuration.to_string()).context("cannot write a plugin's configuration")?;
    let variables = [
        ("CNI_COMMAND", verb.to_owned()),
        ("CNI_CONTAINERID", container.name().to_owned()),
        ("CNI_NETNS", container.netns()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_PATH", PLUGINS.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let command = format!("exec {PLUGINS}/{name} < {file}");
    Ok(host.spawn_with(["sh", "-c", &command], &variables).wait())
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
