//! What listeners are told of what happens, and what cannot be listened for.

use jiff::Timestamp;

use super::*;

fn created(network: &str) -> Happening {
    Happening::Network { action: NetworkAction::Create, network: network.to_owned() }
}

fn wish(pairs: &[(&str, &str)]) -> EventWish {
    EventWish::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))).unwrap()
}

/// What a listener is told before it would have to wait.
async fn told(listener: &mut Listener) -> Vec<Happening> {
    let mut told = Vec::new();
    while let Ok(Some(event)) = timeout(std::time::Duration::ZERO, listener.next()).await {
        told.push(event.what.clone());
    }
    told
}

#[tokio::test]
async fn a_listener_is_told_what_comes_and_what_was_if_it_asks() {
    let events = Events::default();
    events.tell(created("before"));

    let (mut new, mut all) = (events.listen(wish(&[])), events.listen(wish(&[("since", "1h")])));
    events.tell(created("after"));

    assert_eq!(told(&mut new).await, [created("after")]);
    assert_eq!(told(&mut all).await, [created("before"), created("after")]);
}

#[tokio::test]
async fn a_past_end_ends_at_once_after_what_was_before_it() {
    let events = Events::default();
    events.tell(created("before"));
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;

    let mut listener = events.listen(wish(&[("until", "0s")]));
    events.tell(created("after"));

    assert_eq!(listener.next().await.map(|event| event.what.clone()), Some(created("before")));
    assert_eq!(listener.next().await, None);
}

#[tokio::test]
async fn filters_of_one_key_are_alternatives_and_those_of_several_hold_together() {
    let events = Events::default();
    let attached = Happening::Endpoint { action: EndpointAction::Attach, endpoint: "web".to_owned(), network: None };
    let all = [created("blue"), created("red"), attached.clone()];
    let cases = [
        (vec![("type", "network")], &all[..2]),
        (vec![("network", "blue"), ("network", "red")], &all[..2]),
        (vec![("type", "network"), ("network", "red")], &all[1..2]),
        (vec![("endpoint", "web"), ("action", "attach")], &all[2..]),
    ];
    for (pairs, expected) in cases {
        let mut listener = events.listen(wish(&pairs));
        all.iter().cloned().for_each(|what| events.tell(what));
        assert_eq!(told(&mut listener).await, expected, "{pairs:?}");
    }
}

#[test]
fn what_no_event_can_be_is_nothing_to_listen_for() {
    let refusal = |key: &str, value: &str| {
        EventWish::new([(key.to_owned(), value.to_owned())]).expect_err("it is refused").to_string()
    };
    assert_eq!(refusal("type", "nework"), format!("`nework` is not {}", EventWish::A_TYPE));
    assert_eq!(refusal("action", "atach"), "`atach` is not an action of an event, like attach");
    refusal("colour", "red");
    refusal("since", "yesterday");
    for kind in EventWish::TYPES {
        assert!(EventWish::A_TYPE.contains(kind), "{kind}");
    }
    // An event of each type, with an action of its own.
    let mut types = Vec::new();
    for what in [
        Happening::Daemon { action: DaemonAction::Stop },
        created("blue"),
        Happening::Endpoint { action: EndpointAction::Disconnect, endpoint: String::new(), network: None },
        Happening::Port { action: PortAction::Unpublish, endpoint: String::new(), ports: Vec::new() },
        Happening::Node { action: NodeAction::Leave, node: String::new() },
        Happening::Repair { action: RepairAction::Fail, message: String::new() },
        Happening::Warning { action: WarningAction::Clear, message: String::new() },
        Happening::Lost { count: 1 },
    ] {
        let fields = serde_json::to_value(what).unwrap();
        wish(&fields["action"].as_str().map(|action| ("action", action)).into_iter().collect::<Vec<_>>());
        types.push(fields["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(types, EventWish::TYPES);
}

#[tokio::test]
async fn a_slow_listener_is_told_how_much_it_lost() {
    let events = Events::default();
    let mut listener = events.listen(wish(&[("type", "network")]));
    (0..KEPT + 3).for_each(|i| events.tell(created(&i.to_string())));

    let told = told(&mut listener).await;

    assert_eq!(told[0], Happening::Lost { count: 3 });
    assert_eq!((told[1].clone(), told.len()), (created("3"), KEPT + 1));
}

#[test]
fn of_events_that_follow_on_each_other_each_has_a_time_of_its_own_and_a_clock_that_is_put_back_is_believed() {
    let mut ring = Ring::default();
    let at = |seconds: i64, micros: i64| Moment::from(Timestamp::new(seconds, (micros * 1_000) as i32).unwrap());

    for now in [at(9, 0), at(9, 0), at(9, 1), at(9, 7), at(3, 0)] {
        ring.push(now, created("blue"));
    }

    let times: Vec<Moment> = ring.kept.iter().map(|event| event.time).collect();
    assert_eq!(times, [at(9, 0), at(9, 1), at(9, 2), at(9, 7), at(3, 0)]);
}

#[test]
fn an_event_is_flat_on_the_wire() {
    let event = Event { time: Moment::default(), what: created("blue") };
    let text = serde_json::to_string(&event).unwrap();
    let expected = r#"{"time":"1970-01-01T00:00:00.000000Z","type":"network","action":"create","network":"blue"}"#;
    assert_eq!(text, expected);
    assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
}
