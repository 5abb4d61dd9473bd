//! A part of a file in its pages.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::error::Problem;
use super::mapped::Mapped;

/// A part of a tensor's data in the pages of its file: nothing is copied, and what the system caches is
/// all the memory that it takes. The process is charged with pages that were looked at until
/// [`Checkpoint::release_all`](super::Checkpoint::release_all) lets go of them; the system takes them back when
/// it needs memory.
///
/// Looking at it ends no process, whatever happens to the file; but what is seen of a file that was
/// changed meanwhile is not what was opened. So look first, then ask
/// [`Checkpoint::check`](super::Checkpoint::check).
pub struct View {
    map: Arc<Mapped>,
    span: Range<usize>,
}

impl View {
    /// These bytes of a map, which are in the system's cache now; `None` where the map is not guarded.
    pub(super) fn of(map: &Arc<Mapped>, span: Range<usize>) -> Result<Option<Self>, Problem> {
        Ok(map.prepare(&span)?.then(|| Self { map: Arc::clone(map), span }))
    }
}

impl Deref for View {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.bytes().get(self.span.clone()).unwrap_or_default()
    }
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("span", &self.span).finish_non_exhaustive()
    }
}
