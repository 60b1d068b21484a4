//! Clients of the data centers that a command speaks to: those that answer, and why the others do not.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use evergreen_api::resources::MultiActiveService;
use kube::{
    Api, Client, Config, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::exit::{Failure, Outcome};

/// One call; a data center that does not answer in this time is left out and named.
pub const CALL: Duration = Duration::from_secs(5);

/// Which data centers are spoken to.
#[derive(Clone, Debug, Args)]
pub struct SitesArgs {
    /// Kubeconfig of a data center; give it once for each, or several separated by commas. Default: the usual one.
    #[arg(long, env = "EVERGREEN_KUBECONFIG", value_name = "FILE", value_delimiter = ',')]
    pub kubeconfig: Vec<PathBuf>,
    /// Context of the kubeconfig; give it once for each data center. Default: the current context of each file.
    #[arg(long, env = "EVERGREEN_CONTEXT", value_name = "NAME", value_delimiter = ',')]
    pub context: Vec<String>,
}

/// One data center that answers.
pub struct Site {
    /// Name of the context.
    pub name: String,
    /// Client.
    pub client: Client,
    /// Services there.
    pub services: Vec<MultiActiveService>,
}

/// The data centers.
pub struct Sites {
    /// Those that answer.
    pub reached: Vec<Site>,
    /// Those that do not, and why.
    pub missed: Vec<(String, String)>,
}

impl SitesArgs {
    fn configs(&self) -> Outcome<Vec<(String, Kubeconfig, KubeConfigOptions)>> {
        let read = |file: &PathBuf| {
            Kubeconfig::read_from(file).map_err(|error| {
                Failure::usage(format_args!("{}: {error}", file.display())).remedy("--kubeconfig FILE")
            })
        };
        let files: Vec<Kubeconfig> = if self.kubeconfig.is_empty() {
            let usual = Kubeconfig::read()
                .map_err(|error| Failure::usage(format_args!("no kubeconfig: {error}")).remedy("--kubeconfig FILE"))?;
            vec![usual]
        } else {
            self.kubeconfig.iter().map(read).collect::<Outcome<_>>()?
        };
        let mut configs = Vec::new();
        for file in files {
            let known = |name: &&String| file.contexts.iter().any(|context| context.name == **name);
            let chosen: Vec<Option<String>> = match self.context.is_empty() {
                true => vec![None],
                false => self.context.iter().filter(known).cloned().map(Some).collect(),
            };
            for context in chosen {
                let name = context.clone().or_else(|| file.current_context.clone()).unwrap_or_else(|| "default".into());
                configs.push((name, file.clone(), KubeConfigOptions { context, ..KubeConfigOptions::default() }));
            }
        }
        if configs.is_empty() {
            return Err(Failure::usage("no kubeconfig has such a context").remedy("kubectl config get-contexts"));
        }
        Ok(configs)
    }

    /// Connects to every data center and reads its services.
    ///
    /// # Errors
    /// When a kubeconfig cannot be used, or no data center answers.
    pub async fn connect(&self) -> Outcome<Sites> {
        let mut sites = Sites { reached: Vec::new(), missed: Vec::new() };
        for (name, file, options) in self.configs()? {
            match site(&name, file, &options).await {
                Ok(site) => sites.reached.push(site),
                Err(why) => sites.missed.push((name, why)),
            }
        }
        if sites.reached.is_empty() {
            let why: Vec<String> = sites.missed.iter().map(|(name, why)| format!("{name}: {why}")).collect();
            return Err(Failure::unreachable(format_args!("no data center answers: {}", why.join("; ")))
                .remedy("--kubeconfig FILE, once for each data center"));
        }
        Ok(sites)
    }
}

async fn site(name: &str, file: Kubeconfig, options: &KubeConfigOptions) -> Result<Site, String> {
    let mut config = Config::from_custom_kubeconfig(file, options).await.map_err(|error| error.to_string())?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(3));
    let client = Client::try_from(config).map_err(|error| error.to_string())?;
    let api: Api<MultiActiveService> = Api::all(client.clone());
    let services = tokio::time::timeout(CALL, api.list(&ListParams::default()))
        .await
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|error| error.to_string())?;
    Ok(Site { name: name.to_owned(), client, services: services.items })
}

impl Sites {
    /// A service by `name`, `namespace/name` or `namespace/name/cell`, as the first data center that has it shows it.
    ///
    /// # Errors
    /// When there is none, or several have that name.
    pub fn service(&self, text: &str) -> Outcome<(MultiActiveService, Option<String>)> {
        let parts: Vec<&str> = text.split('/').collect();
        let fits = |service: &&MultiActiveService| match parts.as_slice() {
            [name] => service.name_any() == *name,
            [namespace, name] | [namespace, name, _] => {
                service.name_any() == *name && service.namespace().as_deref() == Some(namespace)
            }
            _ => false,
        };
        for site in &self.reached {
            let found: Vec<&MultiActiveService> = site.services.iter().filter(fits).collect();
            match found.as_slice() {
                [] => {}
                [service] => return Ok(((*service).clone(), parts.get(2).map(|cell| (*cell).to_owned()))),
                _ => {
                    return Err(Failure::usage(format_args!("several services are called `{text}`"))
                        .remedy("write namespace/name"));
                }
            }
        }
        Err(Failure::no(format_args!("there is no service `{text}`")).remedy("evergreen status"))
    }

    /// Says which data centers were not reached.
    pub fn warn(&self) {
        for (name, why) in &self.missed {
            eprintln!("not reached: {name}: {why}");
        }
    }
}
