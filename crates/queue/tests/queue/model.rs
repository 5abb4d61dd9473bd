//! Random operations on SQLite against a model that is a plain list.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use distorch_queue::{
    Attempt, Cancelled, Error, LeaseStatus, NewJob, Queue, QueueOptions, Requirements, State,
    Status, Worker,
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::support::{LONG, outcome};

const MAX_PENDING: usize = 6;
const MAX_LOST: u32 = 2;
const MAX_PASSED: u32 = 2;
const MAX_HISTORY: usize = 5;
const MODELS: [&str; 2] = ["a", "b"];

#[derive(Debug, Clone)]
enum Operation {
    Submit { id: u8, number: Option<i8>, front: bool, model: Option<usize>, device: Option<usize> },
    Claim { worker: usize, loaded: Option<usize>, busy: bool, lasts: bool },
    Heartbeat { attempt: prop::sample::Index },
    Finish { attempt: prop::sample::Index, status: usize },
    Release { attempt: prop::sample::Index },
    ReleaseWorker { worker: usize },
    Expire,
    Cancel { id: u8 },
    InterruptAll,
    DeletePending { ids: Vec<u8> },
    ClearPending,
    DeleteHistory { ids: Vec<u8> },
    ClearHistory,
}

const STATUSES: [(Status, State); 3] = [
    (Status::Success, State::Success),
    (Status::Error, State::Error),
    (Status::Interrupted, State::Interrupted),
];

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let ids = || prop::collection::vec(0..12_u8, 1..4);
    let choice = || prop::option::of(0..MODELS.len());
    let attempt = any::<prop::sample::Index>;
    prop_oneof![
        8 => (0..40_u8, prop::option::weighted(0.2, -3..9_i8), prop::bool::weighted(0.2), choice(),
            choice()).prop_map(|(id, number, front, model, device)|
            Submit { id, number, front, model, device }),
        8 => (0..2_usize, choice(), any::<bool>(), prop::bool::weighted(0.7))
            .prop_map(|(worker, loaded, busy, lasts)| Claim { worker, loaded, busy, lasts }),
        3 => attempt().prop_map(|attempt| Heartbeat { attempt }),
        6 => (attempt(), 0..3_usize).prop_map(|(attempt, status)| Finish { attempt, status }),
        2 => attempt().prop_map(|attempt| Release { attempt }),
        1 => (0..2_usize).prop_map(|worker| ReleaseWorker { worker }),
        1 => Just(Expire),
        2 => (0..40_u8).prop_map(|id| Cancel { id }),
        1 => Just(InterruptAll),
        1 => ids().prop_map(|ids| DeletePending { ids }),
        1 => Just(ClearPending),
        1 => ids().prop_map(|ids| DeleteHistory { ids }),
        1 => Just(ClearHistory),
    ]
}

/// What a job is in the model. Jobs are in the order of submission.
#[derive(Debug, Clone)]
struct Job {
    id: u8,
    number: f64,
    model: Option<usize>,
    device: Option<usize>,
    state: State,
    attempt: i64,
    worker: usize,
    /// Whether its lease is over.
    lapsed: bool,
    lost: u32,
    passed: u32,
    cancel: bool,
}

#[derive(Debug, Default)]
struct Model {
    jobs: Vec<Job>,
    /// In the order of ending.
    history: Vec<u8>,
    count: u32,
}

impl Model {
    fn pending(&self) -> Vec<usize> {
        let mut pending: Vec<_> =
            (0..self.jobs.len()).filter(|&at| self.jobs[at].state == State::Pending).collect();
        // Stable: equal numbers stay in the order of submission.
        pending.sort_by(|&a, &b| self.jobs[a].number.total_cmp(&self.jobs[b].number));
        pending
    }

    fn submit(&mut self, operation: &Operation) -> Option<f64> {
        let &Operation::Submit { id, number, front, model, device } = operation else {
            unreachable!()
        };
        if self.jobs.iter().any(|job| job.id == id) || self.pending().len() >= MAX_PENDING {
            return None;
        }
        let number = number.map_or_else(
            || {
                let number = f64::from(self.count);
                self.count += 1;
                if front { 0.0 - number } else { number }
            },
            f64::from,
        );
        self.jobs.push(Job {
            id,
            number,
            model,
            device,
            state: State::Pending,
            attempt: 0,
            worker: 0,
            lapsed: false,
            lost: 0,
            passed: 0,
            cancel: false,
        });
        Some(number)
    }

    /// The rules of a choice, one after the other.
    fn claim(&mut self, operation: &Operation) -> Option<(u8, i64)> {
        let &Operation::Claim { worker, loaded, busy, lasts } = operation else { unreachable!() };
        self.put_back(true, |job| job.lapsed);
        // Device 0 may be busy; a job that waits for it lets none behind it have it.
        let mut able = self.pending();
        able.retain(|&at| !(busy && self.jobs[at].device == Some(0)));
        let &first = able.first()?;
        let job = &self.jobs[first];
        let has_loaded = |job: &Job| job.model.is_none() || job.model == loaded;
        let mut chosen = first;
        if loaded.is_some()
            && !has_loaded(job)
            && job.number >= 0.0
            && job.passed < MAX_PASSED
            && let Some(&better) = able
                .iter()
                .find(|&&at| self.jobs[at].model.is_some() && self.jobs[at].model == loaded)
        {
            chosen = better;
            self.jobs[first].passed += 1;
        }
        let job = &mut self.jobs[chosen];
        job.state = State::Running;
        job.attempt += 1;
        job.worker = worker;
        job.lapsed = !lasts;
        Some((job.id, job.attempt))
    }

    fn end(&mut self, at: usize, state: State) {
        let job = &mut self.jobs[at];
        (job.state, job.cancel) = (state, false);
        let id = job.id;
        self.history.push(id);
    }

    fn trim(&mut self) {
        while self.history.len() > MAX_HISTORY {
            let oldest = self.history.remove(0);
            self.jobs.retain(|job| job.id != oldest);
        }
    }

    fn put_back(&mut self, lost: bool, which: impl Fn(&Job) -> bool) -> u64 {
        let mut count = 0;
        for at in 0..self.jobs.len() {
            let job = &mut self.jobs[at];
            if job.state != State::Running || !which(job) {
                continue;
            }
            count += 1;
            job.lost += u32::from(lost);
            if job.cancel {
                self.end(at, State::Interrupted);
            } else if lost && job.lost >= MAX_LOST {
                self.end(at, State::Error);
            } else {
                job.state = State::Pending;
            }
        }
        count
    }

    fn holder(&self, (id, attempt): (u8, i64)) -> Option<usize> {
        self.jobs
            .iter()
            .position(|job| job.id == id && job.attempt == attempt && job.state == State::Running)
    }

    fn remove(&mut self, which: impl Fn(&Job) -> bool) -> u64 {
        let before = self.jobs.len();
        self.jobs.retain(|job| !which(job));
        let jobs = &self.jobs;
        self.history.retain(|id| jobs.iter().any(|job| job.id == *id));
        (before - self.jobs.len()).try_into().unwrap()
    }
}

fn uuid(id: u8) -> Uuid {
    Uuid::from_u128(id.into())
}

fn uuids(ids: &[u8]) -> Vec<Uuid> {
    ids.iter().copied().map(uuid).collect()
}

fn name(worker: usize) -> String {
    format!("worker-{worker}")
}

/// Runs an operation on both; what they return must be the same.
async fn step(
    queue: &Queue,
    model: &mut Model,
    claims: &mut Vec<(u8, i64)>,
    operation: &Operation,
) {
    use Operation::*;
    let attempt_of = |index: &prop::sample::Index, claims: &[(u8, i64)]| {
        (!claims.is_empty()).then(|| {
            let (id, number) = *index.get(claims);
            ((id, number), Attempt { job: uuid(id), number })
        })
    };
    match operation {
        Submit { id, number, front, model: needed, device } => {
            let requires = Requirements {
                devices: device.iter().map(|device| (device.to_string(), 1)).collect(),
                models: needed.iter().map(|&at| MODELS[at].to_owned()).collect(),
                node_classes: BTreeSet::new(),
                occupies: device.iter().map(ToString::to_string).collect(),
            };
            let (number, front) = (number.map(f64::from), *front);
            let job = NewJob { id: uuid(*id), number, front, requires, ..NewJob::default() };
            let submitted = match queue.submit(&job).await {
                Ok(number) => Some(number),
                Err(Error::Full { .. } | Error::Duplicate { .. }) => None,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(submitted, model.submit(operation));
        }
        Claim { worker, loaded, busy, lasts } => {
            let worker = Worker {
                name: name(*worker),
                devices: BTreeMap::from([("0".to_owned(), 1), ("1".to_owned(), 1)]),
                default_device: "0".to_owned(),
                busy: busy.then(|| "0".to_owned()).into_iter().collect(),
                models: MODELS.iter().map(|&model| model.to_owned()).collect(),
                node_classes: BTreeSet::new(),
                loaded: loaded.iter().map(|&at| MODELS[at].to_owned()).collect(),
            };
            let lease = if *lasts { LONG } else { Duration::ZERO };
            let claimed = queue.claim(&worker, lease).await.unwrap();
            let claimed = claimed.map(|claimed| {
                let id = u8::try_from(claimed.attempt.job.as_u128()).unwrap();
                (id, claimed.attempt.number)
            });
            assert_eq!(claimed, model.claim(operation));
            claims.extend(claimed);
        }
        Heartbeat { attempt } => {
            let Some((key, attempt)) = attempt_of(attempt, claims) else { return };
            let expected = match model.holder(key).map(|at| model.jobs[at].cancel) {
                None => LeaseStatus::Lost,
                Some(true) => LeaseStatus::CancelRequested,
                Some(false) => LeaseStatus::Held,
            };
            assert_eq!(queue.heartbeat(attempt).await.unwrap(), expected);
        }
        Finish { attempt, status } => {
            let Some((key, attempt)) = attempt_of(attempt, claims) else { return };
            let (status, state) = STATUSES[*status];
            let holder = model.holder(key);
            let counted = queue.finish(attempt, &outcome(status)).await.unwrap();
            assert_eq!(counted, holder.is_some());
            if let Some(at) = holder {
                model.end(at, state);
                model.trim();
            }
        }
        Release { attempt } => {
            let Some((key, attempt)) = attempt_of(attempt, claims) else { return };
            let holder = model.holder(key);
            assert_eq!(queue.release(attempt).await.unwrap(), holder.is_some());
            model.put_back(false, |job| (job.id, job.attempt) == key);
        }
        ReleaseWorker { worker } => {
            let released = queue.release_worker(&name(*worker)).await.unwrap();
            assert_eq!(released, model.put_back(true, |job| job.worker == *worker));
        }
        Expire => {
            assert_eq!(queue.expire().await.unwrap(), model.put_back(true, |job| job.lapsed));
        }
        Cancel { id } => {
            let job = model.jobs.iter_mut().find(|job| job.id == *id);
            let expected = match job.as_ref().map(|job| job.state) {
                Some(State::Pending) => Cancelled::Removed,
                Some(State::Running) => Cancelled::Requested,
                _ => Cancelled::NotActive,
            };
            if let Some(job) = job {
                job.cancel = job.state == State::Running;
            }
            if expected == Cancelled::Removed {
                model.remove(|job| job.id == *id);
            }
            assert_eq!(queue.cancel(uuid(*id)).await.unwrap(), expected);
        }
        InterruptAll => {
            let running = model.jobs.iter_mut().filter(|job| job.state == State::Running);
            let mut expected = Vec::new();
            for job in running {
                job.cancel = true;
                expected.push(uuid(job.id));
            }
            let mut asked = queue.interrupt_all().await.unwrap();
            asked.sort();
            expected.sort();
            assert_eq!(asked, expected);
        }
        DeletePending { ids } => {
            let deleted = queue.delete_pending(&uuids(ids)).await.unwrap();
            let of_these = |job: &Job| job.state == State::Pending && ids.contains(&job.id);
            assert_eq!(deleted, model.remove(of_these));
        }
        ClearPending => {
            let deleted = queue.clear_pending().await.unwrap();
            assert_eq!(deleted, model.remove(|job| job.state == State::Pending));
        }
        DeleteHistory { ids } => {
            let deleted = queue.delete_history(&uuids(ids)).await.unwrap();
            assert_eq!(deleted, model.remove(|job| job.state.is_ended() && ids.contains(&job.id)));
        }
        ClearHistory => {
            let deleted = queue.clear_history().await.unwrap();
            assert_eq!(deleted, model.remove(|job| job.state.is_ended()));
        }
    }
}

/// The whole of the queue is that of the model.
async fn compare(queue: &Queue, model: &Model) {
    let pending: Vec<_> = model.pending().iter().map(|&at| uuid(model.jobs[at].id)).collect();
    let [_, records] = queue.unfinished().await.unwrap();
    assert_eq!(records.iter().map(|record| record.job.id).collect::<Vec<_>>(), pending);
    let records = queue.history(None, None).await.unwrap();
    let history: Vec<_> = records.iter().map(|record| record.job.id).collect();
    assert_eq!(history, uuids(&model.history));
    assert!(records.iter().all(|record| record.result.is_some()));
    let mut jobs = queue.jobs(&distorch_queue::JobFilter::default()).await.unwrap().jobs;
    jobs.sort_by_key(|job| job.id);
    let mut expected: Vec<_> = model
        .jobs
        .iter()
        .map(|job| (uuid(job.id), job.number, job.state, job.attempt, job.cancel))
        .collect();
    expected.sort_by_key(|job| job.0);
    let jobs: Vec<_> = jobs
        .iter()
        .map(|job| (job.id, job.number, job.state, job.attempt, job.is_cancel_requested))
        .collect();
    assert_eq!(jobs, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_operations_do_what_a_plain_list_does(
        operations in prop::collection::vec(operation(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let options = QueueOptions {
                max_pending: MAX_PENDING.try_into().unwrap(),
                max_history: MAX_HISTORY.try_into().unwrap(),
                max_lost: MAX_LOST,
                max_passed: MAX_PASSED,
                ..QueueOptions::default()
            };
            let queue = Queue::open("sqlite::memory:", options).await.unwrap();
            let (mut model, mut claims) = (Model::default(), Vec::new());
            for operation in &operations {
                step(&queue, &mut model, &mut claims, operation).await;
                compare(&queue, &model).await;
            }
        });
    }
}
