//! Workers take jobs, and lose them.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::Queue;
use super::listing::{RECORD_COLUMNS, record};
use crate::database::{Access, Arg, Tx, args};
use crate::error::{Error, Failure};
use crate::job::{Attempt, Claimed, Job};
use crate::notice::{Notice, NoticeKind};
use crate::retry::retry;
use crate::routing::{Candidate, Choice, Requirements, Worker};

/// How many pending jobs are read at a time.
const PAGE: i64 = 256;

impl Queue {
    /// Takes the next job that a worker can run, for as long as the lease; `None` where there is
    /// none. Jobs whose lease is over are made pending before.
    ///
    /// The job is the worker's until the lease is over without a [`Queue::heartbeat`].
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn claim(&self, worker: &Worker, lease: Duration) -> Result<Option<Claimed>, Error> {
        self.expire().await?;
        let token = Uuid::new_v4();
        retry!(self, "claiming a job", self.claim_once(worker, lease, token))
    }

    /// Takes the next job that a worker can run, once there is one.
    ///
    /// It looks when the queue changes, and every `poll`: a lease that is over sends no notice.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn next(
        &self,
        worker: &Worker,
        lease: Duration,
        poll: Duration,
    ) -> Result<Claimed, Error> {
        let mut notices = self.subscribe();
        loop {
            if let Some(claimed) = self.claim(worker, lease).await? {
                return Ok(claimed);
            }
            let news = async {
                while let Some(notice) = notices.next().await {
                    if matches!(
                        notice.kind,
                        NoticeKind::Submitted | NoticeKind::Requeued | NoticeKind::Missed
                    ) {
                        return;
                    }
                }
                std::future::pending().await
            };
            let _ = tokio::time::timeout(poll, news).await;
        }
    }

    async fn claim_once(
        &self,
        worker: &Worker,
        lease: Duration,
        token: Uuid,
    ) -> Result<Option<Claimed>, Failure> {
        let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
        let mut tx = self.database().begin(Access::Durable).await?;
        if let Some(claimed) = claimed_by(&mut tx, token).await? {
            return Ok(Some(claimed));
        }
        // Jobs that another worker took while this one chose.
        let mut taken = HashSet::new();
        loop {
            let mut choice = Choice::new(worker, self.options().max_passed);
            offer_pending(&mut tx, &mut choice, &taken).await?;
            let Some(chosen) = choice.chosen() else {
                return Ok(None);
            };
            let row = tx
                .row(
                    "UPDATE queue_jobs SET state = 'running', attempt = attempt + 1, worker = $2, \
                     claim_token = $3, lease_ms = $4, lease_until = {now} + $4, started = {now}, \
                     progress = NULL \
                     WHERE seq = (SELECT seq FROM queue_jobs WHERE seq = $1 AND state = 'pending' \
                     {skip_locked}) RETURNING id, attempt",
                    args![chosen.seq, worker.name.as_str(), token, lease],
                )
                .await?;
            let Some(row) = row else {
                taken.insert(chosen.seq);
                continue;
            };
            if let Some(seq) = chosen.passed_over {
                tx.run("UPDATE queue_jobs SET passed = passed + 1 WHERE seq = $1", args![seq])
                    .await?;
            }
            let started = Notice::of(NoticeKind::Started, row.uuid("id")?);
            tx.notify(started.attempt(row.int("attempt")?)).await?;
            let claimed = claimed_by(&mut tx, token).await?;
            tx.commit().await?;
            return Ok(claimed);
        }
    }

    /// Makes jobs pending whose lease is over, or ends them where that happened too often or they
    /// were to be interrupted. [`Queue::claim`] does it too: front ends whose workers may all be
    /// gone call it now and then. Returns how many there were.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn expire(&self) -> Result<u64, Error> {
        retry!(self, "looking for lost workers", async {
            let mut tx = self.database().begin(Access::Read).await?;
            let statement = "SELECT 1 FROM queue_jobs WHERE state = 'running' AND {lapsed} LIMIT 1";
            if tx.row(statement, args![]).await?.is_none() {
                return Ok(0);
            }
            drop(tx);
            let mut tx = self.database().begin(Access::Durable).await?;
            let count = self.put_back(&mut tx, "{lapsed}", Leave::Lost, None).await?;
            tx.commit().await?;
            Ok(count)
        })
    }

    /// As if the leases of all jobs of this worker were over: a process that starts calls it with
    /// its own name, so that what its predecessor was running is run again at once. Returns how
    /// many there were.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn release_worker(&self, name: &str) -> Result<u64, Error> {
        retry!(self, "releasing a worker's jobs", async {
            let mut tx = self.database().begin(Access::Durable).await?;
            let name = Some(Arg::from(name));
            let count = self.put_back(&mut tx, "worker = $3", Leave::Lost, name).await?;
            tx.commit().await?;
            Ok(count)
        })
    }

    /// Gives a job back, unfinished: it is pending again, at its place. Where it was to be
    /// interrupted, it ends. Returns whether the attempt still had the job.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn release(&self, attempt: Attempt) -> Result<bool, Error> {
        retry!(self, "releasing a job", async {
            let mut tx = self.database().begin(Access::Durable).await?;
            let row = tx
                .row(
                    "SELECT seq FROM queue_jobs \
                     WHERE id = $1 AND attempt = $2 AND state = 'running' {for_update}",
                    args![attempt.job, attempt.number],
                )
                .await?;
            let Some(row) = row else {
                return Ok(false);
            };
            let seq = Some(Arg::from(row.int("seq")?));
            let count = self.put_back(&mut tx, "seq = $3", Leave::Given, seq).await?;
            tx.commit().await?;
            Ok(count > 0)
        })
    }

    /// Takes running jobs from their workers: those that the condition (with `$3`) finds.
    async fn put_back(
        &self,
        tx: &mut Tx,
        condition: &'static str,
        leave: Leave,
        condition_arg: Option<Arg>,
    ) -> Result<u64, Failure> {
        let lost = match leave {
            Leave::Lost => 1,
            Leave::Given => 0,
        };
        let max_lost = i64::from(self.options().max_lost);
        let mut values = args![lost, max_lost];
        values.extend(condition_arg);
        let statement = format!(
            "UPDATE queue_jobs SET \
             state = CASE WHEN cancel = 1 THEN 'interrupted' \
               WHEN $1 = 1 AND lost + 1 >= $2 THEN 'error' ELSE 'pending' END, \
             error = CASE WHEN cancel = 1 THEN 'the worker stopped before it could interrupt it' \
               WHEN $1 = 1 AND lost + 1 >= $2 \
               THEN 'its workers died or stopped answering too often' END, \
             ended = CASE WHEN cancel = 1 OR ($1 = 1 AND lost + 1 >= $2) THEN {{now}} END, \
             place = CASE WHEN cancel = 1 OR ($1 = 1 AND lost + 1 >= $2) \
               THEN {{next_place}} END, \
             started = CASE WHEN cancel = 1 OR ($1 = 1 AND lost + 1 >= $2) THEN started END, \
             lost = lost + $1, lease_ms = NULL, lease_until = NULL, claim_token = NULL, \
             progress = NULL, cancel = 0 \
             WHERE seq IN (SELECT seq FROM queue_jobs WHERE state = 'running' AND {condition} \
             {{skip_locked}}) RETURNING seq, id, attempt, state"
        );
        let rows = tx.rows(&statement, values).await?;
        for row in &rows {
            let (id, attempt) = (row.uuid("id")?, row.int("attempt")?);
            let is_pending = row.text("state")? == "pending";
            if !is_pending {
                tx.run(
                    "INSERT INTO queue_results (job, token, outputs, meta, messages) \
                     VALUES ($1, $2, '{}', '{}', '[]')",
                    args![row.int("seq")?, Uuid::new_v4()],
                )
                .await?;
            }
            let kind = if is_pending { NoticeKind::Requeued } else { NoticeKind::Finished };
            tx.notify(Notice::of(kind, id).attempt(attempt)).await?;
            if leave == Leave::Lost {
                tracing::warn!(job = %id, attempt, is_pending, "a job's worker is lost");
            }
        }
        Ok(rows.len().try_into().unwrap_or(u64::MAX))
    }
}

/// How a job leaves its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// The worker gave it back.
    Given,
    /// The worker is gone; the job may be the reason.
    Lost,
}

/// Offers the pending jobs in their order until the choice is made.
async fn offer_pending(
    tx: &mut Tx,
    choice: &mut Choice<'_>,
    taken: &HashSet<i64>,
) -> Result<(), Failure> {
    let mut after = (f64::NEG_INFINITY, 0);
    loop {
        let rows = tx
            .rows(
                "SELECT seq, number, passed, requires FROM queue_jobs \
                 WHERE state = 'pending' AND (number, seq) > ($1, $2) \
                 ORDER BY number, seq LIMIT $3",
                args![after.0, after.1, PAGE],
            )
            .await?;
        for row in &rows {
            let (seq, number) = (row.int("seq")?, row.real("number")?);
            after = (number, seq);
            if taken.contains(&seq) {
                continue;
            }
            let requires = requirements(row.text("requires")?)?;
            let passed = row.int("passed")?;
            if choice.offer(Candidate { seq, number, passed, requires }).is_break() {
                return Ok(());
            }
        }
        if i64::try_from(rows.len()).unwrap_or(PAGE) < PAGE {
            return Ok(());
        }
    }
}

fn requirements(text: String) -> Result<Requirements, Error> {
    serde_json::from_str(&text).map_err(|_| Error::Damaged { column: "requires", value: text })
}

/// The job that a claim with this token took.
async fn claimed_by(tx: &mut Tx, token: Uuid) -> Result<Option<Claimed>, Failure> {
    let statement = format!(
        "SELECT {RECORD_COLUMNS}, requires FROM queue_jobs JOIN queue_payloads p ON p.job = seq \
         LEFT JOIN queue_results r ON r.job = seq \
         WHERE state = 'running' AND claim_token = $1"
    );
    let Some(row) = tx.row(&statement, args![token]).await? else {
        return Ok(None);
    };
    let (record, requires) = (record(&row)?, requirements(row.text("requires")?)?);
    let Job { id, attempt, .. } = record.job;
    Ok(Some(Claimed { attempt: Attempt { job: id, number: attempt }, record, requires }))
}
