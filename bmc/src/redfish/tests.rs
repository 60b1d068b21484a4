//! Documents as makers shape them, and as nobody should.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::shapes::*;
use crate::{PowerAction, PowerState};

const SYSTEM: &str = "/redfish/v1/Systems/1";

fn control(entries: Value, machines: usize) -> Result<crate::Reading, crate::BmcError> {
    power_control(&json!({"PowerControl": entries}), SYSTEM, "/redfish/v1/Chassis/1", machines)
}

#[test]
fn a_power_document_gives_watts_statistics_limit_and_capacity() {
    let reading = control(
        json!([{
            "MemberId": "0", "Name": "System Power Control", "PowerConsumedWatts": 344.5, "PowerCapacityWatts": 800,
            "PowerMetrics": {"IntervalInMin": 30, "MinConsumedWatts": 271, "MaxConsumedWatts": 489, "AverageConsumedWatts": 319},
            "PowerLimit": {"LimitInWatts": 500},
        }]),
        1,
    )
    .unwrap();
    assert_eq!(reading.milliwatts, 344_500);
    assert_eq!(reading.statistics.unwrap().maximum_milliwatts, Some(489_000));
    assert_eq!(reading.statistics.unwrap().window.unwrap().as_secs(), 1_800);
    assert_eq!((reading.limit_milliwatts, reading.capacity_milliwatts), (Some(500_000), Some(800_000)));
}

#[test]
fn parts_of_a_machine_are_not_taken_for_the_machine() {
    let entries = json!([
        {"Name": "CPU", "PhysicalContext": "CPU", "PowerConsumedWatts": 90},
        {"Name": "Memory", "PhysicalContext": "Memory", "PowerConsumedWatts": 20},
        {"Name": "Server Power Control", "PhysicalContext": "Chassis", "PowerConsumedWatts": "210"},
    ]);
    assert_eq!(control(entries, 1).unwrap().milliwatts, 210_000);
    let only_parts = json!([{"Name": "CPU", "PhysicalContext": "CPU", "PowerConsumedWatts": 90}]);
    assert_eq!(control(only_parts, 1).unwrap_err().word(), "unsupported");
}

#[test]
fn power_that_several_machines_share_is_attributed_to_none() {
    let whole = json!([{"Name": "Enclosure", "PowerConsumedWatts": 1200}]);
    let error = control(whole, 4).unwrap_err();
    assert_eq!(error.word(), "shared");
    assert!(error.to_string().contains("4 machines"), "{error}");
    let divided = json!([
        {"Name": "Enclosure", "PowerConsumedWatts": 1200, "RelatedItem": [{"@odata.id": SYSTEM}, {"@odata.id": "/redfish/v1/Systems/2"}]},
        {"Name": "Node 2", "PowerConsumedWatts": 310, "RelatedItem": [{"@odata.id": "/redfish/v1/Systems/2"}]},
        {"Name": "Node 1", "PowerConsumedWatts": 290, "RelatedItem": [{"@odata.id": SYSTEM}]},
    ]);
    assert_eq!(control(divided, 4).unwrap().milliwatts, 290_000);
}

#[test]
fn a_reading_that_is_null_is_no_figure_and_not_zero() {
    let null = json!([{"Name": "System Power Control", "PowerConsumedWatts": null}]);
    assert_eq!(control(null, 1).unwrap_err().word(), "no_figure");
    let starting = json!({"PowerWatts": {"Reading": null}});
    assert_eq!(environment(&starting).unwrap_err().word(), "no_figure");
}

#[test]
fn environment_metrics_give_power_and_the_counter_that_is_never_reset() {
    let document = json!({
        "PowerWatts": {"Reading": 417.25}, "EnergykWh": {"Reading": 12.5, "LifetimeReading": 1000.0},
        "PowerLimitWatts": {"SetPoint": 600},
    });
    let reading = environment(&document).unwrap();
    assert_eq!((reading.milliwatts, reading.energy_joules), (417_250, Some(3.6e9)));
    assert_eq!(reading.limit_milliwatts, Some(600_000));
}

#[test]
fn supplies_are_summed_only_when_each_has_a_figure() {
    assert_eq!(of_supplies(&[Some(120_000), Some(130_500)]).unwrap().milliwatts, 250_500);
    assert_eq!(of_supplies(&[Some(120_000), None]).unwrap_err().word(), "no_figure");
    assert_eq!(of_supplies(&[]).unwrap_err().word(), "no_figure");
}

#[test]
fn only_what_plainly_says_off_is_off() {
    for (text, state) in [
        (json!("On"), PowerState::On),
        (json!("Off"), PowerState::Off),
        (json!("PoweringOff"), PowerState::Unknown),
        (json!("Paused"), PowerState::Unknown),
        (json!(null), PowerState::Unknown),
        (json!(false), PowerState::Unknown),
    ] {
        assert_eq!(power_state(&json!({"PowerState": text})), state);
    }
    assert_eq!(power_state(&json!({})), PowerState::Unknown);
}

#[test]
fn an_action_uses_only_words_that_the_bmc_allows() {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(word(PowerAction::ForceOff, &[]).unwrap(), "ForceOff");
    assert_eq!(word(PowerAction::On, &words(&["ForceOn", "ForceOff"])).unwrap(), "ForceOn");
    let error = word(PowerAction::ForceOff, &words(&["On", "GracefulShutdown"])).unwrap_err();
    assert!(error.to_string().contains("it offers On, GracefulShutdown"), "{error}");
    let info = json!({"Parameters": [{"Name": "ResetType", "AllowableValues": ["On", "ForceOff"]}]});
    assert_eq!(allowed(&info), ["On", "ForceOff"]);
}

fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(|n| json!(n)),
        any::<i64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
    ];
    let name = prop_oneof![
        Just("PowerControl".to_owned()),
        Just("PowerConsumedWatts".to_owned()),
        Just("PowerMetrics".to_owned()),
        Just("IntervalInMin".to_owned()),
        Just("RelatedItem".to_owned()),
        Just("PowerWatts".to_owned()),
        Just("Reading".to_owned()),
        Just("EnergykWh".to_owned()),
        Just("Links".to_owned()),
        Just("@odata.id".to_owned()),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_is_read_or_refused(document in document(), machines in 0_usize..5) {
        let _ = (environment(&document), power_control(&document, SYSTEM, "c", machines), supply_input(&document));
        let _ = (power_state(&document), reset(&document), allowed(&document));
    }
}
