use serde::Deserialize;

use super::*;

const GOLDEN: &str = include_str!("../../../data/power-model-golden.json");

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    machine: Machine,
    watts: [f64; NODES],
    interval: Option<[[f64; 2]; NODES]>,
    idle_w: Option<f64>,
    max_w: Option<f64>,
}

fn named(cpu_name: &str, threads: f64) -> Machine {
    Machine { cpu_name: Some(cpu_name.into()), threads: Some(threads), ..Machine::default() }
}

fn ask(lines: &str) -> (Vec<serde_json::Value>, bool) {
    let mut output = Vec::new();
    let understood = lines::answer_all(lines.as_bytes(), &mut output).unwrap();
    let answers = String::from_utf8(output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (answers, understood)
}

#[test]
fn predictions_equal_those_of_the_program_that_fitted_the_model() {
    let golden: Golden = serde_json::from_str(GOLDEN).unwrap();
    assert!(golden.cases.len() >= 10);
    for case in golden.cases {
        let curve = match (case.idle_w, case.max_w) {
            (Some(idle), Some(full)) => Estimator::shipped().calibrated(&case.machine, idle, full),
            _ => Estimator::shipped().estimate(&case.machine),
        }
        .unwrap();
        for (ours, theirs) in curve.watts.iter().zip(&case.watts) {
            assert!((ours / theirs - 1.0).abs() < 1e-6, "{ours} and {theirs} for {:?}", case.machine);
        }
        assert_eq!(curve.interval.is_some(), case.interval.is_some(), "{:?}", case.machine);
        for (ours, theirs) in curve.interval.iter().flatten().flatten().zip(case.interval.iter().flatten().flatten()) {
            assert!((ours / theirs - 1.0).abs() < 1e-6, "bounds {ours} and {theirs} for {:?}", case.machine);
        }
    }
}

#[test]
fn every_feature_of_the_shipped_data_is_known_here() {
    let estimator = Estimator::shipped();
    let mut base = Base::of(&named("Intel Xeon Gold 6140", 72.0), None, None).unwrap();
    base.complete(&estimator.data.guesses);
    let known = Some(Known { idle: 50.0, full: 300.0 });
    for model in [&estimator.data.zero, &estimator.data.two_point] {
        for (name, ..) in &model.features {
            assert!(base.feature(name, known).is_some_and(f64::is_finite), "{name}");
        }
        assert_eq!(model.feature_coefficients.len(), model.intercepts.len());
        assert!(model.wave_coefficients.iter().all(|row| row.len() == 2 * model.waves));
        assert!(model.pool_coefficients.iter().all(|row| row.len() == estimator.data.pools.len()));
    }
}

#[test]
fn a_family_of_the_fit_gets_an_interval_around_its_watts() {
    let curve = Estimator::shipped().estimate(&named("Intel(R) Xeon(R) Gold 6140 CPU @ 2.30GHz", 72.0)).unwrap();
    assert_eq!(curve.family.as_deref(), Some("skylake"));
    for (watts, [low, high]) in curve.watts.iter().zip(curve.interval.unwrap()) {
        assert!(low < *watts && *watts < high);
    }
    assert!(curve.basis.contains("fitted to") && curve.basis.contains("filled in: ghz, tdp_w"), "{}", curve.basis);
}

#[test]
fn a_family_the_model_never_saw_gets_watts_a_word_and_no_interval() {
    for name in
        ["Kunpeng-920", "Phytium,S2500/64", "Hygon C86 7285 32-core Processor", "AMD EPYC 9654 96-Core Processor"]
    {
        let curve = Estimator::shipped().estimate(&named(name, 64.0)).unwrap();
        assert!(curve.interval.is_none() && curve.basis.contains("never saw"), "{name}: {}", curve.basis);
        assert!(curve.watts[0] > 0.0);
    }
    let nameless = Estimator::shipped().estimate(&Machine { cores: Some(8.0), ..Machine::default() }).unwrap();
    assert!(nameless.interval.is_none() && nameless.basis.contains("unknown"));
}

#[test]
fn a_calibrated_curve_goes_through_the_two_points_that_were_given() {
    let curve = Estimator::shipped().calibrated(&named("AMD EPYC 7742", 256.0), 120.0, 480.0).unwrap();
    assert_eq!((curve.watts[0], curve.watts[10]), (120.0, 480.0));
    assert_eq!(curve.interval_at(1.0), Some([480.0, 480.0]));
    assert!(curve.watts.windows(2).all(|pair| pair[0] <= pair[1]));
}

#[test]
fn the_name_a_cpu_gives_itself_tells_its_family() {
    for (name, family) in [
        ("Intel(R) Xeon(R) CPU E5-2680 0 @ 2.70GHz", "sandybridge"),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "broadwell"),
        ("Intel(R) Xeon(R) Platinum 8380H CPU @ 2.90GHz", "cooperlake"),
        ("Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", "icelake"),
        ("Intel(R) Xeon(R) CPU E3-1270 v6 @ 3.80GHz", "kabylake"),
        ("Intel Xeon Processor (Cascadelake)", "cascadelake"),
        ("Intel Xeon X5670", "nehalem"),
        ("Intel Xeon 5160", "core"),
        ("AMD EPYC 7F72 24-Core Processor", "epyc-gen2"),
        ("AMD Opteron(tm) Processor 6276", "bulldozer"),
        ("Quad-Core AMD Opteron(r) Processor 8376 HE", "k10"),
    ] {
        assert_eq!(Estimator::shipped().families().find(&named(name, 1.0)), Some(family), "{name}");
    }
    assert_eq!(Estimator::shipped().families().of_cpuid("GenuineIntel", 6, 85, 7), Some("cascadelake"));
    assert_eq!(Estimator::shipped().families().of_cpuid("AuthenticAMD", 25, 1, 1), Some("epyc-gen3"));
}

#[test]
fn senseless_numbers_are_refused_with_their_name() {
    let mut machine = named("AMD EPYC 7742", 256.0);
    let refused = |error: EstimateError, field: &str| assert!(error.to_string().contains(field), "{error}");
    refused(Estimator::shipped().calibrated(&machine, 0.0, 100.0).unwrap_err(), "idle_w");
    refused(Estimator::shipped().calibrated(&machine, 100.0, 100.0).unwrap_err(), "max_w");
    machine.mem_gb = Some(-1.0);
    refused(Estimator::shipped().estimate(&machine).unwrap_err(), "mem_gb");
    refused(Estimator::shipped().estimate(&Machine::default()).unwrap_err(), "threads");
}

#[test]
fn any_machine_within_the_limits_gets_finite_watts_that_do_not_fall() {
    for threads in [1.0, 7.0, 4_096.0, 262_144.0] {
        for mem_gb in [0.001, 16.0, 1e6] {
            for chips in [1.0, 256.0] {
                let machine =
                    Machine { mem_gb: Some(mem_gb), chips: Some(chips), ..named("Intel Xeon E5-2670", threads) };
                let zero = Estimator::shipped().estimate(&machine).unwrap();
                let calibrated = Estimator::shipped().calibrated(&machine, 1.0, 1e6).unwrap();
                for curve in [zero, calibrated] {
                    assert!(curve.watts.iter().all(|watts| watts.is_finite() && *watts > 0.0));
                    assert!(curve.watts.windows(2).all(|pair| pair[0] <= pair[1]));
                }
            }
        }
    }
}

#[test]
fn questions_are_answered_line_by_line_at_the_loads_that_were_asked() {
    let (answers, understood) = ask(concat!(
        r#"{"machine":{"cpu_name":"Intel Xeon Gold 6140","threads":72,"vendor":"x","year":2018},"loads":[0,5,100]}"#,
        "\n\n",
        r#"{"machine":{"threads":72},"loads":[50],"idle_w":50,"max_w":250.5}"#,
    ));
    assert!(understood && answers.len() == 2);
    assert_eq!(answers[0]["watts"].as_array().unwrap().len(), 3);
    assert_eq!(answers[0]["interval"].as_array().unwrap().len(), 3);
    assert_eq!(answers[0]["provenance"], "estimated");
    assert!(answers[1]["watts"][0].as_f64().unwrap() > 50.0 && answers[1].get("interval").is_none());
    assert_eq!(answers[1]["provenance"], "calibrated");
}

#[test]
fn a_bad_line_gets_its_own_answer_and_the_next_one_is_answered() {
    let long = "x".repeat(200_000);
    let (answers, understood) = ask(&format!(
        "nonsense\n{long}\n{}\n{}\n{}\n",
        r#"{"machine":{"threads":8},"loads":[101]}"#,
        r#"{"machine":{"threads":8},"loads":[0],"idle_w":5}"#,
        r#"{"machine":{"threads":8},"loads":[0]}"#
    ));
    assert!(!understood && answers.len() == 5);
    assert!(answers[..4].iter().all(|answer| answer["watts"].is_null() && answer["error"].is_string()));
    assert!(answers[4]["watts"][0].is_number());
}
