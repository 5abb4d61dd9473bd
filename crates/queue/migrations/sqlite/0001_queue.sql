-- Times are milliseconds since 1970 (UTC). `seq` is the order of submission, `place` that of ending.
CREATE TABLE queue_jobs (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL UNIQUE,
    number       REAL NOT NULL,
    client_id    TEXT,
    workflow_id  TEXT,
    state        TEXT NOT NULL
                 CHECK (state IN ('pending', 'running', 'success', 'error', 'interrupted')),
    attempt      INTEGER NOT NULL DEFAULT 0,
    lost         INTEGER NOT NULL DEFAULT 0,
    passed       INTEGER NOT NULL DEFAULT 0,
    worker       TEXT,
    lease_ms     INTEGER,
    lease_until  INTEGER,
    cancel       INTEGER NOT NULL DEFAULT 0,
    created      INTEGER NOT NULL,
    started      INTEGER,
    ended        INTEGER,
    place        INTEGER,
    submit_token TEXT NOT NULL,
    claim_token  TEXT,
    requires     TEXT NOT NULL,
    error        TEXT,
    summary      TEXT,
    progress     TEXT
);
CREATE INDEX queue_jobs_pending ON queue_jobs (number, seq) WHERE state = 'pending';
CREATE INDEX queue_jobs_running ON queue_jobs (lease_until) WHERE state = 'running';
CREATE INDEX queue_jobs_history ON queue_jobs (place, seq) WHERE place IS NOT NULL;
CREATE INDEX queue_jobs_created ON queue_jobs (created, seq);
CREATE INDEX queue_jobs_workflow ON queue_jobs (workflow_id) WHERE workflow_id IS NOT NULL;

-- What is large and never changes is apart from the rows that a lease renews.
CREATE TABLE queue_payloads (
    job        INTEGER PRIMARY KEY REFERENCES queue_jobs (seq) ON DELETE CASCADE,
    prompt     TEXT NOT NULL,
    extra_data TEXT NOT NULL,
    outputs    TEXT NOT NULL
);

CREATE TABLE queue_results (
    job      INTEGER PRIMARY KEY REFERENCES queue_jobs (seq) ON DELETE CASCADE,
    token    TEXT NOT NULL,
    outputs  TEXT NOT NULL,
    meta     TEXT NOT NULL,
    messages TEXT NOT NULL
);

CREATE TABLE queue_events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    job     INTEGER NOT NULL REFERENCES queue_jobs (seq) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    token   TEXT NOT NULL UNIQUE,
    at      INTEGER NOT NULL,
    body    TEXT NOT NULL
);
CREATE INDEX queue_events_job ON queue_events (job, seq);
CREATE INDEX queue_events_at ON queue_events (at);

-- The number of the next job that names none.
CREATE TABLE queue_counter (next INTEGER NOT NULL);
INSERT INTO queue_counter (next) VALUES (0);
