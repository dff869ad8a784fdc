//! What holds whatever comes, in whatever order.

use netd_common::{packet::Packet, tables::Hook};
use netd_tests::{
    scene::{self, A, B, UPLINK},
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
        let world = scene::world_of_both_families();
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
}
