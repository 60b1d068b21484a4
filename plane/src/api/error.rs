//! Errors of the API: `{"error":{"code","message","remedy"}}`, and the reading of query parameters that gives them.

use axum::{
    Json,
    extract::{FromRequestParts, Query},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::store::ReadError;

/// An answer that is no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    remedy: String,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { status, code, message: message.into(), remedy: remedy.into() }
    }

    /// A parameter that makes no sense.
    pub(crate) fn parameter(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_parameter", message, remedy)
    }

    /// Something that is not there.
    pub(crate) fn not_found(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message, remedy)
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TooLong => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_long",
                error.to_string(),
                "ask for a shorter time or a coarser step",
            ),
            ReadError::Sqlite(_) => {
                tracing::error!(%error, "a query failed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "database",
                    error.to_string(),
                    "see the plane's log; check its disk",
                )
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"error": {"code": self.code, "message": self.message, "remedy": self.remedy}});
        (self.status, Json(body)).into_response()
    }
}

/// Query parameters whose mistakes are answered as [`ApiError`].
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Query::<T>::from_request_parts(parts, state).await.map(|Query(params)| Self(params)).map_err(|e| {
            ApiError::parameter(e.body_text(), "see the API's documentation for the parameters of this path")
        })
    }
}

/// A window of time, milliseconds: `from` and `to` as RFC 3339, by default the last `default_ms` until now.
pub(crate) fn window(
    from: Option<&str>,
    to: Option<&str>,
    now_ms: i64,
    default_ms: i64,
) -> Result<(i64, i64), ApiError> {
    let read = |name: &str, text: &str| {
        text.parse::<Timestamp>().map(Timestamp::as_millisecond).map_err(|_| {
            ApiError::parameter(
                format!("{name}: `{text}` is no time"),
                "write RFC 3339, as in 2026-11-23T08:00:00Z (a + must be sent as %2B)",
            )
        })
    };
    let to_ms = to.map_or(Ok(now_ms), |t| read("to", t))?;
    let from_ms = from.map_or(Ok(to_ms - default_ms), |t| read("from", t))?;
    if from_ms >= to_ms {
        return Err(ApiError::parameter("from is not before to", "give a from that is earlier than to"));
    }
    Ok((from_ms, to_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_defaults_to_the_time_until_now() {
        assert_eq!(window(None, None, 10_000, 4_000), Ok((6_000, 10_000)));
        assert_eq!(window(Some("1970-01-01T00:00:01Z"), None, 10_000, 4_000), Ok((1_000, 10_000)));
    }

    #[test]
    fn a_wrong_time_names_the_parameter_and_the_form() {
        let error = window(Some("yesterday"), None, 10_000, 4_000).unwrap_err();
        assert!(error.message.contains("from") && error.remedy.contains("RFC 3339"));
        assert!(window(Some("1970-01-01T00:01:00Z"), None, 10_000, 4_000).is_err());
    }
}
