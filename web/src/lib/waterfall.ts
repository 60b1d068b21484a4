// The order of a waterfall: parents before children, children by start; a span whose parent is missing stands at the top.

import type { Span } from './api';

export interface Row {
  span: Span;
  depth: number;
  orphan: boolean;
}

export function waterfall(spans: Span[]): Row[] {
  const known = new Set(spans.map((s) => s.span_id));
  const children = new Map<string, Span[]>();
  const tops: Span[] = [];
  for (const span of spans) {
    const parent = span.parent_span_id;
    if (parent && parent !== span.span_id && known.has(parent)) {
      const siblings = children.get(parent);
      if (siblings) siblings.push(span);
      else children.set(parent, [span]);
    } else tops.push(span);
  }
  const byStart = (a: Span, b: Span) => a.start_ms_offset - b.start_ms_offset || b.duration_ms - a.duration_ms;
  const rows: Row[] = [];
  const seen = new Set<string>();
  const walk = (span: Span, depth: number) => {
    if (seen.has(span.span_id)) return;
    seen.add(span.span_id);
    rows.push({ span, depth, orphan: depth === 0 && span.parent_span_id !== null });
    for (const child of (children.get(span.span_id) ?? []).sort(byStart)) walk(child, depth + 1);
  };
  for (const top of tops.sort(byStart)) walk(top, 0);
  // Spans that are each other's parents are reached by nobody; show them all the same.
  for (const span of spans) walk(span, 0);
  return rows;
}

/** Round marks for an axis of this length. */
export function marks(lengthMs: number, most = 6): number[] {
  if (lengthMs <= 0) return [0];
  const rough = lengthMs / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const seconds = [1, 2, 5, 10].map((n) => n * power);
  const minutes = [60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000, 7_200_000, 21_600_000, 86_400_000];
  const step = rough > 30_000 ? (minutes.find((n) => n >= rough) ?? rough) : (seconds.find((n) => n >= rough) ?? rough);
  const all: number[] = [];
  for (let at = 0; at <= lengthMs; at += step) all.push(at);
  return all;
}
