//! SQLite: one file, one machine.

mod notices;

use std::str::FromStr;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, Transaction};
use tokio::sync::broadcast;

use self::notices::Listener;
use super::migrations::{SQLITE, migrator};
use super::{Access, opening};
use crate::error::Error;
use crate::notice::Notice;
use crate::options::QueueOptions;

pub(crate) use self::notices::write as notify;

/// How long SQLite itself waits for another process's write, before the operation is tried again.
const BUSY: Duration = Duration::from_secs(5);

/// Connections: SQLite has one writer at a time, and writers of this process queue for one
/// connection instead of waiting for each other's locks.
pub(crate) struct Pools {
    /// Commits reach the disk (`synchronous = FULL`).
    durable: SqlitePool,
    /// Commits reach the file's log, which a killed process leaves intact (`NORMAL`).
    volatile: SqlitePool,
    /// What reads do not wait for.
    readers: SqlitePool,
    /// What hears of other processes; none where the database is in memory.
    pub listener: Option<Listener>,
}

impl Pools {
    pub async fn begin(&self, access: Access) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        match access {
            Access::Read => self.readers.begin().await,
            Access::Durable => self.durable.begin_with("BEGIN IMMEDIATE").await,
            Access::Volatile => self.volatile.begin_with("BEGIN IMMEDIATE").await,
        }
    }

    pub async fn close(&self) {
        if let Some(listener) = &self.listener
            && let Ok(mut transaction) = self.begin(Access::Volatile).await
        {
            listener.end(&mut transaction).await;
            // Where it is not, the others hear of it by the time that passes.
            let _ = transaction.commit().await;
        }
        self.readers.close().await;
        self.volatile.close().await;
        self.durable.close().await;
    }
}

/// Opens the database, makes it where it is not there, and brings its tables to this version.
/// What other processes do goes to `notices`.
///
/// Tries again while another process has the file to itself: SQLite does not wait where the first of several that open
/// it at once changes the journal's mode.
pub(crate) async fn open(
    address: &str,
    options: &QueueOptions,
    notices: broadcast::Sender<Notice>,
) -> Result<(Pools, String), Error> {
    let once = || opened(address, options, notices.clone());
    opening::again(options.timeout, is_busy, once).await
}

/// One try.
async fn opened(
    address: &str,
    options: &QueueOptions,
    notices: broadcast::Sender<Notice>,
) -> Result<(Pools, String), Error> {
    let connect = SqliteConnectOptions::from_str(address)
        .map_err(|error| Error::Address { reason: error.to_string() })?
        .create_if_missing(true)
        .foreign_keys(true)
        .busy_timeout(BUSY);
    let address = address.to_owned();
    let is_in_memory = address.contains(":memory:") || address.contains("mode=memory");
    let pool = |connections: u32| {
        SqlitePoolOptions::new()
            .max_connections(connections)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(options.timeout)
            .test_before_acquire(false)
    };
    let failed = |source| Error::Open {
        address: address.clone(),
        hint: "; is there a folder for the file, and may this user write to it?",
        source,
    };
    let mut watched = None;
    let mut pools = if is_in_memory {
        // The database is gone with its connection: there is one, and it stays.
        let only = pool(1).connect_with(connect).await.map_err(failed)?;
        Pools { durable: only.clone(), volatile: only.clone(), readers: only, listener: None }
    } else {
        let connect = connect
            .journal_mode(SqliteJournalMode::Wal)
            .pragma("journal_size_limit", (64 << 20).to_string());
        let full = connect.clone().synchronous(SqliteSynchronous::Full);
        let normal = connect.synchronous(SqliteSynchronous::Normal);
        let opened = |result: Result<SqlitePool, sqlx::Error>| result.map_err(failed);
        let durable = opened(pool(1).connect_with(full).await)?;
        let volatile = opened(pool(1).connect_with(normal.clone()).await)?;
        let connections = pool(options.connections.max(1));
        let readers = opened(connections.connect_with(normal.clone()).await)?;
        watched = Some(normal);
        Pools { durable, volatile, readers, listener: None }
    };
    migrate(&pools.durable)
        .await
        .map_err(|source| Error::Migrate { address: address.clone(), source })?;
    if let Some(connect) = watched {
        pools.listener = Some(Listener::start(&connect, notices).await.map_err(failed)?);
    }
    Ok((pools, address))
}

/// In one transaction: of two processes that open the file at once, one finds the tables made.
async fn migrate(pool: &SqlitePool) -> Result<(), sqlx::migrate::MigrateError> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    // `run` is this; but its future is not found to be `Send`.
    migrator(&SQLITE).run_direct(None, &mut *transaction, false).await?;
    transaction.commit().await?;
    Ok(())
}

/// Whether a code of an error is `SQLITE_BUSY` or `SQLITE_LOCKED`, or an extended form of these.
pub(crate) fn is_busy(code: &str) -> bool {
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6))
}
