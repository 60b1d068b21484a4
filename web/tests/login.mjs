// People in a real Chromium: logging in at a real OpenID Connect provider and by token, roles, scopes, logging out.
//   node tests/login.mjs          starts ../target/debug/evergreen-plane and a provider, both on loopback
// Exit codes: 0 all well, 1 a check failed, 3 no plane or no Chromium.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Provider } from 'oidc-provider';
import { Feed } from './feed.mjs';
import { check, open, startPlane, verdict, withoutBarriers } from './plane.mjs';

const GROUPS = { li: ['sre'], wu: ['sre', 'audit'], ma: ['shop'] };
const SECRET = 'a secret of the test';

async function listen(server) {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server.address().port;
}

/** A port that is free now. */
async function freePort() {
  const server = createServer();
  const port = await listen(server);
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A provider that believes every password. */
async function startProvider(redirect) {
  let handle;
  const server = createServer((request, response) => handle(request, response));
  const issuer = `http://127.0.0.1:${await listen(server)}`;
  const provider = new Provider(issuer, {
    clients: [{ client_id: 'evergreen', client_secret: SECRET, redirect_uris: [redirect] }],
    claims: { openid: ['sub'], profile: ['groups'], email: ['email', 'email_verified'] },
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    features: { devInteractions: { enabled: true } },
    findAccount: async (_, sub) => ({
      accountId: sub,
      claims: async () => ({ sub, email: `${sub}@bank.example`, email_verified: true, groups: GROUPS[sub] ?? [] }),
    }),
  });
  handle = provider.callback();
  return { issuer, stop: () => new Promise((resolve) => server.close(resolve).closeAllConnections()) };
}

async function logInAtProvider(page, name) {
  await page.getByRole('link', { name: 'Log in at the provider' }).click();
  await page.locator('input[name=login]').fill(name);
  await page.locator('input[name=password]').fill('any');
  await page.locator('button[type=submit]').click();
  await page.getByRole('button', { name: 'Continue' }).click();
}

const hash = (text) => createHash('sha256').update(text).digest('hex');
const directory = await mkdtemp(join(tmpdir(), 'evergreen-access-'));
const port = await freePort();
const base = `http://127.0.0.1:${port}`;
const provider = await startProvider(`${base}/api/v1/login/oidc/callback`);
const access = join(directory, 'access.json');
await writeFile(join(directory, 'secret'), `${SECRET}\n`);
await writeFile(
  access,
  JSON.stringify({
    publicUrl: base,
    oidc: { issuer: provider.issuer, clientId: 'evergreen', clientSecretFile: join(directory, 'secret') },
    people: [
      { group: 'sre', role: 'operator', sites: ['dc-b'] },
      { group: 'audit', role: 'auditor' },
    ],
    tokens: [
      { name: 'chen', role: 'auditor', sha256: hash('auditor') },
      { name: 'root', role: 'admin', sha256: hash('admin') },
    ],
    breakGlass: { name: 'night', sha256: hash('hammer') },
  }),
);
const plane = await startPlane(['--access', access], `127.0.0.1:${port}`);

try {
  const feed = new Feed(plane.otlp);
  const { open: incident } = await feed.story();
  const url = `${plane.web}/#/incidents/${incident}`;

  await check('who is not logged in sees the login and nothing else, without barriers', async () => {
    for (const [options, word] of [
      [{ locale: 'en-GB' }, 'Log in'],
      [{ locale: 'zh-CN', dark: true, width: 390, height: 844 }, '登录'],
    ]) {
      const { page, wrong, close } = await open(plane.web, options);
      await page.goto(plane.web);
      await page.getByRole('heading', { name: word }).waitFor();
      assert.equal(await page.locator('[data-node]').count(), 0);
      await withoutBarriers(page, 'login');
      await close();
      assert.deepEqual(wrong, []);
    }
  });

  await check('an operator logs in at the provider, sees their data center, takes on an incident, logs out', async () => {
    const { page, close } = await open(plane.web, { locale: 'en-GB' });
    await page.goto(plane.web);
    await logInAtProvider(page, 'li');
    await page.getByText('li@bank.example').waitFor();
    await page.locator('[data-node="dc-b-n1"]').first().waitFor();
    assert.equal(await page.locator('[data-node="dc-a-n1"]').count(), 0, 'outside of the scope');
    await page.goto(url);
    page.once('dialog', (dialog) => dialog.accept('on it'));
    await page.getByRole('button', { name: 'Take it on' }).click();
    await page.getByText('li@bank.example took it on').waitFor();
    const cookies = await page.context().cookies();
    assert.ok(cookies.find((c) => c.name === 'evergreen')?.httpOnly);
    await page.getByRole('button', { name: /Log out/ }).click();
    await page.getByRole('heading', { name: 'Log in' }).waitFor();
    await close();
  });

  await check('roles that must be apart, and people without a role, are refused with the reason', async () => {
    for (const [name, reason] of [['wu', 'must not be one person'], ['ma', 'has no role here']]) {
      const { page, close } = await open(plane.web, { locale: 'en-GB' });
      await page.goto(plane.web);
      await logInAtProvider(page, name);
      await page.getByRole('alert').getByText(reason).waitFor();
      await close();
    }
  });

  await check('a wrong token is refused, an auditor reads what happened, an admin ends the session', async () => {
    const { page, close } = await open(plane.web, { locale: 'en-GB' });
    await page.goto(plane.web);
    await page.getByLabel('Token').fill('guess');
    await page.keyboard.press('Enter');
    await page.getByRole('alert').getByText('nobody bears this token').waitFor();
    await page.getByLabel('Token').fill('auditor');
    await page.keyboard.press('Enter');
    await page.getByRole('link', { name: 'People' }).click();
    const log = page.locator('[data-audit]');
    await log.getByText('The chain is whole').waitFor();
    await log.getByText('took on an incident').waitFor();
    assert.equal(await page.locator('[data-sessions]').count(), 0);
    await withoutBarriers(page, 'audit');

    const admin = await open(plane.web, { locale: 'zh-CN', dark: true });
    await admin.page.goto(plane.web);
    await admin.page.getByLabel('令牌').fill('admin');
    await admin.page.keyboard.press('Enter');
    await admin.page.getByRole('link', { name: '人员' }).click();
    const row = admin.page.locator('[data-sessions] tr', { hasText: 'chen' });
    admin.page.once('dialog', (dialog) => dialog.accept());
    await row.getByRole('button').click();
    await row.waitFor({ state: 'detached' });
    await withoutBarriers(admin.page, 'sessions');
    assert.equal(await admin.page.locator('[data-audit]').count(), 0, 'an admin does not read the audit log');
    await page.goto(`${plane.web}/#/energy`);
    await page.reload();
    await page.getByRole('heading', { name: 'Log in' }).waitFor();
    await admin.close();
    await close();
  });

  await check('breaking the glass works without the provider and is told to everybody', async () => {
    await provider.stop();
    const { page, close } = await open(plane.web, { locale: 'en-GB' });
    await page.goto(plane.web);
    await page.getByLabel('Token').fill('hammer');
    await page.keyboard.press('Enter');
    await page.locator('[data-node]').first().waitFor();
    await page.getByText('The break-glass identity is in use.').waitFor();
    await close();
  });
} finally {
  await plane.stop();
  await provider.stop().catch(() => {});
  await rm(directory, { recursive: true, force: true });
}
verdict();
