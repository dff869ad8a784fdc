//! Forwarding of single devices: switched on where it must be, and given back.
//!
//! IPv4 forwards by device, and netd leaves its `all` (`ip_forward`) alone: who switches that on later gives every device a word that
//! netd does not take back. IPv6 does since kernel 6.17 (`force_forwarding`); before it, what `all` says decides. Whichever it
//! is, a device that forwards IPv6 no longer listens to routers, and with the first one the kernel forgets the default routes
//! that routers have announced, unless the device insists (`accept_ra` 2).

mod notes;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use self::notes::Notes;
use crate::reconcile::{Family, LinkName};

/// What is changed of a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Setting {
    /// `net.ipv4.conf.DEV.forwarding`.
    Ipv4Forwarding,
    /// `net.ipv6.conf.DEV.forwarding`: whether the device is a router's, and programs may ask for ways from it.
    Ipv6Forwarding,
    /// `net.ipv6.conf.DEV.force_forwarding`: whether the stack forwards what comes by it.
    Ipv6ForceForwarding,
    /// `net.ipv6.conf.all.forwarding`: the same for every device.
    Ipv6ForwardingOfAll,
    /// `net.ipv6.conf.DEV.accept_ra`: after the others, which decide what it means.
    AcceptRa,
}

impl Setting {
    const ALL: [Self; 5] = [
        Self::Ipv4Forwarding,
        Self::Ipv6Forwarding,
        Self::Ipv6ForceForwarding,
        Self::Ipv6ForwardingOfAll,
        Self::AcceptRa,
    ];

    /// Its name in the notes.
    const fn name(self) -> &'static str {
        match self {
            Self::Ipv4Forwarding => "ipv4/forwarding",
            Self::Ipv6Forwarding => "ipv6/forwarding",
            Self::Ipv6ForceForwarding => "ipv6/force_forwarding",
            Self::Ipv6ForwardingOfAll => "ipv6/forwarding_of_all",
            Self::AcceptRa => "ipv6/accept_ra",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.name() == name)
    }

    /// With slashes: a device's name may have a dot in it.
    fn path(self, link: &LinkName) -> PathBuf {
        let (family, file) = match self {
            Self::Ipv4Forwarding => ("ipv4", "forwarding"),
            Self::Ipv6Forwarding | Self::Ipv6ForwardingOfAll => ("ipv6", "forwarding"),
            Self::Ipv6ForceForwarding => ("ipv6", "force_forwarding"),
            Self::AcceptRa => ("ipv6", "accept_ra"),
        };
        PathBuf::from(format!("/proc/sys/net/{family}/conf/{link}/{file}"))
    }

    fn read(self, link: &LinkName) -> io::Result<String> {
        Ok(fs::read_to_string(self.path(link))?.trim().to_owned())
    }

    fn is(self, link: &LinkName, value: &str) -> bool {
        self.read(link).is_ok_and(|found| found == value)
    }

    fn write(self, link: &LinkName, value: &str) -> io::Result<()> {
        match self {
            Self::Ipv6ForwardingOfAll => write_of_all(value),
            _ => fs::write(self.path(link), value),
        }
    }
}

/// The forwarding of the calling thread's network namespace, and what it was.
pub struct Forwarding {
    notes: Notes,
}

impl Forwarding {
    /// With the notes of a state directory.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let mut this = Self { notes: Notes::open(state_dir)? };
        this.follow()?;
        Ok(this)
    }

    /// Gives the notes the names that their devices have, and forgets those that others have overruled since.
    pub fn follow(&mut self) -> Result<()> {
        self.notes.follow_renames()?;
        self.notes.forget_overruled()
    }

    /// Whether forwarding is on.
    pub fn is_on(link: &LinkName, family: Family) -> bool {
        match family {
            Family::V4 => Setting::Ipv4Forwarding.is(link, "1"),
            Family::V6 => {
                let stack = Setting::Ipv6ForceForwarding.is(link, "1")
                    || Setting::Ipv6ForwardingOfAll.is(&LinkName::every(), "1");
                stack && Setting::Ipv6Forwarding.is(link, "1")
            }
        }
    }

    /// Whether forwarding was off before netd switched it on, or is off.
    pub fn was_off(&self, link: &LinkName, family: Family) -> bool {
        let was_on = |link: &LinkName, setting: Setting| match self.notes.value(link, setting) {
            Some(value) => value == "1",
            None => setting.is(link, "1"),
        };
        match family {
            Family::V4 => !was_on(link, Setting::Ipv4Forwarding),
            Family::V6 => {
                !was_on(&LinkName::every(), Setting::Ipv6ForwardingOfAll) && !was_on(link, Setting::Ipv6ForceForwarding)
            }
        }
    }

    /// Devices of which something is noted.
    pub fn noted(&self) -> BTreeSet<LinkName> {
        let of_devices = self.notes.all().filter(|(_, setting)| *setting != Setting::Ipv6ForwardingOfAll);
        of_devices.map(|(link, _)| link.clone()).collect()
    }

    /// Switches forwarding on, noting what was. `announced` are the devices with a default route that a router has announced:
    /// they keep it.
    pub fn switch_on(&mut self, link: &LinkName, family: Family, announced: &BTreeSet<LinkName>) -> Result<()> {
        let switched = match family {
            _ if Self::is_on(link, family) => Ok(()),
            Family::V4 => self.change(link, Setting::Ipv4Forwarding, "1"),
            Family::V6 => self.switch_ipv6_on(link, announced),
        };
        switched.with_context(|| format!("cannot switch {family} forwarding on for {link}"))
    }

    fn switch_ipv6_on(&mut self, link: &LinkName, announced: &BTreeSet<LinkName>) -> Result<()> {
        for device in announced.iter().chain([link]) {
            // A router that does not listen to others is not to begin with it.
            if Setting::AcceptRa.is(device, "1") && Setting::Ipv6Forwarding.is(device, "0") {
                self.change(device, Setting::AcceptRa, "2")?;
            }
        }
        if Setting::Ipv6ForceForwarding.path(link).exists() {
            self.change(link, Setting::Ipv6ForceForwarding, "1")?;
        } else {
            self.change(&LinkName::every(), Setting::Ipv6ForwardingOfAll, "1")?;
        }
        self.change(link, Setting::Ipv6Forwarding, "1")
    }

    fn change(&mut self, link: &LinkName, setting: Setting, value: &str) -> Result<()> {
        let path = setting.path(link);
        // Before the device's own: who makes every device a router's between the two has the later word.
        let of_all = notes::of_all(setting);
        let before = setting.read(link).with_context(|| format!("cannot read {}", path.display()))?;
        if before == value {
            return Ok(());
        }
        self.notes.add(link, setting, before, of_all)?;
        setting.write(link, value).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Gives a device back what it had; whether there was anything to give back. A device that was not switched on here keeps
    /// what it has, and so does one that others have made a router's since.
    pub fn give_back(&mut self, link: &LinkName, family: Family) -> Result<bool> {
        self.notes.forget_overruled()?;
        let settings: &[Setting] = match family {
            Family::V4 => &[Setting::Ipv4Forwarding],
            Family::V6 => &[Setting::Ipv6Forwarding, Setting::Ipv6ForceForwarding, Setting::AcceptRa],
        };
        let mut given = false;
        for setting in settings {
            given |= self.give_setting_back(link, *setting)?;
        }
        self.give_back_what_none_needs()?;
        Ok(given)
    }

    fn give_setting_back(&mut self, link: &LinkName, setting: Setting) -> Result<bool> {
        let Some(value) = self.notes.value(link, setting) else { return Ok(false) };
        let given = match setting.write(link, value) {
            Ok(()) => true,
            // The device is gone, and its value with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                let path = setting.path(link);
                return Err(error).with_context(|| format!("cannot give {} back its value {value}", path.display()));
            }
        };
        self.notes.remove(link, setting)?;
        Ok(given)
    }

    /// Forgets the notes of a device that is gone.
    pub fn forget(&mut self, link: &LinkName) -> Result<()> {
        for setting in Setting::ALL {
            self.notes.remove(link, setting)?;
        }
        self.give_back_what_none_needs()
    }

    /// Gives back what was changed for every device, and for devices that do not forward, once none of netd's forwards IPv6.
    fn give_back_what_none_needs(&mut self) -> Result<()> {
        if self.notes.all().any(|(_, setting)| *setting == Setting::Ipv6Forwarding) {
            return Ok(());
        }
        let ipv6 = |setting: &Setting| *setting != Setting::Ipv4Forwarding;
        let mut rest: Vec<_> = self.notes.all().filter(|(_, setting)| ipv6(setting)).cloned().collect();
        rest.sort_by_key(|(_, setting)| *setting);
        for (link, setting) in rest {
            self.give_setting_back(&link, setting)?;
        }
        Ok(())
    }

    /// Gives every device back what it had, and removes the notes; the devices.
    pub fn give_everything_back(mut self) -> Result<Vec<LinkName>> {
        let mut links = Vec::new();
        for link in self.noted() {
            let given = Family::BOTH.map(|family| self.give_back(&link, family));
            for given in given {
                if given? && !links.contains(&link) {
                    links.push(link.clone());
                }
            }
        }
        self.give_back_what_none_needs()?;
        self.notes.delete()?;
        Ok(links)
    }
}

/// Writes IPv6's `all`, and gives each device and those to come the forwarding again that it had: the kernel gives them all
/// what `all` is given.
fn write_of_all(value: &str) -> io::Result<()> {
    let mut before = Vec::new();
    for device in fs::read_dir("/proc/sys/net/ipv6/conf")? {
        // One that is gone meanwhile is no loss. Among them is `default`, which those to come begin with.
        let path = device?.path().join("forwarding");
        before.extend(fs::read_to_string(&path).ok().map(|value| (path, value)));
    }
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", value)?;
    for (path, value) in before.into_iter().filter(|(path, _)| !path.starts_with("/proc/sys/net/ipv6/conf/all")) {
        if fs::read_to_string(&path).is_ok_and(|now| now != value) {
            match fs::write(&path, value) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}
