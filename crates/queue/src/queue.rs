//! The queue's handle.

mod attempt;
mod cancel;
mod claim;
mod history;
mod listing;
mod submit;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

pub use history::HistoryPages;

use crate::database::Database;
use crate::error::Error;
use crate::notice::Notices;
use crate::options::QueueOptions;

/// A queue of jobs in a database. Clones share connections.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    database: Database,
    options: QueueOptions,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl Queue {
    /// Opens the queue at an address, and makes its tables where they are not there.
    ///
    /// - `sqlite:PATH`: a file, which is made where it is absent. Processes of one machine may
    ///   share it; they look for each other's notices five times a second.
    /// - `sqlite::memory:`: gone with the handle.
    /// - `postgres://USER:PASSWORD@HOST:PORT/DATABASE`: for several machines. The database should
    ///   be the queue's own.
    ///
    /// # Errors
    /// Where the address is not valid, the database cannot be opened, or its tables were made by a
    /// newer version.
    pub async fn open(address: &str, options: QueueOptions) -> Result<Self, Error> {
        // Boxed, so that the compiler sees that this future is `Send`.
        let opening: Pin<Box<dyn Future<Output = _> + Send + '_>> =
            Box::pin(Database::open(address, &options));
        let database = opening.await?;
        Ok(Self { shared: Arc::new(Shared { database, options }) })
    }

    /// The database's address, without a password.
    pub fn address(&self) -> &str {
        &self.shared.database.address
    }

    /// The limits that it was opened with.
    pub fn options(&self) -> &QueueOptions {
        &self.shared.options
    }

    /// Whether other processes may hear of what happens: always on PostgreSQL, on SQLite where one
    /// had the file open when this one looked last.
    pub fn is_shared(&self) -> bool {
        self.shared.database.is_shared()
    }

    /// All that happens from now on, here and in other processes.
    pub fn subscribe(&self) -> Notices {
        Notices(self.shared.database.subscribe())
    }

    /// Closes the connections, of all clones. Operations fail afterwards.
    pub async fn close(&self) {
        self.shared.database.close().await;
    }

    pub(crate) fn database(&self) -> &Database {
        &self.shared.database
    }
}
