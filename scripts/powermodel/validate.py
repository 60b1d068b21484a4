"""Cross-validation by company: each company left out once, and many companies left out at once."""
import csv
import math

import describe
import model
import ridge

# Companies that were joined, or tested each other's machines, count as one.
JOINED = [("hewlett", "hewlett-packard, ibm"), ("ibm", "hewlett-packard, ibm"), ("principled", "hewlett-packard, ibm"),
          ("cisco", "hewlett-packard, ibm"), ("acer", "acer"), ("dell", "dell"), ("huawei", "huawei"), ("lenovo", "lenovo"),
          ("inspur", "inspur"), ("h3c", "h3c"), ("giga-byte", "gigabyte"), ("sugon", "sugon")]
# What the description leaves out, from nothing to all that /proc/cpuinfo does not tell.
TIERS = {"described": (), "without_tdp": ("tdp_w",), "without_psu": ("psu_w",), "processor_only": ("tdp_w", "psu_w", "year")}
TEXT = ("vendor", "model", "architecture", "cpu_name", "cpu_make")


def company(vendor):
    vendor = vendor.lower()
    return next((name for part, name in JOINED if part in vendor), vendor)


def read(path):
    machines = []
    with open(path, newline="") as handle:
        for row in csv.DictReader(handle):
            described = {k: v if k in TEXT else float(v) for k, v in row.items() if v and not k.startswith("w_")}
            machines.append({"described": described, "company": company(row["vendor"]),
                             "watts": [float(row["w_%d" % load]) for load in model.LOADS]})
    return machines


def splits(machines, halves, seed):
    """("one"|"many", indices left out): every company once, then `halves` random draws of 40 to 60 % of the machines."""
    companies = sorted({m["company"] for m in machines})
    out = [("one", [i for i, m in enumerate(machines) if m["company"] == c]) for c in companies]
    # Entries lie between -6 and 6 around 0: a company is left out when its number is positive.
    for draw in ridge.directions(seed, 100 * halves, len(companies)):
        left = {c for c, x in zip(companies, draw) if x > 0}
        test = [i for i, m in enumerate(machines) if m["company"] in left]
        if 0.4 <= len(test) / len(machines) <= 0.6:
            out.append(("many", test))
        if len(out) == len(companies) + halves:
            break
    return out


def masked(data, index, fields):
    described = {k: v for k, v in data.machines[index]["described"].items() if k not in fields}
    return describe.complete(describe.base(described, data.families), data.guesses)[0]


def run(data, halves=20, seed=7, tiers=TIERS):
    """Errors as {(task, tier, kind): [(machine, [ln(measured / predicted) by load])]}, all out of sample."""
    errors = {}
    plan = splits(data.machines, halves, seed)
    for name, task in data.tasks.items():
        places = {}
        for tier, fields in tiers.items():
            bases = data.full if not fields else [masked(data, i, fields) for i in range(len(data.full))]
            gram = task.gram
            if fields:
                gram = [[ridge.dot(row, other) for other in task.rows]
                        for row in (task.row(b, k) for b, k in zip(bases, task.known))]
            places[tier] = bases, gram
        for kind, test in plan:
            out = set(test)
            keep = [i for i in range(len(data.full)) if i not in out]
            fitted = task.fit(keep)
            for tier, (bases, gram) in places.items():
                for i in test:
                    watts = task.predict(fitted, keep, gram[i], bases[i], task.known[i])
                    loads = range(11) if name == "zero" else range(1, 10)
                    found = [math.log(data.machines[i]["watts"][k] / watts[k]) for k in loads]
                    errors.setdefault((name, tier, kind), []).append((i, found))
    return errors


def quantile(values, share):
    """Conformal: the smallest value that at least this share of n + 1 lies at or below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * (len(ordered) + 1)) - 1))]


def summary(found, keep=lambda i: True):
    """(MAPE, p95) in percent of the measured watts."""
    errors = sorted(abs(math.exp(-x) - 1) for i, row in found if keep(i) for x in row)
    return 100 * math.fsum(errors) / len(errors), 100 * errors[int(0.95 * len(errors))]


def interval(found, level=0.95):
    """Per load, the bounds of ln(measured / predicted) that each hold with the probability `level`."""
    columns = list(zip(*(row for _, row in found)))
    return [[round(-quantile([-x for x in c], level), 4), round(quantile(c, level), 4)] for c in columns]


def coverage(data, found, level=0.95):
    """Share of measurements inside an interval that was drawn without the measured machine's company."""
    companies = sorted({data.machines[i]["company"] for i, _ in found})
    inside = total = 0
    for c in companies:
        bounds = interval([f for f in found if data.machines[f[0]]["company"] != c], level)
        for i, row in found:
            if data.machines[i]["company"] == c:
                inside += sum(low <= x <= high for x, (low, high) in zip(row, bounds))
                total += len(row)
    return 100 * inside / total


def level_for(data, found, wanted=90.0):
    """The smallest level from 0.95 on at which companies that were left out are covered as wanted: machines of one
    company err together, so that 0.95 falls a little short."""
    levels = [0.95 + 0.0025 * step for step in range(13)]
    return next((level for level in levels if coverage(data, found, level) >= wanted), levels[-1])
