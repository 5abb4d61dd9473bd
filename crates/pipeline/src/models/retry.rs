//! Work that needs a part's layers, done again where a device ran out of memory.
//!
//! Other models leave first. With `--auto-retry` the part then follows the allocation that the
//! error names: what differs moves, and the work is done again.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use distorch_models::estimate::Workload;
use distorch_runtime::Scope;
use distorch_runtime::lora::LoraPatch;
use distorch_runtime::patch::Patch;

use super::part::{Part, in_words};
use super::shortage::{Overrun, shortage_in};
use crate::error::PipelineError;
use crate::events::Event;
use crate::run::Run;

/// How often work is done again with another allocation before its error stands.
const RETRIES: usize = 4;

impl Run<'_> {
    /// The layers of a part with LoRAs on their weights, to make a picture with; loaded now if they
    /// are not yet.
    ///
    /// # Errors
    /// When the weights cannot be had.
    pub fn load(
        &self,
        part: &Part,
        loras: &LoraPatch,
        picture: Workload,
    ) -> Result<Scope, PipelineError> {
        let what = format!("{} of {}", in_words(part.kind()), part.file().name);
        self.check_devices(&what, &part.plan())?;
        let patch = (!loras.is_empty()).then(|| Arc::new(loras.clone()) as Arc<dyn Patch>);
        part.expect(picture);
        self.again(part, picture, &mut || {
            let mut progress = |done, total| {
                self.tell(Event::Loading { what: what.clone(), done, total });
            };
            self.session().models.scope(part, patch.clone(), &mut progress)
        })
    }

    /// Does work that uses a part's layers to make a picture, and does it again where a device ran
    /// out of memory and room can be made.
    ///
    /// # Errors
    /// The work's own, a shortage that is found at its end, and a file that was changed under it.
    pub fn attempt<T>(
        &self,
        part: &Part,
        picture: Workload,
        mut work: impl FnMut() -> Result<T, PipelineError>,
    ) -> Result<T, PipelineError> {
        self.again(part, picture, &mut || {
            let made = told(part, &mut work)?;
            part.check_file().map_err(PipelineError::failed)?;
            match part.overrun() {
                Some(shortage) => Err(PipelineError::failed(Overrun(shortage))),
                None => Ok(made),
            }
        })
    }

    fn again<T>(
        &self,
        part: &Part,
        picture: Workload,
        work: &mut dyn FnMut() -> Result<T, PipelineError>,
    ) -> Result<T, PipelineError> {
        let models = &self.session().models;
        let mut retries = 0;
        let mut failed = None;
        loop {
            let error = match failed.take().map_or_else(&mut *work, Err) {
                Err(error) if !self.cancelled() => error,
                result => return result,
            };
            let Some(shortage) = shortage_in(&error) else { return Err(error) };
            part.rest();
            if models.make_room(part, shortage.error.device) {
                continue;
            }
            if !models.retries() || retries == RETRIES {
                return Err(error);
            }
            retries += 1;
            let short = shortage.error.clone();
            match models.adopt(part, picture, shortage) {
                Ok(Some(remedy)) => {
                    self.tell(Event::Adopted { shortage: short.to_string(), remedy })
                }
                Ok(None) => return Err(error),
                // It may name another allocation.
                Err(error) => failed = Some(error),
            }
        }
    }
}

/// What work makes or what stopped it: where a device ran out of memory, that, whatever came of it. What an accelerator
/// did not have room for is not there for whoever reads it, which Burn panics about.
fn told<T>(
    part: &Part,
    work: &mut dyn FnMut() -> Result<T, PipelineError>,
) -> Result<T, PipelineError> {
    let overrun = || part.overrun().map(|shortage| PipelineError::failed(Overrun(shortage)));
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Err(error)) if shortage_in(&error).is_none() => Err(overrun().unwrap_or(error)),
        Ok(result) => result,
        Err(panic) => Err(overrun().unwrap_or_else(|| resume_unwind(panic))),
    }
}
