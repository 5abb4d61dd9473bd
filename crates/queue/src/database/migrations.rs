//! What a database is brought to: the statements of the folder `migrations`, which are in the program.
//!
//! sqlx has a macro for this; with it, the whole of sqlx is compiled once more, for the compiler's own use.

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A file's name without its number and ending, and what is in it.
pub(super) type File = (&'static str, &'static str);

pub(super) const SQLITE: [File; 2] = [
    ("queue", include_str!("../../migrations/sqlite/0001_queue.sql")),
    ("notices", include_str!("../../migrations/sqlite/0002_notices.sql")),
];

pub(super) const POSTGRES: [File; 1] =
    [("queue", include_str!("../../migrations/postgres/0001_queue.sql"))];

/// Applies what is not yet, from the first file, whose number is 1, to the last.
pub(super) fn migrator(files: &[File]) -> Migrator {
    let migration = |(number, (name, statements)): (i64, &File)| {
        let statements = SqlStr::from_static(statements);
        Migration::new(number, (*name).into(), MigrationType::Simple, statements, false)
    };
    Migrator::with_migrations((1..).zip(files).map(migration).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// None is forgotten, and each has the number that it is applied by.
    #[test]
    fn the_folders_files_are_all() {
        for (folder, files) in [("sqlite", &SQLITE[..]), ("postgres", &POSTGRES[..])] {
            let folder = format!("{}/migrations/{folder}", env!("CARGO_MANIFEST_DIR"));
            let entries = std::fs::read_dir(folder).unwrap();
            let mut found: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            found.sort();
            let migrator = migrator(files);
            let applied =
                migrator.iter().map(|it| format!("{:04}_{}.sql", it.version, it.description));
            assert_eq!(applied.collect::<Vec<_>>(), found);
        }
    }
}
