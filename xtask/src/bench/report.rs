//! The document that a run leaves: on what it was made, its tables, what the programs cost, and the targets.

use std::fmt::Write;

use super::{
    Measured,
    figures::Measure,
    findings::Area,
    gaps, table,
    targets::{Verdict, missed_at_scale, missed_on_paths},
};

/// How a run was made.
pub struct Manner {
    /// The command line that repeats it.
    pub command: String,
    /// Rounds that count.
    pub rounds: usize,
    /// Seconds of each load in each.
    pub seconds: f64,
}

/// The document.
pub fn document(
    manner: &Manner,
    facts: &[(&'static str, String)],
    measured: &Measured,
    verdicts: &[Verdict],
) -> String {
    let Measured { figures, findings, costs, profiles, .. } = measured;
    let mut text = String::new();
    let mut add = |part: &str| text.push_str(part);
    add("# What the bench measured\n\n");
    add(&format!(
        "Written by `{}`: {} rounds of {} s for each load, contenders one after the other within a round, beginning with \
         another one each time, after a round that does not count. Medians of the rounds with the least and the greatest; \
         ratios are taken within a round and the median of them is shown. `veth` is the limit: one veth pair between client \
         and server, no NAT. `netd-tcx` is netd whose daemon is told to attach its programs to containers' devices by TCX too \
         (`--endpoint-attach tcx`); targets are netd's as it is without a word, which has a bridge's program by TCX half a \
         minute after its network was made: the paths from the host wait for that. The sender's processor also does what the \
         kernel does for a packet until it is in the receiver's socket. The numbers of two runs or two machines do not compare; \
         the ratios of one run do. Every 8 ms of a turn its client does a piece of work that is always the same: where others \
         have made its processor slow for more than 15 % of it the turn is taken again, some times and for a part of the run's \
         time at most, and then the least slow one counts. Only that work decides it, and never what a turn has measured; the \
         round trip right after it is not among the times.\n\n",
        manner.command, manner.rounds, manner.seconds
    ));
    for (name, value) in facts {
        add(&format!("- {name}: {value}\n"));
    }
    for path in figures.paths() {
        add(&format!("\n## {}\n\n{}", path.name(), table::results(figures, path).markdown()));
    }
    for area in Area::ALL.into_iter().filter(|area| findings.of(*area).next().is_some()) {
        add(&format!("\n## {}\n\n{}\n\n{}", area.title(), explained(area), table::findings(findings, area).markdown()));
    }
    if !figures.paths().is_empty() {
        add("\n## Charts\n\n");
        for measure in Measure::ALL {
            add(&format!("![{}]({}.svg)\n", measure.title(), measure.slug()));
        }
    }
    if !costs.is_empty() {
        add(
            "\n## What netd's programs cost\n\nThe kernel's own count, taken beside the rounds; counting adds some tens of \
             nanoseconds to each run. Of each: of each packet that arrived, round trip, connection, or mebibyte of a \
             stream.\n\n",
        );
        add(&table::costs(costs).markdown());
    }
    if missed_on_paths(figures).next().is_some() {
        add(
            "\n## What the gaps are made of\n\nWhere a target of a path is missed, of each packet, round trip or connection, \
             and of a stream of each mebibyte: how much longer it takes with netd than with the contender that the target \
             names, how much longer with `redirect` and with `tracking`, and what netd's programs take of it by the kernel's count, \
             which is high by some tens of nanoseconds a run. `redirect` is two programs that redirect and do nothing else: its part \
             is the second veth pair's, the kernel's redirect's and its neighbour output's, which no program of netd's could win \
             back. `tracking` is the same two programs with a look-up for each packet and two entries for each connection, one a \
             direction, in a hash of the kernel's that makes entries as they come: it translates nothing, notes nothing and ends \
             nothing. So what is between it and the limit could not be won back by a design that redirects as it does, looks each \
             packet's flow up in such a hash and puts two entries for each flow; one that keeps flows otherwise may have another \
             part. Where `redirect` and `tracking` differ less than the rounds of each do, it may be chance. What \
             is left is the kernel's, because of netd: memory of flows that is made and given back, and lines of \
             caches that the tables take from the rest; where it is less than nothing, what the kernel does in the other's way \
             is longer (a bridge, netfilter). On the host path nothing redirects between namespaces.\n\nWhat was found by \
             hand, on an AMD EPYC with retpolines and safe returns: a container's device has its programs by filters of a \
             qdisc, whose classifying takes 60 to 100 ns a run. TCX takes about 15, but to attach by it has every other \
             change of links wait for a grace period of RCU (16 ms) for each program of a container that comes and again when it \
             goes: `netd-tcx` is netd that is told to (`--endpoint-attach tcx`). A call of \
             the kernel's that changes a checksum takes 20 ns and one of its coarse clock 14: a packet of which addresses and \
             a port change makes one of the first, since what that makes of the field tells whether the port's part is to be \
             written, and one packet of a jiffy makes the second. A connection makes two entries of a flow, in memory that no \
             L1 or L2 cache has; each of its packets looks up one, and those that change the flow's state two times more, to find \
             the other half and to note their own. For one of the host's own to a published port memory is taken instead that its \
             socket keeps, by which it is known when the port goes. Tried in vain: a table of a twelfth of the room, entries that \
             were made before, neighbours of the host that netd sets for its containers, and what a socket dialled in a hash, \
             taken out by a program at its close, instead of in its storage. A stream's packets are as large as the kernel makes them, so what programs and tables have in these \
             caches is gone after each copy of one: a run takes twice what it takes of a datagram. Neither a copy of a segment nor \
             a sum of its bytes is added.\n\n",
        );
        add(&gaps::on_paths(figures, costs).markdown());
    }
    if missed_at_scale(findings).next().is_some() {
        add(
            "\n## What the gaps at scale are made of\n\nOf each packet: how much longer it takes than what it is compared \
             with, and what netd's programs take of both. What they take longer is waiting for memory: a packet's flow is in a \
             bucket and an entry (`lookup_nulls_elem_raw` reads both) that no L1 or L2 cache has where there are many, and of \
             so many flows many packets are the first of their flow in a tick of a second, which is noted with its way looked \
             up anew. Of a million in turn each is the first for seconds, so that the flow's other half is read and noted too. \
             The rest is the kernel's, of each destination (`__ip_select_ident`) and socket (`udp_v4_early_demux`), and the \
             sender's own list of addresses. Of iptables, whose nf_conntrack keeps flows too, the ratio is of the same flows \
             and one port.\n\n",
        );
        add(&gaps::at_scale(findings).markdown());
    }
    let (commands, memory) = (gaps::of_commands(findings), gaps::of_memory(findings));
    if !commands.is_empty() {
        add(
            "\n## What the gaps of commands are made of\n\nOf what took too long, the shortest of its repeats, the middle one and \
             the longest: how long of it netd's daemon had a processor (all its threads, so it may be more than went by), how long \
             it was ready and waited for one, and what is left: the command's own process, whose like without any work is in the \
             table above (`true`), what the kernel lets callers wait for, and the time in which the machine stood still. Where the \
             daemon's own time is the same in all repeats, what differs is not the daemon's own work.\n\n",
        );
        add(&commands.markdown());
    }
    if let Some(told) = memory {
        add(&format!("\n## What the gap of memory is made of\n\n{told}"));
    }
    if !profiles.taken.is_empty() {
        add(
            "\n## Where the time goes\n\nOf each packet, round trip, connection or mebibyte, the time of all processors in the \
             functions of each part of the kernel (`xtask/src/bench/parts.rs`), both ends included, netd's daemons left out: a \
             sample of `perf` on each processor every 100 µs, in 8 turns of their own, of which this is the mean; taking \
             samples costs time too. What cannot be interrupted is found where interrupts come in again, in the part of locks. \
             Below each table the functions in which the last column is longer than the first, and by how many \
             nanoseconds.\n",
        );
        for profile in &profiles.taken {
            add(&format!("\n### {}\n\n{}", profile.of, table::profile(profile).markdown()));
            let longer: Vec<_> =
                profile.longer().into_iter().map(|(function, time)| format!("`{function}` {time:.0}")).collect();
            if !longer.is_empty() {
                add(&format!("\nLonger: {}.\n", longer.join(", ")));
            }
        }
    }
    add(
        "\n## Targets\n\nWithout a unit, ratios of netd's median to the other's, by which a target is held or missed; beside \
         it the least and the greatest of the ratios within one round each, or of the numbers: where the bound is between \
         them, another run may say otherwise. CPU is the time that the processors did not sleep, the sum of both ends, and \
         what the machine beneath took from them is in it; on the paths host and loopback the start of the client too.\n\n",
    );
    add(&table::targets(verdicts).markdown());
    let _ = write!(text, "\n{}\n", summary(verdicts));
    text
}

/// How the numbers of an area come about.
const fn explained(area: Area) -> &'static str {
    match area {
        Area::Scale => {
            "Datagrams of 64 bytes from one socket to as many addresses (masquerade) or published ports as there are flows or \
             ports, in hosts that are all alive in the same run, one after the other within a round. Flows are made by their \
             packets; in turn every flow is sent one packet after the other, so that nothing of a flow is in an L1 or L2 cache \
             when there are many, and each had its last one as long ago as that takes (with a million flows up to 15 s). The \
             daemons of all these hosts are kept on the receivers' processor; how much of it each takes is told too, a mean \
             over everything that is done at scale, and their sum is in the CPU per packet. iptables has a rule for \
             each port, which are gone through one after the other until one fits, half of them before the one port. Streams, \
             round trips and connections are of one connection, or of one after the other, among those flows and ports, in half as many \
             rounds."
        }
        Area::Memory => {
            "A flow of 100,000 or more: the growth of the kernel's objects (`/proc/slabinfo`) while they are made, for netd \
             and for nf_conntrack with NAT. What is there from the start is not in it: of netd the maps below, of nf_conntrack \
             its buckets (8 bytes each). Maps as the kernel accounts for them (`memlock` of their descriptors)."
        }
        Area::Control => {
            "From the start of a process of the command line, or of the CNI plugin, to its end; turn about on two hosts. Each \
             row has in it what starting a process costs, and ends when the answer is there."
        }
    }
}

/// How many targets are held.
pub fn summary(verdicts: &[Verdict]) -> String {
    let judged = verdicts.iter().filter_map(Verdict::held);
    let (held, missed): (Vec<_>, Vec<_>) = judged.partition(|held| *held);
    let rest = verdicts.len() - held.len() - missed.len();
    format!("{} of {} targets held, {} missed, {rest} not measured.", held.len(), verdicts.len(), missed.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        control::about,
        cost::Cost,
        load::Load,
        site::{Contender, Path},
        targets::judged,
    };

    #[test]
    fn the_document_names_the_machine_and_ends_with_the_targets() {
        let mut measured = Measured::default();
        for (contender, value) in [(Contender::Veth, 600.0), (Contender::Netd, 570.0), (Contender::Cni, 580.0)] {
            measured.figures.add(Path::Masquerade, contender, Measure::Packets, value);
        }
        let manner = Manner { command: "cargo xtask bench".into(), rounds: 1, seconds: 0.5 };

        let verdicts = judged(&measured.figures, &measured.findings);

        let text = document(&manner, &[("kernel", "6.18".into())], &measured, &verdicts);

        assert!(text.contains("- kernel: 6.18\n"), "{text}");
        assert!(text.contains("## masquerade"), "{text}");
        let row = |against: &str| {
            text.lines().find(|line| {
                line.contains("masquerade") && line.contains("UDP") && line.contains(against) && line.contains("ed ")
            })
        };
        let gap_rows = |text: &str, against: &str| -> Vec<String> {
            let part =
                text.split_once("## What the gaps are made of").and_then(|(_, rest)| rest.split_once("## Targets"));
            let rows = part.into_iter().flat_map(|(part, _)| part.lines().map(str::to_owned));
            rows.filter(|row| row.contains(&format!("| {against} "))).collect()
        };
        assert_eq!((gap_rows(&text, "veth").len(), gap_rows(&text, "cni").len()), (0, 1), "{text}");
        measured.figures.add(Path::Masquerade, Contender::Redirect, Measure::Packets, 540.0);
        measured.figures.add(Path::Masquerade, Contender::Tracking, Measure::Packets, 520.0);
        measured.figures.add(Path::Masquerade, Contender::Netd, Measure::Packets, 400.0);
        let cost = Cost {
            path: Path::Masquerade,
            load: Load::Datagrams,
            program: "from_container".into(),
            runs: 1,
            nanoseconds: 225.0,
            each: 226.0,
            verified: None,
        };
        measured.costs.push(cost);
        let worse = document(&manner, &[], &measured, &verdicts);
        // 485, 600, 540 and 520 thousand a second.
        let rows = gap_rows(&worse, "veth");
        let numbers: Vec<_> = rows.iter().flat_map(|row| row.split('|').map(str::trim).skip(4)).collect();
        assert_eq!(numbers, ["0.808", "0.900", "0.867", "395", "185", "256", "226", ""], "{worse}");
        assert!(row("| veth").is_some_and(|row| row.contains("held")), "{text}");
        assert!(text.lines().any(|line| line.starts_with("| masquerade") && line.contains("missed")), "{text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("1 of ") && last.contains(" 1 missed, "), "{last}");
    }

    #[test]
    fn what_the_gaps_of_commands_and_of_memory_are_made_of_is_told_of_those_that_are_missed() {
        let (commands, memory) = ("the shortest of its repeats", "are its own. ");
        let manner = Manner { command: "cargo xtask bench".into(), rounds: 1, seconds: 0.5 };
        let mut measured = Measured::default();
        let told = |measured: &Measured| {
            let text = document(&manner, &[], measured, &[]);
            [commands, memory].map(|part| text.contains(part))
        };
        assert_eq!(told(&measured), [false, false]);

        for (about, megabytes) in [(about::RESIDENT, 32.0), (about::OWN, 8.5)] {
            measured.findings.add(Area::Memory, about, Contender::Netd, "MB", megabytes);
        }
        assert_eq!(told(&measured), [false, true]);

        measured.findings.add(Area::Control, about::SINGLES, Contender::Netd, "ms", 300.0);
        assert_eq!(told(&measured), [true, true]);
    }
}
