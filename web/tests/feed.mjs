// Sends a plane a believable fleet over OTLP/HTTP (JSON): the past hour at once, then live until stopped.
//   node tests/feed.mjs http://127.0.0.1:4318 [--nodes 4] [--live SECONDS]
// Used by the browser test and by whoever works on the page.

import { randomBytes } from 'node:crypto';

const SITES = ['dc-a', 'dc-b', 'dc-c'];
const STEP = 10_000;

const text = (key, value) => ({ key, value: { stringValue: String(value) } });
const flag = (key, value) => ({ key, value: { boolValue: value } });
const lines = (key, values) => ({ key, value: { arrayValue: { values: values.map((stringValue) => ({ stringValue })) } } });
const nano = (ms) => `${Math.round(ms * 1000)}000`;

/** A wave that is the same every run, so that pictures can be compared. */
const wave = (seed, ms) =>
  0.5 + 0.28 * Math.sin(ms / 400_000 + seed * 1.7) + 0.12 * Math.sin(ms / 61_000 + seed * 3.1) + 0.07 * Math.sin(ms / 17_000 + seed);

export class Feed {
  constructor(url, { nodes = 4 } = {}) {
    this.url = url.replace(/\/$/, '');
    this.start = Date.now() - 65 * 60_000;
    this.nodes = SITES.flatMap((site, s) =>
      Array.from({ length: nodes + (s === 0 ? 1 : 0) }, (_, i) => ({
        site,
        name: s === 0 && i === nodes ? 'this-machine' : `${site}-n${String(i + 1).padStart(nodes > 99 ? 3 : 1, '0')}`,
        seed: s * 7 + i,
        measured: s < 2 && i % 4 !== 3,
        joules: 1000 * (i + 1),
        idle: 300,
        pods: new Map(),
      })),
    );
    this.problems = new Map();
    this.predictions = new Map();
    this.sites = new Map(SITES.map((site) => [site, { inQuorum: true, epoch: 7, silent: false }]));
    this.holders = [
      ['shop.checkout', 'dc-a', 7],
      ['shop.checkout', 'dc-b', 7],
      ['core.ledger', 'dc-a', 4],
      ['core.cards', 'dc-c', 11],
    ];
    this.epochs = 0;
  }

  async post(path, body) {
    const response = await fetch(`${this.url}/v1/${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(20_000),
    });
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  }

  /** What a node's probes of a peer in each data center found; the way between the last two loses some. */
  mesh(node, gauge, ms) {
    const point = (name, unit, value, attributes) => gauge(name, unit, value, attributes);
    return SITES.flatMap((site) => {
      const peer = this.nodes.find((other) => other.site === site && other !== node);
      if (!peer) return [];
      const far = site !== node.site;
      const attributes = [
        text('evergreen.mesh.peer', peer.name),
        text('evergreen.mesh.peer.site', site),
        text('evergreen.mesh.scope', far ? 'remote' : 'site'),
      ];
      const bad = far && node.site !== 'dc-a' && site !== 'dc-a' ? 0.18 : 0;
      const rtt = (far ? 0.0021 : 0.00018) * (0.9 + 0.2 * wave(node.seed, ms));
      return [
        point('evergreen.mesh.loss', '1', bad, attributes),
        point('evergreen.mesh.late', '1', 0, attributes),
        point('evergreen.mesh.rtt', 's', rtt, attributes),
        point('evergreen.mesh.rtt.p99', 's', rtt * 2.2, attributes),
        point('evergreen.mesh.mtu', 'By', 1500, attributes),
      ];
    });
  }

  /** One export of every node and controller at `ms`; counters have advanced by `step` since the one before. */
  metricsAt(ms, step) {
    const resourceMetrics = [];
    for (const node of this.nodes) {
      const site = this.sites.get(node.site);
      const cpu = Math.max(0.02, Math.min(0.98, wave(node.seed, ms)));
      const watts = 92 + 210 * cpu ** 1.2 + node.seed * 1.5;
      node.joules += (watts * step) / 1000;
      node.idle += (88 * step) / 1000;
      if (site.silent) continue;
      const common = { timeUnixNano: nano(ms), startTimeUnixNano: nano(this.start) };
      const provenance = [
        text('evergreen.energy.provenance', node.measured ? 'measured' : 'estimated'),
        text('evergreen.energy.source', node.measured ? 'powercap' : 'utilisation-model'),
      ];
      const gauge = (name, unit, asDouble, attributes = []) => ({ name, unit, gauge: { dataPoints: [{ ...common, asDouble, attributes }] } });
      const counter = (name, points) => ({
        name,
        unit: 'J',
        sum: { aggregationTemporality: 2, isMonotonic: true, dataPoints: points.map((p) => ({ ...common, ...p })) },
      });
      const metrics = [
        counter('hw.host.energy', [{ asDouble: node.joules, attributes: provenance }]),
        gauge('hw.host.power', 'W', watts, provenance),
        counter('evergreen.node.energy', [{ asDouble: node.idle, attributes: [text('evergreen.energy.consumer', 'idle'), provenance[0]] }]),
        gauge('system.cpu.utilization', '1', cpu),
        gauge('system.memory.usage', 'By', 64e9 * (0.35 + 0.3 * wave(node.seed + 3, ms / 3))),
        gauge('system.memory.limit', 'By', 64e9),
      ];
      for (const [kind, severity, summary] of this.problems.get(node.name) ?? []) {
        const attributes = [text('evergreen.problem.kind', kind), text('evergreen.problem.severity', severity), text('evergreen.problem.summary', summary)];
        metrics.push(gauge('evergreen.node.problem', '1', 1, attributes));
      }
      metrics.push(...this.mesh(node, gauge, ms));
      for (const { expected, ...told } of this.predictions.get(node.name) ?? []) {
        const attributes = Object.entries(told).map(([key, value]) => text(`evergreen.prediction.${key}`, value));
        metrics.push(gauge('evergreen.node.prediction', 's', expected, attributes));
      }
      if (Math.round(ms / STEP) % 6 === 0) metrics.push(counter('k8s.pod.energy', this.pods(node, watts)));
      resourceMetrics.push({
        resource: { attributes: [text('service.name', 'evergreen-agent'), text('evergreen.site', node.site), text('k8s.node.name', node.name)] },
        scopeMetrics: [{ metrics }],
      });
    }
    for (const [name, site] of this.sites) {
      if (site.silent) continue;
      const point = (asDouble, attributes = []) => ({ gauge: { dataPoints: [{ timeUnixNano: nano(ms), asDouble, attributes }] } });
      resourceMetrics.push({
        resource: { attributes: [text('service.name', 'evergreen-controller'), text('evergreen.site', name), text('service.instance.id', `${name}-0`)] },
        scopeMetrics: [
          {
            metrics: [
              { name: 'evergreen.site.in_quorum', ...point(site.inQuorum ? 1 : 0) },
              { name: 'evergreen.site.epoch', ...point(site.epoch) },
              { name: 'evergreen.site.lease_remaining', ...point(site.inQuorum ? 11_400 + 900 * wave(name.length, ms) : 0) },
              ...this.holders.map(([group, holder, epoch]) => ({
                name: 'evergreen.group.holder',
                ...point(1, [text('evergreen.group', group), text('evergreen.group.holder', holder), text('evergreen.epoch', epoch)]),
              })),
            ],
          },
        ],
      });
    }
    return { resourceMetrics };
  }

  pods(node, watts) {
    const names = [
      ['shop', 'checkout', 0.3],
      ['shop', 'cart', 0.11],
      ['core', 'ledger', 0.16],
      ['monitoring', 'agent', 0.004],
    ];
    return names.map(([namespace, name, share]) => {
      const pod = `${name}-${(node.seed * 7919 + 4096).toString(16)}`;
      const joules = (node.pods.get(pod) ?? 0) + watts * share * 60;
      node.pods.set(pod, joules);
      return {
        asDouble: joules,
        attributes: [
          text('k8s.pod.uid', `${pod}-${node.name}`),
          text('k8s.pod.name', pod),
          text('k8s.namespace.name', namespace),
          text('evergreen.energy.provenance', node.measured ? 'measured' : 'estimated'),
        ],
      };
    });
  }

  /** The past hour, in a few large exports. */
  async history() {
    const now = Math.floor(Date.now() / STEP) * STEP;
    let batch = [];
    for (let ms = now - 60 * 60_000; ms <= now; ms += STEP) {
      // Twelve minutes of silence, so that a gap can be seen.
      const gap = this.sites.get('dc-c');
      gap.silent = ms > now - 42 * 60_000 && ms < now - 36 * 60_000;
      batch.push(...this.metricsAt(ms, STEP).resourceMetrics);
      if (batch.length > 600) {
        await this.post('metrics', { resourceMetrics: batch });
        batch = [];
      }
    }
    await this.post('metrics', { resourceMetrics: batch });
    this.last = now;
  }

  /** One live export, at the time it is. */
  async tick() {
    const now = Date.now();
    const step = now - (this.last ?? now - 1000);
    this.last = now;
    await this.post('metrics', this.metricsAt(now, step));
  }

  async trace(spans, service, site, node) {
    const attributes = [text('service.name', service), text('evergreen.site', site), ...(node ? [text('k8s.node.name', node)] : [])];
    await this.post('traces', { resourceSpans: [{ resource: { attributes }, scopeSpans: [{ spans }] }] });
  }

  /** A kernel problem on a node, seen by its agent and cured by the controller; `verdict` none leaves it open. */
  async nodeIncident({ at, site, node, kind, severity, title, evidence, verdict = 'healed' }) {
    const traceId = randomBytes(16).toString('hex');
    const root = randomBytes(8).toString('hex');
    const span = (name, from, to, attributes = [], parent = root, status = 1) => {
      const spanId = randomBytes(8).toString('hex');
      return {
        traceId,
        spanId,
        parentSpanId: parent,
        name,
        startTimeUnixNano: nano(at + from),
        endTimeUnixNano: nano(at + to),
        attributes,
        status: { code: status, message: status === 2 ? 'two pods were still there after 30 s' : '' },
      };
    };
    const first = span(
      'problem.detected',
      0,
      46,
      [
        flag('evergreen.incident', true),
        text('evergreen.incident.title', title),
        text('evergreen.problem.kind', kind),
        text('evergreen.problem.severity', severity),
        lines('evergreen.problem.evidence', evidence),
        text('k8s.node.name', node),
        text('evergreen.site', site),
      ],
      '',
    );
    first.spanId = root;
    await this.trace([first, span('condition.write', 4, 43, [text('evergreen.problem.kind', kind)])], 'evergreen-agent', site, node);
    const run = span('playbook.run', 260, 9640, [text('evergreen.playbook', 'node-kernel-problem')]);
    const steps = [
      span('playbook.match', 190, 204, [text('evergreen.decision.reason', 'kind and severity match; node holds no single-writer service')]),
      span('step.cordon', 300, 372, [], run.spanId),
    ];
    if (verdict) {
      const failed = verdict === 'failed';
      steps.push(
        run,
        span('step.drain', 390, failed ? 9600 : 5840, [text('evergreen.pods.evicted', 6)], run.spanId, failed ? 2 : 1),
        ...(failed ? [] : [span('verify', 5900, 8950, [], run.spanId), span('step.uncordon', 8990, 9060, [], run.spanId)]),
        span('incident.close', 9650, 9662, [text('evergreen.incident.verdict', verdict)]),
      );
    }
    await this.trace(steps, 'evergreen-controller', site);
    const log = (ms, body, severityNumber = 9) => ({ timeUnixNano: nano(at + ms), severityNumber, body: { stringValue: body }, traceId });
    await this.post('logs', {
      resourceLogs: [
        {
          resource: { attributes: [text('service.name', 'evergreen-controller'), text('evergreen.site', site)] },
          scopeLogs: [
            {
              logRecords: [
                log(204, `playbook node-kernel-problem matched ${kind} on ${node}`),
                log(300, `cordon ${node}: intent recorded, was schedulable`),
                log(390, `drain ${node}: 6 pods, PodDisruptionBudget shop/checkout allows 1 at a time`, verdict === 'failed' ? 17 : 9),
              ],
            },
          ],
        },
      ],
    });
    return traceId;
  }

  /** A data center is lost and comes back. */
  async siteIncident({ at, site, seenBy, verdict = 'healed' }) {
    const traceId = randomBytes(16).toString('hex');
    const root = randomBytes(8).toString('hex');
    const span = (name, from, to, attributes = []) => ({
      traceId,
      spanId: name === 'site.suspected' ? root : randomBytes(8).toString('hex'),
      parentSpanId: name === 'site.suspected' ? '' : root,
      name,
      startTimeUnixNano: nano(at + from),
      endTimeUnixNano: nano(at + to),
      attributes,
      status: { code: 1 },
    });
    const spans = [
      span('site.suspected', 0, 12, [
        flag('evergreen.incident', true),
        text('evergreen.incident.title', `Data center ${site} is lost`),
        text('evergreen.problem.severity', 'fatal'),
        text('evergreen.site', site),
      ]),
      span('lease.revoke', 15, 5210),
      span('map.commit', 5220, 5390, [text('evergreen.epoch', 8)]),
      span('route.update', 5400, 5610),
    ];
    if (verdict) spans.push(span('failback', 41_000, 46_300), span('incident.close', 46_310, 46_316, [text('evergreen.incident.verdict', verdict)]));
    await this.trace(spans, 'evergreen-controller', seenBy);
    return traceId;
  }

  /** Everything the pictures need. */
  async story() {
    await this.history();
    const now = Date.now();
    const [a2, b1, b3] = [this.nodes[1], this.nodes.find((n) => n.site === 'dc-b'), this.nodes.filter((n) => n.site === 'dc-b')[2]];
    const hung = ['INFO: task jbd2/vda1-8:312 blocked for more than 120 seconds.', '      Not tainted 6.1.0-28-amd64 #1', '"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.'];
    await this.nodeIncident({ at: now - 52 * 60_000, site: 'dc-a', node: a2.name, kind: 'HungTask', severity: 'degraded', title: `Hung task on ${a2.name}`, evidence: hung });
    await this.siteIncident({ at: now - 41 * 60_000, site: 'dc-c', seenBy: 'dc-a' });
    await this.nodeIncident({ at: now - 33 * 60_000, site: 'dc-c', node: 'dc-c-n1', kind: 'ThermalThrottling', severity: 'warning', title: 'CPU throttled by heat on dc-c-n1', evidence: ['mce: CPU3: Core temperature above threshold, cpu clock throttled'], verdict: 'observed' });
    await this.nodeIncident({ at: now - 21 * 60_000, site: 'dc-b', node: b3.name, kind: 'FilesystemReadOnly', severity: 'fatal', title: `Root file system read-only on ${b3.name}`, evidence: ['EXT4-fs (vda1): Remounting filesystem read-only'], verdict: 'failed' });
    this.problems.set(b3.name, [['FilesystemReadOnly', 'fatal', 'EXT4-fs (vda1): Remounting filesystem read-only']]);
    this.problems.set(b1.name, [['MemoryHardwareError', 'degraded', '12 corrected memory errors in DIMM_A2 within an hour'], ['DiskPressurePredicted', 'warning', '/var/lib fills up in about 5 hours']]);
    const at = (minutes) => new Date(now + minutes * 60_000).toISOString().replace(/\.\d+Z/, 'Z');
    this.predictions.set(b1.name, [
      { expected: Math.round(now / 1000) + 5 * 3600, basis: 'timeToLimit', kind: 'DiskPressurePredicted', subject: '/var/lib', summary: '/var/lib will be full', method: 'median slope and spread of block maxima over 17 h, 90 % interval', made: at(-90), earliest: at(270), latest: at(340), evidence: '812.4 GiB of 900.0 GiB used\ngrows by 17.5 GiB an hour over the last 17 h (16 points)', series: 'fs./var/lib.used_bytes', from: at(-1020), to: at(-4), count: 6096 },
      { expected: 0, basis: 'errorTrend', kind: 'MemoryHardwareError', subject: 'mc0', summary: 'corrected memory errors of mc0 become more', method: 'binomial test of 6 h against 7 d, by minutes with errors', made: at(-40), evidence: 'minutes with errors: 12 in the last 6 h, 2 in the 7 d before', series: 'edac.mc0.ce', from: at(-10440), to: at(-40), count: 10440 },
    ]);
    this.problems.set(a2.name, [['ClockUnsynchronized', 'warning', 'clock has no source for 9 minutes']]);
    const open = await this.nodeIncident({ at: now - 3400, site: 'dc-b', node: b1.name, kind: 'MemoryHardwareError', severity: 'degraded', title: `Memory errors on ${b1.name}`, evidence: ['EDAC MC0: 12 CE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0'], verdict: null });
    await this.tick();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await this.tick();
    return { open };
  }
}

if (import.meta.url === `file://${process.argv[1]}`) {
  const option = (name, fallback) => {
    const at = process.argv.indexOf(name);
    return at > 0 ? Number(process.argv[at + 1]) : fallback;
  };
  const feed = new Feed(process.argv[2] ?? 'http://127.0.0.1:4318', { nodes: option('--nodes', 4) });
  await feed.story();
  const end = Date.now() + option('--live', 0) * 1000;
  while (Date.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await feed.tick();
  }
}
