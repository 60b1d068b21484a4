//! A data center as it is named on the command line, and a client of it.

use std::{path::PathBuf, str::FromStr, time::Duration};

use evergreen_api::resources::DataCenter;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    commands::failover::sites::CALL,
    exit::{Failure, Outcome},
};

/// `NAME=FILE` or `NAME=FILE#CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the data center, as in its DataCenter resource.
    pub name: String,
    /// Kubeconfig of somebody who may make tokens and Secrets there.
    pub file: PathBuf,
    /// Context in it; the current one when nothing is said.
    pub context: Option<String>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, rest)) = text.split_once('=').filter(|(name, rest)| !name.is_empty() && !rest.is_empty())
        else {
            return Err("write NAME=FILE, as in dc-a=dc-a.kubeconfig, or NAME=FILE#CONTEXT".into());
        };
        let (file, context) = match rest.split_once('#') {
            Some((file, context)) if !context.is_empty() => (file, Some(context.to_owned())),
            _ => (rest, None),
        };
        Ok(Self { name: name.to_owned(), file: file.into(), context })
    }
}

/// A data center that answers.
pub struct Reached {
    /// Its name.
    pub name: String,
    /// Client with the rights of whoever types.
    pub client: Client,
    /// UID of its namespace kube-system.
    pub cluster: String,
    /// URL of its API server, as this kubeconfig has it.
    pub server: String,
    /// Certificates that its API server is checked by, PEM.
    pub authorities: Option<String>,
    /// The DataCenter resources there; none at a witness, where no controller runs.
    pub known: Vec<DataCenter>,
}

impl Place {
    /// Connects, and reads what the joining needs.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used, the API server does not answer, or something may not be read.
    pub async fn reach(&self) -> Outcome<Reached> {
        let name = &self.name;
        let file = Kubeconfig::read_from(&self.file).map_err(|error| {
            Failure::usage(format_args!("{}: {error}", self.file.display())).remedy(format_args!("{name}=FILE"))
        })?;
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let unusable = |error: &dyn std::error::Error| {
            Failure::usage(format_args!("{}: {error}", self.file.display()))
                .remedy(format_args!("kubectl --kubeconfig {} config get-contexts", self.file.display()))
        };
        let mut config = Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(&error))?;
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(3));
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let authorities = config.root_cert.as_ref().map(|chain| chain.iter().map(|der| pem(der)).collect());
        let client = Client::try_from(config).map_err(|error| unusable(&error))?;
        let silent = || {
            Failure::unreachable(format_args!("{name} does not answer at {server} within {} s", CALL.as_secs()))
                .remedy("nothing was changed anywhere; try again when every data center answers")
        };
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let system = tokio::time::timeout(CALL, namespaces.get("kube-system")).await.map_err(|_| silent())?;
        let system = system.map_err(|error| {
            Failure::unreachable(format_args!("{name} ({server}): which cluster it is cannot be read: {}", why(&error)))
                .remedy("nothing was changed anywhere; use a kubeconfig of an administrator")
        })?;
        let sites: Api<DataCenter> = Api::all(client.clone());
        let known = match tokio::time::timeout(CALL, sites.list(&ListParams::default())).await.map_err(|_| silent())? {
            Ok(list) => list.items,
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => {
                return Err(Failure::unreachable(format_args!("{name}: DataCenters cannot be read: {}", why(&error)))
                    .remedy("nothing was changed anywhere; use a kubeconfig of an administrator"));
            }
        };
        let cluster = system.metadata.uid.unwrap_or_default();
        Ok(Reached { name: name.clone(), client, cluster, server, authorities, known })
    }
}

/// What an API server said, without the HTTP around it.
pub fn why(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_name_a_file_and_perhaps_a_context() {
        let place: Place = "dc-a=/etc/a.yaml#admin".parse().unwrap();
        assert_eq!(
            (place.name.as_str(), place.file.to_str(), place.context.as_deref()),
            ("dc-a", Some("/etc/a.yaml"), Some("admin"))
        );
        assert_eq!("dc-a=a.yaml".parse::<Place>().unwrap().context, None);
        for wrong in ["dc-a", "=a.yaml", "dc-a="] {
            assert!(wrong.parse::<Place>().unwrap_err().contains("NAME=FILE"), "{wrong}");
        }
    }
}
