"""Predictions of the written data for made-up machines: the agent's code must give the same."""
import math

import describe
import model
import ridge

# No machine here is one of the table.
MADE_UP = [
    ({"cpu_name": "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz", "cpu_make": "intel", "chips": 2, "cores": 40, "threads": 80,
      "ghz": 2.5, "tdp_w": 150, "mem_gb": 384, "psu_w": 1600, "year": 2019, "architecture": "cascadelake"}, (96, 520)),
    ({"cpu_name": "AMD EPYC 7543 32-Core Processor", "chips": 1, "cores": 32, "threads": 64, "mem_gb": 256}, (88, 300)),
    ({"cpu_name": "Intel Xeon E5-2667 v2", "chips": 2, "threads": 32, "tdp_w": 130, "mem_gb": 64}, (75, 330)),
    ({"architecture": "kabylabe", "cores": 4, "threads": 8, "tdp_w": 72, "psu_w": 250, "year": 2018}, (14, 80)),
    ({"architecture": "opteron", "cpu_name": "AMD Opteron 6386 SE", "chips": 4, "cores": 64, "tdp_w": 140, "mem_gb": 128,
      "ghz": 2.8, "psu_w": 2200, "year": 2013}, (190, 800)),
    ({"cpu_name": "Kunpeng-920", "chips": 2, "cores": 96, "threads": 96, "mem_gb": 512}, (120, 420)),
    ({"cpu_name": "AMD EPYC 9654 96-Core Processor", "threads": 192, "mem_gb": 768}, (150, 560)),
    ({"threads": 16}, (40, 120)),
]


def predict(out, task, families, machine, known):
    part = out[task]
    b, missing = describe.complete(describe.base(machine, families), out["guesses"])
    named = describe.features(b, known)
    scaled = [(min(max(named[name], low), high) - mean) * factor for name, mean, factor, low, high in part["features"]]
    pool = families.pool(b["family"]) if b["family"] else None
    basis = ridge.Basis({"seed": part["seed"], "waves": part["waves"], "features": part["features"], "length": part["length"],
                         "pool_distance": part["pool_distance"], "share": part["share"]}, out["pools"])
    features, pools, waves = basis.parts(scaled, pool)
    coefficients = [c + ridge.dot(f, features) + ridge.dot(p, pools) + ridge.dot(w, waves)
                    for c, f, p, w in zip(part["intercepts"], part["feature_coefficients"], part["pool_coefficients"],
                                          part["wave_coefficients"])]
    watts = model.curve(task, b, coefficients, known)
    if pool not in out["pools"]:
        return watts, None
    bounds = out["intervals"][task][tier(missing)]
    if task == "two_point":
        bounds = [[0.0, 0.0]] + bounds + [[0.0, 0.0]]
    return watts, [[w * math.exp(low), w * math.exp(high)] for w, (low, high) in zip(watts, bounds)]


def tier(missing):
    if "tdp_w" in missing and "psu_w" in missing:
        return "processor_only"
    if "tdp_w" in missing:
        return "without_tdp"
    return "without_psu" if "psu_w" in missing else "described"


def cases(out, families):
    found = []
    for machine, known in MADE_UP:
        for pair in (None, known):
            watts, interval = predict(out, "two_point" if pair else "zero", families, machine, pair)
            case = {"machine": machine, "watts": watts, "interval": interval}
            if pair:
                case.update(idle_w=pair[0], max_w=pair[1])
            found.append(case)
    return found
