//! What can go wrong.

use uuid::Uuid;

/// An error of the queue. A database is named without its password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address of the queue is not understood.
    #[error(
        "the queue's address is not valid: {reason}; it is sqlite:PATH, sqlite::memory: or \
         postgres://USER:PASSWORD@HOST/DATABASE"
    )]
    Address {
        /// What is wrong, without the address: it may hold a password.
        reason: String,
    },
    /// The database could not be opened.
    #[error("the queue at {address} cannot be opened: {source}{hint}")]
    Open {
        /// The database.
        address: String,
        /// What the user may do, beginning with a separator, or nothing.
        hint: &'static str,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The tables could not be brought to this version.
    #[error(
        "the tables of the queue at {address} are not this version's: {source}; a newer version \
         may have made them"
    )]
    Migrate {
        /// The database.
        address: String,
        /// What is wrong with them.
        source: sqlx::migrate::MigrateError,
    },
    /// The database failed, or did not answer for as long as [`crate::QueueOptions::retry_for`].
    #[error("the queue at {address} failed while {doing}: {source}")]
    Database {
        /// The database.
        address: String,
        /// What was asked of it.
        doing: &'static str,
        /// What it said.
        source: sqlx::Error,
    },
    /// The queue holds as many pending jobs as it may.
    #[error("the queue is full: {pending} jobs are pending, and {limit} may be; try again later")]
    Full {
        /// Jobs that are pending.
        pending: u64,
        /// The most that may be.
        limit: u64,
    },
    /// A job of this id was submitted before.
    #[error("a job with id {id} was submitted before; each job has an id of its own")]
    Duplicate {
        /// The id.
        id: Uuid,
    },
    /// A job's number cannot be ordered.
    #[error("the number {number} of job {id} is not finite")]
    Number {
        /// The job.
        id: Uuid,
        /// Its number.
        number: f64,
    },
    /// A name holds a character that PostgreSQL cannot keep.
    #[error("{field} of job {id} holds a NUL character")]
    Nul {
        /// The job.
        id: Uuid,
        /// The field.
        field: &'static str,
    },
    /// A row is not what this version writes.
    #[error("a row of the queue is damaged: {column} is {value:?}")]
    Damaged {
        /// The column.
        column: &'static str,
        /// What it holds.
        value: String,
    },
}

/// Why one try did not succeed.
pub(crate) enum Failure {
    /// The database failed; it may work later.
    Database(sqlx::Error),
    /// The operation is refused, now and later.
    Refused(Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}
