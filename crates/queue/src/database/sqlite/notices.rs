//! Notices between the processes that share a file: rows, which are written with what they are about while another
//! process listens, and which each process looks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, Sqlite, SqliteConnection, Transaction};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::database::Dialect;
use crate::notice::{Notice, NoticeKind};

/// How often the file is looked at. Where nothing was written since, that reads a number in memory.
const LOOK: Duration = Duration::from_millis(200);

/// How often a process says that it listens, and how long that holds, in milliseconds: where it was killed, the others
/// write for nobody until then.
const RENEW: Duration = Duration::from_secs(30);
const LISTENING: i64 = 90_000;

/// How long notices are kept, in milliseconds.
const KEPT: i64 = 60_000;

/// The bytes of a progress or event that is sent along; what is larger is read by who wants it.
const BODY: usize = 8_000;

/// A process among those that share the file.
pub(crate) struct Listener {
    /// Its name, which its notices carry.
    pub id: Arc<str>,
    /// Whether another process listened when this one looked last.
    is_shared: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Begins to listen: all that others write from now on goes to `notices`.
    pub async fn start(
        options: &SqliteConnectOptions,
        notices: broadcast::Sender<Notice>,
    ) -> Result<Self, sqlx::Error> {
        let mut connection = options.connect().await?;
        let id: Arc<str> = Uuid::new_v4().to_string().into();
        let is_shared = Arc::new(AtomicBool::new(false));
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        register(&mut transaction, &id).await?;
        let last = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'queue_notices'), 0) AS seq";
        let last = sqlx::query(last).fetch_one(&mut *transaction).await?.try_get("seq")?;
        transaction.commit().await?;
        let mut reader =
            Reader { connection, id: Arc::clone(&id), is_shared: Arc::clone(&is_shared), last };
        reader.read(&notices).await?;
        Ok(Self { id, is_shared, task: tokio::spawn(reader.follow(notices)) })
    }

    /// Whether another process listened when this one looked last.
    pub fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    /// Says that nobody listens any more. Where that fails, it is said by the time that passes.
    pub async fn end(&self, transaction: &mut Transaction<'static, Sqlite>) {
        self.task.abort();
        let ended = sqlx::query("DELETE FROM queue_listeners WHERE id = $1").bind(&*self.id);
        if let Err(error) = ended.execute(&mut **transaction).await {
            tracing::debug!(%error, "the queue's file still says that this process listens");
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Writes a notice for other processes, where there are any.
pub(crate) async fn write(
    transaction: &mut Transaction<'static, Sqlite>,
    sender: &str,
    notice: &Notice,
) -> Result<(), sqlx::Error> {
    let mut notice = notice.clone();
    notice.body = notice.body.filter(|body| body.as_str().len() <= BODY);
    let text = serde_json::to_string(&notice).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let statement = Dialect::Sqlite.text(
        "INSERT INTO queue_notices (sender, at, notice) SELECT $1, {now}, $2 \
         WHERE EXISTS (SELECT 1 FROM queue_listeners WHERE id <> $1 AND until > {now})",
    );
    let query = sqlx::query(AssertSqlSafe(statement)).bind(sender).bind(text);
    query.execute(&mut **transaction).await?;
    Ok(())
}

/// Says that a process listens, and drops what nobody needs any more.
async fn register(transaction: &mut Transaction<'_, Sqlite>, id: &str) -> Result<(), sqlx::Error> {
    let text = |statement| sqlx::query(AssertSqlSafe(Dialect::Sqlite.text(statement)));
    let listens = text(
        "INSERT INTO queue_listeners (id, until) VALUES ($1, {now} + $2) \
         ON CONFLICT (id) DO UPDATE SET until = excluded.until",
    );
    listens.bind(id).bind(LISTENING).execute(&mut **transaction).await?;
    text("DELETE FROM queue_listeners WHERE until <= {now}").execute(&mut **transaction).await?;
    let old = text("DELETE FROM queue_notices WHERE at < {now} - $1");
    old.bind(KEPT).execute(&mut **transaction).await?;
    Ok(())
}

/// What reads the notices of other processes.
struct Reader {
    connection: SqliteConnection,
    id: Arc<str>,
    is_shared: Arc<AtomicBool>,
    /// The last that was read.
    last: i64,
}

impl Reader {
    async fn follow(mut self, notices: broadcast::Sender<Notice>) {
        let (mut version, mut renewed, mut is_broken) = (None, Instant::now(), false);
        loop {
            tokio::time::sleep(LOOK).await;
            let due = renewed.elapsed() >= RENEW;
            match self.look(&mut version, due, &notices).await {
                Ok(()) => is_broken = false,
                Err(error) if is_broken => tracing::debug!(%error, "no notices yet"),
                Err(error) => {
                    tracing::warn!(%error, "notices of other processes cannot be read from the queue's file");
                    is_broken = true;
                }
            }
            if due && !is_broken {
                renewed = Instant::now();
            }
        }
    }

    /// Reads what is new, where anything is. `version` is that of the file when it was last looked at.
    async fn look(
        &mut self,
        version: &mut Option<i64>,
        renew: bool,
        notices: &broadcast::Sender<Notice>,
    ) -> Result<(), sqlx::Error> {
        if renew {
            self.renew().await?;
        }
        let row = sqlx::query("PRAGMA data_version").fetch_one(&mut self.connection).await?;
        let now = Some(row.try_get::<i64, _>(0)?);
        if now != *version {
            self.read(notices).await?;
            *version = now;
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), sqlx::Error> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        register(&mut transaction, &self.id).await?;
        transaction.commit().await
    }

    /// Passes on what others have written since the last time.
    async fn read(&mut self, notices: &broadcast::Sender<Notice>) -> Result<(), sqlx::Error> {
        let listeners = Dialect::Sqlite.text(
            "SELECT EXISTS (SELECT 1 FROM queue_listeners WHERE id = $1 AND until > {now}) AS own, \
             EXISTS (SELECT 1 FROM queue_listeners WHERE id <> $1 AND until > {now}) AS others",
        );
        let query = sqlx::query(AssertSqlSafe(listeners)).bind(&*self.id);
        let row = query.fetch_one(&mut self.connection).await?;
        self.is_shared.store(row.try_get("others")?, Ordering::Relaxed);
        if !row.try_get::<bool, _>("own")? {
            // The machine slept, or the clock was changed: what was done meanwhile was not written for this process.
            self.renew().await?;
            self.send(notices, Notice::several(NoticeKind::Missed));
        }
        let query = sqlx::query(
            "SELECT seq, CASE WHEN sender = $1 THEN NULL ELSE notice END AS notice \
             FROM queue_notices WHERE seq > $2 ORDER BY seq",
        );
        let rows = query.bind(&*self.id).bind(self.last).fetch_all(&mut self.connection).await?;
        for row in rows {
            let seq: i64 = row.try_get("seq")?;
            if seq > self.last.saturating_add(1) {
                self.send(notices, Notice::several(NoticeKind::Missed));
            }
            self.last = seq;
            let Some(text) = row.try_get::<Option<String>, _>("notice")? else { continue };
            match serde_json::from_str(&text) {
                Ok(notice) => self.send(notices, notice),
                Err(error) => tracing::warn!(%error, "a notice of another version is left out"),
            }
        }
        Ok(())
    }

    fn send(&self, notices: &broadcast::Sender<Notice>, notice: Notice) {
        // An error says that nobody is subscribed.
        let _ = notices.send(notice);
    }
}
