//! PostgreSQL: one queue for several machines.

use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use sqlx::{Postgres, Transaction};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::migrations::{POSTGRES, migrator};
use super::opening;
use crate::error::Error;
use crate::notice::{Notice, NoticeKind};
use crate::options::QueueOptions;

/// The channel of `LISTEN` and `NOTIFY`.
const CHANNEL: &str = "distorch_queue";

/// PostgreSQL refuses a payload of 8000 bytes or more: what is larger is read by who wants it.
const PAYLOAD: usize = 7900;

/// A lock that no other program takes by chance: the first bytes of the crate's name.
const TURNS: i64 = 0x6469_7374_6f72_6368;

/// How long a server may be silent before it is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(30);

/// How long opening a queue waits for a server that is not up yet.
const OPENING: Duration = Duration::from_secs(10);

/// Connects, and brings the tables to this version. Returns the address without a password.
pub(crate) async fn open(address: &str, options: &QueueOptions) -> Result<(PgPool, String), Error> {
    let connect = PgConnectOptions::from_str(address)
        .map_err(|error| Error::Address { reason: error.to_string() })?;
    let address = without_password(&connect);
    let connect = connect
        .application_name("distorch")
        // A server that hangs must not hold the others up.
        .options([("lock_timeout", format!("{}ms", options.timeout.as_millis()))]);
    let patience = options.timeout.min(OPENING);
    // It may be starting, or ending to start again.
    let once = || opened(&connect, options, patience, &address);
    let pool = opening::again(patience, is_transient, once).await?;
    Ok((pool, address))
}

/// One try to connect and to bring the tables to this version.
async fn opened(
    connect: &PgConnectOptions,
    options: &QueueOptions,
    patience: Duration,
    address: &str,
) -> Result<PgPool, Error> {
    let pool = PgPoolOptions::new()
        .max_connections(options.connections.max(1))
        .acquire_timeout(patience)
        .connect_with(connect.clone())
        .await
        .map_err(|source| Error::Open {
            address: address.to_owned(),
            hint: "; is the server up, and does the database exist?",
            source,
        })?;
    migrate(&pool)
        .await
        .map_err(|source| Error::Migrate { address: address.to_owned(), source })?;
    Ok(pool)
}

async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    let mut connection = pool.acquire().await?;
    // `run` is this; but its future is not found to be `Send`.
    migrator(&POSTGRES).run_direct(None, &mut *connection, false).await
}

fn without_password(options: &PgConnectOptions) -> String {
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let user = options.get_username();
    let database = options.get_database().unwrap_or(user);
    format!("postgres://{user}@{place}/{database}")
}

/// Whether the code of an error says that the server is away or another transaction was in the way.
pub(crate) fn is_transient(code: &str) -> bool {
    const CODES: [&str; 8] = [
        "40001", // serialization_failure
        "40P01", // deadlock_detected
        "53300", // too_many_connections
        "55P03", // lock_not_available
        "57P01", // admin_shutdown
        "57P02", // crash_shutdown
        "57P03", // cannot_connect_now
        "57P05", // idle_session_timeout
    ];
    code.starts_with("08") || CODES.contains(&code)
}

pub(crate) async fn take_turns(
    transaction: &mut Transaction<'static, Postgres>,
) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(TURNS).execute(&mut **transaction).await?;
    Ok(())
}

/// Has the server tell all listeners when the transaction is committed.
pub(crate) async fn notify(
    transaction: &mut Transaction<'static, Postgres>,
    mut notice: Notice,
) -> Result<(), sqlx::Error> {
    let encode = |notice: &Notice| {
        serde_json::to_string(notice).map_err(|error| sqlx::Error::Encode(Box::new(error)))
    };
    if notice.body.as_ref().is_some_and(|body| body.as_str().len() > PAYLOAD) {
        notice.body = None;
    }
    let mut payload = encode(&notice)?;
    if payload.len() > PAYLOAD {
        notice.body = None;
        payload = encode(&notice)?;
    }
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind(CHANNEL)
        .bind(payload)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Listens on a connection of its own, and connects again when that breaks.
pub(crate) async fn listen(
    pool: &PgPool,
    address: &str,
    notices: broadcast::Sender<Notice>,
) -> Result<JoinHandle<()>, Error> {
    let connect = pool.connect_options().as_ref().clone();
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(OPENING)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with(connect);
    let once = async || {
        connected(&pool).await.map_err(|source| Error::Open {
            address: address.to_owned(),
            hint: "; LISTEN needs a session of its own: a pooler that shares sessions has none",
            source,
        })
    };
    let mut listener = opening::again(OPENING, is_transient, once).await?;
    let address = address.to_owned();
    Ok(tokio::spawn(async move {
        loop {
            let reason = forward(&mut listener, &notices).await;
            tracing::warn!(queue = address, %reason, "notices of the queue are interrupted");
            drop(listener);
            listener = loop {
                match connected(&pool).await {
                    Ok(listener) => break listener,
                    Err(error) => tracing::debug!(queue = address, %error, "no notices yet"),
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            };
            let _ = notices.send(Notice::several(NoticeKind::Missed));
        }
    }))
}

async fn connected(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// Passes notices on until the connection breaks; returns why it did.
async fn forward(listener: &mut PgListener, notices: &broadcast::Sender<Notice>) -> String {
    loop {
        match tokio::time::timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => match serde_json::from_str(notification.payload()) {
                Ok(notice) => {
                    // An error says that nobody is subscribed.
                    let _ = notices.send(notice);
                }
                Err(error) => tracing::warn!(%error, "a notice of another version is left out"),
            },
            Ok(Ok(None)) => return "the connection is lost".to_owned(),
            Ok(Err(error)) => return error.to_string(),
            Err(_) => {
                // A connection whose other end vanished reports nothing until it is written to.
                let ping = sqlx::query("SELECT 1").execute(&mut *listener);
                match tokio::time::timeout(SILENCE, ping).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return error.to_string(),
                    Err(_) => return "the server does not answer".to_owned(),
                }
            }
        }
    }
}
