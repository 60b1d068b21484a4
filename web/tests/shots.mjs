// Pictures of every view, for looking at: node tests/shots.mjs http://127.0.0.1:8080 DIRECTORY

import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { openBrowser } from './page.mjs';

const [base = 'http://127.0.0.1:8080', directory = 'shots'] = process.argv.slice(2);
await mkdir(directory, { recursive: true });

const looks = [
  { name: 'en', locale: 'en-GB' },
  { name: 'zh', locale: 'zh-CN' },
  { name: 'zh-dark', locale: 'zh-CN', dark: true },
  { name: 'en-dark', locale: 'en-GB', dark: true },
  { name: 'phone', locale: 'zh-CN', width: 390, height: 844, scale: 2 },
];

for (const look of looks) {
  const browser = await openBrowser(look);
  const { page } = browser;
  const shot = async (name) => {
    await page.waitForTimeout(500);
    await page.screenshot({ path: join(directory, `${look.name}-${name}.png`), fullPage: true });
  };
  await page.goto(base);
  await page.locator('[data-node]').first().waitFor();
  await shot('fleet');
  await page.locator('[data-node]').nth(1).click();
  await page.locator('aside').waitFor();
  await page.waitForTimeout(600);
  await shot('node');
  await page.goto(`${base}/#/incidents`);
  await page.locator('tbody tr').first().waitFor();
  await shot('incidents');
  const healed = await (await fetch(`${base}/api/v1/incidents?state=healed`)).json();
  await page.goto(`${base}/#/incidents/${healed.incidents.at(-1)?.trace_id}`);
  await page.locator('[data-span]').first().waitFor();
  await page.locator('[data-span="problem.detected"]').click();
  await shot('incident');
  await page.goto(`${base}/#/energy`);
  await page.locator('tbody tr').first().waitFor();
  await shot('energy');
  await page.goto(`${base}/#/energy?by=namespace`);
  await page.locator('td.key', { hasText: 'shop' }).waitFor();
  await shot('energy-namespace');
  await browser.close();
}
