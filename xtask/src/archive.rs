//! Packages of Debian's other suites, looked up and unpacked without installing them.
//!
//! The mirror is the machine's own, read from its apt configuration; the lists are ours, in `target/apt`, so that nothing
//! of the machine's apt changes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

/// Suites in which a package may be, besides the machine's own. One that the mirror lacks is passed over.
const SUITES: [&str; 5] = ["bookworm", "bookworm-backports", "trixie", "trixie-backports", "sid"];
/// The same of the archive for security updates.
const SECURITY_SUITES: [&str; 2] = ["bookworm-security", "trixie-security"];
/// How old our lists may be.
const FRESH: Duration = Duration::from_secs(6 * 60 * 60);
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Debian's archive as the machine's mirror shows it.
pub struct Archive {
    directory: PathBuf,
}

/// A package in one version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its full version.
    pub version: String,
}

impl Archive {
    /// The archive with lists that are fresh.
    pub fn open() -> Result<Self> {
        let archive = Self { directory: workspace::target().join("apt") };
        if !archive.is_fresh() {
            archive.update()?;
        }
        Ok(archive)
    }

    /// Every version of the package `name`.
    pub fn versions(&self, name: &str) -> Result<Vec<Package>> {
        Ok(madison(&command::text(self.apt("apt-cache").args(["madison", name]))?))
    }

    /// Names of all packages that start with `prefix`.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = command::text(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// The files of `package` are under `into`.
    pub fn unpack(&self, package: &Package, into: &Path) -> Result<()> {
        let downloads = self.directory.join("downloads");
        ensure_empty(&downloads)?;
        let wanted = format!("{}={}", package.name, package.version);
        command::quiet(self.apt("apt-get").args(["download", &wanted]).current_dir(&downloads))?;
        for file in fs::read_dir(&downloads)? {
            command::quiet(Command::new("dpkg").arg("-x").arg(file?.path()).arg(into))?;
        }
        fs::remove_dir_all(&downloads).context("cannot remove the downloaded package")
    }

    fn is_fresh(&self) -> bool {
        let age = fs::metadata(self.stamp())
            .and_then(|stamp| stamp.modified())
            .map(|time| time.elapsed().unwrap_or_default());
        age.is_ok_and(|age| age < FRESH)
    }

    fn update(&self) -> Result<()> {
        println!("reading the package lists of Debian's other suites into {}", workspace::short(&self.directory));
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.directory.join(directory))?;
        }
        let indexes = command::text(Command::new("apt-get").args(["update", "--print-uris"]))?;
        let list = sources(&indexes, Path::new(KEYRING).exists());
        if list.is_empty() {
            bail!("no mirror of Debian in this machine's apt configuration");
        }
        fs::write(self.directory.join("sources.list"), list)?;
        // apt fails if one suite of many cannot be read; what matters is whether the others can.
        let updated = command::quiet(self.apt("apt-get").arg("update"));
        if self.names("rust-src")?.is_empty() {
            updated.context("no list could be read")?;
            bail!("the lists of Debian's suites are empty");
        }
        fs::write(self.stamp(), "")?;
        Ok(())
    }

    fn stamp(&self) -> PathBuf {
        self.directory.join("updated")
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        let directory = self.directory.display();
        for option in [
            format!("Dir::Etc::SourceList={directory}/sources.list"),
            "Dir::Etc::SourceParts=-".to_owned(),
            format!("Dir::State::Lists={directory}/lists"),
            format!("Dir::Cache={directory}/cache"),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ] {
            apt.args(["-o", &option]);
        }
        apt
    }
}

/// The address of the machine's own mirror.
pub fn mirror() -> Result<String> {
    let indexes = command::text(Command::new("apt-get").args(["update", "--print-uris"]))?;
    mirror_of(&indexes, |suite| SUITES.contains(&suite))
        .context("no mirror of Debian in this machine's apt configuration")
}

/// `directory` exists and holds nothing.
pub fn ensure_empty(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}

/// One-line sources for [`SUITES`], from `indexes`: what `apt-get update --print-uris` says the machine itself reads.
fn sources(indexes: &str, with_keyring: bool) -> String {
    let signed = if with_keyring { format!("[signed-by={KEYRING}] ") } else { String::new() };
    let entry = |uri: &str, suite: &str| format!("deb {signed}{uri} {suite} main\n");
    let mirror = mirror_of(indexes, |suite| SUITES.contains(&suite));
    let security = mirror_of(indexes, |suite| SECURITY_SUITES.contains(&suite));
    let ordinary = mirror.iter().flat_map(|uri| SUITES.map(|suite| entry(uri, suite)));
    let security = security.iter().flat_map(|uri| SECURITY_SUITES.map(|suite| entry(uri, suite)));
    ordinary.chain(security).collect()
}

/// The first archive that has a suite as `wanted`, from lines such as `'URI/dists/SUITE/InRelease' file 0`.
fn mirror_of(indexes: &str, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let releases = indexes.lines().filter_map(|line| line.strip_prefix('\'')?.split_once('\'')).map(|(uri, _)| uri);
    let mut suites = releases.filter_map(|uri| uri.strip_suffix("/InRelease")?.split_once("/dists/"));
    suites.find(|(_, suite)| wanted(suite)).map(|(archive, _)| archive.to_owned())
}

fn madison(table: &str) -> Vec<Package> {
    let row = |line: &str| {
        let mut columns = line.split('|').map(str::trim);
        let (name, version, source) = (columns.next()?, columns.next()?, columns.next()?);
        (!source.ends_with("Sources")).then(|| Package { name: name.to_owned(), version: version.to_owned() })
    };
    table.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEXES: &str = "'http://mirror.example/debian/dists/bookworm/InRelease' a 0 \n\
        'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' b 0 \n\
        'https://elsewhere.example/dists/nodistro/InRelease' c 0 \n\
        'http://mirror.example/security/dists/bookworm-security/InRelease' d 0 \n";

    #[test]
    fn other_suites_come_from_the_mirror_that_the_machine_uses() {
        let list = sources(INDEXES, false);

        assert!(list.contains("deb http://mirror.example/debian trixie-backports main\n"), "{list}");
        assert!(list.contains("deb http://mirror.example/security trixie-security main\n"), "{list}");
        assert!(!list.contains("elsewhere"), "{list}");
        assert_eq!(list.lines().count(), SUITES.len() + SECURITY_SUITES.len());
    }

    #[test]
    fn a_machine_without_a_mirror_of_debian_gives_no_sources() {
        assert_eq!(sources("'https://elsewhere.example/dists/nodistro/InRelease' c 0", true), "");
    }

    #[test]
    fn versions_are_read_and_source_packages_are_not_among_them() {
        let table = "  rust-src | 1.96.1+dfsg1-2 | http://mirror.example/debian sid/main amd64 Packages\n\
            \x20 rust-src | 1.95.0+dfsg1-2 | http://mirror.example/debian sid/main amd64 Packages\n\
            \x20    rustc | 1.95.0+dfsg1-2 | http://mirror.example/debian sid/main Sources\n";

        let versions: Vec<_> = madison(table).into_iter().map(|package| package.version).collect();

        assert_eq!(versions, ["1.96.1+dfsg1-2", "1.95.0+dfsg1-2"]);
    }
}
