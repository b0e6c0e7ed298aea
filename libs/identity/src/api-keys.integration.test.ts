import { randomBytes } from 'node:crypto';
import { sqlState } from '@signalbox/postgres/classify-error';
import { type Database, openDatabase, type Queryable } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { createApiKeys, newApiKey } from './api-keys.ts';
import { createKey, createTenant } from './create-key.ts';
import { authProbe } from './probe.ts';

let own: TestDatabase;
let database: Database;
const acme = newApiKey('dev');
const globex = newApiKey('dev');

beforeAll(async () => {
  own = await createTestDatabase();
  database = openDatabase({
    url: own.url,
    poolSize: 2,
    maxOverflow: 0,
    poolTimeoutMs: 2000,
    poolRecycleMs: 60_000,
    applicationName: 'identity-test',
    log: silentLog,
    metrics: silentMetrics,
  });
  await createTenant(own, 'acme', 'Acme');
  await createTenant(own, 'globex', 'Globex');
  await createKey(own, { tenant: 'acme', text: acme.text, name: 'one', scopes: ['chat'] });
  await createKey(own, { tenant: 'globex', text: globex.text, name: 'two' });
});
afterAll(async () => {
  await database.close();
  await own.drop();
});

const keys = (source: Queryable = database) => createApiKeys({ database: source, environment: 'dev' });
const withKey = (text: string) => ({ 'x-api-key': text });
const reason = (why: string) => ({ code: 'UNAUTHENTICATED', details: { reason: why } });
const otherSecret = (text: string) => `${text.slice(0, 20)}${randomBytes(24).toString('base64url')}`;

/** Counts what reaches the database. */
function counted(): { source: Queryable; calls: () => number } {
  const query = vi.fn((statement, values) => database.query(statement, values)) as Queryable['query'];
  return { source: { query }, calls: () => vi.mocked(query).mock.calls.length };
}

test('a key tells its tenant, by either header or both', async () => {
  const { authenticate } = keys();
  const identity = await authenticate(withKey(acme.text));
  expect(identity).toMatchObject({ tenant: 'acme', scopes: ['chat'] });
  expect(await authenticate({ authorization: `Bearer ${acme.text}` })).toEqual(identity);
  expect(await authenticate({ authorization: `bearer ${acme.text}`, ...withKey(acme.text) })).toEqual(
    identity,
  );
  expect(await authenticate(withKey(globex.text))).toMatchObject({ tenant: 'globex', scopes: [] });
});

test('a wrong secret, an unknown lookup id and another form are refused alike', async () => {
  const { authenticate } = keys();
  const wrong = await authenticate(withKey(otherSecret(acme.text))).catch((error: unknown) => error);
  const unknown = await authenticate(withKey(newApiKey('dev').text)).catch((error: unknown) => error);
  expect(wrong).toMatchObject(reason('unknown'));
  expect(unknown).toMatchObject(reason('unknown'));
  expect(String(wrong)).toBe(String(unknown));
  await expect(authenticate(withKey('sk_dev_short'))).rejects.toMatchObject(reason('malformed'));
  await expect(authenticate({})).rejects.toMatchObject(reason('missing'));
  await expect(authenticate({ authorization: 'Basic abc' })).rejects.toMatchObject(reason('malformed'));
  await expect(authenticate({ authorization: 'Bearer eyJhbGciOi.x.y' })).rejects.toMatchObject(reason('jwt'));
  await expect(
    authenticate({ authorization: `Bearer ${globex.text}`, ...withKey(acme.text) }),
  ).rejects.toMatchObject(reason('ambiguous'));
  await expect(authenticate({ 'x-api-key': [acme.text, globex.text] })).rejects.toMatchObject(
    reason('ambiguous'),
  );
});

test('a key of another environment is refused: a seeded one in prod', async () => {
  const prod = createApiKeys({ database, environment: 'prod' });
  await expect(prod.authenticate(withKey(acme.text))).rejects.toMatchObject(reason('environment'));
});

test('revoked, expired and disabled are refused, at the latest when the cache lets go', async () => {
  const [revoked, expired, disabled] = [newApiKey('dev'), newApiKey('dev'), newApiKey('dev')];
  await createTenant(own, 'closed', 'Closed');
  await createKey(own, { tenant: 'acme', text: revoked.text, name: 'r' });
  await createKey(own, { tenant: 'acme', text: expired.text, name: 'e', expiresAt: new Date(0) });
  await createKey(own, { tenant: 'closed', text: disabled.text, name: 'd' });
  await own.query(`UPDATE identity.tenants SET disabled_at = now() WHERE tenant = 'closed'`);
  let now = 0;
  const { authenticate } = createApiKeys({ database, environment: 'dev', now: () => now });
  await authenticate(withKey(revoked.text));
  await own.query('UPDATE identity.api_keys SET revoked_at = now() WHERE lookup = $1', [revoked.lookup]);
  now = 5001;
  await expect(authenticate(withKey(revoked.text))).rejects.toMatchObject(reason('revoked'));
  await expect(authenticate(withKey(expired.text))).rejects.toMatchObject(reason('expired'));
  await expect(authenticate(withKey(disabled.text))).rejects.toMatchObject(reason('disabled'));
  // A wrong secret of a revoked key learns nothing about it.
  await expect(authenticate(withKey(otherSecret(revoked.text)))).rejects.toMatchObject(reason('unknown'));
});

test('good and refused keys are remembered, equal questions asked once, and a flood stays bounded', async () => {
  const { source, calls } = counted();
  let now = 0;
  const { authenticate } = createApiKeys({
    database: source,
    environment: 'dev',
    now: () => now,
    maxCached: 10,
  });
  await Promise.all([1, 2, 3].map(() => authenticate(withKey(acme.text))));
  expect(calls()).toBe(1);
  const wrong = newApiKey('dev').text;
  for (let time = 0; time < 3; time += 1) await authenticate(withKey(wrong)).catch(() => undefined);
  expect(calls()).toBe(2);
  for (let time = 0; time < 30; time += 1) {
    await authenticate(withKey(newApiKey('dev').text)).catch(() => undefined);
  }
  expect(calls()).toBe(32);
  await authenticate(withKey(acme.text));
  expect(calls()).toBe(32); // wrong keys do not push a good one out
  now = 1001;
  await authenticate(withKey(wrong)).catch(() => undefined);
  expect(calls()).toBe(33);
});

test('the database away is not a refusal', async () => {
  const gone = openDatabase({
    url: 'postgres://nobody@127.0.0.1:1/none',
    poolSize: 1,
    maxOverflow: 0,
    poolTimeoutMs: 500,
    poolRecycleMs: 60_000,
    applicationName: 'identity-test',
    log: silentLog,
    metrics: silentMetrics,
  });
  await expect(keys(gone).authenticate(withKey(acme.text))).rejects.toMatchObject({
    code: 'DATABASE_UNAVAILABLE',
  });
  await expect(authProbe(gone)(AbortSignal.timeout(1000))).rejects.toMatchObject({
    code: 'DATABASE_UNAVAILABLE',
  });
  await gone.close();
  await authProbe(database)(AbortSignal.timeout(1000));
});

test('the service sees and makes keys of its transaction’s tenant only, and never a hash', async () => {
  const seen = await database.transaction((tx) => tx.query('SELECT tenant, name FROM identity.api_keys'), {
    tenant: 'globex',
  });
  expect(seen).toEqual([{ tenant: 'globex', name: 'two' }]);
  expect(await database.query('SELECT tenant FROM identity.api_keys')).toEqual([]);
  const hash = await database
    .transaction((tx) => tx.query('SELECT key_hash FROM identity.api_keys'), { tenant: 'acme' })
    .catch((error: unknown) => error);
  expect(sqlState(hash)).toBe('42501');
  const made = newApiKey('dev');
  const foreign = await database
    .transaction((tx) => createKey(tx, { tenant: 'globex', text: made.text, name: 'x' }), { tenant: 'acme' })
    .catch((error: unknown) => error);
  expect(sqlState(foreign)).toBe('42501');
  const create = () =>
    database.transaction((tx) => createKey(tx, { tenant: 'acme', text: made.text, name: 'x' }), {
      tenant: 'acme',
    });
  expect(await create()).toBe(true);
  expect(await create()).toBe(false);
  expect(await keys().authenticate(withKey(made.text))).toMatchObject({ tenant: 'acme' });
  await expect(createKey(own, { tenant: 'acme', text: 'sk_x', name: 'x' })).rejects.toMatchObject({
    code: 'VALIDATION_ERROR',
  });
});
