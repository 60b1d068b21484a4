//! One data center of a snapshot as a twin, with every object as it was.

use std::time::Duration;

use evergreen_api::resources::all_crds;
use evergreen_playbooks::library;
use evergreen_twin::{Timing, Twin, apiserver::load::Loaded, objects::meta, sim::template_hash};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    fleet::is_stuck,
    kinds::{KINDS, Kind},
    snapshot::Site,
};

/// Changes that followers may lag behind: a lost zone of thousands of nodes changes all of its pods at once.
const RING: usize = 1 << 18;
/// The twin's word for a pod whose readiness probe never succeeds.
const ANNOTATION_NEVER_READY: &str = "twin.evergreen.dev/never-ready";
/// Label of a StatefulSet's pods that names the revision of their template.
const STATEFUL_REVISION: &str = "controller-revision-hash";

/// Makes the twin, its clock held, and says what could not be taken in. `start` is the time from scheduled to ready of
/// a new pod.
pub fn stage(site: &Site, now: Timestamp, start: Duration) -> (Twin, Loaded) {
    let timing = Timing { pod_start: start * 2 / 5, pod_ready: start * 3 / 5, ..Timing::kubernetes() };
    let twin =
        Twin::builder(&site.name).epoch(now).timing(timing).watch_ring(RING).seed(seed(&site.uid)).held().build();
    let served = |kind: &&Kind| twin.api().registry().by_kind(kind.api_version, kind.kind).is_some();
    let crds = all_crds().into_iter().filter_map(|crd| serde_json::to_value(crd).ok());
    twin.load(crds);
    let kinds = KINDS.iter().filter(served);
    let objects = kinds.flat_map(|kind| site.all(&kind.key()).iter().map(|object| prepared(kind.kind, object, site)));
    let loaded = twin.load(objects.collect::<Vec<_>>());
    for shipped in library::starters() {
        // One of that name that was imported stays: it is the fleet's own.
        let Ok(playbook) = shipped.playbook() else { continue };
        if let Err(error) = twin.api().create_object(&serde_json::to_value(playbook).unwrap_or_default()) {
            tracing::debug!(%error, file = shipped.file, "not added to the twin");
        }
    }
    (twin, loaded)
}

/// A seed of the cluster's own. A snapshot of a simulated data center must not be given its UIDs a second time, so the
/// seed is none that a twin of the same name would have.
fn seed(uid: &str) -> u64 {
    let bytes = uid.bytes().chain(*b"rehearsal");
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// An object as the twin's own controllers would have written it.
fn prepared(kind: &str, object: &Value, site: &Site) -> Value {
    let mut object = object.clone();
    match kind {
        "Pod" => {
            if is_stuck(&object) {
                object["metadata"]["annotations"][ANNOTATION_NEVER_READY] = json!("true");
            }
            let revision = revision_of(&object, site);
            if let Some(revision) = revision {
                object["metadata"]["labels"][STATEFUL_REVISION] = json!(revision);
            }
        }
        "StatefulSet" => {
            let revision = stateful_revision(&object);
            if object["status"]["currentRevision"] == object["status"]["updateRevision"] {
                object["status"]["currentRevision"] = json!(revision);
            }
            object["status"]["updateRevision"] = json!(revision);
        }
        _ => {}
    }
    object
}

fn stateful_revision(set: &Value) -> String {
    format!("{}-{}", meta::name(set), template_hash(&set["spec"]["template"]))
}

/// The revision as the twin names it, of a pod that runs its StatefulSet's newest template. Names of revisions are
/// hashes; a twin's are others, and a pod of a foreign name would be replaced as outdated.
fn revision_of(pod: &Value, site: &Site) -> Option<String> {
    let label = pod["metadata"]["labels"][STATEFUL_REVISION].as_str()?;
    let owner = meta::controller_uid(pod)?;
    let set = site.all("statefulsets.apps").iter().find(|set| meta::uid(set) == owner)?;
    (set["status"]["updateRevision"] == label).then(|| stateful_revision(set))
}
