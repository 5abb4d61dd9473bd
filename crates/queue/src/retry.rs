//! Operations are tried again while the database is away.
//!
//! That is safe for all of them: each is one transaction, and those that would count twice write a
//! token, by which a second try finds that the first was committed although its answer was lost.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::database::Database;
use crate::error::{Error, Failure};
use crate::options::QueueOptions;

/// One try. Boxed, so that the compiler sees that the futures of the public functions are `Send`.
pub(crate) type Try<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// The tries of one operation.
pub(crate) struct Retry {
    until: Instant,
    delay: Duration,
}

impl Retry {
    const FIRST: Duration = Duration::from_millis(20);
    const LONGEST: Duration = Duration::from_secs(1);

    pub fn new(options: &QueueOptions) -> Self {
        Self { until: Instant::now() + options.retry_for, delay: Self::FIRST }
    }

    /// Waits before the next try, or returns the error that ends them.
    pub async fn after(
        &mut self,
        database: &Database,
        doing: &'static str,
        source: sqlx::Error,
    ) -> Result<(), Error> {
        if !database.is_transient(&source) || Instant::now() + self.delay > self.until {
            return Err(Error::Database { address: database.address.clone(), doing, source });
        }
        tracing::debug!(error = %source, doing, "the queue's database is asked again");
        tokio::time::sleep(self.delay).await;
        self.delay = (self.delay * 2).min(Self::LONGEST);
        Ok(())
    }
}

/// Runs the future that an expression makes, and makes another while the database is away.
macro_rules! retry {
    ($queue:expr, $doing:literal, $once:expr) => {{
        let queue = $queue;
        let mut retry = $crate::retry::Retry::new(queue.options());
        loop {
            let once: $crate::retry::Try<'_, _> = Box::pin($once);
            let source = match tokio::time::timeout(queue.options().timeout, once).await {
                Ok(Ok(value)) => break Ok(value),
                Ok(Err($crate::error::Failure::Refused(error))) => break Err(error),
                Ok(Err($crate::error::Failure::Database(source))) => source,
                Err(_) => sqlx::Error::PoolTimedOut,
            };
            if let Err(error) = retry.after(queue.database(), $doing, source).await {
                break Err(error);
            }
        }
    }};
}
pub(crate) use retry;
