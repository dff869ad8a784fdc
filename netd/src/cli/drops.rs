//! `netd drops`: what the programs dropped since their counters began, by hook and reason.

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::Result;
use netd_common::{tables::Hook, verdict::DropReason};
use serde::Serialize;

use super::{
    args::{Format, ListArgs},
    filters::{Filters, Key},
    out, table, wrong_usage,
};
use crate::{api::Client, daemon::StatusView};

/// One counter that is not zero.
#[derive(Serialize)]
struct Drop {
    hook: String,
    reason: String,
    packets: u64,
}

/// Prints every counter that is not zero; with `-q` the reasons alone.
pub async fn show(client: &Client, args: ListArgs) -> Result<ExitCode> {
    let wanted = args.filters.clone();
    let filters = match Filters::new(args.filters, &["hook", "reason"].map(Key::any)) {
        Ok(filters) => filters,
        Err(unknown) => return Ok(wrong_usage(&unknown.to_string())),
    };
    let status: StatusView = client.get("/v1/status").await?;
    let is_known = |key: &str, value: &str| match key {
        "hook" => Hook::ALL.iter().any(|hook| hook.name() == value),
        _ => DropReason::ALL.iter().any(|reason| reason.name() == value),
    };
    if let Some((key, value)) = wanted.iter().find(|(key, value)| !is_known(key, value)) {
        return Ok(wrong_usage(&format!("there is no {key} {value}")));
    }
    let of_hook = |program: &crate::daemon::ProgramView| {
        let hook = program.program.name.clone();
        let drops = program.dropped.clone();
        drops.into_iter().map(move |(reason, packets)| Drop { hook: hook.clone(), reason, packets })
    };
    let mut drops: Vec<Drop> = status.programs.iter().flat_map(of_hook).collect();
    drops.retain(|drop| filters.fit(|key, value| value == if key == "hook" { &drop.hook } else { &drop.reason }));
    if args.quiet {
        let reasons: BTreeSet<&str> = drops.iter().map(|drop| drop.reason.as_str()).collect();
        reasons.iter().for_each(out::line);
    } else if args.format == Format::Json {
        table::print_json(&drops)?;
    } else {
        let row = |drop: &Drop| vec![drop.hook.clone(), drop.reason.clone(), drop.packets.to_string()];
        table::print(&["HOOK", "REASON", "PACKETS"], &drops.iter().map(row).collect::<Vec<_>>());
    }
    Ok(ExitCode::SUCCESS)
}
