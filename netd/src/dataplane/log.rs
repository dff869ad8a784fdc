//! What the programs log, in builds whose object has the feature `log`: passed on to the daemon's own log.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// Reads what the loaded programs log, for as long as the runtime runs that this is called in.
pub fn read(programs: &mut Ebpf) -> Result<()> {
    let logger = EbpfLogger::init(programs).context("the eBPF object was built without its feature `log`")?;
    // SAFETY: the logger owns the descriptor and gives out the same one until it is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut logger = registered.context("cannot wait for what the programs log")?;
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}
