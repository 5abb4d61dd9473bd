//! A lease that renews itself.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::job::{Attempt, LeaseStatus};
use crate::notice::NoticeKind;
use crate::queue::Queue;

/// Renews the lease of a claimed job in the background, and learns when the job should stop. It
/// ends when it is dropped.
#[derive(Debug)]
pub struct Hold {
    status: watch::Receiver<LeaseStatus>,
    task: JoinHandle<()>,
}

impl Queue {
    /// Keeps a claimed job for as long as the value lives, which should be until it is finished
    /// or released. `every` is how often the lease is renewed: a third of it is a good measure.
    pub fn hold(&self, attempt: Attempt, every: Duration) -> Hold {
        let (sender, status) = watch::channel(LeaseStatus::Held);
        let queue = self.clone();
        let mut notices = queue.subscribe();
        let task = tokio::spawn(async move {
            loop {
                match queue.heartbeat(attempt).await {
                    Ok(status) => {
                        sender.send_replace(status);
                        if status == LeaseStatus::Lost {
                            return;
                        }
                    }
                    // The work goes on: whether it counts, the database decides.
                    Err(error) => tracing::warn!(%error, job = %attempt.job, "no heartbeat"),
                }
                let asked = async {
                    while let Some(notice) = notices.next().await {
                        let is_cancel = notice.kind == NoticeKind::CancelRequested
                            && notice.job == Some(attempt.job);
                        if is_cancel || notice.kind == NoticeKind::Missed {
                            return;
                        }
                    }
                    std::future::pending().await
                };
                let _ = tokio::time::timeout(every, asked).await;
            }
        });
        Hold { status, task }
    }
}

impl Hold {
    /// What the last renewal found.
    pub fn status(&self) -> LeaseStatus {
        *self.status.borrow()
    }

    /// Waits until the job should stop: it was cancelled, or the lease is lost. Losing the future
    /// loses nothing.
    pub async fn stopped(&mut self) -> LeaseStatus {
        match self.status.wait_for(|&status| status != LeaseStatus::Held).await {
            Ok(status) => *status,
            // The sender ends with the task, and that ends where the lease is lost.
            Err(_) => LeaseStatus::Lost,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.task.abort();
    }
}
