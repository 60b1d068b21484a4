// A plane of the tests' own, a page that remembers what went wrong on it, and an accessibility check.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { openBrowser } from './page.mjs';

export const LIMIT = 15_000;
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** A plane of our own on free ports; stopped by its process id. `more` are further flags. */
export async function startPlane(more = [], webListen = '127.0.0.1:0') {
  const binary = process.env.EVERGREEN_PLANE ?? fileURLToPath(new URL('../../target/debug/evergreen-plane', import.meta.url));
  if (!existsSync(binary)) {
    console.error(`no plane at ${binary}: build it (cargo build -p evergreen-plane), or give the URL of a running one`);
    process.exit(3);
  }
  const directory = await mkdtemp(join(tmpdir(), 'evergreen-plane-'));
  const child = spawn(
    binary,
    ['--grpc-listen', '127.0.0.1:0', '--http-listen', '127.0.0.1:0', '--web-listen', webListen, '--log-format', 'json', '--data-dir', directory, ...more],
    { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, RUST_LOG: 'info' } },
  );
  const said = await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('the plane did not start in 15 s')), LIMIT);
    child.on('exit', (code) => reject(new Error(`the plane ended with ${code}`)));
    createInterface({ input: child.stderr }).on('line', (line) => {
      try {
        const parsed = JSON.parse(line);
        if (parsed.message === 'listening') {
          clearTimeout(timer);
          resolve(parsed);
        }
      } catch {
        reject(new Error(line));
      }
    });
  });
  return {
    web: `http://${said.web}`,
    otlp: `http://${said.http}`,
    directory,
    stop: async () => {
      if (child.exitCode !== null) return;
      const ended = new Promise((resolve) => child.removeAllListeners('exit').on('exit', resolve));
      child.kill('SIGTERM');
      await ended;
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** A page that remembers what should not have happened on it. */
export async function open(base, options) {
  const browser = await openBrowser(options);
  const { page } = browser;
  page.setDefaultTimeout(LIMIT);
  const wrong = [];
  const origin = new URL(base).origin;
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') wrong.push(`console: ${message.text()}`);
  });
  page.on('pageerror', (error) => wrong.push(`exception: ${error.message}`));
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (url.protocol.startsWith('http') && url.origin !== origin) wrong.push(`foreign request: ${url}`);
  });
  return { ...browser, wrong };
}

/** What axe-core finds against WCAG 2.1 A and AA, as `rule: element`. */
export async function withoutBarriers(page, where) {
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'];
    const { violations } = await globalThis.axe.run(document, { runOnly: tags, resultTypes: ['violations'] });
    return violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.html.slice(0, 140)} ${n.any[0]?.message ?? ''}`));
  });
  assert.deepEqual(found, [], where);
}

let passed = 0;

/** Runs one check and says how it went. */
export async function check(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok   ${name}`);
  } catch (error) {
    console.log(`FAIL ${name}\n${error.stack ?? error}`);
    process.exitCode = 1;
  }
}

/** The last line of a run. */
export function verdict() {
  console.log(process.exitCode ? 'the page has faults' : `${passed} checks passed`);
}
