//! The stories of `twin/stories`: all is as they say, and what is seen on the way is what was seen before.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::path::PathBuf;

use evergreen_tests::root;
use evergreen_twin::story;

fn stories() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("twin/stories")).unwrap();
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

fn played(file: &std::path::Path) -> story::Told {
    let story =
        story::parse(&std::fs::read_to_string(file).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(story::play(&story)).unwrap()
}

#[test]
fn every_story_goes_as_it_is_told() {
    let mut wrong = Vec::new();
    for file in stories() {
        let told = played(&file);
        wrong.extend(told.wrong.iter().map(|w| format!("{}: {w}\n{}", file.display(), told.text)));
        let kept = file.with_extension("txt");
        if std::env::var_os("EVERGREEN_WRITE_STORIES").is_some() {
            std::fs::write(&kept, &told.text).unwrap();
        } else if std::fs::read_to_string(&kept).unwrap_or_default() != told.text {
            wrong.push(format!(
                "{} went another way (make twin-stories writes it anew):\n{}",
                file.display(),
                told.text
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_story_goes_the_same_way_every_time() {
    for file in stories() {
        assert_eq!(played(&file), played(&file), "{}", file.display());
    }
}
