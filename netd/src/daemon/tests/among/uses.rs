//! Ranges of addresses that this host uses, and networks of all nodes that are in their way.

use super::*;
use crate::model::RenumberOrder;

#[tokio::test]
async fn what_this_host_uses_is_told_when_it_changes_and_not_again() {
    let mut among = Among::new().await;
    let told = |among: &Among| {
        let uses = among.said.borrow().uses.clone().expect("it has looked");
        uses.ranges.into_iter().map(|(net, used)| format!("{net}, {used}")).collect::<Vec<_>>()
    };
    assert_eq!(told(&among), ["192.0.2.0/24, which the host routes by eth0"]);
    among.bench.network("own").await;
    among.put(Key::Network(name("blue")), Record::Network(Box::new(network(&[]))));
    among.hears().await;
    let own = "10.176.0.0/24, the subnet of its own network own";
    assert_eq!(told(&among), [own, "192.0.2.0/24, which the host routes by eth0"], "and not those of all");

    among.said.borrow_and_update();
    among.bench.daemon.look_again().await;
    assert!(!among.said.has_changed().unwrap(), "nothing has changed");
    let route = Use::Route { device: "tun0".to_owned() };
    among.bench.daemon.kernel.facts.uses.insert(("10.8.0.0/16".parse().unwrap(), route));
    among.bench.daemon.look_again().await;
    // Perhaps it is too soon for that look.
    among.bench.daemon.follow_uses(false, Instant::now() + Duration::from_secs(10));

    let there = ["10.8.0.0/16, which the host routes by tun0", own, "192.0.2.0/24, which the host routes by eth0"];
    assert_eq!(told(&among), there);
}

#[tokio::test]
async fn a_network_that_was_turned_down_is_here_as_soon_as_what_was_in_its_way_goes() {
    let mut among = Among::new().await;
    let own =
        |name: &str| NetworkOrder { name: name.into(), subnets: vec!["10.0.0.0/24".into()], ..Default::default() };
    let gone = [
        Request::RemoveNetwork("own".to_owned()),
        Request::PruneNetworks(Vec::new()),
        Request::RenumberNetwork(
            "own".to_owned(),
            RenumberOrder { subnets: vec!["10.5.0.0/24".into()], recreate: false, force: false },
        ),
    ];
    for request in gone {
        among.bench.daemon.answer(Request::CreateNetwork(own("own"))).await.unwrap();
        among.put(Key::Network(name("blue")), Record::Network(Box::new(network(&[]))));
        among.hears().await;
        let is_told =
            |status: &StatusView| status.warnings.iter().any(|line| line.contains("network blue of all nodes"));
        assert!(is_told(&among.status().await));

        let what = format!("{request:?}");
        among.bench.daemon.answer(request).await.unwrap();

        let names: Vec<_> = among.bench.daemon.model.networks.keys().map(Name::to_string).collect();
        assert!(names.contains(&"blue".to_owned()), "after {what} no other word of etcd is needed: {names:?}");
        assert!(!is_told(&among.status().await));
        among.records.remove(&Key::Network(name("blue")));
        among.hears().await;
    }
}

#[tokio::test]
async fn a_subnet_that_is_chosen_keeps_away_from_networks_of_all_that_are_not_here() {
    let mut among = Among::new().await;
    let mut later = network(&["what-is-to-come"]);
    later.subnets[0].subnet = "10.176.0.0/24".parse().unwrap();
    among.put(Key::Network(name("later")), Record::Network(Box::new(later)));
    among.hears().await;
    let subnet = |among: &Among| among.bench.daemon.model.networks[&name("own")].subnets[0].subnet.to_string();

    among.bench.network("own").await;
    assert_eq!(subnet(&among), "10.176.1.0/24");
    let renumber = |order| Request::RenumberNetwork("own".to_owned(), order);
    among.bench.daemon.answer(renumber(RenumberOrder::default())).await.unwrap();
    assert_eq!(subnet(&among), "10.176.2.0/24");

    let given = RenumberOrder { subnets: vec!["10.176.0.0/25".into()], ..RenumberOrder::default() };
    among.bench.daemon.answer(renumber(given)).await.unwrap();
    assert_eq!(subnet(&among), "10.176.0.0/25", "a given one is the user's choice");
}
