//! A client that is a process of its own. The kernel's control groups hold processes, so what a process of the host meets when
//! it connects, a thread of the bench does not.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use netd_tests::lab::Node;
use serde_json::{Value, json};

use super::{
    datagrams::Given,
    figures::Measure,
    load::{self, Load, Sent},
};

/// Options of the hidden subcommand that such a process runs.
#[derive(clap::Args)]
pub struct Options {
    /// The load
    load: Load,
    /// The server
    to: SocketAddrV4,
    /// How long
    milliseconds: u64,
}

/// Puts a load on a server from this process, and prints what it can tell.
pub fn run(options: &Options) -> Result<()> {
    let sent = load::send(options.load, options.to, Duration::from_millis(options.milliseconds))?;
    let values: serde_json::Map<String, Value> =
        sent.values.iter().map(|(measure, value)| (measure.slug().to_owned(), json!(value))).collect();
    let Given { taken, refused, refusal } = sent.given;
    let given = json!({ "taken": taken, "refused": refused, "refusal": refusal });
    let Sent { seconds, count, beats, .. } = sent;
    println!("{}", json!({ "seconds": seconds, "count": count, "values": values, "given": given, "beats": beats }));
    Ok(())
}

/// Has a process at `node` put a load on a server.
pub fn run_apart(node: &Node, load: Load, to: SocketAddrV4, time: Duration) -> Result<Sent> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let load = load.to_possible_value().context("every load has a name")?.get_name().to_owned();
    let words = ["bench-client".to_owned(), load, to.to_string(), time.as_millis().to_string()];
    let command = std::iter::once(own.into_os_string()).chain(words.into_iter().map(Into::into));
    let outcome = node.run(command);
    ensure!(outcome.succeeded(), "{}", outcome.stderr.trim_end());
    read(&outcome.stdout)
}

fn read(told: &str) -> Result<Sent> {
    let told: Value = serde_json::from_str(told).context("a client told something else than what it measured")?;
    let seconds = told["seconds"].as_f64().context("a client told no time")?;
    let value = |measure: Measure| Some((measure, told["values"].get(measure.slug())?.as_f64()?));
    let values: Vec<_> = Measure::ALL.into_iter().filter_map(value).collect();
    ensure!(seconds > 0.0 || !values.is_empty(), "a client measured nothing");
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let given = &told["given"];
    let refusal = given["refusal"].as_str().map(str::to_owned);
    let given = Given { taken: number(&given["taken"]), refused: number(&given["refused"]), refusal };
    let beats = told["beats"].as_array().into_iter().flatten().filter_map(|beat| beat.as_u64()?.try_into().ok());
    Ok(Sent { seconds, count: number(&told["count"]), given, values, beats: beats.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_measured_is_read_again() {
        let sent = read(r#"{"seconds":0.0,"count":2000,"values":{"connect-p50":41.5,"connect-rate":20000.0},"beats":[13100,17000]}"#)
            .expect("it is well told");

        assert_eq!((sent.count, sent.beats), (2000, vec![13_100, 17_000]));
        assert_eq!(sent.values, [(Measure::Connect50, 41.5), (Measure::ConnectRate, 20_000.0)]);
        let sent =
            read(r#"{"seconds":0.1,"values":{},"given":{"taken":0,"refused":9,"refusal":"no"}}"#).expect("so is this");
        assert_eq!(sent.given, Given { taken: 0, refused: 9, refusal: Some("no".into()) });
        assert!(read(r#"{"seconds":0.0,"values":{}}"#).is_err());
        assert!(read("netd: no").is_err());
    }
}
