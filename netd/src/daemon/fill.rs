//! How full the flow table is, as far as it is worth telling.

use super::events::{Happening, WarningAction};
use crate::reconcile::Collected;

/// Turns of the collector without a refused flow after which the table counts as having room.
const QUIET: u32 = 10;

const FILLING: &str = "the flow table is filling up: unanswered and closed flows go before their time";
const FULL: &str = "the flow table is full of flows that are alive: new ones are refused";
const STARVED: &str = "the kernel has no memory for more of the flow table, which has room: new flows are refused";

/// What was last told.
#[derive(Debug, Default)]
pub struct Fill {
    /// Whether room is short.
    pub under_pressure: bool,
    full: bool,
    starved: bool,
    refused: Option<u64>,
    quiet: u32,
}

impl Fill {
    /// What is to be told after a turn of the collector; `refused` counts the flows that found no room since the counters began.
    pub fn note(&mut self, collected: Collected, refused: u64) -> Vec<Happening> {
        let grown = self.refused.replace(refused).is_some_and(|before| before < refused);
        self.quiet = if grown { 0 } else { self.quiet.saturating_add(1) };
        // With room in it, what refuses a flow is the kernel.
        let (full, starved) = if grown {
            (collected.under_pressure, !collected.under_pressure)
        } else if self.quiet < QUIET {
            (self.full, self.starved)
        } else {
            (false, false)
        };
        let mut told = Vec::new();
        told.extend(change(&mut self.under_pressure, collected.under_pressure, FILLING));
        told.extend(change(&mut self.full, full, FULL));
        told.extend(change(&mut self.starved, starved, STARVED));
        told
    }
}

fn change(was: &mut bool, is: bool, message: &str) -> Option<Happening> {
    let changed = *was != is;
    *was = is;
    let action = if is { WarningAction::Raise } else { WarningAction::Clear };
    changed.then(|| Happening::Warning { action, message: message.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(message: &str) -> Happening {
        Happening::Warning { action: WarningAction::Raise, message: message.to_owned() }
    }

    fn cleared(message: &str) -> Happening {
        Happening::Warning { action: WarningAction::Clear, message: message.to_owned() }
    }

    #[test]
    fn pressure_is_told_once_when_it_comes_and_once_when_it_goes() {
        let pressed = |under_pressure| Collected { flows: 0, under_pressure };
        let mut fill = Fill::default();
        let told: Vec<_> = [false, true, true, false, false].map(|p| fill.note(pressed(p), 0)).concat();
        assert_eq!(told, [raised(FILLING), cleared(FILLING)]);
    }

    #[test]
    fn a_full_table_is_told_of_until_no_flow_was_refused_for_a_while() {
        let full = Collected { flows: 0, under_pressure: true };
        let mut fill = Fill { under_pressure: true, ..Fill::default() };
        assert_eq!(fill.note(full, 7), []);
        assert_eq!(fill.note(full, 9), [raised(FULL)]);
        for _ in 1..QUIET {
            assert_eq!(fill.note(full, 9), []);
        }
        assert_eq!(fill.note(full, 9), [cleared(FULL)]);
    }

    #[test]
    fn where_flows_are_refused_beside_room_for_them_it_is_memory_that_is_said_to_be_short() {
        let mut fill = Fill::default();
        fill.note(Collected::default(), 0);
        assert_eq!(fill.note(Collected::default(), 3), [raised(STARVED)]);
        let full = Collected { flows: 0, under_pressure: true };
        assert_eq!(fill.note(full, 5), [raised(FILLING), raised(FULL), cleared(STARVED)]);
    }
}
