//! Running what the outputs need, and nothing twice.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use distorch_allocation::Plan;
use distorch_pipeline::CancelToken;
use distorch_pipeline::error::chain;
use distorch_pipeline::run::ActiveRun;
use distorch_runtime::heap;
use indexmap::IndexMap;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::cache::{Cache, Entry, Key};
use crate::context::{Context, NodeEvents};
use crate::environment::Environment;
use crate::forecast::{Forecast, Planned};
use crate::graph::{InputValue, Prompt, PromptNode};
use crate::inputs::{Inputs, NodeError};
use crate::look_ahead;
use crate::observe::{Event, Observer};
use crate::registry::Registry;
use crate::signature::Node;
use crate::validate::{self, Invalid, NodeProblems, Problem, Valid, ancestors, needed};
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

/// Runs prompts, one after the other, and keeps results between them.
pub struct Executor {
    environment: Arc<Environment>,
    registry: Arc<Registry>,
    cache: Cache,
}

impl Executor {
    /// An executor of these nodes with an empty cache. Several may share an environment.
    pub fn new(
        environment: impl Into<Arc<Environment>>,
        registry: impl Into<Arc<Registry>>,
    ) -> Self {
        let (environment, registry) = (environment.into(), registry.into());
        Self { environment, registry, cache: Cache::new(CACHE_BYTES) }
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

    /// The results that are kept.
    pub fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
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
        let scope = Scope { prompt, registry: &self.registry, environment: &self.environment };
        let order = scope.order(targets);
        let all: HashSet<String> = order.iter().cloned().collect();
        let forecast = scope.look_ahead(&order, &all, observer)?;
        let mut parts = Vec::new();
        for (node, planned) in &forecast.loads {
            let models = &self.environment.session.models;
            let placed = models.place(&planned.load.loader(planned.tasks));
            let placed = placed.map_err(|error| failed(prompt, node, error.into()))?;
            tell_plans(observer, node, planned, &placed.plans());
            // Those of the files before are promised their memory, as they would be in a run.
            parts.push(placed);
        }
        Ok(())
    }

    fn run_checked(
        &mut self,
        prompt: &Prompt,
        targets: &[String],
        observer: &dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Report, ExecutionError> {
        let Self { environment, registry, cache } = self;
        let scope = Scope { prompt, registry, environment };
        let order = scope.order(targets);
        let keys = scope.keys(&order);
        let active = environment.session.begin(cancel).map_err(|_| {
            let first = order.first().cloned().unwrap_or_default();
            failed(prompt, &first, NodeError::Interrupted)
        })?;
        observer.event(Event::Started { prompt });
        let mut run = Progress { results: HashMap::new(), report: Report::default() };
        let wanted = scope.wanted(cache, &order, targets, &keys, &mut run);
        observer.event(Event::Cached { nodes: &run.report.cached });
        let forecast = scope.look_ahead(&order, &wanted, observer)?;
        for id in order.iter().filter(|id| wanted.contains(id.as_str())) {
            let entry = scope.run_node(&active, id, &run, &forecast, observer)?;
            run.report.executed.push(id.clone());
            observer.event(Event::Done { node: id, ui: entry.ui.as_ref() });
            if let Some(key) = keys.get(id.as_str()) {
                cache.insert(*key, Arc::clone(&entry));
            }
            run.results.insert(id.clone(), entry);
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

/// A prompt, the nodes that it may use and what they are given.
#[derive(Clone, Copy)]
struct Scope<'a> {
    prompt: &'a Prompt,
    registry: &'a Registry,
    environment: &'a Environment,
}

impl<'a> Scope<'a> {
    /// What the targets need, each node after those that it needs itself. The prompt has no circles.
    fn order(&self, targets: &[String]) -> Vec<String> {
        let Self { prompt, registry, .. } = *self;
        let all: HashSet<String> =
            targets.iter().flat_map(|target| ancestors(prompt, registry, target)).collect();
        let mut order = Vec::with_capacity(all.len());
        let mut done: HashSet<&str> = HashSet::new();
        let mut stack: Vec<(&str, bool)> = prompt
            .nodes
            .keys()
            .rev()
            .filter(|id| all.contains(*id))
            .map(|id| (id.as_str(), false))
            .collect();
        while let Some((id, needs_met)) = stack.pop() {
            if done.contains(id) {
                continue;
            }
            if needs_met {
                done.insert(id);
                order.push(id.to_owned());
                continue;
            }
            stack.push((id, true));
            let unmet = needed(prompt, registry, id).filter(|id| !done.contains(id));
            let unmet: Vec<&str> = unmet.collect();
            stack.extend(unmet.into_iter().rev().map(|id| (id, false)));
        }
        order
    }

    /// The keys of nodes, which come after those that they need.
    fn keys(&self, order: &[String]) -> HashMap<String, Key> {
        let mut keys: HashMap<String, Key> = HashMap::new();
        for id in order {
            let Some((node, class)) = self.node_and_class(id) else { continue };
            let mut hash = Sha256::new();
            let mut part = |text: &str| {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            };
            part(class.class);
            for input in class.inputs {
                match node.inputs.get(input.name) {
                    None => {}
                    Some(InputValue::Literal(value)) => {
                        part(input.name);
                        part(&value.to_string());
                    }
                    Some(InputValue::Link { node, slot }) => {
                        part(input.name);
                        part(&format!("link {slot}"));
                        let key = keys.get(node).copied().unwrap_or_default();
                        part(&key.map(|byte| format!("{byte:02x}")).concat());
                    }
                }
            }
            if let Some(fingerprint) = class.fingerprint {
                let literals = validate::literals(node, class, self.environment);
                part(&fingerprint(self.environment, &literals));
            }
            keys.insert(id.clone(), hash.finalize().into());
        }
        keys
    }

    /// The nodes that have to run: from the targets back, to where results are cached.
    fn wanted(
        &self,
        cache: &mut Cache,
        order: &[String],
        targets: &[String],
        keys: &HashMap<String, Key>,
        run: &mut Progress,
    ) -> HashSet<String> {
        let mut asked: HashSet<&str> = targets.iter().map(String::as_str).collect();
        let mut wanted = HashSet::new();
        for id in order.iter().rev() {
            if !asked.contains(id.as_str()) {
                continue;
            }
            match keys.get(id).and_then(|key| cache.get(key)) {
                Some(entry) => {
                    run.results.insert(id.clone(), entry);
                    run.report.cached.push(id.clone());
                }
                None => {
                    asked.extend(needed(self.prompt, self.registry, id));
                    wanted.insert(id.clone());
                }
            }
        }
        run.report.cached.reverse();
        wanted
    }

    /// What is known of the run of these nodes. What will go wrong does so now.
    fn look_ahead(
        &self,
        order: &[String],
        wanted: &HashSet<String>,
        observer: &dyn Observer,
    ) -> Result<Forecast, ExecutionError> {
        let Self { prompt, registry, environment } = *self;
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
        let Self { prompt, registry, environment } = *self;
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
            registry.run(class, &mut context, &inputs(environment, node, class, run)?)
        }));
        let ui = context.ui.take();
        let node = id.clone();
        environment.session.models.rest();
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

    fn node_and_class(&self, id: &str) -> Option<(&'a PromptNode, &'a Node)> {
        let node = self.prompt.nodes.get(id)?;
        Some((node, self.registry.find(&node.class)?))
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
            validate::linked(input, value)
                .map_err(|problem| NodeError::input(input.name, problem.message))?;
            inputs.push((input.name.to_owned(), value.clone()));
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
