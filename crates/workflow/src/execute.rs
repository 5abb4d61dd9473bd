//! Running what the outputs need, and nothing twice.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use distorch_allocation::Plan;
use distorch_pipeline::error::chain;
use distorch_pipeline::events::Silent;
use distorch_pipeline::run::ActiveRun;
use distorch_pipeline::{CancelToken, DeviceSet};
use distorch_runtime::heap;
use indexmap::IndexMap;
use serde_json::Value as Json;
use thiserror::Error;

use crate::cache::{Cache, Entry};
use crate::context::{Context, NodeEvents};
use crate::environment::Environment;
use crate::forecast::{Forecast, Planned};
use crate::graph::{InputValue, Prompt, PromptNode};
use crate::inputs::{Inputs, NodeError};
use crate::lists;
use crate::look_ahead;
use crate::observe::{Event, Observer, PlannedModel};
use crate::registry::Registry;
use crate::schedule::{Lazy, Scope, Step, Steps};
use crate::signature::Node;
use crate::validate::{self, Invalid, NodeProblems, Problem, Valid};
use crate::value::Value;

/// Bytes of results that are kept between runs.
const CACHE_BYTES: u64 = 1 << 30;

/// Why a run came to no end.
#[derive(Debug, Error)]
pub enum ExecutionError {
    /// The prompt cannot be run. Nothing was.
    #[error(transparent)]
    Invalid(Box<Invalid>),
    /// A node failed.
    #[error("node {node} ({class}): {}", chain(error))]
    Node {
        /// The node's id.
        node: String,
        /// Its class.
        class: String,
        /// What went wrong.
        error: NodeError,
        /// The nodes that had come to their end.
        executed: Vec<String>,
    },
    /// The user stopped it.
    #[error("stopped at node {node} ({class})")]
    Interrupted {
        /// The node that was running.
        node: String,
        /// Its class.
        class: String,
        /// The nodes that had come to their end.
        executed: Vec<String>,
    },
}

/// What a run gave.
#[derive(Debug, Default)]
pub struct Report {
    /// What output nodes have to show, by node id.
    pub outputs: IndexMap<String, Json>,
    /// The outputs of the nodes that were asked for, by node id.
    pub values: HashMap<String, Vec<Value>>,
    /// The nodes that ran, in order.
    pub executed: Vec<String>,
    /// The nodes whose results were there.
    pub cached: Vec<String>,
    /// What is wrong with the outputs that could not be run.
    pub node_errors: IndexMap<String, NodeProblems>,
}

/// Runs prompts, one after the other, and keeps results between them. Copies share the results, and may run prompts side
/// by side: those whose models share no device do.
#[derive(Clone)]
pub struct Executor {
    environment: Arc<Environment>,
    registry: Arc<Registry>,
    cache: Arc<Mutex<Cache>>,
}

impl Executor {
    /// An executor of these nodes with an empty cache. Several may share an environment.
    pub fn new(
        environment: impl Into<Arc<Environment>>,
        registry: impl Into<Arc<Registry>>,
    ) -> Self {
        let (environment, registry) = (environment.into(), registry.into());
        let cache = Arc::new(Mutex::new(Cache::new(CACHE_BYTES)));
        Self { environment, registry, cache }
    }

    /// The nodes that prompts may use.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What runs are given.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// What runs are given, to be changed between two of them; `None` where others share it.
    pub fn environment_mut(&mut self) -> Option<&mut Environment> {
        Arc::get_mut(&mut self.environment)
    }

    /// The results that are kept. No prompt goes on while they are held.
    pub fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at every node that an output needs; see [`validate`](validate::validate).
    ///
    /// # Errors
    /// When there is no output, or no output can be run.
    pub fn validate(&self, prompt: &Prompt) -> Result<Valid, Invalid> {
        validate::validate(prompt, &self.registry, &self.environment)
    }

    /// Runs all output nodes that can be run.
    ///
    /// # Errors
    /// When none can be run, a node fails, or the user stops the run.
    pub fn run(
        &mut self,
        prompt: &Prompt,
        observer: &dyn Observer,
    ) -> Result<Report, ExecutionError> {
        self.run_with(prompt, observer, &CancelToken::new())
    }

    /// As [`run`](Self::run); using the token ends the run, also before it starts.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_with(
        &mut self,
        prompt: &Prompt,
        observer: &dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Report, ExecutionError> {
        let valid =
            self.validate(prompt).map_err(|invalid| ExecutionError::Invalid(Box::new(invalid)))?;
        let report = self.run_checked(prompt, &valid.outputs, observer, cancel)?;
        Ok(Report { node_errors: valid.node_errors, ..report })
    }

    /// Runs these nodes, whether they are output nodes or not, and what they need.
    ///
    /// # Errors
    /// When one of them cannot be run, a node fails, or the user stops the run.
    pub fn run_nodes(
        &mut self,
        prompt: &Prompt,
        targets: &[impl AsRef<str>],
        observer: &dyn Observer,
    ) -> Result<Report, ExecutionError> {
        self.run_nodes_with(prompt, targets, observer, &CancelToken::new())
    }

    /// As [`run_nodes`](Self::run_nodes); using the token ends the run, also before it starts.
    ///
    /// # Errors
    /// As [`run_nodes`](Self::run_nodes).
    pub fn run_nodes_with(
        &mut self,
        prompt: &Prompt,
        targets: &[impl AsRef<str>],
        observer: &dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Report, ExecutionError> {
        let (registry, environment) = (&self.registry, &self.environment);
        let (good, node_errors) =
            validate::check(prompt, registry, environment, targets.iter().map(AsRef::as_ref));
        if good.len() < targets.len() {
            let message = "Some of the nodes that were asked for cannot be run";
            let error = Problem::new("prompt_outputs_failed_validation", message, "");
            return Err(ExecutionError::Invalid(Box::new(Invalid { error, node_errors })));
        }
        self.run_checked(prompt, &good, observer, cancel)
    }

    /// Looks at everything that can be known before these nodes, and what they need, are run: files, what
    /// is in them, whether models have the memory to do what is asked of them. Each file's plan is told; no
    /// weights are read and nothing is run.
    ///
    /// # Errors
    /// As [`run_nodes`](Self::run_nodes) would end with, as far as that can be known.
    pub fn dry_run(
        &mut self,
        prompt: &Prompt,
        targets: &[String],
        observer: &dyn Observer,
    ) -> Result<(), ExecutionError> {
        let lazy = Lazy::decided(prompt, &self.registry, &self.environment, targets);
        let (registry, environment) = (&self.registry, &self.environment);
        let scope = Scope { prompt, registry, environment, lazy: &lazy };
        let order = scope.order(targets);
        let all: HashSet<String> = order.iter().cloned().collect();
        let forecast = scope.look_ahead(&order, &all, observer)?;
        let mut parts = Vec::new();
        let mut overview = Vec::new();
        let cancel = CancelToken::new();
        let (_, devices) = scope.devices(&order);
        let active = self.environment.session.begin_on(devices, &cancel);
        let active = active.map_err(|_| interrupted_first(prompt, &order))?;
        let run = active.reporting(&Silent);
        for (node, planned) in &forecast.loads {
            let placed = run.place(&planned.load.loader(planned.tasks));
            let placed = placed.map_err(|error| failed(prompt, node, error.into()))?;
            tell_plans(observer, node, planned, &placed.plans());
            overview.push(PlannedModel {
                node: node.clone(),
                model: planned.load.name.clone(),
                plans: placed.plans(),
                used_by: planned.used_by.clone(),
            });
            // Those of the files before are promised their memory, as they would be in a run.
            parts.push(placed);
        }
        let topology = self.environment.session.topology();
        observer.event(Event::Overview { models: &overview, topology });
        Ok(())
    }

    fn run_checked(
        &self,
        prompt: &Prompt,
        targets: &[String],
        observer: &dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Report, ExecutionError> {
        let Self { environment, registry, .. } = self;
        let lazy = Lazy::decided(prompt, registry, environment, targets);
        let scope = Scope { prompt, registry, environment, lazy: &lazy };
        let order = scope.order(targets);
        let keys = scope.keys(&order);
        // What was opened for this stays open until it is looked at again.
        let (_files, devices) = scope.devices(&order);
        let active = environment.session.begin_on(devices, cancel);
        let active = active.map_err(|_| interrupted_first(prompt, &order))?;
        observer.event(Event::Started { prompt });
        let mut run = Progress { results: HashMap::new(), report: Report::default() };
        let results = &mut run.results;
        let wanted = scope.wanted(&mut self.cache(), &order, targets, &keys, results);
        // Models that are there already and will be used are part of this run, as if their loaders ran.
        let kept = run.results.values().flat_map(|entry| &entry.values);
        let models = &environment.session.models;
        kept.flat_map(Value::parts).for_each(|part| models.keep(active.id(), part));
        run.report.cached =
            order.iter().filter(|id| run.results.contains_key(*id)).cloned().collect();
        observer.event(Event::Cached { nodes: &run.report.cached });
        let forecast = scope.look_ahead(&order, &wanted, observer)?;
        let mut steps = Steps::new(&scope, &order, targets);
        while let Some(step) = steps.next() {
            let id = match step {
                Step::Visit(id) | Step::Run(id) if run.results.contains_key(&id) => continue,
                Step::Visit(id) if !wanted.contains(&id) => continue,
                Step::Visit(id) => {
                    let needed = scope.needed_now(&id, &run)?;
                    if !needed.is_empty() {
                        steps.first(&scope, &order, id, &needed);
                        continue;
                    }
                    id
                }
                Step::Run(id) => id,
            };
            let entry = scope.run_node(&active, &id, &run, &forecast, observer)?;
            run.report.executed.push(id.clone());
            observer.event(Event::Done { node: &id, ui: entry.ui.as_ref() });
            if let Some(key) = keys.get(id.as_str()) {
                self.cache().insert(*key, Arc::clone(&entry));
            }
            run.results.insert(id, entry);
        }
        for id in targets {
            let Some(entry) = run.results.get(id) else { continue };
            run.report.values.insert(id.clone(), entry.values.clone());
            if let Some(ui) = &entry.ui {
                run.report.outputs.insert(id.clone(), ui.clone());
            }
        }
        Ok(run.report)
    }
}

impl Scope<'_> {
    /// The nodes behind lazy inputs of a node that its other inputs ask for, which are known now.
    fn needed_now(&self, id: &str, run: &Progress) -> Result<Vec<String>, ExecutionError> {
        let Some((node, class)) = self.node_and_class(id) else { return Ok(Vec::new()) };
        let open: Vec<(&str, &str)> = self.open_links(id).collect();
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let given = inputs(self.environment, node, class, run)
            .map_err(|error| failed_after(self.prompt, id, error, run))?;
        let chosen = class.lazy.and_then(|lazy| lazy(&given));
        let is_chosen = |input: &str| chosen.as_ref().is_none_or(|names| names.contains(&input));
        let needed = open.into_iter().filter(|(input, _)| is_chosen(input));
        Ok(needed.map(|(_, node)| node.to_owned()).collect())
    }

    /// The devices that the run of these nodes has to itself, and what is known of it before it has them.
    fn devices(&self, order: &[String]) -> (Forecast, DeviceSet) {
        let Self { prompt, registry, environment, .. } = *self;
        let session = &environment.session;
        // Nothing runs yet, so that nothing fails.
        let forecast = look_ahead::look_ahead(prompt, order, registry, environment, |_| false);
        let forecast = forecast.unwrap_or_default();
        let mut devices = DeviceSet::default();
        for id in order {
            let Some((_, class)) = self.node_and_class(id) else { continue };
            match forecast.loads.get(id) {
                Some(planned) => {
                    let loader = planned.load.loader(planned.tasks);
                    devices.extend(session.models.devices(&loader).iter());
                }
                None if class.loads_models() => {
                    return (forecast, DeviceSet::all(session.topology()));
                }
                None => {}
            }
        }
        if devices.is_empty() {
            devices = DeviceSet::host();
        }
        (forecast, devices)
    }

    /// What is known of the run of these nodes. What will go wrong does so now.
    fn look_ahead(
        &self,
        order: &[String],
        wanted: &HashSet<String>,
        observer: &dyn Observer,
    ) -> Result<Forecast, ExecutionError> {
        let Self { prompt, registry, environment, .. } = *self;
        let runs = |id: &str| wanted.contains(id);
        let forecast = look_ahead::look_ahead(prompt, order, registry, environment, runs)
            .map_err(|failing| failed(prompt, &failing.node, failing.error))?;
        for (node, planned) in &forecast.loads {
            let loader = planned.load.loader(planned.tasks);
            if let Err(error) = environment.session.models.check(&loader) {
                if let Ok(plans) = environment.session.models.plan(&loader) {
                    tell_plans(observer, node, planned, &plans);
                }
                return Err(failed(prompt, node, error.into()));
            }
            if let Some(text) = planned.unknown_size() {
                observer.event(Event::Warning { node, text: &text });
            }
        }
        Ok(forecast)
    }

    fn run_node(
        &self,
        active: &ActiveRun<'_>,
        id: &str,
        run: &Progress,
        forecast: &Forecast,
        observer: &dyn Observer,
    ) -> Result<Arc<Entry>, ExecutionError> {
        let Self { prompt, registry, environment, .. } = *self;
        let executed = || run.report.executed.clone();
        let Some((node, class)) = self.node_and_class(id) else {
            return Ok(Arc::new(Entry { values: Vec::new(), ui: None }));
        };
        let (id, name) = (id.to_owned(), class.class.to_owned());
        let events = NodeEvents { node: &id, observer };
        let pipeline = active.reporting(&events);
        if pipeline.cancelled() {
            return Err(ExecutionError::Interrupted {
                node: id.clone(),
                class: name,
                executed: executed(),
            });
        }
        observer.event(Event::Node { node: &id, class: class.class });
        let _doing = heap::doing(&format!("node {id} ({name})"));
        let tasks = forecast.tasks(&id);
        let mut context =
            Context { environment, run: pipeline, prompt, tasks, node: &id, observer, ui: None };
        let result = catch_unwind(AssertUnwindSafe(|| {
            lists::run(registry, class, &mut context, &inputs(environment, node, class, run)?)
        }));
        let ui = context.ui.take();
        let node = id.clone();
        pipeline.rest();
        match result.unwrap_or_else(|panic| Err(NodeError::failed(panic_message(&*panic)))) {
            Ok(values) => Ok(Arc::new(Entry { values, ui })),
            Err(_) if pipeline.cancelled() => {
                Err(ExecutionError::Interrupted { node, class: name, executed: executed() })
            }
            Err(NodeError::Interrupted) => {
                Err(ExecutionError::Interrupted { node, class: name, executed: executed() })
            }
            Err(error) => {
                Err(ExecutionError::Node { node, class: name, error, executed: executed() })
            }
        }
    }
}

fn inputs(
    environment: &Environment,
    node: &PromptNode,
    class: &Node,
    run: &Progress,
) -> Result<Inputs, NodeError> {
    let mut inputs: Vec<(String, Value)> = Vec::new();
    for input in class.inputs {
        if let Some(InputValue::Link { node, slot }) = node.inputs.get(input.name)
            && let Some(entry) = run.results.get(node)
            && let Some(value) = entry.values.get(*slot)
        {
            let value = lists::each(value, |value| validate::linked(input, value))
                .map_err(|problem| NodeError::input(input.name, problem.message))?;
            inputs.push((input.name.to_owned(), value));
        }
    }
    let literals = validate::literals(node, class, environment);
    for input in class.inputs {
        if let Some(value) = literals.get(input.name) {
            inputs.push((input.name.to_owned(), value.clone()));
        }
    }
    Ok(inputs.into_iter().collect())
}

/// A node that fails before it runs.
fn failed_after(prompt: &Prompt, node: &str, error: NodeError, run: &Progress) -> ExecutionError {
    match failed(prompt, node, error) {
        ExecutionError::Node { node, class, error, .. } => {
            ExecutionError::Node { node, class, error, executed: run.report.executed.clone() }
        }
        other => other,
    }
}

/// A run that was stopped before its first node ran.
fn interrupted_first(prompt: &Prompt, order: &[String]) -> ExecutionError {
    failed(prompt, order.first().map_or("", String::as_str), NodeError::Interrupted)
}

/// A node that fails before any has run.
fn failed(prompt: &Prompt, node: &str, error: NodeError) -> ExecutionError {
    let class = prompt.nodes.get(node).map(|node| node.class.clone()).unwrap_or_default();
    if let NodeError::Interrupted = error {
        return ExecutionError::Interrupted { node: node.to_owned(), class, executed: Vec::new() };
    }
    ExecutionError::Node { node: node.to_owned(), class, error, executed: Vec::new() }
}

fn tell_plans(observer: &dyn Observer, node: &str, planned: &Planned, plans: &[Plan]) {
    let (model, tasks) = (planned.load.name.as_str(), &planned.tasks);
    observer.event(Event::Planned { node, model, tasks, plans });
}

/// What is known in the middle of a run.
struct Progress {
    results: HashMap<String, Arc<Entry>>,
    report: Report,
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    format!("internal error: {text}")
}
