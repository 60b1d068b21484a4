"""A machine's description as numbers: CPU family, missing fields filled in, features. Written twice, here and in
agent/src/energy/estimator/describe.rs; golden.json holds the two together."""
import json
import math
import re

GUESSED = ("ghz", "tdp_w", "mem_gb", "psu_w")


def clean_name(name):
    name = name.lower().replace("(r)", "").replace("(tm)", "").replace("processor", " ").replace("cpu", " ")
    return " ".join(name.split())


class Families:
    def __init__(self, path):
        with open(path) as handle:
            data = json.load(handle)
        self.facts, self.aliases = data["families"], data["aliases"]
        self.patterns = [(re.compile(pattern), family) for pattern, family in data["patterns"]]

    def find(self, machine):
        """Name of the family, or None: the CPU's own name before the column, which is coarser."""
        name = clean_name(machine.get("cpu_name") or "")
        for pattern, family in self.patterns:
            if pattern.search(name):
                return family
        given = (machine.get("architecture") or "").lower().strip()
        given = self.aliases.get(given, given)
        return given if given in self.facts else None

    def pool(self, family):
        return self.facts[family].get("pool", family)


def number(machine, key):
    value = machine.get(key)
    return float(value) if value not in (None, "") and float(value) > 0 else None


def base(machine, families):
    """The known quantities; None where the description is silent. None as a whole without cores or threads."""
    family = families.find(machine)
    fact = families.facts.get(family, {})
    year = number(machine, "year")
    launch = float(fact.get("launch", min(max(year or 2018.0, 2005.0), 2022.0)))
    # Some years belong to the chassis and not to the CPU.
    year = launch if year is None else min(max(year, launch - 1), launch + 3)
    cores, threads = number(machine, "cores"), number(machine, "threads")
    if cores is None and threads is None:
        return None
    smt = launch >= 2009 and fact.get("launch") is not None and family not in ("k10", "bulldozer")
    if cores is None:
        cores = max(1.0, threads / 2) if smt else threads
    threads = threads or (cores * 2 if smt else cores)
    chips = number(machine, "chips") or 1.0
    maker = fact.get("maker") or machine.get("cpu_make") or ""
    return {"family": family, "chips": chips, "cores": max(cores, chips), "threads": threads, "year": year, "launch": launch,
            "nanometres": float(fact.get("nanometres", 14)), "amd": 1.0 if maker == "amd" else 0.0,
            **{key: number(machine, key) for key in GUESSED}}


def guess_inputs(b):
    cpc = math.log(b["cores"] / b["chips"])
    new = (b["launch"] - 2013) / 5
    return [1.0, math.log(b["chips"]), cpc, new, b["amd"], cpc * new, math.log(b["nanometres"] / 20)]


# What a missing quantity is a multiple of; the logarithm of the factor is linear in guess_inputs.
def guess_unit(key, b):
    return {"ghz": 1.0, "tdp_w": 1.0, "mem_gb": b["cores"], "psu_w": b["chips"] * (b["tdp_w"] or 1.0) + 100}[key]


def complete(b, guesses):
    """Fills in what is missing. `guesses` are the coefficients; returns a new base and the names of the guessed."""
    b, missing = dict(b), []
    for key in GUESSED:
        if b[key] is None:
            b[key] = guess_unit(key, b) * math.exp(sum(x * c for x, c in zip(guess_inputs(b), guesses[key])))
            missing.append(key)
    return b, missing


def features(b, known=None):
    """All features by name; `known` is (idle watts, full watts)."""
    log = math.log
    tdp = b["tdp_w"] * b["chips"]
    f = {
        "log_chips": log(b["chips"]),
        "log_cores": log(b["cores"]),
        "log_cores_per_chip": log(b["cores"] / b["chips"]),
        "log_gigahertz": log(b["ghz"]),
        "log_memory": log(b["mem_gb"]),
        "log_memory_per_core": log(b["mem_gb"] / b["cores"]),
        "log_psu": log(b["psu_w"]),
        "log_psu_per_tdp": log(b["psu_w"] / tdp),
        "log_memory_per_tdp": log(b["mem_gb"] / tdp),
        "log_tdp": log(tdp),
        "log_tdp_per_chip": log(b["tdp_w"]),
        "log_tdp_per_core": log(tdp / b["cores"]),
        "threads_per_core": b["threads"] / b["cores"],
        "year": b["year"],
        "launch": b["launch"],
        "log_nanometres": log(b["nanometres"]),
        "amd": b["amd"],
        "entry": 1.0 if b["chips"] == 1 and tdp < 100 else 0.0,
        "eight_chips": 1.0 if b["chips"] >= 8 else 0.0,
    }
    if known:
        idle, full = known
        f.update({
            "idle_ratio": idle / full,
            "log_idle_ratio": log(idle / full),
            "log_full": log(full),
            "log_full_per_tdp": log(full / tdp),
            "log_full_per_psu": log(full / b["psu_w"]),
            "log_dynamic_per_tdp": log((full - idle) / tdp),
            "log_dynamic_per_core": log((full - idle) / b["cores"]),
            "log_dynamic_per_thread": log((full - idle) / b["threads"]),
            "log_idle_per_chip": log(idle / b["chips"]),
            "log_idle_per_tdp": log(idle / tdp),
            # Rough sums of the parts, the units in which idle and full power are seen: watts a gigabyte and a socket.
            "log_idle_per_parts": log(idle / (0.3 * b["mem_gb"] + 20 * b["chips"] + 20)),
            "log_full_per_parts": log(full / (tdp + 0.35 * b["mem_gb"] + 30 * b["chips"])),
        })
    return f
