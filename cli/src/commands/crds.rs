//! `evergreen crds`: the custom resource definitions as YAML, one file each, so that the chart and the code agree.

use std::{fs, path::PathBuf};

use clap::Args;
use evergreen_api::resources::{all_crds, all_crds_with_rules};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::exit::{Failure, Outcome};

/// Print or write the custom resource definitions.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen crds | kubectl apply --server-side -f -\n  \
    evergreen crds --out charts/evergreen/crds     writes datacenters.yaml, playbooks.yaml, ...")]
pub struct CrdsArgs {
    /// Folder to write one file per definition to, with rules in CEL (Kubernetes 1.25 and later); without it all are printed
    /// as one YAML stream that servers of any version take.
    #[arg(long, env = "EVERGREEN_OUT")]
    out: Option<PathBuf>,
}

pub fn run(args: &CrdsArgs) -> Outcome {
    // Files are for the chart, which leaves rules in CEL out where the API server does not know them; what is printed is taken
    // by every server.
    let files = render(if args.out.is_some() { all_crds_with_rules() } else { all_crds() })?;
    let Some(out) = &args.out else {
        for (_, yaml) in files {
            print!("---\n{yaml}");
        }
        return Ok(());
    };
    let cannot = |what: &PathBuf, error: std::io::Error| {
        Failure::usage(format_args!("cannot write {}: {error}", what.display()))
            .remedy("name a folder you may write to")
    };
    fs::create_dir_all(out).map_err(|error| cannot(out, error))?;
    for (name, yaml) in files {
        let path = out.join(name);
        fs::write(&path, yaml).map_err(|error| cannot(&path, error))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// File name and content of each definition.
fn render(definitions: Vec<CustomResourceDefinition>) -> Outcome<Vec<(String, String)>> {
    definitions
        .into_iter()
        .map(|crd| {
            let yaml = serde_yaml::to_string(&crd)
                .map_err(|error| Failure::no(format_args!("cannot print {}: {error}", crd.spec.names.kind)))?;
            Ok((format!("{}.yaml", crd.spec.names.plural), yaml))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_definition_is_one_file_named_by_its_plural_and_reads_back() {
        let files = render(all_crds()).unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"datacenters.yaml") && names.contains(&"playbookruns.yaml"), "{names:?}");
        for (_, yaml) in &files {
            let value: serde_yaml::Value = serde_yaml::from_str(yaml).unwrap();
            assert_eq!(value["kind"], "CustomResourceDefinition");
        }
    }

    #[test]
    fn only_files_hold_rules_that_older_servers_refuse() {
        let holds =
            |files: Vec<(String, String)>| files.iter().any(|(_, yaml)| yaml.contains("x-kubernetes-validations"));
        assert!(!holds(render(all_crds()).unwrap()) && holds(render(all_crds_with_rules()).unwrap()));
    }

    #[test]
    fn writes_the_same_bytes_every_time() {
        assert_eq!(render(all_crds()).unwrap(), render(all_crds()).unwrap());
    }
}
