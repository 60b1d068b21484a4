// Numbers and times as people read them. Figures keep their unit and never pretend to more digits than they have.

import { locale, t } from './i18n.svelte';

const EM = '–';

function number(value: number, digits: number): string {
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);
}

/** Three significant digits. */
function three(value: number): string {
  const size = Math.abs(value);
  return number(value, size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

export function watts(value: number | null | undefined): string {
  if (value === null || value === undefined) return EM;
  if (value >= 10_000) return `${three(value / 1000)} kW`;
  return `${number(value, value < 100 && value % 1 !== 0 ? 1 : 0)} W`;
}

/** Energy in the unit that shows three digits of it. */
export function energy(microjoules: number): string {
  const wh = microjoules / 3.6e9;
  if (wh >= 1e6) return `${three(wh / 1e6)} MWh`;
  if (wh >= 1000) return `${three(wh / 1000)} kWh`;
  if (microjoules === 0) return '0 Wh';
  if (wh >= 0.01) return `${three(wh)} Wh`;
  return `${three(microjoules / 1e6)} J`;
}

export function kwh(value: number | null): string {
  return value === null ? EM : energy(value * 3.6e12);
}

export function percent(value: number | null | undefined, digits = 0): string {
  return value === null || value === undefined || !Number.isFinite(value) ? EM : `${number(value * 100, digits)} %`;
}

export function integer(value: number): string {
  return new Intl.NumberFormat(locale()).format(value);
}

export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return EM;
  if (ms === 0) return '0 ms';
  if (ms < 1) return `${number(ms, 2)} ms`;
  if (ms < 1000) return `${number(ms, 0)} ms`;
  if (ms < 60_000) return `${number(ms / 1000, ms < 10_000 ? 2 : 1)} s`;
  const s = Math.round(ms / 1000);
  const parts: [number, string][] = [
    [Math.floor(s / 86_400), 'd'],
    [Math.floor((s % 86_400) / 3600), 'h'],
    [Math.floor((s % 3600) / 60), 'min'],
    [s % 60, 's'],
  ];
  const first = parts.findIndex(([n]) => n > 0);
  return parts
    .slice(first, first + 2)
    .filter(([n]) => n > 0)
    .map(([n, unit]) => `${n} ${unit}`)
    .join(' ');
}

/** A duration that still runs, in whole seconds. */
export function elapsed(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  return s < 60 ? `${s} s` : duration(s * 1000);
}

/** A mark on a time axis: no digits that say nothing. */
export function mark(ms: number): string {
  if (ms === 0) return '0';
  if (ms >= 60_000) return duration(ms);
  const plain = (value: number) => new Intl.NumberFormat(locale(), { maximumFractionDigits: 3 }).format(value);
  return ms < 1000 ? `${plain(ms)} ms` : `${plain(ms / 1000)} s`;
}

export function ago(at: string, now: number): string {
  const ms = now - Date.parse(at);
  return ms < 2000 ? t('now') : t('ago', { t: elapsed(ms) });
}

/** Date and time to the second; the date only when it is not today. */
export function clock(at: string | number): string {
  const time = new Date(at);
  const today = time.toDateString() === new Date().toDateString();
  return new Intl.DateTimeFormat(locale(), {
    ...(today ? {} : { month: 'short', day: 'numeric' }),
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    hour12: false,
  }).format(time);
}

export function fullTime(at: string): string {
  return new Intl.DateTimeFormat(locale(), { dateStyle: 'medium', timeStyle: 'long', hour12: false }).format(new Date(at));
}
