//! What is in the queue.

use uuid::Uuid;

use super::Queue;
use crate::database::{Access, Arg, Row, args};
use crate::error::{Error, Failure};
use crate::job::{Job, JobFilter, JobPage, JobResult, Payload, Record, SortBy, SortOrder, State};
use crate::retry::retry;

pub(super) const JOB_COLUMNS: &str = "id, number, client_id, workflow_id, state, attempt, worker, \
     cancel, created, started, ended, error, summary, progress";

/// Of `queue_jobs`, `queue_payloads p` and `queue_results r`.
pub(super) const RECORD_COLUMNS: &str = "id, number, client_id, workflow_id, state, attempt, \
     worker, cancel, created, started, ended, error, summary, progress, \
     p.prompt AS prompt, p.extra_data AS extra_data, p.outputs AS wanted, \
     r.outputs AS outputs, r.meta AS meta, r.messages AS messages";

impl Queue {
    /// How many jobs are pending or running.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn remaining(&self) -> Result<u64, Error> {
        retry!(self, "counting jobs", async {
            let mut tx = self.database().begin(Access::Read).await?;
            let row = tx
                .row(
                    "SELECT (SELECT count(*) FROM queue_jobs WHERE state = 'pending') + \
                     (SELECT count(*) FROM queue_jobs WHERE state = 'running') AS n",
                    args![],
                )
                .await?;
            Ok(row.map_or(Ok(0), |row| row.int("n"))?.unsigned_abs())
        })
    }

    /// The running jobs, the one that was claimed first at the beginning, and the pending ones, the next first. Both at one
    /// moment: a job that is claimed meanwhile is in one of the lists.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn unfinished(&self) -> Result<[Vec<Record>; 2], Error> {
        let records = retry!(
            self,
            "listing jobs that have not ended",
            self.records(
                "WHERE state IN ('running', 'pending') \
                 ORDER BY CASE state WHEN 'running' THEN started END, \
                 CASE state WHEN 'pending' THEN number END, seq",
                args![],
            )
        )?;
        let (running, pending) =
            records.into_iter().partition(|record| record.job.state == State::Running);
        Ok([running, pending])
    }

    /// A job, in any state.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn get(&self, id: Uuid) -> Result<Option<Record>, Error> {
        let records = retry!(self, "reading a job", self.records("WHERE id = $1", args![id]))?;
        Ok(records.into_iter().next())
    }

    /// A job without what is large.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn job(&self, id: Uuid) -> Result<Option<Job>, Error> {
        retry!(self, "reading a job", async {
            let mut tx = self.database().begin(Access::Read).await?;
            let statement = format!("SELECT {JOB_COLUMNS} FROM queue_jobs WHERE id = $1");
            tx.row(&statement, args![id]).await?.map(|row| job(&row)).transpose()
        })
    }

    /// Jobs in any state, without what is large.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<JobPage, Error> {
        retry!(self, "listing jobs", self.jobs_once(filter))
    }

    async fn jobs_once(&self, filter: &JobFilter) -> Result<JobPage, Failure> {
        let mut condition = "1 = 1".to_owned();
        let mut values = Vec::new();
        if !filter.states.is_empty() {
            let states: Vec<_> =
                filter.states.iter().map(|state| format!("'{}'", state.as_str())).collect();
            condition = format!("state IN ({})", states.join(", "));
        }
        if let Some(workflow) = &filter.workflow_id {
            values.push(workflow.as_str());
            condition.push_str(" AND workflow_id = $1");
        }
        let key = match filter.sort_by {
            SortBy::Created => "created",
            SortBy::Duration => "coalesce(ended - started, 0)",
        };
        let direction = match filter.order {
            SortOrder::Ascending => "ASC",
            SortOrder::Descending => "DESC",
        };
        let mut page: Vec<_> = values.iter().map(|&value| Arg::from(value)).collect();
        let next = page.len() + 1;
        let limit = filter.limit.and_then(|limit| i64::try_from(limit).ok()).unwrap_or(i64::MAX);
        page.push(limit.into());
        page.push(i64::try_from(filter.offset).unwrap_or(i64::MAX).into());
        let statement = format!(
            "SELECT {JOB_COLUMNS} FROM queue_jobs WHERE {condition} \
             ORDER BY {key} {direction}, seq {direction} LIMIT ${next} OFFSET ${}",
            next + 1
        );
        let mut tx = self.database().begin(Access::Read).await?;
        let rows = tx.rows(&statement, page).await?;
        let jobs = rows.iter().map(job).collect::<Result<_, _>>()?;
        let statement = format!("SELECT count(*) AS n FROM queue_jobs WHERE {condition}");
        let row = tx.row(&statement, values.into_iter().map(Arg::from).collect()).await?;
        let total = row.map_or(Ok(0), |row| row.int("n"))?.unsigned_abs();
        Ok(JobPage { jobs, total })
    }

    /// Jobs with all that belongs to them; `rest` is a `WHERE` with an order.
    pub(super) async fn records(&self, rest: &str, args: Vec<Arg>) -> Result<Vec<Record>, Failure> {
        let mut tx = self.database().begin(Access::Read).await?;
        let statement = format!(
            "SELECT {RECORD_COLUMNS} FROM queue_jobs JOIN queue_payloads p ON p.job = seq \
             LEFT JOIN queue_results r ON r.job = seq {rest}"
        );
        tx.rows(&statement, args).await?.iter().map(record).collect()
    }
}

fn job(row: &Row) -> Result<Job, Failure> {
    Ok(Job {
        id: row.uuid("id")?,
        number: row.real("number")?,
        client_id: row.maybe_text("client_id")?,
        workflow_id: row.maybe_text("workflow_id")?,
        state: State::stored(&row.text("state")?)?,
        attempt: row.int("attempt")?,
        worker: row.maybe_text("worker")?,
        is_cancel_requested: row.int("cancel")? != 0,
        created: row.int("created")?,
        started: row.maybe_int("started")?,
        ended: row.maybe_int("ended")?,
        error: row.maybe_text("error")?,
        summary: row.maybe_json("summary")?,
        progress: row.maybe_json("progress")?,
    })
}

pub(super) fn record(row: &Row) -> Result<Record, Failure> {
    let wanted = row.text("wanted")?;
    let outputs = serde_json::from_str(&wanted)
        .map_err(|_| Error::Damaged { column: "outputs", value: wanted })?;
    let (prompt, extra_data) = (row.json("prompt")?, row.json("extra_data")?);
    let result = match row.maybe_json("outputs")? {
        None => None,
        Some(outputs) => {
            Some(JobResult { outputs, meta: row.json("meta")?, messages: row.json("messages")? })
        }
    };
    Ok(Record { job: job(row)?, payload: Payload { prompt, extra_data, outputs }, result })
}
