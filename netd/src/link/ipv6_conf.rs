//! IPv6's settings of a device (`net.ipv6.conf.DEV`, Documentation/networking/ip-sysctl.rst), in the calling thread's namespace.
//! A kernel without IPv6 has none: whatever they should be they are, and none is written.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use nix::{
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
};

use crate::reconcile::LinkName;

const DIRECTORY: &str = "/proc/sys/net/ipv6/conf";

/// Room for a value: they are numbers.
const VALUE: usize = 32;

/// A device has no IPv6.
pub const OFF: (&str, &str) = ("disable_ipv6", "1");

/// A setting of a device by their names.
type Setting = (LinkName, &'static str);

/// The settings of every device, to be read again and again: a file that was read stays open, since most of what reading one takes is
/// the way to it. A device's files end with it or with its name (ENOENT), and are opened anew.
pub struct Ipv6Conf {
    directory: Option<OwnedFd>,
    files: Mutex<HashMap<Setting, Kept>>,
}

struct Kept {
    file: File,
    /// Whether it was read since the last time that others were closed.
    read: bool,
}

impl Ipv6Conf {
    /// Those of the calling thread's namespace, to be read there.
    pub fn open() -> Result<Self> {
        match open(DIRECTORY, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(directory) => Ok(Self { directory: Some(directory), files: Mutex::default() }),
            Err(nix::Error::ENOENT) => Ok(Self { directory: None, files: Mutex::default() }),
            Err(error) => Err(error).with_context(|| format!("cannot look at {DIRECTORY}")),
        }
    }

    /// Whether a setting of a device has this value; one that this kernel does not have has any.
    pub fn has(&self, device: &LinkName, (setting, value): (&'static str, &str)) -> bool {
        let Some(directory) = &self.directory else { return true };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = [0; VALUE];
        let read = match files.entry((device.clone(), setting)) {
            Entry::Occupied(mut kept) => {
                kept.get_mut().read = true;
                kept.get().file.read_at(&mut found, 0).or_else(|_| {
                    kept.get_mut().file = opened(directory, device, setting)?;
                    kept.get().file.read_at(&mut found, 0)
                })
            }
            Entry::Vacant(place) => opened(directory, device, setting)
                .and_then(|file| place.insert(Kept { file, read: true }).file.read_at(&mut found, 0)),
        };
        match read {
            Ok(length) => found[..length].trim_ascii() == value.as_bytes(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Closes the files of settings that nobody has read since the last time: the devices are gone.
    pub fn close_unread(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|_, kept| std::mem::replace(&mut kept.read, false));
    }
}

fn opened(directory: &OwnedFd, device: &LinkName, setting: &str) -> io::Result<File> {
    let path = format!("{device}/{setting}");
    Ok(openat(directory, path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?.into())
}

/// Gives a setting of a device this value.
pub fn set(device: &LinkName, (setting, value): (&str, &str)) -> Result<()> {
    let path = format!("{DIRECTORY}/{device}/{setting}");
    match fs::write(&path, value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot write {path}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        link::tests::ip,
        testing::{link, on_a_host_of_its_own},
    };

    #[test]
    fn a_setting_is_read_as_it_is_by_now_and_what_is_not_there_is_as_it_should_be() {
        on_a_host_of_its_own(async |_| {
            let (device, conf) = (link("lo"), Ipv6Conf::open().unwrap());

            assert!(!conf.has(&device, OFF));
            set(&device, OFF).unwrap();
            assert!(conf.has(&device, OFF));
            set(&device, ("disable_ipv6", "0")).unwrap();
            assert!(!conf.has(&device, OFF));

            assert!(conf.has(&device, ("no_such_setting", "1")));
            set(&device, ("no_such_setting", "1")).unwrap();
            assert!(conf.has(&link("gone0"), OFF));
            assert!(Ipv6Conf { directory: None, files: Mutex::default() }.has(&device, OFF));
        });
    }

    #[test]
    fn a_device_that_takes_the_name_of_one_that_was_read_is_read_itself() {
        on_a_host_of_its_own(async |_| {
            let (device, conf) = (link("br0"), Ipv6Conf::open().unwrap());
            let on = ("disable_ipv6", "0");
            ip("link add br0 type bridge");
            set(&device, OFF).unwrap();
            assert!(conf.has(&device, OFF));

            ip("link delete br0");
            assert!(conf.has(&device, OFF) && conf.has(&device, on), "of what is gone nothing is wrong");
            ip("link add br0 type bridge");
            assert!(conf.has(&device, on) && !conf.has(&device, OFF));
            ip("link set br0 name br1");
            ip("link add br0 type bridge");
            set(&device, OFF).unwrap();
            assert!(conf.has(&device, OFF) && conf.has(&link("br1"), on));
        });
    }

    #[test]
    fn files_of_devices_that_nobody_asks_for_any_more_are_closed() {
        on_a_host_of_its_own(async |_| {
            let (device, conf) = (link("lo"), Ipv6Conf::open().unwrap());
            let open = |conf: &Ipv6Conf| conf.files.lock().unwrap().len();
            conf.has(&device, OFF);
            conf.close_unread();
            assert_eq!(open(&conf), 1);
            conf.close_unread();
            assert_eq!(open(&conf), 0);
        });
    }
}
