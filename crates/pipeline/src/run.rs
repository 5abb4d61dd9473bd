//! A run: the work on one request, which can be cancelled and reports how it goes on.
//!
//! Runs of a process compute one after the other, so that what is measured of one (memory at its peak, bytes moved,
//! seconds waited) holds nothing of another.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use distorch_runtime::Tensor;
use distorch_runtime::offload::Interrupt;

use crate::error::PipelineError;
use crate::events::{Event, EventSink, Phase, RunId};
use crate::preview::{Preview, PreviewDecoder};
use crate::session::Session;
use distorch_models::latent_format::LatentFormat;

/// How often a run that waits for its turn looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(50);

static NEXT: AtomicU64 = AtomicU64::new(1);
static TURN: Turn = Turn { taken: Mutex::new(false), free: Condvar::new() };

impl RunId {
    /// A number that no other run of this process has.
    pub(crate) fn next() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Cancels one run, from any thread, before it starts or while it goes on. Copies cancel the same run.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    cancelled: AtomicBool,
    /// What ends the waits of the run while it computes.
    waits: Mutex<Option<Interrupt>>,
}

impl CancelToken {
    /// One that nobody has used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the run at its next step; a run that has not started ends as it would start.
    pub fn cancel(&self) {
        let waits = self.waits();
        self.0.cancelled.store(true, Ordering::SeqCst);
        if let Some(waits) = &*waits {
            waits.raise();
        }
    }

    /// Whether the run is to end.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    fn attach(&self, interrupt: &Interrupt) {
        let mut waits = self.waits();
        interrupt.clear();
        if self.is_cancelled() {
            interrupt.raise();
        }
        *waits = Some(interrupt.clone());
    }

    fn detach(&self) {
        if let Some(interrupt) = self.waits().take() {
            interrupt.clear();
        }
    }

    fn waits(&self) -> MutexGuard<'_, Option<Interrupt>> {
        self.0.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run that has its turn to compute. Dropping it ends the run: what passed through the compute devices leaves them.
pub struct ActiveRun<'a> {
    session: &'a Session,
    id: RunId,
    cancel: &'a CancelToken,
}

impl Session {
    /// A run that has its turn to compute, until it is dropped: for those who take the steps themselves.
    ///
    /// # Errors
    /// [`PipelineError::Cancelled`] where the token was used before the run starts.
    pub fn begin<'a>(&'a self, cancel: &'a CancelToken) -> Result<ActiveRun<'a>, PipelineError> {
        ActiveRun::begin(self, RunId::next(), cancel)
    }
}

impl<'a> ActiveRun<'a> {
    /// Waits for the turn to compute.
    ///
    /// # Errors
    /// [`PipelineError::Cancelled`] where the token is or was used meanwhile.
    pub(crate) fn begin(
        session: &'a Session,
        id: RunId,
        cancel: &'a CancelToken,
    ) -> Result<Self, PipelineError> {
        TURN.take(|| cancel.is_cancelled())?;
        cancel.attach(session.interrupt());
        session.models.begin_run();
        Ok(Self { session, id, cancel })
    }

    /// Its number.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// The run as its steps see it, reporting to `events`.
    pub fn reporting<'e>(&'e self, events: &'e dyn EventSink) -> Run<'e> {
        Run { session: self.session, id: self.id, cancel: self.cancel, events }
    }
}

impl Drop for ActiveRun<'_> {
    fn drop(&mut self) {
        self.cancel.detach();
        self.session.models.rest();
        TURN.give_back();
    }
}

struct Turn {
    taken: Mutex<bool>,
    free: Condvar,
}

impl Turn {
    fn take(&self, cancelled: impl Fn() -> bool) -> Result<(), PipelineError> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if cancelled() {
                return Err(PipelineError::Cancelled);
            }
            if !*taken {
                *taken = true;
                return Ok(());
            }
            let waited = self.free.wait_timeout(taken, LOOK);
            taken = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn give_back(&self) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.free.notify_one();
    }
}

/// A run as its steps see it: what they work with, whether to go on, and who is told.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    session: &'a Session,
    id: RunId,
    cancel: &'a CancelToken,
    events: &'a dyn EventSink,
}

impl<'a> Run<'a> {
    /// Devices, models and defaults.
    pub fn session(&self) -> &'a Session {
        self.session
    }

    /// Its number.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// Whether the run is to end.
    pub fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Ends work that was cancelled.
    ///
    /// # Errors
    /// [`PipelineError::Cancelled`].
    pub fn check(&self) -> Result<(), PipelineError> {
        match self.cancelled() {
            true => Err(PipelineError::Cancelled),
            false => Ok(()),
        }
    }

    /// Reports something.
    pub fn tell(&self, event: Event) {
        self.events.event(self.id, event);
    }

    /// Reports what the run is at.
    pub fn phase(&self, phase: Phase) {
        self.tell(Event::Phase { phase });
    }

    /// Reports one step more; `latent` is the clean one as guessed now, as the model has it, in the family's format.
    pub fn step(
        &self,
        done: usize,
        total: impl Into<Option<usize>>,
        latent: Option<(&Tensor<4>, &LatentFormat)>,
    ) {
        let preview = latent.and_then(|(latent, format)| self.preview(None, latent, format));
        self.tell(Event::Step { done, total: total.into(), preview });
    }

    /// As [`step`](Self::step), with a preview that is made already.
    pub(crate) fn shown_step(
        &self,
        done: usize,
        total: impl Into<Option<usize>>,
        preview: Option<Preview>,
    ) {
        self.tell(Event::Step { done, total: total.into(), preview });
    }

    /// A preview of a latent as the model has it, where somebody wants one: by a decoder, else by its format's table.
    pub(crate) fn preview(
        &self,
        decoder: Option<&PreviewDecoder>,
        latent: &Tensor<4>,
        format: &LatentFormat,
    ) -> Option<Preview> {
        if !self.events.wants_previews() {
            return None;
        }
        let decoded = decoder.and_then(|decoder| decoder.preview(self, latent));
        decoded.or_else(|| Preview::of(latent, format))
    }

    /// Whether previews are to come from a tiny decoder.
    pub(crate) fn wants_decoded_previews(&self) -> bool {
        self.events.wants_previews() && self.events.wants_decoded_previews()
    }

    /// Reports something that the user should know.
    pub fn warn(&self, text: &str) {
        self.tell(Event::Warning { text: text.to_owned() });
    }
}
