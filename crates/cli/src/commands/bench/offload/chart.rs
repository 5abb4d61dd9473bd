//! The sweep as a picture: step over roofline for each share, a line for each bandwidth.

use std::fmt::Write;

use distorch_allocation::{Layout, LayoutChoice};
use distorch_bench::offload::{Point, Sweep};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 60.0;
const COLOURS: [&str; 6] = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"];

/// An SVG document; solid lines are the `distorch2` layout, dashed ones `interleave`, dotted ones `auto`.
pub(super) fn svg(sweep: &Sweep) -> String {
    let largest = sweep.points.iter().fold(1.1_f64, |max, point| max.max(point.ratio));
    let x = |share: f64| MARGIN + share / 100.0 * (WIDTH - 3.0 * MARGIN);
    let y =
        |ratio: f64| HEIGHT - MARGIN - (ratio - 0.9) / (largest - 0.9) * (HEIGHT - 2.0 * MARGIN);
    let mut layouts: Vec<LayoutChoice> = Vec::new();
    for point in &sweep.points {
        if !layouts.contains(&point.asked) {
            layouts.push(point.asked);
        }
    }
    let drawn = |layout: &LayoutChoice| match layout {
        LayoutChoice::Fixed(Layout::Distorch2) => "solid distorch2",
        LayoutChoice::Fixed(Layout::Interleave) => "dashed interleave",
        LayoutChoice::Auto => "dotted auto",
    };
    let legend = layouts.iter().map(drawn).collect::<Vec<_>>().join(", ");
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n<text x=\"{MARGIN}\" y=\"24\">{}: step time in parts of the roofline; \
         {legend}</text>\n",
        sweep.model
    );
    for ratio in [1.0, 1.05, largest] {
        let (left, right, at) = (x(0.0), x(100.0), y(ratio));
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {at}H{right}\" stroke=\"#bbb\"/><text x=\"20\" y=\"{at}\">{ratio:.2}</text>"
        );
    }
    for share in [0, 25, 50, 75, 100] {
        let (at, base) = (x(f64::from(share)), HEIGHT - MARGIN + 20.0);
        let _ = writeln!(svg, "<text x=\"{at}\" y=\"{base}\">{share} %</text>");
    }
    let mut bandwidths: Vec<u64> = sweep.points.iter().map(|point| point.bandwidth).collect();
    bandwidths.sort_unstable();
    bandwidths.dedup();
    for (number, bandwidth) in bandwidths.into_iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let (at, row) = (WIDTH - 1.8 * MARGIN, MARGIN + 18.0 * number as f64);
        let speed = bandwidth as f64 / 1e9;
        let _ =
            writeln!(svg, "<text x=\"{at}\" y=\"{row}\" fill=\"{colour}\">{speed:.2} GB/s</text>");
        for asked in &layouts {
            let of_line = |point: &&Point| point.bandwidth == bandwidth && point.asked == *asked;
            let places = sweep.points.iter().filter(of_line);
            let places = places
                .map(|point| format!("{},{}", x(f64::from(point.share_percent)), y(point.ratio)));
            let line: Vec<String> = places.collect();
            let dashes = match asked {
                LayoutChoice::Fixed(Layout::Distorch2) => "",
                LayoutChoice::Fixed(Layout::Interleave) => " stroke-dasharray=\"5 3\"",
                LayoutChoice::Auto => " stroke-dasharray=\"1 2\"",
            };
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"{dashes}/>",
                line.join(" ")
            );
        }
    }
    svg + "</svg>\n"
}
