//! Opening a database is tried again while it may succeed a little later.

use std::time::Duration;

use sqlx::migrate::MigrateError;
use tokio::time::Instant;

use crate::error::Error;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Opens a database by `once`, and again for up to `patience` while its errors pass: those of the connection, and those of the
/// database whose code is `transient`.
pub(super) async fn again<T, F: Future<Output = Result<T, Error>>>(
    patience: Duration,
    transient: fn(&str) -> bool,
    once: impl Fn() -> F,
) -> Result<T, Error> {
    let until = Instant::now() + patience;
    loop {
        let error = match once().await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        if Instant::now() + PAUSE > until || !may_pass(&error, transient) {
            return Err(error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether opening may succeed a little later.
fn may_pass(error: &Error, transient: fn(&str) -> bool) -> bool {
    let source = match error {
        Error::Open { source, .. } => source,
        Error::Migrate {
            source: MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _),
            ..
        } => source,
        _ => return false,
    };
    match source {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => transient(&error.code().unwrap_or_default()),
        _ => false,
    }
}
