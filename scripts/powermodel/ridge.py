"""Ridge regression on features, pools and random waves, without libraries; every number comes out the same each time."""
import math
from operator import mul

MASK = (1 << 64) - 1


def dot(a, b):
    return sum(map(mul, a, b))


def directions(seed, count, width, share=1.0):
    """Random directions: SplitMix64, each entry the sum of 12 uniform numbers less 6, which is normal enough and needs
    no function that differs between machines. An entry is kept with the probability `share`, else it is 0."""
    state, rows = seed, []

    def uniform():
        nonlocal state
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) >> 11) / 9007199254740992.0

    for _ in range(count):
        row = []
        for _ in range(width):
            total = 0.0
            for _ in range(12):
                total += uniform()
            row.append(total - 6.0 if uniform() < share else 0.0)
        rows.append(row)
    return rows


def solve(matrix, columns):
    """Solves a symmetric positive definite system for several right sides (Cholesky)."""
    n, lower = len(matrix), []
    for i in range(n):
        row = []
        for j in range(i):
            row.append((matrix[i][j] - dot(row, lower[j][:j])) / lower[j][j])
        row.append(math.sqrt(matrix[i][i] - dot(row, row)))
        lower.append(row)
    out = []
    upper = [[lower[j][i] for j in range(i + 1, n)] for i in range(n)]
    for column in columns:
        y = []
        for i in range(n):
            y.append((column[i] - dot(lower[i][:i], y)) / lower[i][i])
        x = [0.0] * n
        for i in range(n - 1, -1, -1):
            x[i] = (y[i] - dot(upper[i], x[i + 1:])) / lower[i][i]
        out.append(x)
    return out


class Scaler:
    """Features to comparable numbers: less mean, over deviation, times a weight, kept inside what was seen."""

    def __init__(self, weights, rows):
        self.names, self.columns = list(weights), []
        for name, weight in weights.items():
            values = [row[name] for row in rows]
            mean = math.fsum(values) / len(values)
            deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values)) or 1.0
            self.columns.append([round(mean, 4), round(weight / deviation, 5), round(min(values), 2), round(max(values), 2)])

    def apply(self, row):
        return [(min(max(row[name], low), high) - mean) * factor
                for name, (mean, factor, low, high) in zip(self.names, self.columns)]


class Basis:
    """[features, pools, waves] of one machine: its row of the regression."""

    def __init__(self, settings, pools):
        self.s, self.pools = settings, pools
        self.waves = directions(settings["seed"], settings["waves"], len(settings["features"]) + len(pools),
                                settings["share"])

    def parts(self, scaled, pool):
        width = self.s["length"]
        place = [x / width for x in scaled] + [self.s["pool_distance"] / width if p == pool else 0.0 for p in self.pools]
        cosines, sines = [], []
        for wave in self.waves:
            angle = dot(wave, place)
            cosines.append(math.cos(angle))
            sines.append(math.sin(angle))
        return scaled, [1.0 if p == pool else 0.0 for p in self.pools], cosines + sines

    def row(self, scaled, pool):
        features, pools, waves = self.parts(scaled, pool)
        wave = math.sqrt(self.s["wave_weight"] / self.s["waves"])
        line, step = math.sqrt(self.s["line_weight"]), math.sqrt(self.s["pool_weight"])
        return [line * x for x in features] + [step * x for x in pools] + [wave * x for x in waves]


def kernel(rows):
    out = [[0.0] * len(rows) for _ in rows]
    for i, a in enumerate(rows):
        for j in range(i + 1):
            out[i][j] = out[j][i] = dot(a, rows[j])
    return out


def fit(gram, targets, weights, noise, keep):
    """Weights of the training rows (one list an output) and the mean targets, from the rows `keep`."""
    total = math.fsum(weights[i] for i in keep) / len(keep)
    outputs = len(targets[0])
    means = [math.fsum(targets[i][o] * weights[i] for i in keep) / (total * len(keep)) for o in range(outputs)]
    matrix = [[gram[i][j] for j in keep] for i in keep]
    for k, i in enumerate(keep):
        matrix[k][k] += noise * total / weights[i]
    return solve(matrix, [[targets[i][o] - means[o] for i in keep] for o in range(outputs)]), means
