//! What a worker writes about the job that it holds. Each write names its attempt, and is refused
//! once another has the job.

use uuid::Uuid;

use super::Queue;
use crate::database::{Access, Tx, args};
use crate::error::{Error, Failure};
use crate::job::{Attempt, Event, LeaseStatus, Outcome, State};
use crate::json::Json;
use crate::notice::{Notice, NoticeKind};
use crate::retry::retry;

/// How many old jobs are dropped at a time.
const TRIM: i64 = 1_000;

impl Queue {
    /// Renews the lease, for as long as it was claimed for.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn heartbeat(&self, attempt: Attempt) -> Result<LeaseStatus, Error> {
        retry!(self, "renewing a lease", async {
            let mut tx = self.database().begin(Access::Volatile).await?;
            let row = tx
                .row(
                    "UPDATE queue_jobs SET lease_until = {now} + lease_ms \
                     WHERE id = $1 AND attempt = $2 AND state = 'running' RETURNING cancel",
                    args![attempt.job, attempt.number],
                )
                .await?;
            let status = match row {
                None => LeaseStatus::Lost,
                Some(row) if row.int("cancel")? != 0 => LeaseStatus::CancelRequested,
                Some(_) => LeaseStatus::Held,
            };
            tx.commit().await?;
            Ok(status)
        })
    }

    /// Puts new progress in the place of the last. It is for the caller to do that a few times a
    /// second at most. Returns whether the attempt still has the job.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn progress(&self, attempt: Attempt, progress: &Json) -> Result<bool, Error> {
        retry!(self, "writing progress", async {
            let mut tx = self.database().begin(Access::Volatile).await?;
            let changed = tx
                .run(
                    "UPDATE queue_jobs SET progress = $3 \
                     WHERE id = $1 AND attempt = $2 AND state = 'running'",
                    args![attempt.job, attempt.number, progress],
                )
                .await?;
            if changed > 0 {
                let notice = Notice::of(NoticeKind::Progress, attempt.job);
                let body = Some(progress.clone());
                tx.notify(Notice { body, ..notice.attempt(attempt.number) }).await?;
            }
            tx.commit().await?;
            Ok(changed > 0)
        })
    }

    /// Appends an event, which readers get in order and without gaps for as long as
    /// [`crate::QueueOptions::keep_events`]. Returns whether the attempt still has the job, or has
    /// finished it: how it ended is an event too.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn event(&self, attempt: Attempt, body: &Json) -> Result<bool, Error> {
        let token = Uuid::new_v4();
        retry!(self, "writing an event", self.event_once(attempt, body, token))
    }

    async fn event_once(
        &self,
        attempt: Attempt,
        body: &Json,
        token: Uuid,
    ) -> Result<bool, Failure> {
        let mut tx = self.database().begin(Access::Volatile).await?;
        let row = tx
            .row(
                "INSERT INTO queue_events (job, attempt, token, at, body) \
                 SELECT seq, attempt, $3, {now}, $4 FROM queue_jobs \
                 WHERE id = $1 AND attempt = $2 \
                 AND (state = 'running' OR (ended IS NOT NULL AND error IS NULL)) \
                 ON CONFLICT (token) DO NOTHING RETURNING seq",
                args![attempt.job, attempt.number, token, body],
            )
            .await?;
        let Some(row) = row else {
            // A try whose answer was lost may have written it.
            let row = tx.row("SELECT 1 FROM queue_events WHERE token = $1", args![token]).await?;
            return Ok(row.is_some());
        };
        let notice = Notice::of(NoticeKind::Event, attempt.job).attempt(attempt.number);
        let (event, body) = (Some(row.int("seq")?), Some(body.clone()));
        tx.notify(Notice { event, body, ..notice }).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The events of a job behind one of them; from the first that is kept where that is 0.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn events(&self, job: Uuid, after: i64) -> Result<Vec<Event>, Error> {
        retry!(self, "reading events", async {
            let mut tx = self.database().begin(Access::Read).await?;
            let rows = tx
                .rows(
                    "SELECT e.seq AS seq, e.attempt AS attempt, e.body AS body \
                     FROM queue_events e JOIN queue_jobs j ON j.seq = e.job \
                     WHERE j.id = $1 AND e.seq > $2 ORDER BY e.seq",
                    args![job, after],
                )
                .await?;
            let event = |row: &crate::database::Row| {
                let (seq, attempt) = (row.int("seq")?, row.int("attempt")?);
                Ok(Event { seq, attempt, body: row.json("body")? })
            };
            rows.iter().map(event).collect::<Result<Vec<_>, Failure>>()
        })
    }

    /// Ends a job. Returns whether that counted: not where the attempt had lost the job, which
    /// another may run or have finished.
    ///
    /// Once this returns, the result outlives this process and a loss of power.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn finish(&self, attempt: Attempt, outcome: &Outcome) -> Result<bool, Error> {
        let token = Uuid::new_v4();
        retry!(self, "finishing a job", self.finish_once(attempt, outcome, token))
    }

    async fn finish_once(
        &self,
        attempt: Attempt,
        outcome: &Outcome,
        token: Uuid,
    ) -> Result<bool, Failure> {
        let mut tx = self.database().begin(Access::Durable).await?;
        let row = tx
            .row(
                "UPDATE queue_jobs SET state = $3, ended = {now}, place = {next_place}, summary = $4, \
                 cancel = 0, \
                 lease_ms = NULL, lease_until = NULL, claim_token = NULL, progress = NULL \
                 WHERE id = $1 AND attempt = $2 AND state = 'running' RETURNING seq",
                args![
                    attempt.job,
                    attempt.number,
                    State::from(outcome.status).as_str(),
                    outcome.summary.as_ref(),
                ],
            )
            .await?;
        let Some(row) = row else {
            // A try whose answer was lost may have been committed.
            let row = tx
                .row(
                    "SELECT 1 FROM queue_results r JOIN queue_jobs j ON j.seq = r.job \
                     WHERE j.id = $1 AND r.token = $2",
                    args![attempt.job, token],
                )
                .await?;
            return Ok(row.is_some());
        };
        tx.run(
            "INSERT INTO queue_results (job, token, outputs, meta, messages) \
             VALUES ($1, $2, $3, $4, $5)",
            args![row.int("seq")?, token, &outcome.outputs, &outcome.meta, &outcome.messages],
        )
        .await?;
        self.trim(&mut tx).await?;
        tx.notify(Notice::of(NoticeKind::Finished, attempt.job).attempt(attempt.number)).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Drops what is kept no longer.
    async fn trim(&self, tx: &mut Tx) -> Result<(), sqlx::Error> {
        let keep = i64::try_from(self.options().max_history).unwrap_or(i64::MAX);
        let dropped = tx
            .run(
                "DELETE FROM queue_jobs WHERE seq IN (SELECT seq FROM queue_jobs \
                 WHERE place IS NOT NULL ORDER BY place DESC, seq DESC LIMIT $1 OFFSET $2)",
                args![TRIM, keep],
            )
            .await?;
        if dropped > 0 {
            tx.notify(Notice::several(NoticeKind::Removed)).await?;
        }
        let age = i64::try_from(self.options().keep_events.as_millis()).unwrap_or(i64::MAX / 4);
        tx.run("DELETE FROM queue_events WHERE at < {now} - $1", args![age]).await?;
        Ok(())
    }
}
