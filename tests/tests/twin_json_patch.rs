//! The published JSON Patch test suite (npm `json-patch-test-suite`) against the twin's patches.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use evergreen_tests::{root, skip::skipped};
use evergreen_twin::objects::patch::json_patch;
use serde_json::Value;

/// Cases that the suite holds at least; fewer mean that it was not read.
const AT_LEAST: usize = 90;

#[test]
fn the_published_suite_of_json_patches_passes() {
    let folder = root().join("target/suites/json-patch");
    if !folder.is_dir() {
        skipped("twin: JSON Patch suite", "not fetched (make twin-suites)");
        return;
    }
    let (mut cases, mut wrong) = (0, Vec::new());
    for file in ["tests.json", "spec_tests.json"] {
        let text = std::fs::read(folder.join(file)).unwrap();
        for case in serde_json::from_slice::<Vec<Value>>(&text).unwrap() {
            if case["disabled"] == true || case.get("patch").is_none() {
                continue;
            }
            cases += 1;
            let mut document = case["doc"].clone();
            let result = json_patch(&mut document, &case["patch"]);
            let fine = match (&result, case.get("expected")) {
                (Ok(()), Some(expected)) => document == *expected,
                // Without an expected document, success is all that is asked for.
                (Ok(()), None) => case.get("error").is_none(),
                (Err(_), _) => case.get("error").is_some(),
            };
            if !fine {
                wrong.push(format!("{file}: {} {}: {result:?} {document}", case["comment"], case["patch"]));
            }
        }
    }
    assert!(cases >= AT_LEAST, "only {cases} cases were read");
    assert!(wrong.is_empty(), "{} of {cases} cases:\n{}", wrong.len(), wrong.join("\n"));
}
