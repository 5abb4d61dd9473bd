-- Times are milliseconds since 1970 (UTC). `seq` is the order of submission, `place` that of ending.
CREATE TABLE queue_jobs (
    seq          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    number       DOUBLE PRECISION NOT NULL,
    client_id    TEXT,
    workflow_id  TEXT,
    state        TEXT NOT NULL
                 CHECK (state IN ('pending', 'running', 'success', 'error', 'interrupted')),
    attempt      BIGINT NOT NULL DEFAULT 0,
    lost         BIGINT NOT NULL DEFAULT 0,
    passed       BIGINT NOT NULL DEFAULT 0,
    worker       TEXT,
    lease_ms     BIGINT,
    lease_until  BIGINT,
    cancel       BIGINT NOT NULL DEFAULT 0,
    created      BIGINT NOT NULL,
    started      BIGINT,
    ended        BIGINT,
    place        BIGINT,
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
    job        BIGINT PRIMARY KEY REFERENCES queue_jobs (seq) ON DELETE CASCADE,
    prompt     TEXT NOT NULL,
    extra_data TEXT NOT NULL,
    outputs    TEXT NOT NULL
);

CREATE TABLE queue_results (
    job      BIGINT PRIMARY KEY REFERENCES queue_jobs (seq) ON DELETE CASCADE,
    token    TEXT NOT NULL,
    outputs  TEXT NOT NULL,
    meta     TEXT NOT NULL,
    messages TEXT NOT NULL
);

CREATE TABLE queue_events (
    seq     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job     BIGINT NOT NULL REFERENCES queue_jobs (seq) ON DELETE CASCADE,
    attempt BIGINT NOT NULL,
    token   TEXT NOT NULL UNIQUE,
    at      BIGINT NOT NULL,
    body    TEXT NOT NULL
);
CREATE INDEX queue_events_job ON queue_events (job, seq);
CREATE INDEX queue_events_at ON queue_events (at);

-- The number of the next job that names none.
CREATE TABLE queue_counter (next BIGINT NOT NULL);
INSERT INTO queue_counter (next) VALUES (0);
