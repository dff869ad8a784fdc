//! Docker's own proxy, the program of Debian's package, without the engine: what a port published on 127.0.0.1 goes through there.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::Host;

use super::{
    server::PORT,
    site::{Companions, PUBLISHED, WEB},
};
use crate::{
    archive::{self, Archive},
    workspace,
};

const PACKAGE: &str = "docker.io";

/// The program, and its package's version. Unpacked and not installed: the package would start an engine on this machine.
pub fn program() -> Result<(PathBuf, String)> {
    let unpacked = workspace::target().join("peers").join(PACKAGE);
    let (program, version) = (unpacked.join("usr/sbin/docker-proxy"), unpacked.join("version"));
    if !program.exists() {
        let archive = Archive::open()?;
        let package = archive.versions(PACKAGE)?.into_iter().next();
        let package = package.with_context(|| format!("Debian's archive has no package {PACKAGE}"))?;
        println!("fetching {} {} into {}", package.name, package.version, workspace::short(&unpacked));
        archive::ensure_empty(&unpacked)?;
        archive.unpack(&package, &unpacked)?;
        std::fs::write(&version, &package.version).context("cannot note the version of the proxy")?;
        ensure!(program.exists(), "the package {PACKAGE} has no usr/sbin/docker-proxy");
    }
    Ok((program, std::fs::read_to_string(version).unwrap_or_default()))
}

/// One for TCP and one for UDP, on every address of the host, as Docker starts them.
pub fn start(host: &Host) -> Result<Companions> {
    let program = program()?.0.display().to_string();
    let start = |protocol: &str| -> Box<dyn std::any::Any> {
        let line = format!(
            "{program} -proto {protocol} -host-ip 0.0.0.0 -host-port {PUBLISHED} -container-ip {WEB} -container-port {PORT}"
        );
        // It tells the engine by the descriptor 3 that it is ready.
        Box::new(host.spawn(["sh", "-c", &format!("exec {line} 3>/dev/null")]))
    };
    Ok(["tcp", "udp"].map(start).into())
}
