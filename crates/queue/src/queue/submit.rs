//! Jobs come in.

use uuid::Uuid;

use super::Queue;
use crate::database::{Access, args};
use crate::error::{Error, Failure};
use crate::job::NewJob;
use crate::json::Json;
use crate::notice::{Notice, NoticeKind};
use crate::retry::retry;

impl Queue {
    /// Queues a job. Returns its number: its own, or the count of those that came without one,
    /// negated where it is put in front.
    ///
    /// Once this returns, the job outlives this process and a loss of power.
    ///
    /// # Errors
    /// Where the queue is full, the id is taken, a field cannot be kept, or the database fails.
    pub async fn submit(&self, job: &NewJob) -> Result<f64, Error> {
        let id = job.id;
        if let Some(number) = job.number
            && !number.is_finite()
        {
            return Err(Error::Number { id, number });
        }
        for (field, text) in [("client_id", &job.client_id), ("workflow_id", &job.workflow_id)] {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                return Err(Error::Nul { id, field });
            }
        }
        let damaged = |_| Error::Damaged { column: "requires", value: String::new() };
        let requires = Json::of(&job.requires).map_err(damaged)?;
        let outputs = Json::from(serde_json::Value::from(job.outputs.clone()));
        let token = Uuid::new_v4();
        retry!(self, "submitting a job", self.submit_once(job, &requires, &outputs, token))
    }

    async fn submit_once(
        &self,
        job: &NewJob,
        requires: &Json,
        outputs: &Json,
        token: Uuid,
    ) -> Result<f64, Failure> {
        let mut tx = self.database().begin(Access::Durable).await?;
        tx.take_turns().await?;
        let same = tx
            .row("SELECT submit_token, number FROM queue_jobs WHERE id = $1", args![job.id])
            .await?;
        if let Some(row) = same {
            if row.text("submit_token")? == token.to_string() {
                return Ok(row.real("number")?);
            }
            return Err(Error::Duplicate { id: job.id }.into());
        }
        let row =
            tx.row("SELECT count(*) AS n FROM queue_jobs WHERE state = 'pending'", args![]).await?;
        let pending = row.map_or(Ok(0), |row| row.int("n"))?.unsigned_abs();
        let limit = self.options().max_pending;
        if pending >= limit {
            return Err(Error::Full { pending, limit }.into());
        }
        let number = match job.number {
            Some(number) => number,
            None => {
                let row = tx
                    .row(
                        "UPDATE queue_counter SET next = next + 1 \
                         RETURNING CAST(next - 1 AS DOUBLE PRECISION) AS n",
                        args![],
                    )
                    .await?;
                let number = row.map_or(Ok(0.0), |row| row.real("n"))?;
                // Zero has no sign.
                if job.front && number > 0.0 { -number } else { number }
            }
        };
        let row = tx
            .row(
                "INSERT INTO queue_jobs \
                 (id, number, client_id, workflow_id, state, created, submit_token, requires) \
                 VALUES ($1, $2, $3, $4, 'pending', {now}, $5, $6) RETURNING seq",
                args![job.id, number, &job.client_id, &job.workflow_id, token, requires],
            )
            .await?;
        let seq = row.map_or(Err(sqlx::Error::RowNotFound), |row| row.int("seq"))?;
        tx.run(
            "INSERT INTO queue_payloads (job, prompt, extra_data, outputs) \
             VALUES ($1, $2, $3, $4)",
            args![seq, &job.prompt, &job.extra_data, outputs],
        )
        .await?;
        tx.notify(Notice::of(NoticeKind::Submitted, job.id)).await?;
        tx.commit().await?;
        Ok(number)
    }
}
