//! Workers are killed with `kill -9`, and the database restarted: nothing is lost, nothing
//! finished twice.
//!
//! Workers are processes: this test program, started again for one of its ignored tests. A trigger
//! in the database notes each time that a job ends, whatever the queue itself believes.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use distorch_queue::{Queue, QueueOptions, State, Status};
use sqlx::{Connection, PgConnection, SqliteConnection};
use uuid::Uuid;

use crate::postgres::Server;
use crate::support::{Place, job, outcome, worker};

const JOBS: usize = 200;
const KILLS: usize = 20;

/// How long a worker's lease is: what was running when it was killed waits for that.
const LEASE: Duration = Duration::from_millis(600);

/// A job takes up to as many milliseconds.
const LONGEST_JOB: u64 = 30;

const NAMES: [&str; 2] = ["DISTORCH_TEST_QUEUE", "DISTORCH_TEST_WORKER"];

/// No job may become an error because its workers were killed: here that is no fault of its own.
fn options() -> QueueOptions {
    QueueOptions { max_lost: 1_000, connections: 4, ..QueueOptions::default() }
}

/// A small generator (Steele, Lea and Flood: SplitMix64), seeded so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// A process of this program that runs one of the tests below.
fn spawn(test: &str, address: &str, name: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .envs(NAMES.into_iter().zip([address, name]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The queue and the name that a process was started with.
async fn spawned() -> (Queue, String) {
    let [address, name] = NAMES.map(|name| std::env::var(name).expect("started by another test"));
    (Queue::open(&address, options()).await.unwrap(), name)
}

/// Runs jobs for ever; says `done` after each that counted.
async fn run_jobs(queue: &Queue, name: &str) {
    let mut random = Random(std::process::id().into());
    loop {
        let claimed = queue.next(&worker(name), LEASE, LEASE / 4).await.unwrap();
        let hold = queue.hold(claimed.attempt, LEASE / 3);
        tokio::time::sleep(Duration::from_millis(random.below(LONGEST_JOB))).await;
        if queue.finish(claimed.attempt, &outcome(Status::Success)).await.unwrap() {
            say(&format!("done {}", claimed.attempt.job));
        }
        drop(hold);
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").and_then(|()| out.flush()).unwrap();
}

#[tokio::test]
#[ignore = "a process of the tests below"]
async fn worker_process() {
    let (queue, name) = spawned().await;
    run_jobs(&queue, &name).await;
}

#[tokio::test]
#[ignore = "a process of the tests below"]
async fn server_process() {
    let (queue, name) = spawned().await;
    queue.release_worker(&name).await.unwrap();
    tokio::join!(run_jobs(&queue, &name), async {
        loop {
            let id = Uuid::new_v4();
            queue.submit(&distorch_queue::NewJob { id, ..job(0) }).await.unwrap();
            say(&format!("accepted {id}"));
            tokio::time::sleep(Duration::from_millis(LONGEST_JOB / 2)).await;
        }
    });
}

/// Reads a process's lines on a thread, so that it never waits for a reader.
fn follow(out: ChildStdout, lines: std::sync::mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
}

fn kill(mut process: Child) {
    // It is at work until then: it did not fail, such as when the server was restarted.
    assert!(process.try_wait().unwrap().is_none(), "a process ended by itself");
    // On Unix this is SIGKILL.
    process.kill().unwrap();
    process.wait().unwrap();
}

const NOTE_TABLE: &str = "CREATE TABLE noted (id TEXT NOT NULL)";
const ENDED: &str =
    "OLD.state IN ('pending', 'running') AND NEW.state NOT IN ('pending', 'running')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_on_postgres_die_and_nothing_is_lost_or_done_twice() {
    let Some(server) = Server::start() else { return };
    let address = server.database("crash");
    let queue = Queue::open(&address, options()).await.unwrap();
    let mut connection = PgConnection::connect(&address).await.unwrap();
    let statement = format!(
        "{NOTE_TABLE};
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
         'BEGIN INSERT INTO noted VALUES (NEW.id); RETURN NEW; END';
         CREATE TRIGGER note AFTER UPDATE ON queue_jobs FOR EACH ROW WHEN ({ENDED})
         EXECUTE FUNCTION note();"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    let (lines, news) = std::sync::mpsc::channel();
    let start = |at: usize| {
        let test = "crash::worker_process";
        let mut process = spawn(test, &address, &format!("worker-{}", at % 3));
        follow(process.stdout.take().unwrap(), lines.clone());
        process
    };
    let mut workers: Vec<_> = (0..3).map(start).collect();
    let mut random = Random(13);
    let (mut kills, mut restarts, mut done, mut submitted) = (0, 0, 0, 0);
    while done < JOBS {
        // As many jobs as the kills until now allow: however slow this process is, work is left for each kill to come.
        while submitted < (kills + 1) * JOBS / (KILLS + 1) {
            queue.submit(&job(submitted.try_into().unwrap())).await.unwrap();
            submitted += 1;
        }
        let line = news.recv_timeout(Duration::from_secs(90)).expect("workers go on");
        if !line.starts_with("done") {
            continue;
        }
        done = distinct(&queue, State::Success).await;
        // In the middle of these, so that a worker has one.
        if kills < KILLS && submitted - done <= JOBS / (KILLS + 1) / 2 {
            std::thread::sleep(Duration::from_millis(random.below(LONGEST_JOB)));
            let at = usize::try_from(random.below(3)).unwrap();
            kill(workers.swap_remove(at));
            workers.push(start(kills));
            kills += 1;
        }
        if restarts < 2 && done >= (restarts + 1) * JOBS / 3 {
            server.restart();
            restarts += 1;
        }
    }
    workers.into_iter().for_each(kill);
    assert_eq!((kills, restarts), (KILLS, 2));

    let mut connection = PgConnection::connect(&address).await.unwrap();
    let noted: Vec<String> =
        sqlx::query_scalar("SELECT id FROM noted").fetch_all(&mut connection).await.unwrap();
    let lost: i64 = sqlx::query_scalar("SELECT CAST(sum(lost) AS BIGINT) FROM queue_jobs")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(lost > 0, "no worker was killed while it had a job: the test proves nothing");
    let expected: HashSet<_> =
        (0..JOBS).map(|id| Uuid::from_u128(id.try_into().unwrap()).to_string()).collect();
    check(&queue, &noted, &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_sqlite_dies_and_nothing_is_lost_or_done_twice() {
    let place = Place::sqlite();
    let queue = place.open_with(options()).await;
    let mut connection = SqliteConnection::connect(&place.address).await.unwrap();
    let statement = format!(
        "{NOTE_TABLE};
         CREATE TRIGGER note AFTER UPDATE ON queue_jobs WHEN {ENDED}
         BEGIN INSERT INTO noted VALUES (NEW.id); END;"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();

    let (lines, news) = std::sync::mpsc::channel();
    let start = |test: &str| {
        let mut process = spawn(test, &place.address, "server");
        follow(process.stdout.take().unwrap(), lines.clone());
        process
    };
    let mut random = Random(31);
    let mut accepted = HashSet::new();
    let mut kills = 0;
    let mut server = start("crash::server_process");
    // What was said to be accepted, by whichever process, must be there in the end.
    while accepted.len() < JOBS || kills < KILLS {
        let line = news.recv_timeout(Duration::from_secs(90)).expect("the server goes on");
        let Some(id) = line.strip_prefix("accepted ") else { continue };
        accepted.insert(id.to_owned());
        if kills < KILLS && accepted.len() >= (kills + 1) * JOBS / (KILLS + 1) {
            std::thread::sleep(Duration::from_millis(random.below(LONGEST_JOB)));
            kill(server);
            server = start("crash::server_process");
            kills += 1;
        }
    }
    kill(server);
    // No more come; one process ends what is left.
    queue.release_worker("server").await.unwrap();
    let rest = start("crash::worker_process");
    while queue.remaining().await.unwrap() > 0 {
        news.recv_timeout(Duration::from_secs(90)).expect("the worker goes on");
    }
    kill(rest);

    let noted: Vec<String> =
        sqlx::query_scalar("SELECT id FROM noted").fetch_all(&mut connection).await.unwrap();
    let lost: i64 = sqlx::query_scalar("SELECT sum(lost) FROM queue_jobs")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(lost > 0, "the server was never killed while it had a job: the test proves nothing");
    let known = queue.history(None, None).await.unwrap();
    let known: HashSet<_> = known.iter().map(|record| record.job.id.to_string()).collect();
    let missing: Vec<_> = accepted.difference(&known).collect();
    assert!(missing.is_empty(), "accepted and lost: {missing:?}");
    // One that was killed before it could say that it accepted is there too.
    check(&queue, &noted, &known).await;
}

async fn distinct(queue: &Queue, state: State) -> usize {
    let filter =
        distorch_queue::JobFilter { states: vec![state], limit: Some(0), ..Default::default() };
    usize::try_from(queue.jobs(&filter).await.unwrap().total).unwrap()
}

/// All of these jobs have succeeded, with a result, and ended once.
async fn check(queue: &Queue, noted: &[String], expected: &HashSet<String>) {
    assert_eq!(queue.remaining().await.unwrap(), 0);
    let history = queue.history(None, None).await.unwrap();
    assert_eq!(history.len(), expected.len());
    for record in &history {
        assert_eq!(record.job.state, State::Success);
        let result = record.result.as_ref().unwrap();
        assert_eq!(result.outputs, outcome(Status::Success).outputs);
    }
    assert_eq!(noted.len(), expected.len(), "some ended twice");
    assert_eq!(&noted.iter().cloned().collect::<HashSet<_>>(), expected);
}
