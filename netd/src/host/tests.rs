//! A whole host: steps applied, state read back, restarts, and what stays after an uninstall.

use std::{
    process::Command,
    time::{Duration, Instant as Moment},
};

use aya::{
    maps::MapData,
    programs::{
        SchedClassifier, TcAttachType, loaded_programs,
        tc::{NlOptions, TcAttachOptions},
    },
};
use netd_common::{
    tables::{
        Device, DeviceKind, EndpointKey, LAYOUT, PortRange, Publication, PublicationKey, Settings, Span, Timeout,
    },
    tuple::{Mac, Port, TCP},
};

use nix::libc;

use super::*;
use crate::{
    reconcile::{Bridge, DeviceRecord, EndpointRecord, Interface, Veth},
    testing::{add_veth, link, on_a_host_of_its_own, sandbox},
    uninstall::{Report, uninstall},
};

const BOTH_MANNERS: [(&str, bool); 2] = [("tcx", false), ("clsact", true)];

#[test]
fn programs_attach_in_both_manners_and_detaching_leaves_nothing() {
    for (manner, clsact_only) in BOTH_MANNERS {
        on_a_host_of_its_own(async move |directory| {
            add_veth("wan0", "wan1", 7).await;
            let mut host = open(&directory, clsact_only).await;
            let hooks = BTreeSet::from([(link("wan0"), Hook::FromUplink), (link("wan0"), Hook::ToUplink)]);

            for _ in 0..2 {
                for (link, hook) in &hooks {
                    host.apply(&Step::Attach(link.clone(), *hook)).await.unwrap();
                }
                assert_eq!(host.observe().await.unwrap().hooks, hooks, "{manner}");
            }
            for program in host.programs().unwrap().iter().filter(|program| program.name.ends_with("_uplink")) {
                assert_eq!((program.attach.as_str(), program.devices.as_slice()), (manner, &["wan0".to_owned()][..]));
            }

            for (link, hook) in &hooks {
                host.apply(&Step::Detach(link.clone(), *hook)).await.unwrap();
                host.apply(&Step::Detach(link.clone(), *hook)).await.unwrap();
            }
            assert_eq!(host.observe().await.unwrap().hooks, BTreeSet::new(), "{manner}");
            assert!(!qdiscs().contains("clsact"), "{}", qdiscs());
        });
    }
}

#[test]
fn a_restart_puts_new_programs_in_the_place_of_the_old() {
    for (manner, clsact_only) in BOTH_MANNERS {
        on_a_host_of_its_own(async move |directory| {
            add_veth("wan0", "wan1", 7).await;
            add_veth("wan2", "wan3", 9).await;
            let mut host = open(&directory, clsact_only).await;
            for name in ["wan0", "wan2"] {
                for hook in [Hook::FromUplink, Hook::ToUplink] {
                    host.apply(&Step::Attach(link(name), hook)).await.unwrap();
                }
            }
            host.apply(&Step::PutSettings(settings())).await.unwrap();
            let before = host.observe().await.unwrap();
            let old: Vec<u32> = host.programs().unwrap().into_iter().map(|program| program.id).collect();

            drop(host);
            let mut host = open(&directory, false).await;

            assert_eq!(host.observe().await.unwrap(), before, "{manner}");
            assert!(host.programs().unwrap().iter().all(|program| !old.contains(&program.id)), "{manner}");
            // The kernel frees a program that nothing uses any more, a little later.
            let patience = Moment::now() + Duration::from_secs(5);
            while loaded_programs().flatten().any(|program| old.contains(&program.id())) {
                assert!(Moment::now() < patience, "{manner}: a program of before is still in use");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
}

#[test]
fn pins_of_a_device_that_is_gone_go_at_the_next_start() {
    on_a_host_of_its_own(async |directory| {
        add_veth("wan0", "wan1", 7).await;
        let mut host = open(&directory, false).await;
        host.apply(&Step::Attach(link("wan0"), Hook::FromUplink)).await.unwrap();
        let pin = directory.join("bpf").join(LAYOUT).join("links/from_uplink@7");
        assert!(pin.exists());
        delete("wan0");
        add_veth("wan4", "wan5", 7).await;

        assert_eq!(host.observe().await.unwrap().hooks, BTreeSet::new());
        drop(host);
        let mut host = open(&directory, false).await;
        assert!(!pin.exists());
        host.apply(&Step::Attach(link("wan4"), Hook::FromUplink)).await.unwrap();
        assert_eq!(host.observe().await.unwrap().hooks, [(link("wan4"), Hook::FromUplink)].into());
    });
}

#[test]
fn pins_of_a_device_that_is_gone_go_when_it_is_noticed() {
    on_a_host_of_its_own(async |directory| {
        add_veth("wan0", "wan1", 7).await;
        let mut host = open(&directory, false).await;
        host.apply(&Step::Attach(link("wan0"), Hook::FromUplink)).await.unwrap();
        delete("wan0");

        host.observe().await.unwrap();

        let pins = directory.join("bpf").join(LAYOUT).join("links");
        assert_eq!(std::fs::read_dir(pins).unwrap().count(), 0);
    });
}

#[test]
fn what_is_written_to_the_maps_is_read_back_and_goes() {
    on_a_host_of_its_own(async |directory| {
        // Two devices that want one slot.
        add_veth("wan0", "wan1", 7).await;
        add_veth("wan2", "wan3", 7 + netd_common::tables::DEVICE_SLOTS).await;
        assert_eq!(Device::slot(7), Device::slot(7 + netd_common::tables::DEVICE_SLOTS));
        let mut host = open(&directory, false).await;
        let empty = host.observe().await.unwrap();
        let device = DeviceRecord { bridge: Some(link("wan1")), ..uplink() };
        let endpoint = EndpointRecord { device: link("wan2"), mtu: 1400, mac: Mac([2; 6]), gateway_mac: Mac([4; 6]) };
        let publication = Publication { address: address(2), port: Port::new(80), zone: Zone(5) };

        for _ in 0..2 {
            for step in [
                Step::PutSettings(settings()),
                Step::PutDevice(link("wan0"), device.clone()),
                Step::PutDevice(link("wan2"), uplink()),
                Step::PutEndpoint(endpoint_key(), endpoint.clone()),
                Step::PutPublication(publication_key(), publication),
            ] {
                host.apply(&step).await.unwrap();
            }
        }
        let full = State {
            devices: [(link("wan0"), device), (link("wan2"), uplink())].into(),
            endpoints: [(endpoint_key(), endpoint)].into(),
            publications: [(publication_key(), publication)].into(),
            settings: Some(settings()),
            ..empty.clone()
        };
        assert_eq!(host.observe().await.unwrap(), full);

        // The one that came first goes, the other stays where it is.
        host.apply(&Step::RemoveDevice(link("wan0"))).await.unwrap();
        assert_eq!(host.observe().await.unwrap().devices, [(link("wan2"), uplink())].into());
        host.apply(&Step::PutDevice(link("wan2"), uplink())).await.unwrap();
        for step in [
            Step::RemoveDevice(link("wan2")),
            Step::RemoveEndpoint(endpoint_key()),
            Step::RemovePublication(publication_key()),
            Step::PutSettings(Settings::default()),
        ] {
            host.apply(&step).await.unwrap();
            host.apply(&step).await.unwrap();
        }
        assert_eq!(host.observe().await.unwrap(), empty);
    });
}

#[test]
fn records_of_a_device_that_is_gone_are_told_by_its_number() {
    on_a_host_of_its_own(async |directory| {
        add_veth("wan0", "wan1", 7).await;
        let mut host = open(&directory, false).await;
        let endpoint = EndpointRecord { device: link("wan0"), mtu: 1400, mac: Mac([2; 6]), gateway_mac: Mac([4; 6]) };
        host.apply(&Step::PutDevice(link("wan0"), uplink())).await.unwrap();
        host.apply(&Step::PutEndpoint(endpoint_key(), endpoint)).await.unwrap();
        delete("wan0");

        let state = host.observe().await.unwrap();
        assert_eq!((state.orphans, state.devices.len()), ([7].into(), 0));
        assert_eq!(state.endpoints[&endpoint_key()].device, LinkName::gone(7));
        host.apply(&Step::RemoveOrphan(7)).await.unwrap();
        assert_eq!(host.observe().await.unwrap().orphans, BTreeSet::new());
    });
}

#[test]
fn a_pinned_map_of_another_size_is_refused_by_name_and_the_flow_table_keeps_its_own() {
    on_a_host_of_its_own(async |directory| {
        let mut options = options(&directory, false);
        options.dataplane.flows_max = Some(4096);
        drop(Host::open(options.clone()).await.unwrap());
        options.dataplane.flows_max = Some(8192);
        drop(Host::open(options.clone()).await.unwrap());
        let maps = directory.join("bpf").join(LAYOUT).join("maps");
        let flows = aya::maps::MapInfo::from_pin(maps.join("FLOWS")).unwrap();
        assert_eq!(flows.max_entries(), 4096);

        let pin = maps.join("ENDPOINTS");
        std::fs::remove_file(&pin).unwrap();
        let wrong = aya::maps::HashMap::<MapData, u32, u32>::create(1, 0).unwrap();
        wrong.pin(&pin).unwrap();
        let refused = Host::open(options).await.err().unwrap().to_string();

        let expected =
            format!("the pinned map {} has a key size of 4, not 20; `netd uninstall` removes it", pin.display());
        assert_eq!(refused, expected);
    });
}

#[test]
fn a_host_is_built_step_by_step_and_uninstall_leaves_the_one_before() {
    for (manner, clsact_only) in BOTH_MANNERS {
        on_a_host_of_its_own(async move |directory| {
            add_veth("wan0", "wan1", 7).await;
            add_veth("nd0", "foreign", 20).await;
            std::fs::write("/proc/sys/net/ipv4/conf/wan0/forwarding", "0").unwrap();
            aya::programs::tc::qdisc_add_clsact("wan1").unwrap();
            let before = (links(), qdiscs());
            let mut host = open(&directory, clsact_only).await;
            let (bridge, veth) = network(sandbox());
            let record = DeviceRecord { bridge: Some(link("nd1")), kind: DeviceKind::Container as u8, ..uplink() };

            for _ in 0..2 {
                for step in [
                    Step::PutSettings(settings()),
                    Step::CreateBridge(link("nd1"), bridge.clone()),
                    Step::Forward(link("wan0")),
                    Step::Forward(link("nd1")),
                    Step::CreateVeth(link("nd11"), veth.clone()),
                    Step::Attach(link("nd11"), Hook::FromContainer),
                    Step::Attach(link("nd11"), Hook::ToContainer),
                    Step::Attach(link("wan0"), Hook::FromUplink),
                    Step::Attach(link("wan1"), Hook::ToUplink),
                    Step::PutDevice(link("nd11"), record.clone()),
                    Step::ConnectVeth(link("nd11"), veth.clone()),
                ] {
                    host.apply(&step).await.unwrap();
                }
            }
            let hooks = BTreeSet::from([
                (link("nd11"), Hook::FromContainer),
                (link("nd11"), Hook::ToContainer),
                (link("wan0"), Hook::FromUplink),
                (link("wan1"), Hook::ToUplink),
            ]);
            let built = State {
                bridges: [(link("nd1"), bridge)].into(),
                veths: [(link("nd11"), veth)].into(),
                forwarding: [link("nd1"), link("wan0")].into(),
                hooks,
                devices: [(link("nd11"), record)].into(),
                settings: Some(settings()),
                ..State::default()
            };
            assert_eq!(host.observe().await.unwrap(), built, "{manner}");

            drop(host);
            let report = uninstall(&directory.join("bpf"), &directory.join("state")).await.unwrap();

            assert_eq!(report.links, [link("nd11"), link("nd1")]);
            assert_eq!(report.forwarding, [link("wan0")]);
            assert_eq!((links(), qdiscs()), before, "{manner}");
            assert!(!Forwarding::is_on(&link("wan0")));
            assert!(!directory.join("bpf").exists());
            assert_eq!(std::fs::read_dir(directory.join("state")).unwrap().count(), 0);
            let again = uninstall(&directory.join("bpf"), &directory.join("state")).await.unwrap();
            assert_eq!(again, Report::default());
        });
    }
}

#[test]
fn every_program_tells_its_size_and_counts_from_nothing() {
    on_a_host_of_its_own(async |directory| {
        let host = open(&directory, false).await;
        let programs = host.programs().unwrap();

        assert!(programs.iter().all(|program| program.verified_instructions > Some(0)), "{programs:?}");
        assert_eq!(host.counters().unwrap(), Hook::ALL.map(|hook| (hook, Counters::default())).into());
        assert!(host.flows(&mut |_, _| panic!("there is no flow")).unwrap() > Instant::default());
    });
}

#[test]
fn a_clsact_qdisc_of_ours_stays_while_another_uses_it() {
    on_a_host_of_its_own(async |directory| {
        add_veth("wan0", "wan1", 7).await;
        let mut host = open(&directory, true).await;
        host.apply(&Step::Attach(link("wan0"), Hook::FromUplink)).await.unwrap();
        // Another's program, by chance of the same name.
        let mut stranger = aya::Ebpf::load(crate::dataplane::OBJECT).unwrap();
        let program: &mut SchedClassifier = stranger.program_mut("from_uplink").unwrap().try_into().unwrap();
        program.load().unwrap();
        program
            .attach_with_options("wan0", TcAttachType::Ingress, TcAttachOptions::Netlink(NlOptions::default()))
            .unwrap();
        assert_eq!(host.links.filters().await.unwrap().len(), 2);

        host.apply(&Step::Detach(link("wan0"), Hook::FromUplink)).await.unwrap();
        assert_eq!(host.links.filters().await.unwrap().len(), 1);
        drop(host);
        uninstall(&directory.join("bpf"), &directory.join("state")).await.unwrap();

        let left = Links::open().unwrap().filters().await.unwrap();
        assert_eq!(left.into_iter().map(|filter| filter.name).collect::<Vec<_>>(), ["from_uplink"]);
        assert!(qdiscs().contains("clsact"));
    });
}

#[test]
fn what_another_pins_beside_ours_stays() {
    on_a_host_of_its_own(async |directory| {
        drop(open(&directory, false).await);
        let foreign = directory.join("bpf/foreign");
        aya::maps::HashMap::<MapData, u32, u32>::create(1, 0).unwrap().pin(&foreign).unwrap();

        uninstall(&directory.join("bpf"), &directory.join("state")).await.unwrap();

        assert!(foreign.exists());
        assert!(!directory.join("bpf").join(LAYOUT).exists());
    });
}

#[test]
fn a_host_lives_in_a_task_that_any_thread_may_run() {
    on_a_host_of_its_own(async |directory| {
        let mut host = open(&directory, false).await;
        let task = tokio::spawn(async move {
            host.apply(&Step::PutSettings(settings())).await.unwrap();
            host.facts(&BTreeSet::new()).await.unwrap();
            host.observe().await.unwrap()
        });
        assert_eq!(task.await.unwrap().settings, Some(settings()));
    });
}

#[test]
fn all_that_is_missing_is_said_at_once_and_nothing_is_made() {
    on_a_host_of_its_own(async |directory| {
        let options = options(&directory, false);
        let keep = libc::uid_t::MAX;
        // SAFETY: takes no pointer. The system call itself, which concerns this thread alone: libc's function tells all
        // threads of the test binary.
        let became_nobody = unsafe { libc::syscall(libc::SYS_setresuid, keep, 65_534, keep) };
        assert_eq!(became_nobody, 0);

        let refused = Host::open(options).await.err().unwrap().to_string();

        let capabilities = "CAP_NET_ADMIN (links, addresses, routes); \
                            CAP_SYS_ADMIN (entering the containers' namespaces); \
                            CAP_BPF and CAP_PERFMON (loading programs)";
        assert_eq!(refused, format!("netd cannot run here; missing: {capabilities}"));
        assert!(!directory.join("bpf").exists());
    });
}

#[test]
fn a_place_where_no_bpffs_can_be_is_refused_by_name() {
    on_a_host_of_its_own(async |directory| {
        std::fs::write(directory.join("file"), "").unwrap();
        let bpf_dir = directory.join("file/bpf");

        let refused = Host::open(HostOptions { bpf_dir: bpf_dir.clone(), ..options(&directory, false) }).await;

        let refused = refused.err().unwrap().to_string();
        assert!(refused.contains(&format!("a bpffs at {}, which cannot be made", bpf_dir.display())), "{refused}");
    });
}

async fn open(directory: &Path, clsact_only: bool) -> Host {
    Host::open(options(directory, clsact_only)).await.unwrap()
}

fn options(directory: &Path, clsact_only: bool) -> HostOptions {
    let state_dir = directory.join("state");
    std::fs::create_dir_all(&state_dir).unwrap();
    let dataplane = Options { clsact_only, ..Options::default() };
    HostOptions { bpf_dir: directory.join("bpf"), state_dir, uplinks: Vec::new(), dataplane }
}

/// Each link's name and link-layer address; whether it has a carrier settles a little later.
fn links() -> Vec<(String, String)> {
    let columns = |line: &str| -> Option<(String, String)> {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.nth(1)?.to_owned()))
    };
    ip(&["-br", "link"]).lines().filter_map(columns).collect()
}

fn qdiscs() -> String {
    let out = Command::new("tc").args(["qdisc", "show"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

fn delete(name: &str) {
    ip(&["link", "del", name]);
}

fn ip(arguments: &[&str]) -> String {
    let out = Command::new("ip").args(arguments).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn network(sandbox: Sandbox) -> (Bridge, Veth) {
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let bridge = Bridge { owner: "blue".into(), mac, mtu: 1500, addresses: ["10.176.0.1/24".parse().unwrap()].into() };
    let interface = Interface {
        name: link("eth0"),
        mac: Mac([2, 0, 0, 0, 0, 2]),
        addresses: ["10.176.0.2/24".parse().unwrap()].into(),
        gateways: ["10.176.0.1".parse().unwrap()].into(),
    };
    (bridge, Veth { owner: "web".into(), bridge: link("nd1"), mtu: 1500, sandbox, interface })
}

fn uplink() -> DeviceRecord {
    DeviceRecord {
        kind: DeviceKind::Uplink as u8,
        flags: 2,
        zone: Zone::HOST,
        bridge: None,
        mtu: 1500,
        ipv4: [192, 0, 2, 1],
        gateway_ipv4: [0; 4],
        ipv6: [1; 16],
        gateway_ipv6: [0; 16],
        mac: Mac([2; 6]),
        gateway_mac: Mac::default(),
    }
}

fn settings() -> Settings {
    Settings {
        secret: [1, 2],
        pools: [PortRange { first: 10_000, last: 27_000 }; 2],
        ephemeral: PortRange { first: 32_768, last: 60_999 },
        timeouts: [Span::at_least_seconds(30); Timeout::COUNT],
    }
}

fn address(last: u8) -> Address {
    Address::v4([10, 176, 0, last])
}

fn endpoint_key() -> EndpointKey {
    EndpointKey { address: address(2), zone: Zone(5), pad: 0 }
}

fn publication_key() -> PublicationKey {
    PublicationKey { address: Address::ANY_V4, port: Port::new(8080), protocol: TCP, pad: 0 }
}
