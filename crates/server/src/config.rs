//! What a server is started with.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::outputs::Outputs;
use crate::web::Web;

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on.
    pub listen: IpAddr,
    /// The port; 0 for one that is free.
    pub port: u16,
    /// Who may come in.
    pub access: Access,
    /// How much is taken.
    pub limits: Limits,
    /// Previews while sampling.
    pub previews: PreviewMethod,
    /// How long a prompt that runs may go on when the server is to end.
    pub grace: Duration,
    /// How long a prompt is this worker's without a sign of life.
    pub lease: Duration,
    /// Certificate and key, both PEM, for HTTPS.
    pub tls: Option<Tls>,
    /// Names by which the server may be called beside `localhost`, its address and the names of `Origin` headers.
    pub allowed_hosts: Vec<String>,
    /// The name among the workers of a queue. One process has it at a time: what one of this name left unfinished is run
    /// again.
    pub worker_name: String,
    /// What browsers are shown.
    pub web: Web,
    /// Whether prompts run in this process, or only in others that have the same queue.
    pub role: Role,
    /// Where results are kept for other machines; they stay in the folder of results where there is none.
    pub outputs: Option<Outputs>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8188,
            access: Access::Loopback,
            limits: Limits::default(),
            previews: PreviewMethod::Auto,
            grace: Duration::from_secs(30),
            lease: Duration::from_secs(30),
            tls: None,
            allowed_hosts: Vec::new(),
            web: Web::default(),
            worker_name: "distorch".to_owned(),
            role: Role::default(),
            outputs: None,
        }
    }
}

/// What a server does with prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It takes and runs them.
    #[default]
    Full,
    /// It takes them: workers with the same queue run them.
    FrontEnd,
}

/// Who may come in.
#[derive(Clone, PartialEq, Eq)]
pub enum Access {
    /// Whoever is on this machine: the address is a loopback one.
    Loopback,
    /// Whoever has the token.
    Token(String),
    /// Everybody who reaches the address.
    Insecure,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A token does not belong into logs.
        f.write_str(match self {
            Self::Loopback => "Loopback",
            Self::Token(_) => "Token(…)",
            Self::Insecure => "Insecure",
        })
    }
}

/// How much is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body, uploads aside.
    pub body_bytes: usize,
    /// Bytes of an upload.
    pub upload_bytes: usize,
    /// Prompts that wait.
    pub queue_length: usize,
    /// Connections at once.
    pub connections: usize,
    /// WebSocket clients at once.
    pub clients: usize,
    /// Finished prompts that are kept.
    pub history: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 32 << 20,
            upload_bytes: 100 << 20,
            queue_length: 1000,
            connections: 512,
            clients: 128,
            history: 10_000,
        }
    }
}

/// What previews are made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PreviewMethod {
    /// There are none.
    None,
    /// A table of colours for each family of models. All clients are sent them.
    Latent2Rgb,
    /// A tiny decoder in `models/vae_approx`; the table where there is none for a model's latents. All clients are sent
    /// them.
    Taesd,
    /// The table. Clients that said what they can do are sent them: others may take any
    /// picture for the result.
    #[default]
    Auto,
}

/// Files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The chain of certificates, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}
