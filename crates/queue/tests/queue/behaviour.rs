//! What the queue promises, one promise a test.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use distorch_queue::{
    Attempt, Cancelled, Error, JobFilter, Json, LeaseStatus, NewJob, Queue, QueueOptions, Record,
    Requirements, SortBy, SortOrder, State, Status, Worker,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{LONG, Place, claim, finish_all, job, on_both, outcome, worker};

on_both!(
    jobs_count_as_comfyui_counts_them,
    what_cannot_be_queued_is_refused,
    what_was_submitted_comes_back_as_it_was,
    an_attempt_that_lost_its_job_writes_nothing,
    a_job_whose_workers_die_is_an_error_in_the_end,
    a_released_job_keeps_its_place,
    a_workers_jobs_are_released_by_its_name,
    jobs_are_cancelled_where_they_stand,
    an_interrupted_job_whose_worker_dies_ends,
    the_history_is_paged,
    a_long_history_is_read_page_by_page,
    the_history_is_bounded,
    jobs_are_listed_as_a_filter_says,
    a_worker_gets_what_it_can_run_and_rather_what_it_has_loaded,
    workers_at_once_get_each_job_once,
    a_claimed_job_is_never_out_of_the_lists,
    a_queue_is_there_when_it_is_opened_again,
    processes_that_open_an_empty_database_at_once_all_succeed,
);

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

async fn pending(queue: &Queue) -> Vec<(u128, f64)> {
    let [_, records] = queue.unfinished().await.unwrap();
    records.iter().map(|record| (record.job.id.as_u128(), record.job.number)).collect()
}

async fn running(queue: &Queue) -> Vec<Uuid> {
    let [records, _] = queue.unfinished().await.unwrap();
    records.iter().map(|record| record.job.id).collect()
}

async fn history(queue: &Queue, max_items: Option<u64>, offset: Option<u64>) -> Vec<u128> {
    let records = queue.history(max_items, offset).await.unwrap();
    records.iter().map(|record| record.job.id.as_u128()).collect()
}

async fn jobs_count_as_comfyui_counts_them(place: Place) {
    let queue = place.open().await;
    for (id, number) in [(1, 0.0), (2, 1.0), (3, 2.0)] {
        assert_eq!(queue.submit(&job(id)).await.unwrap(), number);
    }
    let front = NewJob { front: true, ..job(4) };
    assert_eq!(queue.submit(&front).await.unwrap(), -3.0);
    // A number of the job's own neither counts nor is negated.
    let own = NewJob { number: Some(1.0), front: true, ..job(5) };
    assert_eq!(queue.submit(&own).await.unwrap(), 1.0);
    assert_eq!(queue.submit(&job(6)).await.unwrap(), 4.0);
    assert_eq!(queue.remaining().await.unwrap(), 6);
    let expected = [(4, -3.0), (1, 0.0), (2, 1.0), (5, 1.0), (3, 2.0), (6, 4.0)];
    assert_eq!(pending(&queue).await, expected);
    for (at, (expected, _)) in expected.into_iter().enumerate() {
        let attempt = claim(&queue, &worker("w"), LONG).await;
        assert_eq!(attempt, Attempt { job: id(expected), number: 1 });
        assert_eq!(pending(&queue).await.len(), 5 - at);
    }
    assert!(queue.claim(&worker("w"), LONG).await.unwrap().is_none());
    assert_eq!(running(&queue).await.len(), 6);
    assert_eq!(queue.remaining().await.unwrap(), 6);
}

async fn what_cannot_be_queued_is_refused(place: Place) {
    let queue = place.open_with(QueueOptions { max_pending: 2, ..QueueOptions::default() }).await;
    let bad = NewJob { number: Some(f64::NAN), ..job(1) };
    assert!(matches!(queue.submit(&bad).await, Err(Error::Number { .. })));
    let bad = NewJob { client_id: Some("a\0b".into()), ..job(1) };
    assert!(matches!(queue.submit(&bad).await, Err(Error::Nul { field: "client_id", .. })));
    queue.submit(&job(1)).await.unwrap();
    assert!(matches!(queue.submit(&job(1)).await, Err(Error::Duplicate { .. })));
    queue.submit(&job(2)).await.unwrap();
    let full = queue.submit(&job(3)).await.unwrap_err();
    assert!(matches!(full, Error::Full { pending: 2, limit: 2 }), "{full}");
    // A running job takes no place, and its id stays taken, when it has ended too.
    let attempt = claim(&queue, &worker("w"), LONG).await;
    assert!(matches!(queue.submit(&job(1)).await, Err(Error::Duplicate { .. })));
    queue.submit(&job(3)).await.unwrap();
    assert!(queue.finish(attempt, &outcome(Status::Success)).await.unwrap());
    assert!(matches!(queue.submit(&job(1)).await, Err(Error::Duplicate { .. })));
}

async fn what_was_submitted_comes_back_as_it_was(place: Place) {
    let queue = place.open().await;
    let prompt = r#"{"10":{"z":1.0,"a":"\u0000 ü 🦀"},"9":[1e300,18446744073709551615]}"#;
    let prompt: Json = serde_json::from_str(prompt).unwrap();
    let submitted = NewJob {
        client_id: Some("client".into()),
        workflow_id: Some("flow".into()),
        prompt: prompt.clone(),
        extra_data: json!({ "extra_pnginfo": { "workflow": {} } }).into(),
        outputs: vec!["9".into(), "10".into()],
        ..job(1)
    };
    queue.submit(&submitted).await.unwrap();
    let claimed = queue.claim(&worker("w"), LONG).await.unwrap().unwrap();
    let read = queue.get(id(1)).await.unwrap().unwrap();
    for record in [&claimed.record, &read] {
        assert_eq!(record.payload.prompt.as_str(), prompt.as_str());
        assert_eq!(record.payload.extra_data, submitted.extra_data);
        assert_eq!(record.payload.outputs, submitted.outputs);
        assert_eq!(record.job.client_id, submitted.client_id);
        assert_eq!(record.job.workflow_id, submitted.workflow_id);
        assert_eq!(record.job.state, State::Running);
        assert_eq!(record.job.worker.as_deref(), Some("w"));
        assert!(record.job.started.unwrap() >= record.job.created);
        assert!(record.result.is_none());
    }
    let outcome = outcome(Status::Error);
    assert!(queue.finish(claimed.attempt, &outcome).await.unwrap());
    let record = queue.get(id(1)).await.unwrap().unwrap();
    let result = record.result.unwrap();
    assert_eq!(record.job.state, State::Error);
    assert!(record.job.ended.unwrap() >= record.job.started.unwrap());
    assert_eq!(record.job.error, None);
    assert_eq!(record.job.summary, outcome.summary);
    assert_eq!(result.outputs, outcome.outputs);
    assert_eq!(result.meta, outcome.meta);
    assert_eq!(result.messages, outcome.messages);
    // The database's clock is set: a minute is room for what differs between machines.
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    assert!(now.abs_diff(record.job.created.unsigned_abs().into()) < 60_000);
    assert!(queue.get(id(2)).await.unwrap().is_none());
    assert!(queue.job(id(2)).await.unwrap().is_none());
}

async fn an_attempt_that_lost_its_job_writes_nothing(place: Place) {
    let queue = place.open().await;
    queue.submit(&job(1)).await.unwrap();
    let body = Json::from(json!({ "value": 1 }));
    // This lease is over at once; the second claim finds that.
    let first = claim(&queue, &worker("a"), Duration::ZERO).await;
    assert_eq!(queue.heartbeat(first).await.unwrap(), LeaseStatus::Held);
    let second = claim(&queue, &worker("b"), LONG).await;
    assert_eq!(second, Attempt { job: id(1), number: 2 });
    assert_eq!(queue.heartbeat(first).await.unwrap(), LeaseStatus::Lost);
    assert!(!queue.progress(first, &body).await.unwrap());
    assert!(!queue.event(first, &body).await.unwrap());
    assert!(!queue.release(first).await.unwrap());
    assert!(!queue.finish(first, &outcome(Status::Error)).await.unwrap());
    let record = queue.get(id(1)).await.unwrap().unwrap();
    assert_eq!((record.job.state, record.job.attempt), (State::Running, 2));
    assert_eq!(record.job.progress, None);
    assert!(queue.events(id(1), 0).await.unwrap().is_empty());
    assert!(queue.progress(second, &body).await.unwrap());
    assert!(queue.event(second, &body).await.unwrap());
    assert_eq!(queue.job(id(1)).await.unwrap().unwrap().progress, Some(body.clone()));
    assert_eq!(queue.heartbeat(second).await.unwrap(), LeaseStatus::Held);
    assert!(queue.finish(second, &outcome(Status::Success)).await.unwrap());
    // What has ended is nobody's.
    assert!(!queue.finish(second, &outcome(Status::Error)).await.unwrap());
    assert!(!queue.progress(second, &body).await.unwrap());
    assert_eq!(queue.heartbeat(second).await.unwrap(), LeaseStatus::Lost);
    let record = queue.get(id(1)).await.unwrap().unwrap();
    assert_eq!((record.job.state, record.job.progress), (State::Success, None));
    // Who finished it may still say how.
    assert!(!queue.event(first, &body).await.unwrap());
    let last = Json::from(json!({ "value": "success" }));
    assert!(queue.event(second, &last).await.unwrap());
    let events = queue.events(id(1), 0).await.unwrap();
    assert_eq!(events.iter().map(|event| &event.body).collect::<Vec<_>>(), [&body, &last]);
    assert_eq!(queue.events(id(1), events[0].seq).await.unwrap().len(), 1);
    assert!(queue.events(id(1), events[1].seq).await.unwrap().is_empty());
}

async fn a_job_whose_workers_die_is_an_error_in_the_end(place: Place) {
    let queue = place.open_with(QueueOptions { max_lost: 3, ..QueueOptions::default() }).await;
    queue.submit(&job(1)).await.unwrap();
    for number in 1..=3 {
        let attempt = claim(&queue, &worker("w"), Duration::ZERO).await;
        assert_eq!(attempt.number, number);
    }
    assert_eq!(queue.expire().await.unwrap(), 1);
    assert_eq!(queue.expire().await.unwrap(), 0);
    assert_eq!(history(&queue, None, None).await, [1]);
    let last = Attempt { job: id(1), number: 3 };
    assert!(!queue.event(last, &Json::default()).await.unwrap());
    let record = queue.get(id(1)).await.unwrap().unwrap();
    assert_eq!(record.job.state, State::Error);
    assert!(record.job.error.unwrap().contains("too often"));
    assert_eq!(record.result.unwrap().outputs.as_str(), "{}");
    assert!(record.job.ended.is_some());
}

async fn a_released_job_keeps_its_place(place: Place) {
    let queue = place.open_with(QueueOptions { max_lost: 1, ..QueueOptions::default() }).await;
    for id in 1..=3 {
        queue.submit(&job(id)).await.unwrap();
    }
    for number in 1..=5 {
        let attempt = claim(&queue, &worker("w"), LONG).await;
        assert_eq!(attempt, Attempt { job: id(1), number });
        assert!(queue.release(attempt).await.unwrap());
        assert!(!queue.release(attempt).await.unwrap());
        assert_eq!(pending(&queue).await, [(1, 0.0), (2, 1.0), (3, 2.0)]);
    }
}

async fn a_workers_jobs_are_released_by_its_name(place: Place) {
    let queue = place.open().await;
    for id in 1..=3 {
        queue.submit(&job(id)).await.unwrap();
    }
    let first = claim(&queue, &worker("a"), LONG).await;
    let other = claim(&queue, &worker("b"), LONG).await;
    claim(&queue, &worker("a"), LONG).await;
    assert_eq!(queue.release_worker("a").await.unwrap(), 2);
    assert_eq!(queue.release_worker("a").await.unwrap(), 0);
    assert_eq!(queue.heartbeat(first).await.unwrap(), LeaseStatus::Lost);
    assert_eq!(queue.heartbeat(other).await.unwrap(), LeaseStatus::Held);
    assert_eq!(pending(&queue).await, [(1, 0.0), (3, 2.0)]);
}

async fn jobs_are_cancelled_where_they_stand(place: Place) {
    let queue = place.open().await;
    for id in 1..=5 {
        queue.submit(&job(id)).await.unwrap();
    }
    let first = claim(&queue, &worker("w"), LONG).await;
    let second = claim(&queue, &worker("w"), LONG).await;
    assert_eq!(queue.cancel(id(4)).await.unwrap(), Cancelled::Removed);
    assert_eq!(queue.cancel(id(4)).await.unwrap(), Cancelled::NotActive);
    assert_eq!(queue.cancel(id(1)).await.unwrap(), Cancelled::Requested);
    assert_eq!(queue.heartbeat(first).await.unwrap(), LeaseStatus::CancelRequested);
    assert_eq!(queue.heartbeat(second).await.unwrap(), LeaseStatus::Held);
    assert!(queue.job(id(1)).await.unwrap().unwrap().is_cancel_requested);
    let mut asked = queue.interrupt_all().await.unwrap();
    asked.sort();
    assert_eq!(asked, [id(1), id(2)]);
    assert_eq!(queue.heartbeat(second).await.unwrap(), LeaseStatus::CancelRequested);
    assert!(queue.finish(first, &outcome(Status::Interrupted)).await.unwrap());
    assert_eq!(queue.cancel(id(1)).await.unwrap(), Cancelled::NotActive);
    let job = queue.job(id(1)).await.unwrap().unwrap();
    assert_eq!((job.state, job.is_cancel_requested), (State::Interrupted, false));
    // Only what is pending is deleted.
    assert_eq!(queue.delete_pending(&[id(1), id(2), id(3), id(9)]).await.unwrap(), 1);
    assert_eq!(pending(&queue).await, [(5, 4.0)]);
    assert_eq!(queue.clear_pending().await.unwrap(), 1);
    assert_eq!(queue.remaining().await.unwrap(), 1);
    assert_eq!(running(&queue).await, [id(2)]);
}

async fn an_interrupted_job_whose_worker_dies_ends(place: Place) {
    let queue = place.open().await;
    for id in 1..=2 {
        queue.submit(&job(id)).await.unwrap();
    }
    claim(&queue, &worker("w"), Duration::ZERO).await;
    queue.cancel(id(1)).await.unwrap();
    assert_eq!(queue.expire().await.unwrap(), 1);
    let attempt = claim(&queue, &worker("w"), LONG).await;
    queue.cancel(id(2)).await.unwrap();
    assert!(queue.release(attempt).await.unwrap());
    assert_eq!(queue.remaining().await.unwrap(), 0);
    assert_eq!(history(&queue, None, None).await, [1, 2]);
    for number in 1..=2 {
        let record = queue.get(id(number)).await.unwrap().unwrap();
        assert_eq!(record.job.state, State::Interrupted);
        assert!(record.job.error.is_some() && record.result.is_some());
    }
}

async fn the_history_is_paged(place: Place) {
    let queue = place.open().await;
    // They end in another order than they came.
    let order = [5, 2, 7, 1, 6, 3, 4];
    for id in order {
        queue.submit(&NewJob { number: Some(0.0), ..job(id) }).await.unwrap();
    }
    finish_all(&queue).await;
    queue.submit(&job(8)).await.unwrap();
    assert_eq!(history(&queue, None, None).await, order);
    for items in 0..9 {
        let items_wanted = usize::try_from(items).unwrap();
        let latest: Vec<_> = order[order.len().saturating_sub(items_wanted)..].to_vec();
        assert_eq!(history(&queue, Some(items), None).await, latest);
        for offset in 0..9 {
            let skipped = order.iter().skip(usize::try_from(offset).unwrap());
            let expected: Vec<_> = skipped.take(items_wanted).copied().collect();
            assert_eq!(history(&queue, Some(items), Some(offset)).await, expected);
        }
    }
    assert_eq!(queue.delete_history(&[id(2), id(8), id(9)]).await.unwrap(), 1);
    assert_eq!(history(&queue, None, Some(0)).await, [5, 7, 1, 6, 3, 4]);
    assert_eq!(queue.clear_history().await.unwrap(), 6);
    assert!(history(&queue, None, None).await.is_empty());
    assert_eq!(queue.remaining().await.unwrap(), 1);
}

async fn a_long_history_is_read_page_by_page(place: Place) {
    let queue = place.open().await;
    for number in 1..=70 {
        queue.submit(&job(number)).await.unwrap();
    }
    finish_all(&queue).await;
    let numbers = |page: Vec<Record>| -> Vec<u128> {
        page.iter().map(|record| record.job.id.as_u128()).collect()
    };
    let mut pages = queue.history_pages(None, None).await.unwrap();
    let first = numbers(pages.next().await.unwrap());
    assert!(first.len() < 70 && first.iter().copied().eq(1..=first.len() as u128), "{first:?}");
    // What ends meanwhile is not of this history; what is deleted is not any more.
    queue.submit(&job(71)).await.unwrap();
    finish_all(&queue).await;
    assert_eq!(queue.delete_history(&[id(1), id(70)]).await.unwrap(), 2);
    let mut rest = Vec::new();
    loop {
        let page = numbers(pages.next().await.unwrap());
        if page.is_empty() {
            break;
        }
        rest.extend(page);
    }
    assert!(rest.iter().copied().eq(first.len() as u128 + 1..=69), "{rest:?}");
    assert!(history(&queue, None, None).await.into_iter().eq((2..=69).chain([71])));
    assert!(history(&queue, Some(69), None).await.into_iter().eq((2..=69).chain([71])));
    assert!(history(&queue, Some(65), Some(2)).await.into_iter().eq(4..=68));
}

async fn the_history_is_bounded(place: Place) {
    let options =
        QueueOptions { max_history: 3, keep_events: Duration::ZERO, ..Default::default() };
    let queue = place.open_with(options).await;
    for number in 1..=5 {
        queue.submit(&job(number)).await.unwrap();
        let attempt = claim(&queue, &worker("w"), LONG).await;
        assert!(queue.event(attempt, &Json::default()).await.unwrap());
        assert!(queue.finish(attempt, &outcome(Status::Success)).await.unwrap());
    }
    assert_eq!(history(&queue, None, None).await, [3, 4, 5]);
    assert_eq!(queue.jobs(&JobFilter::default()).await.unwrap().total, 3);
}

async fn jobs_are_listed_as_a_filter_says(place: Place) {
    let queue = place.open().await;
    let statuses = [Status::Success, Status::Error, Status::Interrupted, Status::Success];
    for number in 1..=6_u128 {
        let workflow_id = (number % 2 == 0).then(|| "even".to_owned());
        queue.submit(&NewJob { workflow_id, ..job(number) }).await.unwrap();
    }
    for status in statuses {
        let attempt = claim(&queue, &worker("w"), LONG).await;
        assert!(queue.finish(attempt, &outcome(status)).await.unwrap());
    }
    claim(&queue, &worker("w"), LONG).await;
    let all = queue.jobs(&JobFilter::default()).await.unwrap().jobs;
    assert_eq!(all.len(), 6);
    let states = [
        vec![],
        vec![State::Pending],
        vec![State::Running, State::Success],
        vec![State::Error, State::Interrupted],
    ];
    for states in states {
        for workflow_id in [None, Some("even".to_owned()), Some("odd' OR '1'='1".to_owned())] {
            for sort_by in [SortBy::Created, SortBy::Duration] {
                for order in [SortOrder::Ascending, SortOrder::Descending] {
                    for (limit, offset) in [(None, 0), (Some(2), 0), (Some(2), 1), (None, 5)] {
                        let states = states.clone();
                        let workflow_id = workflow_id.clone();
                        let filter =
                            JobFilter { states, workflow_id, sort_by, order, limit, offset };
                        let page = queue.jobs(&filter).await.unwrap();
                        let (expected, total) = brute_force(&all, &filter);
                        let found: Vec<_> = page.jobs.iter().map(|job| job.id).collect();
                        assert_eq!((found, page.total), (expected, total), "{filter:?}");
                    }
                }
            }
        }
    }
}

fn brute_force(all: &[distorch_queue::Job], filter: &JobFilter) -> (Vec<Uuid>, u64) {
    let mut jobs: Vec<_> = all
        .iter()
        .filter(|job| filter.states.is_empty() || filter.states.contains(&job.state))
        .filter(|job| filter.workflow_id.is_none() || filter.workflow_id == job.workflow_id)
        .collect();
    // The ids were submitted in rising order.
    jobs.sort_by_key(|job| {
        let key = match filter.sort_by {
            SortBy::Created => job.created,
            SortBy::Duration => job.ended.map_or(0, |ended| ended - job.started.unwrap()),
        };
        (key, job.id)
    });
    if filter.order == SortOrder::Descending {
        jobs.reverse();
    }
    let total = jobs.len().try_into().unwrap();
    let limit = filter.limit.map_or(usize::MAX, |limit| limit.try_into().unwrap());
    let page = jobs.iter().skip(filter.offset.try_into().unwrap()).take(limit);
    (page.map(|job| job.id).collect(), total)
}

async fn a_worker_gets_what_it_can_run_and_rather_what_it_has_loaded(place: Place) {
    let queue = place.open_with(QueueOptions { max_passed: 2, ..QueueOptions::default() }).await;
    let needs = |device: &str, model: &str| Requirements {
        devices: [(device.to_owned(), 8)].into(),
        models: [model.to_owned()].into(),
        node_classes: ["KSampler".to_owned()].into(),
        occupies: [device.to_owned()].into(),
    };
    let submit = async |number, requires| {
        queue.submit(&NewJob { requires, ..job(number) }).await.unwrap();
    };
    submit(1, needs("cuda:0", "absent")).await;
    submit(2, needs("cuda:1", "a")).await;
    for number in 3..=6 {
        submit(number, needs("cuda:0", if number == 3 { "a" } else { "b" })).await;
    }
    let small = Worker {
        name: "small".into(),
        devices: BTreeMap::from([("cuda:0".to_owned(), 8)]),
        models: BTreeSet::from(["a".to_owned(), "b".to_owned()]),
        node_classes: BTreeSet::from(["KSampler".to_owned()]),
        ..Worker::default()
    };
    let loaded = BTreeSet::from(["b".to_owned()]);
    let b_is_loaded = Worker { loaded, ..small.clone() };
    // Passed over twice, then it is taken; 1 and 2 are for other workers.
    for expected in [4, 5, 3, 6] {
        let attempt = claim(&queue, &b_is_loaded, LONG).await;
        assert_eq!(attempt.job, id(expected));
    }
    assert!(queue.claim(&b_is_loaded, LONG).await.unwrap().is_none());
    assert!(queue.claim(&worker("bare"), LONG).await.unwrap().is_none());
    let devices = BTreeMap::from([("cuda:1".to_owned(), 80)]);
    let large = Worker { devices, ..small.clone() };
    let busy = Worker { busy: BTreeSet::from(["cuda:1".to_owned()]), ..large.clone() };
    assert!(queue.claim(&busy, LONG).await.unwrap().is_none());
    let claimed = queue.claim(&large, LONG).await.unwrap().unwrap();
    assert_eq!((claimed.attempt.job, claimed.requires), (id(2), needs("cuda:1", "a")));
    // Further than a page of pending jobs that it cannot run.
    for number in 10..310 {
        submit(number, needs("cuda:7", "a")).await;
    }
    submit(400, needs("cuda:0", "a")).await;
    assert_eq!(claim(&queue, &small, LONG).await.job, id(400));
}

async fn workers_at_once_get_each_job_once(place: Place) {
    let queue = place.open().await;
    for number in 0..60 {
        queue.submit(&job(number)).await.unwrap();
    }
    let mut tasks = Vec::new();
    for name in 0..6 {
        let queue = queue.clone();
        tasks.push(tokio::spawn(async move {
            let mut done = Vec::new();
            while let Some(claimed) = queue.claim(&worker(&name.to_string()), LONG).await.unwrap() {
                assert_eq!(claimed.attempt.number, 1);
                assert!(queue.finish(claimed.attempt, &outcome(Status::Success)).await.unwrap());
                done.push(claimed.attempt.job);
            }
            done
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    assert_eq!(all.len(), 60);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 60);
    assert_eq!(queue.remaining().await.unwrap(), 0);
}

/// However often they are asked for meanwhile.
async fn a_claimed_job_is_never_out_of_the_lists(place: Place) {
    const JOBS: u128 = 40;
    let queue = place.open().await;
    for number in 0..JOBS {
        queue.submit(&job(number)).await.unwrap();
    }
    let claims = queue.clone();
    let claims =
        tokio::spawn(
            async move { while claims.claim(&worker("w"), LONG).await.unwrap().is_some() {} },
        );
    let mut running = 0;
    while running < JOBS as usize {
        let [now, pending] = queue.unfinished().await.unwrap();
        let ids: HashSet<_> = now.iter().chain(&pending).map(|record| record.job.id).collect();
        assert_eq!((ids.len(), now.len() + pending.len()), (JOBS as usize, JOBS as usize));
        assert!(pending.is_sorted_by_key(|record| record.job.number));
        assert!(now.is_sorted_by_key(|record| record.job.started) && now.len() >= running);
        running = now.len();
    }
    claims.await.unwrap();
}

async fn a_queue_is_there_when_it_is_opened_again(place: Place) {
    let queue = place.open().await;
    for number in 1..=3 {
        queue.submit(&job(number)).await.unwrap();
    }
    let first = claim(&queue, &worker("w"), LONG).await;
    assert!(queue.finish(first, &outcome(Status::Success)).await.unwrap());
    let second = claim(&queue, &worker("w"), LONG).await;
    queue.close().await;
    let closed = queue.remaining().await.unwrap_err();
    assert!(matches!(closed, Error::Database { .. }), "{closed}");

    let queue = place.open().await;
    assert_eq!(history(&queue, None, None).await, [1]);
    assert_eq!(queue.heartbeat(second).await.unwrap(), LeaseStatus::Held);
    assert_eq!(pending(&queue).await, [(3, 2.0)]);
    assert_eq!(queue.submit(&job(4)).await.unwrap(), 3.0);
}

async fn processes_that_open_an_empty_database_at_once_all_succeed(place: Place) {
    let mut opened = Vec::new();
    for number in 0..6 {
        let address = place.address.clone();
        opened.push(tokio::spawn(async move {
            let options = QueueOptions { connections: 1, ..QueueOptions::default() };
            let queue = Queue::open(&address, options).await.unwrap();
            queue.submit(&job(number)).await.unwrap()
        }));
    }
    let mut numbers = Vec::new();
    for task in opened {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_by(f64::total_cmp);
    assert_eq!(numbers, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[tokio::test]
async fn messages_name_the_database_without_its_password() {
    let options = QueueOptions { timeout: Duration::from_millis(200), ..Default::default() };
    for address in [
        "postgres://user:hunter2@127.0.0.1:1/queue",
        "postgres://user:hunter2@127.0.0.1:port/queue",
        "mysql://user:hunter2@127.0.0.1/queue",
        "user:hunter2@127.0.0.1",
        "sqlite:/nowhere/at/all.sqlite",
    ] {
        let message = Queue::open(address, options.clone()).await.unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
        assert!(!message.contains("nowhere") || message.contains("folder"), "{message}");
    }
    if let Some(place) = Place::postgres().await {
        let queue = place.open().await;
        assert!(queue.address().starts_with("postgres://distorch@127.0.0.1:"));
        queue.close().await;
        let message = queue.remaining().await.unwrap_err().to_string();
        assert!(message.contains(queue.address()) && !message.contains("hunter2"), "{message}");
    }
}

#[test]
fn json_keeps_its_text_inside_other_json() {
    let text = r#"{"b":1.50,"a":[null,"\u00fc"]}"#;
    let json: Json = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&[&json, &json]).unwrap(), format!("[{text},{text}]"));
    assert_eq!(json.parse::<Value>().unwrap()["b"], 1.5);
    assert_eq!(Json::of(&[1, 2]).unwrap().as_str(), "[1,2]");
    assert_eq!(Json::default().parse::<Value>().unwrap(), Value::Null);
}
