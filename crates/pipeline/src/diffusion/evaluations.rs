//! What a run's model was asked and what it gave, until it is known to be finite.
//!
//! On the host that is looked at after each evaluation. On an accelerator, which works off a queue, it
//! is looked at as a step ends, when the queue has been waited for anyway.

use std::cell::{Cell, RefCell};

use distorch_runtime::{Device, Tensor, tensor};
use distorch_sampling::NoiseProcess;
use distorch_sampling::sampler::{Denoiser, ModelError};
use thiserror::Error;

use crate::finite::{Odd, odd_in};

/// What gave values that are not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// The latents and the noise that the run starts from.
    Start,
    /// The model.
    Model,
    /// What puts the guesses of the model together.
    Guidance,
    /// The sampler, between two evaluations.
    Sampler,
}

/// A run met values that are not finite.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
#[error("{odd} at sigma {sigma}")]
pub struct Broken {
    /// What gave them.
    pub culprit: Culprit,
    /// What they are.
    pub odd: Odd,
    /// The noise level of the evaluation.
    pub sigma: f64,
}

/// The evaluations of a run that nobody has looked at yet.
pub struct Evaluations {
    /// Whether each is looked at as soon as it is there.
    at_once: bool,
    pending: RefCell<Vec<Evaluation>>,
    /// Whether any was looked at.
    begun: Cell<bool>,
    /// What was found first. After that, nothing is kept.
    broken: Cell<Option<Broken>>,
}

#[derive(Default)]
struct Evaluation {
    sigma: f64,
    asked: Option<Tensor<4>>,
    /// The guesses of the model, before they are put together.
    guesses: Vec<Tensor<4>>,
    guided: Option<Tensor<4>>,
}

impl Evaluations {
    /// None yet, of a model that computes on a device.
    pub fn on(device: &Device) -> Self {
        Self {
            at_once: tensor::is_host(device),
            pending: RefCell::default(),
            begun: Cell::new(false),
            broken: Cell::new(None),
        }
    }

    /// The model gave a guess in the evaluation that is under way.
    pub fn guess(&self, guess: &Tensor<4>) {
        if let Some(evaluation) = self.pending.borrow_mut().last_mut() {
            evaluation.guesses.push(guess.clone());
        }
    }

    /// Looks at all that was not looked at yet.
    ///
    /// # Errors
    /// The first values that are not finite, once.
    pub fn look(&self) -> Result<(), Broken> {
        for evaluation in self.pending.take() {
            let begun = self.begun.replace(true);
            if let Some(broken) = evaluation.broken(begun) {
                self.broken.set(Some(broken));
                return Err(broken);
            }
        }
        Ok(())
    }

    /// What was found.
    pub fn broken(&self) -> Option<Broken> {
        self.broken.get()
    }

    fn begin(&self, asked: &Tensor<4>, sigma: f64) {
        if self.broken.get().is_none() {
            let asked = Some(asked.clone());
            self.pending.borrow_mut().push(Evaluation { sigma, asked, ..Evaluation::default() });
        }
    }

    fn end(&self, guided: &Tensor<4>) -> Result<(), Broken> {
        if let Some(evaluation) = self.pending.borrow_mut().last_mut() {
            evaluation.guided = Some(guided.clone());
        }
        if self.at_once { self.look() } else { Ok(()) }
    }
}

impl Evaluation {
    /// Whose values are not finite. The result is read first: the rest only where it is not finite.
    fn broken(&self, begun: bool) -> Option<Broken> {
        let odd = odd_in(self.guided.as_ref()?)?;
        let found = |culprit, odd| Some(Broken { culprit, odd, sigma: self.sigma });
        if let Some(odd) = self.asked.as_ref().and_then(odd_in) {
            return found(if begun { Culprit::Sampler } else { Culprit::Start }, odd);
        }
        match self.guesses.iter().find_map(odd_in) {
            Some(odd) => found(Culprit::Model, odd),
            None => found(Culprit::Guidance, odd),
        }
    }
}

/// A denoiser whose evaluations are looked at.
pub struct Watched<'a, M> {
    /// The denoiser.
    pub model: M,
    /// Its evaluations.
    pub evaluations: &'a Evaluations,
    /// Whether what is found ends the run.
    pub ends: bool,
}

impl<M> Watched<'_, M> {
    /// Ends an evaluation: an error where its result ends the run.
    fn end(&self, guided: &Tensor<4>) -> Result<(), ModelError> {
        match self.evaluations.end(guided) {
            Err(broken) if self.ends => Err(broken.into()),
            _ => Ok(()),
        }
    }
}

impl<M: Denoiser> Denoiser for Watched<'_, M> {
    fn denoise(&mut self, x: Tensor<4>, sigma: f64) -> Result<Tensor<4>, ModelError> {
        self.evaluations.begin(&x, sigma);
        let guided = self.model.denoise(x, sigma)?;
        self.end(&guided)?;
        Ok(guided)
    }

    fn denoise_both(
        &mut self,
        x: Tensor<4>,
        sigma: f64,
    ) -> Result<(Tensor<4>, Tensor<4>), ModelError> {
        self.evaluations.begin(&x, sigma);
        let (guided, negative) = self.model.denoise_both(x, sigma)?;
        self.end(&guided)?;
        Ok((guided, negative))
    }

    fn process(&self) -> NoiseProcess {
        self.model.process()
    }
}

#[cfg(test)]
mod tests {
    use distorch_runtime::tensor::{DType, cpu};

    use super::*;

    fn latent(value: f32) -> Tensor<4> {
        Tensor::full([1, 1, 2, 2], value, (&cpu(), DType::F32))
    }

    /// A model that gives one value, and guidance that gives another.
    struct Model<'a> {
        evaluations: &'a Evaluations,
        guess: f32,
        guided: f32,
    }

    impl Denoiser for Model<'_> {
        fn denoise(&mut self, _: Tensor<4>, _: f64) -> Result<Tensor<4>, ModelError> {
            self.evaluations.guess(&latent(self.guess));
            Ok(latent(self.guided))
        }
    }

    fn found(at_once: bool, x: [f32; 2], guess: f32, guided: f32) -> Option<Broken> {
        let evaluations = Evaluations { at_once, ..Evaluations::on(&cpu()) };
        let model = Model { evaluations: &evaluations, guess, guided };
        let mut watched = Watched { model, evaluations: &evaluations, ends: false };
        watched.model.guided = if x[0].is_finite() { 1.0 } else { guided };
        watched.model.guess = if x[0].is_finite() { 1.0 } else { guess };
        watched.denoise(latent(x[0]), 9.0).unwrap();
        (watched.model.guess, watched.model.guided) = (guess, guided);
        watched.denoise(latent(x[1]), 5.0).unwrap();
        assert_eq!(evaluations.broken().is_some(), at_once && !guided.is_finite());
        let _ = evaluations.look();
        evaluations.broken()
    }

    #[test]
    fn both_guesses_pass_through_and_are_looked_at() {
        /// Guides to 1, away from 2.
        struct Both<'a>(&'a Evaluations, f32);
        impl Denoiser for Both<'_> {
            fn denoise(&mut self, x: Tensor<4>, sigma: f64) -> Result<Tensor<4>, ModelError> {
                Ok(self.denoise_both(x, sigma)?.0)
            }
            fn denoise_both(
                &mut self,
                _: Tensor<4>,
                _: f64,
            ) -> Result<(Tensor<4>, Tensor<4>), ModelError> {
                self.0.guess(&latent(self.1));
                Ok((latent(self.1), latent(2.0)))
            }
        }
        for (guess, breaks) in [(1.0, false), (f32::NAN, true)] {
            let evaluations = Evaluations { at_once: true, ..Evaluations::on(&cpu()) };
            let model = Both(&evaluations, guess);
            let mut watched = Watched { model, evaluations: &evaluations, ends: true };
            let both = watched.denoise_both(latent(0.0), 9.0);
            assert_eq!(both.is_err(), breaks);
            if let Ok((guided, negative)) = both {
                let one = |x: Tensor<4>| x.into_data().to_vec::<f32>().unwrap()[0];
                assert_eq!((one(guided), one(negative)), (1.0, 2.0));
            }
        }
    }

    #[test]
    fn who_gave_nan_is_told_at_once_or_later() {
        const NAN: f32 = f32::NAN;
        for at_once in [true, false] {
            let culprit = |x, guess, guided| found(at_once, x, guess, guided).unwrap();
            assert_eq!(found(at_once, [1.0, 2.0], 3.0, 4.0), None);
            let start = culprit([NAN, NAN], NAN, NAN);
            assert_eq!((start.culprit, start.sigma), (Culprit::Start, 9.0));
            let sampler = culprit([1.0, NAN], NAN, NAN);
            assert_eq!((sampler.culprit, sampler.sigma), (Culprit::Sampler, 5.0));
            let model = culprit([1.0, 1.0], f32::INFINITY, NAN);
            assert_eq!((model.culprit, model.odd), (Culprit::Model, Odd::Infinity));
            let guidance = culprit([1.0, 1.0], 1.0, f32::INFINITY);
            assert_eq!((guidance.culprit, guidance.odd), (Culprit::Guidance, Odd::Infinity));
        }
    }
}
