//! The maps as the types of `netd-common`, and by the names of devices where the kernel has numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key},
};
use netd_common::{
    sock::{Places, leads},
    tables::{
        AllowanceKey, Counters, Device, Dialled, DialledKey, Endpoint, EndpointKey, Hook, PortRange, Publication,
        PublicationKey, ReservedPorts, SEARCHES, Settings, SourceKey, names,
    },
    tuple::Address,
};
use nix::libc;
use tracing::debug;

use super::{
    flows::Flows,
    overlay::{Overlay, OverlayRecords},
    routing::RoutingChanges,
    syscall::{entries, put},
    view::View,
};
use crate::reconcile::{DeviceRecord, EndpointRecord, LinkName};

/// A value as it is in a map.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Wire<T>(pub T);

// SAFETY: transparent over a type that `bytemuck` has proved to have no padding and to be valid for any bytes.
unsafe impl<T: bytemuck::Pod> Pod for Wire<T> {}

/// A hash map in the kernel.
pub type Hash<K, V> = HashMap<MapData, Wire<K>, Wire<V>>;

/// The maps.
pub struct Tables {
    /// The flow table.
    pub flows: Flows,
    devices: Array<MapData, Wire<Device>>,
    /// The same array; none where it is one that an older netd has made, which gives no view.
    device_view: Option<View<Wire<Device>>>,
    devices_far: HashMap<MapData, u32, Wire<Device>>,
    endpoints: Hash<EndpointKey, Endpoint>,
    allowances: Hash<AllowanceKey, u8>,
    publications: LpmTrie<MapData, [u8; PublicationKey::PLACE], Wire<Publication>>,
    sources: LpmTrie<MapData, [u8; SourceKey::PLACE], u8>,
    host_addresses: Hash<Address, u8>,
    led: MapData,
    dialled: Hash<DialledKey, Dialled>,
    /// Of networks that span hosts.
    pub overlay: Overlay,
    settings: Array<MapData, Wire<Settings>>,
    ways: RoutingChanges,
    reserved: Array<MapData, Wire<ReservedPorts>>,
    searches: PerCpuArray<MapData, u64>,
    counters: PerCpuArray<MapData, Wire<Counters>>,
}

/// What the maps say, by the names of devices.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Records {
    /// Devices that exist.
    pub devices: BTreeMap<LinkName, DeviceRecord>,
    /// Indexes of records whose device does not, or that no program finds.
    pub orphans: BTreeSet<u32>,
    /// Where containers are.
    pub endpoints: BTreeMap<EndpointKey, EndpointRecord>,
    /// What is allowed between containers that are kept apart.
    pub allowances: BTreeSet<AllowanceKey>,
    /// Where clients knock.
    pub publications: BTreeMap<PublicationKey, Publication>,
    /// Who may come to publications.
    pub sources: BTreeSet<SourceKey>,
    /// Networks that span hosts.
    pub overlay: OverlayRecords,
    /// The host's own addresses.
    pub addresses: BTreeSet<Address>,
    /// `None` before they are written.
    pub settings: Option<Settings>,
    /// Ports that masquerade leaves alone.
    pub reserved: BTreeSet<PortRange>,
}

impl Tables {
    /// Takes the maps over from a loaded object, whose flow table has room for `capacity` entries, and which is told of the
    /// routing by `ways`.
    pub fn take(object: &mut Ebpf, capacity: u32, ways: RoutingChanges) -> Result<Self> {
        let devices: Array<MapData, Wire<Device>> = taken(object, names::DEVICES)?;
        let device_view = View::of(&devices).inspect_err(|error| debug!("the devices are read by calls: {error}")).ok();
        Ok(Self {
            flows: Flows::new(taken(object, names::FLOWS)?, capacity),
            devices,
            device_view,
            devices_far: taken(object, names::DEVICES_FAR)?,
            endpoints: taken(object, names::ENDPOINTS)?,
            allowances: taken(object, names::ALLOWANCES)?,
            publications: taken(object, names::PUBLICATIONS)?,
            sources: taken(object, names::SOURCES)?,
            host_addresses: taken(object, names::HOST_ADDRESSES)?,
            led: storage(object, names::LED)?,
            dialled: taken(object, names::DIALLED)?,
            overlay: Overlay::take(object)?,
            settings: taken(object, names::SETTINGS)?,
            ways,
            reserved: taken(object, names::RESERVED)?,
            searches: taken(object, names::SEARCHES)?,
            counters: taken(object, names::COUNTERS)?,
        })
    }

    /// Writes the record of the device `index`; `bridge` is the index of its network's.
    pub fn put_device(&mut self, index: u32, bridge: u32, record: &DeviceRecord) -> Result<()> {
        let device = Device {
            ifindex: index,
            kind: record.kind,
            pad: 0,
            flags: record.flags,
            zone: record.zone,
            bridge,
            mtu: record.mtu,
            vni: record.vni,
            ipv4: record.ipv4,
            gateway_ipv4: record.gateway_ipv4,
            ipv6: record.ipv6,
            gateway_ipv6: record.gateway_ipv6,
            mac: record.mac,
            gateway_mac: record.gateway_mac,
        };
        let slot = Device::slot(index);
        let there = self.devices.get(&slot, 0)?.0.ifindex;
        if there != 0 && there != index {
            return self.devices_far.insert(index, Wire(device), 0).context("cannot write a device record");
        }
        self.devices.set(slot, Wire(device), 0).context("cannot write a device record")?;
        // One place a device: a record from when the slot was another's would be found after this one is gone.
        removed(self.devices_far.remove(&index))
    }

    /// Takes out the record of the device `index`, if there is one.
    pub fn remove_device(&mut self, index: u32) -> Result<()> {
        let slot = Device::slot(index);
        if self.devices.get(&slot, 0)?.0.ifindex == index {
            self.devices.set(slot, Wire(Device::default()), 0).context("cannot clear a device record")?;
        }
        removed(self.devices_far.remove(&index))
    }

    /// Takes out what is recorded under the index of no device: what is in a place that is not its own, or else what is in its own.
    pub fn remove_orphan(&mut self, index: u32) -> Result<()> {
        let all = self.all_devices()?;
        let strays: Vec<_> =
            all.iter().filter(|(place, found)| found.ifindex == index && !place.is_of(found)).collect();
        for (place, _) in &strays {
            match place {
                Place::Near(slot) => {
                    self.devices.set(*slot, Wire(Device::default()), 0).context("cannot clear a device record")?
                }
                Place::Far(key) => removed(self.devices_far.remove(key))?,
            }
        }
        if strays.is_empty() { self.remove_device(index) } else { Ok(()) }
    }

    /// Writes where a container is; `device` is the index of its host-side veth.
    pub fn put_endpoint(&mut self, key: EndpointKey, device: u32, record: &EndpointRecord) -> Result<()> {
        let endpoint = Endpoint { device, mtu: record.mtu, mac: record.mac, gateway_mac: record.gateway_mac };
        self.endpoints.insert(Wire(key), Wire(endpoint), 0).context("cannot write an endpoint")
    }

    /// Takes out an endpoint, if it is there.
    pub fn remove_endpoint(&mut self, key: EndpointKey) -> Result<()> {
        removed(self.endpoints.remove(&Wire(key)))
    }

    /// Writes an allowance.
    pub fn put_allowance(&mut self, key: AllowanceKey) -> Result<()> {
        self.allowances.insert(Wire(key), Wire(1), 0).context("cannot write an allowance")
    }

    /// Takes out an allowance, if it is there.
    pub fn remove_allowance(&mut self, key: AllowanceKey) -> Result<()> {
        removed(self.allowances.remove(&Wire(key)))
    }

    /// Writes a publication.
    pub fn put_publication(&mut self, key: PublicationKey, publication: Publication) -> Result<()> {
        self.publications.insert(&trie_key(&key), Wire(publication), 0).context("cannot write a publication")
    }

    /// Writes publications, by one call of the kernel. Where it fails some of them may be written.
    pub fn put_publications(&mut self, all: &[(PublicationKey, Publication)]) -> Result<()> {
        let (keys, values): (Vec<_>, Vec<_>) = all.iter().map(|(key, to)| (trie_key(key), Wire(*to))).unzip();
        put(&self.publications, &keys, &values).context("cannot write publications")
    }

    /// Takes out a publication, if it is there.
    pub fn remove_publication(&mut self, key: PublicationKey) -> Result<()> {
        removed(self.publications.remove(&trie_key(&key)))
    }

    /// Writes a range of a list of sources.
    pub fn put_source(&mut self, range: SourceKey) -> Result<()> {
        self.sources.insert(&Key::new(range.bits(), range.place()), 1, 0).context("cannot write a source")
    }

    /// Takes a range out of a list of sources, if it is there.
    pub fn remove_source(&mut self, range: SourceKey) -> Result<()> {
        removed(self.sources.remove(&Key::new(range.bits(), range.place())))
    }

    /// Writes an address of the host.
    pub fn put_address(&mut self, address: Address) -> Result<()> {
        self.host_addresses.insert(Wire(address), Wire(1), 0).context("cannot write an address of the host")
    }

    /// Takes out an address of the host, if it is there.
    pub fn remove_address(&mut self, address: Address) -> Result<()> {
        removed(self.host_addresses.remove(&Wire(address)))
    }

    /// The socket storage that tells where the host's TCP sockets were led.
    pub fn led(&self) -> BorrowedFd<'_> {
        self.led.fd().as_fd()
    }

    /// Forgets where UDP sockets of the host were led to that, by these places, nothing leads to any more; tells which.
    pub fn take_strays(&mut self, places: &impl Places) -> Result<BTreeSet<DialledKey>> {
        let all = entries(&self.dialled).context("cannot read what sockets dialled")?.into_iter();
        let strays = all.filter(|(Wire(to), Wire(by))| !leads(places, by, (to.address, to.port)));
        let strays: BTreeSet<_> = strays.map(|(Wire(key), _)| key).collect();
        strays.iter().try_for_each(|key| removed(self.dialled.remove(&Wire(*key))))?;
        Ok(strays)
    }

    /// Writes the settings.
    pub fn put_settings(&mut self, settings: Settings) -> Result<()> {
        self.settings.set(0, Wire(settings), 0).context("cannot write the settings")?;
        // They say how the host's routing is asked.
        self.ways.changed()
    }

    /// Writes the ports that masquerade leaves alone.
    pub fn put_reserved(&mut self, ranges: &BTreeSet<PortRange>) -> Result<()> {
        let ports = ReservedPorts::of(ranges.iter().copied());
        self.reserved.set(0, Wire(ports), 0).context("cannot write the reserved ports")
    }

    /// Searches for a port to masquerade as: by how many ports were tried, those that failed first.
    pub fn searches(&self) -> Result<Vec<u64>> {
        let tried = |tried| self.searches.get(&tried, 0).context("cannot read how ports were searched for");
        (0..SEARCHES).map(|n| Ok(tried(n)?.iter().sum())).collect()
    }

    /// The counters of a hook, summed over the CPUs.
    pub fn counters(&self, hook: Hook) -> Result<Counters> {
        let per_cpu = self.counters.get(&(hook as u32), 0).context("cannot read the counters")?;
        Ok(per_cpu.iter().fold(Counters::default(), |sum, Wire(one)| added(sum, one)))
    }

    /// Everything that the daemon writes, read back.
    pub fn records(&self, links: &BTreeMap<u32, LinkName>) -> Result<Records> {
        let name = |index: u32| links.get(&index).cloned().unwrap_or_else(|| LinkName::gone(index));
        let mut records = Records::default();
        for (place, device) in self.all_devices()? {
            // Where no program looks for it, a record is nobody's.
            match links.get(&device.ifindex).filter(|_| place.is_of(&device)) {
                Some(link) => {
                    records.devices.insert(link.clone(), record(&device, name));
                }
                None => {
                    records.orphans.insert(device.ifindex);
                }
            }
        }
        for (Wire(key), Wire(endpoint)) in entries(&self.endpoints).context("cannot read the endpoints")? {
            let Endpoint { device, mtu, mac, gateway_mac } = endpoint;
            records.endpoints.insert(key, EndpointRecord { device: name(device), mtu, mac, gateway_mac });
        }
        for (key, Wire(publication)) in entries(&self.publications).context("cannot read the publications")? {
            records.publications.insert(PublicationKey::from_map(key.prefix_len(), key.data()), publication);
        }
        let sources = entries(&self.sources).context("cannot read the sources")?;
        records.sources =
            sources.into_iter().map(|(key, _)| SourceKey::from_map(key.prefix_len(), key.data())).collect();
        records.overlay = self.overlay.records(name)?;
        let allowances = entries(&self.allowances).context("cannot read the allowances")?;
        records.allowances = allowances.into_iter().map(|(Wire(key), _)| key).collect();
        let addresses = entries(&self.host_addresses).context("cannot read the host's addresses")?;
        records.addresses = addresses.into_iter().map(|(Wire(address), _)| address).collect();
        let settings = self.settings.get(&0, 0).context("cannot read the settings")?.0;
        records.reserved = self.reserved.get(&0, 0).context("cannot read the reserved ports")?.0.ranges().collect();
        records.settings = (settings != Settings::default()).then_some(settings);
        Ok(records)
    }

    fn all_devices(&self) -> Result<Vec<(Place, Device)>> {
        let near = match &self.device_view {
            Some(view) => (0..).zip(view.iter()).filter(|(_, Wire(device))| device.ifindex != 0).collect(),
            None => entries(&self.devices).context("cannot read the devices")?,
        };
        let near = near.into_iter().map(|(slot, Wire(device))| (Place::Near(slot), device));
        let far = entries(&self.devices_far).context("cannot read the devices")?;
        let far = far.into_iter().map(|(key, Wire(device))| (Place::Far(key), device));
        Ok(near.filter(|(_, device)| device.ifindex != 0).chain(far).collect())
    }
}

/// Where the record of a device is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In this slot of the array.
    Near(u32),
    /// In the hash, by this key.
    Far(u32),
}

impl Place {
    /// Whether the programs look for this device there.
    const fn is_of(self, device: &Device) -> bool {
        match self {
            Self::Near(slot) => slot == Device::slot(device.ifindex),
            Self::Far(key) => key == device.ifindex,
        }
    }
}

/// What taking out of a map comes to: that there was nothing to take is fine.
pub fn removed(answer: Result<(), MapError>) -> Result<()> {
    match answer {
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        answer => answer.context("cannot take an entry out of a map"),
    }
}

fn trie_key(key: &PublicationKey) -> Key<[u8; PublicationKey::PLACE]> {
    Key::new(key.bits(), key.place())
}

pub fn taken<T: TryFrom<Map, Error = MapError>>(object: &mut Ebpf, name: &str) -> Result<T> {
    let map = object.take_map(name).ok_or_else(|| anyhow!("the eBPF object has no map {name}"))?;
    T::try_from(map).with_context(|| format!("the map {name} of the eBPF object is not what netd expects"))
}

/// A socket storage, which no key that the daemon has reads.
fn storage(object: &mut Ebpf, name: &str) -> Result<MapData> {
    match object.take_map(name) {
        Some(Map::SkStorage(map)) => Ok(map),
        _ => Err(anyhow!("the eBPF object has no socket storage {name}")),
    }
}

fn record(device: &Device, name: impl Fn(u32) -> LinkName) -> DeviceRecord {
    DeviceRecord {
        kind: device.kind,
        flags: device.flags,
        zone: device.zone,
        bridge: (device.bridge != 0).then(|| name(device.bridge)),
        mtu: device.mtu,
        vni: device.vni,
        ipv4: device.ipv4,
        gateway_ipv4: device.gateway_ipv4,
        ipv6: device.ipv6,
        gateway_ipv6: device.gateway_ipv6,
        mac: device.mac,
        gateway_mac: device.gateway_mac,
    }
}

fn added(mut sum: Counters, one: &Counters) -> Counters {
    sum.passed += one.passed;
    sum.to_peer += one.to_peer;
    sum.to_neighbour += one.to_neighbour;
    sum.shown += one.shown;
    sum.to_tunnel += one.to_tunnel;
    sum.to_device += one.to_device;
    for (total, count) in sum.dropped.iter_mut().zip(one.dropped) {
        *total += count;
    }
    sum
}
