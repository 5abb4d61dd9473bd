//! What subscribers hear.

use std::time::Duration;

use distorch_queue::{Json, LeaseStatus, Notice, NoticeKind, Notices, Status};
use serde_json::json;
use sqlx::{Connection, SqliteConnection};
use uuid::Uuid;

use crate::support::{LONG, Place, claim, job, on_both, outcome, worker};

on_both!(
    subscribers_hear_the_life_of_a_job,
    what_is_large_is_read_and_not_sent,
    a_hold_hears_of_a_cancellation,
    a_hold_hears_that_its_job_is_lost,
    a_worker_that_waits_hears_of_a_job,
);

async fn next(notices: &mut Notices) -> Notice {
    // Long for a machine that is busy: what does not come is a failure, not a hang.
    tokio::time::timeout(Duration::from_secs(30), notices.next()).await.unwrap().unwrap()
}

async fn subscribers_hear_the_life_of_a_job(place: Place) {
    let queue = place.open().await;
    // Another handle on the database, as another process has it.
    let listener = place.open().await;
    let mut notices = listener.subscribe();
    let id = Uuid::from_u128(1);
    let body = Json::from(json!({ "value": 1, "max": 20 }));
    queue.submit(&job(1)).await.unwrap();
    let first = claim(&queue, &worker("w"), LONG).await;
    queue.release(first).await.unwrap();
    let second = claim(&queue, &worker("w"), LONG).await;
    queue.progress(second, &body).await.unwrap();
    queue.event(second, &body).await.unwrap();
    queue.cancel(id).await.unwrap();
    queue.finish(second, &outcome(Status::Interrupted)).await.unwrap();
    queue.delete_history(&[id]).await.unwrap();
    queue.submit(&job(2)).await.unwrap();
    queue.clear_pending().await.unwrap();
    let expected = [
        (NoticeKind::Submitted, None),
        (NoticeKind::Started, Some(1)),
        (NoticeKind::Requeued, Some(1)),
        (NoticeKind::Started, Some(2)),
        (NoticeKind::Progress, Some(2)),
        (NoticeKind::Event, Some(2)),
        (NoticeKind::CancelRequested, Some(2)),
        (NoticeKind::Finished, Some(2)),
        (NoticeKind::Removed, None),
    ];
    for (kind, attempt) in expected {
        let notice = next(&mut notices).await;
        assert_eq!((notice.kind, notice.job, notice.attempt), (kind, Some(id), attempt));
        let has_body = matches!(kind, NoticeKind::Progress | NoticeKind::Event);
        assert_eq!(notice.body, has_body.then(|| body.clone()));
        assert_eq!(notice.event.is_some(), kind == NoticeKind::Event);
    }
    assert_eq!(next(&mut notices).await.kind, NoticeKind::Submitted);
    let several = next(&mut notices).await;
    assert_eq!((several.kind, several.job), (NoticeKind::Removed, None));
}

/// Of a process that is alone, nothing is written for others; of one that has closed the file neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_share_a_file_write_notices_while_another_listens() {
    let place = Place::sqlite();
    let first = place.open().await;
    let mut file = SqliteConnection::connect(&place.address).await.unwrap();
    first.submit(&job(1)).await.unwrap();
    assert!(!first.is_shared());
    let written = "SELECT count(*) FROM queue_notices";
    let count = sqlx::query_scalar::<_, i64>(written).fetch_one(&mut file).await.unwrap();
    assert_eq!(count, 0);

    let second = place.open().await;
    assert!(second.is_shared());
    let mut notices = first.subscribe();
    second.submit(&job(2)).await.unwrap();
    let heard = next(&mut notices).await;
    assert_eq!((heard.kind, heard.job), (NoticeKind::Submitted, Some(Uuid::from_u128(2))));
    assert!(first.is_shared());
    let count = sqlx::query_scalar::<_, i64>(written).fetch_one(&mut file).await.unwrap();
    assert_eq!(count, 1);

    second.close().await;
    first.submit(&job(3)).await.unwrap();
    let count = sqlx::query_scalar::<_, i64>(written).fetch_one(&mut file).await.unwrap();
    assert_eq!(count, 1);
    assert_eq!(next(&mut notices).await.job, Some(Uuid::from_u128(3)));
}

async fn what_is_large_is_read_and_not_sent(place: Place) {
    let queue = place.open().await;
    let is_postgres = place.address.starts_with("postgres");
    let mut notices = queue.subscribe();
    queue.submit(&job(1)).await.unwrap();
    let attempt = claim(&queue, &worker("w"), LONG).await;
    while next(&mut notices).await.kind != NoticeKind::Started {}
    // PostgreSQL takes payloads below 8000 bytes: some around that, and what JSON escapes.
    for length in [7_700, 7_780, 7_890, 7_950, 8_100, 100_000] {
        for character in ["a", "\"", "ü"] {
            let body = Json::from(json!(character.repeat(length / character.len())));
            assert!(queue.progress(attempt, &body).await.unwrap());
            let notice = next(&mut notices).await;
            assert_eq!(notice.kind, NoticeKind::Progress);
            if length > 8_000 && is_postgres {
                assert_eq!(notice.body, None);
            }
            if let Some(sent) = notice.body {
                assert_eq!(sent, body);
            }
            let read = queue.job(attempt.job).await.unwrap().unwrap();
            assert_eq!(read.progress, Some(body));
        }
    }
}

async fn a_hold_hears_of_a_cancellation(place: Place) {
    let queue = place.open().await;
    queue.submit(&job(1)).await.unwrap();
    let attempt = claim(&queue, &worker("w"), LONG).await;
    let mut hold = queue.hold(attempt, LONG);
    assert_eq!(hold.status(), LeaseStatus::Held);
    queue.cancel(attempt.job).await.unwrap();
    assert_eq!(hold.stopped().await, LeaseStatus::CancelRequested);
}

async fn a_hold_hears_that_its_job_is_lost(place: Place) {
    let queue = place.open().await;
    queue.submit(&job(1)).await.unwrap();
    let attempt = claim(&queue, &worker("w"), LONG).await;
    assert_eq!(queue.release_worker("w").await.unwrap(), 1);
    let mut hold = queue.hold(attempt, LONG);
    assert_eq!(hold.stopped().await, LeaseStatus::Lost);
}

async fn a_worker_that_waits_hears_of_a_job(place: Place) {
    let queue = place.open().await;
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.next(&worker("w"), LONG, LONG).await.unwrap() }
    });
    queue.submit(&job(1)).await.unwrap();
    let claimed = waiting.await.unwrap();
    assert_eq!(claimed.attempt.job, Uuid::from_u128(1));
}
