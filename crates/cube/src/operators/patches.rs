//! Patches of pictures as rows of a matrix ("im2col": Chellapilla et al., 2006).

use burn::tensor::Shape;
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::elements::vector_size;

/// Which pixels a patch has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Rows and columns of it.
    pub sides: [usize; 2],
    /// Rows and columns of the result.
    pub out: [usize; 2],
    pub stride: usize,
    pub padding: usize,
}

/// The patches of so many pixels of the result from the first on, `[pixels, rows × columns × channels]`, of
/// `x` `[batch, height, width, channels]`, with zeros around it.
pub(super) fn patches<R: CubeRuntime>(
    x: &CubeTensor<R>,
    window: Window,
    first: usize,
    pixels: usize,
) -> CubeTensor<R> {
    let x = into_contiguous(x.clone());
    let Window { sides: [rows, columns], out: [height, width], stride, padding } = window;
    let [_, x_height, x_width, channels] = x.meta.shape().dims();
    let (client, device, dtype) = (x.client.clone(), x.device.clone(), x.dtype);
    let shape = Shape::from(vec![pixels, rows * columns * channels]);
    let out = empty_device_contiguous_dtype(client.clone(), device, shape, dtype);
    let vector = vector_size(&out, &[channels]);
    let length = out.meta.num_elements() / vector;
    let dim = CubeDim::new(&client, length);
    let count = cubecl::calculate_cube_count_elemwise(&client, length, dim);
    let address = x.required_address_type().max(out.required_address_type());
    // SAFETY: a unit writes one vector of the patches, and reads one of the picture, if it is within that.
    unsafe {
        unroll::launch_unchecked::<R>(
            &client,
            count,
            dim,
            address,
            vector,
            x.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            length,
            first,
            x_height,
            x_width,
            channels / vector,
            rows * columns,
            columns,
            height * width,
            width,
            stride,
            padding,
            dtype.into(),
        );
    }
    out
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn unroll<X: Numeric, N: Size>(
    x: &Tensor<Vector<X, N>>,
    patches: &mut Tensor<Vector<X, N>>,
    length: usize,
    first: usize,
    height: usize,
    width: usize,
    channels: usize,
    taps: usize,
    columns: usize,
    out_pixels: usize,
    out_width: usize,
    stride: usize,
    padding: usize,
    #[define(X)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at >= length {
        terminate!();
    }
    let (channel, of_tap) = (at % channels, at / channels);
    let (tap, of_pixel) = (of_tap % taps, first + of_tap / taps);
    let (image, pixel) = (of_pixel / out_pixels, of_pixel % out_pixels);
    // Counted from the padding's edge.
    let down = pixel / out_width * stride + tap / columns;
    let across = pixel % out_width * stride + tap % columns;
    let mut value = Vector::<X, N>::cast_from(0u32);
    if down >= padding && down < height + padding && across >= padding && across < width + padding {
        let row = image * height + down - padding;
        value = x[(row * width + across - padding) * channels + channel];
    }
    patches[at] = value;
}
