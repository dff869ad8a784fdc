//! `netd drops`: what the programs dropped since their counters began, by hook and reason.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::{args::Format, table};
use crate::{api::Client, daemon::StatusView};

/// One counter that is not zero.
#[derive(Serialize)]
struct Drop {
    hook: String,
    reason: String,
    packets: u64,
}

/// Prints every counter that is not zero.
pub async fn show(client: &Client, format: Format) -> Result<ExitCode> {
    let status: StatusView = client.get("/v1/status").await?;
    let of_hook = |program: &crate::daemon::ProgramView| {
        let hook = program.program.name.clone();
        let drops = program.dropped.clone();
        drops.into_iter().map(move |(reason, packets)| Drop { hook: hook.clone(), reason, packets })
    };
    let drops: Vec<Drop> = status.programs.iter().flat_map(of_hook).collect();
    if format == Format::Json {
        table::print_json(&drops)?;
    } else {
        let row = |drop: &Drop| vec![drop.hook.clone(), drop.reason.clone(), drop.packets.to_string()];
        table::print(&["HOOK", "REASON", "PACKETS"], &drops.iter().map(row).collect::<Vec<_>>());
    }
    Ok(ExitCode::SUCCESS)
}
