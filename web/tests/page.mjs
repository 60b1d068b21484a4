// A real Chromium for tests and pictures, with nothing of its own to do on the network.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-default-apps',
  '--disable-features=OptimizationHints,MediaRouter,Translate',
];

/** Opens Chromium (EVERGREEN_CHROMIUM, or /usr/bin/chromium) with a fresh profile; close() removes it. */
export async function openBrowser({ locale, width = 1360, height = 900, dark = false, scale = 1 } = {}) {
  const profile = await mkdtemp(join(tmpdir(), 'evergreen-browser-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.EVERGREEN_CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: ARGS,
    locale,
    timezoneId: 'Asia/Shanghai',
    viewport: { width, height },
    deviceScaleFactor: scale,
    colorScheme: dark ? 'dark' : 'light',
  });
  return {
    context,
    page: context.pages()[0] ?? (await context.newPage()),
    close: async () => {
      await context.close();
      await rm(profile, { recursive: true, force: true });
    },
  };
}
