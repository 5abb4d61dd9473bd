//! Convolutions.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl::CubeTuneId;
use burn_cubecl::cubecl::tune::{LocalTuner, Tunable, TunableSet, TuneGroup, local_tuner};
use burn_cubecl::kernel::conv::{ConvStrategy, conv_forward_nhwc};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::ops::{permute, permute_nchw_to_nhwc, permute_nhwc_to_nchw, reshape};
use burn_cubecl::tensor::CubeTensor;
use cubek::convolution::{
    AcceleratedTileKind, ConvAlgorithm, ConvolutionArgs, ConvolutionInputs, Strategy, launch_ref,
};

use super::matmul::{multiply, multiply_to};
use super::operation::{Operation, apply};
use super::patches::{Window, patches};
use super::{Purpose, dtypes, has_mma, input};
use crate::Tensor;

/// Convolves `x` `[batch, in, height, width]` with `weight` `[out, in, kernel, kernel]` of the same dtype, zeros around,
/// summed in f32. The window fits the padded picture.
///
/// # Errors
/// Both, where they are on no accelerator.
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    stride: usize,
    padding: usize,
) -> Result<Tensor<4>, (Tensor<4>, Tensor<4>)> {
    apply(Convolution { stride, padding }, [x, weight]).map_err(|[x, weight]| (x, weight))
}

/// Filters `[out, in, kernel, kernel]` with channels last in memory, as convolutions read them: those that stay are put so
/// once.
///
/// # Errors
/// The filters, where they are on no accelerator.
pub fn channels_last(filters: Tensor<4>) -> Result<Tensor<4>, Tensor<4>> {
    apply(ChannelsLast, [filters]).map_err(|[filters]| filters)
}

#[derive(Debug)]
struct ChannelsLast;

impl Operation for ChannelsLast {
    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let Ok([filters]) = <[_; 1]>::try_from(inputs) else { unreachable!("it has one tensor") };
        permute_nhwc_to_nchw(into_contiguous(permute_nchw_to_nhwc(filters)))
    }
}

#[derive(Clone, Copy, Debug)]
struct Convolution {
    stride: usize,
    padding: usize,
}

impl Operation for Convolution {
    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let Ok([x, weight]) = <[_; 2]>::try_from(inputs) else {
            unreachable!("a convolution has a picture and filters")
        };
        // Channels last, as all kernels have them.
        let (x, weight) = (permute_nchw_to_nhwc(x), permute_nchw_to_nhwc(weight));
        let y = match (weight.meta.shape()[1..3] == [1, 1], self.stride, self.padding) {
            (true, 1, 0) => pointwise(x, weight),
            _ => self.tuned(x, weight),
        };
        permute_nhwc_to_nchw(y)
    }
}

/// A product of all pixels' channels and the filters.
fn pointwise<R: CubeRuntime>(x: CubeTensor<R>, weight: CubeTensor<R>) -> CubeTensor<R> {
    let mut shape = x.meta.shape().to_vec();
    let (pixels, channels) = (shape[..3].iter().product::<usize>(), shape[3]);
    let (dtype, outputs) = (x.dtype, weight.meta.shape()[0]);
    shape[3] = outputs;
    let x = reshape(x, Shape::from(vec![pixels, channels]));
    let weight = reshape(weight, Shape::from(vec![outputs, channels]));
    reshape(multiply(x, permute(weight, &[1, 0]), dtype), Shape::from(shape))
}

/// How the keys of f32 begin, of which tensor cores would take a part only.
const EXACT: &str = "F32";

/// Bytes of patches in memory, at most: the plans' estimates count with them.
const PATCHES: usize = 256 << 20;

/// The pixels of patches come in multiples of so many, which keeps their results' places aligned.
const PIXELS: usize = 512;

type Operands<R> = (Convolution, CubeTensor<R>, CubeTensor<R>, Purpose);

impl Convolution {
    /// By whichever kernel is the fastest here.
    fn tuned<R: CubeRuntime>(self, x: CubeTensor<R>, weight: CubeTensor<R>) -> CubeTensor<R> {
        static TUNER: LocalTuner<String, CubeTuneId> = local_tuner!();

        TUNER.execute(
            &CubeTuneId::new(&x.client, &x.device),
            &x.client.clone(),
            TUNER.init(candidates::<R>),
            (self, x, weight, Purpose::Result),
        )
    }

    /// By one kernel.
    fn launch<R: CubeRuntime>(
        self,
        algorithm: fn(bool) -> ConvAlgorithm,
        x: &CubeTensor<R>,
        weight: &CubeTensor<R>,
    ) -> Result<CubeTensor<R>, String> {
        let client = x.client.clone();
        let mma = has_mma(&client);
        let tile_kind = if mma { AcceleratedTileKind::Mma } else { AcceleratedTileKind::Cmma };
        let out = empty_device_contiguous_dtype(
            client.clone(),
            x.device.clone(),
            self.out(x, weight),
            x.dtype,
        );
        let inputs = ConvolutionInputs::Forward {
            input: input(x),
            weight: input(weight),
            bias: None,
            out: out.clone().binding(),
        };
        let arguments = ConvolutionArgs {
            stride: [self.stride; 2],
            padding: [self.padding; 2],
            dilation: [1; 2],
        };
        let dtypes = dtypes([x, weight, &out]);
        let strategy = Strategy::Inferred { algorithm: algorithm(mma), tile_kind };
        launch_ref(&strategy, &client, inputs, arguments, dtypes)
            .map_err(|error| format!("{error:?}"))?;
        Ok(out)
    }

    /// `[batch, height, width, out]`.
    fn out<R: CubeRuntime>(self, x: &CubeTensor<R>, weight: &CubeTensor<R>) -> Shape {
        let (x, weight) = (x.meta.shape(), weight.meta.shape());
        let side = |axis: usize| self.side((x[axis], weight[axis]));
        Shape::from(vec![x[0], side(1), side(2), weight[0]])
    }

    /// The result's side, of the picture's and the window's.
    fn side(self, (side, window): (usize, usize)) -> usize {
        (side + 2 * self.padding - window) / self.stride + 1
    }

    /// Pixel by pixel, in f32 in between.
    fn widened<R: CubeRuntime>(self, x: CubeTensor<R>, weight: CubeTensor<R>) -> CubeTensor<R> {
        let dtype = x.dtype;
        cast(self.direct(cast(x, DType::F32), cast(weight, DType::F32)), dtype)
    }

    /// As products of patches in memory and the filters.
    fn unrolled<R: CubeRuntime>(self, x: CubeTensor<R>, weight: CubeTensor<R>) -> CubeTensor<R> {
        let shape = self.out(&x, &weight);
        let [batch, height, width, outputs] = shape.dims();
        let [_, rows, columns, channels] = weight.meta.shape().dims();
        let window = Window {
            sides: [rows, columns],
            out: [height, width],
            stride: self.stride,
            padding: self.padding,
        };
        let (pixels, values) = (batch * height * width, rows * columns * channels);
        let filters = Shape::from(vec![outputs, values]);
        let filters = permute(reshape(into_contiguous(weight), filters), &[1, 0]);
        let (client, device, dtype) = (x.client.clone(), x.device.clone(), x.dtype);
        let y = empty_device_contiguous_dtype(
            client.clone(),
            device.clone(),
            Shape::from(vec![pixels, outputs]),
            dtype,
        );
        let each = (PATCHES / (values * dtype.size()).max(1)).max(1).next_multiple_of(PIXELS);
        for first in (0..pixels).step_by(each) {
            let last = pixels.min(first + each);
            let start = (first * outputs * dtype.size()) as u64;
            let part = CubeTensor::new_contiguous(
                client.clone(),
                device.clone(),
                Shape::from(vec![last - first, outputs]),
                y.handle.clone().offset_start(start),
                dtype,
            );
            multiply_to(patches(&x, window, first, last - first), filters.clone(), part);
        }
        reshape(y, shape)
    }

    /// Pixel by pixel, of f32.
    fn direct<R: CubeRuntime>(self, x: CubeTensor<R>, weight: CubeTensor<R>) -> CubeTensor<R> {
        let options = ConvOptions::new([self.stride; 2], [self.padding; 2], [1, 1], 1);
        match conv_forward_nhwc(x, weight, None, options, ConvStrategy::Direct) {
            Ok(y) => y,
            Err(error) => unreachable!("it has no conditions: {error:?}"),
        }
    }
}

/// The kernels: as products on tensor cores, where there are any and the sizes are made for that, else as products of
/// patches in memory and pixel by pixel.
fn candidates<R: CubeRuntime>() -> TunableSet<String, Operands<R>, CubeTensor<R>> {
    let tensor_cores =
        TuneGroup::new("tensor cores", |key: &String| if key.starts_with(EXACT) { -1 } else { 2 });
    let any = TuneGroup::new("any", |_: &String| 1);
    let always = |_: &String| 1;
    let tunable = |name: &'static str, algorithm: fn(bool) -> ConvAlgorithm| {
        Tunable::new(name, move |(convolution, x, weight, purpose): Operands<R>| match convolution
            .launch(algorithm, &x, &weight)
        {
            Err(error) if purpose == Purpose::Trial => Err(error),
            Err(_) => Ok(convolution.widened(x, weight)),
            Ok(y) => Ok(y),
        })
    };
    let trial = |_: &String, (convolution, x, weight, _): &Operands<R>| {
        (*convolution, x.clone(), weight.clone(), Purpose::Trial)
    };
    let direct = Tunable::new("direct", |(convolution, x, weight, _): Operands<R>| {
        Ok::<_, String>(convolution.widened(x, weight))
    });
    let unrolled = Tunable::new("unrolled", |(convolution, x, weight, _): Operands<R>| {
        Ok::<_, String>(convolution.unrolled(x, weight))
    });
    TunableSet::new(key::<R>, trial)
        .with(direct.group(&any, always))
        .with(unrolled.group(&any, always))
        .with(
            tunable("simple", |mma| match mma {
                true => ConvAlgorithm::SimpleSyncStrided,
                false => ConvAlgorithm::SimpleSyncCyclic,
            })
            .group(&tensor_cores, always),
        )
        .with(tunable("simple_tma", |_| ConvAlgorithm::SimpleAsyncTma).group(&tensor_cores, always))
}

/// Convolutions of which one kernel is the fastest: pictures of about so many pixels.
fn key<R: CubeRuntime>((convolution, x, weight, _): &Operands<R>) -> String {
    let (x_shape, weight) = (x.meta.shape(), weight.meta.shape());
    let pixels = (x_shape[0] * x_shape[1] * x_shape[2]).next_power_of_two();
    let Convolution { stride, padding } = convolution;
    let dtype = if x.dtype == DType::F32 { EXACT.to_owned() } else { format!("{:?}", x.dtype) };
    format!(
        "{dtype}, {pixels} pixels, {} to {} channels, {}×{}, stride {stride}, padding {padding}",
        x_shape[3], weight[0], weight[1], weight[2]
    )
}
