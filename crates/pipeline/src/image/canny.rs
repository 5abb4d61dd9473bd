//! Edges (Canny, <https://doi.org/10.1109/TPAMI.1986.4767851>), with the numbers of Kornia 0.9: greys by the weights of
//! BT.601, a Gaussian of deviation 1 over 5×5 pixels, Sobel's slopes, and of pixels along a slope the steepest.

use super::Pictures;

/// Pixels that the Gaussian reaches to each side.
const BLUR: usize = 2;

/// What is added to the square of a slope, so that it has a root everywhere.
const EPSILON: f32 = 1e-6;

/// Row and column of the neighbour in each direction, by eighths of a turn from the right on, downwards.
const NEIGHBOURS: [(isize, isize); 8] =
    [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)];

/// Pictures of three equal channels, 1 at edges and 0 elsewhere. Pixels that are steeper than `high` are edges, and those
/// steeper than `low` that edges touch. `None` where a side has fewer than 3 pixels.
pub fn edges(pictures: &Pictures, low: f32, high: f32) -> Option<Pictures> {
    let [batch, height, width, channels] = pictures.shape();
    if height <= BLUR || width <= BLUR || channels == 0 {
        return None;
    }
    let mut values = Vec::with_capacity(batch * height * width * 3);
    for picture in pictures.each() {
        let grey = picture.chunks_exact(channels).map(|pixel| match pixel {
            [red, green, blue, ..] => 0.299 * red + 0.587 * green + 0.114 * blue,
            [grey, ..] => *grey,
            [] => 0.0,
        });
        let blurred = blurred(&Grid { values: grey.collect(), height, width });
        let steep = steepest(&blurred);
        values.extend(connected(&steep, low, high).into_iter().flat_map(|value| [value; 3]));
    }
    Pictures::new([batch, height, width, 3], values)
}

/// Numbers of a picture's pixels, row by row.
struct Grid {
    values: Vec<f32>,
    height: usize,
    width: usize,
}

impl Grid {
    fn at(&self, row: usize, column: usize) -> f32 {
        self.values.get(row * self.width + column).copied().unwrap_or(0.0)
    }

    /// The value there, or the nearest one.
    fn nearest(&self, row: isize, column: isize) -> f32 {
        let clamp = |at: isize, length: usize| at.clamp(0, length as isize - 1) as usize;
        self.at(clamp(row, self.height), clamp(column, self.width))
    }

    /// The value there, or of what lies as far within from the border, which is not repeated.
    fn mirrored(&self, row: isize, column: isize) -> f32 {
        let fold = |at: isize, length: usize| {
            let last = length as isize - 1;
            let at = at.abs();
            (if at > last { 2 * last - at } else { at }) as usize
        };
        self.at(fold(row, self.height), fold(column, self.width))
    }

    fn map(&self, value: impl Fn(isize, isize) -> f32) -> Grid {
        let (height, width) = (self.height, self.width);
        let rows =
            (0..height as isize).flat_map(|row| (0..width as isize).map(move |at| (row, at)));
        Grid { values: rows.map(|(row, column)| value(row, column)).collect(), height, width }
    }
}

/// Along the rows, then along the columns.
fn blurred(grey: &Grid) -> Grid {
    let reach = BLUR as isize;
    let weights: Vec<f32> = (-reach..=reach).map(|at| (-((at * at) as f32) / 2.0).exp()).collect();
    let sum: f32 = weights.iter().sum();
    let mean = |value: &dyn Fn(isize) -> f32| {
        (-reach..=reach).zip(&weights).map(|(at, weight)| value(at) * (weight / sum)).sum()
    };
    let wide = grey.map(|row, column| mean(&|at| grey.mirrored(row, column + at)));
    wide.map(|row, column| mean(&|at| wide.mirrored(row + at, column)))
}

/// How steep each pixel is that is the steepest along its slope; 0 elsewhere. Of two equal ones side by side the left one
/// counts, of two below each other the upper one.
fn steepest(blurred: &Grid) -> Grid {
    let slope = |row: isize, column: isize| {
        let at = |y: isize, x: isize| blurred.nearest(row + y, column + x);
        let across =
            at(-1, 1) + 2.0 * at(0, 1) + at(1, 1) - (at(-1, -1) + 2.0 * at(0, -1) + at(1, -1));
        let down =
            at(1, -1) + 2.0 * at(1, 0) + at(1, 1) - (at(-1, -1) + 2.0 * at(-1, 0) + at(-1, 1));
        [across, down]
    };
    let flat = EPSILON.sqrt();
    let steepness = blurred.map(|row, column| {
        let [across, down] = slope(row, column);
        (across * across + down * down + EPSILON).sqrt()
    });
    let (height, width) = (blurred.height as isize, blurred.width as isize);
    blurred.map(|row, column| {
        let [across, down] = slope(row, column);
        let eighths = (down.atan2(across) * (4.0 / std::f32::consts::PI)).round_ties_even();
        let own = steepness.nearest(row, column);
        let beats = |direction: usize| {
            let (y, x) = NEIGHBOURS.get(direction).copied().unwrap_or_default();
            let (row, column) = (row + y, column + x);
            let inside = (0..height).contains(&row) && (0..width).contains(&column);
            let other = if inside { steepness.nearest(row, column) } else { flat };
            own > other || (own == other && matches!(direction, 0 | 2))
        };
        let direction = (eighths as isize).rem_euclid(8) as usize;
        match own > flat && beats(direction) && beats((direction + 4) % 8) {
            true => own,
            false => 0.0,
        }
    })
}

/// 1 at pixels above `high`, and at those above `low` that are connected with one.
fn connected(steep: &Grid, low: f32, high: f32) -> Vec<f32> {
    let (height, width) = (steep.height as isize, steep.width as isize);
    let mut edges = vec![0.0; steep.values.len()];
    let strong = steep.values.iter().enumerate().filter(|(_, value)| **value > high);
    let mut open: Vec<usize> = strong.map(|(at, _)| at).collect();
    while let Some(at) = open.pop() {
        let Some(edge) = edges.get_mut(at).filter(|edge| **edge == 0.0) else { continue };
        *edge = 1.0;
        let (row, column) = (at as isize / width, at as isize % width);
        for (y, x) in NEIGHBOURS {
            let (row, column) = (row + y, column + x);
            if (0..height).contains(&row) && (0..width).contains(&column) {
                let at = (row * width + column) as usize;
                if steep.values.get(at).is_some_and(|value| *value > low) {
                    open.push(at);
                }
            }
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    /// Made by `tools/reference/make_canny.py` with Kornia.
    const FIXTURE: &str = include_str!("../../tests/fixtures/canny.json");

    /// Every pixel: no slope of these pictures is within rounding of a threshold or of its neighbour's.
    #[test]
    fn edges_are_those_of_kornia() {
        let fixture: Json = serde_json::from_str(FIXTURE).unwrap();
        for case in fixture.as_array().unwrap() {
            let shape: [usize; 4] = serde_json::from_value(case["shape"].clone()).unwrap();
            let bytes: Vec<u8> = serde_json::from_value(case["bytes"].clone()).unwrap();
            let values = bytes.iter().map(|byte| f32::from(*byte) / 255.0).collect();
            let pictures = Pictures::new(shape, values).unwrap();
            let [low, high] = ["low", "high"].map(|name| case[name].as_f64().unwrap() as f32);
            let found = edges(&pictures, low, high).unwrap();
            let expected: Vec<u8> = serde_json::from_value(case["edges"].clone()).unwrap();
            assert_eq!(found.shape(), [shape[0], shape[1], shape[2], 3]);
            let found: Vec<u8> =
                found.values().iter().step_by(3).map(|value| *value as u8).collect();
            assert_eq!(found, expected, "{} {low} {high}", case["name"]);
            assert!(expected.contains(&1));
        }
        let tiny = Pictures::from_fn([1, 2, 9, 3], |_, _, _, _| 0.5);
        assert!(edges(&tiny, 0.1, 0.2).is_none());
    }
}
