//! Runs or evaluations as a picture: SVG, and PNG at twice the size, for sharp screens. One panel
//! per model.
//!
//! Runs are curves, perplexity by epoch. The axis is logarithmic, since perplexities fall by
//! factors. Every curve has its name and its last value at its right end, so no legend is needed.
//! TensorFlow's published perplexities are dashed lines.
//!
//! Evaluations are bars from zero, the test text's above the validation text's; the paper's
//! averages are marks on them.

use std::path::Path;
use std::sync::Once;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use super::evaluated::Evaluated;
use super::figures::figure;
use super::results::{Comparison, Group, PaperRow};
use crate::files::write_atomically;

/// One colour per run, which people with any colour vision can tell apart (Okabe and Ito, without
/// the yellow).
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];
const INK: RGBColor = RGBColor(40, 40, 40);
const TENSORFLOW: RGBColor = RGBColor(90, 90, 90);
const GRID: RGBColor = RGBColor(226, 226, 226);

/// The picture's width; all sizes are in CSS pixels of the SVG.
const WIDTH: u32 = 920;
const PANEL: u32 = 440;
/// The drawing library's font sizes: 16 comes out as some 13 pixels.
const TEXT: f64 = 16.0;
const HEADING: f64 = 19.0;
/// From one label to the next.
const LINE: f64 = 18.0;

/// Epochs of a longer curve have no dots of their own.
const MAX_DOTS: usize = 20;
/// Names in a picture are cut after so many letters.
const MAX_NAME: usize = 24;
/// Perplexities above this are not drawn: a run that diverged would press all others into one line.
const MAX_PERPLEXITY: f64 = 1e5;

/// Height of a bar, and from one evaluation to the next.
const BAR: f64 = 17.0;
const BARS: f64 = 48.0;
/// Part of the colour in a bar of the validation text; the rest is white.
const TINT: f64 = 0.45;

/// What a picture shows.
#[derive(Clone, Copy, PartialEq)]
pub enum Picture {
    /// The runs.
    Curves,
    /// The evaluations.
    Bars,
}

impl Picture {
    /// The picture of a comparison: its runs, or its evaluations if there are no runs.
    pub fn of(comparison: &Comparison) -> Self {
        let only_evaluations =
            comparison.runs().next().is_none() && comparison.evaluations().next().is_some();
        if only_evaluations { Picture::Bars } else { Picture::Curves }
    }

    /// The panels, and their heights, with all labels.
    fn panels(self, comparison: &Comparison) -> Vec<(&Group, u32)> {
        let height = |group: &Group| {
            let (runs, evaluations) = (group.runs.len() as u32, group.evaluations.len() as u32);
            match self {
                Picture::Curves if runs > 0 => Some(PANEL.max(110 + LINE as u32 * (2 * runs + 2))),
                Picture::Bars if evaluations > 0 => Some(110 + BARS as u32 * evaluations),
                _ => None,
            }
        };
        let groups = comparison.groups.iter();
        groups.filter_map(|group| Some((group, height(group)?))).collect()
    }

    fn height(self, comparison: &Comparison) -> u32 {
        let least = if self == Picture::Curves { PANEL } else { 0 };
        self.panels(comparison).iter().map(|panel| panel.1).sum::<u32>().max(least)
    }
}

/// The picture as an SVG document.
///
/// # Errors
/// None that is known; the drawing library may refuse.
pub fn svg(comparison: &Comparison, picture: Picture) -> Result<String> {
    let mut svg = String::new();
    let size = (WIDTH, picture.height(comparison));
    draw(SVGBackend::with_string(&mut svg, size), comparison, picture, 1.0)?;
    Ok(svg)
}

/// Writes the picture to `path`, in the format that its extension names: `.svg` or `.png`.
///
/// # Errors
/// A place that cannot be written.
pub fn write(path: &Path, comparison: &Comparison) -> Result<()> {
    use std::io::Write;
    let picture = Picture::of(comparison);
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
        let svg = svg(comparison, picture)?;
        return write_atomically(path, |file| Ok(file.write_all(svg.as_bytes())?));
    }
    let (width, height) = (2 * WIDTH, 2 * picture.height(comparison));
    let mut pixels = vec![255; 3 * (width * height) as usize];
    let backend = BitMapBackend::with_buffer(&mut pixels, (width, height));
    draw(backend, comparison, picture, 2.0)?;
    write_atomically(path, |file| {
        let mut png = png::Encoder::new(file, width, height);
        png.set_color(png::ColorType::Rgb);
        Ok(png.write_header()?.write_image_data(&pixels)?)
    })
}

fn draw<DB: DrawingBackend>(
    backend: DB,
    comparison: &Comparison,
    picture: Picture,
    scale: f64,
) -> Result<()> {
    // Letters are measured, and in a PNG drawn, with a font that is in this program.
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
    let failed = |error: &dyn std::fmt::Display| anyhow!("the picture could not be drawn: {error}");
    let root = backend.into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut rest = root.clone();
    for (group, height) in picture.panels(comparison) {
        let (panel, below) = rest.split_vertically((height as f64 * scale) as i32);
        let drawn = match picture {
            Picture::Curves => draw_panel(&panel, group, scale),
            Picture::Bars => draw_bars(&panel, group, scale),
        };
        drawn.map_err(|error| failed(&error))?;
        rest = below;
    }
    root.present().map_err(|error| failed(&error))
}

/// A curve, or one of TensorFlow's lines, with its label.
struct Curve {
    label: String,
    color: RGBColor,
    points: Vec<(i64, f64)>,
    kind: Kind,
}

#[derive(PartialEq)]
enum Kind {
    Train,
    Valid,
    Published,
}

fn curves(group: &Group) -> Vec<Curve> {
    let mut curves = Vec::new();
    for (run, color) in group.runs.iter().zip(COLORS.iter().cycle()) {
        for (split, epochs, kind) in
            [("valid", &run.valid, Kind::Valid), ("train", &run.train, Kind::Train)]
        {
            let drawn = epochs.iter().filter(|&(_, p)| (1.0..=MAX_PERPLEXITY).contains(p));
            let points: Vec<(i64, f64)> = drawn.map(|(&epoch, &p)| (epoch, p)).collect();
            if let Some((_, last)) = points.last() {
                let label = format!("{} {split} {}", shortened(&run.name), figure(*last));
                curves.push(Curve { label, color: *color, points, kind });
            }
        }
    }
    if let Some(published) = &group.published {
        for (split, perplexity) in [("valid", published.valid), ("train", published.train)] {
            let label = format!("TensorFlow {split} {perplexity:.2}");
            let points = vec![(0, perplexity)];
            curves.push(Curve { label, color: TENSORFLOW, points, kind: Kind::Published });
        }
    }
    curves
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        Some(_) => name.chars().take(MAX_NAME - 1).chain(['…']).collect(),
        None => name.to_owned(),
    }
}

fn draw_panel<DB: DrawingBackend>(
    panel: &DrawingArea<DB, Shift>,
    group: &Group,
    scale: f64,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let px = |length: f64| (length * scale).round() as i32;
    let font = |size: f64| ("sans-serif", size * scale).into_font();
    let curves = curves(group);
    let heading = match curves.iter().any(|curve| curve.kind == Kind::Published) {
        true => format!(
            "{}: perplexity by epoch; dashed, TensorFlow's published after {} epochs",
            group.model,
            group.published.as_ref().map_or(0, |p| p.epochs)
        ),
        false => format!("{}: perplexity by epoch", group.model),
    };
    panel.draw(&Text::new(heading, (px(16.0), px(12.0)), font(HEADING).color(&INK)))?;

    let values = || curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.1));
    if curves.iter().all(|curve| curve.kind == Kind::Published) {
        let text = "no finished epoch to draw";
        return panel.draw(&Text::new(text, (px(16.0), px(48.0)), font(TEXT).color(&INK)));
    }
    let (low, high) =
        values().fold((f64::MAX, f64::MIN), |(low, high), p| (low.min(p), high.max(p)));
    let (low, high) = (low / 1.08, (high * 1.08).max(low * 1.3));
    let epochs = || {
        curves
            .iter()
            .flat_map(|curve| &curve.points)
            .map(|point| point.0)
            .filter(|&epoch| epoch > 0)
    };
    let (first, last) = (epochs().min().unwrap_or(1), epochs().max().unwrap_or(1));
    // One epoch alone stands in the middle.
    let (first, last) = if first < last { (first, last) } else { (last - 1, last + 1) };

    let widths =
        curves.iter().map(|c| font(TEXT).box_size(&c.label).map_or(0, |size| size.0 as i32));
    let right = widths.max().unwrap_or_default() + px(26.0);
    let mut chart = ChartBuilder::on(panel)
        .margin_top(px(44.0))
        .margin_left(px(12.0))
        .margin_right(right)
        .margin_bottom(px(10.0))
        .x_label_area_size(px(46.0))
        .y_label_area_size(px(50.0))
        .build_cartesian_2d(
            first..last,
            (low..high).log_scale().with_key_points(perplexity_ticks(low, high)),
        )?;
    chart
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(px(1.0) as u32))
        .light_line_style(WHITE)
        .axis_style(INK.stroke_width(px(1.0) as u32))
        .label_style(font(TEXT).color(&INK))
        .axis_desc_style(font(TEXT).color(&INK))
        .x_desc("epoch")
        .x_labels(15)
        .y_label_formatter(&|y| format!("{y}"))
        .draw()?;

    // TensorFlow's lines lie below the curves.
    let (published, runs): (Vec<&Curve>, Vec<&Curve>) =
        curves.iter().partition(|c| c.kind == Kind::Published);
    for curve in published {
        let ends = [first, last].map(|x| (x, curve.points[0].1));
        let style = curve.color.stroke_width(px(1.2) as u32);
        chart.draw_series(DashedLineSeries::new(ends, px(7.0) as u32, px(5.0) as u32, style))?;
    }
    for curve in runs {
        let (width, radius) = if curve.kind == Kind::Valid { (2.4, 3.4) } else { (1.4, 2.6) };
        let line = curve.color.stroke_width(px(width) as u32);
        chart.draw_series(LineSeries::new(curve.points.clone(), line))?;
        if curve.points.len() > MAX_DOTS {
            continue;
        }
        let dot = if curve.kind == Kind::Valid { curve.color.filled() } else { WHITE.filled() };
        chart.draw_series(curve.points.iter().map(|&point| {
            EmptyElement::at(point)
                + Circle::new((0, 0), px(radius), dot)
                + Circle::new((0, 0), px(radius), curve.color.stroke_width(px(1.2) as u32))
        }))?;
    }

    // The labels: each beside the end of its curve, moved apart where they would overlap.
    let area = chart.plotting_area();
    let (x_range, y_range) = area.get_pixel_range();
    let panel_top = panel.get_base_pixel().1;
    let mut ends: Vec<(f64, &Curve)> = curves
        .iter()
        .map(|curve| {
            let at = curve.points.last().map_or((last, low), |point| (last, point.1));
            (f64::from(area.map_coordinate(&at).1), curve)
        })
        .collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let places =
        apart(ends.iter().map(|end| end.0).collect(), LINE * scale, f64::from(y_range.end));
    for ((_, curve), y) in ends.iter().zip(places) {
        let style = font(TEXT).color(&curve.color).pos(Pos::new(HPos::Left, VPos::Center));
        let at = (x_range.end + px(10.0), y as i32 - panel_top);
        panel.draw(&Text::new(curve.label.clone(), at, style))?;
    }
    Ok(())
}

/// The evaluations of a group: labels on the left, bars, their values at the right.
fn draw_bars<DB: DrawingBackend>(
    panel: &DrawingArea<DB, Shift>,
    group: &Group,
    scale: f64,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let px = |length: f64| (length * scale).round() as i32;
    let font = |size: f64| ("sans-serif", size * scale).into_font();
    let text =
        |size: f64, horizontal| font(size).color(&INK).pos(Pos::new(horizontal, VPos::Center));
    let evaluations: Vec<(&Evaluated, Option<&PaperRow>)> =
        group.evaluations.iter().map(|e| (e, group.paper_row(e))).collect();
    let has_marks = evaluations.iter().any(|(_, paper)| paper.is_some());
    let marks = if has_marks { "; black marks: the paper's averages" } else { "" };
    let heading = format!("{}: perplexity, test (dark) and validation (light){marks}", group.model);
    panel.draw(&Text::new(heading, (px(16.0), px(12.0)), font(HEADING).color(&INK)))?;

    let is_drawn = |p: &f64| (0.0..=MAX_PERPLEXITY).contains(p);
    let values = evaluations.iter().flat_map(|(e, paper)| {
        let paper = paper.map(|row| [row.test, row.valid]).into_iter().flatten();
        e.perplexities().into_iter().chain(paper)
    });
    // Room for the values beside the longest bar.
    let high = values.filter(is_drawn).fold(1.0, f64::max) * 1.12;
    let labels = labels(&group.evaluations);
    let widths =
        labels.iter().map(|label| font(TEXT).box_size(label).map_or(0, |size| size.0 as i32));
    let left = widths.max().unwrap_or_default() + px(28.0);
    let mut chart = ChartBuilder::on(panel)
        .margin_top(px(46.0))
        .margin_left(left)
        .margin_right(px(16.0))
        .margin_bottom(px(10.0))
        .x_label_area_size(px(46.0))
        .build_cartesian_2d(0.0..high, 0.0..evaluations.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .bold_line_style(GRID.stroke_width(px(1.0) as u32))
        .light_line_style(WHITE)
        .axis_style(INK.stroke_width(px(1.0) as u32))
        .label_style(font(TEXT).color(&INK))
        .axis_desc_style(font(TEXT).color(&INK))
        .x_desc("perplexity")
        .x_labels(10)
        .x_label_formatter(&|x| format!("{x:.*}", usize::from(high < 10.0)))
        .draw()?;

    let area = chart.plotting_area();
    let (x_range, y_range) = area.get_pixel_range();
    let top = y_range.start - panel.get_base_pixel().1;
    let x = |perplexity: f64| area.map_coordinate(&(perplexity, 0.0)).0;
    for (k, ((e, paper), label)) in evaluations.iter().zip(&labels).enumerate() {
        let middle = top + px(BARS * (k as f64 + 0.5));
        let at = (x_range.start - px(10.0), middle);
        panel.draw(&Text::new(label.clone(), at, text(TEXT, HPos::Right)))?;
        let color = if e.event.is_adapted() { COLORS[2] } else { COLORS[0] };
        let [valid, test] = e.perplexities();
        let bars = [
            (test, color, paper.map(|row| row.test), middle - px(BAR)),
            (valid, tint(color), paper.map(|row| row.valid), middle),
        ];
        for (perplexity, color, mark, y) in bars {
            let end = x(if is_drawn(&perplexity) { perplexity } else { 0.0 });
            let bar = [(x_range.start, y), (end, y + px(BAR - 1.0))];
            panel.draw(&Rectangle::new(bar, color.filled()))?;
            let mark = mark.map(x);
            if let Some(mark) = mark {
                let ends = [(mark - px(1.0), y - px(1.0)), (mark + px(1.0), y + px(BAR))];
                panel.draw(&Rectangle::new(ends, BLACK.filled()))?;
            }
            let at = (end.max(mark.unwrap_or(end)) + px(8.0), y + px(BAR / 2.0));
            panel.draw(&Text::new(figure(perplexity), at, text(TEXT, HPos::Left)))?;
        }
    }
    Ok(())
}

/// A lighter colour.
fn tint(RGBColor(r, g, b): RGBColor) -> RGBColor {
    let lighter = |part: u8| (255.0 - TINT * (255.0 - f64::from(part))).round() as u8;
    RGBColor(lighter(r), lighter(g), lighter(b))
}

/// What each was evaluated with, and its name too where others have the same.
fn labels(evaluations: &[Evaluated]) -> Vec<String> {
    let plain: Vec<String> = evaluations.iter().map(Evaluated::label).collect();
    let is_alone = |label: &String| plain.iter().filter(|other| *other == label).count() == 1;
    let label = |(label, e): (&String, &Evaluated)| match is_alone(label) {
        true => label.clone(),
        false => format!("{label} ({})", shortened(&e.name)),
    };
    plain.iter().zip(evaluations).map(label).collect()
}

/// Positions at least `gap` apart, in the same order, near `wanted`, none below `bottom`.
fn apart(mut wanted: Vec<f64>, gap: f64, bottom: f64) -> Vec<f64> {
    for i in 1..wanted.len() {
        wanted[i] = wanted[i].max(wanted[i - 1] + gap);
    }
    let mut limit = bottom;
    for place in wanted.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - gap;
    }
    wanted
}

/// Round numbers that are about evenly spaced on a logarithmic axis.
fn perplexity_ticks(low: f64, high: f64) -> Vec<f64> {
    let sets: [&[f64]; 4] = [
        &[
            1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.2, 2.4, 2.7, 3.0, 3.3, 3.6, 4.0, 4.5,
            5.0, 5.5, 6.0, 6.5, 7.0, 8.0, 9.0,
        ],
        &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
        &[1.0, 2.0, 5.0],
        &[1.0],
    ];
    let ticks = |set: &[f64]| -> Vec<f64> {
        let all =
            (0..9).flat_map(|k| set.iter().map(move |m| (m * 10f64.powi(k) * 10.0).round() / 10.0));
        all.filter(|tick| (low..=high).contains(tick)).collect()
    };
    let fits = sets.iter().map(|set| ticks(set)).find(|ticks| ticks.len() <= 11);
    fits.unwrap_or_default()
}
