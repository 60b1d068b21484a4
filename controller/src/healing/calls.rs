//! Calls to the API server: each with a time-out, each failure sorted by what it means for trying again.

use std::{future::Future, time::Duration};

use kube::core::Status;

/// Longest that one call may take. A slow API server is worse than one that fails: nobody else may act meanwhile.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A call did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No answer in time; whether it happened cannot be told.
    #[error("{what}: no answer within {}s", CALL_TIMEOUT.as_secs())]
    TimedOut { what: String },
    /// The API server refused it, or the connection broke.
    #[error("{what}")]
    Failed { what: String, source: Box<kube::Error> },
}

/// Makes a call with a time-out.
pub(crate) async fn call<T>(
    what: impl Into<String>,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(CallError::Failed { what: what.into(), source: Box::new(source) }),
        Err(_) => Err(CallError::TimedOut { what: what.into() }),
    }
}

impl CallError {
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Failed { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::TimedOut { .. } => None,
        }
    }

    fn code(&self) -> Option<u16> {
        self.status().map(|status| status.code)
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    pub(crate) fn is_conflict(&self) -> bool {
        self.code() == Some(409) && !self.is_already_there()
    }

    pub(crate) fn is_already_there(&self) -> bool {
        self.status().is_some_and(|status| status.reason == "AlreadyExists")
    }

    pub(crate) fn is_invalid(&self) -> bool {
        self.code() == Some(422)
    }

    /// Whether trying again cannot help: the request itself is wrong, or not allowed.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self.code(), Some(400 | 403 | 404 | 405 | 422))
    }

    /// The whole story in one line.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::TimedOut { .. } => self.to_string(),
            Self::Failed { what, source } => match source.as_ref() {
                kube::Error::Api(status) => format!("{what}: {} ({})", status.message, status.code),
                other => format!("{what}: {other}"),
            },
        }
    }
}

/// Pauses between tries: doubling, bounded.
#[derive(Debug)]
pub(crate) struct Pause {
    next: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self { next: Self::FIRST }
    }
}

impl Pause {
    const FIRST: Duration = Duration::from_millis(200);
    const MOST: Duration = Duration::from_secs(10);

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(Self::MOST);
    }
}
