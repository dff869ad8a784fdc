//! The document that a run leaves: on what it was made, its tables, what the programs cost, and the targets.

use std::fmt::Write;

use super::{
    cost::Cost,
    figures::{Figures, Measure},
    table,
    targets::Verdict,
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
    figures: &Figures,
    costs: &[Cost],
    verdicts: &[Verdict],
) -> String {
    let mut text = String::new();
    let mut add = |part: &str| text.push_str(part);
    add("# What the bench measured\n\n");
    add(&format!(
        "Written by `{}`: {} rounds of {} s for each load, contenders one after the other within a round, beginning with \
         another one each time, after a round that does not count. Medians of the rounds with the least and the greatest; ratios \
         are taken within a round and the median of them is shown. `veth` is the limit: one veth pair between client and \
         server, no NAT. The numbers of two runs or two machines do not compare; the ratios of one run do.\n\n",
        manner.command, manner.rounds, manner.seconds
    ));
    for (name, value) in facts {
        add(&format!("- {name}: {value}\n"));
    }
    for path in figures.paths() {
        add(&format!("\n## {}\n\n{}", path.name(), table::results(figures, path).markdown()));
    }
    add("\n## Charts\n\n");
    for measure in Measure::ALL {
        add(&format!("![{}]({}.svg)\n", measure.title(), measure.slug()));
    }
    if !costs.is_empty() {
        add(
            "\n## What netd's programs cost\n\nThe kernel's own count, taken beside the rounds; counting adds some tens of nanoseconds to each run.\n\n",
        );
        add(&table::costs(costs).markdown());
    }
    add(
        "\n## Targets\n\nRatios of netd's median to the other's. Targets of paths and measures that are not here have not been measured.\n\n",
    );
    add(&table::targets(verdicts).markdown());
    let _ = write!(text, "\n{}\n", summary(verdicts));
    text
}

/// How many targets are held.
pub fn summary(verdicts: &[Verdict]) -> String {
    let held = verdicts.iter().filter(|verdict| verdict.held()).count();
    format!("{held} of {} targets held.", verdicts.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        site::{Contender, Path},
        targets::judged,
    };

    #[test]
    fn the_document_names_the_machine_and_ends_with_the_targets() {
        let mut figures = Figures::default();
        for (contender, value) in [(Contender::Veth, 600.0), (Contender::Netd, 570.0), (Contender::Cni, 580.0)] {
            figures.add(Path::Masquerade, contender, Measure::Packets, value);
        }
        let manner = Manner { command: "cargo xtask bench".into(), rounds: 1, seconds: 0.5 };

        let text = document(&manner, &[("kernel", "6.18".into())], &figures, &[], &judged(&figures));

        assert!(text.contains("- kernel: 6.18\n"), "{text}");
        assert!(text.contains("## masquerade"), "{text}");
        let end: Vec<_> = text.lines().rev().take(4).collect();
        assert_eq!(end[0], "1 of 2 targets held.");
        assert!(end[2].contains("missed") && end[3].contains("held"), "{end:?}");
    }
}
