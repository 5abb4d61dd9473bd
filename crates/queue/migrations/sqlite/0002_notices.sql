-- What PostgreSQL does with LISTEN and NOTIFY. Who listens, until when without a sign of life:
CREATE TABLE queue_listeners (
    id    TEXT PRIMARY KEY,
    until INTEGER NOT NULL
);

-- What they are told, for a while. A number is never used again: a gap says that something was dropped unread.
CREATE TABLE queue_notices (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    sender TEXT NOT NULL,
    at     INTEGER NOT NULL,
    notice TEXT NOT NULL
);
CREATE INDEX queue_notices_at ON queue_notices (at);
