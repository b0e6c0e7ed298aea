import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { environmentWith } from '@signalbox/config/process-environment';
import { newId } from '@signalbox/contracts/ids';
import { webhookSecret } from '@signalbox/http-client/webhook-signature';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { afterAll, beforeAll, expect, test } from 'vitest';

const program = join(import.meta.dirname, '../bin/signalbox.js');
let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database?.drop());

function run(args: string[], more: Record<string, string> = {}) {
  return new Promise<{ code: number; out: string; err: string }>((resolve) => {
    const env = environmentWith({ DATABASE_OWNER_URL: database.ownerUrl, ...more });
    const child = execFile(
      process.execPath,
      [program, ...args],
      { env, timeout: 60_000 },
      (_error, out, err) => resolve({ code: child.exitCode ?? -1, out, err }),
    );
  });
}

/** A webhook that has failed, as the worker leaves it. */
async function failed(tenant: string): Promise<{ id: string; task: string }> {
  const [id, task] = [newId(), newId()];
  const payload = { url: 'https://example.com/hook', body: '{}', task_id: task };
  await database.query(
    `insert into delegation_webhooks.webhooks (tenant, id, key, format, payload, state, attempt, finished_at, last_error)
     values ($1, $2, $3, 1, $4, 'failed', 7, now(), 'CALL_FAILED: it answered 500')`,
    [tenant, id, task, payload],
  );
  return { id, task };
}

test('failed webhooks are listed, and requeued by tenant, task or id, each once', async () => {
  const [first, second, theirs] = [await failed('acme'), await failed('acme'), await failed('globex')];
  const all = await run(['webhooks', 'failed']);
  expect(all.code).toBe(0);
  for (const { id } of [first, second, theirs]) expect(all.out).toContain(id);
  expect(all.out).toContain('CALL_FAILED: it answered 500');
  const requeue = async (...args: string[]) => (await run(['webhooks', 'requeue', ...args])).out;
  expect(await requeue('--tenant', 'acme', '--task', first.task)).toBe('requeued 1\n');
  expect(await requeue('--tenant', 'acme')).toBe('requeued 1\n');
  const states = await database.query<{ id: string; state: string }>(
    'select id, state from delegation_webhooks.webhooks',
  );
  expect(Object.fromEntries(states.map(({ id, state }) => [id, state]))).toEqual({
    [first.id]: 'ready',
    [second.id]: 'ready',
    [theirs.id]: 'failed',
  });
});

test('a tenant’s secret is shown as delegation-worker signs with it', async () => {
  const secret = 'the secret of this installation';
  const { out } = await run(['webhook-secret', '--tenant', 'acme'], { WEBHOOK_SIGNING_SECRET: secret });
  expect(out).toBe(`${webhookSecret(secret, 'acme')}\n`);
  const prod = { ENVIRONMENT: 'prod', WEBHOOK_SIGNING_SECRET: '' };
  expect((await run(['webhook-secret', '--tenant', 'acme'], prod)).code).toBe(64);
});
