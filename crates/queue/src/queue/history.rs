//! Jobs that have ended.

use super::Queue;
use crate::database::args;
use crate::error::Error;
use crate::job::Record;
use crate::retry::retry;

impl Queue {
    /// Jobs that have ended, in the order in which they did: at most `max_items`, without the first
    /// `offset`. Where no offset is named and not all are asked for, they are the latest.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn history(
        &self,
        max_items: Option<u64>,
        offset: Option<u64>,
    ) -> Result<Vec<Record>, Error> {
        let limit = max_items.and_then(|items| i64::try_from(items).ok()).unwrap_or(i64::MAX);
        let Some(offset) = offset else {
            let mut records = retry!(
                self,
                "reading the history",
                self.records(
                    "WHERE place IS NOT NULL ORDER BY place DESC, seq DESC LIMIT $1",
                    args![limit],
                )
            )?;
            records.reverse();
            return Ok(records);
        };
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        retry!(
            self,
            "reading the history",
            self.records(
                // What is left out is counted in the index alone.
                "WHERE seq IN (SELECT seq FROM queue_jobs WHERE place IS NOT NULL \
                 ORDER BY place, seq LIMIT $1 OFFSET $2) ORDER BY place, seq",
                args![limit, offset],
            )
        )
    }
}
