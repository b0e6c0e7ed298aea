import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { testInfra } from '@signalbox/testkit/infra';
import { waitFor } from '@signalbox/testkit/wait';
import { expect, test } from 'vitest';
import { open } from '../test/open.ts';
import { openPlainPool } from './plain-pool.ts';

const { ownerUrl } = testInfra();

function plain(applicationName: string) {
  return openPlainPool({
    url: ownerUrl,
    size: 2,
    poolTimeoutMs: 300,
    applicationName,
    poolName: 'plain',
    log: silentLog,
    metrics: silentMetrics,
  });
}

test('connections that break, idle or lent without a listener of their user, end no process and are replaced', async () => {
  const name = 'plain-pool breaks';
  const { pool, close } = plain(name);
  const server = open(ownerUrl);
  try {
    const [lent, idle] = [await pool.connect(), await pool.connect()];
    idle.release();
    const cut = 'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1';
    expect(await server.query(cut, [name])).toHaveLength(2);
    await expect(lent.query('SELECT 1')).rejects.toThrow();
    lent.release();
    await waitFor(
      () => pool.totalCount,
      (count) => count === 0,
    );
    expect((await pool.query<{ one: number }>('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
  } finally {
    await close();
    await server.close();
  }
});

test('it lends no more than its size, waits for one no longer than its bound, and closes with one still out', async () => {
  const { pool, close } = plain('plain-pool bounds');
  await pool.connect();
  await pool.connect();
  await expect(pool.connect()).rejects.toThrow('timeout exceeded');
  const startedAt = performance.now();
  await close(200);
  expect(performance.now() - startedAt).toBeLessThan(1_500);
});
