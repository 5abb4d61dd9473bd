//! What is timed: steps of a diffusion model, with a share of it elsewhere.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use distorch_allocation::{Allocation, ComponentSettings, Layout, LayoutChoice, Ledger, plan};
use distorch_checkpoint::family::{DiffusionModel, Model};
use distorch_checkpoint::{Checkpoint, Component, ComponentKind};
use distorch_models::estimate::Workload;
use distorch_models::family::{self, NetworkPatches};
use distorch_models::network::Network;
use distorch_runtime::offload::{OffloadedWeights, Options, StreamStats};
use distorch_runtime::{LayerSource, Machine, Scope, placement, usage};

use super::Point;
use super::device::ComputeDevice;
use super::paced::{Recorder, Score};
use crate::error::BenchError;
use crate::network;

/// What is timed.
pub(super) struct Subject {
    /// What the model is, for people.
    pub(super) label: String,
    device: ComputeDevice,
    checkpoint: Arc<Checkpoint>,
    component: Component,
    diffusion: DiffusionModel,
    activations: u64,
    /// What each layer costs.
    costs: Option<Vec<u64>>,
    workload: Workload,
    times: Times,
    /// A file of random weights, which goes with it.
    _file: Option<tempfile::NamedTempFile>,
    /// A step's layers in their time, where computing is a clock.
    score: Option<Score>,
}

/// How steps are timed.
pub(super) struct Times {
    /// How many at each point, after one that isn't.
    pub(super) steps: u32,
    /// Bytes of the window, if not the plan's.
    pub(super) window: Option<u64>,
    /// Whether what lives on the host is kept in memory.
    pub(super) pin: bool,
}

/// The model at its homes.
struct Laid {
    placed: Arc<OffloadedWeights>,
    network: Box<dyn Network>,
    /// Bytes of it that don't live on the device.
    elsewhere: u64,
}

/// The best of some steps.
struct Best {
    seconds: f64,
    /// Of all threads, of the step where that was least.
    cpu: f64,
}

impl Best {
    fn none() -> Self {
        Self { seconds: f64::INFINITY, cpu: f64::INFINITY }
    }
}

/// What came over the link in some steps.
#[derive(Default)]
struct Passed {
    bytes: u64,
    /// Seconds in which computing waited for it.
    stalled: f64,
    /// The most that was in the window at once.
    window: u64,
}

impl Passed {
    fn add(&mut self, stats: &StreamStats) {
        self.bytes += stats.bytes_moved;
        self.stalled += stats.stall_seconds;
        let window = stats.devices.iter().map(|device| device.window_bytes).max();
        self.window = self.window.max(window.unwrap_or(0));
    }
}

impl Subject {
    /// A checkpoint's diffusion model, which makes such a picture on the device.
    ///
    /// # Errors
    /// When it has none.
    pub(super) fn new(
        (checkpoint, model): (Checkpoint, &Model),
        picture: Workload,
        device: ComputeDevice,
        times: Times,
        file: Option<tempfile::NamedTempFile>,
    ) -> Result<Self, BenchError> {
        let component = model.component(ComponentKind::DiffusionModel);
        let (Some(diffusion), Some(component)) = (&model.diffusion, component) else {
            let label = model.label();
            let what = "has no diffusion model, which is what is timed";
            return Err(BenchError::input(format!("{label} {what}")));
        };
        let picture = picture.as_usual(model);
        Ok(Self {
            label: model.label(),
            checkpoint: Arc::new(checkpoint),
            component: component.clone(),
            diffusion: diffusion.clone(),
            activations: family::activation_bytes(model, component, picture, device.compute()),
            costs: family::layer_costs(model, component, picture),
            workload: picture,
            device,
            times,
            _file: file,
            score: None,
        })
    }

    /// Of the diffusion model, as stored.
    pub(super) fn bytes(&self) -> u64 {
        self.component.bytes()
    }

    /// Seconds of a step with everything on the device.
    pub(super) fn compute(&self) -> Result<f64, BenchError> {
        match &self.score {
            Some(score) => Ok(score.length().as_secs_f64()),
            None => Ok(self.best(&self.resident()?)?.seconds),
        }
    }

    fn resident(&self) -> Result<Laid, BenchError> {
        self.lay(0, u64::MAX, Layout::Distorch2.into())
    }

    /// Steps with a share elsewhere, held against steps with everything on the device.
    pub(super) fn point(
        &self,
        asked: LayoutChoice,
        share: u32,
        bandwidth: u64,
    ) -> Result<Point, BenchError> {
        // A device of its own may have no room for both at once.
        let (resident, mut compute) = match &self.score {
            Some(score) => (None, Best { seconds: score.length().as_secs_f64(), cpu: 0.0 }),
            None if self.device.is_real() => (None, self.best(&self.resident()?)?),
            None => (Some(self.resident()?), Best::none()),
        };
        let laid = self.lay(share, bandwidth, asked)?;
        let (best, passed) = self.take_turns(&laid, resident.as_ref(), &mut compute)?;
        let steps = self.times.steps;
        let link_seconds = laid.elsewhere as f64 / bandwidth as f64;
        let roofline_seconds = compute.seconds.max(link_seconds);
        let plan = laid.placed.plan();
        Ok(Point {
            asked,
            layout: plan.layout,
            layout_reason: plan.layout_reason,
            share_percent: share,
            bandwidth,
            step_seconds: best.seconds,
            compute_seconds: compute.seconds,
            link_seconds,
            roofline_seconds,
            ratio: best.seconds / roofline_seconds,
            cpu_seconds: best.cpu,
            compute_cpu_seconds: compute.cpu,
            // What the window holds at both ends of a step differs, so this is not quite `elsewhere`.
            bytes_moved: passed.bytes / u64::from(steps),
            stall_seconds: passed.stalled / f64::from(steps),
            window_bytes: passed.window,
        })
    }

    /// The best of some steps, and what passed in them. Steps with everything on the device take turns with
    /// them where it is there: machines change their pace.
    fn take_turns(
        &self,
        laid: &Laid,
        resident: Option<&Laid>,
        compute: &mut Best,
    ) -> Result<(Best, Passed), BenchError> {
        let (mut best, mut passed) = (Best::none(), Passed::default());
        for round in 0..self.times.steps {
            if let Some(resident) = resident {
                if round == 0 {
                    self.step(resident, &mut Best::none())?;
                }
                self.step(resident, compute)?;
            }
            if round == 0 || resident.is_some() {
                // Uses up what came into the window meanwhile.
                self.step(laid, &mut Best::none())?;
            }
            laid.placed.reset_stats();
            self.step(laid, &mut best)?;
            passed.add(&laid.placed.stats());
        }
        Ok((best, passed))
    }

    /// The best of some steps, after one that isn't counted.
    fn best(&self, laid: &Laid) -> Result<Best, BenchError> {
        self.step(laid, &mut Best::none())?;
        let mut best = Best::none();
        for _ in 0..self.times.steps {
            self.step(laid, &mut best)?;
        }
        Ok(best)
    }

    fn lay(&self, share: u32, bandwidth: u64, layout: LayoutChoice) -> Result<Laid, BenchError> {
        let placed = Arc::new(self.place(share, bandwidth, layout)?);
        let plan = placed.plan();
        let network = self.network(Arc::clone(&placed) as Arc<dyn LayerSource>)?;
        Ok(Laid { placed, network, elsewhere: plan.bytes_elsewhere() })
    }

    /// A step, computed or played.
    fn step(&self, laid: &Laid, best: &mut Best) -> Result<(), BenchError> {
        let cpu = usage::cpu_time();
        let took = match &self.score {
            Some(score) => score.play(&laid.placed).map_err(BenchError::failed)?,
            None => self.compute_step(&*laid.network)?,
        };
        best.seconds = best.seconds.min(took.as_secs_f64());
        best.cpu = best.cpu.min(usage::cpu_time().saturating_sub(cpu).as_secs_f64());
        Ok(())
    }

    fn network(&self, source: Arc<dyn LayerSource>) -> Result<Box<dyn Network>, BenchError> {
        let patches = NetworkPatches::default();
        let network = family::of(self.diffusion.family).network(
            &Scope::new(source),
            &self.diffusion,
            &patches,
        );
        network.map_err(BenchError::input)
    }

    /// Lets computing be a clock from now on: computes a step with everything on the device and
    /// writes down when it uses what.
    pub(super) fn pace(&mut self) -> Result<(), BenchError> {
        let placed = Arc::new(self.place(0, u64::MAX, Layout::Distorch2.into())?);
        let recorder = Arc::new(Recorder::new(placed));
        let network = self.network(Arc::clone(&recorder) as Arc<dyn LayerSource>)?;
        self.compute_step(&*network)?;
        recorder.take();
        self.compute_step(&*network)?;
        self.score = Some(recorder.take());
        Ok(())
    }

    fn place(
        &self,
        share: u32,
        bandwidth: u64,
        layout: LayoutChoice,
    ) -> Result<OffloadedWeights, BenchError> {
        // Room for everything: what is measured is the link.
        let room = 4 * (self.component.bytes() + self.activations) + (4 << 30);
        let (device, topology) = self.device.machine(bandwidth, room)?;
        let mut settings = ComponentSettings::new(device);
        if share > 0 {
            let allocation = format!("{device},{}%;cpu,{share}%", 100 - share);
            settings.expert = Allocation::parse(&allocation).map_err(BenchError::failed)?;
        }
        settings.layout = layout;
        settings.most_window = self.times.window;
        let blocks = placement::blocks(&self.component, self.activations, None)
            .map_err(BenchError::failed)?;
        let blocks = match &self.costs {
            Some(costs) => blocks.with_costs(costs.iter().copied()),
            None => blocks,
        };
        let ledger = Ledger::new(topology.clone());
        let plan = plan(&blocks, &settings, &ledger).map_err(BenchError::failed)?;
        let machine = Machine::new(topology);
        let options =
            Options { pin: self.times.pin, window: self.times.window, ..Options::default() };
        let (file, dtype) = (Arc::clone(&self.checkpoint), self.device.dtype());
        let go_on = |_: distorch_runtime::offload::Progress<'_>| ControlFlow::Continue(());
        OffloadedWeights::load(file, &self.component, &plan, machine, dtype, options, go_on)
            .map_err(BenchError::Load)
    }

    /// Computes a step, and gives the time that it took.
    fn compute_step(&self, network: &dyn Network) -> Result<Duration, BenchError> {
        let start = Instant::now();
        let (device, dtype) = (self.device.tensors(), self.device.dtype());
        let input = network::input(&self.diffusion, self.workload, None, &device, dtype);
        let output = network.forward(input).map_err(BenchError::failed)?;
        // Waits for a device that works off a queue.
        drop(output.into_data());
        Ok(start.elapsed())
    }
}
