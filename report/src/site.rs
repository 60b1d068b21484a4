//! One data center: its PUE, from the best that is known, and what follows from it. Pure.

use evergreen_api::resources::{Reading, RenewableKind, SiteEnergyFacts};
use jiff::{ToSpan, civil::Date};

use crate::{
    ReportError,
    days::Days,
    decimal::{self, MICROJOULES_PER_KWH},
    factors::{Boundary, Factor, Factors},
    ledger::{Ledger, MeterLedger, Parts},
    model::{PuePoint, Source},
    standards::Standards,
    text::Text,
};

/// Meter and readings of the same days may differ by this much, percent: two billing meters of class 1.
const METERS_AGREE_PERCENT: u128 = 2;
/// Greatest PUE that is believed.
const MOST_PUE: u128 = 100;

/// Facility energy of the days that are known, and the IT energy of the same days, microjoules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pue {
    /// Numerator.
    pub facility: u128,
    /// Denominator.
    pub it: u128,
    /// Whether it holds for the whole period.
    pub whole: bool,
    /// How it came to be.
    pub basis: Text,
    /// Who says so.
    pub source: String,
    /// Year or date of it.
    pub year: String,
}

/// What a data center's facts and meters say, for all of its IT energy.
#[derive(Clone, Debug)]
pub(crate) struct SiteFacts {
    pub pue: Option<Pue>,
    pub pue_over_time: Vec<PuePoint>,
    /// Facility energy of the period, microjoules.
    pub facility: Result<u128, Text>,
    pub factor: Option<Factor>,
    /// Renewable energy of the period by kind (certificate, PPA, on site), microjoules, at most the facility's.
    pub renewable: [u128; 3],
    pub renewable_said: bool,
    /// Factor of what no certificate covers: milligrams per kWh, year, source.
    pub residual: Option<(u128, String, String)>,
    /// Litres in millionths, with who says so.
    pub water: Result<(u128, String), Text>,
    pub potable: Result<(u128, String), Text>,
    /// Reused heat in microjoules, with who says so.
    pub heat: Result<(u128, String), Text>,
    pub sources: Vec<Source>,
    pub notes: Vec<Text>,
}

impl Default for SiteFacts {
    fn default() -> Self {
        let nothing = || Text::default();
        Self {
            pue: None,
            pue_over_time: Vec::new(),
            facility: Err(nothing()),
            factor: None,
            renewable: [0; 3],
            renewable_said: false,
            residual: None,
            water: Err(nothing()),
            potable: Err(nothing()),
            heat: Err(nothing()),
            sources: Vec::new(),
            notes: Vec::new(),
        }
    }
}

pub(crate) struct Context<'a> {
    pub ledger: &'a Ledger,
    pub factors: &'a Factors,
    pub standards: &'a Standards,
}

/// IT energy of a data center by day, microjoules.
pub(crate) fn it_by_day(ledger: &Ledger, site: &str) -> Vec<u128> {
    let mut days = vec![0; ledger.days.len()];
    for ((of, _), node) in &ledger.nodes {
        if of == site {
            for (day, parts) in &node.days {
                days[*day as usize] += parts.all();
            }
        }
    }
    days
}

pub(crate) fn last_day(days: &Days) -> Date {
    days.dates().last().copied().unwrap_or_default()
}

/// What is known about a data center; `host` is all of its IT energy.
pub(crate) fn facts_of(
    context: &Context<'_>,
    site: &str,
    host: &Parts,
    facts: Option<&SiteEnergyFacts>,
) -> Result<SiteFacts, ReportError> {
    let days = &context.ledger.days;
    let by_day = it_by_day(context.ledger, site);
    let nothing = SiteEnergyFacts::default();
    let facts = facts.unwrap_or(&nothing);
    let mut known = SiteFacts::default();
    let meter = context.ledger.meters.get(site);
    let metered = metered(site, meter, &by_day, days, &mut known)?;
    let read = read(site, &facts.facility_energy, &by_day, days, &mut known)?;
    conflict(site, meter, &facts.facility_energy, days)?;
    known.pue = match (metered, read, &facts.pue) {
        (Some(pue), _, _) if pue.whole => Some(pue),
        (_, Some(pue), _) if pue.whole => Some(pue),
        (metered, read, Some(declared)) => {
            if metered.is_some() || read.is_some() {
                known.notes.push(Text::new(
                    "The facility meter or its readings do not cover the whole period, so the declared PUE is used.",
                    "设施电表或抄表数据未覆盖整个期间，故采用申报的 PUE。",
                ));
            }
            let value = decimal::of_f64(declared.value).filter(|v| (1_000_000..=MOST_PUE * 1_000_000).contains(v));
            let value = value.ok_or_else(|| ReportError::ImpossiblePue {
                site: site.to_owned(),
                value: declared.value.to_string(),
                why: "it is declared".into(),
            })?;
            Some(Pue {
                facility: value,
                it: 1_000_000,
                whole: true,
                basis: Text::new(format!("declared on {}", declared.date), format!("{} 申报", declared.date)),
                source: declared.by.clone(),
                year: declared.date.chars().take(4).collect(),
            })
        }
        (metered, read, None) => metered.or(read),
    };
    known.facility = match &known.pue {
        Some(pue) if pue.whole => Ok(decimal::scale(host.all(), pue.facility, pue.it)),
        Some(_) => Err(Text::new(
            "the facility meter or its readings do not cover the whole period, and nothing is extrapolated",
            "设施电表或抄表数据未覆盖整个期间，本报告不作外推",
        )),
        None => Err(Text::new(
            "no facility meter, no readings and no declared PUE; it is never guessed",
            "没有设施电表、抄表数据，也未申报 PUE；本报告从不推测",
        )),
    };
    if let Some(region) = &facts.grid_region {
        let factor = context.factors.location(region, last_day(days))?.clone();
        warn(&factor, context, days, &mut known.notes);
        known
            .sources
            .push(factor_source(&factor, Text::new("emission factor, location-based", "排放因子（基于位置）")));
        known.residual = residual(context, facts, region, days, &mut known.sources);
        known.factor = Some(factor);
    } else if let Some(declared) = &facts.residual_factor {
        known.residual =
            decimal::of_f64(declared.value).map(|value| (value, declared.year.to_string(), declared.source.clone()));
    }
    renewables(facts, days, &mut known);
    let said = |readings: &[Reading], what: Text| amount(readings, days, &what);
    known.water = match meter.and_then(|meter| meter.water) {
        Some(microlitres) => Ok((microlitres, "meter evergreen.facility.water".to_owned())),
        None => said(&facts.water, Text::new("water", "用水")),
    };
    known.potable = said(&facts.potable_water, Text::new("potable water", "饮用水"));
    known.heat = said(&facts.heat_reused, Text::new("reused heat", "余热回收"))
        .map(|(kwh, by)| (decimal::microjoules_of_kwh(kwh), by));
    Ok(known)
}

fn factor_source(factor: &Factor, what: Text) -> Source {
    Source {
        what: Text::new(format!("{} ({})", what.en, factor.name), format!("{}（{}）", what.zh, factor.name_zh)),
        value: format!("{} kgCO2/kWh", factor.value),
        year: factor.year.to_string(),
        basis: Text::new(factor.basis.clone(), factor.basis_zh.clone()),
        source: factor.source.clone(),
    }
}

fn warn(factor: &Factor, context: &Context<'_>, days: &Days, notes: &mut Vec<Text>) {
    let newest = context.factors.newest_year(&factor.region);
    if factor.year < newest {
        notes.push(Text::new(
            format!(
                "Warning: the newest factor known for {} is of {}, while the same country has one of {newest}.",
                factor.name, factor.year
            ),
            format!("警告：{}已知最新排放因子为 {} 年，而该国已有 {newest} 年的因子。", factor.name_zh, factor.year),
        ));
    }
    let used = last_day(days).year();
    if i32::from(factor.year) + 3 < i32::from(used) {
        notes.push(Text::new(
            format!(
                "Warning: the factor of {} is of {}, more than three years before the period's end.",
                factor.name, factor.year
            ),
            format!("警告：{}的排放因子为 {} 年，早于期末三年以上。", factor.name_zh, factor.year),
        ));
    }
    if factor.boundary == Boundary::LifeCycle {
        notes.push(Text::new(
            format!("The factor of {} is a life-cycle one (CO2e with fuel supply and construction), which is more than Scope 2 asks for; no direct one is known here.", factor.name),
            format!("{}采用全生命周期因子（CO2e，含燃料供应和建设），大于范围二的口径；本产品尚无其直接排放因子。", factor.name_zh),
        ));
    }
}

fn residual(
    context: &Context<'_>,
    facts: &SiteEnergyFacts,
    region: &str,
    days: &Days,
    sources: &mut Vec<Source>,
) -> Option<(u128, String, String)> {
    let what = || Text::new("emission factor, residual (market-based)", "排放因子（剩余电量，基于市场）");
    if let Some(declared) = &facts.residual_factor {
        let value = decimal::of_f64(declared.value)?;
        sources.push(Source {
            what: what(),
            value: format!("{} kgCO2/kWh", decimal::trim(&decimal::millionths(value))),
            year: declared.year.to_string(),
            basis: Text::new("declared", "申报"),
            source: declared.source.clone(),
        });
        return Some((value, declared.year.to_string(), declared.source.clone()));
    }
    let factor = context.factors.residual(region, last_day(days))?;
    sources.push(factor_source(factor, what()));
    Some((factor.milligrams(), factor.year.to_string(), factor.source.clone()))
}

fn impossible(site: &str, facility: u128, it: u128, why: &str) -> Option<ReportError> {
    let bad = facility < it || facility > it.saturating_mul(MOST_PUE);
    bad.then(|| ReportError::ImpossiblePue {
        site: site.to_owned(),
        value: decimal::ratio(facility, it, 3).unwrap_or_default(),
        why: format!("{why}: {} kWh facility, {} kWh IT", decimal::kwh(facility), decimal::kwh(it)),
    })
}

fn metered(
    site: &str,
    meter: Option<&MeterLedger>,
    by_day: &[u128],
    days: &Days,
    known: &mut SiteFacts,
) -> Result<Option<Pue>, ReportError> {
    let Some(energy) = meter.and_then(|meter| meter.energy.as_ref()) else { return Ok(None) };
    let (mut facility, mut it, mut missing, mut below) = (0, 0, 0, 0);
    for (day, it_of_day) in by_day.iter().enumerate() {
        let Some(of_day) = energy.get(&u32::try_from(day).unwrap_or(u32::MAX)).filter(|energy| **energy > 0) else {
            missing += usize::from(*it_of_day > 0);
            continue;
        };
        if *it_of_day == 0 {
            continue;
        }
        facility += of_day;
        it += it_of_day;
        let impossible = of_day < it_of_day;
        below += usize::from(impossible);
        let date = days.dates()[day].to_string();
        known.pue_over_time.push(PuePoint {
            from: date.clone(),
            to: date,
            pue: decimal::ratio(*of_day, *it_of_day, 3).unwrap_or_default(),
            impossible,
        });
    }
    if it == 0 {
        known.notes.push(Text::new(
            "The facility meter has no reading on a day with IT energy.",
            "设施电表在有 IT 能耗的日期没有读数。",
        ));
        return Ok(None);
    }
    if let Some(error) = impossible(site, facility, it, "the facility meter reads less than the IT equipment used") {
        return Err(error);
    }
    if below > 0 {
        known.notes.push(Text::new(
            format!("On {below} days the facility meter reads less than the IT equipment used (PUE below 1): a meter that reads late, or that misses a feed."),
            format!("有 {below} 天设施电表读数低于 IT 能耗（PUE 小于 1）：电表滞后，或漏计了馈线。"),
        ));
    }
    if missing > 0 {
        known.notes.push(Text::new(
            format!("The facility meter is silent on {missing} of {} days.", by_day.len()),
            format!("{} 天中有 {missing} 天设施电表没有读数。", by_day.len()),
        ));
    }
    Ok(Some(Pue {
        facility,
        it,
        whole: missing == 0,
        basis: Text::new("metered at the facility feed, reading to reading", "设施进线计量，按读数差"),
        source: "facility meter".to_owned(),
        year: last_day(days).year().to_string(),
    }))
}

/// Readings that lie in the period, as days, and whether one only overlaps it.
fn within<'a>(readings: &'a [Reading], days: &Days) -> (Vec<(std::ops::Range<usize>, &'a Reading)>, bool) {
    let mut cut = false;
    let mut found = Vec::new();
    for reading in readings {
        let (Ok(from), Ok(to)) = (reading.from.parse::<Date>(), reading.to.parse::<Date>()) else { continue };
        let (range, whole) = days.range(from, to);
        match (range.is_empty(), whole) {
            (true, _) => {}
            (false, true) => found.push((range, reading)),
            (false, false) => cut = true,
        }
    }
    found.sort_by_key(|(range, _)| range.start);
    (found, cut)
}

fn read(
    site: &str,
    readings: &[Reading],
    by_day: &[u128],
    days: &Days,
    known: &mut SiteFacts,
) -> Result<Option<Pue>, ReportError> {
    let (found, cut) = within(readings, days);
    if cut {
        known.notes.push(Text::new(
            "A reading that is only partly in the period was left out; energy is not spread by guess.",
            "有抄表期间仅部分落在本期间内，未采用；本报告不按推测分摊。",
        ));
    }
    let (mut facility, mut it, mut covered) = (0, 0, vec![false; by_day.len()]);
    let metered = !known.pue_over_time.is_empty();
    for (range, reading) in &found {
        let amount = decimal::microjoules_of_kwh(decimal::of_f64(reading.amount).unwrap_or(0));
        let of_days: u128 = by_day[range.clone()].iter().sum();
        covered[range.clone()].fill(true);
        if of_days == 0 {
            continue;
        }
        let why = format!("the reading of {} to {} by {}", reading.from, reading.to, reading.by);
        if let Some(error) = impossible(site, amount, of_days, &why) {
            return Err(error);
        }
        facility += amount;
        it += of_days;
        if !metered {
            known.pue_over_time.push(PuePoint {
                from: days.dates()[range.start].to_string(),
                to: days.dates()[range.end - 1].to_string(),
                pue: decimal::ratio(amount, of_days, 3).unwrap_or_default(),
                impossible: false,
            });
        }
    }
    if it == 0 {
        return Ok(None);
    }
    let whole = covered.iter().zip(by_day).all(|(covered, it)| *covered || *it == 0);
    let mut by: Vec<String> = found.iter().map(|(_, reading)| format!("{} ({})", reading.by, reading.date)).collect();
    by.dedup();
    Ok(Some(Pue {
        facility,
        it,
        whole,
        basis: Text::new("readings of the facility feed, entered by people", "人工录入的设施进线抄表数据"),
        source: by.join("; "),
        year: last_day(days).year().to_string(),
    }))
}

/// Meter and readings of the same days must agree.
fn conflict(site: &str, meter: Option<&MeterLedger>, readings: &[Reading], days: &Days) -> Result<(), ReportError> {
    let Some(energy) = meter.and_then(|meter| meter.energy.as_ref()) else { return Ok(()) };
    for (range, reading) in within(readings, days).0 {
        let of_meter = range.clone().map(|day| energy.get(&u32::try_from(day).unwrap_or(u32::MAX)).copied());
        let Some(of_meter) = of_meter.collect::<Option<Vec<u128>>>() else { continue };
        let metered: u128 = of_meter.iter().sum();
        let read = decimal::microjoules_of_kwh(decimal::of_f64(reading.amount).unwrap_or(0));
        if metered.abs_diff(read) * 100 > metered.max(read) * METERS_AGREE_PERCENT {
            return Err(ReportError::MetersConflict {
                site: site.into(),
                from: reading.from.as_str().into(),
                to: reading.to.as_str().into(),
                metered_kwh: decimal::kwh(metered).into(),
                read_kwh: decimal::kwh(read).into(),
                by: reading.by.as_str().into(),
            });
        }
    }
    Ok(())
}

/// Sum of readings that cover the whole period, millionths, with who read.
fn amount(readings: &[Reading], days: &Days, what: &Text) -> Result<(u128, String), Text> {
    if readings.is_empty() {
        return Err(Text::new(format!("no {} is declared", what.en), format!("未申报{}", what.zh)));
    }
    let (found, _) = within(readings, days);
    let covered: usize = found.iter().map(|(range, _)| range.len()).sum();
    if covered < days.len() {
        return Err(Text::new(
            format!("readings of {} cover {covered} of {} days, and nothing is extrapolated", what.en, days.len()),
            format!("{}抄表数据仅覆盖 {} 天中的 {covered} 天，本报告不作外推", what.zh, days.len()),
        ));
    }
    let sum = found.iter().map(|(_, reading)| decimal::of_f64(reading.amount).unwrap_or(0)).sum();
    let mut by: Vec<String> = found.iter().map(|(_, reading)| format!("{} ({})", reading.by, reading.date)).collect();
    by.dedup();
    Ok((sum, by.join("; ")))
}

fn renewables(facts: &SiteEnergyFacts, days: &Days, known: &mut SiteFacts) {
    known.renewable_said = !facts.renewables.is_empty();
    for renewable in &facts.renewables {
        let (Ok(from), Ok(to)) = (renewable.from.parse::<Date>(), renewable.to.parse::<Date>()) else { continue };
        let (range, whole) = days.range(from, to);
        if range.is_empty() {
            continue;
        }
        if !whole {
            let last = to.checked_sub(1.day()).unwrap_or(to);
            known.notes.push(Text::new(
                format!(
                    "{} of {} ({from} to {last}) is only partly in the period and was not counted.",
                    renewable.id, renewable.issuer
                ),
                format!("{}（{}，{from} 至 {last}）仅部分落在本期间内，未计入。", renewable.id, renewable.issuer),
            ));
            continue;
        }
        let index = match renewable.kind {
            RenewableKind::Certificate => 0,
            RenewableKind::Ppa => 1,
            RenewableKind::Onsite => 2,
        };
        known.renewable[index] += decimal::microjoules_of_kwh(decimal::of_f64(renewable.kwh).unwrap_or(0));
        known.sources.push(Source {
            what: match renewable.kind {
                RenewableKind::Certificate => Text::new("renewable energy certificate", "绿色电力证书"),
                RenewableKind::Ppa => Text::new("power purchase agreement", "绿电直购协议"),
                RenewableKind::Onsite => Text::new("generation on site", "现场发电"),
            },
            value: format!("{} kWh", decimal::trim(&decimal::millionths(decimal::of_f64(renewable.kwh).unwrap_or(0)))),
            year: from.year().to_string(),
            basis: Text::same(renewable.id.clone()),
            source: renewable.issuer.clone(),
        });
    }
    // Certificates beyond the consumption cover nothing more: own generation counts first, then agreements.
    if let Ok(mut left) = known.facility.as_ref().copied() {
        let sum: u128 = known.renewable.iter().sum();
        if sum > left {
            known.notes.push(Text::new(
                "More renewable energy is declared than the facility used; only what it used is counted.",
                "申报的可再生能源超过设施用能，仅计入与用能相当的部分。",
            ));
        }
        for index in [2, 1, 0] {
            known.renewable[index] = known.renewable[index].min(left);
            left -= known.renewable[index];
        }
    }
}

impl SiteFacts {
    /// Milligrams of CO2 of all facility energy (IT energy without a PUE) by the grid's average.
    pub fn location_milligrams(&self, energy: u128) -> Option<u128> {
        let factor = self.factor.as_ref()?;
        Some(decimal::scale(energy, factor.milligrams(), MICROJOULES_PER_KWH))
    }

    /// Milligrams of CO2 by contracts, for `subject` of the facility energy.
    pub fn market_milligrams(&self, subject: u128) -> Result<u128, Text> {
        let facility = self.facility.as_ref().copied().map_err(Clone::clone)?;
        let covered: u128 = self.renewable.iter().sum();
        let rest = facility.saturating_sub(covered);
        if rest == 0 {
            return Ok(0);
        }
        let (residual, ..) = self.residual.as_ref().ok_or_else(|| {
            Text::new(
                "certificates do not cover all of the energy, and no residual factor is known or declared (residualFactor)",
                "绿证未覆盖全部用能，且没有已知或申报的剩余电量因子（residualFactor）",
            )
        })?;
        let all = decimal::scale(rest, *residual, MICROJOULES_PER_KWH);
        Ok(decimal::scale(subject, all, facility.max(1)))
    }
}
