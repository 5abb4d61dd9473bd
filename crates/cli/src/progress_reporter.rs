//! Telling how a run goes on: bars on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use distorch_allocation::report::Column;
use distorch_allocation::{ByteSize, Plan, Topology, report};
use distorch_pipeline::events::{Event as RunEvent, EventSink};
use distorch_pipeline::models::Tasks;
use distorch_pipeline::{Phase, RunId};
use distorch_workflow::observe::{Event, Observer, PlannedModel};
use indicatif::ProgressBar;

use crate::machine;
use crate::progress::bar_style;
use crate::remedy;
use crate::terminal;

/// Lines in a pipe come no more often than this, but for the last of each stage.
const PAUSE: Duration = Duration::from_secs(2);

/// Tells a run's events: tables on standard output, progress on standard error.
pub struct ProgressReporter {
    quiet: bool,
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bar: Option<ProgressBar>,
    stage: String,
    class: String,
    begun: Option<Instant>,
    told: Option<Instant>,
}

impl ProgressReporter {
    /// `quiet` leaves the tables out.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, terminal: io::stderr().is_terminal(), state: Mutex::default() }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.state().end();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `total` is none where it is known at the end only.
    fn advance(&self, stage: &str, unit: Unit, done: u64, total: Option<u64>) {
        let mut state = self.state();
        if state.stage != stage {
            state.begin(stage, unit, total, self.terminal);
        }
        match &state.bar {
            Some(bar) => bar.set_position(done),
            None => state.line(unit, done, total),
        }
        if total.is_some_and(|total| done >= total) {
            state.end();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Steps,
    Bytes,
}

impl State {
    fn begin(&mut self, stage: &str, unit: Unit, total: Option<u64>, terminal: bool) {
        self.end();
        stage.clone_into(&mut self.stage);
        (self.begun, self.told) = (Some(Instant::now()), None);
        if !terminal {
            return;
        }
        let style = match unit {
            Unit::Steps if total.is_none() => {
                bar_style("step {pos} {elapsed} {per_sec}", stage, 24)
            }
            Unit::Steps => bar_style("{pos}/{len} {elapsed} {per_sec}", stage, 24),
            Unit::Bytes => bar_style("{bytes}/{total_bytes} {binary_bytes_per_sec}", stage, 38),
        };
        let style = style.with_key(
            "per_sec",
            |state: &indicatif::ProgressState, to: &mut dyn std::fmt::Write| {
                // The writer is indicatif's own buffer.
                let _ = write!(to, "{:.2} it/s", state.per_sec());
            },
        );
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let bar = bar.with_message(stage.to_owned()).with_style(style);
        self.bar = Some(bar);
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.stage.clear();
    }

    fn line(&mut self, unit: Unit, done: u64, total: Option<u64>) {
        let soon = self.told.is_some_and(|told| told.elapsed() < PAUSE);
        if soon && total.is_none_or(|total| done < total) {
            return;
        }
        self.told = Some(Instant::now());
        let stage = &self.stage;
        match unit {
            Unit::Bytes => {
                let [done, total] =
                    [done, total.unwrap_or(done)].map(|bytes| bytes as f64 / f64::from(1 << 20));
                tell!("{stage}: {done:.1} of {total:.1} MiB");
            }
            Unit::Steps => {
                let seconds = self.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
                // The clock starts as the first step ends.
                let rate = (done > 1 && seconds > 0.0)
                    .then(|| format!(", {:.2} it/s", (done - 1) as f64 / seconds));
                let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
                tell!("{stage}: step {done}{of}{}", rate.unwrap_or_default());
            }
        }
    }
}

impl ProgressReporter {
    /// What the work is at now: a node's class, or a phase.
    fn begin(&self, stage: &str) {
        stage.clone_into(&mut self.state().class);
    }

    fn step(&self, done: usize, total: Option<usize>) {
        let class = self.state().class.clone();
        self.advance(&class, Unit::Steps, done as u64, total.map(|total| total as u64));
    }

    fn loading(&self, what: &str, done: u64, total: u64) {
        self.advance(&format!("loading the {what}"), Unit::Bytes, done, Some(total));
    }

    fn planned(&self, model: &str, tasks: &Tasks, plans: &[Plan]) {
        if self.quiet {
            return;
        }
        self.state().end();
        let tasks = tasks.to_string();
        let made_for = if tasks.is_empty() { tasks } else { format!(", planned for {tasks}") };
        show!("{model}{made_for}\n");
        for plan in plans {
            show!("{}", report::component(plan, terminal::columns()));
        }
    }

    /// All components against all devices, in one table.
    fn overview(&self, models: &[PlannedModel], topology: &Topology) {
        if !self.quiet && !models.is_empty() {
            show!("{}", overview(models, topology));
        }
    }

    fn warn(&self, text: &str) {
        match &self.state().bar {
            Some(bar) => bar.suspend(|| machine::warn(text)),
            None => machine::warn(text),
        }
    }
}

/// A run of a workflow, which is at one node after the other.
impl Observer for ProgressReporter {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Node { class, .. } => self.begin(class),
            Event::Step { done, total, .. } => self.step(done, total),
            Event::Loading { what, done, total, .. } => self.loading(what, done, total),
            Event::Done { .. } => self.state().end(),
            Event::Planned { model, tasks, plans, .. } => self.planned(model, tasks, plans),
            Event::Warning { text, .. } => self.warn(text),
            Event::Overview { models, topology } => self.overview(models, topology),
            Event::Started { .. } | Event::Cached { .. } => {}
        }
    }
}

/// A run of the pipeline, which goes from phase to phase.
impl EventSink for ProgressReporter {
    fn event(&self, _: RunId, event: RunEvent) {
        match event {
            RunEvent::Phase { phase } => {
                self.state().end();
                self.begin(in_words(phase));
            }
            RunEvent::Step { done, total, .. } => self.step(done, total),
            RunEvent::Loading { what, done, total } => self.loading(&what, done, total),
            RunEvent::Planned { model, tasks, plans } => self.planned(&model, &tasks, &plans),
            RunEvent::Adopted { shortage, remedy } => {
                let setting = remedy::option(&remedy).unwrap_or_else(|| remedy.to_string());
                self.warn(&format!("{shortage}; going on with {setting}"));
            }
            RunEvent::Warning { text } => self.warn(&text),
        }
    }
}

/// A row for each component and device that holds some of it, then what each device holds of all.
fn overview(models: &[PlannedModel], topology: &Topology) -> String {
    let mut table = report::Table::new([
        Column::text("component"),
        Column::text("device"),
        Column::number("blocks").optional(3),
        Column::number("bytes"),
        Column::number("peak").optional(1),
        Column::text("used by nodes").optional(2),
    ]);
    let plans =
        || models.iter().flat_map(|model| model.plans.iter().map(move |plan| (model, plan)));
    for (model, plan) in plans() {
        for share in &plan.devices {
            let computes = share.device == plan.compute_device;
            table.add_row([
                format!("{} of {}", plan.component, model.model),
                report::device_name(share.device, share.simulated),
                share.blocks.to_string(),
                ByteSize(share.bytes).to_string(),
                if computes { ByteSize(plan.peak_bytes).to_string() } else { String::new() },
                model.used_by.join(", "),
            ]);
        }
    }
    let plans: Vec<Plan> = plans().map(|(_, plan)| plan.clone()).collect();
    let columns = terminal::columns();
    let totals = report::totals(&plans, topology, columns);
    format!("all models together\n{}\n{totals}", table.fit(columns))
}

fn in_words(phase: Phase) -> &'static str {
    match phase {
        Phase::Load => "loading",
        Phase::Encode => "encoding",
        Phase::Sample => "sampling",
        Phase::Decode => "decoding",
    }
}
