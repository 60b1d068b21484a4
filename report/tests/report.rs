//! The report as a whole: exact figures from a ledger, the same bytes from the same ledger, a word for each bad input.
#![allow(clippy::unwrap_used)]

use evergreen_api::resources::{EnergyFacts, ReportScope, ReportStandard};
use evergreen_report::{
    Before, Days, Factors, Kind, Language, Ledger, Parts, Report, ReportError, Request, Row, Standards, Text, compute,
    json, render, sha256,
};

const KWH: u128 = 3_600_000_000_000;

fn row(kind: Kind, site: &str, node: &str, provenance: &str, kwh_by_day: &[u64]) -> Row {
    let days: Vec<(u32, u64)> = (0..).zip(kwh_by_day.iter().map(|kwh| kwh * KWH as u64)).collect();
    Row {
        kind,
        site: site.into(),
        node: node.into(),
        namespace: String::new(),
        workload: String::new(),
        provenance: provenance.into(),
        total: days.iter().map(|(_, energy)| u128::from(*energy)).sum(),
        days,
        gap_ms: 0,
        first_ms: Some(1_767_225_600_000),
        last_ms: Some(1_767_398_400_000),
    }
}

fn pods(site: &str, namespace: &str, workload: &str, kwh: &[u64]) -> Vec<Row> {
    let row = row(Kind::Pod, site, "", "measured", kwh);
    let space = Row { namespace: namespace.into(), ..row };
    let work = Row { workload: workload.into(), days: Vec::new(), ..space.clone() };
    vec![space, work]
}

fn days() -> Days {
    Days::new("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-03T00:00:00Z".parse().unwrap(), "UTC").unwrap()
}

fn ledger(rows: Vec<Row>) -> Ledger {
    let mut ledger = Ledger::new(days());
    rows.into_iter().for_each(|row| ledger.add(row));
    ledger
}

/// Two data centers, two days: 40 kWh and 10 kWh of IT, one node that only idles.
fn rows() -> Vec<Row> {
    let mut rows = vec![
        row(Kind::Host, "dc-a", "a1", "measured", &[12, 12]),
        row(Kind::Idle, "dc-a", "a1", "measured", &[4, 4]),
        row(Kind::Host, "dc-a", "a2", "measured", &[8, 8]),
        row(Kind::Idle, "dc-a", "a2", "measured", &[8, 8]),
        row(Kind::Host, "dc-b", "b1", "estimated", &[5, 5]),
        row(Kind::Idle, "dc-b", "b1", "estimated", &[1, 1]),
    ];
    rows.extend(pods("dc-a", "core", "ledger", &[5, 5]));
    rows.extend(pods("dc-a", "shop", "cart", &[2, 1]));
    rows
}

fn facts(yaml: &str) -> EnergyFacts {
    let facts: EnergyFacts = serde_yaml::from_str(yaml).unwrap();
    assert_eq!(facts.errors("facts"), []);
    facts
}

const FACTS: &str = "
sites:
- dataCenter: dc-a
  gridRegion: CN-East
  pue: {value: 1.25, date: 2026-01-01, by: facility office}
  renewables:
  - {kind: certificate, id: GEC-1, issuer: registry, from: 2026-01-01, to: 2026-01-03, kwh: 10}
  - {kind: onsite, id: roof, issuer: own meter, from: 2026-01-01, to: 2026-01-03, kwh: 15}
  water:
  - {from: 2026-01-01, to: 2026-01-03, amount: 60, date: 2026-01-03, by: Li}
  installedItKw: 800
  standardRacks: 4000
  rackUtilizationPercent: 70
  building: {independentPower: true, electricAirCooling: true}
  greenGrade: {grade: 2, date: 2025-11-01, by: assessor}
- dataCenter: dc-b
  gridRegion: DE
  pue: {value: 1.6, date: 2026-01-01, by: landlord}
  residualFactor: {value: 0.7, year: 2024, source: supplier}
sci: {functionalUnit: payment, count: 1000, embodiedKg: 2.5, source: asset register, date: 2026-01-03, by: Wang}
";

fn made(rows: Vec<Row>, scope: &str, facts: &EnergyFacts) -> Result<Report, ReportError> {
    let request = Request { scope: scope.parse::<ReportScope>().unwrap(), standard: ReportStandard::All };
    let before = Before {
        from: "2025-12-30T00:00:00Z".parse().unwrap(),
        to: "2026-01-01T00:00:00Z".parse().unwrap(),
        energy: Ok(Parts { measured: 40 * KWH, ..Parts::default() }),
    };
    compute(&request, &ledger(rows), &before, facts, &Factors::shipped(), &Standards::shipped())
}

fn value(report: &Report, site: usize, id: &str) -> String {
    let figure = report.data_centers[site].figure(id).unwrap();
    figure.value.clone().unwrap_or_else(|| format!("absent: {}", figure.absent.as_ref().unwrap().en))
}

#[test]
fn every_figure_follows_from_ledger_facts_and_factors() {
    let report = made(rows(), "fleet", &facts(FACTS)).unwrap();
    assert_eq!((report.total.it_kwh.as_str(), report.total.measured.percent.as_str()), ("50.000000", "80.0"));
    assert_eq!(report.total.interval_kwh, ["46.380000", "53.620000"], "36.2 % of 10 kWh");
    assert_eq!(report.total.idle.as_ref().unwrap().kwh, "26.000000");
    assert_eq!(report.previous.change_percent.as_deref(), Some("+25.0"));
    let a = |id| value(&report, 0, id);
    assert_eq!((a("facility_energy").as_str(), a("pue").as_str()), ("50.000000", "1.250"));
    assert_eq!(a("scope2_location"), "27.500000", "50 kWh x 0.5500");
    assert_eq!(a("scope2_market"), "15.240000", "25 kWh left x 0.6096");
    assert_eq!((a("ref"), a("cue"), a("wue")), ("0.500".into(), "0.6875".into(), "1.5000".into()));
    assert_eq!((a("gb40879_grade"), a("gb40879_applies"), a("gbt44989_grade")), ("2".into(), "yes".into(), "2".into()));
    assert_eq!(a("national2025"), "met");
    assert_eq!((a("eu_applies"), a("e_dc"), a("e_res_tot")), ("yes".into(), "50.000000".into(), "25.000000".into()));
    assert_eq!(
        (a("e_res_goo"), a("e_res_ppa"), a("e_res_oos")),
        ("10.000000".into(), "0.000000".into(), "15.000000".into())
    );
    assert_eq!(a("w_in"), "0.060");
    assert!(a("e_reuse").contains("no reused heat is declared"));
    let b = |id| value(&report, 1, id);
    assert_eq!((b("facility_energy"), b("scope2_location")), ("16.000000".into(), "5.808000".into()));
    assert_eq!((b("scope2_market"), b("gb40879_grade")), ("11.200000".into(), "-".into()));
    assert!(b("ref").contains("no renewable energy"));
    let total = |id: &str| report.summary.iter().find(|figure| figure.id == id).unwrap().value.clone().unwrap();
    assert_eq!((total("facility_energy"), total("pue")), ("66.000000".into(), "1.320".into()));
    assert_eq!(total("scope2_location"), "33.308000");
    let sci = &report.sci.as_ref().unwrap().figures[0];
    assert_eq!(sci.value.as_deref(), Some("35.808000"), "(33.308 + 2.5) kg / 1000 payments, in grams");
    let split: Vec<_> = report.consumers.split.iter().map(|part| part.kwh.as_str()).collect();
    assert_eq!(split, ["13.000000", "11.000000", "26.000000"]);
    let advice = &report.recommendations[0];
    assert_eq!(
        (advice.id, advice.expected_kwh.as_deref(), &advice.about),
        ("consolidate", Some("16.000000"), &vec!["a2".to_owned()])
    );
    assert!(
        report.data_centers[1]
            .sections
            .iter()
            .flat_map(|s| &s.figures)
            .all(|f| f.value.is_some() != f.absent.is_some())
    );
}

#[test]
fn the_same_ledger_in_any_order_gives_the_same_bytes_in_every_form() {
    let forms = |rows: Vec<Row>| {
        let report = made(rows, "fleet", &facts(FACTS)).unwrap();
        let mut forms = vec![json(&report)];
        for language in [Language::English, Language::Chinese] {
            forms.push(render::html(&report, language));
            forms.push(render::markdown(&report, language));
            forms.push(render::csv(&report, language));
        }
        forms
    };
    let first = forms(rows());
    for turn in 1..5 {
        let mut shuffled = rows();
        let length = shuffled.len();
        shuffled.rotate_left(turn * 3 % length);
        shuffled.swap(0, 5);
        let again = forms(shuffled);
        assert_eq!(first, again);
        assert_eq!(sha256(&first[0]), sha256(&again[0]));
    }
    assert_ne!(first[1], first[4], "two languages");
    assert!(first[1].contains(&sha256(&first[0])), "the page names the hash of the data form");
}

#[test]
fn what_nobody_declared_is_absent_with_its_reason_and_never_guessed() {
    let report = made(rows(), "fleet", &EnergyFacts::default()).unwrap();
    for (id, why) in [
        ("facility_energy", "never guessed"),
        ("pue", "never guessed"),
        ("scope2_location", "gridRegion"),
        ("scope2_market", "never guessed"),
        ("ref", "never guessed"),
        ("wue", "no water is declared"),
        ("gbt44989_grade", "greenGrade"),
        ("eu_applies", "installedItKw"),
    ] {
        assert!(value(&report, 0, id).contains(why), "{id}: {}", value(&report, 0, id));
    }
    assert_eq!(value(&report, 0, "e_it"), "40.000000");
    assert!(report.sci.unwrap().figures[0].absent.as_ref().unwrap().en.contains("functional unit"));
    let page = render::html(&made(rows(), "fleet", &EnergyFacts::default()).unwrap(), Language::Chinese);
    assert!(page.contains("从不推测") && !page.contains("http://") && !page.contains("<script"));
}

#[test]
fn emissions_without_a_pue_are_of_it_energy_and_say_so() {
    let facts = facts("sites:\n- {dataCenter: dc-a, gridRegion: CN-Yunnan}\n");
    let report = made(rows(), "datacenter=dc-a", &facts).unwrap();
    assert_eq!(value(&report, 0, "scope2_location"), "4.292000");
    let figure = report.data_centers[0].figure("scope2_location").unwrap();
    assert!(figure.basis.as_ref().unwrap().en.contains("IT energy alone"));
    assert!(
        report.data_centers[0].notes.iter().any(|note| note.en.contains("of 2022")),
        "an older factor is a warning"
    );
}

#[test]
fn a_facility_meter_goes_before_a_declared_pue_and_gives_pue_over_time() {
    let mut all = rows();
    all.push(row(Kind::Facility, "dc-a", "", "", &[24, 26]));
    let report = made(all, "datacenter=dc-a", &facts(FACTS)).unwrap();
    assert_eq!((value(&report, 0, "pue"), value(&report, 0, "facility_energy")), ("1.250".into(), "50.000000".into()));
    let points: Vec<_> =
        report.data_centers[0].pue_over_time.iter().map(|p| (p.from.as_str(), p.pue.as_str())).collect();
    assert_eq!(points, [("2026-01-01", "1.200"), ("2026-01-02", "1.300")]);
    // A meter that is silent for a day is not extrapolated.
    let mut half = rows();
    half.push(row(Kind::Facility, "dc-a", "", "", &[24]));
    let alone = facts("sites:\n- {dataCenter: dc-a, gridRegion: CN-East}\n");
    let report = made(half, "datacenter=dc-a", &alone).unwrap();
    assert_eq!(value(&report, 0, "pue"), "1.200");
    assert!(value(&report, 0, "facility_energy").contains("nothing is extrapolated"));
}

#[test]
fn readings_by_people_give_a_pue_and_must_cover_the_period() {
    let read = |to: &str, amount: u32| {
        facts(&format!(
            "sites:\n- dataCenter: dc-a\n  facilityEnergy:\n  - {{from: 2026-01-01, to: {to}, amount: {amount}, date: 2026-01-04, by: Li}}\n"
        ))
    };
    let report = made(rows(), "datacenter=dc-a", &read("2026-01-03", 60)).unwrap();
    assert_eq!((value(&report, 0, "pue"), value(&report, 0, "facility_energy")), ("1.500".into(), "60.000000".into()));
    assert!(report.data_centers[0].figure("pue").unwrap().source.as_ref().unwrap().contains("Li (2026-01-04)"));
    let report = made(rows(), "datacenter=dc-a", &read("2026-01-02", 30)).unwrap();
    assert!(value(&report, 0, "facility_energy").contains("nothing is extrapolated"));
    let error = made(rows(), "datacenter=dc-a", &read("2026-01-03", 39)).unwrap_err();
    assert!(matches!(&error, ReportError::ImpossiblePue { why, .. } if why.contains("by Li")), "{error}");
}

#[test]
fn two_meters_that_conflict_are_refused_and_two_that_agree_are_not() {
    let with = |amount: u32| {
        let mut all = rows();
        all.push(row(Kind::Facility, "dc-a", "", "", &[24, 26]));
        made(
            all,
            "datacenter=dc-a",
            &facts(&format!(
                "sites:\n- dataCenter: dc-a\n  facilityEnergy:\n  - {{from: 2026-01-01, to: 2026-01-03, amount: {amount}, date: 2026-01-04, by: Li}}\n"
            )),
        )
    };
    assert!(with(51).is_ok());
    let error = with(55).unwrap_err();
    assert_eq!(error.reason(), "MetersConflict");
    assert!(error.to_string().contains("50.000000") && error.to_string().contains("55.000000"), "{error}");
}

#[test]
fn a_meter_below_the_it_energy_an_unknown_region_and_a_period_without_data_are_errors() {
    let mut all = rows();
    all.push(row(Kind::Facility, "dc-a", "", "", &[10, 10]));
    let error = made(all, "fleet", &EnergyFacts::default()).unwrap_err();
    assert!(error.to_string().contains("PUE of 0.500 is impossible"), "{error}");
    let unknown = facts("sites:\n- {dataCenter: dc-a, gridRegion: Atlantis}\n");
    assert_eq!(made(rows(), "fleet", &unknown).unwrap_err().reason(), "UnknownGridRegion");
    let nothing = made(Vec::new(), "datacenter=dc-z", &EnergyFacts::default()).unwrap_err();
    assert!(nothing.to_string().contains("datacenter=dc-z"), "{nothing}");
}

#[test]
fn a_namespace_is_its_pods_with_its_share_of_the_facility() {
    let mut only = rows();
    only.retain(|row| row.kind != Kind::Pod || row.namespace == "core");
    let report = made(only, "namespace=core", &facts(FACTS)).unwrap();
    assert_eq!(report.total.it_kwh, "10.000000");
    assert_eq!(
        (value(&report, 0, "facility_energy"), value(&report, 0, "scope2_location")),
        ("12.500000".into(), "6.875000".into())
    );
    assert_eq!(value(&report, 0, "scope2_market"), "3.810000", "a quarter of the site's");
    assert!(report.data_centers[0].sections.iter().all(|section| section.id != "cn"));
    assert!(report.notes.iter().any(|note| note.en.contains("beyond the idle node")));
}

#[test]
fn certificates_beyond_the_period_or_the_consumption_do_not_count() {
    let facts = facts(
        "sites:\n- dataCenter: dc-a\n  gridRegion: CN-East\n  pue: {value: 1.25, date: 2026-01-01, by: x}\n  renewables:\n  \
         - {kind: certificate, id: G1, issuer: r, from: 2025-12-01, to: 2026-01-02, kwh: 10}\n  \
         - {kind: ppa, id: P1, issuer: r, from: 2026-01-01, to: 2026-01-03, kwh: 900}\n",
    );
    let report = made(rows(), "datacenter=dc-a", &facts).unwrap();
    assert_eq!((value(&report, 0, "ref"), value(&report, 0, "scope2_market")), ("1.000".into(), "0.000000".into()));
    let notes: Vec<_> = report.data_centers[0].notes.iter().map(|note| note.en.as_str()).collect();
    assert!(notes.iter().any(|note| note.contains("G1") && note.contains("only partly")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("only what it used is counted")), "{notes:?}");
}

#[test]
fn names_cannot_carry_markup_or_formulas_into_the_forms() {
    let name = "<img src=x onerror=alert(1)>|";
    let mut all = vec![row(Kind::Host, name, "=cmd()", "measured", &[1, 1])];
    all.extend(pods(name, "=SUM(A1)", "<b>", &[1, 0]));
    let report = made(all, "fleet", &EnergyFacts::default()).unwrap();
    let page = render::html(&report, Language::English);
    assert!(!page.contains("<img") && !page.contains("<b>") && page.contains("&lt;img"));
    assert!(!render::markdown(&report, Language::English).contains("<img src=x onerror=alert(1)>|"));
    assert!(render::csv(&report, Language::English).contains("'=SUM(A1)"));
}

#[test]
fn gigawatt_hours_do_not_overflow() {
    let day = u64::MAX / KWH as u64;
    let all = (0..2000).map(|node| row(Kind::Host, "dc", &format!("n{node}"), "measured", &[day, day])).collect();
    let report = made(all, "fleet", &EnergyFacts::default()).unwrap();
    assert_eq!(report.total.it_microjoules, u128::from(day) * KWH * 4000);
    assert_eq!(Text::same("x").zh, "x");
}
