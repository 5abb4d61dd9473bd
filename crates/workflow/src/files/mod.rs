//! The files that a prompt names: those it reads, and those it writes.

pub mod file_name;
pub mod input_file;
