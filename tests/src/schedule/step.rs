//! What happens in a schedule, decoded from bytes.

use netd_common::parse::tcp_flags::{ACK, FIN, RST, SYN};

use super::conversation::Side;

/// Bytes that say one step.
pub const LENGTH: usize = 7;
/// No packet is interrupted after so many steps in the flow table: few take as many.
const LAST: u8 = 40;

/// Something that happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A packet of a conversation.
    Speak {
        /// Which, counted around.
        conversation: usize,
        /// Who speaks.
        side: Side,
        /// Of TCP.
        flags: u8,
        /// Whether the checksum is left to the device.
        offload: bool,
    },
    /// Seconds pass.
    Wait(u64),
    /// One entry of the flow table, counted around, is lost.
    Lose(usize),
}

/// An action, and what another CPU does before one of its steps in the flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The action.
    pub action: Action,
    /// The other's, and before which step.
    pub meanwhile: Option<(u32, Action)>,
}

impl Step {
    /// The steps that these bytes say; what is left over says nothing.
    pub fn all(bytes: &[u8]) -> Vec<Self> {
        bytes.as_chunks::<LENGTH>().0.iter().copied().map(Self::new).collect()
    }

    /// The step that these bytes say.
    pub fn new(b: [u8; LENGTH]) -> Self {
        let meanwhile = (1..=LAST).contains(&b[3]).then(|| (u32::from(b[3]) - 1, Action::new([b[4], b[5], b[6]])));
        Self { action: Action::new([b[0], b[1], b[2]]), meanwhile }
    }
}

impl Action {
    fn new([kind, which, how]: [u8; 3]) -> Self {
        let speak = |side| Self::Speak {
            conversation: usize::from(which),
            side,
            flags: flags(side, how),
            offload: kind & 0x80 != 0,
        };
        match kind & 0x1f {
            0..=15 => speak(Side::Opens),
            16..=26 => speak(Side::Answers),
            27..=28 => Self::Wait(u64::from(how & 7)),
            29 => Self::Wait(u64::from(how) + 1),
            30 => Self::Wait(u64::from(how) * u64::from(how) * 10),
            _ => Self::Lose(usize::from(how)),
        }
    }
}

/// Mostly what a connection goes through, and anything.
fn flags(side: Side, how: u8) -> u8 {
    match (how % 16, side) {
        (0..=4, Side::Opens) => SYN,
        (0..=4, Side::Answers) => SYN | ACK,
        (5..=9, _) => ACK,
        (10..=12, _) => FIN | ACK,
        (13, _) => RST,
        (14, _) => RST | ACK,
        _ => how >> 4 & (SYN | ACK | FIN | RST) | how >> 7 << 4,
    }
}
