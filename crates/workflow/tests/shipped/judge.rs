//! Does a picture show what was asked for? The measure of `tools/train_tiny/judge.py`: colours and
//! connected regions, nothing learnt.

use std::f64::consts::FRAC_PI_4;

type Colour = [f64; 3];

pub const COLOURS: [(&str, Colour); 8] = [
    ("red", [220.0, 30.0, 40.0]),
    ("orange", [255.0, 140.0, 0.0]),
    ("yellow", [250.0, 230.0, 50.0]),
    ("green", [30.0, 160.0, 60.0]),
    ("blue", [30.0, 70.0, 220.0]),
    ("purple", [140.0, 40.0, 170.0]),
    ("black", [15.0, 15.0, 15.0]),
    ("white", [245.0, 245.0, 245.0]),
];

pub const SHAPES: [&str; 3] = ["circle", "square", "triangle"];

/// What a prompt asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub shape: &'static str,
    pub colour: &'static str,
    pub background: &'static str,
    pub count: usize,
    pub outlined: bool,
}

impl Wanted {
    pub fn new(shape: &'static str, colour: &'static str, background: &'static str) -> Self {
        Self { shape, colour, background, count: 1, outlined: false }
    }

    pub fn prompt(&self) -> String {
        let article = |word: &str| if "aeiou".contains(&word[..1]) { "an" } else { "a" };
        let Self { shape, colour, background, .. } = self;
        let what = match self.count {
            2 => format!("two {colour} {shape}s"),
            3 => format!("three {colour} {shape}s"),
            _ => format!("{} {colour} {shape}", article(colour)),
        };
        format!("{what} on {} {background} background", article(background))
    }
}

/// A picture with 8 bits a channel.
pub struct Seen {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<Colour>,
}

impl Seen {
    pub fn open(path: &std::path::Path) -> Self {
        let picture = image::open(path).unwrap().into_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let pixels = picture.pixels().map(|pixel| pixel.0.map(f64::from)).collect();
        Self { width, height, pixels }
    }

    /// What is wrong with the picture; nothing where it is right.
    pub fn faults(&self, wanted: &Wanted) -> Vec<String> {
        let mut faults = Vec::new();
        let (colour, background) = (rgb(wanted.colour), rgb(wanted.background));
        if self.frame_share(wanted.background) < 0.85 {
            faults.push("background".to_owned());
        }
        let regions = self.regions(colour, background);
        if regions.len() != wanted.count {
            faults.push(format!("count {}", regions.len()));
        }
        for region in &regions {
            let median = region.median(&self.pixels, self.width);
            if nearest(median) != wanted.colour {
                faults.push(format!("colour {}", nearest(median)));
            }
            let fill = region.fill() / if wanted.outlined { 0.75 } else { 1.0 };
            let (low, high) = match wanted.shape {
                "triangle" => (0.41, 0.64),
                "circle" => (0.69, 0.87),
                _ => (0.88, 1.05),
            };
            if !(low..=high).contains(&fill) {
                faults.push(format!("shape {fill:.2} (a circle has {FRAC_PI_4:.2})"));
            }
            if region.is_hollow(wanted.shape) != wanted.outlined {
                faults.push("hollow or not".to_owned());
            }
        }
        if self.strange(wanted) > 0.04 {
            faults.push("something else".to_owned());
        }
        faults
    }

    /// The part of the outermost frame that has this colour.
    fn frame_share(&self, colour: &str) -> f64 {
        let edge = (self.width.min(self.height) / 32).max(1);
        let on_frame = |at: usize| {
            let (x, y) = (at % self.width, at / self.width);
            x < edge || y < edge || x >= self.width - edge || y >= self.height - edge
        };
        let frame: Vec<usize> = (0..self.pixels.len()).filter(|at| on_frame(*at)).collect();
        let right = frame.iter().filter(|at| nearest(self.pixels[**at]) == colour).count();
        right as f64 / frame.len() as f64
    }

    /// Connected pixels nearer to the first colour than to the second, without dust.
    fn regions(&self, colour: Colour, background: Colour) -> Vec<Region> {
        let inside = |pixel: &Colour| distance(*pixel, colour) < distance(*pixel, background);
        let mut open: Vec<bool> = self.pixels.iter().map(inside).collect();
        let mut regions = Vec::new();
        for start in 0..open.len() {
            if !std::mem::take(&mut open[start]) {
                continue;
            }
            let (mut stack, mut cells) = (vec![start], Vec::new());
            while let Some(at) = stack.pop() {
                let (x, y) = (at % self.width, at / self.width);
                cells.push((y, x));
                let beside = [
                    (y > 0).then(|| at - self.width),
                    (y + 1 < self.height).then(|| at + self.width),
                    (x > 0).then(|| at - 1),
                    (x + 1 < self.width).then(|| at + 1),
                ];
                stack.extend(
                    beside.into_iter().flatten().filter(|&at| std::mem::take(&mut open[at])),
                );
            }
            if cells.len() * 200 >= self.pixels.len() {
                regions.push(Region { cells });
            }
        }
        regions
    }

    /// The part of the picture that is neither of the two colours nor between them.
    fn strange(&self, wanted: &Wanted) -> f64 {
        let (one, other) = (rgb(wanted.colour), rgb(wanted.background));
        let along = [0, 1, 2].map(|i| other[i] - one[i]);
        let length: f64 = along.iter().map(|a| a * a).sum();
        let strange = |pixel: &Colour| {
            let dot: f64 = (0..3).map(|i| (pixel[i] - one[i]) * along[i]).sum();
            let part = (dot / length).clamp(0.0, 1.0);
            let blend = [0, 1, 2].map(|i| one[i] + part * along[i]);
            let name = nearest(*pixel);
            name != wanted.colour && name != wanted.background && distance(*pixel, blend) > 60.0
        };
        let count = self.pixels.iter().filter(|pixel| strange(pixel)).count();
        count as f64 / self.pixels.len() as f64
    }
}

struct Region {
    cells: Vec<(usize, usize)>,
}

impl Region {
    /// Lowest and highest row and column.
    fn bounds(&self) -> [usize; 4] {
        let rows = self.cells.iter().map(|cell| cell.0);
        let columns = self.cells.iter().map(|cell| cell.1);
        [
            rows.clone().min().unwrap(),
            rows.max().unwrap(),
            columns.clone().min().unwrap(),
            columns.max().unwrap(),
        ]
    }

    fn fill(&self) -> f64 {
        let [top, bottom, left, right] = self.bounds();
        self.cells.len() as f64 / ((bottom - top + 1) * (right - left + 1)) as f64
    }

    fn is_hollow(&self, shape: &str) -> bool {
        let [top, bottom, left, right] = self.bounds();
        let down = if shape == "triangle" { 2.0 / 3.0 } else { 0.5 };
        let at = |low: usize, high: usize, part: f64| {
            (low as f64 + (high - low) as f64 * part).round_ties_even() as usize
        };
        !self.cells.contains(&(at(top, bottom, down), at(left, right, 0.5)))
    }

    fn median(&self, pixels: &[Colour], width: usize) -> Colour {
        [0, 1, 2].map(|channel| {
            let mut values: Vec<f64> =
                self.cells.iter().map(|(y, x)| pixels[y * width + x][channel]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        })
    }
}

fn rgb(name: &str) -> Colour {
    COLOURS.iter().find(|(known, _)| *known == name).unwrap().1
}

fn distance(a: Colour, b: Colour) -> f64 {
    (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>().sqrt()
}

fn nearest(pixel: Colour) -> &'static str {
    let nearer = |a: &&(&str, Colour), b: &&(&str, Colour)| {
        distance(pixel, a.1).total_cmp(&distance(pixel, b.1))
    };
    COLOURS.iter().min_by(nearer).unwrap().0
}
