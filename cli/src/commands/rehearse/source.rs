//! Where the fleet is from: clusters, a snapshot, or the demo.

use evergreen_rehearse::{ImportError, demo, import, snapshot::Snapshot};

use super::RehearseArgs;
use crate::exit::{Failure, Outcome};

/// The snapshot that is meant.
///
/// # Errors
/// It cannot be had; nothing was written.
pub fn snapshot(args: &RehearseArgs) -> Outcome<Snapshot> {
    if args.demo {
        return demo::snapshot().map_err(failed);
    }
    if let Some(path) = &args.from_snapshot {
        return Snapshot::load(path).map_err(Failure::usage);
    }
    if args.from_kubeconfig.is_empty() {
        return Err(Failure::usage("no fleet")
            .remedy("--from-kubeconfig FILE for each data center, --from-snapshot FILE, or --demo"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::unreachable(format_args!("cannot start the runtime: {error}")))?;
    let tell = |line: &str| eprintln!("read {line}");
    runtime.block_on(import(&args.from_kubeconfig, jiff::Timestamp::now(), &tell)).map_err(failed)
}

fn failed(error: ImportError) -> Failure {
    let remedy = error.remedy();
    let failure = match &error {
        ImportError::Kubeconfig { .. } | ImportError::SameCluster { .. } | ImportError::SameName { .. } => {
            Failure::usage(error)
        }
        ImportError::Unreachable { .. } | ImportError::Vanished { .. } | ImportError::Refused { .. } => {
            Failure::unreachable(error)
        }
    };
    failure.remedy(remedy)
}

/// Prints what was read.
pub fn list(snapshot: &Snapshot) {
    for site in &snapshot.sites {
        println!("{} ({}, Kubernetes {}; name from {})", site.name, site.server, site.kubernetes, site.name_from);
        for read in &site.read {
            println!("  {:6} {} at resourceVersion {}", read.count, read.kind, read.resource_version);
        }
        for kind in &site.not_read {
            println!("       - {}: {}", kind.kind, kind.why);
        }
    }
}
