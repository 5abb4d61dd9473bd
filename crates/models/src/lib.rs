//! Forward passes.
