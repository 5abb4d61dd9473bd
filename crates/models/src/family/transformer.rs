//! What families of transformers have in common: a network with one kind of configuration, and one text conditioner.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::DiffusionConfig;
use distorch_checkpoint::family::{DiffusionModel, TextEncoder, Variant};
use distorch_runtime::{DType, Scope, Tensor};

use super::{DiffusionFamily, MissingPooled, NetworkPatches, Reads, VectorInputs};
use crate::ModelError;
use crate::conditioning::ConditioningError;
use crate::estimate::{Compute, Need, Workload};
use crate::latent_format::LatentFormat;
use crate::network::{Network, NoiseLevels};
use crate::text::TextConditioner;

/// A family of transformers. What depends on the configuration is told it, or `None` where a model has that of another
/// network, whose weights are not loaded.
pub(super) trait TransformerFamily: Sync {
    /// The network's configuration.
    type Config: 'static;

    /// The network, for people.
    const NAME: &'static str;

    /// The names of its text encoders, as [`DiffusionFamily::encoders`].
    const ENCODERS: &'static [&'static str];

    /// As [`DiffusionFamily::is_guided`].
    const IS_GUIDED: bool = true;

    /// As [`DiffusionFamily::dtypes`].
    const DTYPES: &'static [DType];

    /// Whether its class vector is the pooled text; else it has none.
    const READS_POOLED: bool = false;

    /// The configuration of one of its models.
    fn config(config: &DiffusionConfig) -> Option<&Self::Config>;

    /// As [`DiffusionFamily::latent_format`].
    fn latent_format(config: Option<&Self::Config>) -> LatentFormat;

    /// As [`DiffusionFamily::noise_levels`].
    fn noise_levels(config: Option<&Self::Config>) -> NoiseLevels;

    /// As [`DiffusionFamily::reads`].
    fn reads(config: Option<&Self::Config>, variant: Variant) -> Reads;

    /// As [`DiffusionFamily::network`].
    fn network(scope: &Scope, config: &Self::Config) -> Result<Box<dyn Network>, ModelError>;

    /// As [`DiffusionFamily::text`].
    fn text(
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError>;

    /// As [`DiffusionFamily::activations`].
    fn activations(config: &Self::Config, workload: Workload, compute: Compute) -> Need;

    /// As [`DiffusionFamily::layer_costs`].
    fn layer_costs(config: &Self::Config, layers: &[Layer], workload: Workload) -> Vec<u64>;
}

impl<T: TransformerFamily> DiffusionFamily for T {
    fn latent_format(&self, model: &DiffusionModel) -> LatentFormat {
        T::latent_format(T::config(&model.config))
    }

    fn noise_levels(&self, model: &DiffusionModel) -> NoiseLevels {
        T::noise_levels(T::config(&model.config))
    }

    fn native_side(&self) -> u32 {
        1024
    }

    fn is_guided(&self) -> bool {
        T::IS_GUIDED
    }

    fn dtypes(&self) -> &'static [DType] {
        T::DTYPES
    }

    fn encoders(&self) -> Vec<&'static str> {
        T::ENCODERS.to_vec()
    }

    fn reads(&self, model: &DiffusionModel) -> Reads {
        T::reads(T::config(&model.config), model.variant)
    }

    fn vector(&self, inputs: VectorInputs) -> Result<Option<Tensor<2>>, MissingPooled> {
        Ok(inputs.pooled.filter(|_| T::READS_POOLED))
    }

    fn network(
        &self,
        scope: &Scope,
        model: &DiffusionModel,
        _: &NetworkPatches,
    ) -> Result<Box<dyn Network>, ModelError> {
        let config = T::config(&model.config).ok_or_else(|| ModelError::Config {
            model: T::NAME,
            reason: "the configuration is that of another network".to_owned(),
        })?;
        T::network(scope, config)
    }

    fn text(
        &self,
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        T::text(scope, encoders)
    }

    fn activations(&self, model: &DiffusionModel, workload: Workload, compute: Compute) -> Need {
        let need = |config| T::activations(config, workload, compute);
        T::config(&model.config).map_or_else(Need::default, need)
    }

    fn layer_costs(
        &self,
        model: &DiffusionModel,
        layers: &[Layer],
        workload: Workload,
    ) -> Option<Vec<u64>> {
        T::config(&model.config).map(|config| T::layer_costs(config, layers, workload))
    }
}
