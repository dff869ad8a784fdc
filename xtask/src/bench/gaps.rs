//! What netd misses, and what of that is whose: of each packet on paths and at scale, of what commands take. Nothing here performs IO.

use super::{
    control::about,
    cost::{self, Cost},
    figures::{Figures, Measure},
    findings::Findings,
    load::Load,
    scale::{Point, Traffic},
    site::Contender,
    table::{Table, digits, whole},
    targets::{missed_at_scale, missed_by_themselves, missed_on_paths},
};

/// What netd misses on paths, and what of that the kernel's redirect alone does, that with a table of flows, and netd's programs take:
/// of each packet, round trip, connection or mebibyte.
pub fn on_paths(figures: &Figures, costs: &[Cost]) -> Table {
    let head = [
        "of",
        "measure",
        "against",
        "netd to it",
        "redirect to it",
        "tracking to it",
        "gap, ns",
        "redirect, ns",
        "tracking, ns",
        "programs, ns",
    ];
    let mut table = Table::new(&head, 3);
    for (path, measure, against) in missed_on_paths(figures) {
        let ratio = |one| figures.ratio(path, measure, one, against).map(|ratio| format!("{ratio:.3}"));
        let each = |who| figures.spread(path, measure, who).map(|spread| measure.nanoseconds(spread.median));
        let beyond = |who| Some(whole(each(who)? - each(against)?));
        let programs = cost::of_each(costs, path, Load::of(measure)).map(whole);
        let numbers = [
            ratio(Contender::Netd),
            ratio(Contender::Redirect),
            ratio(Contender::Tracking),
            beyond(Contender::Netd),
            beyond(Contender::Redirect),
            beyond(Contender::Tracking),
            programs,
        ];
        let words = [path.name(), measure.title(), against.name()].map(str::to_owned);
        table.push(words.into_iter().chain(numbers.map(Option::unwrap_or_default)).collect());
    }
    table
}

/// What netd misses at scale, of each packet, what of that is in its programs, and what many flows do to the rate of the peer that keeps
/// flows too.
pub fn at_scale(findings: &Findings) -> Table {
    let head =
        ["of", "against", "netd to it", "gap, ns", "programs, ns", "programs of the other, ns", "the same of iptables"];
    let mut table = Table::new(&head, 2);
    for [(traffic, point), (other, base)] in missed_at_scale(findings) {
        let rates = |who| {
            // The peer has one port, whatever the number of flows.
            let of = |point| if who == Contender::Netd { point } else { Point { ports: 1, ..point } };
            let rate = |traffic: Traffic, point| findings.median(&traffic.about(of(point)), who);
            rate(traffic, point).zip(rate(other, base))
        };
        let each = |rate| Measure::Packets.nanoseconds(rate);
        let ratio = |(one, other): (f64, f64)| format!("{:.3}", one / other);
        let gap = rates(Contender::Netd).map(|(one, other)| whole(each(one) - each(other)));
        let [here, there] = [traffic.in_programs(point), other.in_programs(base)].map(|about| findings.netds(&about));
        let numbers = [
            rates(Contender::Netd).map(ratio),
            gap,
            here.map(whole),
            there.map(whole),
            rates(Contender::Iptables).map(ratio),
        ];
        let words = [traffic.about(point), other.about(base)];
        table.push(words.into_iter().chain(numbers.map(Option::unwrap_or_default)).collect());
    }
    table
}

/// What netd misses of what commands take, in milliseconds: of the shortest repeat, the middle one and the longest, how long of it the
/// daemon had a processor and how long it waited for one; the rest is the command's own process, the kernel's grace periods, and a machine
/// that stood still.
pub fn of_commands(findings: &Findings) -> Table {
    let head = ["of", "repeat", "ms", "bound", "daemon on a processor", "daemon waiting for one", "rest"];
    let mut table = Table::new(&head, 2);
    for (about, _, bound) in missed_by_themselves(findings).filter(|(_, unit, _)| *unit == "ms") {
        let times = |about: &str| findings.values(about, Contender::Netd).to_vec();
        let (took, spent, waited) = (times(about), times(&about::on_processor(about)), times(&about::waiting(about)));
        let mut order: Vec<_> = (0..took.len()).collect();
        order.sort_by(|one, other| took[*one].total_cmp(&took[*other]));
        for (repeat, at) in [("shortest", 0), ("middle", order.len() / 2), ("longest", order.len() - 1)] {
            let at = order[at];
            let daemon = spent.get(at).zip(waited.get(at));
            let shown = |number: Option<f64>| number.map(digits).unwrap_or_default();
            let rest = daemon.map(|(spent, waited)| (took[at] - spent - waited).max(0.0));
            let words = [about, repeat].map(str::to_owned);
            let numbers = [Some(took[at]), Some(bound), spent.get(at).copied(), waited.get(at).copied(), rest];
            table.push(words.into_iter().chain(numbers.map(shown)).collect());
        }
    }
    table
}

/// What of the memory that misses its target is the daemon's alone; `None` where it is held or not known.
pub fn of_memory(findings: &Findings) -> Option<String> {
    let (_, unit, bound) = missed_by_themselves(findings).find(|(about, ..)| *about == about::RESIDENT)?;
    let (all, own) = (findings.netds(about::RESIDENT)?, findings.netds(about::OWN)?);
    let [all, own, files, bound] = [all, own, all - own, bound].map(digits);
    Some(format!(
        "Of {all} {unit} that the daemon has in memory, where {bound} is the bound, {own} are its own. {files} are pages of files \
         that it maps, its binary above all, which the kernel takes back when it needs them and has once for everybody who runs it.\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{findings::Area, scale};

    fn rows_of(table: &Table) -> Vec<String> {
        table.csv().replace('"', "").lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn what_many_flows_cost_is_told_beside_what_they_cost_the_peer() {
        let mut findings = Findings::default();
        let (all, one) = (Traffic::AllOut.about(scale::BUSY), Traffic::OneOut.about(scale::LEAST));
        let with_one_port = Traffic::AllOut.about(Point { ports: 1, ..scale::BUSY });
        for (about, who, rate) in [
            (&all, Contender::Netd, 160.0),
            (&one, Contender::Netd, 200.0),
            (&with_one_port, Contender::Iptables, 102.0),
            (&one, Contender::Iptables, 120.0),
        ] {
            findings.add(Area::Scale, about, who, "kpps", rate);
        }
        findings.add(Area::Scale, &Traffic::AllOut.in_programs(scale::BUSY), Contender::Netd, "ns", 900.0);

        let table = at_scale(&findings);

        let rows = [[&*all, &one, "0.800", "1250", "900", "", "0.850"].join(",")];
        assert_eq!(rows_of(&table), rows);
    }

    #[test]
    fn what_a_command_takes_is_told_with_what_the_daemon_did_of_it_meanwhile() {
        let mut findings = Findings::default();
        for (took, spent, waited) in [(95.0, 60.0, 5.0), (300.0, 61.0, 204.0), (108.0, 60.5, 6.0)] {
            for (about, time) in [
                (about::SINGLES.to_owned(), took),
                (about::on_processor(about::SINGLES), spent),
                (about::waiting(about::SINGLES), waited),
            ] {
                findings.add(Area::Control, &about, Contender::Netd, "ms", time);
            }
        }
        findings.add(Area::Control, about::CREATE, Contender::Netd, "ms", 7.0);

        let rows = rows_of(&of_commands(&findings));

        let of = |row: &str| format!("{},{row}", about::SINGLES.replace('"', ""));
        let told =
            ["shortest,95.0,100,60.0,5.00,30.0", "middle,108,100,60.5,6.00,41.5", "longest,300,100,61.0,204,35.0"];
        assert_eq!(rows, told.map(of));
    }

    #[test]
    fn memory_that_is_too_much_is_told_by_whose_it_is() {
        let mut findings = Findings::default();
        assert_eq!(of_memory(&findings), None);
        for (about, megabytes) in [(about::RESIDENT, 32.0), (about::OWN, 8.5)] {
            findings.add(Area::Memory, about, Contender::Netd, "MB", megabytes);
        }

        let told = of_memory(&findings).expect("it is missed");

        assert!(told.starts_with("Of 32.0 MB") && told.contains("8.50 are its own. 23.5 are pages"), "{told}");
        assert!(of_commands(&findings).is_empty());
    }
}
