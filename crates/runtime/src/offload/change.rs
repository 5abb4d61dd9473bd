//! Changes of a loaded component: layers that a patch rewrites, and those that another plan moves.

use super::applied::AppliedPlan;
use super::component::ComponentWeights;
use super::residency::Residency;
use crate::patch::Patch;
use crate::stored::{Precision, StoredLayer};
use crate::weights::WeightError;

impl ComponentWeights {
    /// Reads the layer and patches it, or not.
    pub(super) fn rewrite(
        &self,
        applied: &mut AppliedPlan,
        index: usize,
        patch: Option<&dyn Patch>,
        key: Option<u64>,
    ) -> Result<(), WeightError> {
        let device = applied.devices.get(index).copied().unwrap_or(self.compute);
        // What it held is released first: there may be no room for both.
        self.set_residency(index, Residency::Unavailable("it is being rewritten".to_owned()));
        let made = match patch {
            None => self.unpatched(index, device),
            Some(patch) => self.patched(index, patch).and_then(|l| self.keep(index, device, l)),
        };
        let outcome = made.map(|residency| self.set_residency(index, residency));
        if let Err(error) = &outcome {
            self.set_residency(index, Residency::Unavailable(error.to_string()));
        }
        if let Some(applied) = applied.keys.get_mut(index) {
            *applied = key;
        }
        outcome
    }

    pub(super) fn patched(
        &self,
        index: usize,
        patch: &dyn Patch,
    ) -> Result<StoredLayer, WeightError> {
        let layer = self.layer(index)?;
        let base = StoredLayer::read(&self.checkpoint, layer)?;
        let mut params = base.clone().values()?;
        patch.apply(&layer.name, &mut params)?;
        let precision = match self.options.high_precision_loras {
            true => Precision::Compute(self.dtype),
            false => Precision::Stored,
        };
        base.with_values(params, precision)
    }

    /// Takes every patch away.
    pub(super) fn restore_all(&self, applied: &mut AppliedPlan) {
        applied.patch = None;
        for index in 0..self.layers.len() {
            let broken = matches!(self.residency(index).as_deref(), Ok(Residency::Unavailable(_)));
            if broken || applied.keys.get(index).copied().flatten().is_some() {
                // What still fails is told where the layer is used.
                let _ = self.rewrite(applied, index, None, None);
            }
        }
    }

    /// Moves a layer to the device that the plan has for it now.
    pub(super) fn relocate(&self, applied: &AppliedPlan, index: usize) -> Result<(), WeightError> {
        let device = applied.devices.get(index).copied().unwrap_or(self.compute);
        let key = applied.keys.get(index).copied().flatten();
        let patch = applied.patch.as_deref().filter(|_| key.is_some());
        let old = self.residency(index)?;
        let to_file = device.is_cpu() && device != self.compute && !self.options.pin;
        let made = match (&*old, patch) {
            (Residency::Stored { layer, .. }, _) if patch.is_some() || !to_file => {
                self.keep(index, device, layer.clone())
            }
            (_, None) => self.unpatched(index, device),
            (_, Some(patch)) => {
                self.patched(index, patch).and_then(|l| self.keep(index, device, l))
            }
        };
        drop(old);
        match made {
            Ok(residency) => {
                self.set_residency(index, residency);
                Ok(())
            }
            Err(error) => {
                self.set_residency(index, Residency::Unavailable(error.to_string()));
                Err(error)
            }
        }
    }
}
