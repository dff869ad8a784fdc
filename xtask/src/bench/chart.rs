//! A bar chart for each measure, as SVG: groups of bars by path, a bar for each contender, a line from its least to its
//! greatest round.

use std::path::Path as File;

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    figures::{Figures, Measure},
    site::{Contender, Path},
};

const SIZE: (u32, u32) = (1200, 460);
/// Room for the legend at the right, as a share of the bars.
const LEGEND: f64 = 0.1;
/// Room between two groups of bars, in bars.
const GAP: usize = 1;
/// Where the number of a bar begins at the highest, as a share of the height.
const NUMBERS: f64 = 0.91;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);

/// Writes the chart of `measure` to `file`.
pub fn draw(figures: &Figures, measure: Measure, file: &File) -> Result<()> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    let failed = |error: Box<dyn std::error::Error>| anyhow!("cannot draw {}: {error}", file.display());
    bars(figures, measure, &area).map_err(failed)?;
    area.present().map_err(|error| failed(error.into()))
}

type Failed = Box<dyn std::error::Error>;

fn bars(figures: &Figures, measure: Measure, area: &DrawingArea<SVGBackend, Shift>) -> Result<(), Failed> {
    let bars = placed(figures, measure);
    let top = top(&bars);
    let width = bars.last().map_or(1, |bar| bar.at + 1 + GAP);
    let better = if measure.more_is_better() { "more is better" } else { "less is better" };
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{} ({}, {better})", measure.title(), measure.unit()), (FONT, 20, &INK))
        .margin(12)
        .y_label_area_size(56)
        .x_label_area_size(30)
        .build_cartesian_2d(0.0..width as f64 * (1.0 + LEGEND), 0.0..top.max(f64::MIN_POSITIVE))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .y_labels(8)
        .y_label_formatter(&|value| format!("{value}"))
        .draw()?;

    for contender in Contender::ALL {
        let color = color(contender);
        let of_it: Vec<_> = bars.iter().filter(|bar| bar.contender == contender).collect();
        if of_it.is_empty() {
            continue;
        }
        let rectangles =
            of_it.iter().map(|bar| Rectangle::new([(bar.left(), 0.0), (bar.left() + 0.9, bar.median)], color.filled()));
        chart
            .draw_series(rectangles)?
            .label(contender.name())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
        let spreads = of_it
            .iter()
            .map(|bar| PathElement::new(vec![(bar.middle(), bar.min), (bar.middle(), bar.max.min(top))], INK));
        chart.draw_series(spreads)?;
        let values = of_it.iter().map(|bar| {
            // Upwards: a number is wider than its bar, and would lie on its neighbour's.
            let font = (FONT, 12).into_font().transform(FontTransform::Rotate270);
            let style = TextStyle::from(font).color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
            Text::new(measure.shown(bar.median), (bar.middle(), bar.max.min(top * NUMBERS) + top * 0.01), style)
        });
        chart.draw_series(values)?;
    }
    for (path, middle) in groups(&bars) {
        let style = TextStyle::from((FONT, 15).into_font()).color(&INK).pos(Pos::new(HPos::Center, VPos::Top));
        let (x, y) = chart.backend_coord(&(middle, 0.0));
        area.draw_text(path.name(), &style, (x, y + 8))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .label_font((FONT, 13))
        .draw()?;
    Ok(())
}

/// A bar and its place from the left, in bars.
struct Bar {
    path: Path,
    contender: Contender,
    at: usize,
    median: f64,
    min: f64,
    max: f64,
}

impl Bar {
    fn left(&self) -> f64 {
        self.at as f64 + 0.05
    }

    fn middle(&self) -> f64 {
        self.at as f64 + 0.5
    }
}

fn placed(figures: &Figures, measure: Measure) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut at = GAP;
    for path in figures.paths() {
        for contender in figures.contenders(path) {
            let Some(spread) = figures.spread(path, measure, contender) else { continue };
            bars.push(Bar { path, contender, at, median: spread.median, min: spread.min, max: spread.max });
            at += 1;
        }
        at += GAP;
    }
    bars
}

/// The value at the top: one round that went astray must not press all bars flat, its line leaves the chart.
fn top(bars: &[Bar]) -> f64 {
    let most = |of: fn(&Bar) -> f64| bars.iter().map(of).fold(0.0, f64::max);
    most(|bar| bar.max).min(most(|bar| bar.median) * 1.5) * 1.12
}

/// The middle of each path's bars.
fn groups(bars: &[Bar]) -> Vec<(Path, f64)> {
    let middle = |path: Path| {
        let places = || bars.iter().filter(|bar| bar.path == path).map(|bar| bar.at);
        Some((path, (places().min()? + places().max()? + 1) as f64 / 2.0))
    };
    Path::ALL.into_iter().filter_map(middle).collect()
}

/// Ours stands out, the limit is grey.
const fn color(contender: Contender) -> RGBColor {
    match contender {
        Contender::Veth => RGBColor(165, 165, 165),
        Contender::Redirect => RGBColor(205, 190, 150),
        Contender::Tracking => RGBColor(172, 146, 88),
        Contender::Netd => RGBColor(214, 69, 38),
        Contender::NetdTcx => RGBColor(240, 160, 130),
        Contender::Bridge => RGBColor(153, 187, 221),
        Contender::Iptables => RGBColor(66, 113, 174),
        Contender::Cni => RGBColor(94, 155, 106),
        Contender::Docker => RGBColor(112, 78, 46),
        Contender::Netavark => RGBColor(150, 110, 170),
        Contender::Vxlan => RGBColor(90, 150, 160),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_went_astray_does_not_press_the_bars_flat() {
        let mut figures = Figures::default();
        for value in [70.0, 72.0, 1_000_000.0] {
            figures.add(Path::Masquerade, Contender::Netd, Measure::Connect50, value);
        }

        let top = top(&placed(&figures, Measure::Connect50));

        assert!(top > 72.0 && top < 150.0, "{top}");
    }

    #[test]
    fn bars_of_a_path_stand_together_and_its_name_under_their_middle() {
        let mut figures = Figures::default();
        for (path, contender) in [
            (Path::ContainerToContainer, Contender::Veth),
            (Path::ContainerToContainer, Contender::Netd),
            (Path::Published, Contender::Veth),
            (Path::Published, Contender::Netd),
        ] {
            figures.add(path, contender, Measure::Packets, 5.0);
        }

        let bars = placed(&figures, Measure::Packets);

        assert_eq!(bars.iter().map(|bar| bar.at).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert!((top(&bars) - 5.6).abs() < 1e-9, "{}", top(&bars));
        assert_eq!(groups(&bars), [(Path::ContainerToContainer, 2.0), (Path::Published, 5.0)]);
    }
}
