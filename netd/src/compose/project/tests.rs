//! Projects read, compared with what is there, and what follows from it.

use serde_json::json;

use super::{
    super::changes::{Changes, changes, departures},
    *,
};
use crate::daemon::{EndpointView, NetworkView};

const SHOP: &str = "
name: shop
x-common: &common
  environment: {TIER: front, LEVEL: 3}
services:
  web:
    <<: *common
    image: nginx
    restart: always
    command: httpd -f -p 80 -h '/srv/my site'
    depends_on: [db]
    networks:
      front: {aliases: [www], ipv4_address: 10.99.0.7, gw_priority: 5}
      back:
    ports:
      - \"8080:80\"
      - 9000
      - {target: 53, published: 5353, protocol: udp, host_ip: 192.0.2.1, mode: host}
    labels: [tier=front, canary]
  db:
    command: [\"sleep\", \"1000\"]
    container_name: database
    networks: [back]
    working_dir: data
  probe:
    entrypoint: sleep
    command: '5'
    network_mode: service:web
  job:
    command: 'true'
networks:
  front:
    driver: bridge
    driver_opts: {com.docker.network.driver.mtu: 1400}
    ipam: {config: [{subnet: 10.99.0.0/24, gateway: 10.99.0.254, aux_addresses: {printer: 10.99.0.9}}]}
    labels: {who: me}
  back: {internal: true}
  unused: {}
";

fn file(text: &str) -> File {
    File::read(text, &|_| None).unwrap()
}

fn refusal(text: &str) -> String {
    match File::read(text, &|_| None).and_then(|file| Project::of(&file, "dir")) {
        Ok(project) => panic!("{project:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_file_is_networks_and_commands_in_the_order_of_their_dependencies() {
    let file = file(SHOP);
    let project = Project::of(&file, "ignored").unwrap();

    let names: Vec<_> = project.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["database", "shop-job-1", "shop-web-1", "shop-probe-1"]);
    let [db, job, web, probe] = project.services.as_slice() else { panic!("four services") };
    assert_eq!(web.command, ["httpd", "-f", "-p", "80", "-h", "/srv/my site"]);
    let expected = ["name=shop_back,alias=web", "name=shop_front,ip=10.99.0.7,gw-priority=5,alias=web,alias=www"];
    assert_eq!(web.networks, expected);
    assert_eq!(web.ports, ["8080:80", "9000", "192.0.2.1:5353:53/udp"]);
    assert_eq!(web.environment, [("LEVEL", "3"), ("TIER", "front")].map(|(k, v)| (k.into(), v.into())).into());
    assert_eq!((web.labels["tier"].as_str(), web.labels["canary"].as_str()), ("front", ""));
    assert_eq!((web.labels[PROJECT].as_str(), web.labels[SERVICE].as_str()), ("shop", "web"));
    assert_eq!(db.directory.as_deref(), Some("data"));
    assert_eq!((probe.command.join(" "), probe.networks.join(" ")), ("sleep 5".into(), "container:shop-web-1".into()));
    assert_eq!(job.networks, ["name=shop_default,alias=job"]);

    let names: Vec<_> = project.networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(names, ["shop_back", "shop_default", "shop_front"]);
    let front = &project.networks[2].order;
    assert_eq!((front.subnets.join(" "), front.gateways.join(" ")), ("10.99.0.0/24".into(), "10.99.0.254".into()));
    assert_eq!(front.aux_addresses["printer"], "10.99.0.9");
    assert_eq!(front.options["com.docker.network.driver.mtu"], "1400");
    assert_eq!((front.labels["who"].as_str(), front.labels[PROJECT].as_str()), ("me", "shop"));
    assert!(project.networks[0].order.internal);
    assert_eq!(file.warnings, ["services.web: passed over, as netd is about networks: image, restart"]);
}

#[test]
fn every_key_of_a_network_and_of_a_place_in_it_is_read() {
    let file = file(
        "
services:
  web:
    command: 'true'
    dns: [192.0.2.53, '2001:db8::53']
    networks:
      six: {}
      both: {ipv4_address: 10.99.0.130, ipv6_address: 'fd00:99::7', mac_address: '02:00:00:00:00:07', interface_name: lan0, priority: 9}
      lan: {priority: 5}
  db: {command: 'true', dns: 192.0.2.54, networks: [six], depends_on: {web: {condition: service_started}}}
networks:
  both: {enable_ipv6: true, ipam: {config: [{subnet: 10.99.0.0/24, ip_range: 10.99.0.128/25}, {subnet: 'fd00:99::/64'}]}}
  six: {enable_ipv4: false, ipam: {driver: default, config: [{subnet: 'fd00:98::/64'}]}}
  lan: {external: true, name: office}
",
    );

    let project = Project::of(&file, "shop").unwrap();

    let [web, db] = project.services.as_slice() else { panic!("two services") };
    assert_eq!((&*web.dns, &*db.dns), (&["192.0.2.53".into(), "2001:db8::53".into()][..], &["192.0.2.54".into()][..]));
    let both = "name=shop_both,ip=10.99.0.130,ip6=fd00:99::7,mac=02:00:00:00:00:07,ifname=lan0,alias=web";
    assert_eq!(web.networks, [both, "name=office,alias=web", "name=shop_six,alias=web"], "by their priority");
    let [both, lan, six] = project.networks.as_slice() else { panic!("three networks") };
    assert_eq!(both.order.subnets, ["10.99.0.0/24", "fd00:99::/64"]);
    assert_eq!((both.order.ip_ranges.join(" "), both.order.ipv6), ("10.99.0.128/25".into(), true));
    assert_eq!((lan.name.as_str(), lan.external), ("office", true));
    assert_eq!((six.order.subnets.join(" "), six.order.ipv6), ("fd00:98::/64".into(), false));
}

#[test]
fn what_netd_does_not_do_is_refused_where_it_stands() {
    let web = |rest: &str| format!("services: {{web: {{command: 'true', {rest}}}}}");
    let cases = [
        ("services: {web: {image: nginx}}".to_owned(), "services.web: it has no `command`"),
        (web("links: [db]"), "services.web: netd does not know `links`"),
        (web("networks: [lost]"), "services.web.networks.lost: the file has no network lost"),
        (
            web("networks: {default: {driver_opts: {}}}"),
            "services.web.networks.default: netd does not know `driver_opts`",
        ),
        (web("networks: {default: {ipv4_address: x}}"), "ip=x is not an IPv4 address"),
        (web("ports: [80:x]"), "services.web: `80:x` does not say which port"),
        (web("ports: 80"), "services.web.ports: it is not a list"),
        (web("depends_on: [db]"), "services.web: there is no service db"),
        (web("depends_on: {web: {condition: service_healthy}}"), "condition service_healthy"),
        (web("network_mode: host, networks: [default]"), "both `network_mode` and `networks`"),
        (web("network_mode: swarm"), "there is no network_mode swarm"),
        (web("container_name: a/b"), "services.web: `a/b` is not a name"),
        (web("command: 'sh -c \"x'"), "mapping"),
        ("services: {web: {command: 'sh \"x'}}".to_owned(), "services.web.command: a quote is not closed"),
        (
            "services: {web: {command: a}, w: {command: b}}\nnetworks: {n: {scope: x}}".to_owned(),
            "networks.n: netd does not know `scope`",
        ),
        (
            "services: {w: {command: b}}\nnetworks: {n: {external: true, internal: true}}".to_owned(),
            "networks.n: it is external",
        ),
        ("services: {w: {command: b}}\nnetworks: {n: {ipam: {driver: dhcp}}}".to_owned(), "no address driver dhcp"),
        (
            "services: {a: {command: x, depends_on: [b]}, b: {command: x, depends_on: [a]}}".to_owned(),
            "circle: a → b → a",
        ),
        (
            "services: {w: {command: b}}\nnetworks: {n: {enable_ipv4: false}}".to_owned(),
            "enable_ipv4 is false: give an IPv6 subnet",
        ),
        ("services: {}".to_owned(), "services: there are none"),
        ("- 1".to_owned(), "the file: it is not a mapping"),
        ("services: [".to_owned(), "line 1"),
        ("include: [x]\nservices: {w: {command: b}}".to_owned(), "the file: netd does not know `include`"),
        ("name: My Shop\nservices: {w: {command: b}}".to_owned(), "name: a project's name"),
    ];
    for (text, line) in cases {
        let refusal = refusal(&text);
        assert!(refusal.contains(line) && !refusal.contains('\n'), "{text}: {refusal}");
    }
}

#[test]
fn a_project_without_a_name_has_its_directorys() {
    let file = file("services: {w: {command: x}}");
    for (directory, name) in [("My Shop_2", "myshop_2"), ("-_x", "x"), ("shop", "shop")] {
        assert_eq!(Project::of(&file, directory).unwrap().name, name);
    }
    assert!(Project::of(&file, "…").is_err());
}

/// What the daemon would tell after `up`.
fn made(project: &Project) -> (Vec<NetworkView>, Vec<EndpointView>) {
    let networks = project.networks.iter().map(|network| {
        serde_json::from_value(json!({
            "name": network.name, "id": "0", "driver": "bridge", "subnets": [], "internal": false, "icc": true, "masquerade": true, "mtu": 1500,
            "mtu_follows": true, "options": {}, "dns": [], "labels": network.order.labels, "created": "", "endpoints": [],
            "bridge": "", "zone": 1
        }))
    });
    let endpoints = project.services.iter().map(|service| {
        serde_json::from_value(json!({
            "name": service.name, "id": "0", "netns": "", "netns_made": true, "mode": "own", "state": "running",
            "pid": 1, "pid_started": 1, "command": [], "dns": [], "labels": service.labels, "networks": [], "ports": [],
            "created": ""
        }))
    });
    (networks.map(Result::unwrap).collect(), endpoints.map(Result::unwrap).collect())
}

fn names<'a>(services: &[&'a PlannedService]) -> Vec<&'a str> {
    services.iter().map(|service| service.service.as_str()).collect()
}

#[test]
fn a_project_that_is_there_changes_nothing_and_one_that_is_not_is_made() {
    let project = Project::of(&file(SHOP), "dir").unwrap();
    let nothing = changes(&project, &[], &[]).unwrap();
    assert_eq!((nothing.create.len(), names(&nothing.start)), (3, vec!["db", "job", "web", "probe"]));

    let (networks, endpoints) = made(&project);
    let done = changes(&project, &networks, &endpoints).unwrap();
    assert_eq!(done, Changes { keep: project.services.iter().collect(), ..Changes::default() });
}

#[test]
fn what_differs_or_has_ended_is_made_anew_with_what_shares_its_network() {
    let project = Project::of(&file(SHOP), "dir").unwrap();
    let (networks, endpoints) = made(&project);
    let changed = Project::of(&file(&SHOP.replace("8080:80", "8081:80")), "dir").unwrap();

    let web = changes(&changed, &networks, &endpoints).unwrap();
    assert_eq!((names(&web.start), names(&web.keep)), (vec!["web", "probe"], vec!["db", "job"]));
    let gone: Vec<_> = web.replace.iter().map(|endpoint| endpoint.name.as_str()).collect();
    assert_eq!(gone, ["shop-probe-1", "shop-web-1"]);

    let mut ended = endpoints.clone();
    ended[1].state = "exited".to_owned();
    assert_eq!(names(&changes(&project, &networks, &ended).unwrap().start), ["job"]);

    let smaller = Project::of(&file(&SHOP.replace("  job:\n    command: 'true'\n", "")), "dir").unwrap();
    assert_eq!(changes(&smaller, &networks, &endpoints).unwrap().orphans, ["shop-job-1"]);
}

#[test]
fn what_goes_goes_before_what_it_depends_on_and_whose_network_it_shares() {
    let project = Project::of(&file(SHOP), "dir").unwrap();
    let (_, mut endpoints) = made(&project);
    let mut orphan = endpoints[1].clone();
    (orphan.name, orphan.mode) = ("shop-old-1".to_owned(), "container:shop-job-1".to_owned());
    endpoints[3].mode = "container:shop-web-1".to_owned();
    let mut foreign = endpoints[1].clone();
    foreign.labels.clear();
    endpoints.extend([orphan, foreign]);

    let leaving: Vec<_> = departures(&project, &endpoints).iter().map(|endpoint| endpoint.name.as_str()).collect();

    assert_eq!(leaving, ["shop-probe-1", "shop-old-1", "shop-web-1", "shop-job-1", "database"]);
}

#[test]
fn what_is_not_the_projects_is_never_touched() {
    let project = Project::of(&file(SHOP), "dir").unwrap();
    let (networks, endpoints) = made(&project);
    let line = |networks: &[NetworkView], endpoints: &[EndpointView]| {
        changes(&project, networks, endpoints).unwrap_err().to_string()
    };

    let mut foreign = networks.clone();
    foreign[0].labels.clear();
    assert_eq!(line(&foreign, &[]), "network shop_back exists already and is not of project shop");
    let mut foreign = endpoints.clone();
    foreign[0].labels.insert(PROJECT.to_owned(), "other".to_owned());
    assert_eq!(line(&networks, &foreign), "endpoint database exists already and is not of project shop");
    let mut changed = networks.clone();
    changed[2].labels.insert(CONFIG.to_owned(), "0".to_owned());
    assert!(line(&changed, &endpoints).contains("network shop_front is not as the file says"));

    let external = "services: {w: {command: x, networks: [lan]}}\nnetworks: {lan: {external: true}}";
    let external = Project::of(&file(external), "dir").unwrap();
    let missing = changes(&external, &[], &[]).unwrap_err().to_string();
    assert!(missing.contains("there is no network lan"), "{missing}");
    let lan = NetworkView { name: "lan".to_owned(), labels: BTreeMap::new(), ..networks[0].clone() };
    assert_eq!(names(&changes(&external, &[lan], &[]).unwrap().start), ["w"]);
}
