//! `distorch serve`: ComfyUI's API; `distorch worker`: what runs its prompts elsewhere.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use distorch_queue::{Queue, QueueOptions};
use distorch_runtime::devices::Hardware;
use distorch_server::logs::LogBuffer;
use distorch_server::outputs::Outputs;
use distorch_server::serve::{self, ServeError};
use distorch_server::{AppState, Config, Server, execution, state};
use distorch_workflow::{Environment, Executor, nodes};
use tokio::sync::watch;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::args::{LogFormat, RunningArgs, ServeArgs, Shared, WorkerArgs};
use crate::error::CliError;
use crate::machine;
use crate::session;

/// The environment variable that sets what is logged.
const LOG_VARIABLE: &str = "DISTORCH_LOG";

/// Serves until the program is told to end.
pub fn run(shared: &Shared, args: &ServeArgs) -> Result<(), CliError> {
    let mut config = args.config();
    let prepared = Prepared::new(shared, &args.running)?;
    serve::check_access(&config).map_err(CliError::usage)?;
    let base = prepared.environment.session.folders.base_dir().to_owned();
    config.web = args.web(&base).map_err(CliError::usage)?;
    let address = queue_address(args, &base)?;
    let options = QueueOptions {
        max_pending: args.max_queue.into(),
        max_history: args.max_history.into(),
        ..QueueOptions::default()
    };
    on_runtime(async move {
        let state = prepared.state(config, &address, options).await?;
        let server = Server::bind(state).await.map_err(failure)?;
        tracing::info!("listening on {}", server.url());
        server.run(told_to_end()).await.map_err(failure)
    })
}

/// Runs prompts of a queue until the program is told to end.
pub fn work(shared: &Shared, args: &WorkerArgs) -> Result<(), CliError> {
    let config = args.config();
    let prepared = Prepared::new(shared, &args.running)?;
    let address = args.queue.clone();
    on_runtime(async move {
        let state = prepared.state(config, &address, QueueOptions::default()).await?;
        tracing::info!("working as {}", state.worker_name());
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            told_to_end().await;
            tell.send_replace(true);
        });
        let executor = Executor::new(Arc::clone(&state.environment), Arc::clone(&state.registry));
        let queue = state.queue.clone();
        execution::work(state, executor, told).await;
        queue.close().await;
        Ok(())
    })
}

/// What prompts run on, before there is a queue.
struct Prepared {
    environment: Environment,
    hardware: Vec<Hardware>,
    logs: LogBuffer,
    outputs: Option<Outputs>,
}

impl Prepared {
    fn new(shared: &Shared, args: &RunningArgs) -> Result<Self, CliError> {
        let outputs = args.outputs.as_deref().map(Outputs::open).transpose();
        let outputs = outputs.map_err(CliError::usage)?;
        let survey = machine::survey_to_compute(shared)?;
        let session = session::on(machine::topology(&survey)?, shared, &args.compute)?;
        let mut environment = Environment::of(session);
        environment.save_metadata = !args.disable_metadata;
        if let Some(dir) = &args.output_dir {
            environment.output_dir.clone_from(dir);
        }
        if let Some(dir) = &args.input_dir {
            environment.input_dir.clone_from(dir);
        }
        let logs = LogBuffer::new();
        log_to(args.log_format, &logs)?;
        Ok(Self { environment, hardware: survey.devices, logs, outputs })
    }

    async fn state(
        self,
        mut config: Config,
        address: &str,
        options: QueueOptions,
    ) -> Result<AppState, CliError> {
        let Self { environment, hardware, logs, outputs } = self;
        config.outputs = outputs;
        let queue = Queue::open(address, options).await.map_err(CliError::usage)?;
        tracing::info!("the queue is at {}", queue.address());
        Ok(AppState::new(state::Parts {
            config,
            environment: Arc::new(environment),
            hardware,
            registry: Arc::new(nodes::all()),
            queue,
            logs,
        }))
    }
}

fn on_runtime(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(CliError::internal)?;
    let ended = runtime.block_on(work);
    // Work that a thread is at does not hold the program.
    runtime.shutdown_background();
    ended
}

/// The database of the queue: a file in the base folder where none is named.
fn queue_address(args: &ServeArgs, base: &Path) -> Result<String, CliError> {
    if let Some(address) = &args.queue {
        return Ok(address.clone());
    }
    let folder = base.join("user");
    std::fs::create_dir_all(&folder).map_err(|error| {
        let text = format!("`{}` cannot be made: {error}", folder.display());
        CliError::usage(text).hint("name another place for the queue: `--queue sqlite:PATH`")
    })?;
    Ok(format!("sqlite:{}", folder.join("distorch.sqlite").display()))
}

fn failure(error: ServeError) -> CliError {
    match error {
        ServeError::Accept(_) => CliError::internal(error),
        _ => CliError::usage(error),
    }
}

/// Comes to its end when the program is told to: by Ctrl-C, or by a signal to terminate.
async fn told_to_end() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        _ = interrupt => {}
        () = terminate => {}
    }
    tracing::info!(
        "ending once the prompt that runs has ended or its time is up; again to end at once"
    );
    tokio::spawn(async {
        // An error says that there is no second time.
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
}

/// Sends the log to standard error and to what clients read.
fn log_to(format: LogFormat, logs: &LogBuffer) -> Result<(), CliError> {
    let filter =
        || EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let stderr = std::io::stderr;
    let shown = match format {
        LogFormat::Json => fmt::layer().json().with_writer(stderr).boxed(),
        LogFormat::Text => {
            let colours = stderr().is_terminal();
            fmt::layer().with_ansi(colours).with_target(false).with_writer(stderr).boxed()
        }
    };
    let logs = logs.clone();
    let kept = fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .with_writer(move || logs.clone());
    let subscriber = tracing_subscriber::registry().with(shown.with_filter(filter()));
    subscriber.with(kept.with_filter(filter())).try_init().map_err(CliError::internal)
}
