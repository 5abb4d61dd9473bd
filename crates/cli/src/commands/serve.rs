//! `distorch serve`: ComfyUI's API.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use distorch_queue::{Queue, QueueOptions};
use distorch_server::logs::LogBuffer;
use distorch_server::serve::{self, ServeError};
use distorch_server::{AppState, Server, state};
use distorch_workflow::{Environment, nodes};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::args::{LogFormat, PreviewArg, ServeArgs, Shared};
use crate::error::CliError;
use crate::machine;
use crate::session;

/// The environment variable that sets what is logged.
const LOG_VARIABLE: &str = "DISTORCH_LOG";

/// Serves until the program is told to end.
pub fn run(shared: &Shared, args: &ServeArgs) -> Result<(), CliError> {
    if args.preview_method == PreviewArg::Taesd {
        let text = "`--preview-method taesd`: small decoders are not built into this program yet";
        return Err(CliError::usage(text).hint("`latent2rgb` shows pictures by a table of colours"));
    }
    let config = args.config();
    let survey = machine::survey_to_compute(shared)?;
    serve::check_access(&config).map_err(CliError::usage)?;
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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(CliError::internal)?;
    let base = environment.session.folders.base_dir().to_owned();
    let address = queue_address(args, &base)?;
    let options = QueueOptions {
        max_pending: args.max_queue.into(),
        max_history: args.max_history.into(),
        ..QueueOptions::default()
    };
    let ended = runtime.block_on(async move {
        let queue = Queue::open(&address, options).await.map_err(CliError::usage)?;
        tracing::info!("the queue is at {}", queue.address());
        let parts = state::Parts {
            config,
            environment: Arc::new(environment),
            hardware: survey.devices,
            registry: Arc::new(nodes::all()),
            queue,
            logs,
        };
        let server = Server::bind(AppState::new(parts)).await.map_err(failure)?;
        tracing::info!("listening on {}", server.url());
        server.run(told_to_end()).await.map_err(failure)
    });
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
