//! Who is told how far the work is.

/// Is told of each stage of the work.
pub trait Reporter {
    /// A stage of this many parts begins; it ends where the result is dropped.
    fn stage(&self, name: &str, parts: u64) -> Box<dyn Stage + '_>;
}

/// A stage of the work that goes on.
pub trait Stage {
    /// One more part is done.
    fn advance(&self);
}

/// Nobody is told.
impl Reporter for () {
    fn stage(&self, _: &str, _: u64) -> Box<dyn Stage + '_> {
        Box::new(())
    }
}

impl Stage for () {
    fn advance(&self) {}
}
