//! Which nodes run, and in which order.
//!
//! A lazy input is asked for only where its node says so. Where that follows from values in the prompt, what is behind
//! the others is no part of the run at all; where it follows from what the run computes, it is decided then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexSet;
use sha2::{Digest, Sha256};

use crate::cache::{Cache, Entry, Key};
use crate::environment::Environment;
use crate::graph::{InputValue, Prompt, PromptNode};
use crate::look_ahead;
use crate::registry::Registry;
use crate::signature::Node;
use crate::validate;

/// Which lazy inputs are asked for, by node, where that is known before the run.
#[derive(Debug, Default)]
pub(crate) struct Lazy {
    chosen: HashMap<String, Vec<&'static str>>,
    /// The nodes that have lazy inputs, with those.
    inputs: HashMap<String, Vec<&'static str>>,
}

impl Lazy {
    /// Decides what can be decided of what the targets need.
    pub fn decided(
        prompt: &Prompt,
        registry: &Registry,
        environment: &Environment,
        targets: &[String],
    ) -> Self {
        let all = Self::default();
        let scope = Scope { prompt, registry, environment, lazy: &all };
        let order = scope.order(targets);
        let lazy_inputs = |id: &String| {
            let (_, class) = scope.node_and_class(id)?;
            class.lazy?;
            let inputs = class.inputs.iter().filter(|input| input.lazy).map(|input| input.name);
            Some((id.clone(), inputs.collect()))
        };
        let inputs: HashMap<_, _> = order.iter().filter_map(lazy_inputs).collect();
        if inputs.is_empty() {
            return Self::default();
        }
        // Nothing runs, so that nothing fails.
        let forecast = look_ahead::look_ahead(prompt, &order, registry, environment, |_| false);
        let chosen = forecast.map(|forecast| forecast.chosen).unwrap_or_default();
        Self { chosen, inputs }
    }

    /// Whether it is known that an input is not asked for.
    fn skips(&self, node: &str, input: &str) -> bool {
        let Some(chosen) = self.chosen.get(node) else { return false };
        let is_lazy = self.inputs.get(node).is_some_and(|names| names.contains(&input));
        is_lazy && !chosen.contains(&input)
    }
}

/// A prompt, the nodes that it may use and what they are given.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub prompt: &'a Prompt,
    pub registry: &'a Registry,
    pub environment: &'a Environment,
    pub lazy: &'a Lazy,
}

impl<'a> Scope<'a> {
    /// The nodes that a node's inputs are linked to, but for lazy inputs that nobody asks for.
    pub fn needed(&self, id: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let links = self.links(id);
        let asked: Vec<&'a str> =
            links.filter(|(input, _)| !self.lazy.skips(id, input)).map(|(_, node)| node).collect();
        asked.into_iter()
    }

    /// Links of lazy inputs of which it is not known before the run whether they are asked for: input and node.
    pub fn open_links(&self, id: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let class = self.node_and_class(id).map(|(_, class)| class);
        let is_open = move |input: &str| {
            let class = class.filter(|class| class.lazy.is_some());
            class.and_then(|class| class.input(input)).is_some_and(|input| input.lazy)
        };
        let is_decided = self.lazy.chosen.contains_key(id);
        self.links(id).filter(move |(input, _)| !is_decided && is_open(input))
    }

    /// What is linked to a node's inputs: input and node.
    fn links(&self, id: &str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let prompt = self.prompt;
        let found = self.node_and_class(id);
        found.into_iter().flat_map(move |(node, class)| {
            node.inputs.iter().filter_map(move |(name, given)| match given {
                InputValue::Link { node, .. }
                    if class.input(name).is_some() && prompt.nodes.contains_key(node) =>
                {
                    Some((name.as_str(), node.as_str()))
                }
                _ => None,
            })
        })
    }

    /// A node and its class.
    pub fn node_and_class(&self, id: &str) -> Option<(&'a PromptNode, &'a Node)> {
        let node = self.prompt.nodes.get(id)?;
        Some((node, self.registry.find(&node.class)?))
    }

    /// What the targets need, each node after those that it needs itself. The prompt has no circles.
    pub fn order(&self, targets: &[String]) -> Vec<String> {
        let prompt = self.prompt;
        let mut all: IndexSet<&str> = targets.iter().map(String::as_str).collect();
        let mut next = 0;
        while let Some(&id) = all.get_index(next) {
            next += 1;
            all.extend(self.needed(id));
        }
        let mut order = Vec::with_capacity(all.len());
        let mut done: HashSet<&str> = HashSet::new();
        let mut stack: Vec<(&str, bool)> = prompt
            .nodes
            .keys()
            .rev()
            .filter(|id| all.contains(id.as_str()))
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
            let unmet = self.needed(id).filter(|id| !done.contains(id));
            let unmet: Vec<&str> = unmet.collect();
            stack.extend(unmet.into_iter().rev().map(|id| (id, false)));
        }
        order
    }

    /// The keys of nodes, which come after those that they need.
    pub fn keys(&self, order: &[String]) -> HashMap<String, Key> {
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
                    Some(InputValue::Link { .. }) if self.lazy.skips(id, input.name) => {
                        part(input.name);
                        part("not asked for");
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
    pub fn wanted(
        &self,
        cache: &mut Cache,
        order: &[String],
        targets: &[String],
        keys: &HashMap<String, Key>,
        results: &mut HashMap<String, Arc<Entry>>,
    ) -> HashSet<String> {
        let mut asked: HashSet<&str> = targets.iter().map(String::as_str).collect();
        let mut wanted = HashSet::new();
        for id in order.iter().rev() {
            if !asked.contains(id.as_str()) {
                continue;
            }
            match keys.get(id).and_then(|key| cache.get(key)) {
                Some(entry) => {
                    results.insert(id.clone(), entry);
                }
                None => {
                    asked.extend(self.needed(id));
                    wanted.insert(id.clone());
                }
            }
        }
        wanted
    }
}

/// What is left to do.
pub(crate) enum Step {
    /// A node whose lazy inputs may not have been asked for yet.
    Visit(String),
    /// A node that has all that it needs.
    Run(String),
}

/// The steps of a run, the next one last.
pub(crate) struct Steps(Vec<Step>);

impl Steps {
    /// What the targets need in any case, in order.
    pub fn new(scope: &Scope<'_>, order: &[String], targets: &[String]) -> Self {
        let mut steps = Self(Vec::new());
        steps.visit(scope, order, targets);
        steps
    }

    /// These nodes, with what they need, come before this one, which then has all that it needs.
    pub fn first(&mut self, scope: &Scope<'_>, order: &[String], node: String, needed: &[String]) {
        self.0.push(Step::Run(node));
        self.visit(scope, order, needed);
    }

    fn visit(&mut self, scope: &Scope<'_>, order: &[String], targets: &[String]) {
        let mut all: IndexSet<&str> = targets.iter().map(String::as_str).collect();
        let mut next = 0;
        while let Some(&id) = all.get_index(next) {
            next += 1;
            let open: Vec<(&str, &str)> = scope.open_links(id).collect();
            let links = scope.links(id).filter(|link| !open.contains(link));
            let asked = links.filter(|(input, _)| !scope.lazy.skips(id, input));
            all.extend(asked.map(|(_, node)| node).collect::<Vec<_>>());
        }
        let visits = order.iter().rev().filter(|id| all.contains(id.as_str()));
        self.0.extend(visits.cloned().map(Step::Visit));
    }
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        self.0.pop()
    }
}
