//! Pictures as Flux Kontext looks at them.

use distorch_pipeline::image::resize::{Method, centre_crop, resize};

use crate::forecast::Known;
use crate::inputs::NodeError;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

/// Widths and heights that Kontext was trained on.
const SIZES: [[usize; 2]; 17] = [
    [672, 1568],
    [688, 1504],
    [720, 1456],
    [752, 1392],
    [800, 1328],
    [832, 1248],
    [880, 1184],
    [944, 1104],
    [1024, 1024],
    [1104, 944],
    [1184, 880],
    [1248, 832],
    [1328, 800],
    [1392, 752],
    [1456, 720],
    [1504, 688],
    [1568, 672],
];

/// Pictures at a size that Kontext was trained on.
pub const FLUX_KONTEXT_IMAGE_SCALE: Node = Node {
    class: "FluxKontextImageScale",
    title: "FluxKontextImageScale",
    category: "model/conditioning/flux",
    about: "Brings pictures to the size of about a megapixel that Flux Kontext was trained on and whose ratio is nearest: \
            the middle is cut to that ratio, then resized.",
    inputs: &[Input::link("image", Type::Image).tooltip("The pictures.")],
    outputs: &[Output::new(Type::Image).tooltip("The pictures at the new size.")],
    forecast: Some(|ahead| {
        let pictures = ahead.extent("image");
        Ok(vec![Known::image(pictures.map(|pictures| pictures.sized(nearest(pictures.size()))))])
    }),
    run: |_, inputs| {
        let pictures = inputs.image("image")?;
        let [_, rows, columns, _] = pictures.shape();
        let size = nearest([rows, columns]);
        let cropped = centre_crop(&pictures, size);
        let resized = resize(&cropped, Method::Lanczos, size).map_err(NodeError::failed)?;
        Ok(vec![Value::Image(resized)])
    },
    ..Node::EMPTY
};

/// Rows and columns of the size whose ratio of width to height is nearest to that of `rows` and `columns`; of two, the
/// narrower.
fn nearest([rows, columns]: [usize; 2]) -> [usize; 2] {
    let ratio = |width: usize, height: usize| width as f64 / height.max(1) as f64;
    let own = ratio(columns, rows);
    let off = |[width, height]: [usize; 2]| (own - ratio(width, height)).abs();
    // They stand in the order of their widths: of equals, the first is kept.
    let nearer = |best, size| if off(size) < off(best) { size } else { best };
    let [width, height] = SIZES.into_iter().reduce(nearer).unwrap_or([1024; 2]);
    [height, width]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected sizes from the ratios, by hand.
    #[test]
    fn the_nearest_ratio_is_taken() {
        for ([width, height], expected) in [
            ([1024, 1024], [1024, 1024]),
            ([31, 31], [1024, 1024]),
            // 16:9 is 1.778: 1392×752 is 1.851, 1328×800 is 1.66.
            ([1920, 1080], [1392, 752]),
            // 3:2 is 1248:832.
            ([300, 200], [1248, 832]),
            ([200, 300], [832, 1248]),
            // 4:3 is 1.333: 1184×880 is 1.345.
            ([640, 480], [1184, 880]),
            ([5000, 10], [1568, 672]),
            ([10, 5000], [672, 1568]),
        ] {
            let [rows, columns] = nearest([height, width]);
            assert_eq!([columns, rows], expected, "{width}×{height}");
        }
    }

    #[test]
    fn sizes_are_in_the_order_of_their_widths_and_about_a_megapixel() {
        assert!(SIZES.is_sorted());
        for [width, height] in SIZES {
            assert!(width % 16 == 0 && height % 16 == 0);
            assert!((width * height).abs_diff(1 << 20) < 20_000, "{width}×{height}");
        }
    }
}
