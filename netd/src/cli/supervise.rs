//! What `netd run -d --rm` leaves behind: waits for a command to end, then removes its endpoint.

use std::{process::ExitCode, thread, time::Duration};

use anyhow::Result;
use nix::unistd::setsid;
use tokio::time::sleep;

use super::{block_on, endpoint, route};
use crate::{
    api::{CallError, Client},
    daemon::{EndpointView, is_alive},
};

/// How often the command is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How long after a removal that failed it is tried again, and how often it is tried.
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
    block_on(removed(client, &found, RETRIES))?;
    Ok(ExitCode::SUCCESS)
}

/// Removes the endpoint of a command that has ended, or what it has left if it was detached before. Tried `tries` times, a second apart,
/// since a daemon that is being restarted is waited for; the error is that of the last time.
pub async fn removed(client: &Client, found: &EndpointView, tries: usize) -> Result<()> {
    for _ in 1..tries {
        if let Ok(()) = remove(client, found).await {
            return Ok(());
        }
        sleep(RETRY).await;
    }
    remove(client, found).await
}

/// Another endpoint that has its name by then is let alone.
async fn remove(client: &Client, found: &EndpointView) -> Result<()> {
    match client.get::<EndpointView>(&route("endpoints", &found.name)?).await {
        Ok(there) if there.id == found.id => endpoint::remove(client, found).await,
        Ok(_) | Err(CallError::Refused(404, _)) => endpoint::clear(client, found).await,
        Err(error) => Err(error.into()),
    }
}
