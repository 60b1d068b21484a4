//! A machine's description as numbers: missing fields filled in, then features. The twin of
//! `scripts/powermodel/describe.py`.

use serde::Deserialize;

use super::{EstimateError, data::Guesses, families::Fact};

/// What is told about a machine. Everything may be missing but a number of cores or threads.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Machine {
    /// Architecture, where somebody knows it.
    pub architecture: Option<String>,
    /// The name the CPU gives itself.
    pub cpu_name: Option<String>,
    /// `intel`, `amd` or another maker.
    pub cpu_make: Option<String>,
    /// Thermal design power of one chip, watts.
    pub tdp_w: Option<f64>,
    /// Processor chips (sockets in use).
    pub chips: Option<f64>,
    /// Cores of the whole machine.
    pub cores: Option<f64>,
    /// Hardware threads of the whole machine.
    pub threads: Option<f64>,
    /// Nominal clock.
    pub ghz: Option<f64>,
    /// Memory, gigabytes.
    pub mem_gb: Option<f64>,
    /// Rating of all power supplies together, watts.
    pub psu_w: Option<f64>,
    /// Year in which the machine could be bought.
    pub year: Option<f64>,
}

impl Machine {
    /// Refuses numbers that no machine has.
    pub(super) fn check(&self) -> Result<(), EstimateError> {
        // Ten times the largest machines on the market: what is beyond is a wrong unit.
        let limits = [
            ("tdp_w", self.tdp_w, 1e4),
            ("chips", self.chips, 256.0),
            ("cores", self.cores, 65_536.0),
            ("threads", self.threads, 262_144.0),
            ("ghz", self.ghz, 100.0),
            ("mem_gb", self.mem_gb, 1e6),
            ("psu_w", self.psu_w, 1e6),
            ("year", self.year, 2_200.0),
        ];
        for (field, value, limit) in limits {
            if let Some(value) = value
                && !(0.0..=limit).contains(&value)
            {
                return Err(EstimateError::Field { field, value, expected: "a positive number of a sensible size" });
            }
        }
        Ok(())
    }
}

/// Idle and full power in watts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Known {
    pub(super) idle: f64,
    pub(super) full: f64,
}

impl Known {
    /// What load adds, watts.
    fn dynamic(self) -> f64 {
        self.full - self.idle
    }
}

/// A description with every number present once [`Base::complete`] was called.
#[derive(Clone, Debug)]
pub(super) struct Base {
    chips: f64,
    cores: f64,
    threads: f64,
    year: f64,
    launch: f64,
    nanometres: f64,
    amd: f64,
    ghz: Option<f64>,
    tdp_w: Option<f64>,
    mem_gb: Option<f64>,
    psu_w: Option<f64>,
}

impl Base {
    /// Nothing without cores or threads.
    pub(super) fn of(machine: &Machine, family: Option<&str>, fact: Option<&Fact>) -> Option<Self> {
        let given = |value: Option<f64>| value.filter(|value| *value > 0.0);
        let year = given(machine.year);
        let launch = fact.map_or_else(|| year.unwrap_or(2018.0).clamp(2005.0, 2022.0), |fact| fact.launch);
        // Some years belong to the chassis and not to the CPU.
        let year = year.map_or(launch, |year| year.clamp(launch - 1.0, launch + 3.0));
        let smt = fact.is_some() && launch >= 2009.0 && !matches!(family, Some("k10" | "bulldozer"));
        let per_core = if smt { 2.0 } else { 1.0 };
        let (cores, threads) = match (given(machine.cores), given(machine.threads)) {
            (None, None) => return None,
            (None, Some(threads)) => ((threads / per_core).max(if smt { 1.0 } else { 0.0 }), threads),
            (Some(cores), None) => (cores, cores * per_core),
            (Some(cores), Some(threads)) => (cores, threads),
        };
        let chips = given(machine.chips).unwrap_or(1.0);
        let maker = fact.map_or(machine.cpu_make.as_deref(), |fact| Some(fact.maker.as_str()));
        Some(Self {
            chips,
            cores: cores.max(chips),
            threads,
            year,
            launch,
            nanometres: fact.map_or(14.0, |fact| fact.nanometres),
            amd: f64::from(u8::from(maker == Some("amd"))),
            ghz: given(machine.ghz),
            tdp_w: given(machine.tdp_w),
            mem_gb: given(machine.mem_gb),
            psu_w: given(machine.psu_w),
        })
    }

    /// Fills in what is missing from the rest, and names it.
    pub(super) fn complete(&mut self, guesses: &Guesses) -> Vec<&'static str> {
        let per_chip = (self.cores / self.chips).ln();
        let new = (self.launch - 2013.0) / 5.0;
        let inputs = [1.0, self.chips.ln(), per_chip, new, self.amd, per_chip * new, (self.nanometres / 20.0).ln()];
        let factor = |line: &[f64]| inputs.iter().zip(line).map(|(x, c)| x * c).sum::<f64>().exp();
        let mut missing = Vec::new();
        let mut fill = |field: &mut Option<f64>, name: &'static str, unit: f64, line: &[f64]| {
            *field.get_or_insert_with(|| {
                missing.push(name);
                unit * factor(line)
            })
        };
        fill(&mut self.ghz, "ghz", 1.0, &guesses.ghz);
        let tdp = fill(&mut self.tdp_w, "tdp_w", 1.0, &guesses.tdp_w);
        fill(&mut self.mem_gb, "mem_gb", self.cores, &guesses.mem_gb);
        fill(&mut self.psu_w, "psu_w", self.chips * tdp + 100.0, &guesses.psu_w);
        missing
    }

    /// Thermal design power of all chips, watts.
    pub(super) fn tdp(&self) -> f64 {
        self.tdp_w.unwrap_or(1.0) * self.chips
    }

    /// A feature by its name in the data; nothing for a name that this code does not know.
    pub(super) fn feature(&self, name: &str, known: Option<Known>) -> Option<f64> {
        let (ghz, mem, psu) = (self.ghz?, self.mem_gb?, self.psu_w?);
        let (tdp, tdp_w) = (self.tdp(), self.tdp_w?);
        let truth = |is: bool| f64::from(u8::from(is));
        Some(match name {
            "log_chips" => self.chips.ln(),
            "log_cores" => self.cores.ln(),
            "log_cores_per_chip" => (self.cores / self.chips).ln(),
            "log_gigahertz" => ghz.ln(),
            "log_memory" => mem.ln(),
            "log_memory_per_core" => (mem / self.cores).ln(),
            "log_memory_per_tdp" => (mem / tdp).ln(),
            "log_psu" => psu.ln(),
            "log_psu_per_tdp" => (psu / tdp).ln(),
            "log_tdp" => tdp.ln(),
            "log_tdp_per_chip" => tdp_w.ln(),
            "log_tdp_per_core" => (tdp / self.cores).ln(),
            "threads_per_core" => self.threads / self.cores,
            "year" => self.year,
            "launch" => self.launch,
            "log_nanometres" => self.nanometres.ln(),
            "amd" => self.amd,
            "entry" => truth(self.chips == 1.0 && tdp < 100.0),
            "eight_chips" => truth(self.chips >= 8.0),
            "idle_ratio" => known?.idle / known?.full,
            "log_idle_ratio" => (known?.idle / known?.full).ln(),
            "log_full" => known?.full.ln(),
            "log_full_per_tdp" => (known?.full / tdp).ln(),
            "log_full_per_psu" => (known?.full / psu).ln(),
            "log_dynamic_per_tdp" => (known?.dynamic() / tdp).ln(),
            "log_dynamic_per_core" => (known?.dynamic() / self.cores).ln(),
            "log_dynamic_per_thread" => (known?.dynamic() / self.threads).ln(),
            "log_idle_per_chip" => (known?.idle / self.chips).ln(),
            "log_idle_per_tdp" => (known?.idle / tdp).ln(),
            // Rough sums of the parts, the units in which idle and full power are seen: watts a gigabyte and a socket.
            "log_idle_per_parts" => (known?.idle / (0.3 * mem + 20.0 * self.chips + 20.0)).ln(),
            "log_full_per_parts" => (known?.full / (tdp + 0.35 * mem + 30.0 * self.chips)).ln(),
            _ => return None,
        })
    }
}
