//! What can be asked of `distorch serve` and `distorch worker`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use distorch_server::config::{Access, Config, Limits, PreviewMethod, Role, Tls};
use distorch_server::web::{Frontend, FrontendError, Web};

use super::make::ComputeArgs;
use super::number::whole;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch serve
  distorch serve --port 8000 --preview-method none
  distorch serve --web auto
  distorch serve --listen 0.0.0.0 --token \"$TOKEN\"

Clients of ComfyUI's API find it at http://127.0.0.1:8188.")]
pub struct ServeArgs {
    /// Address to listen on; one that other machines reach needs `--token` or `--insecure`
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub listen: IpAddr,

    /// Port to listen on; 0 for one that is free
    #[arg(long, default_value_t = 8188, value_parser = whole(0..=65535), allow_hyphen_values = true)]
    pub port: u32,

    /// Ask clients for this token: `Authorization: Bearer TOKEN`, or `?token=TOKEN`
    #[arg(long, env = "DISTORCH_TOKEN", hide_env_values = true, help_heading = "Safety")]
    pub token: Option<String>,

    /// Let everybody in who reaches the address
    #[arg(long, conflicts_with = "token", help_heading = "Safety")]
    pub insecure: bool,

    /// A further name by which browsers may call this server; may repeat
    #[arg(long, value_name = "NAME", action = ArgAction::Append, help_heading = "Safety")]
    pub allow_host: Vec<String>,

    /// Serve HTTPS with this chain of certificates (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Safety")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Safety")]
    pub tls_key: Option<PathBuf>,

    /// MiB of a request's body, uploads aside
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = whole(1..=4096), allow_hyphen_values = true, help_heading = "Limits")]
    pub max_body_size: u32,

    /// MiB of an uploaded file
    #[arg(long, value_name = "MIB", default_value_t = 100, value_parser = whole(1..=4096), allow_hyphen_values = true, help_heading = "Limits")]
    pub max_upload_size: u32,

    /// Prompts that may wait
    #[arg(long, value_name = "PROMPTS", default_value_t = 1000, value_parser = whole(1..=1_000_000), allow_hyphen_values = true, help_heading = "Limits")]
    pub max_queue: u32,

    /// Finished prompts that are kept
    #[arg(long, value_name = "PROMPTS", default_value_t = 10_000, value_parser = whole(0..=1_000_000), allow_hyphen_values = true, help_heading = "Limits")]
    pub max_history: u32,

    /// Connections at once
    #[arg(long, value_name = "CONNECTIONS", default_value_t = 512, value_parser = whole(1..=65535), allow_hyphen_values = true, help_heading = "Limits")]
    pub max_connections: u32,

    /// WebSocket clients at once
    #[arg(long, value_name = "CLIENTS", default_value_t = 128, value_parser = whole(1..=65535), allow_hyphen_values = true, help_heading = "Limits")]
    pub max_clients: u32,

    /// Database of the queue: `sqlite:PATH`, or `postgres://…` for several machines
    /// [default: `user/distorch.sqlite` in the base folder]
    #[arg(long, env = "DISTORCH_QUEUE", hide_env_values = true, value_name = "ADDRESS")]
    pub queue: Option<String>,

    /// Only take prompts: each `distorch worker` of the same queue runs them
    #[arg(long, requires = "queue")]
    pub no_worker: bool,

    /// How pictures are shown while they are sampled
    #[arg(long, value_enum, value_name = "METHOD", default_value_t = PreviewArg::Auto)]
    pub preview_method: PreviewArg,

    /// Show browsers ComfyUI's official frontend, from the folder that it is unpacked in; `auto` for the one that pip
    /// installed
    #[arg(long, value_name = "PATH|auto")]
    pub web: Option<PathBuf>,

    #[command(flatten)]
    pub running: RunningArgs,
}

/// How prompts of a queue are run.
#[derive(Debug, Args)]
pub struct RunningArgs {
    /// Seconds that a running prompt may go on when the program is told to end; then it is put back
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = whole(0..=86400), allow_hyphen_values = true)]
    pub grace: u32,

    /// Seconds without a sign of life after which another worker takes what this one is at
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = whole(2..=86400), allow_hyphen_values = true)]
    pub lease: u32,

    /// Form of the log, which goes to standard error; DISTORCH_LOG sets what is in it (`debug`, `warn`)
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Where pictures are saved [default: `output` in the base folder]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,

    /// Where pictures to load are found [default: `input` in the base folder]
    #[arg(long, value_name = "DIR")]
    pub input_dir: Option<PathBuf>,

    /// Leave the workflow out of the saved pictures
    #[arg(long)]
    pub disable_metadata: bool,

    /// Where results are kept for other machines: `s3://BUCKET/FOLDER`; keys and server come from AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT
    #[arg(long, env = "DISTORCH_OUTPUTS", value_name = "ADDRESS")]
    pub outputs: Option<String>,

    /// Name among the workers of the queue [default: the machine's, with the port or the process]
    #[arg(long, value_name = "NAME")]
    pub worker_name: Option<String>,

    #[command(flatten)]
    pub compute: ComputeArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch worker --queue postgres://distorch@database/distorch
  distorch worker --queue postgres://distorch@database/distorch --output-dir /mnt/pictures
  distorch worker --queue postgres://distorch@database/distorch --outputs s3://pictures/results

Pictures are saved where this program runs: servers find them where both have the same folder, or the
same `--outputs`.")]
pub struct WorkerArgs {
    /// Database of the queue, as the servers have it
    #[arg(long, env = "DISTORCH_QUEUE", hide_env_values = true, value_name = "ADDRESS")]
    pub queue: String,

    #[command(flatten)]
    pub running: RunningArgs,
}

impl WorkerArgs {
    /// The configuration of what runs prompts.
    pub fn config(&self) -> Config {
        Config {
            grace: self.running.grace(),
            lease: self.running.lease(),
            worker_name: self.running.name(u32::MAX),
            ..Config::default()
        }
    }
}

impl RunningArgs {
    fn grace(&self) -> Duration {
        Duration::from_secs(self.grace.into())
    }

    fn lease(&self) -> Duration {
        Duration::from_secs(self.lease.into())
    }

    /// The name among the workers of a queue: a machine has a port once, or a process.
    fn name(&self, port: u32) -> String {
        if let Some(name) = &self.worker_name {
            return name.clone();
        }
        let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let variable = || std::env::var("HOSTNAME").or_else(|_| std::env::var("COMPUTERNAME")).ok();
        let host = kernel.or_else(variable).unwrap_or_default();
        match port {
            1..=65535 => format!("{}:{port}", host.trim()),
            _ => format!("{}, process {}", host.trim(), std::process::id()),
        }
    }
}

/// How pictures are shown while they are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PreviewArg {
    /// Not at all
    None,
    /// By a table of colours for each family of models, for all clients
    Latent2rgb,
    /// By a tiny decoder in `models/vae_approx` (taesd, taesdxl, taesd3, taef1), else by the table, for all clients
    Taesd,
    /// By the table, for clients that say what they can do, as frontends do
    Auto,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// An object a line
    Json,
}

impl ServeArgs {
    /// What browsers are shown; an installed frontend may be beside the models in `base_dir`.
    ///
    /// # Errors
    /// When the frontend is not there.
    pub fn web(&self, base_dir: &Path) -> Result<Web, FrontendError> {
        match &self.web {
            None => Ok(Web::Own),
            Some(path) if path.as_os_str() == "auto" => {
                Frontend::installed(base_dir).map(Web::Official)
            }
            Some(path) => Frontend::at(path).map(Web::Official),
        }
    }

    /// The server's configuration.
    pub fn config(&self) -> Config {
        let access = match &self.token {
            Some(token) => Access::Token(token.clone()),
            None if self.insecure => Access::Insecure,
            None => Access::Loopback,
        };
        let mib = |number: u32| (number as usize).saturating_mul(1 << 20);
        let limits = Limits {
            body_bytes: mib(self.max_body_size),
            upload_bytes: mib(self.max_upload_size),
            queue_length: self.max_queue as usize,
            connections: self.max_connections as usize,
            clients: self.max_clients as usize,
            history: self.max_history as usize,
        };
        let previews = match self.preview_method {
            PreviewArg::None => PreviewMethod::None,
            PreviewArg::Latent2rgb => PreviewMethod::Latent2Rgb,
            PreviewArg::Taesd => PreviewMethod::Taesd,
            PreviewArg::Auto => PreviewMethod::Auto,
        };
        let tls = self.tls_cert.clone().zip(self.tls_key.clone());
        Config {
            listen: self.listen,
            // The argument's range is that of ports.
            port: u16::try_from(self.port).unwrap_or(u16::MAX),
            access,
            limits,
            previews,
            grace: self.running.grace(),
            lease: self.running.lease(),
            tls: tls.map(|(certificate, key)| Tls { certificate, key }),
            allowed_hosts: self.allow_host.clone(),
            worker_name: self.running.name(self.port),
            web: Web::default(),
            role: if self.no_worker { Role::FrontEnd } else { Role::Full },
            // Opened when the server starts: that may fail.
            outputs: None,
        }
    }
}
