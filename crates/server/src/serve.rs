//! Listening, TLS, and ending.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::accept::{Accept, NoDelayAcceptor};
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use distorch_workflow::Executor;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::Service;

use crate::config::{Access, Config, Role};
use crate::execution;
use crate::routes;
use crate::state::AppState;

/// How long the head of a request may take to come.
const HEAD: Duration = Duration::from_secs(30);

/// How long answers may take that are under way when the server ends.
const ANSWERS: Duration = Duration::from_secs(2);

/// Why a server does not start or go on.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address is not this machine's alone, and nothing says who may come in.
    #[error(
        "{0} can be reached from other machines: set a token (`--token` or $DISTORCH_TOKEN), or say \
         `--insecure` where everybody who reaches it may run prompts and read files"
    )]
    Open(SocketAddr),
    /// The token is too short to be one.
    #[error(
        "the token is shorter than {0} characters: make a longer one, such as with `openssl rand -hex 16`"
    )]
    ShortToken(usize),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("the certificate `{}` with the key `{}` cannot be used: {error}", certificate.display(), key.display())]
    Tls {
        /// The file of the certificate.
        certificate: std::path::PathBuf,
        /// The file of the key.
        key: std::path::PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Connections can no longer be taken.
    #[error("the server ended: {0}")]
    Accept(io::Error),
}

/// Characters of the shortest token: 16 of them from 64 have 96 bits.
const SHORTEST_TOKEN: usize = 16;

/// Whether a server may be started so.
///
/// # Errors
/// When it could be reached by others without a token and nothing says that this is meant.
pub fn check_access(config: &Config) -> Result<(), ServeError> {
    match &config.access {
        Access::Loopback if !config.listen.is_loopback() => {
            Err(ServeError::Open(SocketAddr::new(config.listen, config.port)))
        }
        Access::Token(token) if token.chars().count() < SHORTEST_TOKEN => {
            Err(ServeError::ShortToken(SHORTEST_TOKEN))
        }
        _ => Ok(()),
    }
}

/// A server that has its address.
pub struct Server {
    state: AppState,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<RustlsConfig>,
}

impl Server {
    /// Takes the address; requests are answered once it [runs](Self::run).
    ///
    /// # Errors
    /// When the address cannot be had or is open to others without a token, or the certificate cannot be used.
    pub async fn bind(state: AppState) -> Result<Self, ServeError> {
        let config = &state.config;
        check_access(config)?;
        let address = SocketAddr::new(config.listen, config.port);
        let bind = |error| ServeError::Bind { address, error };
        let tls = match &config.tls {
            None => None,
            Some(files) => {
                // Only the first one counts, and all are the same.
                drop(rustls::crypto::ring::default_provider().install_default());
                let loaded = RustlsConfig::from_pem_file(&files.certificate, &files.key).await;
                Some(loaded.map_err(|error| ServeError::Tls {
                    certificate: files.certificate.clone(),
                    key: files.key.clone(),
                    error,
                })?)
            }
        };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self { state, listener, address, tls })
    }

    /// The address, with the port that it has.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What people open in a browser.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Answers requests and runs prompts until `end` comes to its end. Then no further prompt begins, the one that runs
    /// gets its grace, and the answers that are under way a moment.
    ///
    /// # Errors
    /// When connections can no longer be taken.
    pub async fn run(
        self,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        let Self { state, listener, tls, .. } = self;
        let app = routes::router(state.clone());
        let handle = Handle::<SocketAddr>::new();
        let places = Arc::new(Semaphore::new(state.config.limits.connections));
        let (tell, told) = watch::channel(false);
        let worker = (state.config.role == Role::Full).then(|| {
            let (environment, registry) =
                (Arc::clone(&state.environment), Arc::clone(&state.registry));
            let executor = Executor::new(environment, registry);
            tokio::spawn(execution::work(state.clone(), executor, told))
        });
        let follower = tokio::spawn(execution::follow(state.clone()));
        let (ending, clients) = (handle.clone(), state.clients.clone());
        tokio::spawn(async move {
            end.await;
            tell.send_replace(true);
            if let Some(worker) = worker
                && let Err(error) = worker.await
            {
                tracing::error!("the worker failed: {error}");
            }
            follower.abort();
            clients.close();
            ending.graceful_shutdown(Some(ANSWERS));
        });
        let mut server = axum_server::Server::from_listener(listener)
            .handle(handle)
            .first_request_timeout(HEAD)
            .accept_error_handler(|_, error| {
                tracing::debug!("a connection was not taken: {error}");
            });
        server.http_builder().http1().header_read_timeout(HEAD);
        let plain = Places { inner: NoDelayAcceptor::new(), places };
        let ended = match tls {
            None => server.acceptor(plain).serve(service(app)).await,
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(tls).acceptor(plain);
                server.acceptor(acceptor).serve(service(app)).await
            }
        };
        state.queue.close().await;
        ended.map_err(ServeError::Accept)
    }
}

fn service(app: Router) -> axum::routing::IntoMakeService<Router> {
    app.into_make_service()
}

/// Takes at most so many connections at once; others are closed.
#[derive(Clone)]
struct Places<A> {
    inner: A,
    places: Arc<Semaphore>,
}

impl<I, S, A> Accept<I, S> for Places<A>
where
    A: Accept<I, S> + Clone + Send + 'static,
    A::Future: Send,
    A::Stream: Send,
    A::Service: Send,
    I: Send + 'static,
    S: Send + 'static,
{
    type Stream = A::Stream;
    type Service = Held<A::Service>;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Box::pin(async { Err(io::Error::other("there are too many connections")) });
        };
        let accepted = self.inner.accept(stream, service);
        Box::pin(async move {
            let (stream, inner) = accepted.await?;
            Ok((stream, Held { inner, _place: Arc::new(place) }))
        })
    }
}

/// What answers a connection's requests, and the connection's place among the others.
#[derive(Clone)]
struct Held<S> {
    inner: S,
    _place: Arc<OwnedSemaphorePermit>,
}

impl<S: Service<R>, R> Service<R> for Held<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.inner.call(request)
    }
}
