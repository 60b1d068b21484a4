//! Reads real clusters into a snapshot. Every request is a GET of one object or of a page of a list; nothing is ever
//! written, no Secret is asked for. It succeeds as a whole or not at all.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use evergreen_api::names::{ASSIGNMENTS, LABEL_SITE, SYSTEM_NAMESPACE};
use jiff::Timestamp;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use crate::{
    kinds::{KINDS, Kind},
    snapshot::{FORMAT, KindNotRead, KindRead, Site, Snapshot},
    trim::trim,
};

/// Objects a page.
const PAGE: usize = 500;
/// A list whose pages expire while they are read is begun anew this often.
const RESTARTS: usize = 3;
/// An API server that does not take a connection in this time is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// A page of 500 objects takes seconds on a busy server.
const ANSWER: Duration = Duration::from_secs(60);

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A kubeconfig cannot be used.
    #[error("the kubeconfig {path} does not work: {why}")]
    Kubeconfig {
        /// File.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A cluster does not answer.
    #[error("{source_name}: {what} cannot be read: {why}")]
    Unreachable {
        /// Kubeconfig.
        source_name: String,
        /// What was asked for.
        what: String,
        /// What happened.
        why: String,
    },
    /// A cluster answered at first and then no more.
    #[error("{source_name} vanished while {what} were read (page {page}, {kinds} kinds were read before): {why}")]
    Vanished {
        /// Kubeconfig.
        source_name: String,
        /// What was asked for.
        what: String,
        /// Page that did not come.
        page: usize,
        /// Kinds that were read before.
        kinds: usize,
        /// What happened.
        why: String,
    },
    /// A right is missing.
    #[error("{source_name}: {what} may not be read: {why}")]
    Refused {
        /// Kubeconfig.
        source_name: String,
        /// What was asked for.
        what: String,
        /// What the API server says.
        why: String,
    },
    /// Two kubeconfigs lead to one cluster.
    #[error("{first} and {second} lead to the same cluster (namespace kube-system has the UID {uid} in both)")]
    SameCluster {
        /// Kubeconfig.
        first: String,
        /// Kubeconfig.
        second: String,
        /// UID of kube-system.
        uid: String,
    },
    /// Two clusters call themselves the same.
    #[error("{first} and {second} are two clusters that are both called {name}")]
    SameName {
        /// Kubeconfig.
        first: String,
        /// Kubeconfig.
        second: String,
        /// Name.
        name: String,
    },
}

impl ImportError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Kubeconfig { .. } => "kubectl --kubeconfig FILE get nodes has to work first",
            Self::Unreachable { .. } => "check that the API server answers: kubectl --kubeconfig FILE version",
            Self::Vanished { .. } => "import again when the cluster is reachable; nothing was kept of this attempt",
            Self::Refused { .. } => {
                "an account with get and list on what docs/rehearsal.md names (the role `view` lacks nodes)"
            }
            Self::SameCluster { .. } => "give each cluster once",
            Self::SameName { .. } => {
                "label the nodes of each data center with evergreen.dev/site=NAME, or rename a context"
            }
        }
    }
}

/// Reads clusters; `taken_at` dates the snapshot, `tell` hears of progress.
///
/// # Errors
/// A cluster cannot be read as a whole, or two of them are one.
pub async fn import(
    kubeconfigs: &[PathBuf],
    taken_at: Timestamp,
    tell: &dyn Fn(&str),
) -> Result<Snapshot, ImportError> {
    let mut sites = Vec::new();
    for path in kubeconfigs {
        let (client, context, server) = client(path).await?;
        sites.push(import_site(client, &path.display().to_string(), &context, &server, tell).await?);
    }
    assemble(sites, taken_at)
}

/// A snapshot of sites that were read one by one.
///
/// # Errors
/// Two of them are one, or have one name.
pub fn assemble(mut sites: Vec<Site>, taken_at: Timestamp) -> Result<Snapshot, ImportError> {
    for (index, second) in sites.iter().enumerate() {
        for first in &sites[..index] {
            let (first_source, second_source) = (first.source.clone(), second.source.clone());
            if first.uid == second.uid {
                let uid = first.uid.clone();
                return Err(ImportError::SameCluster { first: first_source, second: second_source, uid });
            }
            if first.name == second.name {
                let name = first.name.clone();
                return Err(ImportError::SameName { first: first_source, second: second_source, name });
            }
        }
    }
    sites.sort_by(|a, b| a.name.cmp(&b.name));
    let made_by = format!("evergreen {}", env!("CARGO_PKG_VERSION"));
    Ok(Snapshot { format: FORMAT, made_by, taken_at, sites })
}

async fn client(path: &Path) -> Result<(Client, String, String), ImportError> {
    let failed = |why: String| ImportError::Kubeconfig { path: path.to_owned(), why };
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| failed(chain(&error)))?;
    let context = kubeconfig.current_context.clone().unwrap_or_default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| failed(chain(&error)))?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(ANSWER);
    config.default_retry = false;
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| failed(chain(&error)))?;
    Ok((client, context, server))
}

/// Reads one cluster.
///
/// # Errors
/// It cannot be read as a whole.
pub async fn import_site(
    client: Client,
    source: &str,
    context: &str,
    server: &str,
    tell: &dyn Fn(&str),
) -> Result<Site, ImportError> {
    let reader = Reader { client, source };
    let unreachable = |what: &str, error: kube::Error| match error {
        kube::Error::Api(status) => {
            ImportError::Refused { source_name: source.to_owned(), what: what.to_owned(), why: status.message.clone() }
        }
        error => ImportError::Unreachable { source_name: source.to_owned(), what: what.to_owned(), why: chain(&error) },
    };
    let version = reader.get("/version").await.map_err(|error| unreachable("/version", error))?;
    let system = "/api/v1/namespaces/kube-system";
    let system = reader.get(system).await.map_err(|error| unreachable("namespace kube-system", error))?;
    let mut site = Site {
        source: source.to_owned(),
        server: server.to_owned(),
        uid: system["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        kubernetes: version["gitVersion"].as_str().unwrap_or_default().to_owned(),
        ..Site::default()
    };
    for kind in KINDS {
        let named = format!("{}/{}", kind.api_version, kind.kind);
        match reader.list(kind, site.read.len()).await? {
            Listed::All(objects, read) => {
                tell(&format!("{source}: {} {}", read.count, kind.plural));
                site.objects.insert(kind.key(), objects);
                site.read.push(read);
            }
            Listed::NotServed => {
                let why = "the cluster does not serve it".to_owned();
                site.not_read.push(KindNotRead { kind: named, why });
            }
            Listed::Refused(why) => site.not_read.push(KindNotRead { kind: named, why }),
        }
    }
    let path = format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/configmaps/{ASSIGNMENTS}");
    match reader.get(&path).await {
        Ok(map) => {
            let resource_version = map["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
            let text = map["data"]["register"].as_str().unwrap_or("{}");
            site.register = serde_json::from_str(text).ok();
            let kind = format!("v1/ConfigMap {SYSTEM_NAMESPACE}/{ASSIGNMENTS}");
            site.read.push(KindRead { kind, count: 1, pages: 1, resource_version });
        }
        Err(kube::Error::Api(status)) => {
            let kind = format!("v1/ConfigMap {SYSTEM_NAMESPACE}/{ASSIGNMENTS}");
            site.not_read.push(KindNotRead { kind, why: status.message.clone() });
        }
        Err(error) => return Err(reader.vanished(ASSIGNMENTS, 1, site.read.len(), &error)),
    }
    (site.name, site.name_from) = name(&site.objects, context);
    Ok(site)
}

/// The name of a data center, and where it is from.
fn name(objects: &BTreeMap<String, Vec<Value>>, context: &str) -> (String, String) {
    let mut labels: BTreeMap<&str, usize> = BTreeMap::new();
    for node in objects.get("nodes").into_iter().flatten() {
        if let Some(site) = node["metadata"]["labels"][LABEL_SITE].as_str() {
            *labels.entry(site).or_default() += 1;
        }
    }
    match labels.into_iter().max_by_key(|(_, count)| *count) {
        Some((site, _)) => (site.to_owned(), format!("label {LABEL_SITE} of its nodes")),
        None if context.is_empty() => {
            ("cluster".to_owned(), "nothing: neither a label nor a context names it".to_owned())
        }
        None => (context.to_owned(), "context of its kubeconfig".to_owned()),
    }
}

enum Listed {
    All(Vec<Value>, KindRead),
    NotServed,
    Refused(String),
}

struct Reader<'a> {
    client: Client,
    source: &'a str,
}

impl Reader<'_> {
    async fn get(&self, path: &str) -> Result<Value, kube::Error> {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    fn vanished(&self, what: &str, page: usize, kinds: usize, error: &kube::Error) -> ImportError {
        let (source_name, what) = (self.source.to_owned(), what.to_owned());
        ImportError::Vanished { source_name, what, page, kinds, why: chain(error) }
    }

    /// Reads a list in pages; one whose pages expire meanwhile is begun anew.
    async fn list(&self, kind: &Kind, kinds: usize) -> Result<Listed, ImportError> {
        let mut restarts = 0;
        let (mut objects, mut pages, mut next) = (Vec::new(), 0, String::new());
        loop {
            let path = format!("{}?limit={PAGE}{}", kind.path(), token(&next));
            let list = match self.get(&path).await {
                Ok(list) => list,
                Err(kube::Error::Api(status)) if status.code == 410 && restarts < RESTARTS => {
                    restarts += 1;
                    (objects, pages, next) = (Vec::new(), 0, String::new());
                    continue;
                }
                Err(kube::Error::Api(status)) if status.code == 404 && pages == 0 && !kind.essential => {
                    return Ok(Listed::NotServed);
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                    let why = status.message.clone();
                    if !kind.essential {
                        return Ok(Listed::Refused(why));
                    }
                    let (source_name, what) = (self.source.to_owned(), kind.plural.to_owned());
                    return Err(ImportError::Refused { source_name, what, why });
                }
                Err(error) => return Err(self.vanished(kind.plural, pages + 1, kinds, &error)),
            };
            pages += 1;
            objects.extend(list["items"].as_array().into_iter().flatten().map(|object| trim(kind, object)));
            next = list["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if next.is_empty() {
                let read = KindRead {
                    kind: format!("{}/{}", kind.api_version, kind.kind),
                    count: objects.len(),
                    pages,
                    resource_version: list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned(),
                };
                return Ok(Listed::All(objects, read));
            }
        }
    }
}

fn token(next: &str) -> String {
    if next.is_empty() {
        return String::new();
    }
    let escaped: String = next
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    format!("&continue={escaped}")
}

/// An error with its reasons, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        let more = reason.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = reason.source();
    }
    text
}
