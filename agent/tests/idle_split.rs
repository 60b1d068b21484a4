//! How well the idle part of power is found on a node that never rests, on the curves of real servers. The published
//! results are no part of this product: EVERGREEN_POWER_TABLE names their file, and without it the check is not made.
//! The model that helps was fitted to most of these machines, so that the errors are a little flattered.

use evergreen_agent::energy::{
    estimator::{Estimator, Machine},
    idle::{IdleLearner, Look},
};

struct Server {
    machine: Machine,
    watts: Vec<f64>,
    year: f64,
}

fn read(path: &str) -> Vec<Server> {
    let text = std::fs::read_to_string(path).expect("EVERGREEN_POWER_TABLE names a readable file");
    let mut lines = text.lines().map(cells);
    let heads = lines.next().expect("a table has heads");
    lines
        .map(|row| {
            let cell = |name: &str| heads.iter().position(|head| head == name).map_or("", |place| row[place].as_str());
            let number = |name: &str| cell(name).parse::<f64>().ok();
            // What a node knows about itself.
            let machine = Machine {
                architecture: Some(cell("architecture").to_owned()).filter(|text| !text.is_empty()),
                cpu_name: Some(cell("cpu_name").to_owned()),
                chips: number("chips"),
                cores: number("cores"),
                threads: number("threads"),
                ghz: number("ghz"),
                mem_gb: number("mem_gb"),
                ..Machine::default()
            };
            let watts = (0..=10).map(|tenth| number(&format!("w_{}", tenth * 10)).expect("watts")).collect();
            Server { machine, watts, year: number("year").unwrap_or(0.0) }
        })
        .collect()
}

/// Cells of a line; commas between quotes are text.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().expect("there is one").push(c),
        }
    }
    cells
}

fn at(watts: &[f64], load: f64) -> f64 {
    let below = ((load * 10.0) as usize).min(9);
    watts[below] + (watts[below + 1] - watts[below]) * (load * 10.0 - below as f64)
}

/// Mean, and the value that 95 of 100 do not pass.
fn summary(errors: &[f64]) -> (f64, f64) {
    let mut sorted: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    sorted.sort_by(f64::total_cmp);
    (sorted.iter().sum::<f64>() / sorted.len() as f64, sorted[(sorted.len() as f64 * 0.95) as usize])
}

#[test]
fn idle_power_is_found_at_ten_to_thirty_percent_load() {
    let Ok(path) = std::env::var("EVERGREEN_POWER_TABLE") else { return };
    let mut state = 1_u64;
    let mut noise = move || {
        // The sum of twelve uniform numbers less six is nearly normal.
        (0..12)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 11) as f64 / (1_u64 << 53) as f64
            })
            .sum::<f64>()
            - 6.0
    };
    let (mut of_idle, mut of_node, mut recent) = (Vec::new(), Vec::new(), Vec::new());
    for server in read(&path) {
        let curve = Estimator::shipped().estimate(&server.machine).expect("a table of servers");
        let range = curve.watts_at(1.0) - curve.watts_at(0.0);
        let mut learner = IdleLearner::default();
        let (mut load, mut idle) = (0.2_f64, 0.0);
        // Half an hour of load that wanders between a tenth and a third.
        for _ in 0..1_800 {
            load = (load + 0.02 * noise() - 0.03 * (load - 0.2)).clamp(0.1, 0.3);
            let watts = at(&server.watts, load) * (1.0 + 0.01 * noise());
            idle = learner.learn(Look {
                utilization: load,
                load: (curve.watts_at(load) - curve.watts_at(0.0)) / range,
                watts,
                idle_ratio: curve.watts_at(0.0) / curve.watts_at(load),
                modelled: true,
            });
        }
        let error = idle - server.watts[0];
        of_idle.push(error / server.watts[0]);
        of_node.push(error / at(&server.watts, 0.2));
        if server.year >= 2015.0 {
            recent.push(error / server.watts[0]);
        }
    }
    let ((idle, idle95), (node, node95), (new, _)) = (summary(&of_idle), summary(&of_node), summary(&recent));
    let within = of_idle.iter().filter(|error| error.abs() <= 0.1).count();
    println!(
        "idle power at 10 to 30 % load, {} servers: {:.1} % off on average (2015 on: {:.1} %), 95th percentile {:.1} %, {} % of servers within 10 %; of the node's energy {:.1} %, 95th percentile {:.1} %",
        of_idle.len(),
        100.0 * idle,
        100.0 * new,
        100.0 * idle95,
        within * 100 / of_idle.len(),
        100.0 * node,
        100.0 * node95
    );
    assert!(idle <= 0.10 && new <= 0.10, "idle power is off by {idle:.3}");
    assert!(node95 <= 0.125, "the split is off by {node95:.3} of the node's energy");
}
