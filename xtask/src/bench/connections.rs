//! What TCP does on a host with many flows and many published ports: streams, round trips and connections out of a container and to a
//! port of the host, while all the others are alive.

use std::time::Duration;

use anyhow::Result;

use super::{
    figures::Measure,
    findings::{Area, Findings},
    load::{Load, Turn},
    scale::{Ground, Point, Traffic},
    turns::{Turns, whose},
};

/// What is measured; datagrams are [`super::scale`]'s.
const LOADS: [Load; 3] = [Load::Stream, Load::Exchange, Load::Connect];
/// By whom: one out of the container, one to a port from outside.
const WAYS: [Traffic; 2] = [Traffic::OneOut, Traffic::OneIn];

/// Measures them at each of these grounds, one after the other within a round.
pub fn measured(
    findings: &mut Findings,
    turns: &mut Turns,
    mut grounds: Vec<&mut Ground>,
    rounds: usize,
    time: Duration,
) -> Result<()> {
    for way in WAYS {
        for load in LOADS {
            // Round zero warms up.
            for round in 0..=rounds {
                for turn in 0..grounds.len() {
                    let at = whose(round, turn, grounds.len());
                    let ground = &mut *grounds[at];
                    let (who, point) = (ground.who(), ground.point());
                    let name = format!("{} at scale, {}: {}, {point}", who.name(), way.path(), load.name());
                    if round == 0 {
                        turns.take(name, || ground.run(way, load, time))?;
                        continue;
                    }
                    let values = turns.take_steady(who, name, || {
                        let Turn { values, beats, .. } = ground.run(way, load, time)?;
                        Ok((values, beats))
                    })?;
                    for (measure, value) in values {
                        findings.add(Area::Scale, &about(way, measure, point), who, measure.unit(), value);
                    }
                }
            }
        }
    }
    Ok(())
}

/// What a table calls a measure at a point.
fn about(way: Traffic, measure: Measure, point: Point) -> String {
    format!("{}, {}: {point}", way.path(), measure.title())
}

#[cfg(test)]
mod tests {
    use super::{super::scale::BUSY, *};

    #[test]
    fn each_load_of_tcp_is_measured_and_each_row_says_which_way_and_among_how_many() {
        let measured = |measure: &Measure| LOADS.contains(&Load::of(*measure));

        assert_eq!(Measure::ALL.into_iter().filter(measured).count(), 6);
        assert_eq!(
            about(Traffic::OneIn, Measure::Exchange99, BUSY),
            "published, round trip p99: 100,000 flows, 10,000 ports"
        );
        assert_eq!(
            about(Traffic::OneOut, Measure::Stream, BUSY),
            "masquerade, TCP stream: 100,000 flows, 10,000 ports"
        );
    }
}
