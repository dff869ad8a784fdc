//! The loaded programs beside the [`World`]: their maps filled as its tables, their hooks run on packets of a test's making
//! (`BPF_PROG_TEST_RUN`).

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie::Key},
    programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp, XdpMode},
};
use netd_common::{
    evict::{CollectOrder, Evict},
    frame::outer,
    tables::{
        AllowanceKey, Counters, Device, Endpoint, EndpointKey, Flow, Hook, Instant, MeshEnd, Publication,
        PublicationKey, Segment, Settings, SourceKey, names,
    },
    tuple::{Address, Tuple},
};

use crate::{
    lab::begin,
    scene,
    world::{Frame, World},
};

/// The program that is attached nowhere.
const COLLECT: &str = "collect";
/// What an XDP program returns (linux/bpf.h) to drop a frame.
pub const XDP_DROP: u32 = 1;
/// To hand it on.
pub const XDP_PASS: u32 = 2;
/// To send it back by its device.
pub const XDP_TX: u32 = 3;

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Wire<T>(T);
// SAFETY: `bytemuck::Pod` promises what `aya::Pod` asks: any bytes are a value, and there is no padding.
unsafe impl<T: bytemuck::Pod> aya::Pod for Wire<T> {}

/// Entries of a daemon's table of publications, which it has pinned at `path`.
///
/// # Panics
/// When there is none.
pub fn publications(path: &Path) -> usize {
    let map = MapData::from_pin(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let publications = LpmTrie::<_, [u8; PublicationKey::PLACE], Wire<Publication>>::try_from(Map::LpmTrie(map));
    publications.expect("it is such a table").keys().filter(Result::is_ok).count()
}

/// The flow table of a daemon, which it has pinned at `path`.
///
/// # Panics
/// When there is none.
pub fn flows(path: &Path) -> BTreeMap<Tuple, Flow> {
    let map = MapData::from_pin(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let flows = HashMap::<_, Wire<Tuple>, Wire<Flow>>::try_from(Map::HashMap(map)).expect("it is such a table");
    flows.iter().filter_map(Result::ok).map(|(key, flow)| (key.0, flow.0)).collect()
}

/// When a daemon that has pinned the map at `path` last told its programs of a change of the routing.
///
/// # Panics
/// When there is no such map.
pub fn routing_told(path: &Path) -> Instant {
    let map = MapData::from_pin(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let told = Array::<_, Wire<Instant>>::try_from(Map::Array(map)).expect("it is an array");
    told.get(&0, 0).expect("it has an element").0
}

/// The loaded programs, their maps filled as the World's.
pub struct Kernel {
    ebpf: Ebpf,
    /// By hook and what the program returned: runs, and nanoseconds in all.
    pub times: BTreeMap<(Hook, i32), (u32, Duration)>,
}

impl Kernel {
    /// Those of the object that `NETD_BPF_OBJECT` names, with the flow table's usual size.
    pub fn like(world: &World) -> Self {
        Self::loaded(&object(), world, &mut EbpfLoader::new())
    }

    /// Those of the object at `path`.
    pub fn of(path: &Path, world: &World) -> Self {
        Self::loaded(path, world, &mut EbpfLoader::new())
    }

    /// The same with room for `entries` in the flow table.
    pub fn with_room_for(entries: u32, world: &World) -> Self {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(names::FLOWS, entries).map_max_entries(names::AGES, entries.div_ceil(2));
        Self::loaded(&object(), world, &mut loader)
    }

    fn loaded(path: &Path, world: &World, loader: &mut EbpfLoader) -> Self {
        let object = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}: run `cargo xtask test`", path.display()));
        let mut ebpf = loader.load(&object).expect("load the object");
        let settings = world.settings.expect("settings");
        Array::<_, Wire<Settings>>::try_from(ebpf.map_mut(names::SETTINGS).unwrap())
            .unwrap()
            .set(0, Wire(settings), 0)
            .unwrap();
        let mut devices = Array::<_, Wire<Device>>::try_from(ebpf.map_mut(names::DEVICES).unwrap()).unwrap();
        for (ifindex, device) in &world.devices {
            devices.set(Device::slot(*ifindex), Wire(*device), 0).unwrap();
        }
        let mut endpoints =
            HashMap::<_, Wire<EndpointKey>, Wire<Endpoint>>::try_from(ebpf.map_mut(names::ENDPOINTS).unwrap()).unwrap();
        for (key, endpoint) in &world.endpoints {
            endpoints.insert(Wire(*key), Wire(*endpoint), 0).unwrap();
        }
        let mut publications = LpmTrie::<_, [u8; PublicationKey::PLACE], Wire<Publication>>::try_from(
            ebpf.map_mut(names::PUBLICATIONS).unwrap(),
        )
        .unwrap();
        for (key, publication) in &world.publications {
            publications.insert(&Key::new(key.bits(), key.place()), Wire(*publication), 0).unwrap();
        }
        let mut sources =
            LpmTrie::<_, [u8; SourceKey::PLACE], u8>::try_from(ebpf.map_mut(names::SOURCES).unwrap()).unwrap();
        for key in &world.sources {
            sources.insert(&Key::new(key.bits(), key.place()), 1, 0).unwrap();
        }
        let mut allowances =
            HashMap::<_, Wire<AllowanceKey>, u8>::try_from(ebpf.map_mut(names::ALLOWANCES).unwrap()).unwrap();
        for key in &world.allowances {
            allowances.insert(Wire(*key), 1, 0).unwrap();
        }
        let mut addresses =
            HashMap::<_, Wire<Address>, u8>::try_from(ebpf.map_mut(names::HOST_ADDRESSES).unwrap()).unwrap();
        for address in &world.addresses {
            addresses.insert(Wire(*address), 1, 0).unwrap();
        }
        let mut segments = HashMap::<_, u32, Wire<Segment>>::try_from(ebpf.map_mut(names::SEGMENTS).unwrap()).unwrap();
        for (vni, segment) in &world.segments {
            segments.insert(vni, Wire(*segment), 0).unwrap();
        }
        let mut mesh =
            HashMap::<_, Wire<EndpointKey>, Wire<MeshEnd>>::try_from(ebpf.map_mut(names::MESH).unwrap()).unwrap();
        for (key, end) in &world.mesh {
            mesh.insert(Wire(*key), Wire(*end), 0).unwrap();
        }
        let early: &mut Xdp = ebpf.program_mut(Hook::UplinkXdp.name()).unwrap().try_into().unwrap();
        early.load().expect("the verifier accepts the program");
        // A test run takes a device that has a program in its driver: another object's, where two are compared.
        match early.attach("uplink", XdpMode::Driver) {
            Err(ProgramError::SyscallError(error)) if error.io_error.kind() == ErrorKind::ResourceBusy => {}
            attached => {
                attached.expect("a veth pair runs it");
            }
        }
        for name in Hook::OF_PACKETS.into_iter().map(Hook::name).chain([COLLECT]) {
            program(&mut ebpf, name).load().expect("the verifier accepts the program");
        }
        Self { ebpf, times: BTreeMap::new() }
    }

    /// Runs a hook on a packet at a device; what the program returned and what became of the bytes.
    pub fn run(&mut self, hook: Hook, frame: &Frame) -> (i32, Vec<u8>) {
        let mut out = vec![0; frame.bytes.len()];
        let context = context(frame);
        let options = TestRunOptions {
            data_in: Some(&frame.bytes),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..Default::default()
        };
        let result = program(&mut self.ebpf, hook.name()).test_run(options);
        let result = result.unwrap_or_else(|e| panic!("test run: {e}: {frame:02x?}"));
        let (runs, took) = self.times.entry((hook, result.return_value as i32)).or_default();
        *runs += 1;
        *took += result.duration;
        (result.return_value as i32, out)
    }

    /// What the program in the driver of an uplink returned for a frame that it receives, and what became of the bytes.
    pub fn run_early(&mut self, device: u32, bytes: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0; bytes.len() + outer(false)];
        // `struct xdp_md` of linux/bpf.h: where the frame begins and ends, what is before it, its device, its queue, the way out.
        let words = [0, bytes.len() as u32, 0, device, 0, 0];
        let context: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        let options = TestRunOptions {
            data_in: Some(bytes),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..Default::default()
        };
        let result = self.early().test_run(options).unwrap_or_else(|e| panic!("test run: {e}: {bytes:02x?}"));
        out.truncate(result.data_size_out as usize);
        let (runs, took) = self.times.entry((Hook::UplinkXdp, result.return_value as i32)).or_default();
        *runs += 1;
        *took += result.duration;
        (result.return_value, out)
    }

    fn early(&mut self) -> &mut Xdp {
        self.ebpf.program_mut(Hook::UplinkXdp.name()).expect("the object has it").try_into().expect("it is for frames")
    }

    /// How long a hook takes for a packet at a device, by the kernel's own clock.
    pub fn timed(&mut self, hook: Hook, frame: &Frame) -> Duration {
        let context = context(frame);
        let options = TestRunOptions { data_in: Some(&frame.bytes), ctx_in: Some(&context), ..Default::default() };
        program(&mut self.ebpf, hook.name()).test_run(options).expect("the hook runs").duration
    }

    /// Memory of the flow table, in bytes, as the kernel accounts for it.
    pub fn flow_table_bytes(&self) -> u64 {
        let Some(Map::HashMap(map)) = self.ebpf.map(names::FLOWS) else { panic!("the flow table is a hash") };
        let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let told = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let memory = told.lines().find_map(|line| line.strip_prefix("memlock:"));
        memory.expect("the kernel accounts for maps").trim().parse().expect("a number")
    }

    /// Has the collector look at these flows; how many went.
    pub fn collect(&mut self, which: Evict, keys: &[Tuple]) -> u32 {
        let order = CollectOrder { which: which as u32, count: keys.len() as u32, pad: [0; 2] };
        let mut packet = bytemuck::bytes_of(&order).to_vec();
        packet.extend_from_slice(bytemuck::cast_slice(keys));
        let options = TestRunOptions { data_in: Some(&packet), ..Default::default() };
        program(&mut self.ebpf, COLLECT).test_run(options).expect("the collector runs").return_value
    }

    /// Puts an entry into the flow table.
    pub fn put_flow(&mut self, key: Tuple, flow: Flow) {
        let map = self.ebpf.map_mut(names::FLOWS).unwrap();
        HashMap::<_, Wire<Tuple>, Wire<Flow>>::try_from(map).unwrap().insert(Wire(key), Wire(flow), 0).unwrap();
    }

    /// The flow table.
    pub fn flows(&self) -> BTreeMap<Tuple, Flow> {
        let flows = HashMap::<_, Wire<Tuple>, Wire<Flow>>::try_from(self.ebpf.map(names::FLOWS).unwrap()).unwrap();
        flows.iter().map(|entry| entry.map(|(key, flow)| (key.0, flow.0)).unwrap()).collect()
    }

    /// The counters of a hook, summed over the CPUs.
    pub fn counters(&self, hook: Hook) -> Counters {
        let counters = PerCpuArray::<_, Wire<Counters>>::try_from(self.ebpf.map(names::COUNTERS).unwrap()).unwrap();
        let mut sum = Counters::default();
        for cpu in counters.get(&(hook as u32), 0).unwrap().iter() {
            sum.passed += cpu.0.passed;
            sum.to_peer += cpu.0.to_peer;
            sum.to_neighbour += cpu.0.to_neighbour;
            sum.shown += cpu.0.shown;
            sum.to_tunnel += cpu.0.to_tunnel;
            sum.to_device += cpu.0.to_device;
            for (sum, dropped) in sum.dropped.iter_mut().zip(cpu.0.dropped) {
                *sum += dropped;
            }
        }
        sum
    }
}

fn object() -> PathBuf {
    std::env::var_os("NETD_BPF_OBJECT").expect("NETD_BPF_OBJECT is unset: run `cargo xtask test`").into()
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).expect("the object has the program").try_into().expect("a classifier")
}

/// The fields of `__sk_buff` (linux/bpf.h) that a test run takes: the device it is at and the one it came by.
fn context(frame: &Frame) -> Vec<u8> {
    const INGRESS_IFINDEX: usize = 9;
    const IFINDEX: usize = 10;
    const WORDS: usize = 48;
    let mut words = [0u32; WORDS];
    words[INGRESS_IFINDEX] = frame.came_by;
    words[IFINDEX] = frame.device;
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Puts the calling thread before all others of the machine that have no such place: between two looks at the clock it is not to
/// wait for them.
pub fn before_others() {
    let first = nix::libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter outlives the call. Where this is refused the thread waits as others do.
    let _ = unsafe { nix::libc::sched_setscheduler(0, nix::libc::SCHED_FIFO, &raw const first) };
}

/// The monotonic clock, not within a quarter of a second before a tick: the kernel's next packet falls into the same.
///
/// # Panics
/// When there is no such clock.
pub fn far_from_the_next_tick() -> u64 {
    const MARGIN: u64 = 250_000_000;
    loop {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock");
        let now = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
        let left = Instant::TICK_NS - now % Instant::TICK_NS;
        if left > MARGIN {
            return now;
        }
        std::thread::sleep(Duration::from_nanos(left));
    }
}

/// Runs in a network namespace of its own with the scene's devices in it, which goes with the thread.
pub fn in_the_scene(story: impl FnOnce() + Send) {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run `sudo cargo xtask test`");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
            for line in scene::commands() {
                let ip = begin(Command::new("ip").args(line.split(' ')));
                let status = ip.and_then(|mut ip| ip.wait()).expect("iproute2");
                assert!(status.success(), "ip {line}");
            }
            // Nothing comes of itself to the programs that are attached.
            std::fs::write("/proc/sys/net/ipv6/conf/beyond/disable_ipv6", "1").expect("a silent neighbour");
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("forwarding");
            story();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}
