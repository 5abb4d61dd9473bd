//! The layers that models are made of, with weights in PyTorch's layouts.
//!
//! Each holds a handle on its weights only, fetches them in [`forward`](Linear::forward) and checks
//! that they fit what comes in. Norms compute in f32 whatever the compute dtype.

use distorch_runtime::kernels::{self, Activation, Addend, Convolved, Precision, Rows};
use distorch_runtime::tensor::ops;
use distorch_runtime::{DType, IntTensor, LayerHandle, LayerParams, Scope, Tensor};

use crate::ModelError;

/// An affine map of the last dimension; `weight` `[out, in]`, `bias` `[out]` or none.
#[derive(Clone)]
pub struct Linear {
    handle: LayerHandle,
}

impl Linear {
    /// The layer `name` of the scope.
    ///
    /// # Errors
    /// When there is no such layer.
    pub fn load(scope: &Scope, name: &str) -> Result<Self, ModelError> {
        Ok(Self { handle: scope.layer(name)? })
    }

    /// `[.., in]` to `[.., out]`. A weight of a 1×1 convolution (`[out, in, 1, 1]`) serves too, and one of a convolution
    /// whose window is the whole of what comes in, flat.
    ///
    /// # Errors
    /// When the weights cannot be fetched or do not fit.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>, ModelError> {
        let mut shape = x.dims();
        let rows = shape[..D - 1].iter().product();
        let y = self.map(x.reshape([1, rows, shape[D - 1]]), Rows::Tokens)?;
        shape[D - 1] = y.dims()[2];
        Ok(y.reshape(shape))
    }

    /// As [`forward`](Self::forward), and `addend` of the result's shape added.
    ///
    /// # Errors
    /// As [`forward_to`](Self::forward_to).
    pub fn forward_plus<const D: usize>(
        &self,
        x: Tensor<D>,
        addend: Tensor<D>,
    ) -> Result<Tensor<D>, ModelError> {
        let (inputs, shape) = (x.dims(), addend.dims());
        let rows = inputs[..D - 1].iter().product();
        let (params, weight) = self.weight(inputs[D - 1])?;
        let [outputs, _] = weight.dims();
        if (outputs, &inputs[..D - 1]) != (shape[D - 1], &shape[..D - 1]) {
            let layer = params.layer().to_owned();
            return Err(ModelError::Output { layer, expected: shape[D - 1], found: outputs });
        }
        let (x, addend) = (x.reshape([1, rows, inputs[D - 1]]), addend.reshape([1, rows, outputs]));
        let y = kernels::linear_plus(x, weight, params.bias()?, addend, params.precision());
        Ok(y.reshape(shape))
    }

    /// As [`forward`](Self::forward), for callers that take results apart: an error unless `features` come out.
    ///
    /// # Errors
    /// When the weights cannot be fetched, or do not fit what comes in or is to come out.
    pub fn forward_to<const D: usize>(
        &self,
        x: Tensor<D>,
        features: usize,
    ) -> Result<Tensor<D>, ModelError> {
        self.made(self.forward(x)?, features)
    }

    /// As [`tokens`](Self::tokens), an error unless `features` come out.
    ///
    /// # Errors
    /// As [`forward_to`](Self::forward_to).
    pub fn tokens_to(&self, x: Tensor<3>, features: usize) -> Result<Tensor<3>, ModelError> {
        self.made(self.tokens(x)?, features)
    }

    fn made<const D: usize>(&self, y: Tensor<D>, features: usize) -> Result<Tensor<D>, ModelError> {
        let found = y.dims()[D - 1];
        if found == features {
            return Ok(y);
        }
        let layer = self.handle.fetch()?.layer().to_owned();
        Err(ModelError::Output { layer, expected: features, found })
    }

    /// Tokens `[batch, tokens, in]` to `[batch, tokens, out]`; on the CPU, a view of them is read where it lies.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn tokens(&self, x: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        self.map(x, Rows::Tokens)
    }

    /// As [`tokens`](Self::tokens), and this function of each value.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn tokens_activated(
        &self,
        x: Tensor<3>,
        activation: Activation,
    ) -> Result<Tensor<3>, ModelError> {
        let (params, weight) = self.weight(x.dims()[2])?;
        let (bias, precision) = (params.bias()?, params.precision());
        Ok(kernels::linear_activated(x, weight, bias, activation, precision))
    }

    /// As [`tokens`](Self::tokens), and the first half of the features times the GELU of the others.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn tokens_geglu(&self, x: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        let (params, weight) = self.weight(x.dims()[2])?;
        Ok(kernels::linear_geglu(x, weight, params.bias()?, params.precision()))
    }

    /// The pixels of a picture `[batch, in, height, width]` to tokens `[batch, height × width, out]`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn from_pixels(&self, x: Tensor<4>) -> Result<Tensor<3>, ModelError> {
        self.map(kernels::tokens(x), Rows::Tokens)
    }

    /// Tokens `[batch, height × width, in]` to the pixels of a picture `[batch, out, height, width]`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn to_pixels(
        &self,
        tokens: Tensor<3>,
        height: usize,
        width: usize,
    ) -> Result<Tensor<4>, ModelError> {
        Ok(kernels::picture(self.map(tokens, Rows::Channels)?, height, width))
    }

    /// What products multiply where this layer computes.
    pub fn precision(&self) -> Precision {
        self.handle.precision()
    }

    fn map(&self, x: Tensor<3>, rows: Rows) -> Result<Tensor<3>, ModelError> {
        let (params, weight) = self.weight(x.dims()[2])?;
        Ok(kernels::linear(x, weight, params.bias()?, rows, params.precision()))
    }

    /// The layer, and its weight for so many features.
    fn weight(&self, features: usize) -> Result<(LayerParams, Tensor<2>), ModelError> {
        let params = self.handle.fetch()?;
        let weight = match params.weight::<2>() {
            Ok(weight) => weight,
            Err(error) => match params.weight::<4>() {
                Ok(conv) => flat(conv),
                Err(_) => flat(params.weight::<5>().map_err(|_| error)?),
            },
        };
        fits(params.layer(), "features", weight.dims()[1], features)?;
        Ok((params, weight))
    }
}

/// The window of a convolution in one row for each output.
fn flat<const D: usize>(weight: Tensor<D>) -> Tensor<2> {
    let [outputs, window @ ..] = &weight.dims()[..] else { return weight.reshape([1, -1]) };
    let shape = [*outputs, window.iter().product()];
    weight.reshape(shape)
}

/// A two-dimensional convolution; `weight` `[out, in, kernel, kernel]`, `bias` `[out]` or none.
#[derive(Clone)]
pub struct Conv2d {
    handle: LayerHandle,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// The layer `name` of the scope, with this stride and zero padding on all sides.
    ///
    /// # Errors
    /// When there is no such layer.
    pub fn load(
        scope: &Scope,
        name: &str,
        stride: usize,
        padding: usize,
    ) -> Result<Self, ModelError> {
        Ok(Self { handle: scope.layer(name)?, stride, padding })
    }

    /// `[batch, in, height, width]` to `[batch, out, height', width']`.
    ///
    /// # Errors
    /// When the weights cannot be fetched or do not fit.
    pub fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        Ok(self.convolve(x)?.finish())
    }

    /// As [`forward`](Self::forward), and what is made meanwhile added.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and what making that gives.
    pub fn forward_plus(
        &self,
        x: Tensor<4>,
        addend: impl FnOnce() -> Result<Addend, ModelError>,
    ) -> Result<Tensor<4>, ModelError> {
        let convolved = self.convolve(x)?;
        Ok(convolved.plus(addend()?))
    }

    fn convolve(&self, x: Tensor<4>) -> Result<Convolved, ModelError> {
        let params = self.handle.fetch()?;
        let weight = params.weight::<4>()?;
        let [_, inputs, height, width] = weight.dims();
        let [_, channels, rows, columns] = x.dims();
        fits(params.layer(), "channels", inputs, channels)?;
        if rows + 2 * self.padding < height || columns + 2 * self.padding < width {
            return Err(ModelError::Layer {
                layer: params.layer().to_owned(),
                expected: format!("at least {height}×{width} pixels"),
                found: format!("{rows}×{columns} with {} of padding", self.padding),
            });
        }
        let (bias, precision) = (params.bias()?, params.precision());
        Ok(Convolved::new(x, weight, bias, self.stride, self.padding, precision))
    }
}

/// Group normalisation (Wu & He, <https://arxiv.org/abs/1803.08494>); `weight` and `bias`
/// `[channels]`.
#[derive(Clone)]
pub struct GroupNorm {
    handle: LayerHandle,
    groups: usize,
    epsilon: f64,
}

impl GroupNorm {
    /// The layer `name` of the scope.
    ///
    /// # Errors
    /// When there is no such layer.
    pub fn load(
        scope: &Scope,
        name: &str,
        groups: usize,
        epsilon: f64,
    ) -> Result<Self, ModelError> {
        Ok(Self { handle: scope.layer(name)?, groups, epsilon })
    }

    /// `[batch, channels, height, width]` to the same.
    ///
    /// # Errors
    /// When the weights cannot be fetched or do not fit.
    pub fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        self.normalise(x, false)
    }

    /// As [`forward`](Self::forward), with SiLU behind.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_silu(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        self.normalise(x, true)
    }

    fn normalise(&self, x: Tensor<4>, silu: bool) -> Result<Tensor<4>, ModelError> {
        let params = self.handle.fetch()?;
        let (weight, bias) = (params.weight::<1>()?, params.get::<1>("bias")?);
        let channels = x.dims()[1];
        fits(params.layer(), "channels", weight.dims()[0], channels)?;
        if !channels.is_multiple_of(self.groups) {
            return Err(ModelError::Layer {
                layer: params.layer().to_owned(),
                expected: format!("channels in {} groups", self.groups),
                found: format!("{channels} channels"),
            });
        }
        Ok(kernels::group_norm(x, self.groups, weight, bias, self.epsilon, silu))
    }
}

/// Layer normalisation over the last dimension (Ba et al., <https://arxiv.org/abs/1607.06450>);
/// `weight` and `bias` `[features]`.
#[derive(Clone)]
pub struct LayerNorm {
    handle: LayerHandle,
    epsilon: f64,
}

impl LayerNorm {
    /// The layer `name` of the scope.
    ///
    /// # Errors
    /// When there is no such layer.
    pub fn load(scope: &Scope, name: &str, epsilon: f64) -> Result<Self, ModelError> {
        Ok(Self { handle: scope.layer(name)?, epsilon })
    }

    /// `[.., features]` to the same.
    ///
    /// # Errors
    /// When the weights cannot be fetched or do not fit.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>, ModelError> {
        let params = self.handle.fetch()?;
        let (weight, bias) = (params.weight::<1>()?, params.get::<1>("bias")?);
        fits(params.layer(), "features", weight.dims()[0], x.dims()[D - 1])?;
        Ok(kernels::layer_norm(x, weight, bias, self.epsilon))
    }
}

/// Normalisation by the root mean square over the last dimension (Zhang & Sennrich,
/// <https://arxiv.org/abs/1910.07467>); `weight` `[features]`, which some files call `scale`.
#[derive(Clone)]
pub struct RmsNorm {
    handle: LayerHandle,
    epsilon: f64,
    /// Whether the weight is what is added to 1.
    around_one: bool,
}

impl RmsNorm {
    /// The layer `name` of the scope.
    ///
    /// # Errors
    /// When there is no such layer.
    pub fn load(scope: &Scope, name: &str, epsilon: f64) -> Result<Self, ModelError> {
        Ok(Self { handle: scope.layer(name)?, epsilon, around_one: false })
    }

    /// As [`load`](Self::load), of a norm that multiplies with its weight and 1 (Gemma, Krea 2).
    ///
    /// # Errors
    /// When there is no such layer.
    pub fn load_around_one(scope: &Scope, name: &str, epsilon: f64) -> Result<Self, ModelError> {
        Ok(Self { handle: scope.layer(name)?, epsilon, around_one: true })
    }

    /// `[.., features]` to the same.
    ///
    /// # Errors
    /// When the weights cannot be fetched or do not fit.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>, ModelError> {
        let params = self.handle.fetch()?;
        let weight = self.weight_of(&params)?;
        fits(params.layer(), "features", weight.dims()[0], x.dims()[D - 1])?;
        Ok(kernels::rms_norm(x, weight, self.epsilon))
    }

    /// What is multiplied with, `[features]`, for a kernel that normalises among other things.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn weight(&self, features: usize) -> Result<Tensor<1>, ModelError> {
        let params = self.handle.fetch()?;
        let weight = self.weight_of(&params)?;
        fits(params.layer(), "features", weight.dims()[0], features)?;
        Ok(weight)
    }

    fn weight_of(&self, params: &LayerParams) -> Result<Tensor<1>, ModelError> {
        let weight = match params.get_optional::<1>("scale")? {
            Some(scale) => scale,
            None => params.weight::<1>()?,
        };
        Ok(if self.around_one { weight.cast(DType::F32) + 1.0 } else { weight })
    }
}

/// A table of vectors; `weight` `[rows, features]`.
#[derive(Clone)]
pub struct Embedding {
    handle: LayerHandle,
}

impl Embedding {
    /// The layer `name` of the scope.
    ///
    /// # Errors
    /// When there is no such layer.
    pub fn load(scope: &Scope, name: &str) -> Result<Self, ModelError> {
        Ok(Self { handle: scope.layer(name)? })
    }

    /// Row numbers `[batch, tokens]`, each below the table's rows, to `[batch, tokens, features]`.
    ///
    /// # Errors
    /// When the weights cannot be fetched.
    pub fn forward(&self, rows: IntTensor<2>) -> Result<Tensor<3>, ModelError> {
        let params = self.handle.fetch()?;
        let vectors = ops::module::embedding(params.weight::<2>()?, rows);
        Ok(vectors.cast(self.handle.activation_dtype()))
    }

    /// The table itself.
    ///
    /// # Errors
    /// When the weights cannot be fetched.
    pub fn table(&self) -> Result<Tensor<2>, ModelError> {
        Ok(self.handle.fetch()?.weight::<2>()?.cast(self.handle.activation_dtype()))
    }
}

/// An error unless `found` is what the layer's weights are made for.
fn fits(layer: &str, what: &str, expected: usize, found: usize) -> Result<(), ModelError> {
    if expected == found {
        return Ok(());
    }
    Err(ModelError::Layer {
        layer: layer.to_owned(),
        expected: format!("{expected} {what}"),
        found: found.to_string(),
    })
}
