//! A whole host: programs attached and replaced, records written and read back, and what is refused at start.

use std::time::{Duration, Instant as Moment};

use aya::{
    Ebpf,
    maps::MapData,
    programs::{LinkOrder, SchedClassifier, TcAttachType, loaded_programs, tc::TcAttachOptions},
};
use netd_common::{
    tables::{Counters, DEVICE_SLOTS, Device, Instant, LAYOUT, Publication, Settings},
    tuple::{Mac, Zone},
};
use nix::libc;

use super::{fixtures::*, *};
use crate::{
    dataplane::OBJECT,
    reconcile::{DeviceRecord, EndpointRecord, Foreign, Kernel, ResolverState, State, Step},
    testing::{add_veth, link, on_a_host_of_its_own, sandbox},
};

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
fn a_start_with_another_object_puts_new_programs_in_the_place_of_the_old() {
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
            let pinned = directory.join("bpf").join(LAYOUT).join("programs");
            for pin in std::fs::read_dir(&pinned).unwrap() {
                let pin = pin.unwrap().path();
                let (name, _) = pin.to_str().unwrap().split_once('@').unwrap();
                std::fs::rename(&pin, format!("{name}@of-another-object")).unwrap();
            }
            let mut host = open(&directory, false).await;

            assert_eq!(host.observe().await.unwrap(), before, "{manner}");
            let mut left = std::fs::read_dir(&pinned).unwrap().map(|pin| pin.unwrap().path());
            assert!(left.all(|pin| !pin.to_str().unwrap().ends_with("another-object")), "{manner}");
            assert!(host.programs().unwrap().iter().all(|program| !old.contains(&program.id)), "{manner}");
            // The kernel frees a program that nothing uses any more, a little later.
            let patience = Moment::now() + Duration::from_secs(60);
            while loaded_programs().flatten().any(|program| old.contains(&program.id())) {
                assert!(Moment::now() < patience, "{manner}: a program of before is still in use");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
}

#[test]
fn a_restart_takes_the_programs_over_but_for_those_on_maps_that_are_pinned_no_more() {
    on_a_host_of_its_own(async move |directory| {
        add_veth("wan0", "wan1", 7).await;
        let ids = |host: &Host| -> BTreeMap<String, u32> {
            let programs = host.programs().unwrap().into_iter().filter(|program| program.name != "uplink_xdp");
            programs.map(|program| (program.name, program.id)).collect()
        };
        let mut host = open(&directory, false).await;
        host.apply(&Step::Attach(link("wan0"), Hook::FromUplink)).await.unwrap();
        let before = ids(&host);
        drop(host);

        let mut host = open(&directory, false).await;
        assert_eq!(ids(&host), before);
        assert!(host.observe().await.unwrap().hooks.contains(&(link("wan0"), Hook::FromUplink)));
        drop(host);

        std::fs::remove_file(directory.join("bpf").join(LAYOUT).join("maps/PUBLICATIONS")).unwrap();
        let host = open(&directory, false).await;
        let after = ids(&host);
        assert_ne!(after["from_uplink"], before["from_uplink"], "it would look into a map that nobody writes");
        assert_eq!(after["dns_lo"], before["dns_lo"]);
    });
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
fn what_a_netd_of_another_layout_has_attached_is_detached_and_its_maps_go() {
    for (manner, clsact_only) in BOTH_MANNERS {
        on_a_host_of_its_own(async move |directory| {
            add_veth("wan0", "wan1", 7).await;
            let mut host = open(&directory, clsact_only).await;
            host.apply(&Step::Attach(link("wan0"), Hook::FromUplink)).await.unwrap();
            drop(host);
            let (own, other) = (directory.join("bpf").join(LAYOUT), directory.join("bpf/v1"));
            std::fs::rename(&own, &other).unwrap();

            let mut host = open(&directory, clsact_only).await;

            assert!(!other.exists(), "{manner}");
            assert!(own.join("maps/FLOWS").exists(), "{manner}");
            assert_eq!(own.join("qdiscs/7").exists(), clsact_only, "{manner}: whose the qdisc is stays known");
            host.apply(&Step::Attach(link("wan0"), Hook::FromUplink)).await.unwrap();
            let on: Vec<_> =
                host.programs().unwrap().into_iter().filter(|program| !program.devices.is_empty()).collect();
            assert_eq!(on.len(), 1, "{manner}: {on:?}");
        });
    }
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
fn a_container_has_its_resolver_whose_namespace_has_the_number_of_one_that_is_gone() {
    on_a_host_of_its_own(async |directory| {
        let mut host = open(&directory, false).await;
        let (bridge, veth) = network(sandbox());
        let inode = veth.sandbox.inode;
        let gone = Sandbox { path: directory.join("gone"), inode };
        let elsewhere = Sandbox { path: sandbox().path, inode };
        host.remember_sandboxes([(link("nd09"), gone), (link("nd10"), elsewhere)].into()).unwrap();
        host.apply(&Step::CreateBridge(link("nd1"), bridge)).await.unwrap();
        host.apply(&Step::CreateVeth(link("nd11"), veth.clone())).await.unwrap();

        host.apply(&Step::OpenResolver(inode)).await.unwrap();

        assert_eq!(host.observe().await.unwrap().resolvers, [(inode, ResolverState::Whole)].into());
        assert_eq!(host.sandboxes, [(link("nd11"), veth.sandbox)].into(), "the others are forgotten");
    });
}

#[test]
fn programs_and_their_pins_go_with_a_veth_that_is_deleted() {
    for (manner, clsact_only) in BOTH_MANNERS {
        on_a_host_of_its_own(async move |directory| {
            let mut host = open(&directory, clsact_only).await;
            let (bridge, veth) = network(sandbox());
            host.apply(&Step::CreateBridge(link("nd1"), bridge)).await.unwrap();
            host.apply(&Step::CreateVeth(link("nd11"), veth)).await.unwrap();
            for hook in [Hook::FromContainer, Hook::ToContainer] {
                host.apply(&Step::Attach(link("nd11"), hook)).await.unwrap();
            }

            host.apply(&Step::DeleteVeth(link("nd11"))).await.unwrap();

            for pins in ["links", "qdiscs"] {
                let directory = directory.join("bpf").join(LAYOUT).join(pins);
                assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0, "{manner}: {pins}");
            }
            assert!(host.programs().unwrap().iter().all(|program| program.devices.is_empty()), "{manner}");
        });
    }
}

#[test]
fn what_is_written_to_the_maps_is_read_back_and_goes() {
    on_a_host_of_its_own(async |directory| {
        // Two devices that want one slot.
        add_veth("wan0", "wan1", 7).await;
        add_veth("wan2", "wan3", 7 + DEVICE_SLOTS).await;
        assert_eq!(Device::slot(7), Device::slot(7 + DEVICE_SLOTS));
        let mut host = open(&directory, false).await;
        let empty = host.observe().await.unwrap();
        let device = DeviceRecord { bridge: Some(link("wan1")), ..uplink() };
        let endpoint = EndpointRecord { device: link("wan2"), mtu: 1400, mac: Mac([2; 6]), gateway_mac: Mac([4; 6]) };
        let publication = Publication::new(Zone(5), address(2), 8080, 80);

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
            Step::RemovePublication(publication_key(), publication),
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
        drop(Host::open(options.clone(), resolver()).await.unwrap());
        options.dataplane.flows_max = Some(8192);
        drop(Host::open(options.clone(), resolver()).await.unwrap());
        let maps = directory.join("bpf").join(LAYOUT).join("maps");
        let flows = aya::maps::MapInfo::from_pin(maps.join("FLOWS")).unwrap();
        assert_eq!(flows.max_entries(), 4096);

        let pin = maps.join("ENDPOINTS");
        std::fs::remove_file(&pin).unwrap();
        let wrong = aya::maps::HashMap::<MapData, u32, u32>::create(1, 0).unwrap();
        wrong.pin(&pin).unwrap();
        let refused = Host::open(options, resolver()).await.err().unwrap().to_string();

        let expected =
            format!("the pinned map {} has a key size of 4, not 20; `netd uninstall` removes it", pin.display());
        assert_eq!(refused, expected);
    });
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

        let refused = Host::open(options, resolver()).await.err().unwrap().to_string();

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

        let refused =
            Host::open(HostOptions { bpf_dir: bpf_dir.clone(), ..options(&directory, false) }, resolver()).await;

        let refused = refused.err().unwrap().to_string();
        assert!(refused.contains(&format!("a bpffs at {}, which cannot be made", bpf_dir.display())), "{refused}");
    });
}

#[test]
fn programs_of_others_at_our_hooks_are_told_with_their_place() {
    on_a_host_of_its_own(async move |directory| {
        add_veth("wan0", "wan1", 7).await;
        let mut host = open(&directory, false).await;
        let uplinks = BTreeSet::from([link("wan0")]);
        host.apply(&Step::Attach(link("wan0"), Hook::ToUplink)).await.unwrap();
        assert_eq!(host.checkup(&uplinks).await.unwrap().foreign, BTreeSet::new());

        // What belongs to another hook is another's here, and comes first.
        let mut others = Ebpf::load(OBJECT).unwrap();
        let program: &mut SchedClassifier = others.program_mut("to_container").unwrap().try_into().unwrap();
        program.load().unwrap();
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        program.attach_with_options("wan0", TcAttachType::Egress, first).unwrap();

        let (link, name) = (link("wan0"), "to_container".to_owned());
        let foreign = Foreign { link, hook: Hook::ToUplink, name, before: true };
        assert_eq!(host.checkup(&uplinks).await.unwrap().foreign, [foreign].into());
    });
}

mod records;
mod spanning;
