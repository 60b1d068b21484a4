"""The two models: `zero` (from the description alone) and `two_point` (idle and full power known)."""
import math

import describe
import ridge

LOADS = list(range(0, 101, 10))
INNER = LOADS[1:-1]

# Weights of the features: half way between all alike and the outcome of a search over cross-validated errors, because the
# search alone picks what happens to suit these companies (docs/power-model.md). `waves` stand for a kernel of this `length`.
SETTINGS = {
    "zero": {
        "features": {"log_chips": 0.5, "log_cores": 0.75, "log_cores_per_chip": 1, "log_memory": 1,
                     "log_memory_per_core": 1.75, "log_memory_per_tdp": 0.75, "log_psu": 0.5, "log_psu_per_tdp": 0.75,
                     "log_tdp": 0.5, "log_tdp_per_chip": 0.75, "log_tdp_per_core": 0.5, "log_gigahertz": 0.75,
                     "threads_per_core": 0.5, "year": 1, "launch": 0.5, "log_nanometres": 1.75, "amd": 0.75, "entry": 0.75,
                     "eight_chips": 0.75},
        "line_weight": 0.15, "pool_weight": 0.3, "wave_weight": 1.0, "length": 2.2, "pool_distance": 1.76, "noise": 0.3,
        "company_power": 0.25, "waves": 256, "share": 0.4, "seed": 1},
    "two_point": {
        "features": {"log_chips": 0.5, "log_cores": 1.25, "log_cores_per_chip": 1.75, "log_memory": 0.5, "log_psu": 1.3,
                     "log_tdp": 0.8, "log_tdp_per_chip": 1.75, "log_gigahertz": 0.5, "threads_per_core": 1.3, "year": 0.5,
                     "launch": 1.75, "log_nanometres": 0.5, "amd": 1.3, "entry": 0.5, "eight_chips": 1, "idle_ratio": 1,
                     "log_idle_ratio": 1, "log_full": 0.5, "log_full_per_tdp": 1.75, "log_full_per_psu": 0.5,
                     "log_full_per_parts": 1.75, "log_dynamic_per_tdp": 0.5, "log_dynamic_per_core": 0.5,
                     "log_dynamic_per_thread": 0.5, "log_idle_per_chip": 1.75, "log_idle_per_tdp": 0.5,
                     "log_idle_per_parts": 0.5},
        "line_weight": 0.02, "pool_weight": 0.1, "wave_weight": 1.0, "length": 2.2, "pool_distance": 1.76, "noise": 0.5,
        "company_power": 0.0, "waves": 256, "share": 0.4, "seed": 1},
}


def terms(task, share):
    """The curve's building blocks at a share of full load: logarithm of the watts, or height above the straight line."""
    if task == "zero":
        return [1.0, share, share ** 2, share ** 3, 1.0 if share == 0 else 0.0]
    arch = share * (1 - share)
    return [arch, arch * share, arch * share ** 2, arch * share ** 3]


def project(task, values):
    """Coefficients of `terms` that fit values at the benchmark's loads best (least squares)."""
    loads = LOADS if task == "zero" else INNER
    table = [terms(task, load / 100) for load in loads]
    n = len(table[0])
    normal = [[math.fsum(row[a] * row[b] for row in table) for b in range(n)] for a in range(n)]
    right = [math.fsum(row[a] * value for row, value in zip(table, values)) for a in range(n)]
    return ridge.solve(normal, [right])[0]


def target(task, b, watts):
    """What the regression learns of a machine, and how much an error in it weighs in relative watts."""
    if task == "zero":
        unit = math.log(b["tdp_w"] * b["chips"])
        return project(task, [math.log(w) - unit for w in watts]), 1.0
    idle, full = watts[0], watts[-1]
    heights = [(watts[k] - idle) / (full - idle) - load / 100 for k, load in enumerate(LOADS) if load in INNER]
    weight = math.fsum((full - idle) / watts[k] for k in range(1, 10)) / 9
    return project(task, heights), weight ** 2


def curve(task, b, coefficients, known=None):
    """Watts at the benchmark's loads; more load never takes less."""
    if task == "zero":
        unit = b["tdp_w"] * b["chips"]
        watts = [unit * math.exp(ridge.dot(coefficients, terms(task, load / 100))) for load in LOADS]
    else:
        idle, full = known
        watts = [idle + (full - idle) * min(max(load / 100 + ridge.dot(coefficients, terms(task, load / 100)), 0.0), 1.0)
                 for load in LOADS]
    if task == "zero":
        # Nowhere near the data the step between idle and the rest is a guess: waking takes at least half of what the next
        # tenth takes, as it does on 393 of 398 published servers.
        watts[0] = min(watts[0], watts[1] - 0.5 * max(watts[2] - watts[1], 0.0))
    for k in range(1, len(watts)):
        watts[k] = max(watts[k], watts[k - 1])
    return watts


def fit_guesses(bases):
    """Coefficients that fill in missing quantities: ridge on every machine that has them."""
    guesses = {}
    for key in describe.GUESSED:
        rows, values = [], []
        for b in bases:
            if b[key] is not None and b["tdp_w"] is not None:
                rows.append(describe.guess_inputs(b))
                values.append(math.log(b[key] / describe.guess_unit(key, b)))
        n = len(rows[0])
        normal = [[math.fsum(r[a] * r[c] for r in rows) + (1.0 if a == c and a else 0.0) for c in range(n)] for a in range(n)]
        right = [math.fsum(r[a] * v for r, v in zip(rows, values)) for a in range(n)]
        guesses[key] = [round(x, 5) for x in ridge.solve(normal, [right])[0]]
    return guesses


class Data:
    """All machines, ready for fits that leave some out."""

    def __init__(self, machines, families):
        self.machines, self.families = machines, families
        self.bases = [describe.base(m["described"], families) for m in machines]
        self.guesses = fit_guesses(self.bases)
        self.full = [describe.complete(b, self.guesses)[0] for b in self.bases]
        self.pool_of = [families.pool(b["family"]) if b["family"] else None for b in self.bases]
        self.pools = sorted({p for p in self.pool_of if p})
        self.tasks = {task: Task(task, self, settings) for task, settings in SETTINGS.items()}


class Task:
    def __init__(self, name, data, settings):
        self.name, self.data, self.settings = name, data, settings
        known = [(m["watts"][0], m["watts"][-1]) for m in data.machines]
        self.known = known if name == "two_point" else [None] * len(known)
        raw = [describe.features(b, k) for b, k in zip(data.full, self.known)]
        self.scaler = ridge.Scaler(settings["features"], raw)
        self.basis = ridge.Basis(settings, data.pools)
        self.rows = [self.row(b, k) for b, k in zip(data.full, self.known)]
        self.gram = ridge.kernel(self.rows)
        targets = [target(name, b, m["watts"]) for b, m in zip(data.full, data.machines)]
        self.targets = [t for t, _ in targets]
        size = {}
        for m in data.machines:
            size[m["company"]] = size.get(m["company"], 0) + 1
        self.weights = [w * size[m["company"]] ** -settings["company_power"] for (_, w), m in zip(targets, data.machines)]

    def row(self, b, known):
        pool = self.data.families.pool(b["family"]) if b["family"] else None
        return self.basis.row(self.scaler.apply(describe.features(b, known)), pool)

    def fit(self, keep):
        return ridge.fit(self.gram, self.targets, self.weights, self.settings["noise"], keep)

    def predict(self, fitted, keep, products, b, known):
        """`products`: the machine's row times each training row, by index."""
        alphas, means = fitted
        held = [products[i] for i in keep]
        return curve(self.name, b, [m + ridge.dot(a, held) for a, m in zip(alphas, means)], known)

    def export(self, digits):
        """The fitted coefficients as data: one list an output for features, pools and waves."""
        keep = list(range(len(self.rows)))
        alphas, means = self.fit(keep)
        s, width, pools = self.settings, len(self.settings["features"]), len(self.data.pools)
        scales = ([math.sqrt(s["line_weight"])] * width + [math.sqrt(s["pool_weight"])] * pools
                  + [math.sqrt(s["wave_weight"] / s["waves"])] * 2 * s["waves"])
        columns = list(zip(*self.rows))
        beta = [[float("%.*g" % (digits, ridge.dot(column, alpha) * scale)) for column, scale in zip(columns, scales)]
                for alpha in alphas]
        return {"features": [[n] + c for n, c in zip(self.scaler.names, self.scaler.columns)],
                "length": s["length"], "pool_distance": s["pool_distance"], "waves": s["waves"], "share": s["share"],
                "seed": s["seed"],
                "intercepts": [round(m, 6) for m in means],
                "feature_coefficients": [row[:width] for row in beta],
                "pool_coefficients": [row[width:width + pools] for row in beta],
                "wave_coefficients": [row[width + pools:] for row in beta]}
