//! Convolutions.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl::CubeTuneId;
use burn_cubecl::cubecl::tune::{LocalTuner, Tunable, TunableSet, TuneGroup, local_tuner};
use burn_cubecl::kernel::cast;
use burn_cubecl::kernel::conv::{ConvStrategy, conv_forward_nhwc};
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::ops::{permute, permute_nchw_to_nhwc, permute_nhwc_to_nchw, reshape};
use burn_cubecl::tensor::CubeTensor;
use cubek::convolution::{
    AcceleratedTileKind, ConvAlgorithm, ConvolutionArgs, ConvolutionInputs, Strategy, launch_ref,
};

use super::matmul::multiply;
use super::operation::{Operation, apply};
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
    let ([batch, _, height, width], [outputs, _, rows, columns]) = (x.dims(), weight.dims());
    let convolution = Convolution { stride, padding };
    let [height, width] = [(height, rows), (width, columns)].map(|side| convolution.side(side));
    let dtype = x.dtype();
    apply(convolution, [x, weight], [batch, outputs, height, width], dtype)
        .map_err(|[x, weight]| (x, weight))
}

#[derive(Clone, Copy, Debug)]
struct Convolution {
    stride: usize,
    padding: usize,
}

impl Operation for Convolution {
    const NAME: &'static str = "distorch-conv2d";

    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let Ok([x, weight]) = <[_; 2]>::try_from(inputs) else {
            unreachable!("a convolution has a picture and filters")
        };
        // Channels last, as all kernels have them.
        let (x, weight) = (permute_nchw_to_nhwc(x), permute_nchw_to_nhwc(weight));
        let y = match (weight.meta.shape()[1..3] == [1, 1], self.stride, self.padding) {
            (true, 1, 0) => pointwise(x, weight),
            _ if x.dtype == DType::F32 => self.direct(x, weight),
            _ => self.implicit(x, weight),
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

type Operands<R> = (Convolution, CubeTensor<R>, CubeTensor<R>, Purpose);

impl Convolution {
    /// As a product of the filters and patches, by whichever kernel is the fastest here.
    fn implicit<R: CubeRuntime>(self, x: CubeTensor<R>, weight: CubeTensor<R>) -> CubeTensor<R> {
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
        let out =
            empty_device_dtype(client.clone(), x.device.clone(), self.out(x, weight), x.dtype);
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

    /// Pixel by pixel, of f32.
    fn direct<R: CubeRuntime>(self, x: CubeTensor<R>, weight: CubeTensor<R>) -> CubeTensor<R> {
        let options = ConvOptions::new([self.stride; 2], [self.padding; 2], [1, 1], 1);
        match conv_forward_nhwc(x, weight, None, options, ConvStrategy::Direct) {
            Ok(y) => y,
            Err(error) => unreachable!("it has no conditions: {error:?}"),
        }
    }
}

/// The kernels: as products on tensor cores, where the sizes are made for that, else pixel by pixel.
fn candidates<R: CubeRuntime>() -> TunableSet<String, Operands<R>, CubeTensor<R>> {
    let tensor_cores = TuneGroup::new("tensor cores", |_: &String| 2);
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
    TunableSet::new(key::<R>, trial)
        .with(direct.group(&any, always))
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
    format!(
        "{:?} {pixels} pixels, {} to {} channels, {}×{}, stride {stride}, padding {padding}",
        x.dtype, x_shape[3], weight[0], weight[1], weight[2]
    )
}
