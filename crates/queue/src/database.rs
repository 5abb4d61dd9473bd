//! Either database behind one way to run statements.
//!
//! Statements are written once, in what SQLite and PostgreSQL share; [`Dialect::text`] fills in the
//! few places where they differ.

mod migrations;
mod opening;
mod postgres;
mod sqlite;

use std::sync::Arc;

use sqlx::postgres::{PgPool, PgRow};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Postgres, Row as _, Sqlite, Transaction};
use tokio::sync::broadcast;

use crate::error::{Error, Failure};
use crate::json::Json;
use crate::notice::{BACKLOG, Notice};
use crate::options::QueueOptions;

/// Where notices go, and what sends them there for as long as the queue is open.
pub(crate) struct Database {
    /// For messages: without a password.
    pub address: String,
    pools: Pools,
    notices: broadcast::Sender<Notice>,
    listener: Option<tokio::task::JoinHandle<()>>,
}

enum Pools {
    Sqlite(sqlite::Pools),
    Postgres(PgPool),
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads, all of the same moment.
    Read,
    /// Writes that must not be lost, not even when the machine loses power.
    Durable,
    /// Writes that may be lost with the machine, not with the process: progress, leases.
    Volatile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// Two that end at once may have the same; `seq` orders these.
const NEXT_PLACE: &str =
    "(SELECT coalesce(max(place), 0) + 1 FROM queue_jobs WHERE place IS NOT NULL)";

impl Dialect {
    /// A statement of this database.
    ///
    /// - `{now}`: milliseconds since 1970. The database's clock: on PostgreSQL the machines that
    ///   share a queue need no common time; on SQLite all processes are on one machine.
    /// - `{lapsed}`: whether the lease of a running job is over. On PostgreSQL a lease is counted
    ///   from the server's start at the earliest: while it was down no worker could renew. On
    ///   SQLite a lease that ends further away than it is long was taken before the clock was put
    ///   back, and is over too.
    /// - `{next_place}`: behind all that have ended.
    /// - `{skip_locked}`, `{for_update}`: row locks, which SQLite's one writer does not need.
    /// - `{ids}`: the texts in the JSON list `$1`.
    fn text(self, statement: &str) -> String {
        let (now, lapsed, skip_locked, for_update, ids) = match self {
            Self::Sqlite => (
                "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)",
                "(lease_until <= {now} OR lease_until > {now} + 2 * lease_ms)",
                "",
                "",
                "(SELECT value FROM json_each($1))",
            ),
            Self::Postgres => (
                "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
                "(greatest(lease_until, CAST(extract(epoch FROM pg_postmaster_start_time()) * 1000 \
                 AS BIGINT) + lease_ms) <= {now})",
                "FOR UPDATE SKIP LOCKED",
                "FOR UPDATE",
                "(SELECT json_array_elements_text(CAST($1 AS JSON)))",
            ),
        };
        statement
            .replace("{lapsed}", lapsed)
            .replace("{now}", now)
            .replace("{next_place}", NEXT_PLACE)
            .replace("{skip_locked}", skip_locked)
            .replace("{for_update}", for_update)
            .replace("{ids}", ids)
    }
}

impl Database {
    pub async fn open(address: &str, options: &QueueOptions) -> Result<Self, Error> {
        let (notices, _) = broadcast::channel(BACKLOG);
        if address.starts_with("sqlite:") {
            let (pools, address) = sqlite::open(address, options, notices.clone()).await?;
            return Ok(Self { address, pools: Pools::Sqlite(pools), notices, listener: None });
        }
        if address.starts_with("postgres:") || address.starts_with("postgresql:") {
            let (pool, address) = postgres::open(address, options).await?;
            let listener = postgres::listen(&pool, &address, notices.clone()).await?;
            let pools = Pools::Postgres(pool);
            return Ok(Self { address, pools, notices, listener: Some(listener) });
        }
        let scheme = address.split(':').next().unwrap_or_default();
        Err(Error::Address { reason: format!("{scheme:?} is no database that it can be in") })
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    /// Whether other processes may hear of what happens.
    pub fn is_shared(&self) -> bool {
        match &self.pools {
            Pools::Sqlite(pools) => pools.listener.as_ref().is_some_and(|one| one.is_shared()),
            Pools::Postgres(_) => true,
        }
    }

    pub async fn begin(&self, access: Access) -> Result<Tx, sqlx::Error> {
        let inner = match &self.pools {
            Pools::Sqlite(pools) => {
                let sender = pools.listener.as_ref().map(|listener| Arc::clone(&listener.id));
                Inner::Sqlite { transaction: pools.begin(access).await?, sender }
            }
            Pools::Postgres(pool) => Inner::Postgres(match access {
                Access::Read => {
                    pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?
                }
                Access::Durable => pool.begin().await?,
                Access::Volatile => {
                    let mut transaction = pool.begin().await?;
                    sqlx::query("SET LOCAL synchronous_commit TO off")
                        .execute(&mut *transaction)
                        .await?;
                    transaction
                }
            }),
        };
        Ok(Tx { inner, notices: self.notices.clone(), unsent: Vec::new() })
    }

    /// Whether the same operation may succeed later.
    pub fn is_transient(&self, error: &sqlx::Error) -> bool {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
            sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default();
                match &self.pools {
                    Pools::Sqlite(_) => sqlite::is_busy(&code),
                    Pools::Postgres(_) => postgres::is_transient(&code),
                }
            }
            _ => false,
        }
    }

    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite(pools) => pools.close().await,
            Pools::Postgres(pool) => pool.close().await,
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

/// A transaction; it is undone where it is dropped before [`Tx::commit`].
pub(crate) struct Tx {
    inner: Inner,
    notices: broadcast::Sender<Notice>,
    /// Sent within this process after the commit, where the database does not do it.
    unsent: Vec<Notice>,
}

enum Inner {
    Sqlite {
        transaction: Transaction<'static, Sqlite>,
        /// Who writes, where other processes may have the file open.
        sender: Option<Arc<str>>,
    },
    Postgres(Transaction<'static, Postgres>),
}

/// A value for a parameter of a statement.
pub(crate) enum Arg {
    Int(i64),
    Real(f64),
    Text(String),
    MaybeText(Option<String>),
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Arg {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<&str> for Arg {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<uuid::Uuid> for Arg {
    fn from(value: uuid::Uuid) -> Self {
        Self::Text(value.to_string())
    }
}

impl From<&Json> for Arg {
    fn from(value: &Json) -> Self {
        Self::Text(value.as_str().to_owned())
    }
}

impl From<Option<&Json>> for Arg {
    fn from(value: Option<&Json>) -> Self {
        Self::MaybeText(value.map(|json| json.as_str().to_owned()))
    }
}

impl From<&Option<String>> for Arg {
    fn from(value: &Option<String>) -> Self {
        Self::MaybeText(value.clone())
    }
}

/// The arguments of a statement, `$1` first.
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::database::Arg::from($value)),*] };
}
pub(crate) use args;

/// Binds arguments to a query of either database.
macro_rules! bound {
    ($text:expr, $args:expr) => {{
        let mut query = sqlx::query(AssertSqlSafe($text));
        for arg in $args {
            query = match arg {
                Arg::Int(value) => query.bind(value),
                Arg::Real(value) => query.bind(value),
                Arg::Text(value) => query.bind(value),
                Arg::MaybeText(value) => query.bind(value),
            };
        }
        query
    }};
}

impl Tx {
    fn dialect(&self) -> Dialect {
        match &self.inner {
            Inner::Sqlite { .. } => Dialect::Sqlite,
            Inner::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Runs a statement and returns its rows.
    pub async fn rows(&mut self, statement: &str, args: Vec<Arg>) -> Result<Vec<Row>, sqlx::Error> {
        let text = self.dialect().text(statement);
        Ok(match &mut self.inner {
            Inner::Sqlite { transaction, .. } => {
                let rows = bound!(text, args).fetch_all(&mut **transaction).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Inner::Postgres(transaction) => {
                let rows = bound!(text, args).fetch_all(&mut **transaction).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Runs a statement that returns a row at most.
    pub async fn row(
        &mut self,
        statement: &str,
        args: Vec<Arg>,
    ) -> Result<Option<Row>, sqlx::Error> {
        Ok(self.rows(statement, args).await?.into_iter().next())
    }

    /// Runs a statement and returns how many rows it changed.
    pub async fn run(&mut self, statement: &str, args: Vec<Arg>) -> Result<u64, sqlx::Error> {
        let text = self.dialect().text(statement);
        Ok(match &mut self.inner {
            Inner::Sqlite { transaction, .. } => {
                bound!(text, args).execute(&mut **transaction).await?.rows_affected()
            }
            Inner::Postgres(transaction) => {
                bound!(text, args).execute(&mut **transaction).await?.rows_affected()
            }
        })
    }

    /// On PostgreSQL, lets one transaction at a time go on from here, of those that ask.
    pub async fn take_turns(&mut self) -> Result<(), sqlx::Error> {
        if let Inner::Postgres(transaction) = &mut self.inner {
            postgres::take_turns(transaction).await?;
        }
        Ok(())
    }

    /// Tells subscribers, once the transaction is committed.
    pub async fn notify(&mut self, notice: Notice) -> Result<(), sqlx::Error> {
        match &mut self.inner {
            Inner::Sqlite { transaction, sender } => {
                if let Some(sender) = sender {
                    sqlite::notify(transaction, sender, &notice).await?;
                }
                self.unsent.push(notice);
            }
            Inner::Postgres(transaction) => postgres::notify(transaction, notice).await?,
        }
        Ok(())
    }

    pub async fn commit(self) -> Result<(), Failure> {
        match self.inner {
            Inner::Sqlite { transaction, .. } => transaction.commit().await?,
            Inner::Postgres(transaction) => transaction.commit().await?,
        }
        for notice in self.unsent {
            // An error says that nobody is subscribed.
            let _ = self.notices.send(notice);
        }
        Ok(())
    }
}

/// A row of either database.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! column {
    ($row:expr, $name:expr) => {
        match $row {
            Row::Sqlite(row) => row.try_get($name),
            Row::Postgres(row) => row.try_get($name),
        }
    };
}

impl Row {
    pub fn int(&self, name: &str) -> Result<i64, sqlx::Error> {
        column!(self, name)
    }

    pub fn maybe_int(&self, name: &str) -> Result<Option<i64>, sqlx::Error> {
        column!(self, name)
    }

    pub fn real(&self, name: &str) -> Result<f64, sqlx::Error> {
        column!(self, name)
    }

    pub fn text(&self, name: &str) -> Result<String, sqlx::Error> {
        column!(self, name)
    }

    pub fn maybe_text(&self, name: &str) -> Result<Option<String>, sqlx::Error> {
        column!(self, name)
    }

    pub fn json(&self, name: &str) -> Result<Json, sqlx::Error> {
        self.text(name).map(Json::stored)
    }

    pub fn maybe_json(&self, name: &str) -> Result<Option<Json>, sqlx::Error> {
        Ok(self.maybe_text(name)?.map(Json::stored))
    }

    pub fn uuid(&self, name: &'static str) -> Result<uuid::Uuid, Failure> {
        let text = self.text(name)?;
        text.parse().map_err(|_| Error::Damaged { column: name, value: text }.into())
    }
}
