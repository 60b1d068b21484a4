// The plane's JSON API: its shapes, and one way to ask with a time limit and readable errors.

export type NodeStatus = 'ok' | 'info' | 'warning' | 'degraded' | 'fatal' | 'gone';
export type Provenance = 'measured' | 'calibrated' | 'estimated';

export interface Problem {
  kind: string;
  severity: string;
  summary: string;
}

export type Basis = 'timeToLimit' | 'errorTrend' | 'anomaly';

export interface Prediction {
  kind: string;
  basis: Basis | string;
  subject: string;
  summary: string;
  method: string;
  made: string | null;
  expected: string | null;
  earliest: string | null;
  latest: string | null;
  evidence: string[];
  samples: { series: string; from: string | null; to: string | null; count: number | null };
}

export interface FleetNode {
  name: string;
  status: NodeStatus;
  last_seen: string;
  cpu: number | null;
  memory: number | null;
  power_w: number | null;
  energy_source: string | null;
  provenance: Provenance | null;
  problems: Problem[];
  predictions: Prediction[];
}

export interface Site {
  name: string;
  in_quorum: boolean | null;
  epoch: number | null;
  lease_remaining_ms: number | null;
  controller_last_seen: string | null;
  power_w: number | null;
  energy_kwh: number | null;
  nodes: FleetNode[];
}

export interface Group {
  group: string;
  holders: { site: string; epoch: number | null }[];
}

export interface Fleet {
  generated_at: string;
  sites: Site[];
  groups: Group[];
}

export type IncidentState = 'open' | 'healed' | 'failed' | 'observed' | 'rolled_back';

export interface Incident {
  trace_id: string;
  title: string;
  severity: string | null;
  site: string | null;
  node: string | null;
  kind: string;
  state: IncidentState;
  started_at: string;
  detected_at: string;
  ended_at: string | null;
  duration_ms: number | null;
  span_count: number;
  acknowledged: { by: string; at: string; note: string }[];
}

export type Attributes = Record<string, unknown>;

export interface Span {
  span_id: string;
  parent_span_id: string | null;
  name: string;
  service: string;
  site: string | null;
  node: string | null;
  start: string;
  end: string;
  start_ms_offset: number;
  duration_ms: number;
  status: 'unset' | 'ok' | 'error';
  status_message: string;
  attributes: Attributes;
  events: { name: string; time: string; offset_ms: number; attributes: Attributes }[];
}

export interface LogLine {
  time: string;
  severity: number;
  service: string;
  site: string | null;
  node: string | null;
  body: string;
  attributes: Attributes;
  span_id: string | null;
}

export interface IncidentDetail extends Incident {
  spans: Span[];
  logs: LogLine[];
}

export type EnergyBy = 'site' | 'node' | 'namespace' | 'pod';

export interface EnergyFigures {
  microjoules: number;
  measured_microjoules: number;
  calibrated_microjoules: number;
  estimated_microjoules: number;
  idle_microjoules?: number;
  first_sample: string | null;
  last_sample: string | null;
  gap_ms: number;
}

export interface EnergyRow extends EnergyFigures {
  key: string;
  site?: string;
}

export interface EnergyReport {
  from: string;
  to: string;
  by: EnergyBy;
  rows: EnergyRow[];
  total: EnergyFigures;
}

export interface PowerSeries {
  from: string;
  to: string;
  step_ms: number;
  series: { key: string; points: [number, number][] }[];
}

export interface MetricSeries {
  series: { labels: Record<string, string>; unit: string; points: [number, number | null][] }[];
  truncated: boolean;
}

export interface MeshBetween {
  from: string;
  to: string;
  paths: number;
  loss: number;
  late: number;
  worst: number;
  rtt_ms: number | null;
  rtt_p99_ms: number | null;
}

export interface MeshPath {
  from: string;
  to: string;
  scope: string;
  loss: number;
  late: number;
  rtt_ms: number | null;
  rtt_p99_ms: number | null;
  mtu: number | null;
}

export interface Mesh {
  generated_at: string;
  sites: string[];
  between: MeshBetween[];
  faults: { site: string; kind: string; subject: string }[];
  paths: MeshPath[];
  truncated: boolean;
}

/** Words in both languages. */
export interface Words {
  en: string;
  zh: string;
}

export interface GreenFigure {
  id: string;
  label: Words;
  value: string | null;
  unit: string;
  year?: string;
  basis?: Words;
  source?: string;
  absent?: Words;
}

export interface GreenSite {
  name: string;
  figures?: {
    it_kwh: string;
    sections: { id: string; title: Words; figures: GreenFigure[] }[];
    pue_over_time: { from: string; to: string; pue: string; impossible: boolean }[];
    notes: Words[];
  };
  error?: [string, string];
}

export interface Green {
  from: string;
  to: string;
  time_zone: string;
  facts: boolean;
  sites: GreenSite[];
}

/** An answer that is no, or none at all (`status` 0). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly remedy: string,
  ) {
    super(message);
  }
}

/** Longest wait for an answer; the plane itself gives up on a query after ten seconds. */
const LIMIT_MS = 30_000;

/** Told when an answer says that nobody is logged in any more. */
export const loginNeeded = new EventTarget();

async function failure(response: Response): Promise<ApiError> {
  if (response.status === 401) loginNeeded.dispatchEvent(new Event('needed'));
  const body = (await response.json().catch(() => null)) as { error?: { message?: string; remedy?: string } } | null;
  return new ApiError(response.status, body?.error?.message ?? `HTTP ${response.status}`, body?.error?.remedy ?? '');
}

/** A request that changes something; `csrf` shows that it comes from this page. */
export async function send(method: 'POST' | 'DELETE', path: string, csrf: string, body?: unknown): Promise<void> {
  let response: Response;
  try {
    response = await fetch(`/api/v1/${path}`, {
      method,
      signal: AbortSignal.timeout(LIMIT_MS),
      headers: { 'x-evergreen-csrf': csrf, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  } catch {
    throw new ApiError(0, '', '');
  }
  if (!response.ok) throw await failure(response);
}

async function ask<T>(path: string, params: Record<string, string | undefined>, signal?: AbortSignal): Promise<T> {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params)) if (value) query.set(key, value);
  const limit = AbortSignal.timeout(LIMIT_MS);
  let response: Response;
  try {
    response = await fetch(`/api/v1/${path}${query.size ? `?${query}` : ''}`, {
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
      headers: { accept: 'application/json' },
    });
  } catch (cause) {
    if (signal?.aborted) throw cause;
    throw new ApiError(0, '', '');
  }
  if (response.ok) return (await response.json()) as T;
  throw await failure(response);
}

export interface AuditRecord {
  seq: number;
  at: string;
  kind: string;
  body: Record<string, unknown>;
  hash: string;
}

export interface SessionRow {
  id: string;
  name: string;
  via: string;
  began_at: string;
  expires_in_s: number;
  grants: { role: string; sites: string[] | null; namespaces: string[] | null }[];
}

export const api = {
  audit: (before?: number, signal?: AbortSignal) =>
    ask<{ records: AuditRecord[]; next: number | null; chain_holds: boolean }>('audit', { before: before?.toString() }, signal),
  sessions: (signal?: AbortSignal) => ask<{ sessions: SessionRow[] }>('sessions', {}, signal),
  mesh: (from: string | undefined, to: string | undefined, signal?: AbortSignal) =>
    ask<Mesh>('mesh', from && to ? { from, to } : {}, signal),
  fleet: (signal?: AbortSignal) => ask<Fleet>('fleet', {}, signal),
  incidents: (state: string | undefined, limit: number, signal?: AbortSignal, before?: string) =>
    ask<{ incidents: Incident[]; next: string | null; counts: Partial<Record<IncidentState, number>> }>('incidents', { state, limit: String(limit), before }, signal),
  incident: (id: string, signal?: AbortSignal) => ask<IncidentDetail>(`incidents/${encodeURIComponent(id)}`, {}, signal),
  energy: (from: number, to: number, by: EnergyBy, signal?: AbortSignal) =>
    ask<EnergyReport>('energy', { from: iso(from), to: iso(to), by }, signal),
  green: (from: number, to: number, zone: string, signal?: AbortSignal) =>
    ask<Green>('energy/green', { from: iso(from), to: iso(to), zone }, signal),
  power: (from: number, to: number, signal?: AbortSignal) =>
    ask<PowerSeries>('energy/series', { from: iso(from), to: iso(to), by: 'site' }, signal),
  metric: (name: string, from: number, to: number, site: string, node: string, signal?: AbortSignal) =>
    ask<MetricSeries>('metrics/series', { name, from: iso(from), to: iso(to), site, node }, signal),
};

export function energyUrl(from: number, to: number, by: EnergyBy): string {
  return `/api/v1/energy?${new URLSearchParams({ from: iso(from), to: iso(to), by })}`;
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}
