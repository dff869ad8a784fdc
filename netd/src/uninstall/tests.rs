//! An uninstall leaves the host as it was before netd, and everything foreign on it.

use aya::{
    maps::MapData,
    programs::{
        SchedClassifier, TcAttachType,
        tc::{NlOptions, TcAttachOptions},
    },
};
use netd_common::tables::{DeviceKind, Hook, LAYOUT};

use super::*;
use crate::{
    host::fixtures::*,
    reconcile::{DeviceRecord, Family, Kernel, State, Step},
    testing::{add_veth, link, on_a_host_of_its_own, sandbox},
};

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
                    Step::Forward(link("wan0"), Family::V4),
                    Step::Forward(link("nd1"), Family::V4),
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
                forwarding: [(link("nd1"), Family::V4), (link("wan0"), Family::V4)].into(),
                hooks,
                devices: [(link("nd11"), record)].into(),
                settings: Some(settings()),
                ..State::default()
            };
            assert_eq!(host.observe().await.unwrap(), built, "{manner}");

            drop(host);
            let report = uninstall(&directory.join("bpf"), &directory.join("state"), &[]).await.unwrap();

            assert_eq!(report.links, [link("nd11"), link("nd1")]);
            assert_eq!(report.forwarding, [link("wan0")]);
            assert_eq!((links(), qdiscs()), before, "{manner}");
            assert!(!Forwarding::is_on(&link("wan0"), Family::V4));
            assert!(!directory.join("bpf").exists());
            assert_eq!(std::fs::read_dir(directory.join("state")).unwrap().count(), 0);
            let again = uninstall(&directory.join("bpf"), &directory.join("state"), &[]).await.unwrap();
            assert_eq!(again, Report::default());
        });
    }
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
        assert_eq!(Links::open().unwrap().filters().await.unwrap().len(), 2);

        host.apply(&Step::Detach(link("wan0"), Hook::FromUplink)).await.unwrap();
        assert_eq!(Links::open().unwrap().filters().await.unwrap().len(), 1);
        drop(host);
        uninstall(&directory.join("bpf"), &directory.join("state"), &[]).await.unwrap();

        let left = Links::open().unwrap().filters().await.unwrap();
        assert_eq!(left.iter().map(|filter| filter.name.as_str()).collect::<Vec<_>>(), ["from_uplink"]);
        assert!(qdiscs().contains("clsact"));
    });
}

#[test]
fn what_another_pins_beside_ours_stays() {
    on_a_host_of_its_own(async |directory| {
        drop(open(&directory, false).await);
        let foreign = directory.join("bpf/foreign");
        aya::maps::HashMap::<MapData, u32, u32>::create(1, 0).unwrap().pin(&foreign).unwrap();

        uninstall(&directory.join("bpf"), &directory.join("state"), &[]).await.unwrap();

        assert!(foreign.exists());
        assert!(!directory.join("bpf").join(LAYOUT).exists());
    });
}

#[test]
fn an_uninstall_that_fails_half_way_leaves_no_container_without_programs() {
    on_a_host_of_its_own(async |directory| {
        let mut host = open(&directory, false).await;
        let (bridge, veth) = network(sandbox());
        host.apply(&Step::CreateBridge(link("nd1"), bridge)).await.unwrap();
        host.apply(&Step::CreateVeth(link("nd11"), veth.clone())).await.unwrap();
        host.apply(&Step::Attach(link("nd11"), Hook::FromContainer)).await.unwrap();
        host.apply(&Step::ConnectVeth(link("nd11"), veth)).await.unwrap();
        drop(host);
        let notes = directory.join("state/forwarding");
        std::fs::create_dir(&notes).unwrap();

        let failed = uninstall(&directory.join("bpf"), &directory.join("state"), &[]).await.unwrap_err().to_string();

        assert!(failed.contains(&notes.display().to_string()), "{failed}");
        assert!(links().iter().all(|(name, _)| !name.starts_with("nd11")), "the container is cut off");
        assert!(directory.join("bpf").join(LAYOUT).exists(), "the programs stand");
        std::fs::remove_dir(&notes).unwrap();
        uninstall(&directory.join("bpf"), &directory.join("state"), &[]).await.unwrap();
        assert!(!directory.join("bpf").exists());
    });
}
