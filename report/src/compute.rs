//! Ledger and facts to a report. Pure: no clock, no network, no order of input. What nobody declared is absent with its
//! reason; what cannot be is an error with its place.

use std::collections::{BTreeMap, BTreeSet};

use evergreen_api::resources::{EnergyFacts, ReportScope, ReportStandard};
use jiff::Timestamp;

use crate::{
    ReportError, advice, decimal,
    factors::Factors,
    ledger::{Ledger, Parts},
    model::{
        Consumer, Consumers, DataCenter, Day, Energy, Figure, NamespaceDays, Previous, Report, Section, Share, Source,
    },
    sections::{self, Subject},
    site::{self, Context, SiteFacts},
    standards::Standards,
    text::Text,
};

/// Share of the period that may be without samples before the report points it out, percent.
const GAP_WORTH_A_NOTE_PERCENT: u64 = 1;
/// Consumers of a kind that are named.
const TOP: usize = 15;
/// Namespaces with a colour of their own in the chart.
const CHARTED: usize = 6;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to report on.
    pub scope: ReportScope,
    /// Which standards.
    pub standard: ReportStandard,
}

/// The period before, of the same length.
#[derive(Clone, Debug)]
pub struct Before {
    /// Its start.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// Energy in scope, or why it is not known.
    pub energy: Result<Parts, Text>,
}

/// Energy in scope of a ledger, by data center.
pub fn in_scope(ledger: &Ledger, scope: &ReportScope) -> BTreeMap<String, Parts> {
    let mut sites: BTreeMap<String, Parts> = BTreeMap::new();
    match scope {
        ReportScope::Fleet | ReportScope::DataCenters(_) => {
            for ((site, _), node) in &ledger.nodes {
                sites.entry(site.clone()).or_default().add(&node.parts);
            }
        }
        ReportScope::Namespace(_) | ReportScope::Label { .. } => {
            for ((site, _), pods) in &ledger.namespaces {
                sites.entry(site.clone()).or_default().add(&pods.parts);
            }
        }
    }
    if let ReportScope::DataCenters(names) = scope {
        sites.retain(|site, _| names.contains(site));
        for name in names {
            sites.entry(name.clone()).or_default();
        }
    }
    sites
}

/// Makes the report. For namespaces and labels the ledger holds only the pods in scope, beside all nodes.
///
/// # Errors
/// When there is no energy at all in scope, a PUE is impossible, meters conflict, or a grid region has no factor.
pub fn compute(
    request: &Request,
    ledger: &Ledger,
    before: &Before,
    facts: &EnergyFacts,
    factors: &Factors,
    standards: &Standards,
) -> Result<Report, ReportError> {
    let context = Context { ledger, factors, standards };
    let whole = matches!(request.scope, ReportScope::Fleet | ReportScope::DataCenters(_));
    let mut sites = in_scope(ledger, &request.scope);
    if request.scope == ReportScope::Fleet {
        for site in &facts.sites {
            sites.entry(site.data_center.clone()).or_default();
        }
    }
    let (from, to) = (time(ledger.days.from_ms()), time(ledger.days.to_ms()));
    let mut all = Parts::default();
    sites.values().for_each(|parts| all.add(parts));
    if all.all() == 0 {
        return Err(ReportError::NoData { from, to, scope: request.scope.to_string() });
    }
    let mut sum = Sum { idle: Some(0), facility: Ok(0), location: Ok(0), market: Ok(0), ..Sum::default() };
    let mut data_centers = Vec::with_capacity(sites.len());
    let mut sources = BTreeSet::new();
    let mut recommendations = Vec::new();
    for (name, parts) in &sites {
        let said = facts.sites.iter().find(|site| site.data_center == *name);
        let host = host_parts(ledger, name);
        let known = site::facts_of(&context, name, &host, said)?;
        sources.extend(known.sources.iter().cloned());
        let subject = Subject { host: host.all(), it: parts.all(), known: &known, said, whole };
        let idle = if whole { idle_of(ledger, name) } else { None };
        sum.add(name, parts, idle, &subject);
        if whole {
            recommendations.extend(advice::of_site(ledger, name, &known, standards));
        }
        let sections = sections::all(&subject, &context, request.standard);
        data_centers.push(data_center(&context, name, parts, idle, known, sections));
    }
    Ok(Report {
        schema: "evergreen.dev/energy-report/v2",
        from,
        to,
        time_zone: ledger.days.zone().to_owned(),
        scope: request.scope.to_string(),
        standard: match request.standard {
            ReportStandard::Cn => "cn",
            ReportStandard::Eu => "eu",
            ReportStandard::Sci => "sci",
            ReportStandard::All => "all",
        },
        summary: sum.figures(standards),
        sci: matches!(request.standard, ReportStandard::Sci | ReportStandard::All).then(|| sci(facts, &sum, standards)),
        previous: previous(before, &all),
        days: days(ledger, &sites, whole),
        namespace_days: namespace_days(ledger, &sites),
        consumers: consumers(ledger, &sites, &all, whole),
        total: energy(&all, sum.idle.filter(|_| whole), standards),
        data_centers,
        recommendations,
        sources: sources.into_iter().chain(uncertainty(&all, standards)).collect(),
        notes: notes(whole),
    })
}

fn uncertainty(all: &Parts, standards: &Standards) -> Option<Source> {
    let u = &standards.uncertainty;
    (all.measured != all.all()).then(|| Source {
        what: Text::new("error of energy that was not measured", "非实测能耗的误差"),
        value: format!("calibrated +-{} %, estimated +-{} %", u.calibrated_percent, u.estimated_percent),
        year: String::new(),
        basis: Text::new(
            "95 % of held-out machines; all errors in one direction at once",
            "95% 的留出机器；假定所有误差同向",
        ),
        source: u.source.clone(),
    })
}

fn notes(whole: bool) -> Vec<Text> {
    let mut notes = vec![Text::new(
        "Figures are sums of whole microjoules; each was rounded once, when printed. Measured: by a sensor. Calibrated: by a \
         model that a sensor calibrated. Estimated: by a model alone.",
        "所有数值均为整微焦之和，仅在输出时取整一次。实测：来自传感器；校准：由传感器校准的模型；估算：仅由模型得出。",
    )];
    if !whole {
        notes.push(Text::new(
            "The scope is pods: their energy is what they took beyond the idle node. Idle and system energy of the nodes is \
             not theirs and not in it. Figures of standards are of whole data centers and are left out.",
            "范围为 Pod：其能耗为超出节点空闲部分的用能，不含节点的空闲与系统能耗。各标准的指标针对整个数据中心，故不列出。",
        ));
    }
    notes.push(Text::new(
        "Workloads are pod names without generated suffixes.",
        "工作负载名称由 Pod 名称去除自动生成的后缀得到。",
    ));
    notes
}

pub(crate) fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

fn host_parts(ledger: &Ledger, site: &str) -> Parts {
    let mut parts = Parts::default();
    let nodes = ledger.nodes.iter().filter(|((of, _), _)| of == site);
    nodes.for_each(|(_, node)| parts.add(&node.parts));
    parts
}

/// Idle energy of a data center; none when one of its nodes with energy does not tell.
fn idle_of(ledger: &Ledger, site: &str) -> Option<u128> {
    let mut nodes = ledger.nodes.iter().filter(|((of, _), node)| of == site && node.parts.all() > 0);
    nodes.try_fold(0, |sum, (_, node)| Some(sum + node.idle?.min(node.parts.all())))
}

/// Sums over data centers.
struct Sum {
    idle: Option<u128>,
    it: u128,
    facility: Result<u128, Text>,
    location: Result<u128, Text>,
    market: Result<u128, Text>,
    location_of_it_only: bool,
}

impl Default for Sum {
    fn default() -> Self {
        let none = || Err(Text::default());
        Self { idle: None, it: 0, facility: none(), location: none(), market: none(), location_of_it_only: false }
    }
}

impl Sum {
    fn add(&mut self, name: &str, parts: &Parts, idle: Option<u128>, subject: &Subject<'_>) {
        // A data center without energy adds nothing and hides nothing.
        if parts.all() == 0 {
            return;
        }
        self.it += parts.all();
        self.idle = self.idle.zip(idle).map(|(sum, idle)| sum + idle);
        let plus = |sum: &mut Result<u128, Text>, part: Result<u128, Text>| {
            let why = |text: Text| Text::new(format!("{name}: {}", text.en), format!("{name}：{}", text.zh));
            *sum = match (std::mem::replace(sum, Ok(0)), part) {
                (Ok(sum), Ok(part)) => Ok(sum + part),
                (Err(first), _) => Err(first),
                (Ok(_), Err(text)) => Err(why(text)),
            };
        };
        self.location_of_it_only |= subject.facility().is_err();
        plus(&mut self.facility, subject.facility());
        plus(
            &mut self.location,
            subject.location().ok_or_else(|| Text::new("no grid region is declared", "未申报电网区域")),
        );
        plus(&mut self.market, subject.market());
    }

    fn figures(&self, standards: &Standards) -> Vec<Figure> {
        let facility = self.facility.clone();
        let basis = if self.location_of_it_only {
            ("IT energy alone where no facility energy is known", "设施能耗未知处仅计 IT 能耗")
        } else {
            ("facility energy x grid average of each data center", "各数据中心设施能耗 x 电网平均因子")
        };
        let with = |figure: Figure, en: &str, zh: &str, source: Option<&String>| {
            let mut figure = if figure.value.is_some() { figure.basis(en, zh) } else { figure };
            figure.source = source.filter(|_| figure.value.is_some()).cloned();
            figure
        };
        let pue = facility.clone().and_then(|facility| decimal::ratio(facility, self.it, 3).ok_or_else(Text::default));
        let ghg = Some(&standards.ghg.source);
        vec![
            with(
                Figure::new("facility_energy", "Facility energy", "设施总能耗", "kWh")
                    .either(facility.map(decimal::kwh)),
                "sum over data centers",
                "各数据中心之和",
                None,
            ),
            with(
                Figure::new("pue", "PUE", "电能利用效率 PUE", "").either(pue),
                "facility / IT energy of everything in scope",
                "范围内设施能耗 / IT 能耗",
                Some(&standards.iso30134.source),
            ),
            with(
                Figure::new("scope2_location", "Scope 2, location-based", "范围二排放（基于位置）", "kgCO2")
                    .either(self.location.clone().map(decimal::millionths)),
                basis.0,
                basis.1,
                ghg,
            ),
            with(
                Figure::new("scope2_market", "Scope 2, market-based", "范围二排放（基于市场）", "kgCO2")
                    .either(self.market.clone().map(decimal::millionths)),
                "contracts first, the rest at residual factors",
                "先计合同电量，其余按剩余电量因子",
                ghg,
            ),
        ]
    }
}

fn energy(parts: &Parts, idle: Option<u128>, standards: &Standards) -> Energy {
    let all = parts.all();
    let [measured, calibrated, estimated] =
        decimal::percent_shares([parts.measured, parts.calibrated, parts.estimated]);
    let share = |microjoules: u128, percent: String| Share { kwh: decimal::kwh(microjoules), percent };
    let off = |energy: u128, percent: &str| {
        decimal::scale(energy, decimal::parse_millionths(percent).unwrap_or(0), 100_000_000)
    };
    let u = &standards.uncertainty;
    let error = off(parts.calibrated, &u.calibrated_percent) + off(parts.estimated, &u.estimated_percent);
    Energy {
        it_microjoules: all,
        it_kwh: decimal::kwh(all),
        interval_kwh: [decimal::kwh(all.saturating_sub(error)), decimal::kwh(all + error)],
        measured: share(parts.measured, measured),
        calibrated: share(parts.calibrated, calibrated),
        estimated: share(parts.estimated, estimated),
        idle: idle.map(|idle| share(idle, decimal::percent(idle, all).unwrap_or_else(|| "0.0".into()))),
    }
}

fn data_center(
    context: &Context<'_>,
    name: &str,
    parts: &Parts,
    idle: Option<u128>,
    known: SiteFacts,
    sections: Vec<Section>,
) -> DataCenter {
    let ledger = context.ledger;
    let nodes: Vec<_> = ledger.nodes.iter().filter(|((of, _), _)| of == name).map(|(_, node)| node).collect();
    let seen = nodes.iter().filter_map(|node| node.seen);
    let seen = seen.reduce(|(a, b), (c, d)| (a.min(c), b.max(d)));
    let gap_ms: u64 = nodes.iter().map(|node| node.gap_ms()).sum();
    let mut notes = Vec::new();
    if parts.all() == 0 {
        notes.push(Text::new("Nothing was recorded in this period.", "本期间没有任何记录。"));
    } else {
        let by_day = site::it_by_day(ledger, name);
        let silent = by_day.iter().filter(|it| **it == 0).count();
        if silent > 0 && !nodes.is_empty() {
            notes.push(Text::new(
                format!("On {silent} of {} days nothing was recorded.", by_day.len()),
                format!("{} 天中有 {silent} 天没有记录。", by_day.len()),
            ));
        }
    }
    let period = u64::try_from(ledger.days.to_ms() - ledger.days.from_ms()).unwrap_or(u64::MAX);
    if gap_ms > period / 100 * GAP_WORTH_A_NOTE_PERCENT {
        let seconds = gap_ms / 1000;
        notes.push(Text::new(
            format!("Nodes sent no samples for {seconds} s in sum; energy used then counts when the next sample came."),
            format!("各节点累计 {seconds} 秒没有采样；期间用能计入下一次采样。"),
        ));
    }
    notes.extend(known.notes);
    DataCenter {
        name: name.to_owned(),
        energy: energy(parts, idle, context.standards),
        first_sample: seen.map(|(first, _)| time(first)),
        last_sample: seen.map(|(_, last)| time(last)),
        gap_ms,
        sections,
        pue_over_time: known.pue_over_time,
        notes,
    }
}

fn sci(facts: &EnergyFacts, sum: &Sum, standards: &Standards) -> Section {
    let mut figures = Vec::new();
    let sci = Figure::new("sci", "Software carbon intensity", "软件碳强度 SCI", "gCO2e");
    match (&facts.sci, &sum.location) {
        (Some(said), Ok(operational)) => {
            let embodied = decimal::of_f64(said.embodied_kg).unwrap_or(0);
            let count = decimal::of_f64(said.count).unwrap_or(0);
            // Millionths of kg over millionths of units: grams with six decimals.
            let grams = decimal::ratio((operational + embodied) * 1000, count, 6);
            let declared = format!("{} ({})", said.by, said.date);
            figures.push(
                sci.either(grams.ok_or_else(Text::default))
                    .basis(
                        format!("(E x I + M) / R, per {}", said.functional_unit),
                        format!("(E x I + M) / R，每 {}", said.functional_unit),
                    )
                    .source(standards.sci.source.clone()),
            );
            figures.push(
                Figure::new("sci_operational", "E x I: operational emissions", "E x I：运行排放", "kgCO2")
                    .is(decimal::millionths(*operational))
                    .basis("Scope 2, location-based", "范围二（基于位置）"),
            );
            figures.push(
                Figure::new("sci_embodied", "M: embodied emissions of the period", "M：本期间隐含排放", "kgCO2e")
                    .is(decimal::millionths(embodied))
                    .basis(said.source.clone(), said.source.clone())
                    .source(declared.clone()),
            );
            figures.push(
                Figure::new("sci_units", "R: functional units", "R：功能单位数量", "")
                    .is(decimal::trim(&decimal::millionths(count)))
                    .basis(said.functional_unit.clone(), said.functional_unit.clone())
                    .source(declared),
            );
        }
        (None, _) => figures.push(sci.absent(
            "no functional unit and embodied emissions are declared (sci); they are never guessed",
            "未申报功能单位与隐含排放（sci）；本报告从不推测",
        )),
        (Some(_), Err(why)) => figures.push(Figure { absent: Some(why.clone()), ..sci }),
    }
    Section {
        id: "sci",
        title: Text::new("Software carbon intensity (ISO/IEC 21031)", "软件碳强度（ISO/IEC 21031）"),
        figures,
    }
}

fn previous(before: &Before, all: &Parts) -> Previous {
    let (it, absent) = match &before.energy {
        Ok(parts) if parts.all() > 0 => (Some(parts.all()), None),
        Ok(_) => (None, Some(Text::new("nothing was recorded in the period before", "上一期间没有记录"))),
        Err(why) => (None, Some(why.clone())),
    };
    Previous {
        from: before.from.to_string(),
        to: before.to.to_string(),
        it_kwh: it.map(decimal::kwh),
        change_percent: it.and_then(|it| decimal::change(it, all.all())),
        absent,
    }
}

fn days(ledger: &Ledger, sites: &BTreeMap<String, Parts>, whole: bool) -> Vec<Day> {
    let mut sums = vec![Parts::default(); ledger.days.len()];
    let mut add = |days: &BTreeMap<u32, Parts>| {
        for (day, parts) in days {
            sums[*day as usize].add(parts);
        }
    };
    if whole {
        ledger.nodes.iter().filter(|((site, _), _)| sites.contains_key(site)).for_each(|(_, node)| add(&node.days));
    } else {
        ledger.namespaces.values().for_each(|pods| add(&pods.days));
    }
    let dates = ledger.days.dates().iter();
    dates
        .zip(sums)
        .map(|(date, parts)| Day {
            date: date.to_string(),
            measured_kwh: decimal::kwh(parts.measured),
            calibrated_kwh: decimal::kwh(parts.calibrated),
            estimated_kwh: decimal::kwh(parts.estimated),
        })
        .collect()
}

/// Namespaces of the data centers in scope, the greatest first.
fn by_namespace<'a>(ledger: &'a Ledger, sites: &BTreeMap<String, Parts>) -> Vec<(&'a str, Parts)> {
    let mut spaces: BTreeMap<&str, Parts> = BTreeMap::new();
    for ((site, namespace), pods) in &ledger.namespaces {
        if sites.contains_key(site) {
            spaces.entry(namespace).or_default().add(&pods.parts);
        }
    }
    let mut spaces: Vec<_> = spaces.into_iter().collect();
    spaces.sort_by(|a, b| b.1.all().cmp(&a.1.all()).then_with(|| a.0.cmp(b.0)));
    spaces
}

fn namespace_days(ledger: &Ledger, sites: &BTreeMap<String, Parts>) -> NamespaceDays {
    let spaces = by_namespace(ledger, sites);
    if spaces.is_empty() {
        return NamespaceDays::default();
    }
    let charted = &spaces[..spaces.len().min(CHARTED)];
    let others = spaces.len() > CHARTED;
    let mut sums = vec![vec![0_u128; charted.len() + usize::from(others)]; ledger.days.len()];
    for ((site, namespace), pods) in &ledger.namespaces {
        if !sites.contains_key(site) {
            continue;
        }
        let column = charted.iter().position(|(name, _)| name == namespace).unwrap_or(charted.len());
        for (day, parts) in &pods.days {
            sums[*day as usize][column] += parts.all();
        }
    }
    let mut names: Vec<String> = charted.iter().map(|(name, _)| (*name).to_owned()).collect();
    if others {
        names.push(String::new());
    }
    let days = sums.into_iter().map(|row| row.into_iter().map(decimal::kwh).collect()).collect();
    NamespaceDays { names, days }
}

fn consumer(name: &str, site: Option<&str>, parts: &Parts, all: u128) -> Consumer {
    Consumer {
        name: name.to_owned(),
        site: site.map(str::to_owned),
        kwh: decimal::kwh(parts.all()),
        percent: decimal::percent(parts.all(), all).unwrap_or_else(|| "0.0".into()),
        measured_percent: decimal::percent(parts.measured, parts.all()),
    }
}

fn consumers(ledger: &Ledger, sites: &BTreeMap<String, Parts>, all: &Parts, whole: bool) -> Consumers {
    let total = all.all();
    let spaces = by_namespace(ledger, sites);
    let mut consumers = Consumers {
        namespaces: spaces.iter().take(TOP).map(|(name, parts)| consumer(name, None, parts, total)).collect(),
        ..Consumers::default()
    };
    let mut workloads: Vec<_> = ledger.workloads.iter().filter(|((site, ..), _)| sites.contains_key(site)).collect();
    workloads.sort_by(|a, b| b.1.all().cmp(&a.1.all()).then_with(|| a.0.cmp(b.0)));
    consumers.workloads = workloads
        .into_iter()
        .take(TOP)
        .map(|((site, namespace, name), parts)| consumer(&format!("{namespace}/{name}"), Some(site), parts, total))
        .collect();
    if !whole {
        return consumers;
    }
    let mut nodes: Vec<_> = ledger.nodes.iter().filter(|((site, _), _)| sites.contains_key(site)).collect();
    nodes.sort_by(|a, b| b.1.parts.all().cmp(&a.1.parts.all()).then_with(|| a.0.cmp(b.0)));
    consumers.nodes = nodes
        .into_iter()
        .take(TOP)
        .map(|((site, name), node)| consumer(name, Some(site), &node.parts, total))
        .collect();
    let idle = sites.keys().try_fold(0, |sum, site| Some(sum + idle_of(ledger, site)?));
    let mut pods = Parts::default();
    spaces.iter().for_each(|(_, parts)| pods.add(parts));
    if let Some(idle) = idle {
        // Pods are exported less often than nodes: at the edges of a short period they may be a sample ahead.
        let of_pods = pods.all().min(total.saturating_sub(idle));
        for (name, microjoules) in [("pods", of_pods), ("system", total.saturating_sub(idle + of_pods)), ("idle", idle)]
        {
            let one = consumer(name, None, &Parts { estimated: microjoules, ..Parts::default() }, total);
            consumers.split.push(Consumer { measured_percent: None, ..one });
        }
    }
    consumers
}
