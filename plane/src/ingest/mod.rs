//! The doors of OTLP: one over gRPC, one over HTTP. Both decode into [`crate::model::Batch`], hand it to the store
//! and answer only when it is on disk. Nothing here reads the database.

pub mod decode;
mod decode_metrics;
pub mod door;
mod exponential;
pub mod grpc;
pub mod http;

use std::sync::Arc;

use decode::Decoded;
use door::Tokens;

use crate::{
    stats::Stats,
    store::{StoreError, StoreHandle},
};

/// Largest request, in bytes, before and after decompression. OTLP senders batch in hundreds of kilobytes.
pub const MAX_REQUEST_BYTES: usize = 16 << 20;
/// What a sender is asked to wait when the queue is full, seconds. One group commit takes far less.
pub const RETRY_AFTER_SECONDS: u64 = 1;

/// What a sender without a token is told.
const UNKNOWN: &str =
    "the bearer token is missing or wrong: send `Authorization: Bearer TOKEN` with a token of --otlp-token-file";

/// What both doors share.
#[derive(Clone)]
pub struct Intake {
    store: StoreHandle,
    stats: Arc<Stats>,
    tokens: Option<Arc<Tokens>>,
}

/// What was taken from one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Taken {
    /// Things that could not be taken.
    pub rejected: i64,
    /// Why.
    pub message: String,
}

impl Intake {
    /// A door to this store.
    pub fn new(store: StoreHandle, stats: Arc<Stats>) -> Self {
        Self { store, stats, tokens: None }
    }

    /// The same, for who has a token of these.
    pub fn with_tokens(self, tokens: Option<Arc<Tokens>>) -> Self {
        Self { tokens, ..self }
    }

    /// Whether who sends this Authorization header may send.
    pub fn allows(&self, authorization: Option<&[u8]>) -> bool {
        let allowed = self.tokens.as_ref().is_none_or(|tokens| tokens.allow(authorization));
        if !allowed {
            self.stats.unknown_senders.add(1);
        }
        allowed
    }

    /// Stores what was decoded; returns when it is on disk.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the queue is full, else what the store says.
    pub async fn take(&self, decoded: Decoded, bytes: usize) -> Result<Taken, StoreError> {
        let Decoded { batch, rejected, message } = decoded;
        self.stats.rejected.add(rejected.unsigned_abs());
        if !batch.is_empty()
            && let Err(error) = self.store.write(batch, bytes).await
        {
            self.stats.refused.add(1);
            return Err(error);
        }
        Ok(Taken { rejected, message })
    }
}
