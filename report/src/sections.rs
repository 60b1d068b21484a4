//! The figures of one data center, in sections: energy, emissions, efficiency, China, European Union. Pure.

use evergreen_api::resources::{ReportStandard, SiteEnergyFacts};

use crate::{
    decimal,
    model::{Figure, Section},
    site::{Context, SiteFacts, last_day},
    text::Text,
};

/// What the sections of a data center are made of.
pub(crate) struct Subject<'a> {
    /// All IT energy of the data center, microjoules.
    pub host: u128,
    /// IT energy in scope; less than `host` for namespaces and labels.
    pub it: u128,
    /// Facts.
    pub known: &'a SiteFacts,
    /// What people said.
    pub said: Option<&'a SiteEnergyFacts>,
    /// Whether the scope is whole data centers.
    pub whole: bool,
}

impl Subject<'_> {
    /// Facility energy that falls to what is in scope.
    pub fn facility(&self) -> Result<u128, Text> {
        let facility = self.known.facility.clone()?;
        Ok(if self.whole { facility } else { self.share(facility) })
    }

    fn share(&self, of: u128) -> u128 {
        match (self.host, &self.known.pue) {
            (0, Some(pue)) => decimal::scale(self.it, pue.facility, pue.it),
            (0, None) => 0,
            (host, _) => decimal::scale(of, self.it, host),
        }
    }

    /// Milligrams by the grid's average, of facility energy where it is known.
    pub fn location(&self) -> Option<u128> {
        self.known.location_milligrams(self.facility().unwrap_or(self.it))
    }

    /// Milligrams by contracts.
    pub fn market(&self) -> Result<u128, Text> {
        self.known.market_milligrams(self.facility()?)
    }
}

fn no_region() -> Text {
    Text::new("no grid region is declared (gridRegion)", "未申报电网区域（gridRegion）")
}

/// Energy and PUE.
pub(crate) fn energy(subject: &Subject<'_>) -> Section {
    let mut figures = Vec::new();
    let facility = Figure::new("facility_energy", "Facility energy", "设施总能耗", "kWh")
        .either(subject.facility().map(decimal::kwh));
    let mut pue = Figure::new("pue", "PUE", "电能利用效率 PUE", "");
    if let Some(known) = &subject.known.pue {
        let basis = |figure: Figure| Figure {
            basis: Some(known.basis.clone()),
            source: Some(known.source.clone()),
            year: Some(known.year.clone()),
            ..figure
        };
        pue = basis(pue).is(decimal::ratio(known.facility, known.it, 3).unwrap_or_default());
        if !known.whole {
            let days = Text::new(", of the days that are known", "，仅限有读数的日期");
            let basis = pue.basis.get_or_insert_default();
            basis.en.push_str(&days.en);
            basis.zh.push_str(&days.zh);
        }
        let made = basis(facility);
        let how = Text::new("IT energy x PUE: ", "IT 能耗 x PUE：");
        figures.push(Figure { basis: made.basis.as_ref().map(|b| Text::new(how.en + &b.en, how.zh + &b.zh)), ..made });
    } else {
        pue.absent = subject.known.facility.clone().err();
        figures.push(facility);
    }
    figures.push(pue);
    Section { id: "facility", title: Text::new("Facility", "设施"), figures }
}

/// Scope 2 by both methods.
pub(crate) fn emissions(subject: &Subject<'_>, context: &Context<'_>) -> Section {
    let of = if subject.facility().is_ok() {
        Text::new("facility energy x grid average", "设施能耗 x 电网平均因子")
    } else {
        Text::new(
            "IT energy alone x grid average: no facility energy is known",
            "仅 IT 能耗 x 电网平均因子：设施能耗未知",
        )
    };
    let mut location = Figure::new("scope2_location", "Scope 2, location-based", "范围二排放（基于位置）", "kgCO2");
    let mut factor = Figure::new("grid_factor", "Grid emission factor", "电网排放因子", "kgCO2/kWh");
    match (&subject.known.factor, subject.location()) {
        (Some(used), Some(milligrams)) => {
            location = location
                .is(decimal::millionths(milligrams))
                .basis(of.en, of.zh)
                .year(used.year)
                .source(context.standards.ghg.source.clone());
            let kind = (format!("{}: {}", used.name, used.basis), format!("{}：{}", used.name_zh, used.basis_zh));
            factor = factor.is(used.value.clone()).year(used.year).basis(kind.0, kind.1).source(used.source.clone());
        }
        _ => {
            location.absent = Some(no_region());
            factor.absent = Some(no_region());
        }
    }
    let mut market = Figure::new("scope2_market", "Scope 2, market-based", "范围二排放（基于市场）", "kgCO2");
    match subject.market() {
        Ok(milligrams) => {
            let rest = subject.known.residual.as_ref().map_or_else(
                || Text::new("all of it covered", "全部覆盖"),
                |(value, year, _)| {
                    let value = decimal::millionths(*value);
                    let value = decimal::trim(&value);
                    Text::new(
                        format!("the rest at the residual factor {value} kgCO2/kWh of {year}"),
                        format!("其余按剩余电量因子 {value} kgCO2/kWh（{year} 年）"),
                    )
                },
            );
            let covered = decimal::kwh(subject.known.renewable.iter().sum());
            let year = subject.known.residual.as_ref().map(|(_, year, _)| year.clone());
            market = market
                .is(decimal::millionths(milligrams))
                .basis(
                    format!("contracts cover {covered} kWh of the site at 0; {}", rest.en),
                    format!("合同覆盖本数据中心 {covered} kWh，按 0 计；{}", rest.zh),
                )
                .source(context.standards.ghg.source.clone());
            market.year = year;
        }
        Err(why) => market.absent = Some(why),
    }
    Section { id: "emissions", title: Text::new("Emissions", "排放"), figures: vec![location, market, factor] }
}

/// REF, CUE, WUE, ERF of the whole data center.
pub(crate) fn efficiency(subject: &Subject<'_>, context: &Context<'_>) -> Section {
    let known = subject.known;
    let source = &context.standards.iso30134.source;
    let year = last_day(&context.ledger.days).year();
    let figure = |id, en, zh, unit, value: Result<String, Text>, basis: (&str, &str), said: Option<&String>| {
        let mut figure = Figure::new(id, en, zh, unit).either(value);
        if figure.value.is_some() {
            figure = figure.basis(basis.0, basis.1).year(year);
            figure.source = Some(said.map_or_else(|| source.clone(), |said| format!("{source}; {said}")));
        }
        figure
    };
    let facility = known.facility.clone();
    let renewable: u128 = known.renewable.iter().sum();
    let reff = match (&facility, known.renewable_said) {
        (Ok(facility), true) => decimal::ratio(renewable, *facility, 3).ok_or_else(Text::default),
        (Ok(_), false) => Err(Text::new("no renewable energy is declared", "未申报可再生能源")),
        (Err(why), _) => Err(why.clone()),
    };
    let cue = match (&facility, &known.factor) {
        (_, None) => Err(no_region()),
        (Err(why), _) => Err(why.clone()),
        (Ok(facility), Some(_)) => {
            let milligrams = known.location_milligrams(*facility).unwrap_or(0);
            per_kwh(milligrams, subject.host)
        }
    };
    let wue = known.water.as_ref().map_err(Clone::clone).and_then(|(litres, _)| per_kwh(*litres, subject.host));
    let erf = match (&known.heat, &facility) {
        (Err(why), _) | (_, Err(why)) => Err(why.clone()),
        (Ok((heat, _)), Ok(facility)) => decimal::ratio(*heat, *facility, 3).ok_or_else(Text::default),
    };
    let water_source = subject.said.and_then(|said| said.water_source.clone());
    let water = (
        format!("water input / IT energy; source: {}", water_source.as_deref().unwrap_or("not said")),
        format!("用水量 / IT 能耗；水源：{}", water_source.as_deref().unwrap_or("未说明")),
    );
    Section {
        id: "efficiency",
        title: Text::new("Green data center (ISO/IEC 30134)", "绿色数据中心指标（ISO/IEC 30134）"),
        figures: vec![
            figure(
                "ref",
                "REF",
                "可再生能源利用率 REF",
                "",
                reff,
                ("renewable / facility energy", "可再生能源 / 设施能耗"),
                None,
            ),
            figure(
                "cue",
                "CUE",
                "碳利用效率 CUE",
                "kgCO2/kWh",
                cue,
                ("location-based emissions of the facility / IT energy", "设施排放（基于位置）/ IT 能耗"),
                None,
            ),
            figure(
                "wue",
                "WUE",
                "水利用效率 WUE",
                "L/kWh",
                wue,
                (&water.0, &water.1),
                known.water.as_ref().ok().map(|(_, by)| by),
            ),
            figure(
                "erf",
                "ERF",
                "能源再利用率 ERF",
                "",
                erf,
                ("reused heat / facility energy", "余热回收量 / 设施能耗"),
                known.heat.as_ref().ok().map(|(_, by)| by),
            ),
        ],
    }
}

/// Millionths of something per kWh of IT energy.
fn per_kwh(millionths: u128, it_microjoules: u128) -> Result<String, Text> {
    decimal::ratio(millionths * decimal::MICROJOULES_PER_KWH / 1_000_000, it_microjoules, 4)
        .ok_or_else(|| Text::new("no IT energy", "没有 IT 能耗"))
}

fn not_said(field: &str) -> Text {
    Text::new(format!("not declared ({field})"), format!("未申报（{field}）"))
}

/// GB 40879, GB/T 44989, the national criteria.
pub(crate) fn china(subject: &Subject<'_>, context: &Context<'_>) -> Section {
    let standards = context.standards;
    let (gb, days) = (&standards.gb40879, context.ledger.days.len());
    let said = subject.said;
    let pue = subject.known.pue.as_ref();
    let millionths = pue.map(|pue| decimal::scale(pue.facility, 1_000_000, pue.it));
    let grade = millionths.map(|pue| gb.grade(pue));
    let boundary = Text::new(
        "boundary: facility feed (electricity of the whole data center) / IT equipment as metered on the nodes; network and storage equipment without an agent is not in it",
        "边界：数据中心总进线电量 / 各节点计量的 IT 设备电量；未部署代理的网络与存储设备不含在内",
    );
    let mut gb_grade = Figure::new("gb40879_grade", "Grade by GB 40879-2021", "GB 40879-2021 能效等级", "");
    gb_grade = match grade {
        None => Figure { absent: subject.known.facility.clone().err().or_else(|| Some(not_said("pue"))), ..gb_grade },
        Some(Some(grade)) => gb_grade.is(grade.to_string()),
        Some(None) => gb_grade.is("-"),
    };
    if gb_grade.value.is_some() {
        let limits = gb.grades.join(" / ");
        let period = if days < gb.days {
            Text::new(
                format!("; indicative: {days} days, a grade rests on {}", gb.days),
                format!("；仅供参考：期间 {days} 天，评级需 {} 天", gb.days),
            )
        } else {
            Text::default()
        };
        gb_grade = gb_grade
            .basis(
                format!("limits {limits}; {}{}", boundary.en, period.en),
                format!("限值 {limits}；{}{}", boundary.zh, period.zh),
            )
            .source(gb.source.clone())
            .year(gb.valid_from.year());
    }
    let applies = Figure::new("gb40879_applies", "GB 40879 applies", "GB 40879 是否适用", "");
    let racks = said.and_then(|said| said.standard_racks);
    let building = said.and_then(|said| said.building.as_ref());
    let applies = match (racks, building) {
        (None, _) => Figure { absent: Some(not_said("standardRacks")), ..applies },
        (Some(racks), _) if racks <= gb.edge_racks => applies.is("no").basis(
            format!("{racks} standard racks: an edge data center (up to {}) is out of scope", gb.edge_racks),
            format!("{racks} 个标准机架：边缘数据中心（不超过 {} 个）不适用", gb.edge_racks),
        ),
        (_, None) => Figure { absent: Some(not_said("building")), ..applies },
        (_, Some(building)) if building.independent_power && building.electric_air_cooling => applies.is("yes").basis(
            "independent power distribution, air cooling with electric air conditioning",
            "独立配电、空气冷却、电动空调",
        ),
        _ => applies.is("by reference").basis(
            "another way of power or cooling: the standard may be referred to",
            "采用其他配电或制冷方式：可参照执行",
        ),
    };
    let green = said.and_then(|said| said.green_grade.as_ref());
    let gbt = Figure::new("gbt44989_grade", "Grade by GB/T 44989-2024", "GB/T 44989-2024 绿色数据中心等级", "");
    let gbt = match green {
        Some(green) => gbt
            .is(green.grade.to_string())
            .basis(format!("assessed on {}", green.date), format!("{} 评价", green.date))
            .source(format!("{}; {}", standards.gbt44989.source, green.by))
            .year(green.date.chars().take(4).collect::<String>()),
        None => Figure {
            absent: Some(Text::new(
                "an assessment gives it, with evidence beyond energy; declare its result (greenGrade)",
                "由评价机构依据能耗以外的证据评定；请申报其结果（greenGrade）",
            )),
            ..gbt
        },
    };
    let mut figures = vec![gb_grade, applies, gbt];
    figures.extend(national(subject, context, millionths, grade.flatten(), green.map(|green| green.grade)));
    for plan in &standards.plans {
        let over = last_day(&context.ledger.days) > plan.ended;
        let dated = if over { ("ended on ", "已于以下日期结束：") } else { ("until ", "截至 ") };
        figures.push(
            Figure::new("plan", "Context: plan", "背景：行动计划", "")
                .is(format!("{}", plan.ended))
                .basis(
                    format!("{}{}: {}", dated.0, plan.ended, plan.says),
                    format!("{}{}：{}", dated.1, plan.ended, plan.says_zh),
                )
                .source(plan.source.clone())
                .year(plan.ended.year()),
        );
    }
    Section { id: "cn", title: Text::new("China", "中国标准"), figures }
}

fn national(
    subject: &Subject<'_>,
    context: &Context<'_>,
    pue_millionths: Option<u128>,
    gb_grade: Option<u8>,
    green_grade: Option<u8>,
) -> Option<Figure> {
    let national = &context.standards.national2025;
    let said = subject.said;
    let figure =
        Figure::new("national2025", "National green data center criteria 2025", "2025 年度国家绿色数据中心要求", "");
    let limit = decimal::parse_millionths(&national.pue_max)?;
    let racks_in_use = said.and_then(|said| said.rack_utilization_percent).and_then(decimal::of_f64);
    let in_use_min = decimal::parse_millionths(&national.rack_utilization_min)?;
    let checks = [
        (format!("PUE <= {}", national.pue_max), pue_millionths.map(|pue| pue <= limit)),
        (
            format!("GB 40879 <= {}", national.gb40879_grade_max),
            pue_millionths.map(|_| gb_grade.is_some_and(|grade| grade <= national.gb40879_grade_max)),
        ),
        (
            format!("GB/T 44989 <= {}", national.gbt44989_grade_max),
            green_grade.map(|g| g <= national.gbt44989_grade_max),
        ),
        (format!("racks in use >= {} %", national.rack_utilization_min), racks_in_use.map(|share| share >= in_use_min)),
    ];
    let word = |check: Option<bool>| match check {
        Some(true) => ("met", "达到"),
        Some(false) => ("not met", "未达到"),
        None => ("not known", "未知"),
    };
    let list = |chinese: bool| {
        let lines = checks.iter().map(|(name, check)| {
            let (en, zh) = word(*check);
            format!("{name}: {}", if chinese { zh } else { en })
        });
        lines.collect::<Vec<_>>().join("; ")
    };
    let verdict = if checks.iter().any(|(_, check)| *check == Some(false)) {
        "not met"
    } else if checks.iter().all(|(_, check)| *check == Some(true)) {
        "met"
    } else {
        "not known"
    };
    Some(
        figure
            .is(verdict)
            .basis(
                format!(
                    "{}; at least {} standard racks unless of finance or a public institution",
                    list(false),
                    national.racks_min
                ),
                format!("{}；规模不少于 {} 个标准机架（金融领域、公共机构除外）", list(true), national.racks_min),
            )
            .source(national.source.clone())
            .year(national.valid_from.year()),
    )
}

/// Fields of Annexes I to III of Delegated Regulation (EU) 2024/1364.
pub(crate) fn europe(subject: &Subject<'_>, context: &Context<'_>) -> Section {
    let eu = &context.standards.eu2024_1364;
    let known = subject.known;
    let said = subject.said;
    let installed = said.and_then(|said| said.installed_it_kw).and_then(decimal::of_f64);
    let applies = Figure::new("eu_applies", "Reporting applies", "是否须报送", "");
    let applies = match (installed, decimal::parse_millionths(&eu.installed_it_kw_min)) {
        (Some(kw), Some(least)) => applies
            .is(if kw >= least { "yes" } else { "no" })
            .basis(
                format!(
                    "installed IT power demand {} kW, threshold {} kW; a year is due by {}",
                    decimal::trim(&decimal::millionths(kw)),
                    eu.installed_it_kw_min,
                    eu.due
                ),
                format!(
                    "已安装 IT 功率需求 {} kW，门槛 {} kW；每年 {} 前报送上一年",
                    decimal::trim(&decimal::millionths(kw)),
                    eu.installed_it_kw_min,
                    eu.due
                ),
            )
            .source(eu.source.clone())
            .year(eu.valid_from.year()),
        _ => Figure { absent: Some(not_said("installedItKw")), ..applies },
    };
    let energy = |id, en: &str, zh: &str, value: Result<u128, Text>, basis: (&str, &str)| {
        let figure = Figure::new(id, en, zh, "kWh").either(value.map(decimal::kwh));
        if figure.value.is_some() { figure.basis(basis.0, basis.1).source(eu.source.clone()) } else { figure }
    };
    let facility = known.facility.clone();
    let renewable = |index: usize| -> Result<u128, Text> {
        if !known.renewable_said {
            return Err(Text::new("no renewable energy is declared", "未申报可再生能源"));
        }
        known.facility.clone()?;
        Ok(known.renewable[index])
    };
    let all = (0..3).try_fold(0, |sum, index| Ok::<_, Text>(sum + renewable(index)?));
    let water = |id, en: &str, zh: &str, said: &Result<(u128, String), Text>| {
        // Litres in millionths to cubic metres with three decimals.
        let value = said.as_ref().map_err(Clone::clone).map(|(litres, _)| litres);
        let figure = Figure::new(id, en, zh, "m3")
            .either(value.and_then(|litres| decimal::ratio(*litres, 1_000_000_000, 3).ok_or_else(Text::default)));
        match said {
            Ok((_, by)) => figure.source(format!("{}; {by}", eu.source)).basis("meter or readings", "计量或抄表"),
            Err(_) => figure,
        }
    };
    let heat = known.heat.as_ref().map_err(Clone::clone).map(|(heat, _)| *heat);
    let mut figures = vec![
        applies,
        energy(
            "e_dc",
            "Total energy consumption E_DC",
            "总能耗 E_DC",
            facility,
            ("the facility's energy", "设施总能耗"),
        ),
        energy(
            "e_it",
            "Energy of IT equipment E_IT",
            "IT 设备能耗 E_IT",
            Ok(subject.host),
            ("metered on the nodes", "各节点计量"),
        ),
        energy(
            "e_res_tot",
            "Renewable energy E_RES-TOT",
            "可再生能源总量 E_RES-TOT",
            all,
            ("sum of the three below", "以下三项之和"),
        ),
        energy(
            "e_res_goo",
            "of it from guarantees of origin",
            "其中来源担保证书",
            renewable(0),
            ("certificates", "证书"),
        ),
        energy("e_res_ppa", "of it from purchase agreements", "其中购电协议", renewable(1), ("agreements", "协议")),
        energy("e_res_oos", "of it generated on site", "其中现场发电", renewable(2), ("own meters", "自有电表")),
        energy("e_reuse", "Waste heat reused E_REUSE", "余热再利用 E_REUSE", heat, ("readings", "抄表")),
        water("w_in", "Water input W_IN", "总取水量 W_IN", &known.water),
        water("w_in_pot", "Potable water input W_IN-POT", "饮用水取水量 W_IN-POT", &known.potable),
    ];
    let installed = Figure::new("p_dit", "Installed IT power demand P_DIT", "已安装 IT 功率需求 P_DIT", "kW");
    figures.push(match said.and_then(|said| said.installed_it_kw).and_then(decimal::of_f64) {
        Some(kw) => {
            installed.is(decimal::trim(&decimal::millionths(kw))).basis("declared", "申报").source(eu.source.clone())
        }
        None => Figure { absent: Some(not_said("installedItKw")), ..installed },
    });
    Section { id: "eu", title: Text::new("European Union, (EU) 2024/1364", "欧盟 (EU) 2024/1364"), figures }
}

/// The sections that a standard asks for.
pub(crate) fn all(subject: &Subject<'_>, context: &Context<'_>, standard: ReportStandard) -> Vec<Section> {
    let mut sections = vec![energy(subject), emissions(subject, context)];
    if subject.whole {
        sections.push(efficiency(subject, context));
        if matches!(standard, ReportStandard::Cn | ReportStandard::All) {
            sections.push(china(subject, context));
        }
        if matches!(standard, ReportStandard::Eu | ReportStandard::All) {
            sections.push(europe(subject, context));
        }
    }
    sections
}
