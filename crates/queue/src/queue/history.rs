//! Jobs that have ended.

use super::Queue;
use super::listing::{RECORD_COLUMNS, record};
use crate::database::{Access, Tx, args};
use crate::error::{Error, Failure};
use crate::job::Record;
use crate::retry::retry;

/// Jobs of a page: each may be megabytes.
const PAGE: u64 = 64;

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
        let mut pages = self.history_pages(max_items, offset).await?;
        let mut all = Vec::new();
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// The same in pages, of which one is in memory at a time: those that had ended when this was called, but for those
    /// that are deleted meanwhile.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn history_pages(
        &self,
        max_items: Option<u64>,
        offset: Option<u64>,
    ) -> Result<HistoryPages, Error> {
        let left = max_items.unwrap_or(u64::MAX);
        let bounds = retry!(self, "reading the history", self.bounds(max_items, offset))?;
        let (after, until) = bounds.unwrap_or((BEFORE_ALL, BEFORE_ALL));
        Ok(HistoryPages { queue: self.clone(), after, until, left })
    }

    /// Where the wanted part of the history is: behind the first place, up to the second. Counted in the index alone.
    async fn bounds(
        &self,
        max_items: Option<u64>,
        offset: Option<u64>,
    ) -> Result<Option<(Place, Place)>, Failure> {
        let mut tx = self.database().begin(Access::Read).await?;
        let Some(last) = place_at(&mut tx, "DESC", 0).await? else { return Ok(None) };
        let before_first = match (offset, max_items) {
            (None, None) | (Some(0), _) => Some(BEFORE_ALL),
            (None, Some(items)) => {
                Some(place_at(&mut tx, "DESC", items).await?.unwrap_or(BEFORE_ALL))
            }
            // Where there are not as many, none is left.
            (Some(offset), _) => place_at(&mut tx, "ASC", offset.saturating_sub(1)).await?,
        };
        Ok(before_first.map(|before| (before, last)))
    }
}

/// Where a job is in the history: the order of ending, and of submission among those that ended at once.
type Place = (i64, i64);

const BEFORE_ALL: Place = (i64::MIN, i64::MIN);

/// The place of the one behind so many, in this direction.
async fn place_at(tx: &mut Tx, direction: &str, skipped: u64) -> Result<Option<Place>, Failure> {
    let statement = format!(
        "SELECT place, seq FROM queue_jobs WHERE place IS NOT NULL \
         ORDER BY place {direction}, seq {direction} LIMIT 1 OFFSET $1"
    );
    let skipped = i64::try_from(skipped).unwrap_or(i64::MAX);
    let row = tx.row(&statement, args![skipped]).await?;
    row.map(|row| Ok((row.int("place")?, row.int("seq")?))).transpose()
}

/// Jobs that have ended, page by page.
#[derive(Debug)]
pub struct HistoryPages {
    queue: Queue,
    after: Place,
    until: Place,
    left: u64,
}

impl HistoryPages {
    /// Whether no job is left, as far as is known without looking.
    pub fn is_done(&self) -> bool {
        self.left == 0 || self.after >= self.until
    }

    /// The next jobs; none at the end.
    ///
    /// # Errors
    /// Where the database fails; the same page can be asked for again.
    pub async fn next(&mut self) -> Result<Vec<Record>, Error> {
        if self.is_done() {
            return Ok(Vec::new());
        }
        let (after, until, wanted) = (self.after, self.until, self.left.min(PAGE));
        let queue = &self.queue;
        let page = retry!(queue, "reading the history", read(queue, after, until, wanted))?;
        self.left = self.left.saturating_sub(wanted);
        let (records, places): (Vec<_>, Vec<_>) = page.into_iter().unzip();
        self.after = match places.last() {
            Some(place) if places.len() as u64 == wanted => *place,
            _ => self.until,
        };
        Ok(records)
    }
}

async fn read(
    queue: &Queue,
    after: Place,
    until: Place,
    wanted: u64,
) -> Result<Vec<(Record, Place)>, Failure> {
    let mut tx = queue.database().begin(Access::Read).await?;
    let statement = format!(
        "SELECT {RECORD_COLUMNS}, place, seq FROM queue_jobs JOIN queue_payloads p ON p.job = seq \
         LEFT JOIN queue_results r ON r.job = seq \
         WHERE place IS NOT NULL AND (place, seq) > ($1, $2) AND (place, seq) <= ($3, $4) \
         ORDER BY place, seq LIMIT $5"
    );
    let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
    let rows = tx.rows(&statement, args![after.0, after.1, until.0, until.1, wanted]).await?;
    rows.iter().map(|row| Ok((record(row)?, (row.int("place")?, row.int("seq")?)))).collect()
}
