//! Pictures with room around them to be filled.

use crate::forecast::{Extent, Known};
use crate::inputs::NodeError;
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::image::{Mask, Pictures, room};

const fn side(name: &'static str) -> Input {
    Input::int(name, 0, 0, MAX_SIDE).step(8).tooltip("Pixels to be added on this side.")
}

/// Pictures with a grey border, and the mask of the border.
pub const IMAGE_PAD_FOR_OUTPAINT: Node = Node {
    class: "ImagePadForOutpaint",
    title: "Pad Image for Outpainting",
    category: "image/transform",
    about: "Adds grey room around pictures, with a mask for a sampler to fill it.",
    inputs: &[
        Input::link("image", Type::Image).tooltip("The pictures."),
        side("left"),
        side("top"),
        side("right"),
        side("bottom"),
        Input::int("feathering", 40, 0, MAX_SIDE)
            .advanced()
            .tooltip("Pixels over which the mask fades into the picture."),
    ],
    outputs: &[
        Output::new(Type::Image).tooltip("The larger pictures."),
        Output::new(Type::Mask).tooltip("1 where there is room to be filled."),
    ],
    forecast: Some(|ahead| {
        let padded = ahead.extent("image").and_then(|pictures| {
            let side = |name: &str| ahead.inputs().count(name).ok();
            let height =
                pictures.height.saturating_add(side("top")?.saturating_add(side("bottom")?));
            let width = pictures.width.saturating_add(side("left")?.saturating_add(side("right")?));
            Some(pictures.sized([height, width]))
        });
        let mask = padded.map(|padded| Extent { batch: 1, ..padded });
        Ok(vec![Known::image(padded), Known::mask(mask)])
    }),
    run: |_, inputs| {
        let [left, top, right, bottom, feathering] =
            ["left", "top", "right", "bottom", "feathering"].map(|name| inputs.count(name));
        let border = Border { left: left?, top: top?, right: right?, bottom: bottom? };
        let pictures = inputs.image("image")?;
        let padded = border.around(&pictures)?;
        let mask = border.mask(pictures.shape(), feathering?);
        Ok(vec![Value::Image(padded), Value::Mask(mask)])
    },
    ..Node::EMPTY
};

/// Pixels to be added.
struct Border {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

impl Border {
    fn around(&self, pictures: &Pictures) -> Result<Pictures, NodeError> {
        let [batch, height, width, channels] = pictures.shape();
        let shape =
            [batch, height + self.top + self.bottom, width + self.left + self.right, channels];
        room(shape).map_err(NodeError::failed)?;
        Ok(Pictures::from_fn(shape, |picture, y, x, channel| {
            match (y.checked_sub(self.top), x.checked_sub(self.left)) {
                (Some(y), Some(x)) if y < height && x < width => {
                    pictures.at(picture, y, x, channel)
                }
                _ => 0.5,
            }
        }))
    }

    /// 1 in the border; inside, the square of what is left of the feathering at the distance from
    /// the nearest side that has a border. A picture too small for the feathering has none.
    fn mask(&self, [_, height, width, _]: [usize; 4], feathering: usize) -> Mask {
        let feathers = feathering > 0 && feathering * 2 < height.min(width);
        let shape = [1, height + self.top + self.bottom, width + self.left + self.right];
        let far = height.max(width);
        let distance = |border: usize, distance: usize| if border > 0 { distance } else { far };
        Mask::from_fn(shape, |_, y, x| {
            let (Some(y), Some(x)) = (y.checked_sub(self.top), x.checked_sub(self.left)) else {
                return 1.0;
            };
            if y >= height || x >= width {
                return 1.0;
            }
            let nearest = distance(self.top, y)
                .min(distance(self.bottom, height - y))
                .min(distance(self.left, x))
                .min(distance(self.right, width - x));
            if !feathers || nearest >= feathering {
                return 0.0;
            }
            let share = (feathering - nearest) as f32 / feathering as f32;
            share * share
        })
    }
}
