//! `netd flows`: lists them, and ends some.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    args::{FlowsArgs, FlowsTask, Format},
    out, table, wrong_usage,
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
        let titles = ["PROTO", "NETWORK", "CONTAINER", "ORIGINAL", "TRANSLATED", "STATE", "AGE", "IDLE/TIMEOUT"];
        table::print(&titles, &flows.iter().map(row).collect::<Vec<_>>());
    }
    Ok(ExitCode::SUCCESS)
}

async fn end(client: &Client, filters: &[(String, String)]) -> Result<ExitCode> {
    let Ok(query) = query(filters) else { return Ok(unknown(filters)) };
    let ended: Vec<FlowView> = client.delete(&format!("/v1/flows?{query}"), &()).await?;
    out::line(format_args!("ended {} flow{}", ended.len(), if ended.len() == 1 { "" } else { "s" }));
    Ok(ExitCode::SUCCESS)
}

fn query(filters: &[(String, String)]) -> Result<String, Rejection> {
    FlowFilter::new(filters.iter().cloned())?;
    Ok(super::query(filters))
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
        format!("{} s", flow.age),
        format!("{}/{} s", flow.idle, flow.timeout),
    ]
}
