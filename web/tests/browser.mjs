// The page in a real Chromium: every view in both languages, with and without data, with no error on the console and
// no request to anyone but the plane.
//   node tests/browser.mjs                                        starts ../target/debug/evergreen-plane itself
//   node tests/browser.mjs http://127.0.0.1:8080 [http://127.0.0.1:4318]   looks at a running plane; feeds it when told where
// Exit codes: 0 all well, 1 a check failed, 3 no plane or no Chromium.

import assert from 'node:assert/strict';
import { Feed } from './feed.mjs';
import { check, open, startPlane, verdict, withoutBarriers } from './plane.mjs';

async function withoutSideways(page, where) {
  const [content, room] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(content <= room, `${where} is ${content} px wide in ${room} px`);
}

const [givenWeb, givenOtlp] = process.argv.slice(2);
const plane = givenWeb ? { web: givenWeb.replace(/\/$/, ''), otlp: givenOtlp, stop: async () => {} } : await startPlane();
const words = {
  'en-GB': { lang: 'en', fleet: 'Fleet', incidents: 'Incidents', energy: 'Energy', total: 'Total', other: '中文', empty: 'No data center is heard yet' },
  'zh-CN': { lang: 'zh-CN', fleet: '全局', incidents: '事件', energy: '能耗', total: '合计', other: 'English', empty: '尚未收到任何数据中心的上报' },
};

try {
  if (!givenWeb) {
    await check('an empty plane says what to do, in both languages', async () => {
      for (const [locale, word] of Object.entries(words)) {
        const { page, wrong, close } = await open(plane.web, { locale });
        await page.goto(plane.web);
        await page.getByText(word.empty).waitFor();
        for (const view of ['incidents', 'energy', 'network']) {
          await page.goto(`${plane.web}/#/${view}`);
          await page.locator('.notice').waitFor();
        }
        await close();
        assert.deepEqual(wrong, []);
      }
    });
  }

  const feed = plane.otlp ? new Feed(plane.otlp) : undefined;
  if (feed) await feed.story();
  const heartbeat = feed ? setInterval(() => feed.tick().catch(() => {}), 1000) : undefined;
  const known = await (await fetch(`${plane.web}/api/v1/incidents`)).json();

  for (const [locale, word] of Object.entries(words)) {
    await check(`every view renders in ${locale}`, async () => {
      const { page, wrong, close } = await open(plane.web, { locale });
      await page.goto(plane.web);
      await page.getByRole('link', { name: word.fleet, exact: true }).waitFor();
      assert.equal(await page.locator('html').getAttribute('lang'), word.lang);
      await page.locator('[data-node]').first().waitFor();
      await page.locator('[data-node]').first().click();
      await page.locator('aside').waitFor();
      await page.locator('aside canvas').first().waitFor();
      await page.keyboard.press('Escape');
      await page.locator('aside').waitFor({ state: 'detached' });

      await page.keyboard.press('2');
      await page.getByRole('heading', { name: word.incidents, exact: true }).waitFor();
      await page.locator('tbody tr').first().waitFor();
      assert.equal(await page.locator('tbody tr').count(), known.incidents.length);
      await page.locator('tbody tr a').last().click();
      await page.locator('[data-span]').first().waitFor();
      await page.locator('[data-span]').first().click();
      await page.locator('.detail').waitFor();

      await page.keyboard.press('3');
      await page.getByRole('heading', { name: word.energy, exact: true }).waitFor();
      await page.locator('figure canvas').first().waitFor();
      await page.locator('tfoot').getByText(word.total).waitFor();
      await close();
      assert.deepEqual(wrong, []);
    });
  }

  await check('language and theme are switched and remembered', async () => {
    const { page, wrong, close } = await open(plane.web, { locale: 'en-GB' });
    await page.goto(plane.web);
    await page.getByRole('button', { name: 'Language' }).click();
    await page.getByRole('link', { name: '全局', exact: true }).waitFor();
    await page.getByRole('button', { name: /外观/ }).click();
    await page.getByRole('button', { name: /外观/ }).click();
    assert.equal(await page.locator('html').getAttribute('data-theme'), 'dark');
    await page.reload();
    await page.getByRole('link', { name: '全局', exact: true }).waitFor();
    assert.equal(await page.locator('html').getAttribute('data-theme'), 'dark');
    await close();
    assert.deepEqual(wrong, []);
  });

  await check('nothing scrolls sideways at the width of a phone', async () => {
    const { page, wrong, close } = await open(plane.web, { locale: 'zh-CN', width: 390, height: 844 });
    await page.goto(plane.web);
    await page.locator('[data-node]').first().waitFor();
    await withoutSideways(page, 'fleet');
    await page.goto(`${plane.web}/#/incidents`);
    await page.locator('tbody tr').first().waitFor();
    await withoutSideways(page, 'incidents');
    await page.goto(`${plane.web}/#/incidents/${known.incidents.at(-1).trace_id}`);
    await page.locator('[data-span]').first().waitFor();
    await withoutSideways(page, 'incident');
    await page.goto(`${plane.web}/#/energy`);
    await page.locator('tbody tr').first().waitFor();
    await withoutSideways(page, 'energy');
    await close();
    assert.deepEqual(wrong, []);
  });

  if (feed) {
    for (const [locale, says] of Object.entries({
      'en-GB': ['Predictions', 'Fills up', /in about 4 h 5\d min|in about 5 h/, 'Nothing is to be expected.'],
      'zh-CN': ['预测', '即将耗尽', /约 4 h 5\d min 后|约 5 h 后/, '没有预测到的风险。'],
    })) {
      await check(`predictions are listed with their times, on the fleet and beside the node, in ${locale}`, async () => {
        const { page, wrong, close } = await open(plane.web, { locale });
        await page.goto(plane.web);
        const board = page.locator('[data-predictions]');
        await board.getByRole('heading', { name: says[0] }).waitFor();
        const disk = board.locator('[data-prediction="/var/lib"]');
        await disk.getByText(says[1]).waitFor();
        assert.match(await disk.innerText(), says[2]);
        await board.locator('[data-prediction]').first().locator('summary').click();
        await board.getByText('6,096').waitFor();
        const told = await (await fetch(`${plane.web}/api/v1/predictions`)).json();
        assert.equal(await board.locator('[data-prediction]').count(), told.predictions.length);
        assert.equal(told.predictions[0].samples.series, 'fs./var/lib.used_bytes');
        await disk.getByRole('link', { name: 'dc-b-n1' }).click();
        await page.locator('aside [data-prediction="mc0"]').waitFor();
        await page.goto(`${plane.web}/#/fleet/dc-a/dc-a-n1`);
        await page.locator('aside').getByText(says[3]).waitFor();
        await close();
        assert.deepEqual(wrong, []);
      });
    }

    await check('a prediction that is withdrawn goes from the page without a reload', async () => {
      const { page, wrong, close } = await open(plane.web, { locale: 'en-GB' });
      await page.goto(plane.web);
      await page.locator('[data-prediction="/var/lib"]').waitFor();
      feed.predictions.clear();
      await page.getByText('No node expects trouble.').waitFor();
      await close();
      assert.deepEqual(wrong, []);
    });

    await check('a new incident appears and closes without a reload', async () => {
      const { page, wrong, close } = await open(plane.web, { locale: 'en-GB' });
      await page.goto(`${plane.web}/#/incidents`);
      await page.locator('tbody tr').first().waitFor();
      await feed.nodeIncident({ at: Date.now() - 9700, site: 'dc-a', node: 'dc-a-n1', kind: 'SoftLockup', severity: 'fatal', title: 'Soft lockup while looking', evidence: ['watchdog: BUG: soft lockup - CPU#2 stuck for 22s!'] });
      const row = page.locator('tbody tr', { hasText: 'Soft lockup while looking' });
      await row.waitFor();
      await row.getByText('Healed').waitFor();
      await close();
      assert.deepEqual(wrong, []);
    });
  }

  await check('a wrong incident says that it is not here', async () => {
    const { page, wrong, close } = await open(plane.web, { locale: 'en-GB' });
    await page.goto(`${plane.web}/#/incidents/00000000000000000000000000000001`);
    await page.getByText('This incident is not here').waitFor();
    await close();
    // The browser itself reports the 404 on the console.
    assert.deepEqual(wrong.filter((w) => !w.includes('404')), []);
  });

  clearInterval(heartbeat);
  if (!givenWeb) {
    await check('a plane that goes away is told, and what was shown stays', async () => {
      const { page, close } = await open(plane.web, { locale: 'en-GB' });
      await page.goto(plane.web);
      await page.locator('[data-node]').first().waitFor();
      await plane.stop();
      await page.getByRole('alert').waitFor();
      assert.ok((await page.locator('[data-node]').count()) > 0);
      await close();
    });
  }
} finally {
  await plane.stop();
}
verdict();
