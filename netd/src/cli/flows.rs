//! `netd flows`: lists them, and ends some.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    args::{FlowsArgs, FlowsTask, Format},
    table, wrong_usage,
};
use crate::{
    api::Client,
    daemon::{FlowEnds, FlowFilter, FlowView},
    model::Rejection,
};

/// Lists flows, or ends some.
pub async fn done(client: &Client, args: FlowsArgs) -> Result<ExitCode> {
    match args.task {
        Some(FlowsTask::Rm { filters }) => end(client, &filters).await,
        None => list(client, args.format, &[args.filters, args.more_filters].concat()).await,
    }
}

async fn list(client: &Client, format: Format, filters: &[(String, String)]) -> Result<ExitCode> {
    let Ok(query) = query(filters) else { return Ok(unknown(filters)) };
    let flows: Vec<FlowView> = client.get(&format!("/v1/flows?{query}")).await?;
    if format == Format::Json {
        table::print_json(&flows)?;
    } else {
        let titles = ["PROTO", "NETWORK", "CONTAINER", "ORIGINAL", "TRANSLATED", "STATE", "AGE/TIMEOUT"];
        table::print(&titles, &flows.iter().map(row).collect::<Vec<_>>());
    }
    Ok(ExitCode::SUCCESS)
}

async fn end(client: &Client, filters: &[(String, String)]) -> Result<ExitCode> {
    let Ok(query) = query(filters) else { return Ok(unknown(filters)) };
    let ended: Vec<FlowView> = client.delete(&format!("/v1/flows?{query}"), &()).await?;
    println!("ended {} flow{}", ended.len(), if ended.len() == 1 { "" } else { "s" });
    Ok(ExitCode::SUCCESS)
}

fn query(filters: &[(String, String)]) -> Result<String, Rejection> {
    FlowFilter::new(filters.iter().cloned().collect())?;
    let pairs = filters.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value)));
    Ok(pairs.collect::<Vec<_>>().join("&"))
}

fn unknown(filters: &[(String, String)]) -> ExitCode {
    let why = query(filters).err().map_or_else(String::new, |unknown| unknown.to_string());
    wrong_usage(&why)
}

fn row(flow: &FlowView) -> Vec<String> {
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    let ends = |ends: &FlowEnds| format!("{} → {}", ends.src, ends.dst);
    vec![
        flow.protocol.clone(),
        name(&flow.network),
        name(&flow.container),
        ends(&flow.original),
        ends(&flow.translated),
        flow.state.clone(),
        format!("{}/{} s", flow.age, flow.timeout),
    ]
}

/// Text as a query takes it (RFC 3986 section 2.3: what is not unreserved is escaped).
fn escaped(text: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|b| if kept(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_a_query_cannot_hold_is_escaped() {
        assert_eq!(super::escaped("fd00::7 &c1"), "fd00%3A%3A7%20%26c1");
    }
}
