//! `netd events`: what the daemon tells of as it happens.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{
    args::{EventsArgs, Format},
    out, query, wrong_usage,
};
use crate::{
    api::Client,
    daemon::{DaemonAction, Event, EventWish, Happening},
};

/// Prints events until there will be no more.
pub async fn done(client: &Client, args: EventsArgs) -> Result<ExitCode> {
    let key = |key: &str, value: Option<String>| value.map(|value| (key.to_owned(), value));
    let mut pairs = args.filters;
    pairs.extend(key("since", args.since).into_iter().chain(key("until", args.until)));
    if let Err(rejection) = EventWish::new(pairs.clone()) {
        return Ok(wrong_usage(&rejection.to_string()));
    }
    let begun = || {
        if args.format == Format::Table {
            out::line(columns("TIME", "TYPE", "ACTION", "WHAT"));
        }
    };
    let mut ended = false;
    let each = |event: Event| {
        ended = matches!(event.what, Happening::Daemon { action: DaemonAction::Stop });
        match args.format {
            Format::Table => out::line(row(&event)),
            Format::Json => out::line(serde_json::to_string(&event)?),
        }
        // Nobody waits for the end of what cannot be written.
        Ok(out::failure().is_none())
    };
    client.follow(&format!("/v1/events?{}", query(&pairs)), begun, each).await?;
    if ended {
        bail!("the daemon has ended");
    }
    Ok(ExitCode::SUCCESS)
}

fn columns(time: &str, kind: &str, action: &str, what: &str) -> String {
    format!("{time:<27}   {kind:<8}   {action:<10}   {what}")
}

fn row(event: &Event) -> String {
    let (kind, action, what) = words(&event.what);
    columns(&event.time.to_string(), kind, &action, &what)
}

/// Type, action, and what it is about.
fn words(what: &Happening) -> (&'static str, String, String) {
    match what {
        Happening::Daemon { action } => ("daemon", word(action), "netd".to_owned()),
        Happening::Network { action, network } => ("network", word(action), network.clone()),
        Happening::Endpoint { action, endpoint, network: None } => ("endpoint", word(action), endpoint.clone()),
        Happening::Endpoint { action, endpoint, network: Some(network) } => {
            ("endpoint", word(action), format!("{endpoint} ({network})"))
        }
        Happening::Port { action, endpoint, ports } => {
            ("port", word(action), format!("{endpoint} ({})", ports.join(" ")))
        }
        Happening::Node { action, node } => ("node", word(action), node.clone()),
        Happening::Repair { action, message } => ("repair", word(action), message.clone()),
        Happening::Warning { action, message } => ("warning", word(action), message.clone()),
        Happening::Lost { count } => ("lost", "-".to_owned(), format!("{count} events, this listener was too slow")),
    }
}

/// As on the wire.
fn word(action: &impl serde::Serialize) -> String {
    serde_json::to_value(action).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_row_under_its_titles() {
        let event: Event = serde_json::from_value(serde_json::json!({
            "time": "2026-11-21T09:02:03Z", "type": "port", "action": "publish", "endpoint": "web", "ports": ["80:80", "53:53/udp"]
        }))
        .unwrap();

        let titles = columns("TIME", "TYPE", "ACTION", "WHAT");

        let expected = "2026-11-21T09:02:03.000000Z   port       publish      web (80:80 53:53/udp)";
        assert_eq!(row(&event), expected);
        assert_eq!(titles.find("WHAT"), expected.find("web"));
    }
}
