//! Which job a worker takes: what it can run, in order, and rather what it has loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

/// How many pending jobs behind the first that a worker can run are searched for one whose models
/// it has loaded.
const LOOKAHEAD: usize = 256;

/// What a job needs. Names are compared as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirements {
    /// Devices, with the bytes that it needs on each.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, u64>,
    /// Model files.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub models: BTreeSet<String>,
    /// Classes of nodes.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub node_classes: BTreeSet<String>,
    /// Devices that it has to itself while it runs: [`DEFAULT_DEVICE`] is the worker's own default, [`ALL_DEVICES`] all
    /// that it has.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub occupies: BTreeSet<String>,
}

/// In [`Requirements::occupies`], the device that a worker computes on where nothing is said.
pub const DEFAULT_DEVICE: &str = "default";

/// In [`Requirements::occupies`], every device.
pub const ALL_DEVICES: &str = "*";

/// What a worker has.
#[derive(Debug, Clone, Default)]
pub struct Worker {
    /// Its name. One process has it at a time: see [`crate::Queue::release_worker`].
    pub name: String,
    /// Its devices, with the bytes of memory of each.
    pub devices: BTreeMap<String, u64>,
    /// The one that it computes on where nothing is said.
    pub default_device: String,
    /// Those of its devices that run another job now, [`ALL_DEVICES`] for all. A job that occupies one
    /// waits, and keeps its place: no later job takes a device that an earlier one waits for.
    pub busy: BTreeSet<String>,
    /// Model files that it can read.
    pub models: BTreeSet<String>,
    /// Classes of nodes that it knows.
    pub node_classes: BTreeSet<String>,
    /// Models that it has loaded: jobs that need no other are preferred. Where this is empty, jobs
    /// are taken strictly in order.
    pub loaded: BTreeSet<String>,
}

impl Worker {
    /// The devices that a job has to itself on this worker, for [`busy`](Self::busy).
    pub fn occupied(&self, requires: &Requirements) -> BTreeSet<String> {
        let names = requires.occupies.iter();
        names
            .map(|name| if name == DEFAULT_DEVICE { &self.default_device } else { name })
            .cloned()
            .collect()
    }

    /// What of a job's requirements this worker does not have, in words; `None` where it can run
    /// it.
    pub fn lacks(&self, requires: &Requirements) -> Option<String> {
        for (device, bytes) in &requires.devices {
            match self.devices.get(device) {
                None => return Some(format!("device {device}")),
                Some(memory) if memory < bytes => {
                    return Some(format!("{bytes} bytes on {device}, which has {memory}"));
                }
                Some(_) => {}
            }
        }
        if let Some(model) = requires.models.difference(&self.models).next() {
            return Some(format!("model {model}"));
        }
        let class = requires.node_classes.difference(&self.node_classes).next()?;
        Some(format!("node class {class}"))
    }
}

/// A pending job, as far as the choice needs it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub seq: i64,
    pub number: f64,
    pub passed: i64,
    pub requires: Requirements,
}

/// Chooses among pending jobs, which are offered in their order.
pub(crate) struct Choice<'a> {
    worker: &'a Worker,
    max_passed: u32,
    /// Devices that an earlier job waits for.
    awaited: BTreeSet<String>,
    first: Option<Candidate>,
    loaded: Option<i64>,
    searched: usize,
}

/// What was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// The job to take.
    pub seq: i64,
    /// The job that would have been next, where another is preferred.
    pub passed_over: Option<i64>,
}

impl<'a> Choice<'a> {
    pub fn new(worker: &'a Worker, max_passed: u32) -> Self {
        let awaited = BTreeSet::new();
        Self { worker, max_passed, awaited, first: None, loaded: None, searched: 0 }
    }

    /// Considers the next job; breaks where no further one changes the choice.
    pub fn offer(&mut self, candidate: Candidate) -> ControlFlow<()> {
        if self.first.is_some() {
            self.searched += 1;
            if self.searched > LOOKAHEAD {
                return ControlFlow::Break(());
            }
        }
        let requires = &candidate.requires;
        if self.worker.lacks(requires).is_some() {
            return ControlFlow::Continue(());
        }
        let occupied = self.worker.occupied(requires);
        if share(&occupied, &self.worker.busy) || share(&occupied, &self.awaited) {
            self.awaited.extend(occupied);
            return ControlFlow::Continue(());
        }
        let is_loaded = requires.models.is_subset(&self.worker.loaded);
        if self.first.is_some() {
            if is_loaded && !requires.models.is_empty() {
                self.loaded = Some(candidate.seq);
                return ControlFlow::Break(());
            }
            return ControlFlow::Continue(());
        }
        // A negative number is one that was put in front: nothing passes it.
        let keeps_order = self.worker.loaded.is_empty()
            || is_loaded
            || candidate.number < 0.0
            || candidate.passed >= i64::from(self.max_passed);
        self.first = Some(candidate);
        if keeps_order { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The choice among what was offered.
    pub fn chosen(self) -> Option<Chosen> {
        let first = self.first?.seq;
        Some(match self.loaded {
            Some(seq) => Chosen { seq, passed_over: Some(first) },
            None => Chosen { seq: first, passed_over: None },
        })
    }
}

/// Whether two sets have a device in common.
fn share(one: &BTreeSet<String>, other: &BTreeSet<String>) -> bool {
    let has_all = |set: &BTreeSet<String>| set.contains(ALL_DEVICES);
    match (one.is_empty(), other.is_empty()) {
        (false, false) => has_all(one) || has_all(other) || !one.is_disjoint(other),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    fn needs(devices: &[&str], models: &[&str]) -> Requirements {
        Requirements {
            devices: devices.iter().map(|&name| (name.to_owned(), 10)).collect(),
            models: names(models),
            node_classes: BTreeSet::new(),
            occupies: names(devices),
        }
    }

    fn worker(loaded: &[&str], busy: &[&str]) -> Worker {
        Worker {
            devices: [("cuda:0".to_owned(), 10), ("cuda:1".to_owned(), 10)].into(),
            busy: names(busy),
            models: names(&["a", "b", "c"]),
            loaded: names(loaded),
            ..Worker::default()
        }
    }

    fn choose(worker: &Worker, jobs: &[(f64, i64, Requirements)]) -> Option<Chosen> {
        let mut choice = Choice::new(worker, 2);
        for (seq, (number, passed, requires)) in jobs.iter().enumerate() {
            let seq = i64::try_from(seq).unwrap();
            let (number, passed, requires) = (*number, *passed, requires.clone());
            if choice.offer(Candidate { seq, number, passed, requires }).is_break() {
                break;
            }
        }
        choice.chosen()
    }

    #[test]
    fn a_worker_is_told_what_it_lacks() {
        let worker = worker(&[], &[]);
        let mut requires = needs(&["cuda:0"], &["a"]);
        assert_eq!(worker.lacks(&requires), None);
        requires.node_classes.insert("KSampler".into());
        assert_eq!(worker.lacks(&requires).unwrap(), "node class KSampler");
        requires.models.insert("d".into());
        assert_eq!(worker.lacks(&requires).unwrap(), "model d");
        requires.devices.insert("cuda:1".into(), 11);
        assert_eq!(worker.lacks(&requires).unwrap(), "11 bytes on cuda:1, which has 10");
        requires.devices.insert("cpu".into(), 0);
        assert_eq!(worker.lacks(&requires).unwrap(), "device cpu");
    }

    #[test]
    fn what_is_loaded_is_preferred_until_the_first_was_passed_too_often() {
        let jobs = |passed| {
            vec![
                (0.0, passed, needs(&[], &["a"])),
                (1.0, 0, needs(&[], &[])),
                (2.0, 0, needs(&[], &["b"])),
            ]
        };
        let preferred = Some(Chosen { seq: 2, passed_over: Some(0) });
        let in_order = Some(Chosen { seq: 0, passed_over: None });
        assert_eq!(choose(&worker(&["b"], &[]), &jobs(1)), preferred);
        assert_eq!(choose(&worker(&["b"], &[]), &jobs(2)), in_order);
        assert_eq!(choose(&worker(&["c"], &[]), &jobs(0)), in_order);
        assert_eq!(choose(&worker(&[], &[]), &jobs(0)), in_order);
    }

    #[test]
    fn a_job_in_front_is_never_passed_over() {
        let jobs = [(-1.0, 0, needs(&[], &["a"])), (2.0, 0, needs(&[], &["b"]))];
        let chosen = choose(&worker(&["b"], &[]), &jobs);
        assert_eq!(chosen, Some(Chosen { seq: 0, passed_over: None }));
    }

    #[test]
    fn no_job_takes_a_device_that_an_earlier_one_waits_for() {
        let both = needs(&["cuda:0", "cuda:1"], &[]);
        let jobs = [(0.0, 0, both), (1.0, 0, needs(&["cuda:1"], &[])), (2.0, 0, needs(&[], &[]))];
        let chosen = choose(&worker(&[], &["cuda:0"]), &jobs);
        assert_eq!(chosen, Some(Chosen { seq: 2, passed_over: None }));
        let chosen = choose(&worker(&[], &["cuda:0"]), &jobs[1..]);
        assert_eq!(chosen, Some(Chosen { seq: 0, passed_over: None }));
        assert_eq!(choose(&worker(&[], &["cuda:0"]), &jobs[..2]), None);
    }

    #[test]
    fn the_default_device_is_the_workers_and_all_devices_are_each() {
        let on = |names_of: &[&str]| Requirements {
            occupies: names(names_of),
            ..Requirements::default()
        };
        let two =
            |busy: &[&str]| Worker { default_device: "cuda:0".to_owned(), ..worker(&[], busy) };
        let jobs = |first: &[&str]| [(0.0, 0, on(first)), (1.0, 0, on(&["cuda:1"]))];
        let [first, second] = [0, 1].map(|seq| Some(Chosen { seq, passed_over: None }));
        assert_eq!(choose(&two(&["cuda:1"]), &jobs(&[DEFAULT_DEVICE])), first);
        assert_eq!(choose(&two(&["cuda:0"]), &jobs(&[DEFAULT_DEVICE])), second);
        // What waits for all devices waits for each.
        assert_eq!(choose(&two(&["cuda:0"]), &jobs(&[ALL_DEVICES])), None);
        assert_eq!(choose(&two(&[]), &jobs(&[ALL_DEVICES])), first);
        assert_eq!(choose(&two(&[ALL_DEVICES]), &jobs(&["cuda:1"])), None);
        // What occupies none runs beside all.
        assert_eq!(choose(&two(&[ALL_DEVICES]), &jobs(&[])), first);
        // A device that is only needed may be shared.
        let shared = Requirements { occupies: names(&["cuda:1"]), ..needs(&["cuda:0"], &[]) };
        assert_eq!(choose(&two(&["cuda:0"]), &[(0.0, 0, shared)]), first);
    }

    #[test]
    fn what_no_worker_here_can_run_holds_nobody_up() {
        let jobs = [(0.0, 0, needs(&["cuda:1"], &["unknown"])), (1.0, 0, needs(&["cuda:1"], &[]))];
        let chosen = choose(&worker(&[], &[]), &jobs);
        assert_eq!(chosen, Some(Chosen { seq: 1, passed_over: None }));
    }
}
