//! `/etc/resolv.conf` and `/etc/hosts` as the command of `netd run` sees them: files of its own over the host's, in its own view of
//! the mounts.
//!
//! They are under the run directory. Where the host has no such file there is none to lay ours over, and the command sees none.
//! When an endpoint's addresses change, the daemon rewrites its `hosts`.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
};

use crate::{
    api::Client,
    daemon::EndpointView,
    dns::{ResolvConf, hosts},
};

/// Names of the files, here and under `/etc`.
const RESOLV_CONF: &str = "resolv.conf";
const HOSTS: &str = "hosts";

/// Where the files of an endpoint are.
pub fn directory(client: &Client, name: &str) -> PathBuf {
    all(client).join(name)
}

/// Where those of all endpoints are.
pub fn all(client: &Client) -> PathBuf {
    client.socket().parent().map_or_else(PathBuf::new, Path::to_owned).join("etc")
}

/// Writes the files of an endpoint.
pub fn write(client: &Client, endpoint: &EndpointView) -> Result<()> {
    let directory = directory(client, &endpoint.name);
    let host = fs::read_to_string(Path::new("/etc").join(RESOLV_CONF)).unwrap_or_default();
    let files =
        [(RESOLV_CONF, ResolvConf::read(&host).of_container()), (HOSTS, hosts(&endpoint.name, addresses(endpoint)))];
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for (name, text) in files {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Takes the files of an endpoint away, if there are any.
pub fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Lays the files over those of the host, in the calling thread's own view of the mounts.
pub fn lay_over(directory: &Path) -> Result<()> {
    for name in [RESOLV_CONF, HOSTS] {
        let (ours, theirs) = (directory.join(name), Path::new("/etc").join(name));
        match mount(Some(&ours), &theirs, None::<&str>, MsFlags::MS_BIND, None::<&str>) {
            Ok(()) => {}
            // One of the two does not exist: the host has no such file, or the endpoint was attached by other means.
            Err(Errno::ENOENT) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot lay {} over {}", ours.display(), theirs.display()));
            }
        }
    }
    Ok(())
}

fn addresses(endpoint: &EndpointView) -> impl Iterator<Item = IpAddr> {
    endpoint.networks.iter().flat_map(|network| {
        let addresses = [network.ip.map(IpAddr::V4), network.ip6.map(IpAddr::V6)];
        addresses.into_iter().flatten()
    })
}
