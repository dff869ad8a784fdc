//! Tables of a run: rows of words, shown aligned, as Markdown or as CSV. Nothing here performs IO.

use super::{
    cost::Cost,
    figures::{Figures, Measure, Spread},
    findings::{Area, Findings},
    parts::Part,
    profile::Profile,
    site::{Contender, Path},
    targets::Verdict,
};
use crate::programs::grouped;

/// Rows of words under a heading, all of one length.
pub struct Table {
    rows: Vec<Vec<String>>,
    /// How many columns from the left are words; those after them are numbers and stand to the right.
    words: usize,
}

impl Table {
    /// One of only its heading.
    pub fn new(head: &[&str], words: usize) -> Self {
        Self { rows: vec![head.iter().map(|word| (*word).to_owned()).collect()], words }
    }

    /// Adds a row as long as the heading.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Whether there is only its heading.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// For a terminal.
    pub fn aligned(&self) -> String {
        let widths = self.widths();
        let line = |row: &Vec<String>| {
            let cells = (0..).zip(row).map(|(at, cell)| self.padded(at, cell, widths[at]));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        self.rows.iter().map(line).collect()
    }

    /// For a document.
    pub fn markdown(&self) -> String {
        let widths = self.widths();
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let padded =
            |row: &Vec<String>| line((0..).zip(row).map(|(at, cell)| self.padded(at, cell, widths[at])).collect());
        let rule = (0..)
            .zip(&widths)
            .map(|(at, width)| if at < self.words { "-".repeat(*width) } else { "-".repeat(width - 1) + ":" });
        let (head, rest) = self.rows.split_at(1);
        head.iter().map(padded).chain([line(rule.collect())]).chain(rest.iter().map(padded)).collect()
    }

    /// For other programs.
    pub fn csv(&self) -> String {
        let quoted = |cell: &String| {
            if cell.contains([',', '"', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.clone() }
        };
        let line = |row: &Vec<String>| row.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n";
        self.rows.iter().map(line).collect()
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows[0].len();
        let width = |at: usize| self.rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default().max(3);
        (0..columns).map(width).collect()
    }

    fn padded(&self, at: usize, cell: &str, width: usize) -> String {
        if at < self.words { format!("{cell:width$}") } else { format!("{cell:>width$}") }
    }
}

/// Medians of one path, a row for each contender, and below each its spread; netd's ratio to it pair by pair.
pub fn results(figures: &Figures, path: Path) -> Table {
    let head = ["measure", "unit", "contender", "median", "min", "max", "to veth", "netd to it", "netd to it, min–max"];
    let mut table = Table::new(&head, 3);
    for measure in Measure::ALL {
        for contender in figures.contenders(path) {
            let Some(spread) = figures.spread(path, measure, contender) else { continue };
            let shown = |value| measure.shown(value);
            let to_veth = figures.paired(path, measure, contender, Contender::Veth);
            let ours = figures.paired(path, measure, Contender::Netd, contender);
            let ours = ours.filter(|_| contender != Contender::Netd);
            table.push(vec![
                measure.title().to_owned(),
                measure.unit().to_owned(),
                contender.name().to_owned(),
                shown(spread.median),
                shown(spread.min),
                shown(spread.max),
                to_veth.map_or_else(String::new, |ratio| format!("{:.2}", ratio.median)),
                ours.map_or_else(String::new, |ratio| format!("{:.2}", ratio.median)),
                ours.map_or_else(String::new, |ratio| format!("{:.2}–{:.2}", ratio.min, ratio.max)),
            ]);
        }
    }
    table
}

/// Everything, for other programs: every value of every round with its middle, then findings, programs, then each target, `median` of which is
/// netd's number or its ratio to `contender`'s.
pub fn everything(figures: &Figures, found: &Findings, costs: &[Cost], verdicts: &[Verdict]) -> Table {
    let mut table = rounds(figures);
    for area in Area::ALL {
        for finding in found.of(area) {
            let Some(Spread { median, min, max }) = Spread::of(&finding.values) else { continue };
            let words = [area.title(), &finding.about, finding.unit, finding.who.name()].map(str::to_owned);
            let numbers = [median, min, max].map(|value| format!("{value:.3}"));
            let values = finding.values.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(" ");
            table.push([&words[..], &numbers, &[String::new(), values, String::new(), String::new()]].concat());
        }
    }
    for cost in costs {
        let about = format!("{} under {}", cost.program, cost.load.name());
        let mut row = |what: &str, unit: &str, number: String| {
            let about = format!("{about}: {what}");
            let words = [cost.path.name(), &about, unit, Contender::Netd.name()].map(str::to_owned);
            table.push([&words[..], &[number], &vec![String::new(); 6]].concat());
        };
        row("a run", "ns", format!("{:.3}", cost.nanoseconds));
        row("of each", "ns", format!("{:.3}", cost.each));
        row("verified", "instructions", cost.verified.map_or_else(String::new, |count| count.to_string()));
    }
    for verdict in verdicts {
        let words = [&verdict.of, &verdict.measure, verdict.unit, &verdict.against].map(str::to_owned);
        let exact = |number: Option<f64>| number.map_or_else(String::new, |number| format!("{number:.3}"));
        let numbers =
            [verdict.measured, verdict.rounds.map(|rounds| rounds.min), verdict.rounds.map(|rounds| rounds.max)];
        let none = ["", ""].map(str::to_owned);
        let ends = [verdict.bound.to_string(), verdict.word().to_owned()];
        table.push([&words[..], &numbers.map(exact), &none, &ends].concat());
    }
    table
}

/// Every value of every round, and its middle.
fn rounds(figures: &Figures) -> Table {
    let head = ["path", "measure", "unit", "contender", "median", "min", "max", "median_ratio_to_veth", "rounds"];
    let mut table = Table::new(&[&head[..], &["target", "verdict"]].concat(), 4);
    for path in figures.paths() {
        for measure in Measure::ALL {
            for contender in figures.contenders(path) {
                let Some(spread) = figures.spread(path, measure, contender) else { continue };
                let to_veth = figures.paired(path, measure, contender, Contender::Veth);
                let rounds = figures.rounds(path, measure, contender).iter().map(|value| format!("{value:.3}"));
                let [path, measure, unit] = [path.name(), measure.slug(), measure.unit()].map(str::to_owned);
                let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| format!("{value:.3}"));
                let ratio = to_veth.map_or_else(String::new, |ratio| format!("{:.3}", ratio.median));
                let rounds = rounds.collect::<Vec<_>>().join(" ");
                let words = vec![path, measure, unit, contender.name().to_owned(), median, min, max, ratio, rounds];
                table.push([words, vec![String::new(); 2]].concat());
            }
        }
    }
    table
}

/// Where the time of each packet, round trip, connection or mebibyte goes, a part a row and a side a column, and how much more netd's is.
pub fn profile(profile: &Profile) -> Table {
    let sides: Vec<_> = profile.sides().collect();
    let mut table = Table::new(&[&["ns of processors in"], &sides[..], &["more"]].concat(), 1);
    let rows = Part::ALL.into_iter().map(|part| (part.name(), Some(part))).chain([("all", None)]);
    for (name, part) in rows {
        let times = profile.nanoseconds(part);
        let more = times.last().zip(times.first()).map(|(netd, first)| netd - first);
        let cells = times.into_iter().chain(more).map(whole);
        table.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }
    table
}

/// Without digits after the point.
pub fn whole(number: f64) -> String {
    format!("{number:.0}")
}

/// A row for each target.
pub fn targets(verdicts: &[Verdict]) -> Table {
    let head = ["of", "target", "limit or peer", "held or missed", "bound", "measured", "least–greatest of a round"];
    let mut table = Table::new(&head, 4);
    for verdict in verdicts {
        let unit = verdict.unit;
        let shown = |number: f64| if unit.is_empty() { format!("{number:.3}") } else { digits(number) };
        let measured = verdict.measured.map(shown);
        let rounds = verdict.rounds.map(|rounds| format!("{}–{}", shown(rounds.min), shown(rounds.max)));
        let with_unit = |number: String| if unit.is_empty() { number } else { format!("{number} {unit}") };
        table.push(vec![
            verdict.of.clone(),
            verdict.measure.clone(),
            verdict.against.clone(),
            verdict.word().to_owned(),
            with_unit(verdict.bound.to_string()),
            measured.map(with_unit).unwrap_or_default(),
            rounds.unwrap_or_default(),
        ]);
    }
    table
}

/// Medians of one area's findings with their spreads.
pub fn findings(findings: &Findings, area: Area) -> Table {
    let mut table = Table::new(&["of", "contender", "unit", "median", "min", "max", "values"], 3);
    for finding in findings.of(area) {
        let Some(spread) = Spread::of(&finding.values) else { continue };
        let [median, min, max] = [spread.median, spread.min, spread.max].map(digits);
        let words = [&finding.about, finding.who.name(), finding.unit].map(str::to_owned);
        table.push(words.into_iter().chain([median, min, max, finding.values.len().to_string()]).collect());
    }
    table
}

/// As many digits as a number deserves.
pub fn digits(number: f64) -> String {
    let digits = match number.abs() {
        n if n >= 100.0 => 0,
        n if n >= 10.0 => 1,
        _ => 2,
    };
    format!("{number:.digits$}")
}

/// A row for each program that ran under a load.
pub fn costs(costs: &[Cost]) -> Table {
    let head = ["path", "load", "program", "runs", "ns a run", "ns of each", "verified instructions"];
    let mut table = Table::new(&head, 3);
    for cost in costs {
        table.push(vec![
            cost.path.name().to_owned(),
            cost.load.name().to_owned(),
            cost.program.clone(),
            grouped(cost.runs),
            whole(cost.nanoseconds),
            whole(cost.each),
            cost.verified.map_or_else(|| "not told".to_owned(), |count| grouped(count.into())),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Table {
        let mut table = Table::new(&["who", "µs"], 1);
        table.push(vec!["netd".to_owned(), "7".to_owned()]);
        table.push(vec!["a, \"b\"".to_owned(), "10.25".to_owned()]);
        table
    }

    #[test]
    fn words_stand_to_the_left_and_numbers_to_the_right() {
        assert_eq!(small().aligned(), "who        µs\nnetd        7\na, \"b\"  10.25\n");
    }

    #[test]
    fn a_document_has_a_rule_under_the_heading() {
        let expected = "| who    |    µs |\n| ------ | ----: |\n| netd   |     7 |\n| a, \"b\" | 10.25 |\n";
        assert_eq!(small().markdown(), expected);
    }

    #[test]
    fn a_cell_with_a_comma_is_quoted() {
        assert_eq!(small().csv(), "who,µs\nnetd,7\n\"a, \"\"b\"\"\",10.25\n");
    }

    #[test]
    fn a_row_tells_the_middle_its_ends_and_the_ratios() {
        let mut figures = Figures::default();
        for (netd, veth) in [(8.0, 10.0), (9.0, 10.0), (20.0, 20.0)] {
            figures.add(Path::Masquerade, Contender::Netd, Measure::Stream, netd);
            figures.add(Path::Masquerade, Contender::Veth, Measure::Stream, veth);
        }

        let table = results(&figures, Path::Masquerade);

        assert_eq!(table.rows.len(), 3);
        assert_eq!(table.rows[1][2..], ["veth", "10.0", "10.0", "20.0", "1.00", "0.90", "0.80–1.00"]);
        assert_eq!(table.rows[2][2..], ["netd", "9.00", "8.00", "20.0", "0.90", "", ""]);
        let csv = rounds(&figures).csv();
        assert_eq!(
            csv.lines().last(),
            Some("masquerade,tcp-stream,Gbit/s,netd,9.000,8.000,20.000,0.900,8.000 9.000 20.000,,")
        );
    }
}
