//! `evergreen playbook catalogue`: a page that lists a folder of playbooks.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use evergreen_playbooks::catalogue::{self, Language};
use serde_json::json;

use crate::exit::{Failure, Outcome};

/// List playbooks by area, as a page in Markdown.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen playbook catalogue playbooks/ > catalogue.md\n  \
    evergreen playbook catalogue playbooks/ --lang zh > catalogue.zh-CN.md\n\n\
    Areas are the labels evergreen.dev/area. Exit codes: 0 printed, 1 a playbook has errors, 2 the folder cannot be read.")]
pub struct CatalogueArgs {
    /// Folder with playbooks NAME.yaml.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Language of the page.
    #[arg(long, env = "EVERGREEN_LANG", value_enum, default_value = "en")]
    lang: Tongue,
    /// Print JSON: name, area and summary of each.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tongue {
    En,
    Zh,
}

pub(super) fn catalogue(args: &CatalogueArgs) -> Outcome {
    let files = super::files(&args.folder)?;
    let playbooks = files.iter().map(|file| super::playbook(file)).collect::<Outcome<Vec<_>>>()?;
    if args.json {
        let list: Vec<_> = playbooks
            .iter()
            .map(|playbook| {
                json!({"name": playbook.metadata.name, "area": catalogue::area(playbook), "summary": playbook.spec.summary})
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&list).map_err(anyhow::Error::from)?);
    } else {
        let language = match args.lang {
            Tongue::En => Language::English,
            Tongue::Zh => Language::Chinese,
        };
        print!("{}", catalogue::page(&playbooks, language));
    }
    Ok(())
}

/// Playbooks of a folder, by name.
pub(super) fn files(folder: &std::path::Path) -> Outcome<Vec<PathBuf>> {
    let place = folder.display();
    let entries = std::fs::read_dir(folder).map_err(|error| {
        Failure::usage(format_args!("cannot read {place}: {error}")).remedy("a folder of playbooks")
    })?;
    let is_playbook = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.ends_with(".yaml") && !name.ends_with(".test.yaml")
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_playbook).collect();
    files.sort();
    if files.is_empty() {
        return Err(Failure::usage(format_args!("there is no playbook in {place}")).remedy("a folder with NAME.yaml"));
    }
    Ok(files)
}
