//! A queue of jobs in a database.
