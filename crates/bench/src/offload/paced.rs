//! Steps whose computing is a clock: what streaming costs, apart from what it takes from the
//! processor that computes.
//!
//! A step with everything on the device is computed once, and the time from each layer's use to the
//! next one's is written down. Later steps ask for the same layers from the same files through
//! the same window and threads, and let that time pass with the layer in their hands. The
//! clock goes on from when a layer was there, not from when this thread woke up, so a busy machine
//! does not slow it down.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use distorch_runtime::offload::OffloadedWeights;
use distorch_runtime::{DType, Device, LayerParams, LayerSource, WeightError};

/// A wait for weights shorter than this is the time that taking a lock takes.
const NO_WAIT: Duration = Duration::from_micros(300);

/// Layers in the order of their use, each with the time until the next one's.
pub(super) struct Score(Vec<(usize, Duration)>);

impl Score {
    /// The time of a step.
    pub(super) fn length(&self) -> Duration {
        self.0.iter().map(|(_, time)| *time).sum()
    }

    /// Uses the layers in their time, and gives the time that it took by the clock.
    pub(super) fn play(&self, source: &OffloadedWeights) -> Result<Duration, WeightError> {
        let start = Instant::now();
        let mut clock = start;
        for (layer, time) in &self.0 {
            sleep(clock.saturating_duration_since(Instant::now()));
            let (asked, before) = (Instant::now(), source.stalled());
            let params = source.fetch(*layer)?;
            let waited = source.stalled().saturating_sub(before);
            if waited > NO_WAIT {
                clock = clock.max(asked + waited);
            }
            clock += *time;
            sleep(clock.saturating_duration_since(Instant::now()));
            drop(params);
        }
        Ok(clock.duration_since(start))
    }
}

/// Writes down when layers are asked for.
pub(super) struct Recorder {
    source: Arc<OffloadedWeights>,
    asked: Mutex<Vec<(usize, Instant)>>,
}

impl Recorder {
    pub(super) fn new(source: Arc<OffloadedWeights>) -> Self {
        Self { source, asked: Mutex::default() }
    }

    /// What was asked for since the last time, in a step that ends now.
    pub(super) fn take(&self) -> Score {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = std::mem::take(&mut *asked);
        let next = asked.iter().skip(1).map(|(_, at)| *at).chain([Instant::now()]);
        let timed = asked.iter().zip(next);
        Score(timed.map(|((layer, at), next)| (*layer, next.duration_since(*at))).collect())
    }
}

impl LayerSource for Recorder {
    fn find(&self, name: &str) -> Option<usize> {
        self.source.find(name)
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        self.source.has_prefix(prefix)
    }

    fn fetch(&self, index: usize) -> Result<LayerParams, WeightError> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push((index, Instant::now()));
        drop(asked);
        self.source.fetch(index)
    }

    fn device(&self) -> &Device {
        self.source.device()
    }

    fn dtype(&self) -> DType {
        self.source.dtype()
    }
}
