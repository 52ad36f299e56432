//! The form that asks a browser for the token.
//!
//! Judges nothing.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::HEADERS;

/// Is where it goes.
pub(in crate::health) const PATH: &str = "/login";

const TEXT: &str = include_str!("login.html");
/// Is where it says that the token was wrong.
const WRONG: &str = "<!-- wrong -->";
/// Are the headers' policy, and that the form may be sent here.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
);

/// Answers with the form.
pub(in crate::health) fn form(status: StatusCode, is_wrong: bool) -> Response {
    let said = if is_wrong { "<p class=\"lost\" role=\"alert\">That is not the token.</p>" } else { "" };
    let html = TEXT.replace(WRONG, said);
    let mut response = (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response();
    response.headers_mut().extend(HEADERS);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    response
}
