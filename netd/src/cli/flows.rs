//! `netd flows`.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    args::{FlowsArgs, Format},
    table, wrong_usage,
};
use crate::{
    api::Client,
    daemon::{FlowEnds, FlowFilter, FlowView},
};

/// Lists flows.
pub async fn list(client: &Client, args: FlowsArgs) -> Result<ExitCode> {
    if let Err(unknown) = FlowFilter::new(args.filters.iter().cloned().collect()) {
        return Ok(wrong_usage(&unknown.to_string()));
    }
    let query: Vec<String> =
        args.filters.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value))).collect();
    let flows: Vec<FlowView> = client.get(&format!("/v1/flows?{}", query.join("&"))).await?;
    if args.format == Format::Json {
        table::print_json(&flows)?;
    } else {
        let titles = ["PROTO", "NETWORK", "CONTAINER", "ORIGINAL", "TRANSLATED", "STATE", "AGE/TIMEOUT"];
        table::print(&titles, &flows.iter().map(row).collect::<Vec<_>>());
    }
    Ok(ExitCode::SUCCESS)
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
