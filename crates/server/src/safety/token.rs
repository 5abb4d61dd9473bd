//! The token that lets requests in: in the header `Authorization: Bearer`, in the query, or in a cookie.

use axum::extract::Query;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, HeaderMap};
use http::{HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use crate::error::ApiError;

/// The cookie's name.
const COOKIE_NAME: &str = "distorch_token";

/// Where the token was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the header `Authorization`.
    Header,
    /// In the query, as `token`.
    Query,
    /// In the cookie.
    Cookie,
}

/// Where a request carries the token, compared in constant time.
pub fn find(token: &str, headers: &HeaderMap, uri: &Uri) -> Option<Place> {
    let is_it = |given: &[u8]| bool::from(given.ct_eq(token.as_bytes()));
    if super::bearer(headers).is_some_and(|given| is_it(given.as_bytes())) {
        return Some(Place::Header);
    }
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    for (name, value) in cookies.flat_map(|text| text.split(';')).filter_map(|c| c.split_once('='))
    {
        let value = URL_SAFE_NO_PAD.decode(value.trim()).unwrap_or_default();
        if name.trim() == COOKIE_NAME && is_it(&value) {
            return Some(Place::Cookie);
        }
    }
    let Query(given) = Query::<InQuery>::try_from_uri(uri).ok()?;
    is_it(given.token.as_bytes()).then_some(Place::Query)
}

/// A query that carries the token.
#[derive(Deserialize)]
struct InQuery {
    token: String,
}

/// The cookie that carries the token on: for this site's pages only, out of reach of their scripts.
pub fn cookie(token: &str, secure: bool) -> String {
    let value = URL_SAFE_NO_PAD.encode(token);
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE_NAME}={value}; Path=/; HttpOnly; SameSite=Strict{secure}")
}

/// What is answered where there is no token.
pub fn asked() -> impl axum::response::IntoResponse {
    let text = "this server asks for its token: `Authorization: Bearer TOKEN`, or `?token=TOKEN`";
    let error = ApiError::new(StatusCode::UNAUTHORIZED, text);
    ([(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))], error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_where_it_is_and_nowhere_else() {
        let headers = |name: &'static str, value: &str| {
            HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
        };
        let token = "s e/c";
        let find = |headers: &HeaderMap, query: &str| {
            find(token, headers, &format!("/ws?{query}").parse().unwrap())
        };
        assert_eq!(find(&headers("authorization", "bearer s e/c"), ""), Some(Place::Header));
        assert_eq!(find(&HeaderMap::new(), "a=1&token=s%20e%2Fc"), Some(Place::Query));
        let cookie = cookie(token, true);
        let pair = cookie.split(';').next().unwrap();
        assert_eq!(find(&headers("cookie", &format!("a=b; {pair}")), ""), Some(Place::Cookie));
        for (headers, query) in [
            (HeaderMap::new(), ""),
            (headers("authorization", "Basic s e/c"), ""),
            (headers("authorization", "Bearer s e"), ""),
            (headers("authorization", "Bearer "), "token="),
            (headers("cookie", "token=cyBlL2M"), "tokens=s%20e%2Fc"),
            (headers("cookie", "distorch_token=s e/c"), "token=%zz"),
        ] {
            assert_eq!(find(&headers, query), None, "{headers:?} {query:?}");
        }
    }
}
