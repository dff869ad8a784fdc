//! What holds whatever comes, in whatever order.

use netd_common::{
    packet::Packet,
    tables::{Hook, Instant},
    verdict::Verdict,
};
use netd_tests::{
    packets::udp,
    scene::{self, A, B, UPLINK},
    story::{enter, leave},
    world::Frame,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_a_panic_and_no_hook_shortens_a_packet(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        ethertype in prop::sample::select(vec![[8u8, 0], [0x86, 0xdd], [8, 6], [1, 2]]),
        hook in prop::sample::select(Hook::ALL.to_vec()),
        device in prop::sample::select(vec![A, B, UPLINK, 20, 99]),
        known_macs in any::<bool>(),
    ) {
        let world = scene::world();
        let mut bytes = bytes;
        if bytes.len() >= 14 {
            bytes[12..14].copy_from_slice(&ethertype);
            if known_macs {
                bytes[..6].copy_from_slice(&scene::bridge_mac(20));
                bytes[6..12].copy_from_slice(&scene::container_mac(A));
            }
        }
        let length = bytes.len();
        let mut frame = Frame::at(device, bytes);

        let _ = world.run(hook, &mut frame);

        prop_assert_eq!(frame.length(), length);
    }

    /// Under any schedule of openings, answers and waiting, no two flows answer on one tuple, and each answer reaches the
    /// container that asked.
    #[test]
    fn no_two_flows_ever_share_a_reply(steps in prop::collection::vec((0u8..3, 0u16..6, 0u16..3, 0u64..40), 1..120)) {
        let mut world = scene::world();
        let settings = world.settings.as_mut().unwrap();
        settings.pools[0].last = settings.pools[0].first + 3;
        settings.pools[1].last = settings.pools[1].first + 3;
        for (action, port, destination, wait) in steps {
            let (device, own) = if port % 2 == 0 { (A, "10.176.1.2") } else { (B, "10.176.1.3") };
            let (from, to) = (format!("{own}:{}", 33_000 + port / 2), format!("198.51.100.7:{}", 53 + destination));
            match action {
                0 => world.sleep_seconds(wait),
                _ => {
                    let out = leave(&world, device, udp(&from, &to), false);
                    if out.verdict == Verdict::Neighbour(UPLINK) && action == 1 {
                        let back = enter(&world, udp(&to, &out.source()), false);
                        prop_assert_eq!(back.verdict, Verdict::Peer(device));
                        prop_assert_eq!(back.destination(), from);
                    }
                }
            }
            let now = Instant::from_ns(world.clock.get());
            let flows = world.flows.borrow();
            for (key, flow) in flows.iter().filter(|(_, flow)| now <= flow.deadline) {
                let peer = flows.get(&flow.becomes.reversed(flow.becomes.zone));
                prop_assert!(peer.is_some_and(|peer| peer.becomes == key.reversed(key.zone)), "half a pair: {key:?}");
            }
        }
    }
}
