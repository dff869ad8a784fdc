//! What `netd run -d --rm` leaves behind: waits for a command to end, then removes its endpoint.

use std::{process::ExitCode, thread, time::Duration};

use anyhow::Result;
use nix::unistd::setsid;

use super::{block_on, endpoint, route};
use crate::{
    api::{CallError, Client},
    daemon::{EndpointView, is_alive},
};

/// How often the command is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How often a daemon that does not answer is tried again, and for how long.
const RETRY: Duration = Duration::from_secs(1);
const RETRIES: usize = 600;

/// Waits, and removes.
pub fn done(client: &Client, name: &str) -> Result<ExitCode> {
    // Already the leader of a session is as good.
    let _ = setsid();
    let found: EndpointView = block_on(async { Ok(client.get(&route("endpoints", name)?).await?) })?;
    if let Some(process) = endpoint::running(&found) {
        while is_alive(&process) {
            thread::sleep(LOOK);
        }
    }
    for _ in 0..RETRIES {
        if block_on(async { Ok(is_gone(client, &found).await) })? {
            return Ok(ExitCode::SUCCESS);
        }
        thread::sleep(RETRY);
    }
    Ok(ExitCode::FAILURE)
}

/// Whether the endpoint is removed; another that has its name by then is let alone. A daemon that is being restarted is
/// waited for.
async fn is_gone(client: &Client, found: &EndpointView) -> bool {
    let Ok(path) = route("endpoints", &found.name) else { return true };
    match client.get::<EndpointView>(&path).await {
        Ok(there) if there.id == found.id => endpoint::remove(client, found).await.is_ok(),
        Ok(_) | Err(CallError::Refused(404, _)) => true,
        Err(_) => false,
    }
}
