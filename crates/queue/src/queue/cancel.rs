//! Jobs are taken out of the queue, or asked to end.

use uuid::Uuid;

use super::Queue;
use crate::database::{Access, args};
use crate::error::{Error, Failure};
use crate::job::Cancelled;
use crate::json::Json;
use crate::notice::{Notice, NoticeKind};
use crate::retry::retry;

impl Queue {
    /// Removes a pending job, or asks the worker of a running one to end it.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn cancel(&self, id: Uuid) -> Result<Cancelled, Error> {
        retry!(self, "cancelling a job", self.cancel_once(id))
    }

    async fn cancel_once(&self, id: Uuid) -> Result<Cancelled, Failure> {
        let mut tx = self.database().begin(Access::Durable).await?;
        let row = tx
            .row("SELECT state, attempt FROM queue_jobs WHERE id = $1 {for_update}", args![id])
            .await?;
        let Some(row) = row else {
            return Ok(Cancelled::NotActive);
        };
        let cancelled = match row.text("state")?.as_str() {
            "pending" => {
                tx.run("DELETE FROM queue_jobs WHERE id = $1", args![id]).await?;
                tx.notify(Notice::of(NoticeKind::Removed, id)).await?;
                Cancelled::Removed
            }
            "running" => {
                tx.run("UPDATE queue_jobs SET cancel = 1 WHERE id = $1", args![id]).await?;
                let notice = Notice::of(NoticeKind::CancelRequested, id);
                tx.notify(notice.attempt(row.int("attempt")?)).await?;
                Cancelled::Requested
            }
            _ => Cancelled::NotActive,
        };
        tx.commit().await?;
        Ok(cancelled)
    }

    /// Asks the workers of all running jobs to end them. Returns these jobs.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn interrupt_all(&self) -> Result<Vec<Uuid>, Error> {
        retry!(self, "interrupting all jobs", async {
            let mut tx = self.database().begin(Access::Durable).await?;
            let rows = tx
                .rows(
                    "UPDATE queue_jobs SET cancel = 1 WHERE state = 'running' \
                     RETURNING id, attempt",
                    args![],
                )
                .await?;
            let mut ids = Vec::with_capacity(rows.len());
            for row in &rows {
                let id = row.uuid("id")?;
                let notice = Notice::of(NoticeKind::CancelRequested, id);
                tx.notify(notice.attempt(row.int("attempt")?)).await?;
                ids.push(id);
            }
            tx.commit().await?;
            Ok(ids)
        })
    }

    /// Removes those of these jobs that are pending. Returns how many.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn delete_pending(&self, ids: &[Uuid]) -> Result<u64, Error> {
        retry!(
            self,
            "deleting pending jobs",
            self.remove("state = 'pending' AND id IN {ids}", Some(ids))
        )
    }

    /// Removes all pending jobs. Returns how many.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn clear_pending(&self) -> Result<u64, Error> {
        retry!(self, "clearing the queue", self.remove("state = 'pending'", None))
    }

    /// Removes those of these jobs that have ended. Returns how many.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn delete_history(&self, ids: &[Uuid]) -> Result<u64, Error> {
        retry!(
            self,
            "deleting finished jobs",
            self.remove("place IS NOT NULL AND id IN {ids}", Some(ids))
        )
    }

    /// Removes all jobs that have ended. Returns how many.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn clear_history(&self) -> Result<u64, Error> {
        retry!(self, "clearing the history", self.remove("place IS NOT NULL", None))
    }

    /// Removes the jobs that a condition finds.
    async fn remove(&self, condition: &str, ids: Option<&[Uuid]>) -> Result<u64, Failure> {
        let list = ids.map(|ids| ids.iter().map(Uuid::to_string).collect::<Vec<_>>());
        let list = list.map(|list| Json::from(serde_json::Value::from(list)));
        let args = list.iter().map(crate::database::Arg::from).collect();
        let mut tx = self.database().begin(Access::Durable).await?;
        // In one order, so that two of these wait for each other instead of both.
        let statement = format!(
            "DELETE FROM queue_jobs WHERE seq IN \
             (SELECT seq FROM queue_jobs WHERE {condition} ORDER BY seq {{for_update}})"
        );
        let removed = tx.run(&statement, args).await?;
        if removed > 0 {
            let only = ids.filter(|ids| ids.len() == 1).and_then(|ids| ids.first());
            let kind = NoticeKind::Removed;
            let notice = only.map_or(Notice::several(kind), |&id| Notice::of(kind, id));
            tx.notify(notice).await?;
        }
        tx.commit().await?;
        Ok(removed)
    }
}
