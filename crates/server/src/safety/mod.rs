//! Who may come in: hosts, origins, tokens; and names of files that stay in their folders.

pub mod host;
pub mod origin;
pub mod paths;
pub mod token;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, ORIGIN, SET_COOKIE};
use http::{HeaderMap, Method};

use crate::config::{Access, Config};
use crate::error::ApiError;
use crate::state::AppState;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The routes behind the checks of host, origin and token.
pub(crate) fn guard(routes: Router<AppState>, state: &AppState) -> Router<AppState> {
    routes.layer(middleware::from_fn_with_state(state.clone(), check))
}

async fn check(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let config = &state.config;
    if let Err(error) = comes_from_here(config, &request) {
        tracing::warn!(path = request.uri().path(), status = %error.status(), "request refused");
        return error.into_response();
    }
    let Access::Token(token) = &config.access else { return answer(next.run(request).await) };
    if request.uri().path() == "/healthz" {
        return answer(next.run(request).await);
    }
    let secure = config.tls.is_some();
    let found = token::find(token, request.headers(), request.uri());
    match found {
        None => token::asked().into_response(),
        Some(token::Place::Query) if request.method() == Method::GET => {
            let mut response = answer(next.run(request).await);
            // A browser that opened the page with the token goes on without it in its address.
            if let Ok(cookie) = HeaderValue::from_str(&token::cookie(token, secure)) {
                response.headers_mut().append(SET_COOKIE, cookie);
            }
            response
        }
        Some(_) => answer(next.run(request).await),
    }
}

/// What every answer says to browsers: nothing is to be guessed from its bytes, and no other site may show it in a frame.
fn answer(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "SAMEORIGIN"),
        ("referrer-policy", "same-origin"),
    ] {
        let name = HeaderName::from_static(name);
        headers.entry(name).or_insert_with(|| HeaderValue::from_static(value));
    }
    response
}

/// Whether a request is for this server and, where a browser says so, from one of its pages.
fn comes_from_here(config: &Config, request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => one(headers, &HOST)?.unwrap_or_default().to_owned(),
    };
    let host = host::Host::parse(&authority)
        .ok_or_else(|| ApiError::bad_request("the request's `Host` names no host"))?;
    if !host.is_allowed(config) {
        return Err(ApiError::forbidden(format!(
            "this server is not called `{}`; `--allow-host` lets it be",
            host.name
        )));
    }
    match one(headers, &ORIGIN)? {
        Some(origin) if origin::is_same(origin, &host) => Ok(()),
        Some(_) => Err(ApiError::forbidden("pages of other sites may not use this server")),
        None => match headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
            Some(b"cross-site" | b"same-site") if !opens_a_page(request) => {
                Err(ApiError::forbidden("pages of other sites may not use this server"))
            }
            _ => Ok(()),
        },
    }
}

/// Whether a browser opens this address as a page: a link on another site may lead here.
fn opens_a_page(request: &Request) -> bool {
    let mode = request.headers().get(SEC_FETCH_MODE);
    request.method() == Method::GET && mode.is_some_and(|mode| mode == "navigate")
}

/// The value of a header that may be there once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let unreadable = || ApiError::bad_request(format!("the header `{name}` cannot be read"));
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| unreadable()),
        _ => Err(unreadable()),
    }
}

/// The token that a header carries.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
