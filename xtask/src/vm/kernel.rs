//! Debian's cloud kernels: the newest of a series, in `target/vm/SERIES`, laid out as virtme-ng expects it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    archive::{self, Archive, Package},
    command, workspace,
};

/// The image of the newest kernel of `series`. One that was fetched before is kept; removing its directory fetches anew.
pub fn newest(series: &str) -> Result<PathBuf> {
    let directory = workspace::target().join("vm").join(series);
    if let Some(image) = image_in(&directory) {
        return Ok(image);
    }
    let archive = Archive::open()?;
    let architecture = command::text(std::process::Command::new("dpkg").arg("--print-architecture"))?;
    let flavour = format!("cloud-{}", architecture.trim_end());
    let names = archive.names("linux-image-")?;
    let Some(release) = newest_of(&names, series, &flavour) else {
        bail!("Debian's archive has no cloud kernel of the series {series}");
    };
    let unpacked = directory.with_file_name(format!("{series}.incomplete"));
    archive::ensure_empty(&unpacked)?;
    for package in packages(&archive, &release)? {
        println!("fetching {} {} into {}", package.name, package.version, workspace::short(&directory));
        archive.unpack(&package, &unpacked)?;
    }
    lay_out(&unpacked, &release)?;
    archive::ensure_empty(&directory)?;
    fs::rename(&unpacked, &directory).with_context(|| format!("cannot make {}", directory.display()))?;
    image_in(&directory).with_context(|| format!("the packages of {release} hold no kernel image"))
}

/// The newest release (such as `6.1.0-50-cloud-amd64`) of `series`, by the numbers in its name.
fn newest_of(names: &[String], series: &str, flavour: &str) -> Option<String> {
    let releases = names.iter().filter_map(|name| {
        let release = name.strip_prefix("linux-image-")?;
        let release = release.strip_suffix("-unsigned").unwrap_or(release);
        let version = release.strip_suffix(flavour)?.strip_suffix('-')?;
        version.strip_prefix(series)?.starts_with('.').then(|| (numbers(version), release.to_owned()))
    });
    releases.max().map(|(_, release)| release)
}

fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The packages that hold the image and the modules: one of them in older series, several in newer ones.
fn packages(archive: &Archive, release: &str) -> Result<Vec<Package>> {
    let mut found = Vec::new();
    for part in ["image", "binary", "modules"] {
        let name = format!("linux-{part}-{release}");
        let mut versions = archive.versions(&name)?;
        if versions.is_empty() {
            versions = archive.versions(&format!("{name}-unsigned"))?;
        }
        found.extend(versions.into_iter().next());
    }
    Ok(found)
}

/// `boot/vmlinuz-RELEASE` and `lib/modules/RELEASE`, wherever the packages have them.
fn lay_out(root: &Path, release: &str) -> Result<()> {
    let merged = root.join("usr/lib/modules");
    if merged.exists() {
        fs::create_dir_all(root.join("lib"))?;
        fs::rename(&merged, root.join("lib/modules")).context("cannot move the modules")?;
    }
    let image = root.join("boot").join(format!("vmlinuz-{release}"));
    let beside_modules = root.join("lib/modules").join(release).join("vmlinuz");
    if !image.exists() && beside_modules.exists() {
        fs::create_dir_all(root.join("boot"))?;
        fs::copy(beside_modules, image).context("cannot copy the kernel image")?;
    }
    Ok(())
}

fn image_in(directory: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(directory.join("boot")).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_series_is_found_by_its_numbers() {
        let names: Vec<_> = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-57-cloud-amd64-dbg",
            "linux-image-6.1.0-58-rt-amd64",
            "linux-image-6.1.0-59-cloud-arm64",
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-image-cloud-amd64",
        ]
        .map(str::to_owned)
        .into();

        for (series, expected) in [
            ("6.1", Some("6.1.0-56-cloud-amd64")),
            ("6.12", Some("6.12.117+deb12-cloud-amd64")),
            ("6", Some("6.12.117+deb12-cloud-amd64")),
            ("7", None),
        ] {
            assert_eq!(newest_of(&names, series, "cloud-amd64").as_deref(), expected, "{series}");
        }
    }
}
