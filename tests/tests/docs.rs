//! What the pages show is true: resources are accepted, the chart renders with the values that are typed.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::path::PathBuf;

use evergreen_api::{
    Validate,
    resources::{ChangeWindow, DataCenter, EnergyReport, FailoverDrill, MultiActiveService, Playbook},
};
use evergreen_tests::{chart, programs, root, skip::skipped};
use serde_yaml::Value;

fn pages() -> Vec<(PathBuf, String)> {
    let folder = std::fs::read_dir(root().join("docs")).unwrap().map(|file| file.unwrap().path());
    let pages = folder.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let pages = pages.chain(["README.md", "README.zh-CN.md"].map(|name| root().join(name)));
    pages.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// Code blocks of a language, as they stand in a page.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let (mut blocks, mut open): (Vec<String>, Option<String>) = (Vec::new(), None);
    for line in page.lines() {
        match (&mut open, line.trim().strip_prefix("```")) {
            (None, Some(found)) if found == language => open = Some(String::new()),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => *block += &format!("{line}\n"),
            _ => {}
        }
    }
    blocks
}

fn check(value: Value) -> Result<(), String> {
    fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, String> {
        serde_yaml::from_value(value).map_err(|error| error.to_string())
    }
    let told = |errors: Vec<evergreen_api::FieldError>| match errors.as_slice() {
        [] => Ok(()),
        errors => Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    };
    match value["kind"].as_str().unwrap_or_default() {
        "MultiActiveService" => told(read::<MultiActiveService>(value)?.spec.validate()),
        "DataCenter" => told(read::<DataCenter>(value)?.spec.validate()),
        "FailoverDrill" => told(read::<FailoverDrill>(value)?.spec.validate()),
        "EnergyReport" => told(read::<EnergyReport>(value)?.spec.validate()),
        "ChangeWindow" => read::<ChangeWindow>(value).map(drop),
        "Playbook" => told(read::<Playbook>(value)?.spec.validate()),
        other => Err(format!("no kind {other}")),
    }
}

#[test]
fn every_resource_that_a_page_shows_is_accepted() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (path, page) in pages() {
        for block in blocks(&page, "yaml") {
            // `[...]` stands for what is not shown.
            let text = block.replace("[...]", "[]");
            for document in chart::objects(&text) {
                if document["apiVersion"] == "evergreen.dev/v1alpha1" {
                    seen += 1;
                    if let Err(why) = check(document) {
                        wrong.push(format!("{}: {why}\n{block}", path.display()));
                    }
                }
            }
        }
    }
    assert!(seen >= 5, "only {seen} resources were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_installation_that_a_page_shows_renders() {
    let Some(helm) = programs::tool("helm") else {
        skipped("docs: helm commands", "no helm (make setup)");
        return;
    };
    let mut seen = 0;
    for (path, page) in pages() {
        for block in blocks(&page, "sh").into_iter().chain(blocks(&page, "")) {
            let joined = block.replace("\\\n", " ");
            for line in joined.lines().filter(|line| line.contains("charts/evergreen") && line.contains("helm ")) {
                let words: Vec<&str> = line.split_whitespace().collect();
                let sets = words.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1]);
                let sets: Vec<&str> = sets.collect();
                if sets.is_empty() {
                    continue;
                }
                seen += 1;
                let arguments: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
                if let Err(error) = chart::template(&helm, &arguments) {
                    panic!("{}: {line}: {error}", path.display());
                }
            }
        }
    }
    assert!(seen >= 4, "only {seen} installations were found");
}
