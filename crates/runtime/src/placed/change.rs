//! Changing homes: layers that a patch rewrites, and those that another plan moves.

use super::home::Home;
use super::homes::{Homes, Settled};
use crate::patch::Patch;
use crate::stored::{Precision, StoredLayer};
use crate::weights::WeightError;

impl Homes {
    /// Reads the layer and patches it, or not.
    pub(super) fn rewrite(
        &self,
        settled: &mut Settled,
        index: usize,
        patch: Option<&dyn Patch>,
        key: Option<u64>,
    ) -> Result<(), WeightError> {
        let device = settled.devices.get(index).copied().unwrap_or(self.compute);
        // Its old home is given up first: there may be no room for both.
        self.move_in(index, Home::Broken("it is being rewritten".to_owned()));
        let made = match patch {
            None => self.base(index, device),
            Some(patch) => self.patched(index, patch).and_then(|l| self.settle(index, device, l)),
        };
        let outcome = made.map(|home| self.move_in(index, home));
        if let Err(error) = &outcome {
            self.move_in(index, Home::Broken(error.to_string()));
        }
        if let Some(applied) = settled.keys.get_mut(index) {
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
    pub(super) fn restore_all(&self, settled: &mut Settled) {
        settled.patch = None;
        for index in 0..self.layers.len() {
            let broken = matches!(self.home(index).as_deref(), Ok(Home::Broken(_)));
            if broken || settled.keys.get(index).copied().flatten().is_some() {
                // What still fails is told where the layer is used.
                let _ = self.rewrite(settled, index, None, None);
            }
        }
    }

    /// Moves a layer to the device that the plan has for it now.
    pub(super) fn relocate(&self, settled: &Settled, index: usize) -> Result<(), WeightError> {
        let device = settled.devices.get(index).copied().unwrap_or(self.compute);
        let key = settled.keys.get(index).copied().flatten();
        let patch = settled.patch.as_deref().filter(|_| key.is_some());
        let old = self.home(index)?;
        let to_file = device.is_cpu() && device != self.compute && !self.options.pin;
        let made = match (&*old, patch) {
            (Home::Stored { layer, .. }, _) if patch.is_some() || !to_file => {
                self.settle(index, device, layer.clone())
            }
            (_, None) => self.base(index, device),
            (_, Some(patch)) => {
                self.patched(index, patch).and_then(|l| self.settle(index, device, l))
            }
        };
        drop(old);
        match made {
            Ok(home) => {
                self.move_in(index, home);
                Ok(())
            }
            Err(error) => {
                self.move_in(index, Home::Broken(error.to_string()));
                Err(error)
            }
        }
    }
}
