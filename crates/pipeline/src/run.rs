//! A run: the work on one request, which can be cancelled and reports how it goes on.
//!
//! A run has its [devices](DeviceSet) to itself: runs that share one compute one after the other, those that share none
//! side by side. Each part of a model computes on a device of its run, so that what is measured of it (bytes moved, seconds
//! waited, memory of an accelerator) holds nothing of another run. The count of the host's memory is the process's: while
//! runs compute side by side, the estimates of their plans stand in for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use distorch_allocation::Plan;
use distorch_runtime::offload::Interrupt;
use distorch_runtime::{Tensor, heap};

use crate::device_set::{DeviceLock, DeviceSet, LOCKS, NotReserved};
use crate::error::PipelineError;
use crate::events::{Event, EventSink, Phase, RunId};
use crate::models::{Loader, Parts};
use crate::preview::Preview;
use crate::session::Session;
use distorch_models::latent_format::LatentFormat;

static NEXT: AtomicU64 = AtomicU64::new(1);

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
    /// What ends the waits of the run while it computes: one for each of its devices.
    waits: Mutex<Vec<Interrupt>>,
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
        waits.iter().for_each(Interrupt::raise);
    }

    /// Whether the run is to end.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    fn attach(&self, interrupts: Vec<Interrupt>) {
        let mut waits = self.waits();
        for interrupt in &interrupts {
            interrupt.clear();
            if self.is_cancelled() {
                interrupt.raise();
            }
        }
        *waits = interrupts;
    }

    fn detach(&self) {
        for interrupt in self.waits().drain(..) {
            interrupt.clear();
        }
    }

    fn waits(&self) -> MutexGuard<'_, Vec<Interrupt>> {
        self.0.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run that has its devices, and computes. Dropping it ends the run: what passed through the compute devices leaves
/// them.
pub struct ActiveRun<'a> {
    session: &'a Session,
    id: RunId,
    devices: DeviceSet,
    cancel: &'a CancelToken,
    _computing: heap::Computing,
    _lock: DeviceLock<'static>,
}

impl Session {
    /// A run that has all devices, until it is dropped: for those who take the steps themselves.
    ///
    /// # Errors
    /// [`PipelineError::Cancelled`] where the token was used before the run starts.
    pub fn begin<'a>(&'a self, cancel: &'a CancelToken) -> Result<ActiveRun<'a>, PipelineError> {
        self.begin_on(DeviceSet::all(self.topology()), cancel)
    }

    /// As [`begin`](Self::begin), with these devices only: those that [`ModelStore::devices`] says of what the run
    /// loads. Runs with others may go on meanwhile.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    ///
    /// [`ModelStore::devices`]: crate::models::ModelStore::devices
    pub fn begin_on<'a>(
        &'a self,
        devices: DeviceSet,
        cancel: &'a CancelToken,
    ) -> Result<ActiveRun<'a>, PipelineError> {
        ActiveRun::begin(self, RunId::next(), devices, cancel)
    }
}

impl<'a> ActiveRun<'a> {
    /// Waits for the devices.
    ///
    /// # Errors
    /// [`PipelineError::Cancelled`] where the token is or was used meanwhile.
    pub(crate) fn begin(
        session: &'a Session,
        id: RunId,
        devices: DeviceSet,
        cancel: &'a CancelToken,
    ) -> Result<Self, PipelineError> {
        let lock = LOCKS.lock(&devices, || cancel.is_cancelled())?;
        cancel.attach(session.models.interrupts(&devices));
        session.models.begin_run(id, devices.clone());
        Ok(Self { session, id, devices, cancel, _computing: heap::computing(), _lock: lock })
    }

    /// Its number.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// The run as its steps see it, reporting to `events`.
    pub fn reporting<'e>(&'e self, events: &'e dyn EventSink) -> Run<'e> {
        let Self { session, id, ref devices, cancel, .. } = *self;
        Run { session, id, devices, cancel, events }
    }
}

impl Drop for ActiveRun<'_> {
    fn drop(&mut self) {
        self.cancel.detach();
        self.session.models.rest(&self.devices);
        self.session.models.end_run(self.id);
    }
}

/// A run as its steps see it: what they work with, whether to go on, and who is told.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    session: &'a Session,
    id: RunId,
    devices: &'a DeviceSet,
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

    /// The devices that it has to itself.
    pub fn devices(&self) -> &'a DeviceSet {
        self.devices
    }

    /// Plans a file's components on the run's devices, and promises their memory.
    ///
    /// # Errors
    /// As [`ModelStore::place`](crate::models::ModelStore::place).
    pub fn place(&self, loader: &Loader<'_>) -> Result<Parts, PipelineError> {
        self.session.models.place(self.id, loader)
    }

    /// What passed through the run's devices leaves them, and what computing freed is the system's again.
    pub fn rest(&self) {
        self.session.models.rest(self.devices);
    }

    /// Whether a plan only uses devices of this run.
    ///
    /// # Errors
    /// [`NotReserved`] where it does not.
    pub(crate) fn check_devices(&self, what: &str, plan: &Plan) -> Result<(), PipelineError> {
        let held = plan.devices.iter().filter(|share| share.bytes > 0);
        let held = held.map(|share| share.device).filter(|device| !device.is_cpu());
        let used: DeviceSet = held.chain([plan.compute_device]).collect();
        match used.missing_in(self.devices) {
            None => Ok(()),
            Some(device) => Err(PipelineError::failed(NotReserved {
                what: what.to_owned(),
                device: device.to_string(),
                devices: self.devices.clone(),
            })),
        }
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
        let preview = latent.filter(|_| self.wants_previews());
        let preview = preview.and_then(|(latent, format)| Preview::of(latent, format));
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

    /// Whether the step that is being done is to carry a preview.
    pub(crate) fn wants_previews(&self) -> bool {
        self.events.wants_previews()
    }

    /// Whether previews are to come from a tiny decoder.
    pub(crate) fn wants_decoded_previews(&self) -> bool {
        self.events.wants_decoded_previews()
    }

    /// Reports something that the user should know.
    pub fn warn(&self, text: &str) {
        self.tell(Event::Warning { text: text.to_owned() });
    }
}
