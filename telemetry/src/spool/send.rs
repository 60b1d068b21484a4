//! Sends what waits, the oldest first, and removes what was acknowledged. What may succeed later is tried again for as
//! long as it takes; what the receiver will never take is counted and removed.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    codec::CompressionEncoding,
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::StatusExt;

use super::queue::{Queue, Run, Signal};

/// One call may take this long.
const TIMEOUT: Duration = Duration::from_secs(10);
/// First wait after a failure, and the longest. Receivers restart within seconds; a thousand senders must not knock
/// every second for hours.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of one request before packing. Receivers take 4 MiB unless told otherwise.
const REQUEST_BYTES: usize = 1 << 20;

/// Standard variables of OTLP exporters.
pub(crate) const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const AUTHORITY: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const CLIENT_CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
const CLIENT_KEY: &str = "OTEL_EXPORTER_OTLP_CLIENT_KEY";

/// Where to send to and how, as the environment says it.
pub(crate) struct Target {
    channel: Channel,
    headers: MetadataMap,
}

impl Target {
    /// Reads the standard variables; none when no endpoint is named.
    ///
    /// # Errors
    /// A sentence that names the variable and what would be right.
    pub(crate) fn from_environment() -> Result<Option<(String, Self)>, String> {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
        let Some(text) = variable(ENDPOINT) else { return Ok(None) };
        let wrong = || format!("{ENDPOINT}={text} cannot be used; write it as http://HOST:4317, or https:// for TLS");
        let mut endpoint = Endpoint::from_shared(text.trim().to_owned()).map_err(|_| wrong())?;
        let https = match endpoint.uri().scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        if https {
            let read = |name: &str| {
                variable(name).map(|path| std::fs::read(&path).map_err(|e| format!("{name}={path}: {e}"))).transpose()
            };
            let mut tls = ClientTlsConfig::new();
            if let Some(authority) = read(AUTHORITY)? {
                tls = tls.ca_certificate(Certificate::from_pem(authority));
            }
            match (read(CLIENT_CERTIFICATE)?, read(CLIENT_KEY)?) {
                (Some(certificate), Some(key)) => tls = tls.identity(Identity::from_pem(certificate, key)),
                (None, None) => {}
                _ => return Err(format!("{CLIENT_CERTIFICATE} and {CLIENT_KEY} belong together: give both or none")),
            }
            endpoint = endpoint.tls_config(tls).map_err(|error| format!("{AUTHORITY}: {error}"))?;
        }
        let headers = headers(&variable(HEADERS).unwrap_or_default())?;
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            .timeout(TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .connect_lazy();
        Ok(Some((text, Self { channel, headers })))
    }

    /// Sends one run; answers how many things the receiver left out, and why.
    async fn send(&self, run: &Run) -> Result<(i64, String), Status> {
        let broken = |error: prost::DecodeError| Status::invalid_argument(format!("not an OTLP message: {error}"));
        let gzip = CompressionEncoding::Gzip;
        macro_rules! export {
            ($client:ident, $message:ty, $left_out:ident) => {{
                let mut request = Request::new(<$message>::decode(&run.body[..]).map_err(broken)?);
                *request.metadata_mut() = self.headers.clone();
                let mut client = $client::new(self.channel.clone()).send_compressed(gzip).accept_compressed(gzip);
                let answer = client.export(request).await?.into_inner().partial_success.unwrap_or_default();
                (answer.$left_out, answer.error_message)
            }};
        }
        Ok(match run.signal {
            Signal::Traces => export!(TraceServiceClient, ExportTraceServiceRequest, rejected_spans),
            Signal::Metrics => export!(MetricsServiceClient, ExportMetricsServiceRequest, rejected_data_points),
            Signal::Logs => export!(LogsServiceClient, ExportLogsServiceRequest, rejected_log_records),
        })
    }
}

/// Reads `key=value,key2=value2`, as the OTLP exporters' specification writes headers: values are percent-encoded.
fn headers(text: &str) -> Result<MetadataMap, String> {
    let mut map = MetadataMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        // The value may be a secret: it is not repeated.
        let wrong = || format!("{HEADERS}: one of its entries is no KEY=VALUE with a key of lower-case letters");
        let (key, value) = pair.split_once('=').ok_or_else(wrong)?;
        let key: AsciiMetadataKey = key.trim().to_ascii_lowercase().parse().map_err(|_| wrong())?;
        let value: AsciiMetadataValue = percent_decoded(value.trim()).parse().map_err(|_| wrong())?;
        map.insert(key, value);
    }
    Ok(map)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let pair = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, pair) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a failure means for the records.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Try again, after the time that the receiver named if it did.
    Later(Option<Duration>),
    /// It will never be taken.
    Never,
}

/// As the OTLP specification has it, but for two things: a receiver that does not know this sender (a token that is being
/// rotated) is asked again, and so is one that is exhausted without saying for how long.
fn judge(status: &Status) -> Verdict {
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => Verdict::Never,
        _ => Verdict::Later(status.get_details_retry_info().and_then(|info| info.retry_delay)),
    }
}

/// Sends until told to stop, and then what is left for as long as it goes well.
pub(crate) async fn run(queue: Arc<Queue>, target: Target, stop: CancellationToken) {
    let mut wait = FIRST_WAIT;
    // Smaller after a request was too large.
    let mut bytes = REQUEST_BYTES;
    let mut told = false;
    loop {
        let (reader, most) = (queue.clone(), bytes);
        let Ok(next) = tokio::task::spawn_blocking(move || reader.front(most)).await else { return };
        let Some(run) = next else {
            if stop.is_cancelled() {
                return;
            }
            tokio::select! {
                () = queue.arrived.notified() => {}
                () = stop.cancelled() => {}
            }
            continue;
        };
        let failed = match target.send(&run).await {
            Ok((left_out, why)) => {
                if left_out > 0 {
                    tracing::warn!(
                        left_out,
                        why,
                        signal = run.signal.name(),
                        "the receiver of telemetry left things out"
                    );
                }
                if told {
                    tracing::info!("the receiver of telemetry is there again");
                }
                (wait, bytes, told) = (FIRST_WAIT, REQUEST_BYTES, false);
                queue.remove(&run.numbers);
                continue;
            }
            Err(status) => status,
        };
        match judge(&failed) {
            // One of several may be what is wrong: each on its own then.
            Verdict::Never if run.numbers.len() > 1 && failed.code() != Code::Unimplemented => bytes = 1,
            Verdict::Never => {
                let records = run.numbers.len() as u64;
                queue.lost.refused.fetch_add(records, Ordering::Relaxed);
                tracing::warn!(
                    records,
                    signal = run.signal.name(),
                    reason = failed.message(),
                    "the receiver refuses telemetry; it is left out"
                );
                queue.remove(&run.numbers);
            }
            Verdict::Later(named) => {
                if stop.is_cancelled() {
                    return;
                }
                if !told {
                    tracing::warn!(code = ?failed.code(), reason = failed.message(), "telemetry is not taken; it is kept and sent later");
                    told = true;
                }
                tokio::select! {
                    () = tokio::time::sleep(named.unwrap_or(wait).min(LONGEST_WAIT)) => {}
                    () = stop.cancelled() => {}
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_receiver_that_is_away_full_or_does_not_know_us_is_asked_again() {
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Unauthenticated, Code::Unknown, Code::Internal] {
            assert_eq!(judge(&Status::new(code, "")), Verdict::Later(None), "{code:?}");
        }
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(3)));
        let full = Status::with_error_details(Code::ResourceExhausted, "full", details);
        assert_eq!(judge(&full), Verdict::Later(Some(Duration::from_secs(3))));
    }

    #[test]
    fn what_is_wrong_with_a_message_does_not_change_by_waiting() {
        for code in [Code::InvalidArgument, Code::OutOfRange, Code::Unimplemented] {
            assert_eq!(judge(&Status::new(code, "")), Verdict::Never, "{code:?}");
        }
    }

    #[test]
    fn headers_are_read_as_exporters_write_them_and_never_repeated() {
        let read = headers("authorization=Bearer%20s3cret, x-scope=bank").unwrap();
        assert_eq!(read.get("authorization").unwrap(), "Bearer s3cret");
        assert_eq!(read.get("x-scope").unwrap(), "bank");
        let wrong = headers("authorization s3cret").unwrap_err();
        assert!(!wrong.contains("s3cret") && wrong.contains("KEY=VALUE"), "{wrong}");
    }
}
